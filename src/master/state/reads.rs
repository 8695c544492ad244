//! Calls that look objects up, and give leases by it.
//!
//! The keys of a batch are looked at in groups. A group takes the locks of its shards once, asks
//! for the memory of all its keys, so that their cache misses overlap instead of adding up, and
//! reads the table of segments once. Lookers share these locks. A group only ever tries to take a
//! second one; keys whose shard somebody changes come after, one by one, when it holds none.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;

use super::cell::HIDDEN;
use super::counters::Operation;
use super::segments::Table;
use super::shard::{Approach, Object, Shard};
use super::sights::{Sight, Sighted};
use super::State;
use crate::limits;
use crate::pool::lease::Micros;
use crate::pool::object::Key;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Located, LocatedView, Replica};
use crate::rpc::look::{is_batched, Look, Seen, Sights};
use crate::rpc::message::Method;

/// Whether a copy of the object can be reached.
pub(super) fn is_visible(table: &Table, object: &Object) -> bool {
    let is_shown = |slot: u32| table.cell(slot).is_some_and(|cell| !cell.has(HIDDEN));
    object.file() == Some(true) || object.copies.iter().any(|copy| is_shown(copy.segment))
}

/// Keys whose memory is asked for together: about as many misses as a processor has under way.
const GROUP: usize = 16;
/// More than there usually are shards; a mark that is lost costs only time.
const MARKS: usize = 64;
/// Below so many objects in all shards all of them are in the caches, and asking would only cost.
const NEAR_OBJECTS: usize = 65_536;

/// Which of the keys is looked at, and where: its slot if there is such an object.
struct Found<'f> {
    at: usize,
    slot: Option<u32>,
    shard: &'f Shard,
    /// Read under the same hold of the shard's lock.
    table: &'f Arc<Table>,
}

