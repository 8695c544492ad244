//! Copies of objects in files of the shared file tier: written in the background, read when no copy
//! in memory is left.
//!
//! Owns the values that wait to be written, bounded in bytes and number. The threads
//! `mc-store-file` write them; every thread of the caller may read, through those of [`readers`]. A
//! file is written under another name and renamed, so nobody finds half of one; a seal behind the
//! object's bytes tells a reader that they are whole. The file system is trusted with neither order
//! nor durability, nor to answer at all.

use std::collections::{HashMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::file::{is_below, Sealed, UNFINISHED};
use crate::pool::object::Key;
use crate::time::Deadline;

use super::buffers::{copy, zeroed};
use super::client::Shared;
use super::plan::{total, Range};

use self::hung::{GivenUp, Seat};
use self::read::Wanted;
use self::readers::Readers;
use self::words::Words;

mod hung;
mod read;
mod readers;
mod words;

pub(super) use self::words::Word;

/// Bytes that are read or written in one go.
const CHUNK_BYTES: usize = 1 << 20;
/// Time for telling the master of one file.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two lines about files that cannot be written.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

/// The tier as this client sees it.
#[derive(Default)]
pub(super) struct FileTier {
    /// As the master calls it; nothing where there is none, or not on this host.
    folder: OnceLock<String>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Makes names of unfinished files different.
    serial: AtomicU64,
    readers: Readers,
    /// When a failure was logged, and failures since.
    complained: Mutex<(Option<Instant>, u64)>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs under way or waiting of each key, and the latest put of the key.
    keys: HashMap<Key, (usize, u64)>,
    bytes: usize,
    writers: usize,
    /// What each of them is at.
    seats: Vec<Seat>,
    /// What the master did not answer.
    words: Words,
    stop: bool,
}

/// What a writer does next.
enum Work {
    Write(Job),
    Tell(Vec<Word>),
}

impl Queue {
    fn leave(&mut self, key: &[u8]) {
        if let Some((count, _)) = self.keys.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(key);
            }
        }
    }
}

/// An object to be written.
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) path: String,
    /// Which put; 0 where the master does not say, and then its path may serve others, too.
    pub(super) generation: u64,
    pub(super) value: Vec<u8>,
}

impl FileTier {
    /// Takes the folder in that a master has named, if the root above it is on this host.
    fn begin(&self, folder: String, deadline: Deadline) -> bool {
        let root = Path::new(&folder).parent().map(PathBuf::from);
        let Some(root) = root.filter(|_| folder.starts_with('/')) else { return false };
        let is_here = self.readers.ask(deadline, move || root.is_dir());
        is_here.unwrap_or(false) && self.folder.set(folder).is_ok()
    }

    pub(super) fn is_here(&self) -> bool {
        self.folder.get().is_some()
    }

