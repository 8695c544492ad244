//! Store clients over real engines and TCP, around the real index in this process: content under
//! restarts of the master without a journal, eviction, and many threads.
//!
//! The seed of a random run is printed; `MC_TEST_SEED` repeats it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[allow(dead_code, unreachable_pub)] // Shared with other tests, which need more of it.
#[path = "common/random.rs"]
mod random;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::error::{Error, ErrorKind, Result};
use mooncake::master::state::{NoOutlet, Settings, State, Step};
use mooncake::rpc::message::{Call, Reply};
use mooncake::store::{Dialect, Master, Object, PutOptions, Range, Store, StoreOptions};
use mooncake::time::Deadline;
use parking_lot::Mutex;
use random::Random;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// The index as a master that can be killed and started again without what it knew.
struct Index {
    state: Mutex<Arc<State>>,
    is_down: AtomicBool,
    life: AtomicU64,
    settings: Settings,
}

impl Index {
    fn new(settings: Settings) -> Arc<Index> {
        let state = Mutex::new(Arc::new(state(&settings, 1)));
        let life = AtomicU64::new(1);
        Arc::new(Index { state, is_down: AtomicBool::new(false), life, settings })
    }

    fn kill(&self) {
        self.is_down.store(true, Ordering::Release);
    }

    fn start(&self) {
        let life = self.life.fetch_add(1, Ordering::AcqRel) + 1;
        *self.state.lock() = Arc::new(state(&self.settings, life));
        self.is_down.store(false, Ordering::Release);
    }
}

fn state(settings: &Settings, life: u64) -> State {
    let settings = Settings { life, ..settings.clone() };
    State::new(settings, Instant::now(), Arc::new(NoOutlet))
}

impl Master for Index {
    fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply> {
        let gone = || Err(Error::new(ErrorKind::ConnectionLost, "the master was killed"));
        if self.is_down.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unreachable, "there is no master"));
        }
        let state = Arc::clone(&self.state.lock());
        state.tick(Instant::now());
        let mut step = state.apply(Instant::now(), call.clone());
        loop {
            // Nobody hears the answer of a master that was killed meanwhile.
            if self.is_down.load(Ordering::Acquire) || !Arc::ptr_eq(&state, &self.state.lock()) {
                return gone();
            }
            match step {
                Step::Reply(reply) => return Ok(reply),
                Step::Later(waiting) if deadline.passed(Instant::now()) => {
                    return Ok(state.give_up(waiting));
                }
                Step::Later(waiting) => {
                    std::thread::sleep(Duration::from_millis(1));
                    state.tick(Instant::now());
                    step = state.resume(Instant::now(), waiting);
                }
            }
        }
    }

    fn dialect(&self) -> Dialect {
        Dialect::Native
    }

    fn close(&self) {}
}

fn store(index: &Arc<Index>, segment_bytes: u64) -> Store {
    let mut options = StoreOptions {
        local_hostname: "127.0.0.1".into(),
        segment_bytes,
        local_buffer_bytes: 16 * MIB,
        ..StoreOptions::default()
    };
    options.config.bind_address = Some("127.0.0.1".into());
    Store::open_at(&options, Arc::clone(index) as Arc<dyn Master>).unwrap()
}

