//! The index behind the server of calls: answers that come at once, and those that have to wait.
//!
//! Entered by the threads of the server, by that of the pages, and by one of its own, `mc-master`,
//! which does what time demands and goes on with calls that wait. Owns the index.
//!
//! A call that waits may be woken before it is put aside. So it is handed to `mc-master`, which
//! tries it once more before it lets it wait; what happens after that finds it there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::fence::Fence;
use super::files::Files;
use super::journal::record::Record;
use super::latency::{Latencies, Times};
use super::notices::Notices;
use super::state::{Operation, Outlet, State, Step, Tally, Waiting, VALUE_SIZE_BOUNDS};
use super::view::{Figures, JournalFigures, SegmentView, View};
use crate::limits;
use crate::pool::identity::ClientId;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::Replica;
use crate::rpc::look::Look;
use crate::rpc::message::{Call, Method, Reply};
use crate::rpc::server::{Caller, Replier, Service};

/// How often the index is told the time.
const TICK: Duration = Duration::from_millis(10);
/// What callers of a leader are told whose lease has ended.
const LEADS_NO_MORE: &str = "this master does not lead any more";

/// What keeps records beyond the process.
pub trait Recorder: Send + Sync {
    /// Takes a record; called with locks of the index held, so it must not wait.
    fn record(&self, record: &Record<'_>);
    /// Returns once everything that was recorded before survives the process. Bounded by the speed
    /// of the disk.
    fn commit(&self);
    /// What the pages show.
    fn figures(&self) -> JournalFigures;
}

/// What the index tells, for `mc-master`.
#[derive(Default)]
pub struct Inbox {
    inner: Mutex<Letters>,
    changed: Condvar,
    recorder: Option<Arc<dyn Recorder>>,
    files: Option<Arc<Files>>,
    /// Told the names of clients that are gone.
    gone: Option<Gone>,
}

/// Takes the name of a client that is gone. Called with locks of the index held: it must not wait.
pub type Gone = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Letters {
    parked: Vec<Parked>,
    news: HashSet<ClientId>,
    room: bool,
    stop: bool,
}

/// A call that waits.
struct Parked {
    waiting: Waiting,
    replier: Replier,
    method: Method,
    began: Instant,
}

impl Inbox {
    /// What the index is made with.
    pub fn new(
        recorder: Option<Arc<dyn Recorder>>,
        files: Option<Arc<Files>>,
        gone: Option<Gone>,
    ) -> Arc<Inbox> {
        Arc::new(Inbox { recorder, files, gone, ..Inbox::default() })
    }

    fn write(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.inner.lock());
        self.changed.notify_one();
    }

    /// What has come, at the latest at that time.
    fn read(&self, until: Instant) -> Letters {
        let mut letters = self.inner.lock();
        while letters.parked.is_empty() && !letters.room && !letters.stop {
            if self.changed.wait_until(&mut letters, until).timed_out() {
                break;
            }
        }
        let stop = letters.stop;
        let taken = std::mem::take(&mut *letters);
        letters.stop = stop;
        taken
    }
}

impl Outlet for Inbox {
    fn record(&self, record: &Record<'_>) {
        if let Some(recorder) = &self.recorder {
            recorder.record(record);
        }
    }

    fn news(&self, client: ClientId) {
        // Not worth a wake-up for each put: `mc-master` looks at it with its next tick.
        self.inner.lock().news.insert(client);
    }

    fn file_gone(&self, path: String) {
        if let Some(files) = &self.files {
            files.discard(path);
        }
    }

    fn gone(&self, segment_name: &str) {
        if let Some(gone) = &self.gone {
            gone(segment_name);
        }
    }

    fn room(&self) {
        self.write(|letters| letters.room = true);
    }
}

/// The service.
pub struct Master {
    state: State,
    inbox: Arc<Inbox>,
    latencies: Latencies,
    notices: Notices,
    draining: AtomicBool,
    waiting_puts: AtomicU64,
    /// Of an elected leader: nobody is answered beyond it.
    fence: Option<Arc<Fence>>,
}

