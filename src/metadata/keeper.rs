//! Keeps the own entries of an engine in a service: under a lease where the service has one, and
//! put again where the service lost them.
//!
//! Owns the entries of one store and one thread, which sleeps except for one short call every third
//! of a lease. It runs while there are entries to keep, and ends when the last one is removed or
//! the store is dropped.
//!
//! Writing calls of one store take turns, so that an older document is never put after a newer
//! one. The lock of the turn is therefore held across calls to the service; every call is bounded,
//! and a caller waits for its turn only until its own deadline. Reading takes no turn.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::thread;
use crate::time::Deadline;

use super::{Lifetime, Put};

/// Keys and values, in the order in which they were last put. An engine has two.
#[derive(Default)]
pub(super) struct Entries(Vec<(String, Vec<u8>)>);

impl Entries {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.remove(key);
        self.0.push((key.to_owned(), value.to_owned()));
    }

    fn remove(&mut self, key: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(present, _)| present != key);
        self.0.len() < before
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The writing side of a service.
pub(super) trait Writer: Send + 'static {
    /// Name for messages.
    fn scheme(&self) -> &'static str;

    /// Creates or replaces a value.
    fn put(&mut self, key: &str, value: &[u8], lifetime: Lifetime, end: Deadline) -> Result<Put>;

    /// Removes a value.
    fn remove(&mut self, key: &str, end: Deadline) -> Result<()>;

    /// Makes sure that the entries, never none, are there for another lease. Returns true if they
    /// had been lost.
    fn keep(&mut self, entries: &Entries, end: Deadline) -> Result<bool>;

    /// Nothing is left to keep.
    fn rest(&mut self, _end: Deadline) {}
}

/// A writer and what it has written.
pub(super) struct Keeper<W: Writer> {
    shared: Arc<Shared<W>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<W> {
    turn: Mutex<Turn<W>>,
    /// The lease; none leaves entries alone.
    lease: Option<Duration>,
    stop: Mutex<bool>,
    wake: Condvar,
}

struct Turn<W> {
    writer: W,
    entries: Entries,
}

impl<W: Writer> Keeper<W> {
    pub(super) fn new(writer: W, lease: Option<Duration>) -> Keeper<W> {
        let turn = Mutex::new(Turn { writer, entries: Entries::default() });
        let (stop, wake) = (Mutex::new(false), Condvar::new());
        let shared = Arc::new(Shared { turn, lease, stop, wake });
        Keeper { shared, thread: Mutex::new(None) }
    }

    pub(super) fn put(
        &self,
        key: &str,
        value: &[u8],
        lifetime: Lifetime,
        end: Deadline,
    ) -> Result<Put> {
        let mut turn = self.shared.turn(end)?;
        let put = turn.writer.put(key, value, lifetime, end)?;
        if lifetime == Lifetime::Session && put == Put::Done {
            turn.entries.put(key, value);
            drop(turn);
            self.start()?;
        }
        Ok(put)
    }

    pub(super) fn remove(&self, key: &str, end: Deadline) -> Result<()> {
        let mut turn = self.shared.turn(end)?;
        let was_kept = turn.entries.remove(key);
        let removed = turn.writer.remove(key, end);
        self.rest(turn, was_kept, end);
        removed
    }

    pub(super) fn forget(&self, key: &str) {
        let mut turn = self.shared.turn.lock();
        let was_kept = turn.entries.remove(key);
        self.rest(turn, was_kept, Deadline::within(limits::METADATA_KEEP_TIMEOUT));
    }

    /// Ends what was running for the last entry.
    fn rest(&self, mut turn: MutexGuard<'_, Turn<W>>, was_kept: bool, end: Deadline) {
        if was_kept && turn.entries.is_empty() {
            turn.writer.rest(end);
            drop(turn);
            self.stop_if_idle();
        }
    }

    fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock();
        let Some(lease) = self.shared.lease else { return Ok(()) };
        if thread.is_none() {
            *self.shared.stop.lock() = false;
            let shared = Arc::clone(&self.shared);
            *thread = Some(thread::spawn("mc-metadata", move || shared.run(lease / 3))?);
        }
        Ok(())
    }

    fn stop_if_idle(&self) {
        // Whoever adds an entry does so before asking for the thread, so it is seen here or finds
        // the thread gone. Order of locks: thread, turn.
        let mut thread = self.thread.lock();
        if self.shared.turn.lock().entries.is_empty() {
            self.shared.stop(thread.take());
        }
    }
}

impl<W: Writer> Drop for Keeper<W> {
    fn drop(&mut self) {
        self.shared.stop(self.thread.get_mut().take());
        let mut turn = self.shared.turn.lock();
        if !turn.entries.is_empty() {
            turn.writer.rest(Deadline::within(limits::METADATA_KEEP_TIMEOUT));
        }
    }
}

