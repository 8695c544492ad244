//! Many threads at one index. Each knows what became of its own keys, and all fight for some; a
//! ledger beside the index holds which ranges are taken. What is checked holds in every order of
//! events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{addresses, client, item, segment, Bench, MIB};
use crate::master::state::shard::Object;
use crate::master::state::{Settings, State, Step};
use crate::pool::lease::Pin;
use crate::pool::object::PutOptions;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Located, ReplicaKind};
use crate::rpc::message::{Call, Granted, Reply};

const THREADS: usize = 4;
const STEPS: usize = 4000;
const SIZE: u64 = 1000;

/// Live ranges, by their first address.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<u64, u64>>);

impl Ledger {
    fn add(&self, address: u64, size: u64) {
        let mut ranges = self.0.lock();
        let before = ranges.range(..=address).next_back().map(|(start, size)| start + size);
        let after = ranges.range(address..).next().map(|(start, _)| *start);
        assert!(before.is_none_or(|end| end <= address), "a range was given out twice");
        assert!(after.is_none_or(|start| address + size <= start), "a range was given out twice");
        ranges.insert(address, size);
    }

    fn remove(&self, address: u64) {
        assert!(self.0.lock().remove(&address).is_some());
    }
}

/// The index, and a clock that all threads push on.
struct Arena<'a> {
    state: &'a State,
    start: Instant,
    ms: AtomicU64,
    ledger: Ledger,
}

