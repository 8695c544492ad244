//! Threads that touch the file system for callers who must not be kept by it.
//!
//! A system call on a file system that hangs (a server that is away, a disk that is dying) cannot
//! be ended. So it is made by one of at most [`limits::STORE_FILE_READERS`] threads
//! `mc-store-read`, which are started when they are needed, and the caller waits no longer than its
//! deadline. What was not wanted any more is thrown away: a thread touches no memory of its caller.
//! When all threads have stood in one call for [`limits::STORE_FILE_STUCK`], further work is
//! refused at once, until one of them comes back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, RecvTimeoutError};
use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::time::Deadline;

type Work = Box<dyn FnOnce(&Pace<'_>) + Send>;

/// See the module.
#[derive(Default)]
pub(super) struct Readers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Work, Ticket)>,
    /// Since when each thread that works is in its present step.
    steps: Vec<Option<Instant>>,
    idle: usize,
    threads: usize,
    stop: bool,
}

/// Given by the caller, and taken back when it does not wait any more.
#[derive(Clone, Default)]
struct Ticket(Arc<AtomicBool>);

/// How a job says that it gets on, and learns that nobody waits for it.
pub(super) struct Pace<'a> {
    inner: &'a Inner,
    thread: usize,
    ticket: Ticket,
}

impl Pace<'_> {
    /// A step begins that may take long; false where its outcome is not wanted any more.
    pub(super) fn step(&self) -> bool {
        if let Some(step) = self.inner.state.lock().steps.get_mut(self.thread) {
            *step = Some(Instant::now());
        }
        !self.ticket.0.load(Ordering::Acquire)
    }
}

/// Takes the ticket back when the caller goes.
pub(super) struct Waiting(Ticket);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0 .0.store(true, Ordering::Release);
    }
}

impl Readers {
    /// Hands work to a thread. It is not begun any more once the result is dropped.
    pub(super) fn begin(&self, work: impl FnOnce(&Pace<'_>) + Send + 'static) -> Result<Waiting> {
        let ticket = Ticket::default();
        let mut state = self.0.state.lock();
        if state.stop {
            return Err(Error::new(ErrorKind::Shutdown, "the store client is closed"));
        }
        state.jobs.retain(|(_, ticket)| !ticket.0.load(Ordering::Acquire));
        let is_full = state.threads >= limits::STORE_FILE_READERS && state.idle == 0;
        let stuck = |step: &Option<Instant>| {
            step.is_some_and(|since| since.elapsed() >= limits::STORE_FILE_STUCK)
        };
        if is_full && state.steps.iter().all(stuck) {
            return Err(does_not_answer());
        }
        if state.jobs.len() >= limits::STORE_FILE_READS_MAX {
            return Err(Error::new(ErrorKind::Busy, "too many files are waited for"));
        }
        if state.idle <= state.jobs.len() && state.threads < limits::STORE_FILE_READERS {
            let (inner, thread) = (Arc::clone(&self.0), state.threads);
            let started = crate::net::thread::spawn("mc-store-read", move || inner.run(thread));
            match started {
                Ok(_) => {
                    state.threads += 1;
                    state.steps.push(None);
                }
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        state.jobs.push_back((Box::new(work), ticket.clone()));
        drop(state);
        self.0.changed.notify_one();
        Ok(Waiting(ticket))
    }

    /// Asks the file system one thing and waits for the answer, at most until `deadline`.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        deadline: Deadline,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = bounded(1);
        let _waiting = self.begin(move |pace| {
            if pace.step() {
                // Nobody may be there any more.
                let _ = send.send(question());
            }
        })?;
        match receive.recv_timeout(deadline.remaining(Instant::now())) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => Err(does_not_answer()),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::new(ErrorKind::Shutdown, "the store client is closed"))
            }
        }
    }

    /// Ends the threads; those that the file system keeps are left behind after `time`.
    pub(super) fn finish(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut state = self.0.state.lock();
        state.stop = true;
        state.jobs.clear();
        self.0.changed.notify_all();
        while state.threads > 0 {
            if self.0.changed.wait_until(&mut state, end).timed_out() {
                log::warn!("{} threads are left in a file system that hangs", state.threads);
                return;
            }
        }
    }
}

