//! What changed at a peer is found by the request that needs it, with one look into the service and
//! without a failed transfer. This is why nothing here watches a service.

use std::time::Duration;

use mooncake::engine::{Engine, Operation, SegmentId};
use mooncake::error::ErrorKind;

use crate::engines::{config, request, spec, tcp_engine};
use crate::lifetime::eventually;
use crate::servers;
use crate::stores::PATIENCE;

const BYTES: usize = 4096;

/// Names in a service, or places where there is none.
struct Names {
    target: String,
    own: &'static str,
    stranger: &'static str,
}

impl Names {
    fn over(metadata: &str) -> Names {
        match metadata {
            "P2PHANDSHAKE" => Names {
                target: format!("127.0.0.1:{}", servers::free_port()),
                own: "127.0.0.1",
                stranger: "127.0.0.1",
            },
            _ => Names { target: "changing:1".into(), own: "looking:1", stranger: "stranger:1" },
        }
    }
}

struct Scene<'a> {
    own: Engine,
    segment: SegmentId,
    block: Vec<u8>,
    metadata: &'a str,
    names: Names,
}

impl Scene<'_> {
    fn looks(&self) -> u64 {
        self.own.metrics().refreshes.get()
    }

    fn write(&mut self, fill: u8, place: &[u8]) -> Result<(), mooncake::error::Error> {
        self.block.fill(fill);
        let write = request(Operation::Write, &self.block, self.segment, place.as_ptr() as u64);
        self.own.transfer(&[write], Some(PATIENCE))
    }

    /// Writes to `place`, which the peer must have, and says how many looks that took.
    fn arrives(&mut self, fill: u8, place: &[u8]) -> u64 {
        let before = self.looks();
        self.write(fill, place).unwrap();
        assert!(place.iter().all(|byte| *byte == fill), "{}", self.metadata);
        self.looks() - before
    }
}

fn changes_are_found(metadata: &str) {
    let first = vec![0u8; BYTES];
    let names = Names::over(metadata);
    let target = tcp_engine(metadata, &names.target);
    target.register(&[spec(&first)]).unwrap();
    let own = tcp_engine(metadata, names.own);
    let block = vec![0u8; BYTES];
    own.register(&[spec(&block)]).unwrap();
    let segment = own.open_segment(&names.target).unwrap();
    let mut scene = Scene { own, segment, block, metadata, names };
    assert_eq!(scene.arrives(1, &first), 0, "nothing changed");

    // A buffer more: one look, and none for what follows.
    let more: Vec<Vec<u8>> = (0..64).map(|_| vec![0u8; BYTES]).collect();
    target.register(&more.iter().map(|memory| spec(memory)).collect::<Vec<_>>()).unwrap();
    assert_eq!(scene.arrives(2, &more[0]), 1);
    for memory in &more {
        assert_eq!(scene.arrives(3, memory), 0);
    }

    // Many new ranges in one batch share a look.
    let again: Vec<Vec<u8>> = (0..64).map(|_| vec![0u8; BYTES]).collect();
    target.register(&again.iter().map(|memory| spec(memory)).collect::<Vec<_>>()).unwrap();
    scene.block.fill(4);
    let writes: Vec<_> = again
        .iter()
        .map(|memory| request(Operation::Write, &scene.block, segment, memory.as_ptr() as u64))
        .collect();
    let before = scene.looks();
    scene.own.transfer(&writes, Some(PATIENCE)).unwrap();
    assert!(again.iter().flatten().all(|byte| *byte == 4));
    assert_eq!(scene.looks() - before, 1);

    // The same range registered anew has another key: the peer refuses the old one, a look follows.
    target.unregister(&[first.as_ptr() as usize]).unwrap();
    target.register(&[spec(&first)]).unwrap();
    assert_eq!(scene.arrives(5, &first), 1);

    // Unregistered is unregistered: refused after one look, whose result is the same.
    target.unregister(&[first.as_ptr() as usize]).unwrap();
    let before = scene.looks();
    let error = scene.write(6, &first).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRange, "{error}");
    assert_eq!(scene.looks() - before, 1);
    assert!(first.iter().all(|byte| *byte == 5));

    // Asked for by the program, without a transfer.
    target.register(&[spec(&first)]).unwrap();
    let knows = |engine: &Engine| {
        let buffers = engine.segment_buffers(segment).unwrap();
        buffers.iter().any(|buffer| buffer.address == first.as_ptr() as u64)
    };
    assert!(!knows(&scene.own));
    scene.own.refresh_segment(segment).unwrap();
    assert!(knows(&scene.own));

    // Started again elsewhere, with other memory: the next request finds it.
    drop(target);
    let target = tcp_engine(metadata, &scene.names.target);
    target.register(&[spec(&more[7])]).unwrap();
    scene.arrives(7, &more[7]);
    moved_and_replaced(scene, target, &more[8], &more[9]);
}

