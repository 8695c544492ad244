//! What holders tell after the master has lost its memory.
//!
//! A segment that was remounted takes no new object until its holder has told what it holds, so
//! nothing that is told can have been overwritten meanwhile. Where two claims meet, in the key or
//! in the range, the larger generation is right. What is not accepted is answered with news that
//! the object is gone, and its range rests until the holder has taken note. An object that was
//! removed, or lost with its holder, must not come back by the report of a holder that was away.

use std::sync::Arc;

use super::cell::{Cell, Rest, HIDDEN, REPORTING, RESTING, SETTLING};
use super::groups::Member;
use super::removal::End;
use super::shard::{Copy, Extra, Object, FILES};
use super::{counters, State, FIRST_MOMENT};
use crate::limits;
use crate::pool::identity::{ClientId, SegmentId};
use crate::pool::lease::{LastUse, Micros, Pin};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::segment::{HeldObject, SegmentEvent};

/// Overlapping ranges that are looked at; a claim that meets more is refused.
const OVERLAPS_MAX: usize = 256;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Accepted,
    Refused,
}

fn size_of(object: &HeldObject) -> Option<u64> {
    let count = object.slices.len();
    let key_is_sound = !object.key.is_empty() && object.key.len() <= limits::KEY_BYTES_MAX;
    let names_are_sound = key_is_sound && object.group.len() <= limits::KEY_BYTES_MAX;
    let sound = names_are_sound && count > 0 && count <= limits::OBJECT_SLICES_MAX;
    if !sound || object.generation == 0 || object.slices.contains(&0) {
        return None;
    }
    object.slices.iter().try_fold(0_u64, |sum, slice| sum.checked_add(*slice))
}

impl State {
    pub(super) fn report(
        &self,
        now: Micros,
        id: ClientId,
        objects: Vec<HeldObject>,
        last: bool,
    ) -> Outcome<()> {
        if objects.len() > limits::REPORT_OBJECTS_MAX {
            return Err(Refusal::INVALID_PARAMS);
        }
        let client = self.client_of(now, id)?;
        self.hear(now, &client);
        let _one_at_a_time = self.reports.lock();
        for object in objects {
            // What lies in memory of others is theirs to tell: only the holder knows that its
            // range was not given to another object since.
            let own = self.cell_of(object.segment).filter(|cell| cell.holder.id == id);
            if let Some(cell) = own {
                self.claim_or_deny(now, &cell, object);
            }
        }
        if last {
            for cell in self.cells_of(&client) {
                self.open(&cell, REPORTING);
            }
            // What the journal knows and the holder does not.
            client.inner.lock().refill = Some(0);
            self.outlet.news(id);
        }
        Ok(())
    }

    fn cell_of(&self, segment: SegmentId) -> Option<Arc<Cell>> {
        let table = self.table.load();
        let slot = table.by_id.get(&segment)?;
        table.cell(*slot).filter(|cell| !cell.has(HIDDEN)).cloned()
    }

    fn claim_or_deny(&self, now: Micros, cell: &Cell, held: HeldObject) {
        let generation = held.generation;
        let offset = held.address.checked_sub(cell.segment.base);
        let size = size_of(&held);
        if self.claim(now, cell, held) == Claim::Accepted {
            return;
        }
        let (Some(offset), Some(size)) = (offset, size) else { return };
        // The holder is told that it is wrong, and its range is kept apart until it knows.
        let piece = cell.reserve(offset, size, RESTING);
        let rest = Rest { bytes: size, until: now, generation, tell: true };
        match piece {
            Some(piece) => {
                cell.give_back(now, piece.id, rest);
            }
            None => {
                cell.holder.push_gone(SegmentEvent::Gone {
                    segment: cell.segment.id,
                    address: cell.segment.base + offset,
                    generation,
                });
            }
        }
        self.outlet.news(cell.holder.id);
    }

    fn claim(&self, now: Micros, cell: &Cell, held: HeldObject) -> Claim {
        let Some(size) = size_of(&held) else { return Claim::Refused };
        let Some(offset) = held.address.checked_sub(cell.segment.base) else {
            return Claim::Refused;
        };
        if let Some(known) = self.known_claim(cell, &held, offset) {
            return known;
        }
        // What this life numbered itself it would know; another one's number may be as large only
        // where its clock was ahead, and then the order of the two is not known.
        if held.generation >= self.first_generation || !cell.has(REPORTING | SETTLING) {
            return Claim::Refused;
        }
        cell.yield_kept(offset);
        if !self.clear_place(now, cell, offset, size, held.generation) {
            return Claim::Refused;
        }
        self.take_claim(now, cell, held, offset, size)
    }

    /// Whether the holder of the segment can know of objects that this life does not. A journal
    /// knows all that were ever told to be complete, and without one this life is as good as one
    /// once the holder was given up in it: objects of that key may have been put and removed since.
    fn may_be_unknown(&self, cell: &Cell) -> bool {
        !self.remembers && cell.since < FIRST_MOMENT.saturating_add(self.times.client_ttl)
    }

