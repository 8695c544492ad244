//! The engine over the loopback transport: the contract without a network.

#![allow(clippy::unwrap_used)] // A test ends with its first failure.

use std::time::Duration;

use mooncake::config::EngineConfig;
use mooncake::engine::{Access, BufferSpec, Engine, Operation, Request, TaskState};
use mooncake::error::ErrorKind;

fn engine(name: &str, faults: &str) -> Engine {
    let config = EngineConfig {
        metadata: "memory://engine_loopback".into(),
        local_name: name.into(),
        protocol: "loopback".into(),
        loopback_faults: faults.into(),
        bind_address: Some("127.0.0.1".into()),
        ..EngineConfig::default()
    };
    Engine::create(config).unwrap()
}

fn spec(memory: &[u8]) -> BufferSpec {
    BufferSpec {
        address: memory.as_ptr() as usize,
        length: memory.len(),
        location: "*".into(),
        access: Access::ALL,
    }
}

#[test]
fn bytes_move_and_every_misuse_has_its_status() {
    let (source, target) = (vec![7u8; 1 << 20], vec![0u8; 1 << 20]);
    let peer = engine("bytes-peer", "");
    peer.register(&[spec(&target)]).unwrap();
    let own = engine("bytes-own", "");
    own.register(&[spec(&source)]).unwrap();
    let segment = own.open_segment("bytes-peer").unwrap();
    let request = Request {
        operation: Operation::Write,
        local: source.as_ptr() as usize,
        segment,
        remote_address: target.as_ptr() as u64,
        length: 1 << 20,
    };
    own.transfer(&[request], None).unwrap();
    assert_eq!(source, target);

    let kind = |request| own.transfer(&[request], None).unwrap_err().kind();
    let beyond = request.remote_address + 1;
    assert_eq!(kind(Request { remote_address: beyond, ..request }), ErrorKind::RemoteRange);
    assert_eq!(kind(Request { length: (1 << 20) + 1, ..request }), ErrorKind::NotRegistered);
    assert_eq!(kind(Request { length: u64::MAX, ..request }), ErrorKind::InvalidArgument);
    own.transfer(&[Request { length: 0, ..request }], None).unwrap();
    assert_eq!(own.open_segment("nobody").unwrap_err().kind(), ErrorKind::SegmentNotFound);
    assert_eq!(own.register(&[spec(&source[1..])]).unwrap_err().kind(), ErrorKind::Overlap);
    own.register(&[spec(&source)]).unwrap();
    own.unregister(&[source.as_ptr() as usize]).unwrap();
    own.transfer(&[request], None).unwrap();
    own.unregister(&[source.as_ptr() as usize]).unwrap();
    assert_eq!(kind(request), ErrorKind::NotRegistered);
    own.close_segment(segment).unwrap();
    assert_eq!(own.close_segment(segment).unwrap_err().kind(), ErrorKind::InvalidHandle);
    own.shutdown();
    assert_eq!(own.open_segment("bytes-peer").unwrap_err().kind(), ErrorKind::Shutdown);
}

#[test]
fn a_batch_that_is_never_answered_can_be_cancelled_or_times_out() {
    let memory = vec![0u8; 4096];
    let own = engine("never-own", "drop=1000000");
    own.register(&[spec(&memory)]).unwrap();
    let peer_memory = vec![0u8; 4096];
    let peer = engine("never-peer", "");
    peer.register(&[spec(&peer_memory)]).unwrap();
    let request = Request {
        operation: Operation::Read,
        local: memory.as_ptr() as usize,
        segment: own.open_segment("never-peer").unwrap(),
        remote_address: peer_memory.as_ptr() as u64,
        length: 4096,
    };
    let batch = own.create_batch(4).unwrap();
    batch.submit(&[request; 4]).unwrap();
    let error = batch.wait(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(batch.task(3).unwrap().state, TaskState::InFlight);
    batch.cancel();
    assert!(batch.poll().is_done());
    assert_eq!(batch.task(3).unwrap().state, TaskState::Cancelled);
    batch.reset().unwrap();
    batch.submit_with(&[request], Some(Duration::from_millis(20)), None).unwrap();
    let progress = batch.wait(Duration::from_secs(20)).unwrap();
    assert_eq!(progress.failed, 1);
    assert_eq!(batch.first_error().unwrap().kind(), ErrorKind::Timeout);
    let error = own.transfer(&[request], Some(Duration::from_millis(20))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

/// Resets and half-done copies on command: every task ends, and what ended well is complete.
#[test]
fn faults_never_lose_or_corrupt_a_task() {
    for seed in 1..=20u64 {
        let blocks = 256usize;
        let source: Vec<u8> = (0..blocks * 512).map(|i| (i as u64 * seed % 251) as u8).collect();
        let target = vec![0u8; blocks * 512];
        let peer = engine(&format!("faults-peer-{seed}"), "");
        peer.register(&[spec(&target)]).unwrap();
        let faults = format!("reset=200000,half=100000,fail=20000,seed={seed}");
        let own = engine(&format!("faults-own-{seed}"), &faults);
        own.register(&[spec(&source)]).unwrap();
        let segment = own.open_segment(peer.local_name()).unwrap();
        let requests: Vec<Request> = (0..blocks)
            .map(|block| Request {
                operation: Operation::Write,
                local: source.as_ptr() as usize + block * 512,
                segment,
                remote_address: (target.as_ptr() as usize + block * 512) as u64,
                length: 512,
            })
            .collect();
        let batch = own.create_batch(blocks).unwrap();
        batch.submit(&requests).unwrap();
        let progress = batch.wait(Duration::from_secs(30)).unwrap();
        assert_eq!(progress.submitted, blocks, "seed {seed}");
        let mut completed = 0;
        for block in 0..blocks {
            if batch.task(block).unwrap().state == TaskState::Completed {
                completed += 1;
                let range = block * 512..(block + 1) * 512;
                assert_eq!(source[range.clone()], target[range], "seed {seed} block {block}");
            }
        }
        assert_eq!(completed, progress.completed, "seed {seed}");
        assert!(completed > blocks / 2, "seed {seed}: only {completed} completed");
    }
}
