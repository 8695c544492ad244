//! Engines over TCP in one process: every dialect, both directions, sizes around the borders.

#![allow(clippy::unwrap_used)] // A test ends with its first failure.

use std::time::{Duration, Instant};

use mooncake::config::{Dialect, EngineConfig};
use mooncake::engine::{Access, BufferSpec, Engine, Notification, Operation, Request};

fn engine(dialect: Dialect) -> Engine {
    let config = EngineConfig {
        local_name: "127.0.0.1".into(),
        bind_address: Some("127.0.0.1".into()),
        tcp_dialect: dialect,
        same_host: false,
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

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + seed * 17) % 251) as u8).collect()
}

fn round_trips(dialect: Dialect) {
    let length = 9 << 20;
    let target_memory = vec![0u8; length];
    let target = engine(Dialect::Auto);
    register(&target, &target_memory);
    let own = engine(dialect);
    let segment = own.open_segment(target.local_name()).unwrap();
    for (round, size) in
        [1, 7, 4096, 16 * 1024, 65_537, 1 << 20, (4 << 20) + 3, length].into_iter().enumerate()
    {
        let source = pattern(size, round);
        let back = vec![0u8; size];
        register(&own, &source);
        register(&own, &back);
        let request = |operation, memory: &[u8]| Request {
            operation,
            local: memory.as_ptr() as usize,
            segment,
            remote_address: target_memory.as_ptr() as u64,
            length: size as u64,
        };
        own.transfer(&[request(Operation::Write, &source)], None).unwrap();
        assert!(source == target_memory[..size], "{dialect:?} write {size}");
        own.transfer(&[request(Operation::Read, &back)], None).unwrap();
        assert!(source == back, "{dialect:?} read {size}");
        own.unregister(&[source.as_ptr() as usize, back.as_ptr() as usize]).unwrap();
    }
    // Many small ones in one batch, mixed directions on distinct places.
    let blocks = 1000usize;
    let source = pattern(blocks * 512, 3);
    register(&own, &source);
    let requests: Vec<Request> = (0..blocks)
        .map(|block| Request {
            operation: Operation::Write,
            local: source.as_ptr() as usize + block * 512,
            segment,
            remote_address: (target_memory.as_ptr() as usize + (blocks - 1 - block) * 512) as u64,
            length: 512,
        })
        .collect();
    let batch = own.create_batch(blocks).unwrap();
    batch.submit(&requests).unwrap();
    let progress = batch.wait(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!((progress.completed, progress.failed), (blocks, 0), "{:?}", batch.first_error());
    for block in 0..blocks {
        let at = (blocks - 1 - block) * 512;
        assert!(source[block * 512..(block + 1) * 512] == target_memory[at..at + 512]);
    }
}

#[test]
fn native_moves_all_sizes() {
    round_trips(Dialect::Auto);
}

#[test]
fn v2_moves_all_sizes() {
    round_trips(Dialect::V2);
}

#[test]
fn v1_moves_all_sizes() {
    round_trips(Dialect::V1);
}

/// Requests that the target has read, but not begun to answer because earlier answers wait for the
/// socket, are served without another event.
#[test]
fn reads_beyond_the_reply_backlog_are_all_answered() {
    let length = 64 << 20;
    let target_memory = pattern(length, 5);
    let target = engine(Dialect::Auto);
    register(&target, &target_memory);
    for dialect in [Dialect::Auto, Dialect::V2] {
        let own = engine(dialect);
        let back = vec![0u8; length];
        register(&own, &back);
        let requests: Vec<Request> = (0..64)
            .map(|part| Request {
                operation: Operation::Read,
                local: back.as_ptr() as usize + (part << 20),
                segment: own.open_segment(target.local_name()).unwrap(),
                remote_address: (target_memory.as_ptr() as usize + (part << 20)) as u64,
                length: 1 << 20,
            })
            .collect();
        for _ in 0..4 {
            own.transfer(&requests, None).unwrap();
        }
        assert!(back == target_memory, "{dialect:?}");
    }
}

/// Several threads send what follows batches, and a peer sees it in the order of the batches.
#[test]
fn notifications_after_batches_keep_their_order() {
    let target = engine(Dialect::Auto);
    let memory = vec![0u8; 4096];
    register(&target, &memory);
    let own = engine(Dialect::Auto);
    register(&own, &memory);
    let segment = own.open_segment(target.local_name()).unwrap();
    let request = Request {
        operation: Operation::Write,
        local: memory.as_ptr() as usize,
        segment,
        remote_address: memory.as_ptr() as u64,
        length: 64,
    };
    let sent: Vec<Notification> = (0..300)
        .map(|turn| Notification { name: format!("{turn}").into(), message: b"m".to_vec() })
        .collect();
    for notification in &sent {
        let batch = own.create_batch(1).unwrap();
        batch.submit_with(&[request], None, Some(notification.clone())).unwrap();
        batch.wait(Duration::from_secs(60)).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(60);
    let mut taken = Vec::new();
    while taken.len() < sent.len() && Instant::now() < until {
        taken.extend(target.take_notifications());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(taken == sent, "{} of {} taken", taken.len(), sent.len());
}
