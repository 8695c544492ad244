//! The journal in a folder: a snapshot, and logs of what changed since.
//!
//! `snapshot.N` holds the index at some time while `log.N` was begun; `log.N`, `log.N+1` and so on
//! hold every change since. A new log and a new snapshot replace the old ones when the log has
//! grown. [`Journal::append`] only fills a buffer, so it may be called under locks;
//! [`Journal::flush`] hands the buffer to the kernel, once for all who wait, and whoever answers a
//! caller flushes first. That is enough for the end of the process; `sync` is for that of the host.
//!
//! A journal that lacks its end is worse than none: it would bring back objects whose ranges hold
//! others by now. So a journal that cannot be written is deleted before anybody is answered, one
//! that is damaged, of a later version, or not synced and of another boot of the host, is not read,
//! and a master that runs without one deletes what it finds ([`discard`]). One that was deleted
//! because its disk was full begins anew with a snapshot when there is room ([`Journal::revive`]).
//!
//! Any thread may call; the two locks are taken in the order `output`, `pending`.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::image::Image;
use super::record::{decode, Found, Record, BODY_BYTES_MAX, FRAME_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::master::state::State;

const MAGIC: [u8; 8] = *b"MCJRNL01";
/// Magic, number of the file, boot of the host, whether it is synced.
const HEADER_BYTES: usize = 8 + 8 + 36 + 1;
const BOOT_BYTES: usize = 36;
const LOCK: &str = "lock";
const CHUNK: usize = 1 << 20;
/// Space for records beyond this is given back after a burst.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// A journal that is being written.
pub struct Journal {
    folder: PathBuf,
    sync: bool,
    boot: [u8; BOOT_BYTES],
    output: Mutex<Output>,
    pending: Mutex<Vec<u8>>,
    /// Records are kept from [`Journal::begin`] on.
    begun: AtomicBool,
    /// It was given up.
    dead: AtomicBool,
    log_bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    /// Held for the life of the journal: two masters must not share a folder.
    _lock: File,
}

struct Output {
    number: u64,
    log: Option<File>,
    /// Space of the last write, for the next one.
    spare: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Snapshot,
    Log,
}

fn name(kind: Kind, number: u64) -> String {
    match kind {
        Kind::Snapshot => format!("snapshot.{number}"),
        Kind::Log => format!("log.{number}"),
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(ErrorKind::Resource, format!("the journal {what}"), error)
        .with("path", path.display())
}

/// Identity of the host's boot; zeros where it is not known, which equals nothing.
fn boot() -> [u8; BOOT_BYTES] {
    let mut boot = [0; BOOT_BYTES];
    if let Ok(text) = fs::read("/proc/sys/kernel/random/boot_id") {
        let length = text.len().min(BOOT_BYTES);
        boot[..length].copy_from_slice(&text[..length]);
    }
    boot
}

/// Snapshots and logs of a folder, by number.
fn files(folder: &Path) -> Result<Vec<(Kind, u64, PathBuf)>> {
    let entries = fs::read_dir(folder).map_err(|e| failed("cannot be listed", folder, e))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let text = entry.file_name().to_string_lossy().into_owned();
        let Some((kind, number)) = text.split_once('.') else { continue };
        let kind = match kind {
            "snapshot" => Kind::Snapshot,
            "log" => Kind::Log,
            _ => continue,
        };
        // Unfinished snapshots end otherwise, and are not of interest to anybody.
        let number = match number.parse() {
            Ok(number) => number,
            Err(_) if number.ends_with(".new") => {
                let _ = fs::remove_file(entry.path());
                continue;
            }
            Err(_) => continue,
        };
        found.push((kind, number, entry.path()));
    }
    found.sort();
    Ok(found)
}

/// Deletes the journal of a folder, if there is one. A master that runs without a journal calls
/// this, so that a later one does not read what is out of date.
///
/// # Errors
/// A file that can neither be deleted nor emptied.
pub fn discard(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for (_, _, path) in files(folder)? {
        if fs::remove_file(&path).is_ok() {
            continue;
        }
        // An empty file is no journal either.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| failed("cannot be deleted", &path, e))?;
    }
    Ok(())
}

/// Why a journal is not read.
type Unusable = String;

/// Adds the records of one file to an image; a snapshot must be whole, the last log may be cut.
fn read_into(
    image: &mut Image,
    path: &Path,
    number: u64,
    boot: &[u8; BOOT_BYTES],
    may_be_cut: bool,
) -> std::result::Result<(), Unusable> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let mut header = [0; HEADER_BYTES];
    if let Err(error) = file.read_exact(&mut header) {
        // Nobody was answered before the header was whole.
        let is_cut = error.kind() == std::io::ErrorKind::UnexpectedEof;
        return if is_cut && may_be_cut { Ok(()) } else { Err("it has no header".to_owned()) };
    }
    if header[..8] != MAGIC || header[8..16] != number.to_le_bytes() {
        return Err("its header is another one's".to_owned());
    }
    let is_synced = header[HEADER_BYTES - 1] == 1;
    let same_boot = header[16..16 + BOOT_BYTES] == *boot && *boot != [0; BOOT_BYTES];
    if !is_synced && !same_boot {
        return Err("it was not synced, and the host has booted since".to_owned());
    }
    let mut buffer: Vec<u8> = Vec::new();
    let mut start = 0;
    loop {
        match decode(&buffer[start..]) {
            Found::Record(record, taken) => {
                image.apply(record);
                start += taken;
                continue;
            }
            Found::Unknown(kind, _) => return Err(format!("a record is of a later kind, {kind}")),
            Found::Damaged => return Err("it is damaged".to_owned()),
            Found::Cut => {}
        }
        buffer.drain(..start);
        start = 0;
        let before = buffer.len();
        let wanted = CHUNK.max((before + CHUNK).min(BODY_BYTES_MAX + FRAME_BYTES));
        let read = (&mut file).take(wanted as u64).read_to_end(&mut buffer);
        read.map_err(|e| e.to_string())?;
        if buffer.len() == before {
            return if before == 0 || may_be_cut { Ok(()) } else { Err("it is cut".to_owned()) };
        }
    }
}

