//! The index from what an earlier life wrote down, and what is to be written down now.
//!
//! The segments are hidden until their owners mount them again: whether they are still alive, only
//! they can say. Owners that do not come within a client's time to live are gone.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use super::cell::{Cell, HIDDEN};
use super::groups::Member;
use super::shard::{Copy, Extra, Object};
use super::{Outlet, Settings, State, FIRST_MOMENT, GENERATIONS_PER_MS_BITS};
use crate::master::journal::image::{Image, KeptObject};
use crate::master::journal::record::{KeptPin, Record};
use crate::pool::identity::ClientId;
use crate::pool::lease::{LastUse, Micros, Pin};
use crate::pool::outcome::Outcome;

impl State {
    /// An index that goes on where the image ends.
    pub fn restore(
        settings: Settings,
        now: Instant,
        outlet: Arc<dyn Outlet>,
        image: Image,
    ) -> Outcome<State> {
        let first = (settings.life.max(1) << GENERATIONS_PER_MS_BITS).max(image.generation + 1);
        let mut state = State::with_generation(settings, now, outlet, first);
        // An image of nothing is no journal.
        state.remembers = image.generation > 0;
        let state = state;
        let Image { segments, objects, resting, moment, .. } = image;
        let mut order: Vec<u32> = segments.keys().copied().collect();
        order.sort_unstable();
        let mut slots = std::collections::HashMap::new();
        {
            let mut mounting = state.mounting.lock();
            for old in order {
                let Some((owner, segment)) = segments.get(&old) else { continue };
                let client = state.client_of(FIRST_MOMENT, *owner)?;
                let Some(slot) = mounting.slot() else { continue };
                let cell = Cell::new(slot, segment.clone(), client, FIRST_MOMENT, HIDDEN);
                state.add_cell(&state.table.load_full(), Arc::new(cell));
                slots.insert(old, slot);
            }
        }
        // The later put of a key, or of a range, is the right one.
        let mut objects: Vec<(u64, KeptObject)> = objects.into_iter().collect();
        objects.sort_unstable_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        for (generation, object) in objects {
            state.restore_object(generation, object, &slots)?;
        }
        let table = state.table.load_full();
        for range in resting.iter().filter(|range| range.until > moment) {
            let cell = slots.get(&range.slot).and_then(|slot| table.cell(*slot));
            if let Some(cell) = cell {
                let until = FIRST_MOMENT + (range.until - moment);
                cell.reserve_resting(range.offset, range.bytes, until);
                let rest = range.until - moment;
                let (offset, bytes) = (range.offset, range.bytes);
                state.outlet.record(&Record::Rest { slot: cell.slot, offset, bytes, rest });
            }
        }
        state.restore_order();
        Ok(state)
    }

    fn restore_object(
        &self,
        generation: u64,
        kept: KeptObject,
        slots: &std::collections::HashMap<u32, u32>,
    ) -> Outcome<()> {
        let hash = self.hash(&kept.key);
        let number = self.shard_of(hash);
        let mut shard = self.shard(number).write();
        let size: u64 = kept.slices.iter().fold(0, |sum, slice| sum.saturating_add(*slice));
        if shard.find(hash, &kept.key).is_some() || kept.key.is_empty() || size == 0 {
            return Ok(());
        }
        let owner = self.serial_of(FIRST_MOMENT, kept.owner)?;
        let table = self.table.load();
        let Some(slot) = shard.vacant() else { return Ok(()) };
        let tag = self.tag(number, slot);
        let mut object = Object {
            key: kept.key.into_boxed_slice(),
            generation,
            size,
            owner,
            complete: kept.complete,
            ..Object::default()
        };
        for (old, offset) in kept.copies {
            let cell = slots.get(&old).and_then(|slot| table.cell(*slot));
            let Some(cell) = cell else { continue };
            if let Some(piece) = cell.reserve(offset, size, tag) {
                let granule = (offset >> cell.granule_bits) as u32;
                let (segment, piece) = (cell.slot, piece.id);
                object.copies.push(Copy { segment, piece, granule, ..Copy::default() });
            }
        }
        object.copies.extend(self.restored_file(kept.file, size));
        if object.is_void() {
            self.forget_file(&object);
            shard.forget(slot);
            return Ok(());
        }
        let group = self.join_group(&kept.group, Member { shard: number, slot, generation });
        object.extra = Extra::of(kept.slices, group);
        object.set_last_use(LastUse { at: FIRST_MOMENT, granted: false });
        // While a put is unfinished, its pin holds the length.
        let base = if object.complete { FIRST_MOMENT } else { 0 };
        let until = |seconds: u32| base + u64::from(seconds) * 1_000_000;
        object.set_pin(match kept.pin {
            KeptPin::None => Pin::None,
            KeptPin::SoftExtended(seconds) => Pin::SoftExtended(until(seconds)),
            KeptPin::SoftFixed(seconds) => Pin::SoftFixed(until(seconds)),
            KeptPin::Hard => Pin::Hard,
        });
        self.record_put(FIRST_MOMENT, &table, &object, kept.owner);
        shard.insert(slot, hash, object, FIRST_MOMENT);
        Ok(())
    }

    /// Objects came newest first; the lists begin with the oldest.
    fn restore_order(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let mut slots: Vec<(u64, u32)> =
                shard.slots().map(|slot| (shard.objects.get(slot).generation, slot)).collect();
            slots.sort_unstable();
            for (_, slot) in slots {
                shard.renew(slot, FIRST_MOMENT);
            }
            let starts = &mut shard.starts;
            starts.make_contiguous().sort_unstable_by_key(|start| start.generation);
        }
    }

    /// Writes the whole index down as records, shard by shard, while calls go on. Records that the
    /// outlet was given since before the begin of this, replayed after these, give the present.
    pub fn dump(&self, now: Instant, mut record: impl FnMut(&Record<'_>)) {
        let now: Micros = self.micros(now);
        let owners: std::collections::HashMap<u32, ClientId> =
            self.clients.read().values().map(|client| (client.serial, client.id)).collect();
        record(&Record::Life { generation: self.generation.load(Ordering::Relaxed) });
        record(&Record::Moment(now));
        for cell in self.table.load_full().cells.iter().flatten() {
            let segment = Cow::Borrowed(&cell.segment);
            record(&Record::Mount { slot: cell.slot, owner: cell.holder.id, segment });
            for (offset, bytes, until) in cell.rests(now + self.times.lease) {
                let rest = until.saturating_sub(now);
                record(&Record::Rest { slot: cell.slot, offset, bytes, rest });
            }
        }
        let mut records = Vec::new();
        for shard in &self.shards {
            {
                let shard = shard.read();
                let table = self.table.load();
                for slot in shard.slots() {
                    let object = shard.objects.get(slot);
                    let owner = owners.get(&object.owner).copied();
                    records.push(self.put_record(now, &table, object, owner).into_static());
                    records.extend(self.file_record(object));
                }
            }
            for put in records.drain(..) {
                record(&put);
            }
        }
    }
}
