//! Looks: what the short cut sees is what the same call is answered, with the same leases and
//! counts, also while others hold the locks of the keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{client, item, Bench, MIB};
use crate::master::state::{Operation, Settings};
use crate::pool::object::PutOptions;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::Located;
use crate::rpc::look::{Keys, Look, Seen};
use crate::rpc::message::{Call, Method, Reply};

fn look(bench: &Bench, method: Method, keys: &[Vec<u8>]) -> Vec<Outcome<Located>> {
    let keys: Keys<'_> = keys.iter().map(Vec::as_slice).collect();
    let asked = Look { method, keys };
    bench.state.look(bench.now, &asked, |seen| {
        assert!(seen.answers(method) && seen.count() == asked.keys.len());
        match seen {
            Seen::Exists(found) => {
                let nothing = Located { replicas: Vec::new(), lease_ttl_ms: 0, generation: 0 };
                let one = |found: &bool| found.then(|| nothing.clone()).ok_or(Refusal::INVALID_KEY);
                found.iter().map(one).collect()
            }
            Seen::Located(sights) => {
                let one = |at| sights.sight(at).map(|located| located.to_located());
                (0..sights.count()).map(one).collect()
            }
        }
    })
}

/// Objects of one and of two copies, of one and of several slices, with and without an end.
fn filled(settings: Settings) -> (Bench, Vec<Vec<u8>>) {
    let bench = Bench::new(settings);
    bench.mount(1, 64 * MIB).unwrap();
    bench.mount(2, 64 * MIB).unwrap();
    let keys: Vec<Vec<u8>> = (0..100).map(|n| format!("key {n}").into_bytes()).collect();
    for (number, key) in keys.iter().enumerate() {
        let replica_num = 1 + (number % 3 == 0) as u64;
        let options = PutOptions { replica_num, ..PutOptions::default() };
        let mut put = item(key, 1000);
        if number % 5 == 0 {
            put.slices = vec![10, 20, 30];
        }
        match number % 7 {
            0 => continue,
            1 => drop(bench.start(Some(client(9)), put, options).unwrap()),
            _ => {
                bench.start(None, put, options).unwrap();
                bench.end(None, key).unwrap();
            }
        }
    }
    (bench, keys)
}

#[test]
fn a_look_sees_what_the_call_is_answered() {
    for shards in [1, 4, 64] {
        let (bench, mut keys) = filled(Settings { shards, seed: 5, ..Settings::default() });
        keys.push(keys[2].clone());
        keys.push(Vec::new());
        for count in [0, 1, 2, 16, 17, keys.len()] {
            let keys = &keys[..count];
            let Reply::BatchLocated(called) = bench.call(Call::BatchLookup(keys.to_vec())) else {
                panic!("another answer")
            };
            assert_eq!(look(&bench, Method::BatchLookup, keys), called);
            let Reply::BatchExists(exist) = bench.call(Call::BatchExists(keys.to_vec())) else {
                panic!("another answer")
            };
            let seen = look(&bench, Method::BatchExists, keys);
            for ((seen, exists), called) in seen.iter().zip(&exist).zip(&called) {
                assert_eq!((seen.is_ok(), called.is_ok()), (exists == &Ok(true), seen.is_ok()));
            }
        }
        for key in &keys {
            let found = look(&bench, Method::Lookup, std::slice::from_ref(key));
            assert_eq!(found, [bench.lookup(key)]);
            let found = look(&bench, Method::Exists, std::slice::from_ref(key));
            assert_eq!(found[0].is_ok(), bench.exists(key));
        }
        let not_found = keys.iter().filter(|key| bench.lookup(key).is_err()).count();
        let before = bench.state.counters().tally(Operation::BatchGetReplicaList);
        look(&bench, Method::BatchLookup, &keys);
        let after = bench.state.counters().tally(Operation::BatchGetReplicaList);
        assert_eq!(after.items - before.items, keys.len() as u64);
        assert_eq!(after.failed_items - before.failed_items, not_found as u64);
        assert_eq!(after.partial_successes - before.partial_successes, 1);
    }
}

#[test]
fn a_look_grants_leases() {
    for method in [Method::BatchExists, Method::BatchLookup, Method::Exists, Method::Lookup] {
        let settings = Settings { lease_ttl: Duration::from_millis(100), ..Settings::default() };
        let mut bench = Bench::new(settings);
        bench.mount(1, 64 * MIB).unwrap();
        bench.put(b"a", 100).unwrap();
        bench.put(b"b", 100).unwrap();
        let keys = match method {
            Method::BatchExists | Method::BatchLookup => vec![b"a".to_vec(), b"absent".to_vec()],
            _ => vec![b"a".to_vec()],
        };
        assert!(look(&bench, method, &keys)[0].is_ok());
        assert_eq!(bench.remove(b"a"), Err(Refusal::OBJECT_HAS_LEASE), "{method:?}");
        assert_eq!(bench.remove(b"b"), Ok(()));
        bench.pass(100);
        assert_eq!(bench.remove(b"a"), Ok(()));
    }
}

#[test]
fn keys_whose_shards_are_in_use_are_not_left_out() {
    let (bench, keys) = filled(Settings { shards: 4, seed: 5, ..Settings::default() });
    let expected = look(&bench, Method::BatchLookup, &keys);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let hold = || {
            while !stop.load(Ordering::Relaxed) {
                for shard in &bench.state.shards {
                    let _held = shard.write();
                    std::thread::yield_now();
                }
            }
        };
        scope.spawn(hold);
        for _ in 0..200 {
            assert_eq!(look(&bench, Method::BatchLookup, &keys), expected);
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Which keys came late is up to the scheduler; here one surely does.
    let shard = bench.state.shards[0].write();
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| look(&bench, Method::BatchLookup, &keys));
        std::thread::sleep(Duration::from_millis(20));
        drop(shard);
        assert_eq!(looking.join().unwrap(), expected);
    });
}

#[test]
fn a_batch_is_one_call() {
    let (bench, keys) = filled(Settings::default());
    let before = bench.state.counters().tally(Operation::BatchExistKey);
    look(&bench, Method::BatchExists, &keys);
    let after = bench.state.counters().tally(Operation::BatchExistKey);
    assert_eq!(after.requests - before.requests, 1);
    assert_eq!(after.items - before.items, keys.len() as u64);
    assert_eq!(after.failures, before.failures);
}