/// The peer moves, and at its old port a stranger listens, who has registered the very same range:
/// what is meant for the peer never ends in the stranger's memory.
fn moved_and_replaced(mut scene: Scene<'_>, target: Engine, shared: &[u8], moved: &[u8]) {
    target.register(&[spec(shared)]).unwrap();
    scene.arrives(8, shared);
    let port = target.data_port();
    drop(target);
    let mut stranger = config(scene.metadata, scene.names.stranger);
    stranger.data_port = port;
    let stranger = Engine::create(stranger).unwrap();
    stranger.register(&[spec(shared)]).unwrap();
    // Nobody has the name at this moment.
    let error = scene.write(9, shared).unwrap_err();
    assert!(shared.iter().all(|byte| *byte == 8), "a stranger got the bytes: {error}");
    let target = tcp_engine(scene.metadata, &scene.names.target);
    target.register(&[spec(moved)]).unwrap();
    scene.arrives(10, moved);
    let error = scene.write(11, shared).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRange, "{error}");
    assert!(shared.iter().all(|byte| *byte == 8), "a stranger got the bytes");
}

/// Looks at intervals, for programs that read the list of buffers instead of being told addresses.
fn looks_at_intervals(metadata: &str) {
    let memory = vec![0u8; BYTES];
    let target = tcp_engine(metadata, "interval-target:1");
    let mut settings = config(metadata, "interval-own:1");
    settings.metadata_refresh_interval_s = 1;
    let own = Engine::create(settings).unwrap();
    let segment = own.open_segment("interval-target:1").unwrap();
    assert!(own.segment_buffers(segment).unwrap().is_empty());
    target.register(&[spec(&memory)]).unwrap();
    eventually("the new buffer", || own.segment_buffers(segment).unwrap().len() == 1);
}

/// A look that the service cannot answer says so, and harms nothing that is known.
#[test]
fn a_look_into_a_service_that_is_away() {
    let mut server = servers::own_http(&[]);
    let metadata = server.url("http") + "/metadata";
    let (known, unknown) = (vec![0u8; BYTES], vec![0u8; BYTES]);
    let target = tcp_engine(&metadata, "away-target:1");
    target.register(&[spec(&known)]).unwrap();
    let own = tcp_engine(&metadata, "away-own:1");
    let block = vec![1u8; BYTES];
    own.register(&[spec(&block)]).unwrap();
    let segment = own.open_segment("away-target:1").unwrap();
    server.kill();
    let write = |place: &[u8]| {
        let write = request(Operation::Write, &block, segment, place.as_ptr() as u64);
        own.transfer(&[write], Some(Duration::from_secs(20)))
    };
    let error = write(&unknown).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRange, "{error}");
    assert!(error.to_string().contains("mooncake/ram/away-target:1"), "{error}");
    write(&known).unwrap();
    assert_eq!(known, block);
    let error = own.refresh_segment(segment).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MetadataUnavailable, "{error}");
    write(&known).unwrap();
}

#[test]
fn without_a_service() {
    changes_are_found("P2PHANDSHAKE");
}

#[test]
fn over_memory() {
    changes_are_found("memory://refresh");
}

#[test]
fn over_http() {
    let server = servers::own_http(&[]);
    let metadata = server.url("http") + "/metadata";
    changes_are_found(&metadata);
    looks_at_intervals(&metadata);
}

#[test]
fn over_etcd() {
    let Some(server) = servers::etcd(false) else { return };
    changes_are_found(&server.url("etcd"));
    looks_at_intervals(&server.url("etcd"));
}

#[test]
fn over_redis() {
    let Some(server) = servers::redis(&[]) else { return };
    changes_are_found(&server.url("redis"));
    looks_at_intervals(&server.url("redis"));
}