impl State {
    /// Calls `look` once for every key, in any order, under the lock of its shard.
    fn each_near<K: AsRef<[u8]>>(&self, keys: &[K], mut look: impl FnMut(Found<'_>)) {
        for (number, group) in keys.chunks(GROUP).enumerate() {
            let first = number * GROUP;
            let hashes: SmallVec<[u64; GROUP]> =
                group.iter().map(|key| self.hash(key.as_ref())).collect();
            let mut late = SmallVec::<[usize; GROUP]>::new();
            if group.len() > 1 {
                self.look_together(group, &hashes, &mut late, first, &mut look);
            } else {
                late.push(0);
            }
            for at in late {
                let hash = hashes[at];
                let shard = self.shard(self.shard_of(hash)).read();
                let slot = shard.find(hash, group[at].as_ref());
                let table = self.table.load();
                look(Found { at: first + at, slot, shard: &shard, table: &table });
            }
        }
    }

    /// Looks at the keys of a group whose shards are not in use, and says which are left.
    fn look_together<K: AsRef<[u8]>>(
        &self,
        group: &[K],
        hashes: &[u64],
        late: &mut SmallVec<[usize; GROUP]>,
        first: usize,
        look: &mut impl FnMut(Found<'_>),
    ) {
        let mut held: SmallVec<[(u32, RwLockReadGuard<'_, Shard>); GROUP]> = SmallVec::new();
        // The key, and which of the held shards is its own.
        let mut places: SmallVec<[(usize, usize); GROUP]> = SmallVec::new();
        // Where the shards are, by some bits of their numbers.
        let mut marks = [u8::MAX; MARKS];
        for (at, hash) in hashes.iter().enumerate() {
            let number = self.shard_of(*hash);
            let mark = &mut marks[number as usize % MARKS];
            let is_it = |place: usize| held.get(place).is_some_and(|(other, _)| *other == number);
            if is_it((*mark).into()) {
                places.push((at, (*mark).into()));
            } else if let Some(shard) = self.shard(number).try_read() {
                *mark = held.len() as u8;
                places.push((at, held.len()));
                held.push((number, shard));
            } else {
                // In use, also where another key has taken it and lost its mark.
                late.push(at);
            }
        }
        // Keys are spread evenly.
        let near = NEAR_OBJECTS / self.shards.len();
        if held.first().is_some_and(|(_, shard)| shard.len() > near) {
            for step in [Approach::Entry, Approach::Object, Approach::Key] {
                for (at, place) in &places {
                    held[*place].1.approach(hashes[*at], step);
                }
            }
        }
        let table = self.table.load();
        for (at, place) in places {
            let shard = &*held[place].1;
            let slot = shard.find(hashes[at], group[at].as_ref());
            look(Found { at: first + at, slot, shard, table: &table });
        }
    }

    /// Carries out a call that only looks keys up; `show` gets what was seen, with no lock held.
    pub fn look<T>(&self, now: Instant, look: &Look<'_>, show: impl FnOnce(&Seen<'_>) -> T) -> T {
        let at = self.micros(now);
        let items = is_batched(look.method).then_some(look.keys.len() as u64);
        match look.method {
            Method::Lookup | Method::BatchLookup => {
                let operation = match items {
                    Some(_) => Operation::BatchGetReplicaList,
                    None => Operation::GetReplicaList,
                };
                let sighted = self.sight_each(at, &look.keys);
                self.counters.count_items(operation, sighted.failed() as u64, items);
                show(&Seen::Located(&sighted))
            }
            _ => {
                let operation = match items {
                    Some(_) => Operation::BatchExistKey,
                    None => Operation::ExistKey,
                };
                let found = self.exist_each(at, &look.keys);
                self.counters.count_items(operation, 0, items);
                show(&Seen::Exists(&found))
            }
        }
    }

    /// Which of the objects are complete; grants leases on these.
    pub(super) fn exist_each<K: AsRef<[u8]>>(
        &self,
        now: Micros,
        keys: &[K],
    ) -> SmallVec<[bool; 64]> {
        let mut exist = SmallVec::from_elem(false, keys.len());
        self.each_near(keys, |found| {
            let Found { at, slot: Some(slot), shard, table } = found else { return };
            let object = shard.objects.get(slot);
            if object.complete && is_visible(table, object) {
                object.grant(now, self.times.soft_pin);
                exist[at] = true;
            }
        });
        exist
    }

    /// Where the objects are; grants leases.
    pub(super) fn sight_each<K: AsRef<[u8]>>(&self, now: Micros, keys: &[K]) -> Sighted {
        let lease_ttl_ms = self.times.lease / 1000;
        let mut sighted = Sighted::new(keys.len(), lease_ttl_ms, self.first_generation);
        self.each_near(keys, |found| {
            let Found { at, slot: Some(slot), shard, table } = found else { return };
            let object = shard.objects.get(slot);
            let sight = self.look_at(table, object);
            if sight.is_ok() {
                object.grant(now, self.times.soft_pin);
            }
            sighted.put(at, table, sight);
        });
        sighted
    }

    /// Where an object is that can be read.
    fn look_at(&self, table: &Table, object: &Object) -> Outcome<Sight> {
        if !is_visible(table, object) {
            return Err(Refusal::OBJECT_NOT_FOUND);
        }
        if !object.complete {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        Ok(self.sight(table, object))
    }

    /// Whether the object is complete; grants a lease if it is.
    pub(super) fn exists(&self, now: Micros, key: &[u8]) -> bool {
        self.exist_each(now, &[key]).contains(&true)
    }

    /// Where the object is; grants a lease.
    pub(super) fn lookup(&self, now: Micros, key: &[u8]) -> Outcome<Located> {
        self.sight_each(now, &[key]).sight(0).map(|located| located.to_located())
    }

    /// The same for many.
    pub(super) fn lookup_each(&self, now: Micros, keys: &[Key]) -> Vec<Outcome<Located>> {
        let sighted = self.sight_each(now, keys);
        let one = |at| sighted.sight(at).as_ref().map(LocatedView::to_located).map_err(|r| *r);
        (0..keys.len()).map(one).collect()
    }

    /// Where the object is, without a lease: for people who look, not for readers.
    pub fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        let hash = self.hash(key);
        let shard = self.shard(self.shard_of(hash)).read();
        let slot = shard.find(hash, key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        let table = self.table.load();
        let sight = self.look_at(&table, shard.objects.get(slot))?;
        drop(shard);
        Ok(self.replicas(&table, &sight))
    }

    /// All complete objects in whose key the pattern is found; grants leases.
    pub(super) fn lookup_pattern(
        &self,
        now: Micros,
        pattern: &[u8],
    ) -> Outcome<Vec<(Key, Vec<Replica>)>> {
        let mut found = Vec::new();
        self.each_match(pattern, |key| {
            if let Ok(located) = self.lookup(now, key) {
                found.push((key.to_vec(), located.replicas));
            }
            if found.len() > limits::PATTERN_MATCHES_MAX {
                return Err(Refusal::BUFFER_OVERFLOW);
            }
            Ok(())
        })?;
        Ok(found)
    }
}
