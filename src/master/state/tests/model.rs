//! The whole index against a naive model: random calls of several clients, a moving clock.
//!
//! The model knows no shards, lists or allocator: a map of objects and a list of resting ranges.
//! It does not choose places nor victims of eviction; those it takes from the state and checks
//! that they were allowed: no range overlaps a live or a resting one, nothing leased or pinned
//! hard is evicted. Everything else it foretells.

use std::collections::{BTreeMap, HashMap};

use super::{client, segment, Bench, MIB};
use crate::master::state::{Settings, Step};
use crate::pool::identity::ClientId;
use crate::pool::object::{PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Place, Replica, ReplicaKind};
use crate::pool::segment::SegmentEvent;
use crate::rpc::message::{Call, Granted, Reply};

const LEASE: u64 = 5_000;
const GRACE: u64 = 5_000;
const DISCARD: u64 = 30_000;
const RELEASE: u64 = 600_000;
const SEGMENT: u64 = MIB;
/// Clients 0 and 1 attend; 2 and 3 speak upstream's dialect.
const CLIENTS: u64 = 4;

#[derive(Clone, Debug)]
struct Object {
    generation: u64,
    size: u64,
    slices: Vec<u64>,
    /// First address of each copy.
    copies: Vec<u64>,
    owner: Option<ClientId>,
    complete: bool,
    at: u64,
    granted: bool,
    soft: bool,
    hard: bool,
}

#[derive(Debug)]
struct Resting {
    start: u64,
    end: u64,
    until: u64,
    generation: u64,
    /// The holder must acknowledge.
    owed: bool,
}

#[derive(Default)]
struct Model {
    now: u64,
    objects: BTreeMap<Vec<u8>, Object>,
    resting: Vec<Resting>,
    /// What each holder knows: by address and generation; and the last number it may acknowledge.
    held: HashMap<(u64, u64), Vec<u8>>,
    told: HashMap<ClientId, (u64, Vec<u64>)>,
}

fn holder(address: u64) -> u64 {
    (address >> 42) - 1
}

fn rounded(size: u64) -> u64 {
    size.div_ceil(64) * 64
}

impl Object {
    fn is_leased(&self, now: u64) -> bool {
        self.complete && self.granted && self.at + LEASE > now
    }
}

impl Model {
    /// The object leaves; its ranges rest.
    fn drop(&mut self, key: &[u8], unfinished_until: u64) {
        let object = self.objects.remove(key).unwrap();
        for start in &object.copies {
            let native = holder(*start) < 2;
            let mut until = unfinished_until.max(self.now);
            if object.complete {
                until = if object.granted { object.at + 2 * LEASE } else { 0 };
            }
            self.resting.push(Resting {
                start: *start,
                end: start + rounded(object.size),
                until,
                generation: object.generation,
                owed: native && object.complete,
            });
        }
    }

    /// Evictions that the state says it made.
    fn evicted(&mut self, generation: u64, seed: u64) {
        let found = self.objects.iter().find(|(_, object)| object.generation == generation);
        let Some((key, object)) = found else { return };
        assert!(object.complete, "seed {seed}: an unfinished object was evicted");
        assert!(!object.hard, "seed {seed}: a pinned object was evicted");
        assert!(!object.is_leased(self.now), "seed {seed}: a leased object was evicted");
        let key = key.clone();
        self.drop(&key, 0);
    }

    fn settle(&mut self) {
        let now = self.now;
        self.resting.retain(|resting| resting.owed || resting.until > now);
    }

    fn check_range(&self, start: u64, size: u64, seed: u64) {
        let end = start + rounded(size);
        for object in self.objects.values() {
            for other in &object.copies {
                let apart = end <= *other || other + rounded(object.size) <= start;
                assert!(apart, "seed {seed}: a live range was given away: {object:?}");
            }
        }
        for resting in &self.resting {
            let apart = end <= resting.start || resting.end <= start;
            let over = !resting.owed && resting.until <= self.now;
            assert!(apart || over, "seed {seed} at {}: {resting:?}", self.now);
        }
        let inside = (holder(start) + 1) << 42;
        assert!(holder(start) < CLIENTS && end <= inside + SEGMENT);
    }