/// The sum of a folder's files, and the largest number in use.
fn load(folder: &Path, boot: &[u8; BOOT_BYTES]) -> Result<(Image, u64)> {
    let files = files(folder)?;
    let last = files.iter().map(|(_, number, _)| *number).max().unwrap_or(0);
    if files.len() > limits::JOURNAL_FILES_MAX {
        log::error!("{}: {} files of a journal, none is read", folder.display(), files.len());
        return Ok((Image::default(), last));
    }
    let snapshot = files.iter().rev().find(|(kind, ..)| *kind == Kind::Snapshot);
    let Some((_, first, path)) = snapshot else { return Ok((Image::default(), last)) };
    let mut image = Image::default();
    let mut unusable = read_into(&mut image, path, *first, boot, false).err();
    let mut expected = *first;
    for (kind, number, path) in &files {
        if *kind != Kind::Log || *number < *first || unusable.is_some() {
            continue;
        }
        if *number != expected {
            unusable = Some(format!("log {expected} is missing"));
            break;
        }
        expected += 1;
        unusable = read_into(&mut image, path, *number, boot, *number == last).err();
    }
    if expected == *first && unusable.is_none() {
        unusable = Some("its log is missing".to_owned());
    }
    if let Some(why) = unusable {
        log::warn!("the journal in {} is not read: {why}", folder.display());
        image = Image::default();
    }
    Ok((image, last))
}

