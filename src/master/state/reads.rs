//! Calls that look objects up, and give leases by it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::cell::HIDDEN;
use super::groups::Group;
use super::segments::Table;
use super::shard::{Approach, Object, Shard, FILES};
use super::State;
use crate::limits;
use crate::pool::lease::Micros;
use crate::pool::object::Key;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{BufferRange, Located, Place, Replica, ReplicaStatus};

/// What of an object is needed to say where it is, taken under the lock.
pub(super) struct Sight {
    pub(super) generation: u64,
    complete: bool,
    size: u64,
    /// Lengths of the slices, where there are several.
    slices: Option<Vec<u64>>,
    /// Slot of the segment and first granule of each copy.
    copies: SmallVec<[(u32, u32); 4]>,
    /// Path of the file, and whether it is written.
    file: Option<(String, bool)>,
}

impl State {
    pub(super) fn sight(&self, object: &Object) -> Sight {
        let memory = object.copies.iter().filter(|copy| copy.segment != FILES);
        Sight {
            generation: object.generation,
            complete: object.complete,
            size: object.size,
            slices: (object.slices().len() > 1).then(|| object.slices().to_vec()),
            copies: memory.map(|copy| (copy.segment, copy.granule)).collect(),
            file: object.file().map(|written| (self.file_path(object), written)),
        }
    }
}

/// Whether a copy of the object can be reached.
pub(super) fn is_visible(table: &Table, object: &Object) -> bool {
    let is_shown = |slot: u32| table.cell(slot).is_some_and(|cell| !cell.has(HIDDEN));
    object.file() == Some(true) || object.copies.iter().any(|copy| is_shown(copy.segment))
}

/// Keys whose memory is asked for together: about as many misses as a processor has under way.
const GROUP: usize = 16;
/// Below so many objects in a shard all of it is in the caches, and asking would only cost.
const NEAR_OBJECTS: usize = 1024;

impl State {
    /// Calls `look` for every key with its hash. Before, it asks for the memory that this will
    /// touch, of a group of keys at a time, so that their cache misses overlap instead of adding
    /// up.
    pub(super) fn each_near<T>(
        &self,
        keys: &[Key],
        mut look: impl FnMut(u64, &[u8]) -> T,
    ) -> Vec<T> {
        let mut results = Vec::with_capacity(keys.len());
        for group in keys.chunks(GROUP) {
            let hashes: SmallVec<[u64; GROUP]> = group.iter().map(|key| self.hash(key)).collect();
            for step in [Approach::Entry, Approach::Object, Approach::Around] {
                if !self.approach(&hashes, step) {
                    break;
                }
            }
            results.extend(hashes.iter().zip(group).map(|(hash, key)| look(*hash, key)));
        }
        results
    }

    /// False if it is not worth while. A shard that is in use just now is left out: this is a hint.
    fn approach(&self, hashes: &[u64], step: Approach) -> bool {
        let mut is_large = hashes.len() > 1;
        for hash in hashes {
            if !is_large {
                break;
            }
            if let Some(shard) = self.shard(self.shard_of(*hash)).try_lock() {
                is_large = shard.len() > NEAR_OBJECTS;
                shard.approach(*hash, step);
            }
        }
        is_large
    }

    /// Whether the object is complete; grants a lease if it is.
    pub(super) fn exists(&self, now: Micros, key: &[u8]) -> bool {
        self.exists_at(now, self.hash(key), key)
    }

    /// The same with the key's hash.
    pub(super) fn exists_at(&self, now: Micros, hash: u64, key: &[u8]) -> bool {
        let mut shard = self.shard(self.shard_of(hash)).lock();
        let Some(slot) = shard.find_to_use(hash, key) else { return false };
        let object = shard.objects.get(slot);
        if !object.complete || !is_visible(&self.table.load(), object) {
            return false;
        }
        let group = self.grant(&mut shard, slot, now);
        drop(shard);
        if let Some(group) = group {
            self.order_group(now, &group);
        }
        true
    }

