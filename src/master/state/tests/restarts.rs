//! The master's memory is lost: what it wrote down, and what holders tell.

use std::collections::HashMap;
use std::sync::Arc;

use super::{addresses, client, item, segment, Bench, Recorder, MIB};
use crate::limits;
use crate::master::state::{NoOutlet, Settings, State};
use crate::pool::identity::ClientId;
use crate::pool::object::{PutItem, PutOptions};
use crate::pool::outcome::Refusal;
use crate::pool::segment::{ClientStatus, HeldObject, SegmentEvent};
use crate::rpc::message::Call;

fn settings(life: u64) -> Settings {
    Settings { shards: 8, life, ..Settings::default() }
}

/// Two clients of 16 MiB, that attend or not.
fn two(native: bool) -> Bench {
    let bench = Bench::new(settings(1));
    for number in [1, 2] {
        bench.mount(number, 16 * MIB).unwrap();
        come_back(&bench, number, native);
    }
    bench
}

fn come_back(bench: &Bench, number: u64, native: bool) {
    let status = match native {
        true => bench.attend(client(number), u64::MAX).pong.status,
        false => bench.ping(client(number)),
    };
    assert_eq!(status, ClientStatus::NeedRemount);
    bench.done(Call::Remount(vec![segment(number, 16 * MIB)], client(number))).unwrap();
}

/// Another life, from what was written down.
fn restored(old: &Bench) -> Bench {
    let recorder = Arc::new(Recorder::default());
    let image = old.recorder.image.lock().clone();
    let state = State::restore(settings(2), old.now, recorder.clone(), image).unwrap();
    Bench { state, recorder, now: old.now }
}

/// Another life, that knows nothing.
fn empty(old: &Bench) -> Bench {
    let recorder = Arc::new(Recorder::default());
    let state = State::new(settings(2), old.now, recorder.clone());
    Bench { state, recorder, now: old.now }
}

fn report(bench: &Bench, who: ClientId, objects: Vec<HeldObject>, last: bool) {
    bench.done(Call::Report { client: who, objects, last }).unwrap();
}

/// What a holder keeps in mind of the news it takes.
fn take_news(bench: &Bench, number: u64, held: &mut HashMap<(u64, u64), HeldObject>) {
    for event in bench.attend_all(client(number)) {
        match event {
            SegmentEvent::Completed(object) => {
                held.insert((object.address, object.generation), object);
            }
            SegmentEvent::Gone { address, generation, .. } => {
                held.remove(&(address, generation));
            }
        }
    }
}

