//! The table of mounted segments, and how they come and go.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::cell::{Cell, DRAINING, HIDDEN, REPORTING, SETTLING};
use super::client::Client;
use super::{State, FIRST_MOMENT};
use crate::limits;
use crate::master::journal::record::Record;
use crate::pool::identity::{ClientId, SegmentId};
use crate::pool::lease::Micros;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::placement;
use crate::pool::segment::Segment;

/// Objects that are taken out of a segment under one hold of a shard's lock.
const PURGE_STEP: usize = 512;

/// Mounted segments; replaced as a whole at every change, which is rare.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// By slot, hidden ones too.
    pub(super) cells: Vec<Option<Arc<Cell>>>,
    pub(super) by_id: HashMap<SegmentId, u32>,
    /// Those that objects may be placed in, if nothing speaks against it.
    pub(super) mounted: Vec<Arc<Cell>>,
    pub(super) names: HashMap<String, Vec<Arc<Cell>>>,
}

impl Table {
    pub(super) fn cell(&self, slot: u32) -> Option<&Arc<Cell>> {
        self.cells.get(slot as usize)?.as_ref()
    }

    fn add(&mut self, cell: &Arc<Cell>) {
        let slot = cell.slot as usize;
        if self.cells.len() <= slot {
            self.cells.resize(slot + 1, None);
        }
        self.cells[slot] = Some(Arc::clone(cell));
        self.by_id.insert(cell.segment.id, cell.slot);
        if !cell.has(HIDDEN) {
            self.show(cell);
        }
    }

    fn show(&mut self, cell: &Arc<Cell>) {
        self.mounted.push(Arc::clone(cell));
        self.names.entry(cell.segment.name.clone()).or_default().push(Arc::clone(cell));
    }

    fn take(&mut self, slot: u32) -> Option<Arc<Cell>> {
        let cell = self.cells.get_mut(slot as usize)?.take()?;
        self.by_id.remove(&cell.segment.id);
        self.mounted.retain(|other| other.slot != slot);
        if let Some(cells) = self.names.get_mut(&cell.segment.name) {
            cells.retain(|other| other.slot != slot);
            if cells.is_empty() {
                self.names.remove(&cell.segment.name);
            }
        }
        Some(cell)
    }
}

/// What placement sees: the mounted segments, without those whose names have a copy already.
pub(super) struct Choices<'a> {
    pub(super) cells: &'a [Arc<Cell>],
    pub(super) taken: &'a [&'a str],
}

impl placement::Segments for Choices<'_> {
    fn count(&self) -> usize {
        self.cells.len()
    }

    fn room(&self, segment: usize) -> u64 {
        self.cells[segment].largest()
    }

    fn free_share(&self, segment: usize) -> u32 {
        self.cells[segment].free_share()
    }

    fn is_distinct(&self, segment: usize) -> bool {
        !self.taken.contains(&self.cells[segment].segment.name.as_str())
    }
}

/// Slots of the table.
#[derive(Debug, Default)]
pub(super) struct Mounting {
    vacant: Vec<u32>,
    next: u32,
}

impl Mounting {
    pub(super) fn slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.vacant.pop() {
            return Some(slot);
        }
        let slot = self.next;
        if slot as usize >= limits::STORE_SEGMENTS_MAX {
            return None;
        }
        self.next += 1;
        Some(slot)
    }
}

fn is_sound(segment: &Segment) -> bool {
    let texts = [&segment.name, &segment.endpoint, &segment.protocol];
    segment.base != 0
        && segment.size != 0
        && segment.base.checked_add(segment.size).is_some()
        && texts.iter().all(|text| text.len() <= limits::NAME_BYTES_MAX)
}

fn overlap(one: &Segment, other: &Segment) -> bool {
    one.base < other.base + other.size && other.base < one.base + one.size
}

impl State {
    pub(super) fn mount(&self, now: Micros, segment: Segment, id: ClientId) -> Outcome<()> {
        let mut mounting = self.mounting.lock();
        let client = self.client_of(now, id)?;
        self.hear(now, &client);
        self.mount_locked(&mut mounting, now, segment, &client, false)
    }

    pub(super) fn remount(&self, now: Micros, all: Vec<Segment>, id: ClientId) -> Outcome<()> {
        if all.len() > limits::STORE_SEGMENTS_MAX {
            return Err(Refusal::INVALID_PARAMS);
        }
        {
            let mut mounting = self.mounting.lock();
            let client = self.client_of(now, id)?;
            self.hear(now, &client);
            if client.inner.lock().ok {
                return Ok(());
            }
            for segment in all {
                let what = segment.id;
                if let Err(why) = self.mount_locked(&mut mounting, now, segment, &client, true) {
                    log::warn!("segment {what} of client {id} is not mounted again: {why}");
                }
            }
            client.inner.lock().ok = true;
        }
        Ok(())
    }

    fn mount_locked(
        &self,
        mounting: &mut MutexGuard<'_, Mounting>,
        now: Micros,
        segment: Segment,
        client: &Arc<Client>,
        again: bool,
    ) -> Outcome<()> {
        if !is_sound(&segment) {
            return Err(Refusal::INVALID_PARAMS);
        }
        let table = self.table.load_full();
        if let Some(cell) = table.by_id.get(&segment.id).and_then(|slot| table.cell(*slot)) {
            return self.mount_known(&table, cell, &segment, client);
        }
        let own = client.inner.lock().segments.clone();
        let own = own.iter().filter_map(|slot| table.cell(*slot));
        if own.into_iter().any(|cell| overlap(&cell.segment, &segment)) {
            return Err(Refusal::INVALID_PARAMS);
        }
        let slot = mounting.slot().ok_or(Refusal::UNAVAILABLE_IN_CURRENT_STATUS)?;
        let mut flags = 0;
        // What was mounted before this life began may hold objects, and readers of these.
        if again && client.is_native() {
            flags |= REPORTING;
        }
        let settled = self.settled_at(client.id);
        if again && now < settled {
            flags |= SETTLING;
        }
        let mut cell = Cell::new(slot, segment, Arc::clone(client), now, flags);
        cell.settled = settled;
        self.add_cell(&table, Arc::new(cell));
        self.outlet.room();
        Ok(())
    }