impl Inner {
    fn run(&self, thread: usize) {
        let mut state = self.state.lock();
        loop {
            if let Some((work, ticket)) = state.jobs.pop_front() {
                state.steps[thread] = Some(Instant::now());
                drop(state);
                if !ticket.0.load(Ordering::Acquire) {
                    work(&Pace { inner: self, thread, ticket });
                }
                state = self.state.lock();
                state.steps[thread] = None;
                continue;
            }
            if state.stop {
                state.threads -= 1;
                self.changed.notify_all();
                return;
            }
            state.idle += 1;
            self.changed.wait(&mut state);
            state.idle -= 1;
        }
    }
}

pub(super) fn does_not_answer() -> Error {
    Error::new(ErrorKind::Timeout, "the file system does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands still until the other end goes.
    fn stand(hold: &crossbeam_channel::Receiver<()>) {
        assert!(hold.recv().is_err());
    }

    fn soon() -> Deadline {
        Deadline::within(Duration::from_millis(20))
    }

    fn patiently() -> Deadline {
        Deadline::within(Duration::from_secs(60))
    }

    #[test]
    fn callers_do_not_wait_for_calls_that_hang() {
        let readers = Readers::default();
        assert_eq!(readers.ask(patiently(), || 5).unwrap(), 5);
        let (release, hold) = bounded::<()>(0);
        let still = hold.clone();
        let asked = readers.ask(soon(), move || stand(&still));
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::Timeout);
        let mut waiting = Vec::new();
        for _ in 0..limits::STORE_FILE_READERS {
            let hold = hold.clone();
            waiting.push(readers.begin(move |_| stand(&hold)).unwrap());
        }
        // All threads stand still: after a while nobody is let wait any more.
        while readers.0.state.lock().steps.iter().flatten().count() < limits::STORE_FILE_READERS {
            std::thread::yield_now();
        }
        std::thread::sleep(limits::STORE_FILE_STUCK);
        let began = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&began);
        let asked = readers.ask(patiently(), move || mark.store(true, Ordering::Release));
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(!began.load(Ordering::Acquire));
        // They come back, and everything goes on.
        drop((release, waiting));
        while readers.0.state.lock().idle < limits::STORE_FILE_READERS {
            std::thread::yield_now();
        }
        assert_eq!(readers.ask(patiently(), || 6).unwrap(), 6);
        assert_eq!(readers.0.state.lock().threads, limits::STORE_FILE_READERS);
        readers.finish(Duration::from_secs(60));
        assert_eq!(readers.0.state.lock().threads, 0);
        assert_eq!(readers.ask(patiently(), || 7).unwrap_err().kind(), ErrorKind::Shutdown);
    }

    #[test]
    fn what_nobody_waits_for_is_not_begun() {
        let readers = Readers::default();
        let (release, hold) = bounded::<()>(0);
        let mut waiting = Vec::new();
        for _ in 0..limits::STORE_FILE_READERS {
            let hold = hold.clone();
            waiting.push(readers.begin(move |_| stand(&hold)).unwrap());
        }
        let began = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&began);
        drop(readers.begin(move |_| mark.store(true, Ordering::Release)).unwrap());
        drop(release);
        readers.finish(Duration::from_secs(60));
        assert!(!began.load(Ordering::Acquire));
        // A closed client leaves behind what hangs.
        let stuck = Readers::default();
        let (release, hold) = bounded::<()>(0);
        let _waiting = stuck.begin(move |_| stand(&hold)).unwrap();
        while stuck.0.state.lock().steps.first().is_none_or(Option::is_none) {
            std::thread::yield_now();
        }
        stuck.finish(Duration::from_millis(1));
        assert_eq!(stuck.0.state.lock().threads, 1);
        drop(release);
        stuck.finish(Duration::from_secs(60));
        assert_eq!(stuck.0.state.lock().threads, 0);
    }
}
