//! What the pages of the master show. Reads only; nothing here grants a lease but
//! [`State::apply`].

use std::sync::atomic::Ordering;

use super::cell::Cell;
use super::reads::is_visible;
use super::{Counters, State};
use crate::pool::object::Key;

/// How full one segment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    /// Name.
    pub name: String,
    /// Identity.
    pub id: crate::pool::identity::SegmentId,
    /// Whose it is.
    pub owner: crate::pool::identity::ClientId,
    /// Name under which the transfer engine finds it.
    pub endpoint: String,
    /// How it is reached; empty where the owner did not say.
    pub protocol: String,
    /// First address, in the owner's process.
    pub base: u64,
    /// Bytes asked for by live objects.
    pub used: u64,
    /// Bytes that rest before they are used again.
    pub resting: u64,
    /// Bytes.
    pub capacity: u64,
    /// Whether objects may be placed there now.
    pub is_open: bool,
}

/// Sums over the whole pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects, unfinished ones too.
    pub keys: u64,
    /// Objects that asked for a soft pin.
    pub soft_pinned: u64,
    /// Mounted segments.
    pub segments: u64,
    /// Bytes asked for by live objects.
    pub used: u64,
    /// Bytes that rest before they are used again.
    pub resting: u64,
    /// Bytes of all segments.
    pub capacity: u64,
    /// Files of the disk tier, unfinished ones too.
    pub files: u64,
    /// Bytes of their objects.
    pub file_bytes: u64,
    /// Clients that were heard of lately.
    pub clients: u64,
    /// Passes of eviction.
    pub attempted_evictions: u64,
    /// Passes that evicted something.
    pub successful_evictions: u64,
    /// Objects evicted.
    pub evicted_keys: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Unfinished puts that were given up for their owner.
    pub abandoned_puts: u64,
    /// Objects taken over from reports.
    pub reported_objects: u64,
    /// Files taken over from a life before.
    pub revived_files: u64,
    /// Files evicted because there were too many bytes of them.
    pub evicted_files: u64,
    /// Bytes of their objects.
    pub evicted_file_bytes: u64,
    /// Objects that got no file because the tier was full.
    pub refused_files: u64,
    /// Puts that waited for room.
    pub waited_puts: u64,
    /// Puts with fewer copies than were asked for.
    pub partial_allocations: u64,
    /// Clients given up because they were silent.
    pub expired_clients: u64,
}

fn use_of(cell: &Cell) -> SegmentUse {
    SegmentUse {
        name: cell.segment.name.clone(),
        id: cell.segment.id,
        owner: cell.holder.id,
        endpoint: cell.segment.endpoint.clone(),
        protocol: cell.segment.protocol.clone(),
        base: cell.segment.base,
        used: cell.used(),
        resting: cell.resting(),
        capacity: cell.segment.size,
        is_open: !cell.has(u32::MAX),
    }
}

impl State {
    /// Counts of calls.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Puts that were granted and have neither ended nor been given up. Walks over what was begun
    /// lately.
    pub fn open_puts(&self) -> usize {
        let count = |shard: &parking_lot::RwLock<super::shard::Shard>| {
            let shard = shard.read();
            let is_open = |start: &&super::shard::Start| {
                shard.alive(start.slot, start.generation).is_some_and(|object| !object.complete)
            };
            shard.starts.iter().filter(is_open).count()
        };
        self.shards.iter().map(count).sum()
    }

    /// Sums over the whole pool.
    pub fn totals(&self) -> Totals {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let mut totals = Totals {
            clients: self.clients.read().len() as u64,
            files: read(&self.file_use.files),
            file_bytes: read(&self.file_use.bytes),
            attempted_evictions: read(&counters.attempted_evictions),
            successful_evictions: read(&counters.successful_evictions),
            evicted_keys: read(&counters.evicted_keys),
            evicted_bytes: read(&counters.evicted_bytes),
            abandoned_puts: read(&counters.abandoned_puts),
            reported_objects: read(&counters.reported_objects),
            revived_files: read(&counters.revived_files),
            evicted_files: read(&counters.evicted_files),
            evicted_file_bytes: read(&counters.evicted_file_bytes),
            refused_files: read(&counters.refused_files),
            waited_puts: read(&counters.waited_puts),
            partial_allocations: read(&counters.partial_allocations),
            expired_clients: read(&counters.expired_clients),
            ..Totals::default()
        };
        for shard in &self.shards {
            let shard = shard.read();
            totals.keys += shard.len() as u64;
            totals.soft_pinned += shard.soft as u64;
        }
        for cell in &self.table.load().mounted {
            totals.segments += 1;
            totals.used += cell.used();
            totals.resting += cell.resting();
            totals.capacity += cell.segment.size;
        }
        totals
    }

    /// All mounted segments, in the order in which they were mounted.
    pub fn segments(&self) -> Vec<SegmentUse> {
        self.table.load().mounted.iter().map(|cell| use_of(cell)).collect()
    }

    /// The first segment of that name.
    pub fn segment(&self, name: &str) -> Option<SegmentUse> {
        self.table.load().names.get(name)?.first().map(|cell| use_of(cell))
    }

    /// Calls `each` with every key, unfinished ones too; no lock is held meanwhile.
    pub fn each_key(&self, mut each: impl FnMut(&[u8])) {
        let mut keys: Vec<Key> = Vec::new();
        for shard in &self.shards {
            {
                let shard = shard.read();
                let objects = shard.slots().map(|slot| shard.objects.get(slot));
                let table = self.table.load();
                let shown = objects.filter(|object| is_visible(&table, object));
                keys.extend(shown.map(|object| object.key.to_vec()));
            }
            keys.drain(..).for_each(|key| each(&key));
        }
    }
}
