//! Copies of objects in files of the shared file tier.
//!
//! Every put is granted one where there is such a tier; its writer says when it is written. An
//! object that is evicted from memory goes on in its file. A file belongs to one put, so it goes
//! when the object goes, and nobody ever writes it again. Deleting it is the outlet's affair.
//!
//! A life that remembers nothing (a newly elected leader, a master without a journal) is offered
//! the files that are there. What was put, removed or given up in this life is the later truth.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::removal::End;
use super::shard::{Copy, Object, Shard, FILES, WRITTEN};
use super::{counters, State};
use crate::limits;
use crate::master::journal::record::{KeptFile, Record};
use crate::pool::file::{relative_path, Sealed};
use crate::pool::lease::{LastUse, Micros};
use crate::pool::outcome::{Outcome, Refusal};

/// How much the tier holds.
#[derive(Debug)]
pub(super) struct FileUse {
    /// CRC-32 of the folder, for the journal.
    folder: u32,
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Files of an earlier life are being offered.
    expected: AtomicBool,
    /// Hashes of keys that went away meanwhile.
    gone: Mutex<Option<HashSet<u64>>>,
}

impl FileUse {
    pub(super) fn new(folder: &str) -> FileUse {
        FileUse {
            folder: crc32fast::hash(folder.as_bytes()),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            expected: AtomicBool::new(false),
            gone: Mutex::new(None),
        }
    }