    /// The answer where the index says enough: that very copy, or a later life of the key.
    fn known_claim(&self, cell: &Cell, held: &HeldObject, offset: u64) -> Option<Claim> {
        let hash = self.hash(&held.key);
        let mut shard = self.shard(self.shard_of(hash)).write();
        let unknown = if self.may_be_unknown(cell) { None } else { Some(Claim::Refused) };
        let Some(slot) = shard.find(hash, &held.key) else { return unknown };
        let object = shard.objects.get_mut(slot);
        if object.generation > held.generation {
            return Some(Claim::Refused);
        }
        if object.generation < held.generation {
            return unknown;
        }
        let copy = object.copy_in(cell.slot)?;
        if u64::from(copy.granule) << cell.granule_bits != offset {
            return Some(Claim::Refused);
        }
        if object.slices() != held.slices {
            return Some(Claim::Refused);
        }
        Some(Claim::Accepted)
    }

    /// Makes a place free of copies with a smaller generation; false where it cannot be.
    fn clear_place(
        &self,
        now: Micros,
        cell: &Cell,
        offset: u64,
        size: u64,
        generation: u64,
    ) -> bool {
        let overlaps =
            cell.with_room(|room| room.allocator.overlaps(offset, size, OVERLAPS_MAX + 1));
        if overlaps.len() > OVERLAPS_MAX {
            return false;
        }
        let mut losers = Vec::new();
        for span in overlaps {
            let Some(tag) = span.tag.filter(|tag| *tag != RESTING) else { return false };
            let (number, slot) = self.place_of(tag);
            let Some(shard) = self.shards.get(number as usize) else { return false };
            let shard = shard.read();
            let Some(object) = shard.objects.try_get(slot) else { return false };
            let is_it = object.copy_in(cell.slot).is_some_and(|copy| copy.piece == span.id);
            if !is_it || object.generation >= generation {
                return false;
            }
            losers.push((number, slot, object.generation));
        }
        for (number, slot, loser) in losers {
            let mut shard = self.shard(number).write();
            if shard.alive(slot, loser).is_none() {
                return false;
            }
            let Some(copy) = shard.drop_copy(slot, cell.slot) else { return false };
            let bytes = shard.objects.get(slot).size;
            // Overwritten already: there is nothing that a rest would protect.
            let rest = Rest { bytes, until: now, generation: loser, tell: false };
            cell.give_back(now, copy.piece, rest);
            cell.holder.push_gone(SegmentEvent::Gone {
                segment: cell.segment.id,
                address: cell.address(copy.granule),
                generation: loser,
            });
            if shard.objects.get(slot).is_void() {
                self.drop_object(now, &mut shard, slot, End::Superseded);
            } else {
                let object = shard.objects.get(slot);
                self.record_put(now, &self.table.load(), object, None);
            }
        }
        true
    }

    fn take_claim(
        &self,
        now: Micros,
        cell: &Cell,
        held: HeldObject,
        offset: u64,
        size: u64,
    ) -> Claim {
        let hash = self.hash(&held.key);
        let number = self.shard_of(hash);
        let mut shard = self.shard(number).write();
        let table = self.table.load();
        let mut known = shard.find(hash, &held.key);
        if let Some(slot) = known {
            let generation = shard.objects.get(slot).generation;
            if generation > held.generation {
                return Claim::Refused;
            }
            if generation < held.generation {
                self.drop_object(now, &mut shard, slot, End::Superseded);
                known = None;
            } else if shard.objects.get(slot).slices() != held.slices {
                // A file knows its length only.
                let object = shard.objects.get_mut(slot);
                let is_only_file = object.copies.iter().all(|copy| copy.segment == FILES);
                if !is_only_file || object.size != size {
                    return Claim::Refused;
                }
                let group = object.group().cloned();
                object.extra = Extra::of(held.slices.clone(), group);
            }
        }
        let fresh = known.is_none();
        let Some(slot) = known.or_else(|| shard.vacant()) else { return Claim::Refused };
        let Some(piece) = cell.reserve(offset, size, self.tag(number, slot)) else {
            if fresh {
                shard.forget(slot);
            }
            return Claim::Refused;
        };
        let granule = (offset >> cell.granule_bits) as u32;
        let copy = Copy { segment: cell.slot, piece: piece.id, granule, ..Copy::default() };
        // What is known has its group, but where only its file told of it or an older holder.
        let is_alone = fresh || shard.objects.get(slot).group().is_none();
        let member = Member { shard: number, slot, generation: held.generation };
        let group = if is_alone { self.join_group(&held.group, member) } else { None };
        if fresh {
            let mut object = Object {
                key: held.key.into_boxed_slice(),
                generation: held.generation,
                size,
                extra: Extra::of(held.slices, group),
                complete: true,
                ..Object::default()
            };
            object.copies.push(copy);
            object.set_last_use(LastUse { at: now, granted: false });
            if held.soft_pin {
                let until = now.saturating_add(self.times.soft_pin);
                object.set_pin(Pin::SoftExtended(until));
            }
            self.record_put(now, &table, &object, None);
            shard.insert(slot, hash, object, now);
            counters::add(&self.counters.reported_objects, 1);
        } else {
            shard.add_copy(slot, copy);
            if group.is_some() {
                let object = shard.objects.get_mut(slot);
                object.extra = Extra::of(object.slices().to_vec(), group);
            }
            // Its holder knows it as complete.
            if !shard.objects.get(slot).complete {
                shard.objects.get_mut(slot).complete = true;
                shard.renew(slot, now);
            }
            self.record_put(now, &table, shard.objects.get(slot), None);
        }
        Claim::Accepted
    }
}
