//! What time demands: ends of life, of quarantines, of unfinished puts, and eviction.
//!
//! One thread calls [`State::tick`]. Each call does a bounded amount under any one lock.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use super::cell::{Cell, HIDDEN, REPORTING, SETTLING, SILENT, UNHEARD};
use super::client::Client;
use super::removal::End;
use super::{counters, State, FIRST_MOMENT};
use crate::master::journal::record::Record;
use crate::pool::lease::Micros;

/// Pause between looks at clients and puts: their limits are seconds.
const LOOK_PAUSE: Micros = 100_000;
/// Pause between looks at the order of eviction: that of ticks.
const PREPARE_PAUSE: Micros = 10_000;

impl State {
    /// To be called every ten milliseconds or so.
    pub fn tick(&self, now: Instant) {
        let now = self.micros(now);
        let table = self.table.load_full();
        for cell in table.cells.iter().flatten() {
            if cell.drain(now) {
                self.outlet.room();
            }
            self.look_at_cell(now, cell);
        }
        for cell in &table.mounted {
            self.keep_below_watermark(now, cell);
        }
        // One in its turn: there may be hundreds.
        let turn = (now / PREPARE_PAUSE) as usize % table.mounted.len().max(1);
        if let Some(cell) = table.mounted.get(turn).filter(|cell| self.is_nearly_full(cell)) {
            self.prepare_eviction(now, cell.slot);
        }
        self.keep_files_below_capacity(now);
        if now < self.looked.load(Ordering::Relaxed).saturating_add(LOOK_PAUSE) {
            return;
        }
        self.looked.store(now, Ordering::Relaxed);
        self.outlet.record(&Record::Moment(now));
        self.look_at_clients(now);
        self.look_at_puts(now);
    }

    fn look_at_cell(&self, now: Micros, cell: &Cell) {
        if cell.has(SETTLING) && now >= cell.settled {
            self.open(cell, SETTLING);
        }
        if cell.has(REPORTING) && now >= cell.since.saturating_add(self.times.report) {
            log::warn!("segment {} is used without a full report", cell.segment.id);
            self.open(cell, REPORTING);
        }
        let late =
            cell.owes_since().is_some_and(|s| now >= s.saturating_add(self.times.acknowledge));
        if late && !cell.has(UNHEARD) {
            log::warn!("client {} does not acknowledge; nothing is placed there", cell.holder.id);
            cell.mark(UNHEARD);
        } else if !late && cell.has(UNHEARD) && cell.unmark(UNHEARD) {
            self.outlet.room();
        }
    }

    /// Bytes of a segment above which objects are evicted.
    fn watermark(&self, cell: &Cell) -> u64 {
        let share = self.settings.eviction_high_watermark.clamp(0.0, 1.0);
        (cell.segment.size as f64 * share) as u64
    }

    fn is_nearly_full(&self, cell: &Cell) -> bool {
        cell.occupied() > self.watermark(cell) / 8 * 7
    }

    fn keep_below_watermark(&self, now: Micros, cell: &Cell) {
        let size = cell.segment.size as f64;
        let high = self.watermark(cell);
        let occupied = cell.occupied();
        if occupied <= high {
            return;
        }
        let beyond = (size * self.settings.eviction_ratio.clamp(0.0, 1.0)) as u64;
        self.evict_oldest(now, cell.slot, occupied - high + beyond);
    }

    fn look_at_clients(&self, now: Micros) {
        let clients: Vec<Arc<Client>> = self.clients.read().values().cloned().collect();
        for client in clients {
            let silence = now.saturating_sub(client.heard.load(Ordering::Relaxed));
            let (pings, has_segments) = {
                let inner = client.inner.lock();
                (inner.pings, !inner.segments.is_empty())
            };
            // Who neither pings nor holds memory only puts; its silence means nothing.
            let ttl = match pings || has_segments {
                true => self.times.client_ttl,
                false => self.times.release,
            };
            if silence >= ttl {
                self.expire(now, &client);
            } else if silence >= self.times.suspect {
                client.marked.store(true, Ordering::Release);
                self.cells_of(&client).iter().for_each(|cell| cell.mark(SILENT));
            }
        }
        // From the journal, and nobody came for them.
        if now >= FIRST_MOMENT + self.times.client_ttl {
            let table = self.table.load_full();
            let hidden = table.cells.iter().flatten().filter(|cell| cell.has(HIDDEN));
            for cell in hidden {
                let mut mounting = self.mounting.lock();
                if cell.has(HIDDEN) {
                    self.unmount_locked(&mut mounting, now, cell.slot);
                }
            }
        }
    }

    fn expire(&self, now: Micros, client: &Arc<Client>) {
        let mut mounting = self.mounting.lock();
        if now.saturating_sub(client.heard.load(Ordering::Relaxed)) < self.times.client_ttl {
            return;
        }
        self.clients.write().remove(&client.id);
        self.note_expired(now, client.id);
        let (slots, pings) = {
            let mut inner = client.inner.lock();
            inner.gone = true;
            (inner.segments.clone(), inner.pings)
        };
        if pings || !slots.is_empty() {
            log::info!("client {} is gone, with {} segments", client.id, slots.len());
            counters::add(&self.counters.expired_clients, 1);
        }
        let table = self.table.load_full();
        let cells = slots.iter().filter_map(|slot| table.cell(*slot));
        let mut names: Vec<String> = cells.map(|cell| cell.segment.name.clone()).collect();
        for slot in slots {
            self.unmount_locked(&mut mounting, now, slot);
        }
        drop(mounting);
        names.sort_unstable();
        names.dedup();
        let table = self.table.load_full();
        for name in names {
            // One that was started again under the name of the one before.
            let lives = table.cells.iter().flatten().any(|cell| cell.segment.name == name);
            if !lives {
                self.outlet.gone(&name);
            }
        }
        self.outlet.news(client.id);
        self.drop_puts_of(now, client.serial, |_| true);
    }

    fn look_at_puts(&self, now: Micros) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.trim_starts();
            while let Some(start) = shard.starts.front().copied() {
                if now < start.at.saturating_add(self.times.release) {
                    break;
                }
                counters::add(&self.counters.abandoned_puts, 1);
                self.drop_object(now, &mut shard, start.slot, End::Discarded);
                shard.trim_starts();
            }
        }
    }
}