    /// The longest run in the open that is certainly free.
    fn largest_hole(&self) -> u64 {
        let mut largest = 0;
        for number in 0..CLIENTS {
            let base = (number + 1) << 42;
            let live = self.objects.values().flat_map(|object| {
                object.copies.iter().map(|start| (*start, start + rounded(object.size)))
            });
            let resting = self.resting.iter().map(|resting| (resting.start, resting.end));
            let mut taken: Vec<(u64, u64)> =
                live.chain(resting).filter(|(start, _)| holder(*start) == number).collect();
            taken.sort_unstable();
            let mut end = base;
            for (start, stop) in taken {
                largest = largest.max(start.saturating_sub(end));
                end = end.max(stop);
            }
            largest = largest.max(base + SEGMENT - end);
        }
        largest
    }

    fn lookup(&mut self, key: &[u8]) -> Outcome<Object> {
        let object = self.objects.get_mut(key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        if !object.complete {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        object.at = self.now;
        object.granted = true;
        Ok(object.clone())
    }

    fn end_check(&self, key: &[u8], owner: Option<ClientId>) -> Outcome<()> {
        let object = self.objects.get(key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        // A complete object of nobody may be ended by all.
        let is_open = object.owner.is_none() && object.complete;
        if !is_open && object.owner != owner {
            return Err(Refusal::ILLEGAL_CLIENT);
        }
        Ok(())
    }

    fn removable(&self, key: &[u8]) -> Outcome<()> {
        let object = self.objects.get(key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        if object.is_leased(self.now) {
            return Err(Refusal::OBJECT_HAS_LEASE);
        }
        if !object.complete {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        Ok(())
    }

    /// Whether the key can be put, apart from room; drops a put that is too old.
    fn way(&mut self, key: &[u8], owner: Option<ClientId>) -> Outcome<()> {
        let Some(object) = self.objects.get(key) else { return Ok(()) };
        if object.complete {
            return Err(Refusal::OBJECT_ALREADY_EXISTS);
        }
        let limit = if object.owner.is_none() { DISCARD } else { RELEASE };
        if self.now >= object.at + limit {
            let until = object.at + RELEASE;
            self.drop(key, until);
            return Ok(());
        }
        Err(match owner {
            None => Refusal::OBJECT_ALREADY_EXISTS,
            Some(_) => Refusal::REPLICA_IS_NOT_READY,
        })
    }
}

fn ranges(replica: &Replica) -> (u64, Vec<u64>) {
    let Place::Memory(ranges) = &replica.place else { panic!("{replica:?}") };
    let mut end = ranges[0].address;
    for range in ranges {
        assert_eq!(range.address, end);
        end += range.size;
    }
    (ranges[0].address, ranges.iter().map(|range| range.size).collect())
}

struct Run {
    seed: u64,
    rng: fastrand::Rng,
    bench: Bench,
    model: Model,
    keys: u64,
    refused_puts: u32,
    good_puts: u32,
}

impl Run {
    fn new(seed: u64, tight: bool) -> Run {
        let settings = Settings {
            seed: u128::from(seed) << 64 | u128::from(seed),
            shards: 1 << (seed % 5),
            eviction_high_watermark: if tight { 0.9 } else { 1.0 },
            eviction_ratio: 0.02,
            ..Settings::default()
        };
        let bench = Bench::new(settings);
        for number in 0..CLIENTS {
            bench.mount(number, SEGMENT).unwrap();
            if number < 2 {
                bench.attend(client(number), 0);
            }
            bench.done(Call::Remount(vec![segment(number, SEGMENT)], client(number))).unwrap();
        }
        let rng = fastrand::Rng::with_seed(seed);
        let keys = if tight { 400 } else { 40 };
        let model = Model::default();
        Run { seed, rng, bench, model, keys, refused_puts: 0, good_puts: 0 }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key{}", self.rng.u64(..self.keys)).into_bytes()
    }

    fn owner(&mut self) -> Option<ClientId> {
        self.rng.bool().then(|| client(self.rng.u64(..2)))
    }

    /// Time passes; nobody is silent for long.
    fn pass(&mut self) {
        let total = match self.rng.u32(..20) {
            0 => self.rng.u64(..40_000),
            1..=4 => self.rng.u64(..3_000),
            _ => self.rng.u64(..20),
        };
        let mut left = total;
        while left > 0 {
            let step = left.min(1_000);
            left -= step;
            self.bench.pass(step);
            self.model.now += step;
            for number in 0..CLIENTS {
                self.bench.ping(client(number));
            }
            if left > 0 {
                self.attend(0);
                self.attend(1);
                self.tick();
            }
        }
    }

    fn tick(&mut self) {
        // What the state drops by its age.
        let old: Vec<(Vec<u8>, u64)> = self
            .model
            .objects
            .iter()
            .filter(|(_, o)| !o.complete && self.model.now >= o.at + RELEASE)
            .map(|(key, object)| (key.clone(), object.at + RELEASE))
            .collect();
        self.bench.tick();
        for (key, until) in old {
            // It looks every 100 ms only.
            let generation = self.model.objects[&key].generation;
            if self.bench.recorder.gone.lock().contains(&generation) {
                self.model.drop(&key, until);
            }
        }
        self.take_evictions();
    }

    fn take_evictions(&mut self) {
        let gone = std::mem::take(&mut *self.bench.recorder.gone.lock());
        for generation in gone {
            self.model.evicted(generation, self.seed);
        }
        self.model.settle();
    }

    fn attend(&mut self, number: u64) {
        let id = client(number);
        let (last, acknowledged) = self.model.told.remove(&id).unwrap_or_default();
        for resting in &mut self.model.resting {
            if acknowledged.contains(&resting.generation) && holder(resting.start) == number {
                resting.owed = false;
            }
        }
        self.model.settle();
        let events = self.bench.attend(id, last);
        let mut gone = Vec::new();
        for event in &events.events {
            match event {
                SegmentEvent::Completed(held) => {
                    assert_eq!(holder(held.address), number);
                    self.model.held.insert((held.address, held.generation), held.key.clone());
                }
                SegmentEvent::Gone { address, generation, .. } => {
                    assert_eq!(holder(*address), number);
                    self.model.held.remove(&(*address, *generation));
                    gone.push(*generation);
                }
            }
        }
        self.model.told.insert(id, (events.last, gone));
    }

    fn put(&mut self) {
        let (key, owner) = (self.key(), self.owner());
        let spread = if self.keys > 100 { 8192_f64 } else { 1024.0 };
        let size = (64.0 * spread.powf(self.rng.f64())) as u64 + self.rng.u64(..64);
        let slices = match self.rng.u32(..4) {
            0 => vec![size, self.rng.u64(1..1000)],
            1 if self.rng.u32(..50) == 0 => vec![size, 0],
            _ => vec![size],
        };
        let options = PutOptions {
            replica_num: self.rng.u64(..4),
            soft_pin: self.rng.u32(..10) == 0,
            hard_pin: self.rng.u32(..100) == 0,
            ..PutOptions::default()
        };
        let item = PutItem::new(key.clone(), slices.clone());
        let call = Call::PutStart(owner, item, options.clone());
        let expected = if slices.contains(&0) || options.replica_num == 0 {
            Err(Refusal::INVALID_PARAMS)
        } else {
            self.model.way(&key, owner)
        };
        let reply = match self.bench.step(call) {
            Step::Reply(reply) => reply,
            Step::Later(waiting) => {
                // As the service does: ranges whose rest is over come back at the next tick.
                self.tick();
                match self.bench.state.resume(self.bench.now, waiting) {
                    Step::Reply(reply) => reply,
                    Step::Later(waiting) => self.bench.state.give_up(waiting),
                }
            }
        };
        self.take_evictions();
        let Reply::Granted(outcome) = reply else { panic!("{reply:?}") };
        let size: u64 = slices.iter().sum();
        match (expected, outcome) {
            (Err(expected), outcome) => assert_eq!(outcome.unwrap_err(), expected),
            (Ok(()), Err(why)) => {
                assert_eq!(why, Refusal::NO_AVAILABLE_HANDLE, "seed {}", self.seed);
                self.refused_puts += 1;
                let hole = self.model.largest_hole() as f64;
                let needed = rounded(size) as f64 * 1.07 + 64.0;
                let segments = self.bench.state.segments();
                assert!(hole < needed, "seed {}: {size} into {hole}: {segments:?}", self.seed);
            }
            (Ok(()), Ok(granted)) => self.granted(key, owner, slices, &options, granted),
        }
    }

    fn granted(
        &mut self,
        key: Vec<u8>,
        owner: Option<ClientId>,
        slices: Vec<u64>,
        options: &PutOptions,
        granted: Granted,
    ) {
        self.good_puts += 1;
        let size = slices.iter().sum();
        let mut copies = Vec::new();
        for replica in &granted.replicas {
            let (start, found) = ranges(replica);
            assert_eq!(found, slices);
            self.model.check_range(start, size, self.seed);
            assert!(copies.iter().all(|other| holder(*other) != holder(start)));
            copies.push(start);
        }
        assert!(!copies.is_empty() && copies.len() as u64 <= options.replica_num);
        let object = Object {
            generation: granted.generation,
            size,
            slices,
            copies,
            owner,
            complete: false,
            at: self.model.now,
            granted: false,
            soft: options.soft_pin && !options.hard_pin,
            hard: options.hard_pin,
        };
        self.model.objects.insert(key, object);
    }

    fn end_or_revoke(&mut self) {
        let unfinished: Vec<Vec<u8>> = self
            .model
            .objects
            .iter()
            .filter(|(_, object)| !object.complete)
            .map(|(key, _)| key.clone())
            .collect();
        let key = match unfinished.is_empty() || self.rng.u32(..5) == 0 {
            true => self.key(),
            false => unfinished[self.rng.usize(..unfinished.len())].clone(),
        };
        let own = self.model.objects.get(&key).and_then(|object| object.owner);
        let owner = if self.rng.u32(..5) == 0 { self.owner() } else { own };
        let expected = self.model.end_check(&key, owner);
        if self.rng.u32(..6) > 0 {
            assert_eq!(self.bench.end(owner, &key), expected, "seed {}", self.seed);
            if expected.is_ok() {
                let object = self.model.objects.get_mut(&key).unwrap();
                if !object.complete {
                    object.complete = true;
                    object.at = self.model.now;
                }
            }
            return;
        }
        let complete = self.model.objects.get(&key).is_some_and(|object| object.complete);
        let expected = match expected {
            Ok(()) if complete => Err(Refusal::INVALID_WRITE),
            other => other,
        };
        let call = Call::PutRevoke(owner, key.clone(), ReplicaKind::Memory, 0);
        assert_eq!(self.bench.done(call), expected, "seed {}", self.seed);
        if expected.is_ok() {
            let until = self.model.now + GRACE;
            self.model.drop(&key, until);
        }
    }

    fn read(&mut self) {
        let key = self.key();
        let expected = self.model.lookup(&key);
        if self.rng.bool() {
            assert_eq!(self.bench.exists(&key), expected.is_ok());
            return;
        }
        match (self.bench.lookup(&key), expected) {
            (Ok(located), Ok(object)) => {
                assert_eq!(located.generation, object.generation);
                let found: Vec<u64> = located.replicas.iter().map(|r| ranges(r).0).collect();
                assert_eq!(found, object.copies);
                assert_eq!(ranges(&located.replicas[0]).1, object.slices);
            }
            (found, expected) => assert_eq!(found.unwrap_err(), expected.unwrap_err()),
        }
    }

    fn remove(&mut self) {
        let removable = |model: &Model, prefix: &[u8]| -> Vec<Vec<u8>> {
            let keys = model.objects.keys().filter(|key| key.starts_with(prefix));
            keys.filter(|key| model.removable(key).is_ok()).cloned().collect()
        };
        match self.rng.u32(..60) {
            0 => {
                let gone = removable(&self.model, b"");
                let reply = self.bench.call(Call::RemoveAll { force: false });
                assert_eq!(reply, Reply::RemovedAll(gone.len() as i64));
                gone.iter().for_each(|key| self.model.drop(key, 0));
            }
            1..=3 => {
                let gone = removable(&self.model, b"key3");
                let pattern = b"^key3".to_vec();
                let reply = self.bench.call(Call::RemoveByPattern { pattern, force: false });
                assert_eq!(reply, Reply::Removed(Ok(gone.len() as i64)));
                gone.iter().for_each(|key| self.model.drop(key, 0));
            }
            _ => {
                let key = self.key();
                let expected = self.model.removable(&key);
                assert_eq!(self.bench.remove(&key), expected, "seed {}", self.seed);
                if expected.is_ok() {
                    self.model.drop(&key, 0);
                }
            }
        }
        self.bench.recorder.gone.lock().clear();
    }

    /// A client takes its memory away, and brings it again.
    fn unmount(&mut self) {
        let number = self.rng.u64(2..CLIENTS);
        let call = Call::Unmount(segment(number, SEGMENT).id, client(number));
        self.bench.done(call).unwrap();
        let lost = |start: &u64| holder(*start) == number;
        self.model.resting.retain(|resting| !lost(&resting.start));
        self.model.objects.retain(|_, object| {
            object.copies.retain(|start| !lost(start));
            !object.copies.is_empty()
        });
        self.bench.recorder.gone.lock().clear();
        self.bench.mount(number, SEGMENT).unwrap();
    }

    fn check_sums(&self) {
        let totals = self.bench.state.totals();
        let objects = self.model.objects.values();
        let used: u64 = objects.clone().map(|o| o.size * o.copies.len() as u64).sum();
        assert_eq!(totals.keys, objects.len() as u64, "seed {}", self.seed);
        assert_eq!(totals.used, used, "seed {}", self.seed);
        let soft = objects.filter(|object| object.soft).count();
        assert_eq!(totals.soft_pinned, soft as u64, "seed {}", self.seed);
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..=24 => self.put(),
            25..=49 => self.end_or_revoke(),
            50..=64 => self.read(),
            65..=72 => self.remove(),
            73..=84 => self.pass(),
            85..=89 => self.tick(),
            90 if self.rng.u32(..5) == 0 => self.unmount(),
            _ => {
                let number = self.rng.u64(..2);
                self.attend(number);
            }
        }
        // Dropped by a put that took over.
        self.take_evictions();
    }
}

#[test]
fn equals_a_naive_model() {
    let (mut good, mut refused) = (0, 0);
    for seed in 0..30 {
        let mut run = Run::new(seed, seed % 2 == 0);
        for step in 0..3_000 {
            run.step();
            if step % 10 == 0 {
                run.check_sums();
            }
        }
        // What was written down is what there is.
        let mut dumped = crate::master::journal::image::Image::default();
        run.bench.state.dump(run.bench.now, |record| dumped.apply(record.clone()));
        let written = run.bench.recorder.image.lock().clone();
        assert_eq!(dumped.segments, written.segments);
        let bare = |image: &crate::master::journal::image::Image| {
            let mut objects = image.objects.clone();
            // Pins count from the time of writing.
            objects.values_mut().for_each(|object| object.pin = Default::default());
            objects
        };
        assert_eq!(bare(&dumped), bare(&written), "seed {seed}");
        good += run.good_puts;
        refused += run.refused_puts;
    }
    println!("{good} puts granted, {refused} refused for want of room");
    assert!(good > 5_000 && refused > 10);
}