impl Journal {
    /// Opens the journal of a folder, which is made if it is not there, and reads it. Nothing is
    /// written until [`Journal::begin`].
    ///
    /// # Errors
    /// The folder cannot be used, or another master uses it. A journal that cannot be trusted is no
    /// error; it reads as empty, with a line in the log.
    pub fn open(folder: &Path, sync: bool) -> Result<(Journal, Image)> {
        fs::create_dir_all(folder).map_err(|e| failed("has no folder", folder, e))?;
        let path = folder.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| failed("cannot be locked", &path, e))?;
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&lock, exclusive)
            .map_err(|errno| failed("is used by another master", &path, errno.into()))?;
        let boot = boot();
        let (image, number) = load(folder, &boot)?;
        let journal = Journal {
            folder: folder.to_owned(),
            sync,
            boot,
            output: Mutex::new(Output { number, log: None, spare: Vec::new() }),
            pending: Mutex::default(),
            begun: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            log_bytes: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            _lock: lock,
        };
        Ok((journal, image))
    }

    /// Writes the whole index down and keeps every record from now on. Before this returns nobody
    /// may be answered.
    ///
    /// # Errors
    /// The first snapshot cannot be written; the journal is deleted then.
    pub fn begin(&self, state: &State, now: Instant) -> Result<()> {
        self.begun.store(true, Ordering::Release);
        self.compact(state, now).inspect_err(|error| self.give_up(error))
    }

    /// Whether records are kept.
    pub fn is_alive(&self) -> bool {
        self.begun.load(Ordering::Acquire) && !self.dead.load(Ordering::Acquire)
    }

    /// Bytes of the present log and of the last snapshot.
    pub fn sizes(&self) -> (u64, u64) {
        (self.log_bytes.load(Ordering::Relaxed), self.snapshot_bytes.load(Ordering::Relaxed))
    }

    /// Keeps a record for the next [`Journal::flush`]. Does not block on the disk.
    pub fn append(&self, record: &Record<'_>) {
        if !self.is_alive() {
            return;
        }
        let mut pending = self.pending.lock();
        // The flush that finds more than this gives the journal up.
        if pending.len() <= limits::JOURNAL_BUFFER_BYTES_MAX {
            record.encode(&mut pending);
        }
    }

    /// Hands all records that were appended before to the kernel, and to the disk with `sync`. If
    /// that fails the journal is deleted, and the master goes on without one. Blocks on the disk.
    pub fn flush(&self) {
        if !self.begun.load(Ordering::Acquire) {
            return;
        }
        // Whoever gives the journal up holds this lock until it is deleted. A look at `dead` before
        // the lock would let another thread answer its caller while the files are still there.
        let mut output = self.output.lock();
        // What cannot be written is gone from the buffer, so nothing may be written after it.
        let _ = self.write_or_give_up(&mut output);
    }

    fn write_or_give_up(&self, output: &mut Output) -> Result<()> {
        if self.dead.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Resource, "the journal was given up"));
        }
        self.write_pending(output).inspect_err(|error| self.give_up(error))
    }

    /// Whether the log has grown so much that [`Journal::compact`] pays.
    pub fn is_due(&self) -> bool {
        let (log, snapshot) = self.sizes();
        self.is_alive() && log > limits::JOURNAL_LOG_BYTES_MIN.max(2 * snapshot)
    }

    /// Replaces snapshot and logs by new ones, while the index goes on changing; from one thread.
    ///
    /// # Errors
    /// The new snapshot cannot be written. The old one and all logs are still there and good,
    /// unless what was under way could not be written either: then the journal is given up.
    pub fn compact(&self, state: &State, now: Instant) -> Result<()> {
        let number = {
            let mut output = self.output.lock();
            // Records that are lost here are lost for good, and a log with a hole tells lies.
            self.write_or_give_up(&mut output)?;
            self.begin_log(&mut output)?
        };
        self.replace_snapshot(number, state, now)
    }

    /// Begins anew what was given up, if it can be written again; to be called now and then, from
    /// the thread that compacts. True if records are kept from now on.
    pub fn revive(&self, state: &State, now: Instant) -> bool {
        if !self.begun.load(Ordering::Acquire) || !self.dead.load(Ordering::Acquire) {
            return false;
        }
        // A record that is left out here is of a change that the snapshot below shows: changes are
        // recorded under the locks under which they are made.
        let begun = state.while_nothing_is_mounted(|| {
            let mut output = self.output.lock();
            let number = self.begin_log(&mut output)?;
            self.pending.lock().clear();
            self.dead.store(false, Ordering::Release);
            Ok(number)
        });
        match begun.and_then(|number| self.replace_snapshot(number, state, now)) {
            Ok(()) => {
                log::info!("the journal is kept again");
                true
            }
            Err(error) => {
                log::debug!("the journal is not begun again: {error}");
                self.dead.store(true, Ordering::Release);
                // What is left of the try is no journal; the next one does the same.
                let _ = discard(&self.folder);
                false
            }
        }
    }

    fn begin_log(&self, output: &mut Output) -> Result<u64> {
        let number = output.number + 1;
        let path = self.folder.join(name(Kind::Log, number));
        let mut log = File::create(&path).map_err(|e| failed("cannot be begun", &path, e))?;
        log.write_all(&self.header(number)).map_err(|e| failed("cannot grow", &path, e))?;
        if self.sync {
            // Otherwise a host that fails now finds the old log whole and this one not at all,
            // and takes the journal for complete.
            log.sync_all().map_err(|e| failed("cannot be synced", &path, e))?;
            self.sync_folder()?;
        }
        output.number = number;
        output.log = Some(log);
        self.log_bytes.store(0, Ordering::Relaxed);
        Ok(number)
    }

    fn replace_snapshot(&self, number: u64, state: &State, now: Instant) -> Result<()> {
        let path = self.folder.join(name(Kind::Snapshot, number));
        let beside = path.with_extension(format!("{number}.new"));
        let bytes = self.write_snapshot(&beside, number, state, now).inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
        // What the snapshot saw of later changes must be in the log before it counts.
        self.flush();
        if !self.is_alive() {
            let _ = fs::remove_file(&beside);
            return Err(Error::new(ErrorKind::Resource, "the journal was given up"));
        }
        fs::rename(&beside, &path).map_err(|e| failed("cannot be replaced", &path, e))?;
        self.sync_folder()?;
        self.snapshot_bytes.store(bytes, Ordering::Relaxed);
        for (_, old, path) in files(&self.folder)? {
            if old < number {
                fs::remove_file(&path).map_err(|e| failed("cannot be deleted", &path, e))?;
            }
        }
        Ok(())
    }

    fn header(&self, number: u64) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&self.boot);
        header.push(u8::from(self.sync));
        header
    }

    fn write_snapshot(&self, path: &Path, number: u64, state: &State, now: Instant) -> Result<u64> {
        let error = |error| failed("has no room for a snapshot", path, error);
        let mut file = BufWriter::with_capacity(CHUNK, File::create(path).map_err(error)?);
        file.write_all(&self.header(number)).map_err(error)?;
        let (mut bytes, mut record_bytes, mut outcome) = (0, Vec::new(), Ok(()));
        state.dump(now, |record| {
            record_bytes.clear();
            record.encode(&mut record_bytes);
            bytes += record_bytes.len() as u64;
            if outcome.is_ok() {
                outcome = file.write_all(&record_bytes);
            }
        });
        outcome.and_then(|()| file.flush()).map_err(error)?;
        if self.sync {
            file.get_ref().sync_data().map_err(error)?;
        }
        Ok(bytes)
    }

    fn sync_folder(&self) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
        folder.map_err(|e| failed("cannot be synced", &self.folder, e))
    }

    fn write_pending(&self, output: &mut Output) -> Result<()> {
        let Output { number, log, spare } = output;
        spare.clear();
        spare.shrink_to(SPARE_BYTES_MAX);
        std::mem::swap(&mut *self.pending.lock(), spare);
        let pending: &[u8] = spare;
        let Some(log) = log else { return Ok(()) };
        if pending.is_empty() {
            return Ok(());
        }
        let path = || self.folder.join(name(Kind::Log, *number));
        if pending.len() > limits::JOURNAL_BUFFER_BYTES_MAX {
            return Err(Error::new(ErrorKind::LimitReached, "the journal's disk is too slow"));
        }
        log.write_all(pending).map_err(|e| failed("cannot grow", &path(), e))?;
        if self.sync {
            log.sync_data().map_err(|e| failed("cannot be synced", &path(), e))?;
        }
        self.log_bytes.fetch_add(pending.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Goes on without a journal. Called before anybody is answered whose record was not written.
    fn give_up(&self, error: &Error) {
        if self.dead.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("the journal is given up, a restart will not find it: {error}");
        if let Err(error) = discard(&self.folder) {
            log::error!("do not start another master on it: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
