//! Groups: leased together, evicted together, removed one by one; by rules and by a naive model.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::{client, item, segment, Bench, Recorder, MIB};
use crate::limits;
use crate::master::state::{Settings, State, Step};
use crate::pool::object::{PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Place, ReplicaKind};
use crate::rpc::message::{Call, Granted, Reply};

const LEASE_MS: u64 = 5_000;
/// The first and the last of four objects are a group.
const FOUR: [(&str, &str); 4] = [("a", "g"), ("b", ""), ("c", ""), ("d", "g")];

fn grouped(key: &[u8], size: u64, group: &[u8]) -> PutItem {
    PutItem { group: group.to_vec(), ..item(key, size) }
}

fn put(bench: &Bench, key: &[u8], group: &[u8]) -> Outcome<Granted> {
    put_with(bench, key, group, PutOptions::default())
}

fn put_with(bench: &Bench, key: &[u8], group: &[u8], options: PutOptions) -> Outcome<Granted> {
    let granted = bench.start(None, grouped(key, MIB, group), options)?;
    bench.end(None, key)?;
    Ok(granted)
}

fn bench_of(mib: u64) -> Bench {
    let bench = Bench::new(Settings { shards: 8, ..Settings::default() });
    bench.mount(1, mib * MIB).unwrap();
    bench
}

/// Looks without taking leases.
fn keys(state: &State) -> HashSet<Vec<u8>> {
    let mut keys = HashSet::new();
    state.each_key(|key| {
        keys.insert(key.to_vec());
    });
    keys
}

fn names(names: &[&str]) -> HashSet<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

#[test]
fn a_reader_of_one_member_leases_all_that_are_there() {
    let mut bench = bench_of(64);
    for (key, group) in [("a", "g"), ("b", "g"), ("c", "h")] {
        put(&bench, key.as_bytes(), group.as_bytes()).unwrap();
    }
    bench.pass(10);
    assert!(bench.exists(b"a"));
    bench.pass(1);
    put(&bench, b"late", b"g").unwrap();
    assert_eq!(bench.remove(b"b"), Err(Refusal::OBJECT_HAS_LEASE));
    // Of another group; and one that came after the reader.
    assert_eq!((bench.remove(b"c"), bench.remove(b"late")), (Ok(()), Ok(())));
    bench.pass(LEASE_MS / 2);
    bench.lookup(b"b").unwrap();
    bench.pass(LEASE_MS / 2);
    assert_eq!(bench.remove(b"a"), Err(Refusal::OBJECT_HAS_LEASE));
    bench.pass(LEASE_MS / 2);
    assert_eq!((bench.remove(b"a"), bench.exists(b"b")), (Ok(()), true));
}

#[test]
fn removal_of_one_member_leaves_the_others() {
    let bench = bench_of(64);
    put(&bench, b"a", b"g").unwrap();
    put(&bench, b"b", b"g").unwrap();
    bench.remove(b"a").unwrap();
    assert_eq!(keys(&bench.state), names(&["b"]));
    // The key may join another group in its next life.
    put(&bench, b"a", b"h").unwrap();
    assert!(bench.exists(b"b"));
    assert_eq!(bench.remove(b"a"), Ok(()));
}

#[test]
fn eviction_of_one_member_takes_the_group_along() {
    let mut bench = bench_of(4);
    // The group's last member is the newest object of all.
    for (key, group) in FOUR {
        put(&bench, key.as_bytes(), group.as_bytes()).unwrap();
        bench.pass(1);
    }
    bench.put_patiently(b"e", MIB).unwrap();
    assert_eq!(keys(&bench.state), names(&["b", "c", "e"]));
    assert_eq!(bench.state.totals().evicted_keys, 2);
}

#[test]
fn one_leased_member_saves_the_group() {
    let mut bench = bench_of(4);
    for (key, group) in FOUR {
        put(&bench, key.as_bytes(), group.as_bytes()).unwrap();
        bench.pass(1);
    }
    assert!(bench.exists(b"d"));
    bench.pass(1);
    bench.put_patiently(b"e", MIB).unwrap();
    assert_eq!(keys(&bench.state), names(&["a", "c", "d", "e"]));
    // When the lease is over, all members count as used when it was given: after c, before e.
    bench.pass(LEASE_MS);
    bench.ping(client(1));
    bench.put_patiently(b"f", MIB).unwrap();
    assert_eq!(keys(&bench.state), names(&["a", "d", "e", "f"]));
    bench.put_patiently(b"i", MIB).unwrap();
    assert_eq!(keys(&bench.state), names(&["e", "f", "i"]));
}

#[test]
fn what_may_not_be_evicted_stays_when_its_group_goes() {
    let mut bench = bench_of(4);
    put(&bench, b"a", b"g").unwrap();
    put_with(&bench, b"b", b"g", PutOptions { hard_pin: true, ..PutOptions::default() }).unwrap();
    put_with(&bench, b"c", b"g", PutOptions { soft_pin: true, ..PutOptions::default() }).unwrap();
    bench.start(None, grouped(b"d", MIB, b"g"), PutOptions::default()).unwrap();
    bench.put_patiently(b"e", MIB).unwrap();
    assert_eq!(keys(&bench.state), names(&["b", "c", "d", "e"]));
    bench.end(None, b"d").unwrap();
    assert!(bench.exists(b"d"));
}

