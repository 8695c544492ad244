//! Tests of the index: rules one by one, a naive model, restarts, eviction, memory, threads.

mod elected;
mod evicting;
mod files;
mod groups;
mod keeping;
mod looking;
mod model;
mod restarts;
mod rules;
mod threads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Outlet, Settings, State, Step, Waiting};
use crate::master::journal::image::Image;
use crate::master::journal::record::Record;
use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::object::{PutItem, PutOptions};
use crate::pool::outcome::Outcome;
use crate::pool::replica::{Located, Place, Replica, ReplicaKind};
use crate::pool::segment::{Segment, SegmentEvent};
use crate::rpc::message::{Call, Events, Granted, Reply};

pub(super) const MIB: u64 = 1 << 20;

/// Keeps what the state tells.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) image: Mutex<Image>,
    /// Generations that went away since they were last taken.
    pub(super) gone: Mutex<Vec<u64>>,
    /// Files that belong to nobody any more.
    pub(super) files_gone: Mutex<Vec<String>>,
}

impl Outlet for Recorder {
    fn file_gone(&self, path: String) {
        self.files_gone.lock().push(path);
    }

    fn record(&self, record: &Record<'_>) {
        // Through bytes, as they are written down.
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        match crate::master::journal::record::decode(&bytes) {
            crate::master::journal::record::Found::Record(record, _) => {
                if let Record::Gone { generation, .. } = record {
                    self.gone.lock().push(generation);
                }
                self.image.lock().apply(record);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A state with a clock that is moved by hand.
pub(super) struct Bench {
    pub(super) state: State,
    pub(super) recorder: Arc<Recorder>,
    pub(super) now: Instant,
}

pub(super) fn client(number: u64) -> ClientId {
    ClientId(Uuid { first: number, second: 77 })
}

pub(super) fn segment(number: u64, size: u64) -> Segment {
    Segment {
        id: SegmentId(Uuid { first: number, second: 99 }),
        name: format!("host{number}"),
        base: (number + 1) << 42,
        size,
        endpoint: format!("host{number}:1"),
        protocol: "tcp".to_owned(),
    }
}

pub(super) fn item(key: &[u8], size: u64) -> PutItem {
    PutItem::new(key.to_vec(), vec![size])
}

/// Address of the first byte of each copy.
pub(super) fn addresses(replicas: &[Replica]) -> Vec<u64> {
    let first = |replica: &Replica| match &replica.place {
        Place::Memory(ranges) => ranges[0].address,
        Place::Disk { .. } => panic!("{replica:?}"),
    };
    replicas.iter().map(first).collect()
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Bench {
        let recorder = Arc::new(Recorder::default());
        let now = Instant::now();
        let state = State::new(settings, now, recorder.clone());
        Bench { state, recorder, now }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    pub(super) fn step(&self, call: Call) -> Step {
        self.state.apply(self.now, call)
    }

    /// The answer; what has to wait is given up.
    pub(super) fn call(&self, call: Call) -> Reply {
        match self.step(call) {
            Step::Reply(reply) => reply,
            Step::Later(waiting) => self.state.give_up(waiting),
        }
    }

    pub(super) fn mount(&self, number: u64, size: u64) -> Outcome<()> {
        self.done(Call::Mount(segment(number, size), client(number)))
    }

    pub(super) fn done(&self, call: Call) -> Outcome<()> {
        match self.call(call) {
            Reply::Done(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn start(
        &self,
        owner: Option<ClientId>,
        item: PutItem,
        options: PutOptions,
    ) -> Outcome<Granted> {
        match self.call(Call::PutStart(owner, item, options)) {
            Reply::Granted(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn end(&self, owner: Option<ClientId>, key: &[u8]) -> Outcome<()> {
        self.done(Call::PutEnd(owner, key.to_vec(), ReplicaKind::Memory, 0))
    }

    /// Start and end.
    pub(super) fn put(&self, key: &[u8], size: u64) -> Outcome<Granted> {
        let granted = self.start(None, item(key, size), PutOptions::default())?;
        self.end(None, key)?;
        Ok(granted)
    }

    pub(super) fn lookup(&self, key: &[u8]) -> Outcome<Located> {
        match self.call(Call::Lookup(key.to_vec())) {
            Reply::Located(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn exists(&self, key: &[u8]) -> bool {
        match self.call(Call::Exists(key.to_vec())) {
            Reply::Exists(outcome) => outcome.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn remove(&self, key: &[u8]) -> Outcome<()> {
        self.done(Call::Remove { key: key.to_vec(), force: false })
    }

    pub(super) fn ping(&self, client: ClientId) -> crate::pool::segment::ClientStatus {
        match self.call(Call::Ping(client)) {
            Reply::Pong(outcome) => outcome.unwrap().status,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn attend(&self, client: ClientId, acknowledged: u64) -> Events {
        match self.call(Call::Attend { client, acknowledged, wait_ms: 0 }) {
            Reply::Events(outcome) => outcome.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// All news, acknowledged.
    pub(super) fn attend_all(&self, client: ClientId) -> Vec<SegmentEvent> {
        let mut all = Vec::new();
        let mut acknowledged = 0;
        loop {
            let events = self.attend(client, acknowledged);
            if events.events.is_empty() {
                return all;
            }
            all.extend(events.events);
            acknowledged = events.last;
        }
    }

    pub(super) fn tick(&self) {
        self.state.tick(self.now);
    }

    /// A put that waits as long as it is let.
    pub(super) fn put_patiently(&mut self, key: &[u8], size: u64) -> Outcome<Granted> {
        let mut step = self.step(Call::PutStart(None, item(key, size), PutOptions::default()));
        loop {
            match step {
                Step::Reply(Reply::Granted(outcome)) => {
                    let granted = outcome?;
                    self.end(None, key)?;
                    return Ok(granted);
                }
                Step::Reply(other) => panic!("{other:?}"),
                Step::Later(waiting) => {
                    assert!(matches!(waiting, Waiting::Room(_)));
                    self.pass(10);
                    self.tick();
                    step = self.state.resume(self.now, waiting);
                }
            }
        }
    }
}