impl<W: Writer> Shared<W> {
    fn turn(&self, end: Deadline) -> Result<MutexGuard<'_, Turn<W>>> {
        self.turn.try_lock_until(end.instant()).ok_or_else(|| {
            Error::new(ErrorKind::Timeout, "another call to the metadata service is not done yet")
        })
    }

    fn stop(&self, thread: Option<JoinHandle<()>>) {
        let Some(thread) = thread else { return };
        *self.stop.lock() = true;
        self.wake.notify_all();
        // A panic of that thread has been reported by the panic hook; there is nothing to add.
        let _ = thread.join();
    }

    fn run(&self, interval: Duration) {
        let mut failing = false;
        loop {
            // After a failure more often, so that entries are back soon after the service.
            let pause = if failing { interval.min(limits::METADATA_KEEP_RETRY) } else { interval };
            if self.is_stopped_after(pause) {
                return;
            }
            let mut turn = self.turn.lock();
            let Turn { writer, entries } = &mut *turn;
            if entries.is_empty() {
                continue;
            }
            let scheme = writer.scheme();
            match writer.keep(entries, Deadline::within(limits::METADATA_KEEP_TIMEOUT)) {
                Ok(lost) => {
                    if lost {
                        log::warn!("the {scheme} metadata service had lost entries: put again");
                    } else if failing {
                        log::info!("the {scheme} metadata service is back");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        log::warn!(
                            "entries of the {scheme} metadata service are not kept: {error}"
                        );
                    }
                    failing = true;
                }
            }
        }
    }

    fn is_stopped_after(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut stop = self.stop.lock();
        while !*stop {
            if self.wake.wait_until(&mut stop, end).timed_out() {
                break;
            }
        }
        *stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what it is asked for.
    #[derive(Default)]
    struct Counting {
        kept: Arc<Mutex<Vec<usize>>>,
        rests: Arc<Mutex<usize>>,
    }

    impl Writer for Counting {
        fn scheme(&self) -> &'static str {
            "counting"
        }

        fn put(&mut self, key: &str, _: &[u8], _: Lifetime, _: Deadline) -> Result<Put> {
            Ok(if key == "taken" { Put::Taken } else { Put::Done })
        }

        fn remove(&mut self, _: &str, _: Deadline) -> Result<()> {
            Err(Error::new(ErrorKind::MetadataUnavailable, "away"))
        }

        fn keep(&mut self, entries: &Entries, _: Deadline) -> Result<bool> {
            self.kept.lock().push(entries.0.len());
            match self.kept.lock().len() {
                1 => Err(Error::new(ErrorKind::MetadataUnavailable, "away")),
                _ => Ok(false),
            }
        }

        fn rest(&mut self, _: Deadline) {
            *self.rests.lock() += 1;
        }
    }

    #[test]
    fn entries_are_kept_until_they_are_removed() {
        let writer = Counting::default();
        let (kept, rests) = (Arc::clone(&writer.kept), Arc::clone(&writer.rests));
        let keeper = Keeper::new(writer, Some(Duration::from_millis(30)));
        let end = Deadline::within(Duration::from_secs(60));
        assert_eq!(keeper.put("taken", b"1", Lifetime::Session, end).unwrap(), Put::Taken);
        keeper.put("permanent", b"1", Lifetime::Permanent, end).unwrap();
        assert!(keeper.thread.lock().is_none(), "nothing to keep, yet a thread runs");
        keeper.put("a", b"1", Lifetime::Session, end).unwrap();
        keeper.put("b", b"1", Lifetime::Session, end).unwrap();
        while kept.lock().iter().filter(|count| **count == 2).count() < 2 {
            assert!(!end.passed(Instant::now()));
            std::thread::yield_now();
        }
        // A service that is away changes nothing about what this engine means to keep.
        keeper.remove("a", end).unwrap_err();
        assert!(keeper.thread.lock().is_some());
        keeper.remove("b", end).unwrap_err();
        assert!(keeper.thread.lock().is_none());
        assert_eq!(*rests.lock(), 1);
        keeper.put("c", b"1", Lifetime::Session, end).unwrap();
        drop(keeper);
        assert_eq!(*rests.lock(), 2);
    }

    #[test]
    fn a_turn_is_waited_for_only_until_the_deadline() {
        let keeper = Keeper::new(Counting::default(), None);
        let busy = keeper.shared.turn.lock();
        let end = Deadline::within(Duration::from_millis(20));
        let error = keeper.put("a", b"1", Lifetime::Session, end).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        drop(busy);
    }
}