    /// Queues an object; it comes back where there is no room or no tier.
    fn submit(&self, job: Job) -> std::result::Result<(), Job> {
        let mut queue = self.queue.lock();
        if job.generation == 0 {
            // An older value of the same path must not be written later.
            let same = queue.jobs.iter().position(|other| other.path == job.path);
            if let Some(old) = same.and_then(|at| queue.jobs.remove(at)) {
                queue.bytes -= old.value.len();
                queue.leave(&old.key);
            }
        }
        let has_room = queue.jobs.len() < limits::STORE_FILE_QUEUE_MAX
            && queue.bytes + job.value.len() <= limits::STORE_FILE_QUEUE_BYTES_MAX;
        if !has_room || queue.stop || queue.writers == 0 || queue.is_stuck(Instant::now()) {
            return Err(job);
        }
        queue.bytes += job.value.len();
        let of_key = queue.keys.entry(job.key.clone()).or_default();
        *of_key = (of_key.0 + 1, of_key.1.max(job.generation));
        queue.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// True if so many bytes would be taken now: asked before they are copied.
    fn has_room(&self, bytes: usize) -> bool {
        let queue = self.queue.lock();
        queue.writers > 0
            && !queue.is_stuck(Instant::now())
            && queue.bytes.saturating_add(bytes) <= limits::STORE_FILE_QUEUE_BYTES_MAX
            && queue.jobs.len() < limits::STORE_FILE_QUEUE_MAX
    }

    /// What is next; `None` when it is over.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue.lock();
        loop {
            let is_end = queue.stop && queue.jobs.is_empty();
            if let Some(words) = queue.words.due(is_end) {
                return Some(Work::Tell(words));
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(Work::Write(job));
            }
            if queue.stop {
                queue.writers -= 1;
                self.changed.notify_all();
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }

    fn done(&self, job: &Job) {
        let mut queue = self.queue.lock();
        queue.bytes -= job.value.len();
        queue.leave(&job.key);
    }

    /// A put of the key has begun: files of earlier ones are not its own.
    pub(super) fn begin_put(&self, key: &[u8], generation: u64) {
        if let Some((_, latest)) = self.queue.lock().keys.get_mut(key) {
            *latest = generation.max(*latest);
        }
    }

    /// True where a later put of the key has begun, so that the master would take the end of this
    /// one for its.
    fn is_outdated(&self, job: &Job) -> bool {
        self.queue.lock().keys.get(&job.key).is_some_and(|(_, latest)| *latest > job.generation)
    }

    /// Writes what waits, for `time` at most; the rest is given up, and the master is to be told. A
    /// file system that hangs keeps its thread, not the caller.
    pub(super) fn finish(&self, time: Duration) -> GivenUp {
        let end = Instant::now() + time;
        self.write_rest(end);
        let untold = self.queue.lock().words.count();
        if untold > 0 {
            log::warn!("the master was not told of {untold} files");
        }
        self.readers.finish(end.saturating_duration_since(Instant::now()));
        self.give_up_all()
    }

    fn write_rest(&self, end: Instant) {
        let mut queue = self.queue.lock();
        queue.stop = true;
        self.changed.notify_all();
        while queue.writers > 0 {
            if self.changed.wait_until(&mut queue, end).timed_out() {
                return;
            }
        }
    }

    /// Writes a file under another name and renames it.
    fn write(&self, job: &Job, seat: usize) -> io::Result<()> {
        let folder = self.folder.get().map_or("", String::as_str);
        if !is_below(folder, &job.path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not below the folder"));
        }
        let path = Path::new(&job.path);
        self.step(seat);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let unfinished = format!("{}{UNFINISHED}-{process}-{serial}", job.path);
        let sealed = Sealed {
            key: job.key.clone(),
            generation: read::generation_in(&job.path),
            size: job.value.len() as u64,
            sum: crc32fast::hash(&job.value),
        };
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
        let written = open.open(&unfinished).and_then(|mut file| {
            for part in job.value.chunks(CHUNK_BYTES) {
                self.step(seat);
                file.write_all(part)?;
            }
            self.step(seat);
            file.write_all(&sealed.tail())?;
            drop(file);
            std::fs::rename(&unfinished, path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        written
    }

    /// Reads an object; the bytes are good only if this succeeds. Waits for the file system no
    /// longer than until `deadline`.
    pub(super) fn read(
        &self,
        key: &[u8],
        path: &str,
        size: u64,
        target: &[Range],
        deadline: Deadline,
    ) -> Result<()> {
        let Some(folder) = self.folder.get() else {
            let text = "the object is only in a file, and its folder is not on this host";
            return Err(Error::new(ErrorKind::Unsupported, text).with("path", path));
        };
        if !is_below(folder, path) {
            let text = "the master named a file outside of its folder";
            return Err(Error::new(ErrorKind::Protocol, text).with("path", path));
        }
        let wanted = Wanted { key: key.to_vec(), path: path.to_owned(), size };
        read::read(&self.readers, wanted, target, deadline, read::open)
    }

    /// Failures since the last line about them, if it is time for another line.
    fn complaint(&self, now: Instant) -> Option<u64> {
        let mut complained = self.complained.lock();
        complained.1 += 1;
        if complained.0.is_some_and(|at| now < at + COMPLAINT_PAUSE) {
            return None;
        }
        complained.0 = Some(now);
        Some(std::mem::take(&mut complained.1))
    }
}

/// Asks the master for its folder, and starts the writers if it is on this host.
pub(super) fn begin_files(shared: &Arc<Shared>, deadline: Deadline) -> Result<()> {
    let Ok(folder) = shared.calls.storage_directory(deadline) else { return Ok(()) };
    if folder.is_empty() {
        return Ok(());
    }
    if !shared.files.begin(folder.clone(), deadline.min(Deadline::within(CALL_TIMEOUT))) {
        log::info!("objects are not written to files: the root of {folder} is not on this host");
        return Ok(());
    }
    for _ in 0..limits::STORE_FILE_WRITERS {
        let writer = Arc::clone(shared);
        shared.files.queue.lock().writers += 1;
        let seat = shared.files.take_seat();
        let started = crate::net::thread::spawn("mc-store-file", move || {
            while let Some(work) = writer.files.next() {
                match work {
                    Work::Write(job) => {
                        writer.write_file(&job, seat);
                        writer.files.done(&job);
                    }
                    Work::Tell(words) => writer.tell_files(words),
                }
            }
        });
        if let Err(error) = started {
            shared.files.queue.lock().writers -= 1;
            return Err(error);
        }
    }
    Ok(())
}

impl Shared {
    /// Queues the value of an object that was put; false where it will not be written.
    pub(super) fn queue_file(
        &self,
        key: &[u8],
        path: &str,
        generation: u64,
        ranges: &[Range],
    ) -> bool {
        let queued = self.try_queue(key, path, generation, ranges);
        if !queued && self.files.is_here() {
            self.metrics.file_writes_failed.inc();
        }
        queued
    }

    fn try_queue(&self, key: &[u8], path: &str, generation: u64, ranges: &[Range]) -> bool {
        let Ok(size) = usize::try_from(total(ranges)) else { return false };
        if !self.files.has_room(size) {
            return false;
        }
        let Ok(mut value) = zeroed(size) else { return false };
        let mut rest = value.as_mut_slice();
        for range in ranges {
            let (part, after) = rest.split_at_mut(range.length);
            if copy(*range, Range::of_mut(part)).is_err() {
                return false;
            }
            rest = after;
        }
        let job = Job { key: key.to_vec(), path: path.to_owned(), generation, value };
        self.files.submit(job).is_ok()
    }

    /// Writes one file and tells the master how it went.
    fn write_file(&self, job: &Job, seat: usize) {
        if self.files.is_outdated(job) {
            self.metrics.file_writes_failed.inc();
            return;
        }
        self.files.sit(seat, job.put());
        let written = self.files.write(job, seat);
        if self.files.rise(seat) {
            // It was kept for so long that the master was told already. Without a number the path
            // may serve others.
            if written.is_ok() && job.generation != 0 {
                let _ = std::fs::remove_file(&job.path);
            }
            return;
        }
        if let Err(error) = written {
            self.metrics.file_writes_failed.inc();
            if let Some(count) = self.files.complaint(Instant::now()) {
                log::warn!("{count} files were not written, the last is {}: {error}", job.path);
            }
            self.tell_file(Word { put: job.put(), path: None });
            return;
        }
        if self.files.is_outdated(job) {
            self.metrics.file_writes_failed.inc();
            let _ = std::fs::remove_file(&job.path);
            return;
        }
        self.tell_file(Word { put: job.put(), path: Some(job.path.clone()) });
    }
}

#[cfg(test)]
mod tests;