#[test]
fn a_group_with_files_goes_on_in_them() {
    let settings = Settings {
        shards: 4,
        storage_directory: "/tier/cluster".to_owned(),
        ..Settings::default()
    };
    let mut bench = Bench::new(settings);
    bench.mount(1, 4 * MIB).unwrap();
    for (key, group) in FOUR {
        put(&bench, key.as_bytes(), group.as_bytes()).unwrap();
        bench.done(Call::PutEnd(None, key.into(), ReplicaKind::Disk, 0)).unwrap();
        bench.pass(1);
    }
    bench.put_patiently(b"e", MIB).unwrap();
    let in_memory = |key: &str| {
        let replicas = bench.state.peek(key.as_bytes()).unwrap();
        replicas.iter().any(|replica| matches!(replica.place, Place::Memory(_)))
    };
    assert_eq!(["a", "b", "c", "d", "e"].map(in_memory), [false, true, true, false, true]);
    // Still a group: whoever reads the file of one leases the other.
    bench.lookup(b"d").unwrap();
    assert_eq!(bench.remove(b"a"), Err(Refusal::OBJECT_HAS_LEASE));
}

#[test]
fn groups_survive_a_restart_with_a_journal() {
    let old = bench_of(4);
    for (key, group) in FOUR {
        put(&old, key.as_bytes(), group.as_bytes()).unwrap();
    }
    let restore = |image| {
        let recorder = Arc::new(Recorder::default());
        let settings = Settings { shards: 8, life: 2, ..Settings::default() };
        let state = State::restore(settings, old.now, recorder.clone(), image).unwrap();
        let mut bench = Bench { state, recorder, now: old.now };
        bench.done(Call::Remount(vec![segment(1, 4 * MIB)], client(1))).unwrap();
        // Until the leases of before are over.
        bench.pass(3 * LEASE_MS);
        bench.ping(client(1));
        bench
    };
    let log = old.recorder.image.lock().clone();
    let mut snapshot = crate::master::journal::image::Image::default();
    old.state.dump(old.now, |record| snapshot.apply(record.clone()));
    for image in [log, snapshot] {
        let mut bench = restore(image);
        bench.tick();
        bench.put_patiently(b"e", MIB).unwrap();
        assert_eq!(keys(&bench.state), names(&["b", "c", "e"]));
    }
}

#[test]
fn a_full_group_takes_nobody_and_a_long_name_is_refused() {
    let bench = bench_of(64);
    let put = |key: &[u8], group: &[u8]| {
        bench.start(None, grouped(key, 1, group), PutOptions::default())?;
        bench.end(None, key)
    };
    for number in 0..=limits::GROUP_MEMBERS_MAX {
        put(format!("k{number}").as_bytes(), b"g").unwrap();
    }
    assert!(bench.exists(b"k0"));
    assert_eq!(bench.remove(b"k1"), Err(Refusal::OBJECT_HAS_LEASE));
    let last = format!("k{}", limits::GROUP_MEMBERS_MAX);
    assert_eq!(bench.remove(last.as_bytes()), Ok(()));
    let long = vec![b'g'; limits::KEY_BYTES_MAX + 1];
    assert_eq!(put(b"x", &long), Err(Refusal::INVALID_PARAMS));
    put(b"x", &long[1..]).unwrap();
}

/// Puts, reads, removals and evictions from several threads, with members of every group in many
/// shards: nobody waits for ever, and what is gone leaves nothing behind.
#[test]
fn many_threads_share_groups() {
    let settings =
        Settings { shards: 64, lease_ttl: Duration::from_millis(1), ..Settings::default() };
    let bench = Bench::new(settings);
    bench.mount(1, 16 * MIB).unwrap();
    let clock = AtomicU64::new(0);
    let apply = |call| {
        let now = bench.now + Duration::from_micros(clock.fetch_add(20, Ordering::Relaxed));
        match bench.state.apply(now, call) {
            Step::Reply(reply) => reply,
            Step::Later(waiting) => bench.state.give_up(waiting),
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let apply = &apply;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for _ in 0..3_000 {
                    let (key, group) = (vec![rng.u8(..64)], vec![b'g', rng.u8(..8)]);
                    let start = grouped(&key, MIB, &group);
                    match rng.u8(..6) {
                        0..=2 => {
                            let call = Call::PutStart(None, start, PutOptions::default());
                            if let Reply::Granted(Ok(_)) = apply(call) {
                                let end = Call::PutEnd(None, key, ReplicaKind::Memory, 0);
                                assert_eq!(apply(end), Reply::Done(Ok(())));
                            }
                        }
                        3 | 4 => drop(apply(Call::Exists(key))),
                        _ => drop(apply(Call::Remove { key, force: true })),
                    }
                }
            });
        }
    });
    let totals = bench.state.totals();
    assert!(totals.keys > 0 && totals.evicted_keys > 0 && bench.state.groups.count() > 0);
    assert_eq!(apply(Call::RemoveAll { force: true }), Reply::RemovedAll(totals.keys as i64));
    assert_eq!((bench.state.totals().keys, bench.state.groups.count()), (0, 0));
}