#[test]
fn the_journal_brings_everything_back_once_the_owners_are_there() {
    for native in [false, true] {
        let mut old = two(native);
        let mut places = HashMap::new();
        for number in 0..200_u64 {
            let options = PutOptions { replica_num: 1 + number % 2, ..PutOptions::default() };
            let key = number.to_le_bytes();
            let granted = old.start(Some(client(1)), item(&key, 5000), options).unwrap();
            if number % 10 > 0 {
                old.end(Some(client(1)), &key).unwrap();
            }
            places.insert(number, (granted.generation, addresses(&granted.replicas)));
        }
        for number in (1..200).step_by(7) {
            let _ = old.remove(&(number as u64).to_le_bytes());
        }
        old.pass(20);
        old.tick();
        let mut bench = restored(&old);
        assert!(!bench.exists(&2_u64.to_le_bytes()), "its owner has not come back");
        assert_eq!(bench.state.totals().segments, 0);
        come_back(&bench, 1, native);
        come_back(&bench, 2, native);
        for number in 0..200_u64 {
            let key = number.to_le_bytes();
            let removed = number % 7 == 1 && number % 10 > 0;
            let expected = &places[&number];
            match bench.lookup(&key) {
                Ok(located) => {
                    assert!(!removed && number % 10 > 0, "{number}");
                    let found = (located.generation, addresses(&located.replicas));
                    assert_eq!(found, *expected);
                }
                Err(Refusal::OBJECT_NOT_FOUND) => assert!(removed, "{number}"),
                Err(Refusal::REPLICA_IS_NOT_READY) => assert_eq!(number % 10, 0),
                Err(other) => panic!("{other}"),
            }
        }
        // A put that was under way goes on.
        bench.end(Some(client(1)), &0_u64.to_le_bytes()).unwrap();
        assert!(bench.exists(&0_u64.to_le_bytes()));
        assert_eq!(bench.end(None, &10_u64.to_le_bytes()), Err(Refusal::ILLEGAL_CLIENT));
        if native {
            assert_eq!(bench.put(b"x", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
            report(&bench, client(1), vec![], true);
        }
        let granted = bench.put(b"x", 10).unwrap();
        assert!(places.values().all(|(generation, _)| *generation < granted.generation));
        let taken = places.values().flat_map(|(_, addresses)| addresses);
        let new = addresses(&granted.replicas)[0];
        let removed = |number: &u64| number % 7 == 1 && number % 10 > 0;
        let live = taken.filter(|at| **at == new).count();
        let free = places.iter().filter(|(n, (_, at))| removed(n) && at.contains(&new)).count();
        assert_eq!(live, free);
        // The written state of the new life is the state.
        bench.pass(10);
        let again = restored(&bench);
        assert_eq!(again.recorder.image.lock().objects.len(), bench.state.totals().keys as usize);
    }
}

#[test]
fn owners_that_do_not_come_back_are_forgotten() {
    let old = two(false);
    old.put(b"k", 10).unwrap();
    let bench = restored(&old);
    // Meanwhile somebody else may put the key.
    bench.mount(3, MIB).unwrap();
    let granted = bench.put(b"k", 20).unwrap();
    come_back(&bench, 1, false);
    come_back(&bench, 2, false);
    assert_eq!(bench.lookup(b"k").unwrap().generation, granted.generation);
    let mut bench = restored(&old);
    assert_eq!(bench.state.totals().keys, 1);
    bench.pass(10_100);
    bench.tick();
    assert_eq!(bench.state.totals().keys, 0);
    assert_eq!(bench.ping(client(1)), ClientStatus::NeedRemount);
    bench.pass(0);
}

#[test]
fn a_resting_range_goes_on_resting() {
    let mut old = Bench::new(Settings { eviction_high_watermark: 1.0, ..settings(1) });
    old.mount(1, 16 * MIB).unwrap();
    old.ping(client(1));
    old.put(b"k", 16 * MIB).unwrap();
    old.lookup(b"k").unwrap();
    old.pass(5_000);
    old.ping(client(1));
    old.tick();
    old.remove(b"k").unwrap();
    old.pass(1_000);
    old.tick();
    let mut bench = restored(&old);
    come_back(&bench, 1, false);
    bench.pass(3_900);
    bench.ping(client(1));
    bench.tick();
    assert_eq!(bench.put(b"l", 16 * MIB).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    bench.pass(101);
    bench.tick();
    bench.put(b"l", 16 * MIB).unwrap();
}

#[test]
fn reports_alone_bring_back_what_holders_were_told_of() {
    let mut old = two(true);
    let mut held = [HashMap::new(), HashMap::new()];
    let mut places = HashMap::new();
    for number in 0..300_u64 {
        let key = number.to_le_bytes();
        let granted = old.put(&key, 3000).unwrap();
        places.insert(number, (granted.generation, addresses(&granted.replicas)));
        if number % 5 == 4 {
            let _ = old.remove(&(number - 2).to_le_bytes());
            places.remove(&(number - 2));
        }
        old.pass(1);
    }
    for (index, held) in held.iter_mut().enumerate() {
        take_news(&old, index as u64 + 1, held);
    }
    let mut bench = empty(&old);
    for (index, held) in held.iter().enumerate() {
        let number = index as u64 + 1;
        come_back(&bench, number, true);
        // Nothing may be overwritten before it is told.
        assert_eq!(bench.put(b"x", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
        let mut objects: Vec<HeldObject> = held.values().cloned().collect();
        let rest = objects.split_off(objects.len() / 2);
        report(&bench, client(number), objects, false);
        report(&bench, client(number), rest, true);
    }
    assert_eq!(bench.state.totals().keys, places.len() as u64);
    assert_eq!(bench.state.totals().reported_objects, places.len() as u64);
    for (number, expected) in &places {
        let located = bench.lookup(&number.to_le_bytes()).unwrap();
        assert_eq!((located.generation, addresses(&located.replicas)), *expected);
    }
    // Readers of the earlier life are waited for.
    assert_eq!(bench.put(b"x", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    bench.pass(5_000);
    bench.attend(client(1), 0);
    bench.attend(client(2), 0);
    bench.tick();
    let granted = bench.put(b"x", 10).unwrap();
    let new = addresses(&granted.replicas)[0];
    assert!(places.values().all(|(_, at)| !(at[0]..at[0] + 3000).contains(&new)));
}

#[test]
fn groups_come_back_by_reports_alone() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut old = two(true);
        let mut groups: HashMap<u64, (u64, Vec<u8>)> = HashMap::new();
        for number in 0..100_u64 {
            let group = if rng.bool() { vec![b'a' + rng.u8(..5)] } else { Vec::new() };
            let key = number.to_le_bytes();
            let wanted = PutItem { group: group.clone(), ..item(&key, 3000) };
            let options = PutOptions { replica_num: rng.u64(1..3), ..PutOptions::default() };
            let granted = old.start(None, wanted, options).unwrap();
            old.end(None, &key).unwrap();
            groups.insert(number, (granted.generation, group));
            let removed = rng.u64(..100);
            if old.remove(&removed.to_le_bytes()).is_ok() {
                groups.remove(&removed);
            }
            old.pass(1);
        }
        let mut bench = empty(&old);
        for number in [1, 2] {
            let mut held = HashMap::new();
            take_news(&old, number, &mut held);
            let mut objects: Vec<HeldObject> = held.into_values().collect();
            objects.sort_unstable_by_key(|object| object.generation);
            rng.shuffle(&mut objects);
            come_back(&bench, number, true);
            let rest = objects.split_off(objects.len() / 2);
            report(&bench, client(number), objects, false);
            report(&bench, client(number), rest, true);
        }
        // As it is written down, and told to holders once more.
        let image = bench.recorder.image.lock().clone();
        let kept = |generation: &u64| &image.objects[generation].group;
        assert_eq!(image.objects.len(), groups.len(), "seed {seed}");
        assert!(groups.values().all(|(generation, group)| kept(generation) == group), "{seed}");
        let mut held = HashMap::new();
        take_news(&bench, 1, &mut held);
        take_news(&bench, 2, &mut held);
        let told = |object: &HeldObject| kept(&object.generation) == &object.group;
        assert!(held.len() >= groups.len() && held.values().all(told), "seed {seed}");
        // And as it works: whoever reads one of a group has leased it all, and nothing else.
        bench.pass(1);
        let grouped = groups.iter().find(|(_, (_, group))| !group.is_empty());
        let (read, group) = grouped.map(|(number, (_, group))| (*number, group.clone())).unwrap();
        assert!(bench.exists(&read.to_le_bytes()));
        for (number, (_, other)) in &groups {
            let leased = *other == group;
            let expected = if leased { Err(Refusal::OBJECT_HAS_LEASE) } else { Ok(()) };
            assert_eq!(bench.remove(&number.to_le_bytes()), expected, "seed {seed}, {number}");
        }
    }
}

#[test]
fn a_holder_that_knows_no_groups_takes_none_away() {
    for older_first in [true, false] {
        let mut bench = empty(&two(true));
        let group = b"page".to_vec();
        let of = |key: &[u8], generation, number| {
            let group = if number == 1 { Vec::new() } else { group.clone() };
            let object = held(key, generation, number, 4096 * generation, 1000);
            HeldObject { group, ..object }
        };
        come_back(&bench, 1, true);
        come_back(&bench, 2, true);
        let numbers = if older_first { [1, 2] } else { [2, 1] };
        for number in numbers {
            let objects = vec![of(b"both", 5, number), of(b"own", 6 + number, number)];
            report(&bench, client(number), objects, true);
        }
        assert_eq!(bench.lookup(b"both").unwrap().replicas.len(), 2);
        let image = bench.recorder.image.lock().clone();
        // The other one's key is the same: the later put of it is right.
        assert_eq!((&image.objects[&5].group, &image.objects[&8].group), (&group, &group));
        bench.pass(1);
        assert!(bench.exists(b"own"));
        assert_eq!(bench.remove(b"both"), Err(Refusal::OBJECT_HAS_LEASE));
    }
}

/// Two lives on from a put that was replaced, with a holder that was away and has heard nothing.
fn outdated(bench: &mut Bench, away_ms: u64) -> bool {
    let old = held(b"k", bench.state.life() - 1, 2, 0, 1000);
    come_back(bench, 1, true);
    report(bench, client(1), Vec::new(), true);
    bench.pass(away_ms);
    bench.attend(client(1), 0);
    bench.tick();
    come_back(bench, 2, true);
    report(bench, client(2), vec![old.clone()], true);
    let is_told = bench.attend_all(client(2)).iter().any(|event| {
        matches!(event, SegmentEvent::Gone { generation, .. } if *generation == old.generation)
    });
    assert_ne!(is_told, bench.exists(b"k"));
    !is_told
}

#[test]
fn what_is_over_does_not_come_back_with_a_holder_that_was_away() {
    let old = two(true);
    // A journal knows that it is over.
    assert!(!outdated(&mut restored(&old), 0));
    // Without one the holder is believed, until others may have put and removed the key since.
    assert!(outdated(&mut empty(&old), 0));
    assert!(outdated(&mut empty(&old), 9_000));
    assert!(!outdated(&mut empty(&old), 10_100));
}

fn held(key: &[u8], generation: u64, number: u64, offset: u64, size: u64) -> HeldObject {
    let segment = segment(number, 0);
    let address = segment.base + offset;
    let segment = segment.id;
    HeldObject {
        key: key.to_vec(),
        generation,
        segment,
        address,
        slices: vec![size],
        soft_pin: false,
        group: Vec::new(),
    }
}

#[test]
fn the_larger_generation_is_right() {
    let bench = empty(&two(true));
    come_back(&bench, 1, true);
    come_back(&bench, 2, true);
    // In the range.
    let objects = vec![held(b"old", 5, 1, 0, 1000), held(b"new", 6, 1, 512, 1000)];
    report(&bench, client(1), objects, false);
    assert_eq!(bench.lookup(b"old").unwrap_err(), Refusal::OBJECT_NOT_FOUND);
    assert_eq!(bench.lookup(b"new").unwrap().generation, 6);
    report(&bench, client(1), vec![held(b"older", 4, 1, 1024, 10)], false);
    assert!(!bench.exists(b"older"));
    // In the key, whoever tells first.
    report(&bench, client(1), vec![held(b"k", 10, 1, 8192, 10)], false);
    report(&bench, client(2), vec![held(b"k", 11, 2, 8192, 10), held(b"l", 20, 2, 0, 10)], false);
    report(&bench, client(1), vec![held(b"l", 19, 1, 12288, 10)], false);
    for (key, generation) in [(b"k", 11), (b"l", 20)] {
        let located = bench.lookup(key).unwrap();
        assert_eq!((located.generation, located.replicas.len()), (generation, 1));
        assert_eq!(addresses(&located.replicas)[0] >> 42, 3);
    }
    // The same life in two places is two copies.
    report(&bench, client(1), vec![held(b"l", 20, 1, 16384, 10)], true);
    assert_eq!(bench.lookup(b"l").unwrap().replicas.len(), 2);
    // The holder learns what is not right.
    let gone: Vec<u64> = bench
        .attend_all(client(1))
        .into_iter()
        .filter_map(|event| match event {
            SegmentEvent::Gone { generation, .. } => Some(generation),
            SegmentEvent::Completed(_) => None,
        })
        .collect();
    for generation in [4, 5, 10, 19] {
        assert!(gone.contains(&generation), "{generation} not in {gone:?}");
    }
    // After its end nobody is believed any more.
    report(&bench, client(1), vec![held(b"late", 30, 1, 65536, 10)], false);
    report(&bench, client(2), vec![held(b"of another", 30, 1, 65536, 10)], true);
    assert!(!bench.exists(b"of another"));
}

#[test]
fn nonsense_in_reports_is_left_out() {
    let bench = empty(&two(true));
    come_back(&bench, 1, true);
    let sized = |slices: Vec<u64>| HeldObject { slices, ..held(b"k", 9, 1, 0, 1) };
    let objects = vec![
        held(b"", 9, 1, 0, 10),
        held(b"a", 0, 1, 0, 10),
        held(b"b", 9, 1, 16 * MIB - 5, 10),
        held(b"c", 9, 1, u64::MAX - (2 << 42), 10),
        held(b"d", 9, 1, 7, 10),
        held(b"e", 9, 7, 0, 10),
        HeldObject { address: 3, ..held(b"f", 9, 1, 0, 10) },
        sized(vec![]),
        sized(vec![0]),
        sized(vec![u64::MAX, u64::MAX]),
        HeldObject { group: vec![b'x'; limits::KEY_BYTES_MAX + 1], ..held(b"g", 9, 1, 0, 10) },
    ];
    report(&bench, client(1), objects, true);
    assert_eq!(bench.state.totals().keys, 0);
}

#[test]
fn nobody_tells_of_what_others_hold() {
    let old = two(true);
    let bench = empty(&old);
    come_back(&bench, 1, true);
    bench.attend(client(2), 0);
    bench.done(Call::Remount(vec![segment(2, 16 * MIB)], client(2))).unwrap();
    // Before the holder has told, and after.
    report(&bench, client(2), vec![held(b"k", 9, 1, 0, 100)], false);
    report(&bench, client(1), vec![], true);
    report(&bench, client(2), vec![held(b"k", 9, 1, 0, 100)], true);
    assert!(!bench.exists(b"k"));
}

#[test]
fn acknowledgements_of_an_earlier_life_mean_nothing() {
    let old = two(true);
    old.put(b"k", 10).unwrap();
    let last = old.attend(client(1), 0).last.max(old.attend(client(2), 0).last);
    let bench = empty(&old);
    assert!(bench.attend(client(1), last).last > last);
}

#[test]
fn any_image_can_be_restored() {
    use crate::master::journal::image::Image;
    use crate::master::journal::record::{KeptPin, Record};
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let mut image = Image::default();
        for _ in 0..100 {
            let generation = rng.u64(..20);
            let slot = rng.u32(..3);
            image.apply(match rng.u32(..7) {
                0 => Record::Mount {
                    slot,
                    owner: client(rng.u64(..2)),
                    segment: std::borrow::Cow::Owned(segment(rng.u64(..4), rng.u64(1..100_000))),
                },
                1 => Record::Unmount { slot },
                2 => Record::End { generation },
                3 => Record::Gone { generation, rest: rng.u64(..100) },
                4 => Record::Rest { slot, offset: rng.u64(..999) * 64, bytes: 99, rest: 9 },
                5 => Record::Moment(rng.u64(..1000)),
                _ => Record::Put {
                    generation,
                    owner: rng.bool().then(|| client(1)),
                    complete: rng.bool(),
                    pin: KeptPin::None,
                    key: vec![b'k'; rng.usize(..3)].into(),
                    slices: vec![rng.u64(..2000); rng.usize(..3)].into(),
                    copies: vec![(slot, rng.u64(..2000) * 32); rng.usize(..3)].into(),
                    group: vec![b'g'; rng.usize(..2)].into(),
                },
            });
        }
        let now = std::time::Instant::now();
        let state = State::restore(settings(1), now, Arc::new(NoOutlet), image).unwrap();
        assert!(state.totals().keys <= 2);
        state.tick(now + std::time::Duration::from_secs(20));
        assert_eq!(state.totals().keys, 0);
    }
}
