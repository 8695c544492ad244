//! How objects leave the index, and how long their ranges rest.

use super::cell::{Cell, Rest};
use super::shard::{Object, Shard};
use super::{State, FIRST_MOMENT};
use crate::master::journal::record::Record;
use crate::pool::lease::Micros;
use crate::pool::outcome::{Outcome, Refusal};

/// Why an object leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Removed or evicted.
    Removed,
    /// Its writer gives up.
    Revoked,
    /// Its writer is gone.
    OwnerGone,
    /// Its put took too long; the writer may still be at it.
    Discarded,
    /// A later life of the key is known.
    Superseded,
    /// No copy is left.
    SegmentLost,
}

impl State {
    /// Takes an object out of the index and gives its ranges to the quarantine. Returns its bytes,
    /// and when the last of its ranges may be used again.
    pub(super) fn drop_object(
        &self,
        now: Micros,
        shard: &mut Shard,
        slot: u32,
        end: End,
    ) -> (u64, Micros) {
        let hash = self.hash(&shard.objects.get(slot).key);
        let object = shard.remove(slot, hash);
        self.leave_group(&object);
        // What was lost with its segment may go on in the file of the same put.
        if end != End::SegmentLost || object.generation >= self.first_generation {
            self.note_gone(hash);
        }
        self.forget_file(&object);
        let table = self.table.load();
        let mut longest = now;
        for copy in &object.copies {
            if let Some(cell) = table.cell(copy.segment) {
                longest = longest.max(self.rest_until(now, &object, end, cell));
            }
        }
        // Before the ranges are given back: a put that takes one must be written down later.
        let rest = longest - now;
        self.outlet.record(&Record::Gone { generation: object.generation, rest });
        for copy in &object.copies {
            if let Some(cell) = table.cell(copy.segment) {
                let until = self.rest_until(now, &object, end, cell);
                self.give_back(now, &object, copy.piece, cell, until, end);
            }
        }
        self.outlet.room();
        (object.size, longest)
    }

    pub(super) fn give_back(
        &self,
        now: Micros,
        object: &Object,
        piece: u32,
        cell: &Cell,
        until: Micros,
        end: End,
    ) {
        let rest = Rest {
            bytes: object.size,
            until,
            generation: object.generation,
            // Of unfinished puts the holder was never told. It is told where the writer may still
            // be at it, or will be when it goes on: the holder shuts it out before it takes note.
            tell: object.complete || matches!(end, End::OwnerGone | End::Discarded),
        };
        if cell.give_back(now, piece, rest) {
            self.outlet.news(cell.holder.id);
        }
    }

    /// When a range of the object may hold another one.
    pub(super) fn rest_until(&self, now: Micros, object: &Object, end: End, cell: &Cell) -> Micros {
        let last = object.last_use();
        let mut until = if object.complete {
            last.reusable_at(self.times.lease)
        } else if end == End::Discarded {
            last.at.saturating_add(self.times.release)
        } else {
            now.saturating_add(self.times.grace)
        };
        if end == End::OwnerGone && !cell.holder.is_native() {
            // Its holder cannot shut the writer out, who may go on where it stood.
            until = until.max(last.at.saturating_add(self.times.discard));
        }
        if object.generation < self.first_generation {
            // Leases that an earlier life gave are not known any more.
            until = until.max(FIRST_MOMENT + 2 * self.times.lease);
        }
        until.max(now)
    }

    /// Whether an object may be removed.
    fn check_removable(&self, now: Micros, object: &Object, force: bool) -> Outcome<()> {
        if !force && object.complete && self.is_leased(now, object) {
            return Err(Refusal::OBJECT_HAS_LEASE);
        }
        if !object.complete {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        Ok(())
    }

    pub(super) fn remove(&self, now: Micros, key: &[u8], force: bool) -> Outcome<()> {
        let hash = self.hash(key);
        let mut shard = self.shard(self.shard_of(hash)).write();
        let Some(slot) = shard.find(hash, key) else {
            self.note_gone(hash);
            return Err(Refusal::OBJECT_NOT_FOUND);
        };
        self.check_removable(now, shard.objects.get(slot), force)?;
        self.drop_object(now, &mut shard, slot, End::Removed);
        Ok(())
    }

    pub(super) fn remove_pattern(&self, now: Micros, pattern: &[u8], force: bool) -> Outcome<i64> {
        // What is still only a file would have to be asked for its name.
        self.expect_no_files();
        let mut removed = 0;
        self.each_match(pattern, |key| {
            removed += i64::from(self.remove(now, key, force).is_ok());
            Ok(())
        })?;
        Ok(removed)
    }

    /// Leased and unfinished objects stay.
    pub(super) fn remove_all(&self, now: Micros, force: bool) -> i64 {
        self.expect_no_files();
        let mut removed = 0;
        for shard in &self.shards {
            let mut shard = shard.write();
            let slots: Vec<u32> = shard.slots().collect();
            for slot in slots {
                if self.check_removable(now, shard.objects.get(slot), force).is_ok() {
                    self.drop_object(now, &mut shard, slot, End::Removed);
                    removed += 1;
                }
            }
        }
        removed
    }
}
