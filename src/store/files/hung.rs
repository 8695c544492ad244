//! Writers that the file system keeps: noticed, and what waits for them given up.
//!
//! A writer notes when it asks the file system for something. Where one has not come back for
//! [`limits::STORE_FILE_WRITE_STUCK`], the object that it writes is taken back; where all have not,
//! so are those that wait, and no more are queued until one comes back. One that does come back
//! deletes what it has written. Masters of ours are told, those of upstream's as before only by
//! writers.
//!
//! Owns the seats of the writers, which are part of the queue. Entered by the writers; `mc-store`
//! looks for those that are kept, and whoever closes the client. Neither touches a file.

use std::time::Instant;

use super::words::Word;
use super::{FileTier, Job, Queue, CALL_TIMEOUT};
use crate::limits;
use crate::store::calls::Put;
use crate::store::client::Shared;
use crate::time::Deadline;

/// What one writer is at.
#[derive(Default)]
pub(super) struct Seat {
    put: Option<Put>,
    /// When it asked the file system for what it waits for.
    since: Option<Instant>,
    /// The object was taken back meanwhile.
    is_given_up: bool,
}

/// What was taken back, and is to be told.
#[derive(Default)]
pub(in crate::store) struct GivenUp {
    words: Vec<Word>,
    /// How many of them are at a writer that is kept, and how many waited.
    writers: usize,
    waited: usize,
}

#[cfg(test)]
impl GivenUp {
    pub(super) fn parts(self) -> (Vec<Word>, usize, usize) {
        (self.words, self.writers, self.waited)
    }
}

impl Seat {
    fn is_kept(&self, now: Instant) -> bool {
        let is_long =
            |since| now.saturating_duration_since(since) >= limits::STORE_FILE_WRITE_STUCK;
        self.since.is_some_and(is_long)
    }

    /// Takes its object back, if it has one that was not.
    fn give_up(&mut self) -> Option<Word> {
        let put = self.put.clone().filter(|_| !self.is_given_up)?;
        self.is_given_up = true;
        Some(Word { put, path: None })
    }
}

impl Queue {
    /// No writer comes back from the file system.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        !self.seats.is_empty() && self.seats.iter().all(|seat| seat.is_kept(now))
    }

    /// Takes back what waits, and what is to be said again of others that need no file.
    fn give_up_jobs(&mut self, given: &mut GivenUp) {
        for job in std::mem::take(&mut self.jobs) {
            self.bytes -= job.value.len();
            self.leave(&job.key);
            given.words.push(Word { put: job.put(), path: None });
            given.waited += 1;
        }
        given.words.extend(self.words.take_revocations());
    }
}

impl Job {
    pub(super) fn put(&self) -> Put {
        Put { key: self.key.clone(), generation: self.generation }
    }
}

impl FileTier {
    /// A place for one more writer.
    pub(super) fn take_seat(&self) -> usize {
        let mut queue = self.queue.lock();
        queue.seats.push(Seat::default());
        queue.seats.len() - 1
    }

    /// The writer begins an object.
    pub(super) fn sit(&self, seat: usize, put: Put) {
        if let Some(seat) = self.queue.lock().seats.get_mut(seat) {
            *seat = Seat { put: Some(put), ..Seat::default() };
        }
    }

    /// The writer asks the file system for the next thing.
    pub(super) fn step(&self, seat: usize) {
        if let Some(seat) = self.queue.lock().seats.get_mut(seat) {
            seat.since = Some(Instant::now());
        }
    }

    /// The writer is done with the file system; true if its object was given up meanwhile.
    pub(super) fn rise(&self, seat: usize) -> bool {
        let mut queue = self.queue.lock();
        queue.seats.get_mut(seat).is_some_and(|seat| std::mem::take(seat).is_given_up)
    }

    /// What is given up since the last look.
    pub(super) fn give_up(&self, now: Instant) -> GivenUp {
        let mut queue = self.queue.lock();
        let kept = queue.seats.iter_mut().filter(|seat| seat.is_kept(now));
        let words: Vec<Word> = kept.filter_map(Seat::give_up).collect();
        let mut given = GivenUp { writers: words.len(), words, waited: 0 };
        if queue.is_stuck(now) {
            queue.give_up_jobs(&mut given);
        }
        given
    }

    /// Everything that is not written, at the end.
    pub(super) fn give_up_all(&self) -> GivenUp {
        let mut queue = self.queue.lock();
        let words: Vec<Word> = queue.seats.iter_mut().filter_map(Seat::give_up).collect();
        let mut given = GivenUp { writers: words.len(), words, waited: 0 };
        queue.give_up_jobs(&mut given);
        given
    }
}

impl Shared {
    /// Takes back what a file system that hangs keeps from being written. The master was heard just
    /// now.
    pub(in crate::store) fn give_up_files(&self) {
        if self.calls.is_native() {
            let given = self.files.give_up(Instant::now());
            self.metrics.file_timeouts.inc_by(given.writers as u64);
            self.tell_given_up(given, Deadline::within(CALL_TIMEOUT));
        }
    }

    /// Counts what is given up, and tells a master of ours.
    pub(in crate::store) fn tell_given_up(&self, given: GivenUp, deadline: Deadline) {
        let GivenUp { words, writers, waited } = given;
        self.metrics.file_writes_failed.inc_by((writers + waited) as u64);
        if writers + waited > 0 {
            log::warn!(
                "the file system does not answer in time: {writers} files are not written, and \
                 {waited} that wait for it"
            );
        }
        if self.calls.is_native() {
            self.revoke_words(words, deadline);
        }
    }
}