impl Arena<'_> {
    fn reply(&self, call: Call) -> Reply {
        let ms = self.ms.fetch_add(1, Ordering::Relaxed);
        match self.state.apply(self.start + Duration::from_millis(ms / 16), call) {
            Step::Reply(reply) => reply,
            Step::Later(waiting) => self.state.give_up(waiting),
        }
    }

    fn put_start(&self, key: &[u8]) -> Outcome<Granted> {
        match self.reply(Call::PutStart(None, item(key, SIZE), PutOptions::default())) {
            Reply::Granted(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn done(&self, call: Call) -> Outcome<()> {
        match self.reply(call) {
            Reply::Done(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn put_end(&self, key: &[u8]) -> Outcome<()> {
        self.done(Call::PutEnd(None, key.to_vec(), ReplicaKind::Memory, 0))
    }

    fn remove(&self, key: &[u8]) -> Outcome<()> {
        self.done(Call::Remove { key: key.to_vec(), force: true })
    }

    fn lookups(&self, keys: Vec<Vec<u8>>) -> Vec<Outcome<Located>> {
        match self.reply(Call::BatchLookup(keys)) {
            Reply::BatchLocated(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// A thread's whole work; how many keys of its own are left.
    fn work(&self, seed: u64, thread: usize) -> usize {
        let mut rng = fastrand::Rng::with_seed(seed * 100 + thread as u64);
        let mut own = BTreeMap::new();
        for _ in 0..STEPS {
            if rng.u8(..8) == 0 {
                self.shared_step(&mut rng);
            } else {
                self.own_step(&mut rng, thread, &mut own);
            }
        }
        own.len()
    }

    /// One step with keys that only this thread uses.
    fn own_step(&self, rng: &mut fastrand::Rng, thread: usize, own: &mut BTreeMap<u8, u64>) {
        let key = |number: u8| format!("{thread} {number}").into_bytes();
        let number = rng.u8(..);
        match (own.get(&number).copied(), rng.u8(..4)) {
            (None, 0..=1) => {
                let granted = self.put_start(&key(number)).unwrap();
                let address = addresses(&granted.replicas)[0];
                self.ledger.add(address, SIZE);
                own.insert(number, address);
                self.put_end(&key(number)).unwrap();
            }
            (Some(_), 0) => {
                assert_eq!(self.put_start(&key(number)), Err(Refusal::OBJECT_ALREADY_EXISTS));
            }
            (Some(address), 1) => {
                // First, since from the removal on another thread may be given the range.
                self.ledger.remove(address);
                own.remove(&number);
                self.remove(&key(number)).unwrap();
            }
            _ => {
                let numbers: Vec<u8> = (0..40).map(|step| number.wrapping_add(step * 5)).collect();
                let found = self.lookups(numbers.iter().map(|number| key(*number)).collect());
                for (number, found) in numbers.iter().zip(found) {
                    let found = found.map(|located| addresses(&located.replicas)[0]);
                    assert_eq!(found.ok().as_ref(), own.get(number), "{thread} {number}");
                }
            }
        }
    }

    /// One step with keys that all threads want.
    fn shared_step(&self, rng: &mut fastrand::Rng) {
        let key = format!("shared {}", rng.u8(..8)).into_bytes();
        match self.put_start(&key) {
            Ok(granted) => {
                // Nobody else may end or remove it before its end.
                let address = addresses(&granted.replicas)[0];
                self.ledger.add(address, SIZE);
                assert_eq!(self.remove(&key), Err(Refusal::REPLICA_IS_NOT_READY));
                self.ledger.remove(address);
                self.put_end(&key).unwrap();
            }
            Err(why) => {
                assert_eq!(why, Refusal::OBJECT_ALREADY_EXISTS);
                // It may be unfinished, or another thread may be faster.
                let removed = self.remove(&key);
                let lost = [Refusal::REPLICA_IS_NOT_READY, Refusal::OBJECT_NOT_FOUND];
                assert!(removed.is_ok() || removed.is_err_and(|why| lost.contains(&why)));
            }
        }
    }
}

fn hammer(seed: u64, shards: usize) {
    println!("seed {seed}, {shards} shards");
    let lease_ttl = Duration::from_millis(20);
    let settings = Settings {
        seed: seed.into(),
        shards,
        lease_ttl,
        client_ttl: Duration::MAX,
        ..Settings::default()
    };
    let bench = Bench::new(settings);
    for number in 0..3 {
        bench.mount(number, 64 * MIB).unwrap();
    }
    let arena = Arena {
        state: &bench.state,
        start: bench.now,
        ms: AtomicU64::new(0),
        ledger: Ledger::default(),
    };
    let over = AtomicBool::new(false);
    let own: usize = std::thread::scope(|scope| {
        let arena = &arena;
        let threads: Vec<_> =
            (0..THREADS).map(|n| scope.spawn(move || arena.work(seed, n))).collect();
        // Meanwhile, what the process itself does.
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let ms = arena.ms.load(Ordering::Relaxed);
                arena.state.tick(arena.start + Duration::from_millis(ms / 16));
                arena.state.each_key(|key| assert!(!key.is_empty()));
                arena.state.totals();
            }
        });
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Release);
        ends.into_iter().map(|end| end.unwrap()).sum()
    });
    let shared = (0..8).filter(|n| bench.exists(format!("shared {n}").as_bytes())).count();
    let totals = bench.state.totals();
    assert_eq!(totals.keys, (own + shared) as u64);
    assert_eq!(totals.used, (own + shared) as u64 * SIZE);
    assert_eq!(arena.ledger.0.lock().len(), own);
    // Everything can be removed, and comes back after its rest.
    assert_eq!(bench.call(Call::RemoveAll { force: true }), Reply::RemovedAll(totals.keys as i64));
    let later = Duration::from_millis(arena.ms.load(Ordering::Relaxed)) + Duration::from_secs(60);
    bench.state.tick(bench.now + later);
    let totals = bench.state.totals();
    assert_eq!((totals.keys, totals.used), (0, 0));
    for number in 0..3 {
        let id = segment(number, 64 * MIB).id;
        let call = Call::Unmount(id, client(number));
        assert!(matches!(
            bench.state.apply(bench.now + later, call),
            Step::Reply(Reply::Done(Ok(())))
        ));
    }
}

#[test]
fn threads_do_not_lose_keys_nor_share_ranges() {
    for (seed, shards) in [(1, 1), (2, 8), (3, 64)] {
        hammer(seed, shards);
    }
}

/// Readers share the lock of a shard; no lease that one has given is shortened by another.
#[test]
fn leases_given_at_the_same_time_do_not_shorten_each_other() {
    const GRANTS: usize = 200_000;
    const SOFT: u64 = 1_000_000;
    let mut object = Object::default();
    object.set_pin(Pin::SoftExtended(0));
    let clock = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..GRANTS {
                    let now = clock.fetch_add(1, Ordering::Relaxed);
                    object.grant(now, SOFT);
                    let last = object.last_use();
                    assert!(last.granted && last.at >= now, "{last:?} at {now}");
                    assert!(object.pin().is_soft(now + SOFT - 1), "{:?} at {now}", object.pin());
                }
            });
        }
    });
    let last = (THREADS * GRANTS) as u64;
    assert_eq!(object.last_use().at, last);
    assert_eq!(object.pin(), Pin::SoftExtended(last + SOFT));
}