/// The bytes that belong to a key, whoever puts it.
fn value(key: &[u8], length: usize) -> Vec<u8> {
    let seed = key.iter().fold(0x9e37_79b9_7f4a_7c15u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Random::seeded(seed).bytes(length)
}

/// Reads what is there and compares it; how many were there.
fn check(store: &Store, keys: &[(Vec<u8>, usize)]) -> usize {
    let mut found = 0;
    for part in keys.chunks(256) {
        let mut memory: Vec<Vec<u8>> = part.iter().map(|(_, length)| vec![0; *length]).collect();
        let ranges: Vec<[Range; 1]> =
            memory.iter_mut().map(|bytes| [Range::of_mut(bytes)]).collect();
        let objects: Vec<Object<'_>> =
            part.iter().zip(&ranges).map(|((key, _), ranges)| Object { key, ranges }).collect();
        let results = store.get_batch(&objects, Some(PATIENCE)).unwrap();
        for ((result, (key, length)), bytes) in results.into_iter().zip(part).zip(&memory) {
            if let Ok(size) = result {
                assert_eq!(size, *length as u64);
                assert!(*bytes == value(key, *length), "other bytes for {key:?}");
                found += 1;
            }
        }
    }
    found
}

fn put_all(store: &Store, keys: &[(Vec<u8>, usize)]) {
    for part in keys.chunks(256) {
        let values: Vec<Vec<u8>> = part.iter().map(|(key, length)| value(key, *length)).collect();
        let ranges: Vec<[Range; 1]> = values.iter().map(|bytes| [Range::of(bytes)]).collect();
        let objects: Vec<Object<'_>> =
            part.iter().zip(&ranges).map(|((key, _), ranges)| Object { key, ranges }).collect();
        let results = store.put_batch(&objects, &PutOptions::default(), Some(PATIENCE)).unwrap();
        for result in results {
            result.unwrap();
        }
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: it never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_master_killed_without_a_journal_loses_nothing_that_living_clients_hold() {
    let index = Index::new(Settings::default());
    let holders = [store(&index, 64 * MIB), store(&index, 64 * MIB)];
    let reader = store(&index, 0);
    let keys: Vec<(Vec<u8>, usize)> =
        (0..20_000usize).map(|i| (format!("k/{i}").into_bytes(), 64 + i % 3000)).collect();
    put_all(&reader, &keys);
    assert_eq!(check(&reader, &keys), keys.len());
    for _ in 0..2 {
        index.kill();
        assert_eq!(
            reader.get(b"k/1").err().map(|error| error.kind()),
            Some(ErrorKind::MasterUnavailable)
        );
        index.start();
        eventually("every object is back", || check(&reader, &keys) == keys.len());
    }
    // Segments take new objects once their holders have told what is in them.
    eventually("puts work again", || match reader.put(b"probe", b"1", &PutOptions::default()) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::ObjectExists,
    });
    // And room is still known: what is put now overwrites nothing of it.
    let more: Vec<(Vec<u8>, usize)> =
        (0..5000usize).map(|i| (format!("m/{i}").into_bytes(), 64 + i % 3000)).collect();
    put_all(&reader, &more);
    assert_eq!(check(&reader, &keys), keys.len());
    assert_eq!(check(&reader, &more), more.len());
    for holder in &holders {
        assert!(holder.metrics().objects_reported.get() > 5000);
    }
}

#[test]
fn a_holder_that_closes_takes_its_objects_along_and_no_other() {
    let index = Index::new(Settings::default());
    let (stays, goes) = (store(&index, 32 * MIB), store(&index, 32 * MIB));
    let keys: Vec<(Vec<u8>, usize)> =
        (0..400usize).map(|i| (format!("k/{i}").into_bytes(), 20_000)).collect();
    put_all(&stays, &keys);
    goes.close();
    let left = check(&stays, &keys);
    assert!(left > 50 && left < 350, "{left}");
}

#[test]
fn content_is_right_under_restarts_eviction_and_removal() {
    let seed = Random::for_test("content").next();
    let settings = Settings {
        lease_ttl: Duration::from_millis(20),
        report_limit: Duration::from_secs(2),
        ..Settings::default()
    };
    let index = Index::new(settings);
    let stores = [store(&index, 16 * MIB), store(&index, 16 * MIB), store(&index, 0)];
    let stop = AtomicBool::new(false);
    let (puts, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let store = &stores[thread as usize % 3];
            let (stop, puts, hits) = (&stop, &puts, &hits);
            scope.spawn(move || {
                let mut random = Random::seeded(seed ^ (thread << 32));
                while !stop.load(Ordering::Relaxed) {
                    // About three times what fits.
                    let number = random.below(2000);
                    let key = format!("k/{number}").into_bytes();
                    let length = (number as usize * 7919) % 90_000 + 1;
                    match random.below(10) {
                        0..=3 => {
                            let outcome =
                                store.put(&key, &value(&key, length), &PutOptions::default());
                            puts.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
                        }
                        4 => drop(store.remove(&[&key], false, None)),
                        _ => {
                            if let Ok(bytes) = store.get(&key) {
                                assert!(bytes == value(&key, length), "other bytes for {number}");
                                hits.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(700));
            index.kill();
            std::thread::sleep(Duration::from_millis(100));
            index.start();
        }
        eventually("objects are put and read after the last restart", || {
            puts.load(Ordering::Relaxed) > 50 && hits.load(Ordering::Relaxed) > 50
        });
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn memory_of_the_caller_may_overlap_in_any_way() {
    let index = Index::new(Settings::default());
    let holder = store(&index, 64 * MIB);
    let writer = store(&index, 0);
    let memory = value(b"memory", 1 << 20);
    // A part of it is registered, the rest is not; ranges cross the border and each other.
    let part = Range::of(&memory[100_000..300_000]);
    writer.register_buffer(part.address, part.length).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6usize {
            let (writer, memory) = (&writer, &memory);
            scope.spawn(move || {
                let mut random = Random::seeded(thread as u64);
                for round in 0..60usize {
                    let start = random.below(400_000) as usize;
                    let length = random.below(200_000) as usize + 1;
                    let key = format!("{thread}/{round}/{start}/{length}");
                    let bytes = &memory[start..start + length];
                    writer.put(key.as_bytes(), bytes, &PutOptions::default()).unwrap();
                    assert!(writer.get(key.as_bytes()).unwrap() == bytes, "{key}");
                    let removed = writer.remove(&[key.as_bytes()], true, None).unwrap();
                    assert!(removed[0].is_ok(), "{removed:?}");
                }
            });
        }
    });
    writer.unregister_buffer(part.address).unwrap();
    drop(holder);
}