    fn add(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: u64) {
        self.files.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn copy_of(piece: u32) -> Copy {
    Copy { segment: FILES, piece, ..Copy::default() }
}

impl State {
    /// Where the object's file is.
    pub(super) fn file_path(&self, object: &Object) -> String {
        let path = relative_path(&object.key, object.generation);
        format!("{}/{path}", self.settings.storage_directory)
    }

    /// A file for a new object, if there is a tier and it may hold that much.
    pub(super) fn grant_file(&self, bytes: u64) -> Option<Copy> {
        let used = self.file_use.bytes.load(Ordering::Relaxed);
        if self.settings.storage_directory.is_empty() {
            return None;
        }
        if used.saturating_add(bytes) > self.settings.file_capacity {
            counters::add(&self.counters.refused_files, 1);
            return None;
        }
        self.file_use.add(bytes);
        Some(copy_of(0))
    }

    /// The file of an object from the journal, if it is one of this folder.
    pub(super) fn restored_file(&self, kept: (KeptFile, u32), bytes: u64) -> Option<Copy> {
        let is_here = !self.settings.storage_directory.is_empty() && kept.1 == self.file_use.folder;
        let piece = match kept.0 {
            KeptFile::Unfinished if is_here => 0,
            KeptFile::Written if is_here => WRITTEN,
            _ => return None,
        };
        self.file_use.add(bytes);
        Some(copy_of(piece))
    }

    /// How the object's file is, as a record; nothing for an object that never had one.
    pub(super) fn file_record(&self, object: &Object) -> Option<Record<'static>> {
        let state = match object.file()? {
            true => KeptFile::Written,
            false => KeptFile::Unfinished,
        };
        let folder = self.file_use.folder;
        Some(Record::File { generation: object.generation, state, folder })
    }

    /// The file of an object that is leaving the index.
    pub(super) fn forget_file(&self, object: &Object) {
        if object.file().is_some() {
            self.file_use.subtract(object.size);
            self.outlet.file_gone(self.file_path(object));
        }
    }

    /// Takes the file away from an object that has something else; its bytes.
    pub(super) fn drop_file(&self, shard: &mut Shard, slot: u32) -> u64 {
        self.forget_file(shard.objects.get(slot));
        shard.drop_copy(slot, FILES);
        let object = shard.objects.get(slot);
        let (generation, folder) = (object.generation, self.file_use.folder);
        self.outlet.record(&Record::File { generation, state: KeptFile::None, folder });
        object.size
    }

    /// Files of an earlier life are going to be offered: until the last of them nothing may come
    /// back that goes away meanwhile. To be called before anything else is.
    pub fn expect_files(&self) {
        if !self.remembers && !self.settings.storage_directory.is_empty() {
            *self.file_use.gone.lock() = Some(HashSet::new());
            self.file_use.expected.store(true, Ordering::Release);
        }
    }

    /// No file is offered any more.
    pub fn expect_no_files(&self) {
        self.file_use.expected.store(false, Ordering::Release);
        *self.file_use.gone.lock() = None;
    }

    /// An object of that hash is gone, or is not to be there: its file must not bring it back.
    pub(super) fn note_gone(&self, hash: u64) {
        if !self.file_use.expected.load(Ordering::Acquire) {
            return;
        }
        let mut gone = self.file_use.gone.lock();
        let is_full = gone.as_ref().is_some_and(|g| g.len() >= limits::MASTER_GONE_NOTED_MAX);
        if is_full {
            drop(gone);
            log::warn!("too much is removed to take over more files of the master before");
            return self.expect_no_files();
        }
        if let Some(gone) = gone.as_mut() {
            gone.insert(hash);
        }
    }

    /// Takes a file over that an earlier life left; false where it belongs to nothing. Its bytes
    /// are checked by whoever reads them.
    pub fn take_file(&self, now: Instant, found: Sealed) -> bool {
        let now = self.micros(now);
        let hash = self.hash(&found.key);
        // As for reports: numbers of this life are known, and others are not to be compared.
        let is_sound = !found.key.is_empty()
            && (1..self.first_generation).contains(&found.generation)
            && (1..=limits::REQUEST_BYTES_MAX).contains(&found.size);
        if !is_sound || !self.file_use.expected.load(Ordering::Acquire) {
            return false;
        }
        let number = self.shard_of(hash);
        let mut shard = self.shard(number).write();
        let mut known = shard.find(hash, &found.key);
        if let Some(slot) = known {
            let object = shard.objects.get(slot);
            if object.generation > found.generation {
                return false;
            }
            if object.generation < found.generation {
                self.drop_object(now, &mut shard, slot, End::Superseded);
                known = None;
            } else if object.file().is_some() || object.size != found.size {
                return object.size == found.size;
            }
        } else if self.file_use.gone.lock().as_ref().is_none_or(|gone| gone.contains(&hash)) {
            return false;
        }
        let Some(mut copy) = self.grant_file(found.size) else { return false };
        copy.piece = WRITTEN;
        counters::add(&self.counters.revived_files, 1);
        if let Some(slot) = known {
            shard.add_copy(slot, copy);
            if let Some(record) = self.file_record(shard.objects.get(slot)) {
                self.outlet.record(&record);
            }
            return true;
        }
        let Some(slot) = shard.vacant() else {
            self.file_use.subtract(found.size);
            return false;
        };
        let mut object = Object {
            key: found.key.into_boxed_slice(),
            generation: found.generation,
            size: found.size,
            complete: true,
            ..Object::default()
        };
        object.copies.push(copy);
        object.set_last_use(LastUse { at: now, granted: false });
        self.record_put(now, &self.table.load(), &object, None);
        shard.insert(slot, hash, object, now);
        true
    }

    /// The writer has written the file.
    pub(super) fn end_file(&self, shard: &mut Shard, slot: u32) -> Outcome<()> {
        let object = shard.objects.get_mut(slot);
        let file = object.copies.iter_mut().find(|copy| copy.segment == FILES);
        // It may have been given up meanwhile; the writer deletes it then.
        file.ok_or(Refusal::OBJECT_NOT_FOUND)?.piece = WRITTEN;
        if let Some(record) = self.file_record(shard.objects.get(slot)) {
            self.outlet.record(&record);
        }
        Ok(())
    }

    /// The writer will not write the file.
    pub(super) fn revoke_file(&self, shard: &mut Shard, slot: u32) -> Outcome<()> {
        match shard.objects.get(slot).file() {
            None => Ok(()),
            Some(true) => Err(Refusal::INVALID_WRITE),
            Some(false) => {
                self.drop_file(shard, slot);
                Ok(())
            }
        }
    }

    /// Takes an object out of memory; it goes on in its file. Returns its bytes, and when the last
    /// of its ranges may be used again.
    pub(super) fn drop_memory(&self, now: Micros, shard: &mut Shard, slot: u32) -> (u64, Micros) {
        let memory = shard.objects.get(slot).copies.iter();
        let segments: SmallVec<[u32; 4]> =
            memory.map(|copy| copy.segment).filter(|segment| *segment != FILES).collect();
        let copies: SmallVec<[Copy; 4]> =
            segments.iter().filter_map(|segment| shard.drop_copy(slot, *segment)).collect();
        let table = self.table.load();
        let object = shard.objects.get(slot);
        let cells = || copies.iter().filter_map(|copy| Some((copy, table.cell(copy.segment)?)));
        let rests = cells().map(|(_, cell)| self.rest_until(now, object, End::Removed, cell));
        let until = rests.max().unwrap_or(now);
        // Before the ranges are given back: a put that takes one must be written down later.
        self.record_put(now, &table, object, None);
        for (copy, cell) in cells().filter(|_| until > now) {
            let offset = u64::from(copy.granule) << cell.granule_bits;
            let (slot, bytes, rest) = (cell.slot, object.size, until - now);
            self.outlet.record(&Record::Rest { slot, offset, bytes, rest });
        }
        for (copy, cell) in cells() {
            self.give_back(now, object, copy.piece, cell, until, End::Removed);
        }
        self.outlet.room();
        (object.size, until)
    }

    /// Drops the oldest files when there are too many bytes of them.
    pub(super) fn keep_files_below_capacity(&self, now: Micros) {
        let capacity = self.settings.file_capacity;
        let used = self.file_use.bytes.load(Ordering::Relaxed);
        if capacity == u64::MAX || used == 0 || !self.settings.evict_files {
            return;
        }
        let share = |part: f64| (capacity as f64 * part.clamp(0.0, 1.0)) as u64;
        let high = share(self.settings.eviction_high_watermark);
        if used > high {
            self.evict_oldest(now, FILES, used - high + share(self.settings.eviction_ratio));
        }
    }

    /// Which puts have a file now, unfinished ones too.
    pub fn puts_with_files(&self) -> HashSet<u64> {
        let mut found = HashSet::new();
        for shard in &self.shards {
            let shard = shard.read();
            let objects = shard.slots().map(|slot| shard.objects.get(slot));
            found.extend(objects.filter(|o| o.file().is_some()).map(|o| o.generation));
        }
        found
    }
}