/// What the model knows of an object, by key. Times are milliseconds.
#[derive(Clone, Debug)]
struct Known {
    group: Vec<u8>,
    put_at: u64,
    leased_until: u64,
    hard: bool,
    generation: u64,
}

/// Random puts, reads, removals and evictions of a few groups. The model foretells every refusal
/// to remove, and of every eviction it checks that all of the group went that might.
#[test]
fn random_groups_equal_a_naive_model() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shards = [1, 4, 64][seed as usize % 3];
        let mut bench = Bench::new(Settings { shards, ..Settings::default() });
        bench.mount(1, 16 * MIB).unwrap();
        let mut known: BTreeMap<Vec<u8>, Known> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..600 {
            let key = vec![b'k', rng.u8(..24)];
            let group = match rng.u8(..6) {
                0 => Vec::new(),
                number => vec![b'g', number % 4],
            };
            match rng.u8(..10) {
                0..=3 => {
                    let hard = rng.u8(..8) == 0;
                    let options = PutOptions { hard_pin: hard, ..PutOptions::default() };
                    let call = Call::PutStart(None, grouped(&key, MIB, &group), options);
                    let granted = match bench.step(call) {
                        Step::Reply(Reply::Granted(granted)) => granted,
                        Step::Reply(other) => panic!("{other:?}"),
                        Step::Later(waiting) => match bench.state.give_up(waiting) {
                            Reply::Granted(granted) => granted,
                            other => panic!("{other:?}"),
                        },
                    };
                    forget_evicted(&bench, &mut known, now, seed);
                    match granted {
                        Ok(granted) => {
                            assert!(!known.contains_key(&key), "seed {seed}");
                            bench.end(None, &key).unwrap();
                            let generation = granted.generation;
                            let object =
                                Known { group, put_at: now, leased_until: 0, hard, generation };
                            known.insert(key, object);
                        }
                        Err(why) => {
                            let there = known.contains_key(&key);
                            let exists = why == Refusal::OBJECT_ALREADY_EXISTS;
                            assert_eq!(exists, there, "seed {seed}: {why:?}");
                        }
                    }
                }
                4..=6 => {
                    let found = bench.exists(&key);
                    assert_eq!(found, known.contains_key(&key), "seed {seed}");
                    if let Some(read) = known.get(&key).cloned() {
                        let together = |other: &Vec<u8>, object: &Known| {
                            *other == key || (!read.group.is_empty() && object.group == read.group)
                        };
                        for (other, object) in &mut known {
                            if together(other, object) {
                                object.leased_until = now + LEASE_MS;
                            }
                        }
                    }
                }
                7 | 8 => {
                    let expected = match known.get(&key) {
                        None => Err(Refusal::OBJECT_NOT_FOUND),
                        Some(object) if object.leased_until > now => Err(Refusal::OBJECT_HAS_LEASE),
                        Some(_) => Ok(()),
                    };
                    assert_eq!(bench.remove(&key), expected, "seed {seed}");
                    if expected.is_ok() {
                        known.remove(&key);
                        bench.recorder.gone.lock().clear();
                    }
                }
                _ => {
                    let ms = rng.u64(1..4_000);
                    bench.pass(ms);
                    now += ms;
                    bench.ping(client(1));
                    bench.tick();
                    forget_evicted(&bench, &mut known, now, seed);
                }
            }
            let expected: HashSet<Vec<u8>> = known.keys().cloned().collect();
            assert_eq!(keys(&bench.state), expected, "seed {seed}");
            // A put at the moment of a read came after it.
            bench.pass(1);
            now += 1;
        }
        let read = known.values().filter(|object| object.put_at < object.leased_until).count();
        assert!(read > 0, "seed {seed} read nothing");
    }
}

/// Takes what was evicted out of the model, group by group.
fn forget_evicted(bench: &Bench, known: &mut BTreeMap<Vec<u8>, Known>, now: u64, seed: u64) {
    let gone: HashSet<u64> = bench.recorder.gone.lock().drain(..).collect();
    let evicted: Vec<Known> =
        known.values().filter(|object| gone.contains(&object.generation)).cloned().collect();
    for object in &evicted {
        assert!(!object.hard && object.leased_until <= now, "seed {seed}: {object:?}");
        if object.group.is_empty() {
            continue;
        }
        for other in known.values().filter(|other| other.group == object.group) {
            assert!(other.leased_until <= now, "seed {seed}: {other:?} was to save {object:?}");
            let stays = !gone.contains(&other.generation);
            assert!(!stays || other.hard, "seed {seed}: {other:?} went not with {object:?}");
        }
    }
    known.retain(|_, object| !gone.contains(&object.generation));
}