    /// When no reader has a lease any more on what the client's memory held before it is mounted
    /// again.
    fn settled_at(&self, client: ClientId) -> Micros {
        let expired = self.expired.lock().get(&client).copied();
        let leases = expired.map_or(0, |at| at.saturating_add(2 * self.times.lease));
        leases.max(FIRST_MOMENT + self.times.lease)
    }

    /// Notes that a client was given up while readers may be copying from its memory.
    pub(super) fn note_expired(&self, now: Micros, client: ClientId) {
        let mut expired = self.expired.lock();
        expired.retain(|_, at| now < at.saturating_add(2 * self.times.lease));
        if expired.len() < limits::STORE_CLIENTS_MAX {
            expired.insert(client, now);
        }
    }

    /// Adds a segment to the table and to its holder.
    pub(super) fn add_cell(&self, table: &Table, cell: Arc<Cell>) {
        self.outlet.record(&Record::Mount {
            slot: cell.slot,
            owner: cell.holder.id,
            segment: Cow::Borrowed(&cell.segment),
        });
        cell.holder.inner.lock().segments.push(cell.slot);
        let mut table = table.clone();
        table.add(&cell);
        self.table.store(Arc::new(table));
    }

    fn mount_known(
        &self,
        table: &Table,
        cell: &Arc<Cell>,
        segment: &Segment,
        client: &Client,
    ) -> Outcome<()> {
        if cell.holder.id != client.id {
            return Err(Refusal::SEGMENT_ALREADY_EXISTS);
        }
        if !cell.has(HIDDEN) {
            return Ok(());
        }
        if (cell.segment.base, cell.segment.size) != (segment.base, segment.size) {
            return Err(Refusal::INVALID_PARAMS);
        }
        if client.is_native() {
            cell.mark(REPORTING);
        } else {
            cell.with_room(|room| room.allocator.end_places());
        }
        cell.unmark(HIDDEN);
        let mut table = table.clone();
        table.show(cell);
        self.table.store(Arc::new(table));
        self.outlet.room();
        Ok(())
    }

    pub(super) fn unmount(&self, now: Micros, id: SegmentId, client: ClientId) -> Outcome<()> {
        let mut mounting = self.mounting.lock();
        let table = self.table.load_full();
        let cell = table.by_id.get(&id).and_then(|slot| table.cell(*slot));
        let Some(cell) = cell else { return Ok(()) };
        if cell.holder.id != client {
            return Err(Refusal::ILLEGAL_CLIENT);
        }
        self.unmount_locked(&mut mounting, now, cell.slot);
        Ok(())
    }

    /// Takes a segment and every copy in it out of the index.
    pub(super) fn unmount_locked(
        &self,
        mounting: &mut MutexGuard<'_, Mounting>,
        now: Micros,
        slot: u32,
    ) {
        let mut table = Table::clone(&self.table.load());
        let Some(cell) = table.take(slot) else { return };
        cell.close();
        self.table.store(Arc::new(table));
        cell.holder.inner.lock().segments.retain(|other| *other != slot);
        for number in 0..self.shards.len() as u32 {
            while self.purge(now, number, slot) {}
        }
        self.outlet.record(&Record::Unmount { slot });
        mounting.vacant.push(slot);
    }

    /// Takes some copies out of a segment; true while there are more.
    fn purge(&self, now: Micros, number: u32, segment: u32) -> bool {
        let mut shard = self.shard(number).write();
        for _ in 0..PURGE_STEP {
            let oldest = (0..3).map(|list| shard.oldest(segment, list));
            let Some(slot) = oldest.into_iter().find(|slot| *slot != u32::MAX) else {
                return false;
            };
            shard.drop_copy(slot, segment);
            if shard.objects.get(slot).is_void() {
                self.drop_object(now, &mut shard, slot, super::removal::End::SegmentLost);
            }
        }
        true
    }

    /// Nothing more is placed in the segments of a client, or again; what is there stays.
    pub fn drain_client(&self, id: ClientId, draining: bool) {
        let client = self.clients.read().get(&id).cloned();
        let Some(client) = client else { return };
        let table = self.table.load();
        for slot in client.inner.lock().segments.iter() {
            let Some(cell) = table.cell(*slot) else { continue };
            if draining {
                cell.mark(DRAINING);
            } else {
                cell.unmark(DRAINING);
            }
        }
    }

    /// The cells of a client.
    pub(super) fn cells_of(&self, client: &Client) -> Vec<Arc<Cell>> {
        let slots = client.inner.lock().segments.clone();
        let table = self.table.load();
        slots.iter().filter_map(|slot| table.cell(*slot).cloned()).collect()
    }

    /// The cell opens to new objects: what it held before is known, or nobody will tell.
    pub(super) fn open(&self, cell: &Cell, flags: u32) {
        cell.unmark(flags);
        if cell.flags.load(Ordering::Acquire) & (REPORTING | SETTLING | HIDDEN) == 0 {
            cell.with_room(|room| room.allocator.end_places());
            self.outlet.room();
        }
    }
}
