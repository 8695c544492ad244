//! The client over a master and a mover in memory.

mod fakes;
mod files;
mod views;

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::pool::outcome::Refusal;
use crate::pool::replica::Place;
use crate::pool::segment::SegmentEvent;

use self::fakes::{client, FakeMaster, World};
use super::{Dialect, Object, PutOptions, Range, Store};

const MIB: u64 = 1 << 20;

/// A master, and clients of it by name; each gives 16 MiB.
fn pool(dialect: Dialect, names: &[&str]) -> (Arc<FakeMaster>, Arc<World>, Vec<Store>) {
    let master = FakeMaster::new(dialect);
    let world = Arc::new(World::default());
    let stores = names.iter().map(|name| client(&master, &world, name, 16 * MIB)).collect();
    (master, world, stores)
}

fn value(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn put(store: &Store, key: &[u8], value: &[u8]) -> Result<()> {
    store.put(key, value, &PutOptions::default())
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().as_ref().map(Error::kind).expect("an error")
}

/// Waits for what another thread does.
fn eventually(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(Instant::now() < end, "it never happened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_is_put_is_got_by_everybody() {
    for dialect in [Dialect::Native, Dialect::Upstream] {
        let (master, _, stores) = pool(dialect, &["a", "b"]);
        for (index, length) in [1, 4096, 100_000, 3 << 20].into_iter().enumerate() {
            let key = format!("k{index}");
            let bytes = value(index as u8, length);
            put(&stores[0], key.as_bytes(), &bytes).unwrap();
            for store in &stores {
                assert!(store.get(key.as_bytes()).unwrap() == bytes);
            }
        }
        assert_eq!(master.calls("BatchPutStart"), 4);
        assert_eq!(master.calls("BatchPutEnd"), 4);
        assert_eq!(kind(stores[1].get(b"absent")), ErrorKind::ObjectNotFound);
        assert_eq!(stores[0].sizes(&[b"k1", b"no"], None).unwrap()[0].as_ref().unwrap(), &4096);
        let exists = stores[1].exists(&[b"k0", b"no", b""], None).unwrap();
        assert_eq!(exists[0].as_ref().unwrap(), &true);
        assert_eq!(exists[1].as_ref().unwrap(), &false);
        assert_eq!(exists[2].as_ref().unwrap_err().kind(), ErrorKind::InvalidArgument);
        // One of two is here, and no transport was needed for it.
        assert!(stores[0].metrics().copies.get() > 0);
    }
}

#[test]
fn a_batch_takes_one_round_trip_and_each_object_has_its_result() {
    let (master, _, stores) = pool(Dialect::Native, &["a", "b"]);
    put(&stores[0], b"there", b"old").unwrap();
    let bytes: Vec<Vec<u8>> = (0..5).map(|i| value(i, 1000 + usize::from(i))).collect();
    // The last one comes in three ranges.
    let ranges: Vec<Vec<Range>> = bytes
        .iter()
        .enumerate()
        .map(|(index, b)| match index {
            4 => vec![Range::of(&b[..7]), Range::of(&b[7..7]), Range::of(&b[7..])],
            _ => vec![Range::of(b)],
        })
        .collect();
    let keys: [&[u8]; 5] = [b"0", b"", b"there", b"0", b"4"];
    let objects: Vec<Object<'_>> =
        keys.iter().zip(&ranges).map(|(key, ranges)| Object { key, ranges }).collect();
    let before = master.calls("BatchPutStart");
    let results = stores[1].put_batch(&objects, &PutOptions::default(), None).unwrap();
    assert_eq!(master.calls("BatchPutStart"), before + 1);
    let kinds: Vec<Option<ErrorKind>> =
        results.iter().map(|r| r.as_ref().err().map(Error::kind)).collect();
    use ErrorKind::{InvalidArgument, ObjectExists};
    assert_eq!(kinds, [None, Some(InvalidArgument), Some(ObjectExists), Some(ObjectExists), None]);
    assert_eq!(stores[0].get(b"there").unwrap(), b"old");
    // Read with another cut, into one range that is larger.
    let mut room = vec![0u8; 2000];
    let mut small = vec![0u8; 5];
    let big = [Range::of_mut(&mut room[..3]), Range::of_mut(&mut room[3..])];
    let tiny = [Range::of_mut(&mut small)];
    let wanted = [
        Object { key: b"4", ranges: &big },
        Object { key: b"0", ranges: &tiny },
        Object { key: b"none", ranges: &tiny },
    ];
    let read = stores[0].get_batch(&wanted, None).unwrap();
    assert_eq!(read[0].as_ref().unwrap(), &1004);
    assert!(room[..1004] == bytes[4][..]);
    assert_eq!(read[1].as_ref().unwrap_err().kind(), ErrorKind::BufferTooSmall);
    assert_eq!(read[2].as_ref().unwrap_err().kind(), ErrorKind::ObjectNotFound);
}

#[test]
fn an_unfinished_object_is_never_called_a_success() {
    for dialect in [Dialect::Native, Dialect::Upstream] {
        let (master, _, stores) = pool(dialect, &["a"]);
        master.state.lock().put_end = Some(Refusal::INTERNAL_ERROR);
        assert_eq!(kind(put(&stores[0], b"k", b"1")), ErrorKind::StoreRefused);
        assert_eq!(kind(put(&stores[0], b"k", b"2")), ErrorKind::ObjectNotReady);
        assert_eq!(kind(stores[0].get(b"k")), ErrorKind::ObjectNotReady);
        master.state.lock().put_end = None;
        put(&stores[0], b"l", b"1").unwrap();
        assert_eq!(kind(put(&stores[0], b"l", b"2")), ErrorKind::ObjectExists);
        assert_eq!(stores[0].get(b"l").unwrap(), b"1");
    }
}

#[test]
fn a_failed_transfer_is_revoked_and_a_native_put_goes_elsewhere() {
    // "a" mounts first and is chosen first; "c" puts.
    let (master, world, stores) = pool(Dialect::Native, &["a", "b", "c"]);
    world.dead.lock().insert("a".into());
    put(&stores[2], b"k", b"hello").unwrap();
    assert_eq!(master.state.lock().suspects, ["a"]);
    assert_eq!(master.calls("BatchPutRevoke"), 1);
    assert_eq!(stores[1].get(b"k").unwrap(), b"hello");

    let (master, world, stores) = pool(Dialect::Upstream, &["a", "b", "c"]);
    world.dead.lock().insert("a".into());
    assert_eq!(kind(put(&stores[2], b"k", b"hello")), ErrorKind::Unreachable);
    assert_eq!(master.calls("BatchPutRevoke"), 1);
    assert_eq!(master.calls("Suspect"), 0);
    assert!(master.state.lock().objects.is_empty());
}

#[test]
fn readers_try_every_replica_their_own_first() {
    let (master, world, stores) = pool(Dialect::Native, &["a", "b", "c"]);
    let options = PutOptions { replica_num: 2, ..PutOptions::default() };
    stores[2].put(b"k", b"hello", &options).unwrap();
    let entry = master.state.lock().objects.get(&b"k"[..]).unwrap().replicas.len();
    assert_eq!(entry, 2);
    world.dead.lock().insert("a".into());
    assert_eq!(stores[2].get(b"k").unwrap(), b"hello");
    assert_eq!(stores[2].metrics().replica_failures.get(), 1);
    // A holder reads its own copy without asking the other.
    assert_eq!(stores[1].get(b"k").unwrap(), b"hello");
    assert_eq!(stores[1].metrics().replica_failures.get(), 0);
    world.dead.lock().insert("b".into());
    assert_eq!(kind(stores[2].get(b"k")), ErrorKind::Unreachable);
    assert_eq!(stores[1].get(b"k").unwrap(), b"hello");
}

#[test]
fn bytes_of_a_lapsed_lease_are_read_again() {
    let (master, _, stores) = pool(Dialect::Upstream, &["a", "b"]);
    put(&stores[0], b"k", b"hello").unwrap();
    master.state.lock().leases_ms = [0, 0].into();
    assert_eq!(stores[1].get(b"k").unwrap(), b"hello");
    assert_eq!(master.calls("BatchLookup"), 3);
    assert_eq!(stores[1].metrics().rereads.get(), 2);
    // It ends after a bounded number of tries, without bytes.
    master.state.lock().leases_ms = vec![0; 100].into();
    assert_eq!(kind(stores[1].get(b"k")), ErrorKind::LeaseExpired);
}

#[test]
fn a_lapsed_lease_on_the_same_put_needs_no_second_copy() {
    let (master, world, stores) = pool(Dialect::Native, &["a", "b"]);
    put(&stores[0], b"k", b"hello").unwrap();
    master.state.lock().leases_ms = [0].into();
    let moves = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&moves);
    *world.before_moves.lock() = Some(Box::new(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }));
    assert_eq!(stores[1].get(b"k").unwrap(), b"hello");
    assert_eq!(moves.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn an_object_replaced_during_the_copy_is_never_mixed() {
    for dialect in [Dialect::Native, Dialect::Upstream] {
        let (master, world, stores) = pool(dialect, &["a", "b"]);
        put(&stores[0], b"k", b"first").unwrap();
        master.state.lock().leases_ms = [0].into();
        // While the first copy runs, the object goes and another takes its name and its room.
        let (owner, again) = (Arc::clone(&master), stores[0].clone());
        let mut done = false;
        *world.before_moves.lock() = Some(Box::new(move || {
            if std::mem::replace(&mut done, true) {
                return;
            }
            {
                let mut state = owner.state.lock();
                state.objects.clear();
                for (_, _, used) in &mut state.segments {
                    *used = 0;
                }
            }
            // By a copy inside the process of "a", so the hook is not entered twice.
            put(&again, b"k", b"other and longer").unwrap();
        }));
        assert_eq!(stores[1].get(b"k").unwrap(), b"other and longer");
    }
}

#[test]
fn a_restarted_master_is_told_what_the_segments_hold() {
    let (master, _, stores) = pool(Dialect::Native, &["a", "b"]);
    for index in 0..10u8 {
        put(&stores[0], &[b'k', index], &value(index, 100)).unwrap();
    }
    let life = master.state.lock().life;
    master.restart();
    assert!(master.state.lock().life > life);
    eventually(|| {
        let state = master.state.lock();
        state.segments.len() == 2 && state.reports.len() == 10
    });
    let state = master.state.lock();
    let segment = &state.segments.iter().find(|(s, ..)| s.endpoint == "a").unwrap().0;
    for report in &state.reports {
        assert_eq!(report.segment, segment.id);
        assert_eq!(report.slices, [100]);
        assert!(report.address >= segment.base);
    }
    let mut generations: Vec<u64> = state.reports.iter().map(|r| r.generation).collect();
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 10);
}

#[test]
fn a_report_that_ended_half_way_is_made_again() {
    let (master, _, stores) = pool(Dialect::Native, &["a"]);
    for index in 0..10u8 {
        put(&stores[0], &[b'k', index], &value(index, 100)).unwrap();
    }
    // The client is known to the new master from its mounting on, and must not take that for all.
    master.state.lock().reports_lost = 3;
    master.restart();
    eventually(|| master.state.lock().reports.len() == 10);
    assert_eq!(master.state.lock().reports_lost, 0);
}

#[test]
fn a_time_under_upstreams_master_is_not_reported_over() {
    let (master, _, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"v").unwrap();
    eventually(|| stores[0].health().unwrap().objects_held == 1);
    master.restart_as(Dialect::Upstream);
    eventually(|| stores[0].health().unwrap().objects_held == 0);
    master.restart_as(Dialect::Native);
    eventually(|| master.calls("Report") > 0);
    assert!(master.state.lock().reports.is_empty());
}

#[test]
fn a_client_that_expired_mounts_again_with_nothing() {
    let (master, _, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"v").unwrap();
    {
        let mut state = master.state.lock();
        state.known.clear();
        state.segments.clear();
        state.objects.clear();
    }
    eventually(|| master.state.lock().segments.len() == 1);
    eventually(|| master.calls("Report") > 0);
    assert!(master.state.lock().reports.is_empty());
}

#[test]
fn peers_are_shut_out_before_memory_is_mounted_again() {
    let (master, world, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"v").unwrap();
    world.renewal_fails.store(true, Ordering::Relaxed);
    let base = master.state.lock().segments[0].0.base as usize;
    master.restart();
    eventually(|| world.renewed.lock().len() > 1);
    // What the old master granted may still be written by.
    assert_eq!(master.calls("Remount"), 0);
    world.renewal_fails.store(false, Ordering::Relaxed);
    eventually(|| master.calls("Remount") == 1);
    assert!(world.renewed.lock().iter().all(|address| *address == base));
    put(&stores[0], b"l", b"v").unwrap();
}

#[test]
fn a_range_that_is_taken_from_a_writer_is_fenced_before_that_is_acknowledged() {
    let (master, world, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"v").unwrap();
    let (segment, address) = {
        let state = master.state.lock();
        let segment = state.segments[0].0.clone();
        (segment.id, segment.base)
    };
    let gone = |generation| SegmentEvent::Gone { segment, address, generation };
    // Of a complete object there is no writer left.
    master.tell(vec![gone(1)]);
    eventually(|| stores[0].health().unwrap().objects_held == 0);
    assert!(world.renewed.lock().is_empty());
    world.renewal_fails.store(true, Ordering::Relaxed);
    master.tell(vec![gone(2)]);
    let told = master.state.lock().told;
    eventually(|| world.renewed.lock().len() > 1);
    assert!(master.state.lock().acknowledged < told);
    world.renewal_fails.store(false, Ordering::Relaxed);
    eventually(|| master.state.lock().acknowledged == told);
}

#[test]
fn a_copy_into_own_memory_is_not_made_by_an_old_grant() {
    let (master, world, stores) = pool(Dialect::Native, &["a", "b"]);
    let shared = Arc::clone(&stores[0].0.shared);
    let mut times = 1;
    *world.before_moves.lock() = Some(Box::new(move || {
        if times > 0 {
            times -= 1;
            shared.own.renew();
        }
    }));
    let options = PutOptions { replica_num: 2, ..PutOptions::default() };
    stores[0].put(b"k", b"value", &options).unwrap();
    // The first room was given back.
    assert_eq!(master.calls("BatchPutStart"), 2);
    assert_eq!(master.calls("BatchPutRevoke"), 1);
    assert!(master.state.lock().suspects.is_empty());
    *world.before_moves.lock() = None;
    assert_eq!(stores[1].get(b"k").unwrap(), b"value");
}

#[test]
fn a_lost_word_about_a_put_does_not_keep_its_key() {
    // The answer that grants room, the end, and that the put is given up.
    for (which, is_answer) in
        [("BatchPutStart", true), ("BatchPutEnd", false), ("BatchPutRevoke", false)]
    {
        let (master, world, stores) = pool(Dialect::Native, &["a", "b"]);
        if which == "BatchPutRevoke" {
            world.dead.lock().insert("a".into());
        }
        {
            let mut state = master.state.lock();
            let lost = if is_answer { &mut state.answers_lost } else { &mut state.calls_lost };
            *lost = Some(which);
            state.suspects = vec!["b".into()];
        }
        assert!(put(&stores[1], b"k", b"value").is_err(), "{which}");
        assert_eq!(master.state.lock().objects.len(), 1, "{which}");
        {
            let mut state = master.state.lock();
            (state.answers_lost, state.calls_lost) = (None, None);
        }
        eventually(|| !master.state.lock().unfinished.is_empty());
        assert_eq!(master.state.lock().unfinished, [Vec::<u64>::new()], "{which}");
        world.dead.lock().clear();
        master.state.lock().suspects.clear();
        put(&stores[0], b"k", b"other").unwrap();
        assert_eq!(stores[1].get(b"k").unwrap(), b"other");
    }
}

#[test]
fn puts_that_go_on_are_named() {
    let (master, world, stores) = pool(Dialect::Native, &["a", "b"]);
    let (entered, left) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let mut first = true;
    *world.before_moves.lock() = Some(Box::new(move || {
        if std::mem::take(&mut first) {
            entered.0.send(()).unwrap();
            let _ = left.1.recv_timeout(Duration::from_secs(60));
        }
    }));
    let store = stores[1].clone();
    let slow = std::thread::spawn(move || put(&store, b"slow", b"value"));
    entered.1.recv().unwrap();
    stores[1].0.shared.open_puts.lock().doubt();
    eventually(|| !master.state.lock().unfinished.is_empty());
    let generation = master.state.lock().objects[&b"slow"[..]].generation;
    assert_eq!(master.state.lock().unfinished, [vec![generation]]);
    left.0.send(()).unwrap();
    slow.join().unwrap().unwrap();
    assert_eq!(stores[1].get(b"slow").unwrap(), b"value");
}

#[test]
fn without_a_master_every_call_says_so_and_it_is_found_again() {
    for dialect in [Dialect::Native, Dialect::Upstream] {
        let (master, _, stores) = pool(dialect, &["a"]);
        master.state.lock().is_down = true;
        let store = &stores[0];
        assert_eq!(kind(put(store, b"k", b"v")), ErrorKind::MasterUnavailable);
        assert_eq!(kind(store.get(b"k")), ErrorKind::MasterUnavailable);
        assert_eq!(kind(store.exists(&[b"k"], None)), ErrorKind::MasterUnavailable);
        assert_eq!(kind(store.remove_all(false)), ErrorKind::MasterUnavailable);
        eventually(|| !store.health().unwrap().master_is_reachable);
        assert!(store.health().unwrap().last_error.is_some());
        master.restart();
        eventually(|| store.health().unwrap().master_is_reachable);
        eventually(|| master.state.lock().segments.len() == 1);
        put(store, b"k", b"v").unwrap();
    }
}

#[test]
fn a_closed_client_answers_and_gives_everything_back() {
    let (master, world, stores) = pool(Dialect::Native, &["a", "b"]);
    let store = &stores[0];
    put(store, b"k", b"hello").unwrap();
    let buffer = store.get_buffers(&[b"k"], None).unwrap().remove(0).unwrap();
    let mut own = vec![0u8; 64];
    let range = Range::of_mut(&mut own);
    store.register_buffer(range.address, range.length).unwrap();
    assert_eq!(kind(store.register_buffer(range.address, 1)), ErrorKind::Overlap);
    store.close();
    store.close();
    assert_eq!(kind(put(store, b"l", b"v")), ErrorKind::Shutdown);
    assert_eq!(kind(store.get(b"k")), ErrorKind::Shutdown);
    assert_eq!(kind(store.health().map(|_| ())), ErrorKind::Shutdown);
    assert_eq!(buffer.to_vec().unwrap(), b"hello");
    assert_eq!(master.state.lock().segments.len(), 1);
    stores[1].close();
    assert!(world.registered.lock().is_empty());
}

#[test]
fn local_buffers_run_out_and_come_back() {
    // Of a native master's objects it would be views.
    let (_, _, stores) = pool(Dialect::Upstream, &["a"]);
    put(&stores[0], b"k", &value(1, 600 << 10)).unwrap();
    let first = stores[0].get_buffers(&[b"k"], None).unwrap().remove(0).unwrap();
    let second = stores[0].get_buffers(&[b"k"], None).unwrap().remove(0);
    assert_eq!(kind(second.map(|_| ())), ErrorKind::LimitReached);
    drop(first);
    let again = stores[0].get_buffers(&[b"k"], None).unwrap().remove(0).unwrap();
    assert!(again.to_vec().unwrap() == value(1, 600 << 10));
}

#[test]
fn replicas_that_cannot_be_right_are_refused() {
    let (master, _, stores) = pool(Dialect::Native, &["a", "b"]);
    let options = PutOptions { replica_num: 2, ..PutOptions::default() };
    stores[0].put(b"k", b"hello", &options).unwrap();
    {
        let mut state = master.state.lock();
        let entry = state.objects.get_mut(&b"k"[..]).unwrap();
        if let Place::Memory(ranges) = &mut entry.replicas[0].place {
            ranges[0].size = u64::MAX;
        }
    }
    // The other one is still good.
    assert_eq!(stores[1].get(b"k").unwrap(), b"hello");
    {
        let mut state = master.state.lock();
        let entry = state.objects.get_mut(&b"k"[..]).unwrap();
        if let Place::Memory(ranges) = &mut entry.replicas[1].place {
            ranges.clear();
        }
    }
    assert_eq!(kind(stores[1].get(b"k")), ErrorKind::ObjectNotReady);
}

#[test]
fn many_threads_share_one_client() {
    let (_, _, stores) = pool(Dialect::Native, &["a", "b"]);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let store = &stores[usize::from(thread % 2)];
            scope.spawn(move || {
                for round in 0..50u8 {
                    let key = [thread, round];
                    let bytes = value(thread ^ round, 1000 + usize::from(round));
                    put(store, &key, &bytes).unwrap();
                    assert!(store.get(&key).unwrap() == bytes);
                    assert!(store.remove(&[&key], false, None).unwrap()[0].is_ok());
                }
            });
        }
    });
}