    /// Where the object is; grants a lease.
    pub(super) fn lookup(&self, now: Micros, key: &[u8]) -> Outcome<Located> {
        self.lookup_at(now, self.hash(key), key)
    }

    /// The same with the key's hash.
    pub(super) fn lookup_at(&self, now: Micros, hash: u64, key: &[u8]) -> Outcome<Located> {
        let mut shard = self.shard(self.shard_of(hash)).lock();
        let slot = shard.find_to_use(hash, key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        let object = shard.objects.get(slot);
        let table = self.table.load();
        if !is_visible(&table, object) {
            return Err(Refusal::OBJECT_NOT_FOUND);
        }
        if !object.complete {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        let sight = self.sight(object);
        let group = self.grant(&mut shard, slot, now);
        drop(shard);
        if let Some(group) = group {
            self.order_group(now, &group);
        }
        let replicas = self.replicas(&table, &sight);
        if replicas.is_empty() {
            return Err(Refusal::OBJECT_NOT_FOUND);
        }
        let lease_ttl_ms = self.times.lease / 1000;
        Ok(Located { replicas, lease_ttl_ms, generation: sight.generation })
    }

    /// Where the object is, without a lease: for people who look, not for readers.
    pub fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        let hash = self.hash(key);
        let shard = self.shard(self.shard_of(hash)).lock();
        let slot = shard.find(hash, key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        let object = shard.objects.get(slot);
        let table = self.table.load();
        if !is_visible(&table, object) {
            return Err(Refusal::OBJECT_NOT_FOUND);
        }
        if !object.complete {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        let sight = self.sight(object);
        drop(shard);
        Ok(self.replicas(&table, &sight))
    }

    /// Gives a lease; the object's group where its other members are to be put in order, which
    /// needs the locks of other shards.
    fn grant(&self, shard: &mut Shard, slot: u32, now: Micros) -> Option<Arc<Group>> {
        let object = shard.objects.get_mut(slot);
        let mut last = object.last_use();
        last.grant(now);
        object.set_last_use(last);
        let mut pin = object.pin();
        pin.grant(now, self.times.soft_pin);
        object.set_pin(pin);
        let group = self.grant_group(object, now);
        shard.renew(slot, now);
        group
    }

    /// The copies of an object that can be reached.
    pub(super) fn replicas(&self, table: &Table, sight: &Sight) -> Vec<Replica> {
        let slices = match &sight.slices {
            Some(slices) => slices.as_slice(),
            None => std::slice::from_ref(&sight.size),
        };
        let first_id = sight.generation.wrapping_sub(self.first_generation).wrapping_mul(64);
        let mut replicas = Vec::with_capacity(sight.copies.len() + 1);
        for (index, (slot, granule)) in sight.copies.iter().enumerate() {
            let Some(cell) = table.cell(*slot).filter(|cell| !cell.has(HIDDEN)) else { continue };
            let mut address = cell.address(*granule);
            let mut ranges = Vec::with_capacity(slices.len());
            for size in slices {
                ranges.push(BufferRange {
                    size: *size,
                    address,
                    protocol: cell.segment.protocol.clone(),
                    endpoint: cell.segment.endpoint.clone(),
                });
                address += size;
            }
            replicas.push(Replica {
                id: first_id.wrapping_add(index as u64 + 1),
                place: Place::Memory(ranges),
                status: match sight.complete {
                    true => ReplicaStatus::Complete,
                    false => ReplicaStatus::Processing,
                },
            });
        }
        // Readers are told of a file once it is written, the writer while it is not.
        if let Some((path, _)) = sight.file.as_ref().filter(|(_, w)| *w == sight.complete) {
            replicas.push(Replica {
                id: first_id.wrapping_add(sight.copies.len() as u64 + 1),
                place: Place::Disk { path: path.clone(), size: sight.size },
                status: match sight.complete {
                    true => ReplicaStatus::Complete,
                    false => ReplicaStatus::Processing,
                },
            });
        }
        replicas
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
