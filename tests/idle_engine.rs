//! What an engine costs while nothing is asked of it, and what it leaves behind. One test, since
//! it looks at the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::time::Duration;

use mooncake::engine::Request;

use common::engines::{finish_well, Kind, Pair};
use common::process::{activity, descriptors, eventually, own_threads};

fn use_it(pair: &Pair) {
    let (local, remote) = (pair.local(1 << 20), pair.remote(1 << 20));
    let requests: Vec<Request> = (0..16)
        .map(|part| {
            let at = part * (64 << 10);
            pair.write(local.address() + at, remote.address() + at, 64 << 10)
        })
        .collect();
    pair.own.transfer(&requests, None).unwrap();
    finish_well(&pair.batch(&requests));
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn an_idle_engine_costs_nothing_and_a_destroyed_one_leaves_nothing() {
    assert_eq!(own_threads(), Vec::<String>::new());
    let before = descriptors();
    for kind in [Kind::SameHost, Kind::Native, Kind::V2, Kind::V1, Kind::Loopback] {
        let pair = Pair::new(kind);
        use_it(&pair);
        // Whatever was under way comes to rest.
        std::thread::sleep(Duration::from_secs(2));
        let first = activity();
        assert!(!first.is_empty());
        std::thread::sleep(Duration::from_secs(2));
        let second = activity();
        for (old, new) in first.iter().zip(&second) {
            assert_eq!(old.0, new.0);
            let switches = new.1 - old.1;
            assert!(switches <= 1, "{kind:?}: {} woke {switches} times while idle", new.0);
        }
        // It still works after its sleep.
        use_it(&pair);
        pair.own.shutdown();
        pair.target.shutdown();
        assert_eq!(own_threads(), Vec::<String>::new(), "{kind:?}");
        drop(pair);
        eventually("all descriptors are closed", || descriptors() <= before);
    }
    // Many lives: nothing adds up. Buffers of the tests stay mapped on purpose, so none are used.
    let live = |count: usize| {
        for _ in 0..count {
            let pair = Pair::new(Kind::Native);
            pair.own.shutdown();
            pair.target.shutdown();
        }
    };
    live(10);
    let (descriptors_then, mappings_then) = (descriptors(), mappings());
    live(40);
    assert_eq!(own_threads(), Vec::<String>::new());
    assert!(descriptors() <= descriptors_then, "{} descriptors more", descriptors());
    let more = mappings().saturating_sub(mappings_then);
    assert!(more < 20, "{more} mappings more after 40 engines");
}
