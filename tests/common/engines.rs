//! Engines on 127.0.0.1, pairs of them in every dialect, and requests between them.

use std::time::Duration;

use mooncake::config::{Dialect, EngineConfig};
use mooncake::engine::{
    Access, Batch, BatchProgress, BufferSpec, Engine, Operation, Request, SegmentId, TaskState,
};

use super::guarded::Guarded;

/// Nothing in these tests takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A configuration that stays on this host.
pub fn config() -> EngineConfig {
    EngineConfig {
        local_name: "127.0.0.1".into(),
        bind_address: Some("127.0.0.1".into()),
        // Under heavy load of the machine nothing may time out by accident.
        transfer_timeout_ms: 120_000,
        // These tests are about TCP, unless they say otherwise.
        same_host: false,
        ..EngineConfig::default()
    }
}

/// An engine with some settings changed.
pub fn engine_with(change: impl FnOnce(&mut EngineConfig)) -> Engine {
    let mut config = config();
    change(&mut config);
    Engine::create(config).unwrap()
}

pub fn engine() -> Engine {
    engine_with(|_| {})
}

/// How bytes get from one engine to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Loopback,
    /// Without sockets, between engines of one host.
    SameHost,
    Native,
    V2,
    V1,
    /// The engine's own segment.
    Own,
}

impl Kind {
    pub fn is_tcp(self) -> bool {
        matches!(self, Kind::Native | Kind::V2 | Kind::V1)
    }

    pub fn apply(self, config: &mut EngineConfig) {
        match self {
            Kind::Loopback => config.protocol = "loopback".into(),
            Kind::SameHost => config.same_host = true,
            Kind::Native => config.tcp_dialect = Dialect::Native,
            Kind::V2 => config.tcp_dialect = Dialect::V2,
            Kind::V1 => config.tcp_dialect = Dialect::V1,
            Kind::Own => {}
        }
    }
}

/// An initiator, a target, and the target's segment opened by the initiator.
pub struct Pair {
    pub own: Engine,
    pub target: Engine,
    pub segment: SegmentId,
}

impl Pair {
    pub fn new(kind: Kind) -> Pair {
        Pair::with(kind, |_| {})
    }

    /// `change` is for the initiator.
    pub fn with(kind: Kind, change: impl FnOnce(&mut EngineConfig)) -> Pair {
        let own = engine_with(|config| {
            kind.apply(config);
            change(config);
        });
        let target = match kind {
            Kind::Own => own.clone(),
            Kind::Loopback | Kind::SameHost => engine_with(|config| kind.apply(config)),
            _ => engine(),
        };
        let segment = own.open_segment(target.local_name()).unwrap();
        if kind != Kind::Own {
            let expected = match kind {
                Kind::Loopback => "loopback",
                Kind::SameHost => "shm",
                _ => "tcp",
            };
            assert_eq!(transport(&own, 1), expected, "{}", own.dump());
        }
        Pair { own, target, segment }
    }

    /// A registered buffer of the initiator.
    pub fn local(&self, length: usize) -> Guarded {
        buffer(&self.own, length, Access::LOCAL)
    }

    /// A registered buffer of the target, known to the initiator.
    pub fn remote(&self, length: usize) -> Guarded {
        let memory = buffer(&self.target, length, Access::ALL);
        self.own.refresh_segment(self.segment).unwrap();
        memory
    }

    pub fn write(&self, local: usize, remote: usize, length: usize) -> Request {
        request(Operation::Write, local, self.segment, remote, length)
    }

    pub fn read(&self, local: usize, remote: usize, length: usize) -> Request {
        request(Operation::Read, local, self.segment, remote, length)
    }

    pub fn batch(&self, requests: &[Request]) -> Batch {
        let batch = self.own.create_batch(requests.len().max(1)).unwrap();
        batch.submit(requests).unwrap();
        batch
    }
}

/// How the open segment `index` is reached; 0 is the engine's own.
pub fn transport(engine: &Engine, index: usize) -> String {
    let dump = engine.dump();
    let name = &dump["segments"]["first"][index]["transport"];
    name.as_str().unwrap_or("none").to_owned()
}

pub fn request(
    operation: Operation,
    local: usize,
    segment: SegmentId,
    remote: usize,
    length: usize,
) -> Request {
    Request { operation, local, segment, remote_address: remote as u64, length: length as u64 }
}

/// New memory, registered.
pub fn buffer(engine: &Engine, length: usize, access: Access) -> Guarded {
    let memory = Guarded::new(length);
    register(engine, &memory, access);
    memory
}

pub fn register(engine: &Engine, memory: &Guarded, access: Access) {
    engine.register(&[spec(memory, access)]).unwrap();
}

pub fn spec(memory: &Guarded, access: Access) -> BufferSpec {
    BufferSpec { address: memory.address(), length: memory.len(), location: "cpu:0".into(), access }
}

/// Waits for all tasks and fails the test if they do not end.
pub fn finish(batch: &Batch) -> BatchProgress {
    let progress = batch.wait(PATIENCE).unwrap();
    assert!(progress.is_done());
    progress
}

/// Waits, and every task must have completed.
pub fn finish_well(batch: &Batch) {
    let progress = finish(batch);
    assert_eq!(progress.failed, 0, "{:?}", batch.first_error());
    assert_eq!(progress.completed, progress.submitted);
}

/// The state of a task and the kind of its error.
pub fn outcome(batch: &Batch, index: usize) -> (TaskState, Option<mooncake::error::Error>) {
    let status = batch.task(index).unwrap();
    (status.state, status.error)
}
