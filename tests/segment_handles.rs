//! Handles of open segments while several threads open and close them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Barrier;

use mooncake::engine::{Access, Operation};
use mooncake::error::ErrorKind;

use common::engines::{buffer, engine_with, request, Kind, Pair};
use common::random::Random;

/// One opening can be taken back once, whoever is faster; the late one takes nothing from others.
#[test]
fn an_opening_is_closed_once() {
    let own = engine_with(|config| Kind::Loopback.apply(config));
    let peers: Vec<_> =
        (0..3).map(|_| engine_with(|config| Kind::Loopback.apply(config))).collect();
    let kept = own.open_segment(peers[0].local_name()).unwrap();
    for round in 0..300 {
        let doomed = own.open_segment(peers[1].local_name()).unwrap();
        let barrier = Barrier::new(3);
        let closed = AtomicUsize::new(0);
        let newer = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    barrier.wait();
                    match own.close_segment(doomed) {
                        Ok(()) => {
                            closed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidHandle),
                    }
                });
            }
            // Meanwhile somebody opens another segment, which may get the place that became free.
            barrier.wait();
            own.open_segment(peers[2].local_name()).unwrap()
        });
        assert_eq!(closed.load(Ordering::Relaxed), 1, "round {round}");
        own.segment_buffers(newer).unwrap();
        own.segment_buffers(kept).unwrap();
        let again = own.open_segment(peers[1].local_name()).unwrap();
        assert_ne!(again, newer);
        assert_ne!(again, doomed, "a closed handle was given out again");
        own.close_segment(again).unwrap();
        own.close_segment(newer).unwrap();
        assert_eq!(own.segment_buffers(newer).unwrap_err().kind(), ErrorKind::InvalidHandle);
    }
}

/// A name that is opened by many at once is one segment.
#[test]
fn a_name_is_one_segment() {
    let own = engine_with(|config| Kind::Loopback.apply(config));
    for _ in 0..50 {
        let peer = engine_with(|config| Kind::Loopback.apply(config));
        let barrier = Barrier::new(4);
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        own.open_segment(peer.local_name()).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        for id in ids {
            own.close_segment(id).unwrap();
        }
        assert!(own.segment_buffers(own.open_segment(peer.local_name()).unwrap()).is_ok());
    }
}

/// Closing in the middle of transfers ends them, and the next opening works.
#[test]
fn closing_ends_what_is_in_flight() {
    let mut random = Random::for_test("closing_ends_what_is_in_flight");
    for kind in [Kind::SameHost, Kind::Native, Kind::V2, Kind::V1] {
        let pair = Pair::new(kind);
        let (local, remote) = (pair.local(16 << 20), buffer(&pair.target, 16 << 20, Access::ALL));
        pair.own.close_segment(pair.segment).unwrap();
        for _ in 0..20 {
            let segment = pair.own.open_segment(pair.target.local_name()).unwrap();
            let (from, to) = (local.address(), remote.address());
            let all = request(Operation::Write, from, segment, to, 16 << 20);
            let batch = pair.batch(&[all]);
            std::thread::sleep(std::time::Duration::from_micros(random.below(4000)));
            pair.own.close_segment(segment).unwrap();
            let progress = batch.wait(common::engines::PATIENCE).unwrap();
            if progress.failed > 0 {
                let error = batch.first_error().unwrap();
                let wanted = [ErrorKind::Cancelled, ErrorKind::InvalidHandle];
                assert!(wanted.contains(&error.kind()), "{error:?}");
            }
            let stale = pair.own.transfer(&[all], None).unwrap_err();
            assert_eq!(stale.kind(), ErrorKind::InvalidHandle);
        }
    }
}