impl Master {
    /// Around an index that tells `inbox`; with a fence, of a leader that may be replaced.
    pub fn new(state: State, inbox: Arc<Inbox>, fence: Option<Arc<Fence>>) -> Arc<Master> {
        Arc::new(Master {
            state,
            inbox,
            latencies: Latencies::default(),
            notices: Notices::default(),
            draining: AtomicBool::new(false),
            waiting_puts: AtomicU64::new(0),
            fence,
        })
    }

    /// The index.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// No new puts from now on: the process is about to end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends [`Master::run`]; calls that wait are answered with what there is.
    pub fn stop(&self) {
        self.inbox.write(|letters| letters.stop = true);
    }

    /// Does what time demands until [`Master::stop`]; the thread's whole work.
    pub fn run(&self) {
        let mut waiting = Shelf::default();
        let mut next_tick = Instant::now();
        loop {
            let letters = self.inbox.read(next_tick);
            if letters.stop {
                waiting.give_up(self, letters.parked);
                return;
            }
            for parked in letters.parked {
                waiting.retry(self, parked);
            }
            for client in letters.news {
                let ready = waiting.news.remove(&client).unwrap_or_default();
                ready.into_iter().for_each(|parked| waiting.retry(self, parked));
            }
            if letters.room {
                let ready = std::mem::take(&mut waiting.rooms);
                ready.into_iter().for_each(|parked| waiting.retry(self, parked));
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.state.tick(now);
                self.commit();
                waiting.retry_late(self, now);
                self.waiting_puts.store(waiting.rooms.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Whether answers may go out: another master may lead otherwise.
    fn leads(&self) -> bool {
        self.fence.as_ref().is_none_or(|fence| fence.holds(Instant::now()))
    }

    fn commit(&self) {
        if let Some(recorder) = &self.inbox.recorder {
            recorder.commit();
        }
    }

    fn answer(&self, reply: &Reply, replier: Replier, method: Method, began: Instant) {
        if changes(method) {
            self.commit();
        }
        // As late as can be: what was true when the call came may be so no longer.
        if !self.leads() {
            return replier.fail(LEADS_NO_MORE);
        }
        self.latencies.observe(method, began.elapsed());
        self.notices.look_at(method, reply);
        replier.answer(reply);
    }
}

impl Service for Master {
    fn serve(&self, call: Call, _caller: Caller, replier: Replier) {
        let (began, method) = (Instant::now(), call.method());
        if !self.leads() {
            return replier.fail(LEADS_NO_MORE);
        }
        let is_put = matches!(method, Method::PutStart | Method::BatchPutStart);
        if is_put && self.draining.load(Ordering::Acquire) {
            // What a full pool answers: callers know it, and try again elsewhere or later.
            let reply = call.refuse(Refusal::NO_AVAILABLE_HANDLE);
            return self.answer(&reply, replier, method, began);
        }
        match self.state.apply(began, call) {
            Step::Reply(reply) => self.answer(&reply, replier, method, began),
            Step::Later(waiting) => {
                let parked = Parked { waiting, replier, method, began };
                self.inbox.write(|letters| letters.parked.push(parked));
            }
        }
    }

    fn look(&self, look: Look<'_>, caller: Caller, replier: Replier) {
        if look.keys.len() > limits::STORE_BATCH_MAX {
            // Refused there, with an entry for each key.
            return self.serve(look.to_call(), caller, replier);
        }
        let began = Instant::now();
        if !self.leads() {
            return replier.fail(LEADS_NO_MORE);
        }
        self.state.look(began, &look, |seen| {
            // As late as can be: what was true when the call came may be so no longer.
            if !self.leads() {
                return replier.fail(LEADS_NO_MORE);
            }
            self.latencies.observe(look.method, began.elapsed());
            replier.show(seen);
        });
    }
}

/// Whether the caller is told of a change. One who only looks may see what does not survive: after
/// a crash the index waits for the end of all leases anyway.
fn changes(method: Method) -> bool {
    !matches!(
        method,
        Method::ServiceReady
            | Method::StorageDirectory
            | Method::Ping
            | Method::Exists
            | Method::BatchExists
            | Method::Lookup
            | Method::BatchLookup
            | Method::LookupByPattern
            | Method::Greet
            | Method::Suspect
            | Method::Keep
    )
}

/// Calls that wait, on the thread that goes on with them.
#[derive(Default)]
struct Shelf {
    /// In the order in which they came.
    rooms: VecDeque<Parked>,
    news: HashMap<ClientId, Vec<Parked>>,
}

impl Shelf {
    fn retry(&mut self, master: &Master, parked: Parked) {
        let Parked { waiting, replier, method, began } = parked;
        match master.state.resume(Instant::now(), waiting) {
            Step::Reply(reply) => master.answer(&reply, replier, method, began),
            Step::Later(waiting) => self.put(Parked { waiting, replier, method, began }),
        }
    }

    fn put(&mut self, parked: Parked) {
        match &parked.waiting {
            Waiting::Room(_) => self.rooms.push_back(parked),
            Waiting::News { client, .. } => self.news.entry(*client).or_default().push(parked),
        }
    }

    /// Those whose time is over.
    fn retry_late(&mut self, master: &Master, now: Instant) {
        let is_late = |parked: &Parked| parked.waiting.until() <= now;
        let mut late = Vec::new();
        if self.rooms.iter().any(is_late) {
            for parked in std::mem::take(&mut self.rooms) {
                if is_late(&parked) {
                    late.push(parked);
                } else {
                    self.rooms.push_back(parked);
                }
            }
        }
        self.news.retain(|_, waiting| {
            let all = std::mem::take(waiting).into_iter();
            let (over, rest): (Vec<Parked>, Vec<Parked>) = all.partition(is_late);
            late.extend(over);
            *waiting = rest;
            !waiting.is_empty()
        });
        late.into_iter().for_each(|parked| self.retry(master, parked));
    }

    fn give_up(self, master: &Master, parked: Vec<Parked>) {
        let shelved = self.rooms.into_iter().chain(self.news.into_values().flatten());
        for Parked { waiting, replier, method, began } in shelved.chain(parked) {
            let reply = master.state.give_up(waiting);
            master.answer(&reply, replier, method, began);
        }
    }
}

impl View for Master {
    fn latency(&self, method: Method) -> Times {
        self.latencies.read(method)
    }

    fn figures(&self) -> Figures {
        Figures {
            totals: self.state.totals(),
            waiting_puts: self.waiting_puts.load(Ordering::Relaxed),
            journal: self.inbox.recorder.as_ref().map(|recorder| recorder.figures()),
            view_version: self.state.view_version(),
        }
    }

    fn tally(&self, operation: Operation) -> Tally {
        self.state.counters().tally(operation)
    }

    fn value_sizes(&self) -> ([u64; VALUE_SIZE_BOUNDS.len() + 1], u64) {
        self.state.counters().value_sizes()
    }

    fn keys(&self, each: &mut dyn FnMut(&[u8])) {
        self.state.each_key(each);
    }

    fn segments(&self) -> Vec<SegmentView> {
        let one = |segment: super::state::SegmentUse| SegmentView {
            name: segment.name,
            id: segment.id.to_string(),
            client: segment.owner.to_string(),
            base: segment.base,
            size: segment.capacity,
            used: segment.used,
            endpoint: segment.endpoint,
            protocol: segment.protocol,
            is_suspect: !segment.is_open,
        };
        self.state.segments().into_iter().map(one).collect()
    }

    fn lookup(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        match self.state.apply(Instant::now(), Call::Lookup(key.to_vec())) {
            Step::Reply(Reply::Located(located)) => located.map(|located| located.replicas),
            _ => Err(Refusal::INTERNAL_ERROR),
        }
    }

    fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        self.state.peek(key)
    }

    fn remove_all(&self, force: bool) -> i64 {
        match self.state.apply(Instant::now(), Call::RemoveAll { force }) {
            Step::Reply(Reply::RemovedAll(count)) => {
                self.commit();
                count
            }
            _ => 0,
        }
    }
}
