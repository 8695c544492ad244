//! A buffer is given a new key: what was allowed by the old one does not reach it any more.

#![allow(clippy::unwrap_used)] // A test ends with its first failure.

use std::time::{Duration, Instant};

use mooncake::config::EngineConfig;
use mooncake::engine::{Access, BufferSpec, Engine, Operation, Request};
use mooncake::error::ErrorKind;

const LENGTH: usize = 8 << 20;

fn engine() -> Engine {
    let config = EngineConfig {
        local_name: "127.0.0.1".into(),
        bind_address: Some("127.0.0.1".into()),
        ..EngineConfig::default()
    };
    Engine::create(config).unwrap()
}

fn register(engine: &Engine, memory: &[u8]) {
    let spec = BufferSpec {
        address: memory.as_ptr() as usize,
        length: memory.len(),
        location: "cpu:0".into(),
        access: Access::ALL,
    };
    engine.register(&[spec]).unwrap();
}

#[test]
fn a_pinned_write_does_not_follow_to_a_new_key() {
    let target_memory = vec![0u8; LENGTH];
    let (one, two) = (vec![1u8; LENGTH], vec![2u8; LENGTH]);
    let (target, own) = (engine(), engine());
    register(&target, &target_memory);
    register(&own, &one);
    register(&own, &two);
    let segment = own.open_segment(target.local_name()).unwrap();
    let request = |operation, memory: &[u8]| Request {
        operation,
        local: memory.as_ptr() as usize,
        segment,
        remote_address: target_memory.as_ptr() as u64,
        length: LENGTH as u64,
    };
    let address = target_memory.as_ptr() as usize;
    own.transfer_pinned(&[request(Operation::Write, &one)], None).unwrap();
    assert!(target_memory == one);

    target.renew(address).unwrap();
    let refused = own.transfer_pinned(&[request(Operation::Write, &two)], None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RemoteRange, "{refused}");
    assert!(target_memory == one);
    // By now the new key is known; a request that begins with it is fine.
    own.transfer_pinned(&[request(Operation::Write, &two)], None).unwrap();
    assert!(target_memory == two);

    target.renew(address).unwrap();
    let batch = own.create_batch(1).unwrap();
    batch.submit_pinned(&[request(Operation::Write, &one)], None).unwrap();
    assert_eq!(batch.wait(Duration::from_secs(30)).unwrap().failed, 1);
    assert!(target_memory == two);

    // What is not pinned asks anew by itself.
    target.renew(address).unwrap();
    own.transfer(&[request(Operation::Read, &one)], None).unwrap();
    assert!(one == two);
    assert_eq!(target.renew(address + 1).unwrap_err().kind(), ErrorKind::NotRegistered);
}

#[test]
fn a_write_under_way_stops_at_the_renewal() {
    let target_memory = vec![0u8; LENGTH];
    let bytes = [vec![1u8; LENGTH], vec![2u8; LENGTH]];
    let (target, own) = (engine(), engine());
    register(&target, &target_memory);
    bytes.iter().for_each(|bytes| register(&own, bytes));
    let segment = own.open_segment(target.local_name()).unwrap();
    let request = |round: usize| Request {
        operation: Operation::Write,
        local: bytes[round % 2].as_ptr() as usize,
        segment,
        remote_address: target_memory.as_ptr() as u64,
        length: LENGTH as u64,
    };
    let (mut refused, mut round) = (0, 0);
    let end = Instant::now() + Duration::from_secs(60);
    // Until some have met a renewal.
    while refused < 5 && Instant::now() < end {
        let batch = own.create_batch(16).unwrap();
        let requests: Vec<Request> = (round..round + 16).map(request).collect();
        batch.submit_pinned(&requests, None).unwrap();
        target.renew(target_memory.as_ptr() as usize).unwrap();
        let left = target_memory.clone();
        refused += batch.wait(Duration::from_secs(30)).unwrap().failed;
        assert!(target_memory == left, "round {round}: written after the renewal");
        round += 17;
        own.transfer(&[request(round)], None).unwrap();
    }
    assert!(refused >= 5, "{refused} were refused in {round} rounds");
}
