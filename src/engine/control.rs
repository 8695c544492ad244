//! Work that may block, off the data path: repairs of segments and notifications.
//!
//! A few threads (`mc-control-N`) take jobs from one bounded queue. A segment has at most one
//! repair queued or under way, so the queue is bounded by the number of segments. What a repair
//! that blocks is for stays with the segment, where cancelling and `watch.rs` find it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{bounded, Receiver, Sender, TrySendError};
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::net::thread::spawn;
use crate::time::Deadline;
use crate::transport::{Driver, Recovery, Scope, Slice};

use super::failover::{decide, Decision, Failure};
use super::remote::Found;
use super::segment::{Parked, Segment, SegmentId};
use super::Shared;

/// Threads that are always there.
const THREADS: usize = 2;
/// Jobs can block for a whole time limit, so one that finds no thread free brings another, up to
/// this many: that many dead peers at once delay nobody else's repair.
const THREADS_MAX: usize = 32;
const QUEUE: usize = 8192;

pub(super) enum Job {
    /// Slices of this segment are parked.
    Repair(Arc<Segment>),
    /// Notifications are in this segment's outbox.
    Notify(Arc<Segment>),
    /// Fetch every descriptor again, as `metadata_refresh_interval_s` asks.
    RefreshAll,
}

/// The queue and its threads.
pub(super) struct Control {
    sender: Mutex<Option<Sender<Job>>>,
    crew: Mutex<Crew>,
    /// Jobs queued or being done.
    jobs: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Crew {
    shared: Weak<Shared>,
    receiver: Option<Receiver<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Control {
    pub(super) fn new() -> (Control, Receiver<Job>) {
        let (sender, receiver) = bounded(QUEUE);
        let control = Control {
            sender: Mutex::new(Some(sender)),
            crew: Mutex::default(),
            jobs: Arc::default(),
        };
        (control, receiver)
    }

    pub(super) fn start(&self, shared: &Arc<Shared>, jobs: Receiver<Job>) -> Result<()> {
        let mut crew = self.crew.lock();
        crew.shared = Arc::downgrade(shared);
        crew.receiver = Some(jobs);
        while crew.threads.len() < THREADS {
            self.hire(&mut crew)?;
        }
        Ok(())
    }

    fn hire(&self, crew: &mut Crew) -> Result<()> {
        let Some(receiver) = crew.receiver.clone() else { return Ok(()) };
        let (shared, jobs) = (Weak::clone(&crew.shared), Arc::clone(&self.jobs));
        let name = format!("mc-control-{}", crew.threads.len());
        crew.threads.push(spawn(&name, move || run(&shared, &receiver, &jobs))?);
        Ok(())
    }

    /// Queues a job, or gives it back.
    pub(super) fn queue(&self, job: Job) -> std::result::Result<(), Job> {
        let under_way = self.jobs.fetch_add(1, Ordering::AcqRel);
        let queued = match &*self.sender.lock() {
            Some(sender) => sender.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        };
        if queued.is_err() {
            self.jobs.fetch_sub(1, Ordering::AcqRel);
            return queued;
        }
        let mut crew = self.crew.lock();
        if under_way >= crew.threads.len() && crew.threads.len() < THREADS_MAX {
            if let Err(error) = self.hire(&mut crew) {
                // The job waits for one of the threads there are.
                log::warn!("control: {error}");
            }
        }
        Ok(())
    }

    /// Ends the threads after the jobs they are at.
    pub(super) fn stop(&self) {
        self.sender.lock().take();
        let crew = std::mem::take(&mut *self.crew.lock());
        let own = std::thread::current().id();
        for thread in crew.threads {
            // The last handle of an engine may be dropped by one of its own threads.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

fn run(shared: &Weak<Shared>, receiver: &Receiver<Job>, jobs: &AtomicUsize) {
    while let Ok(job) = receiver.recv() {
        let Some(shared) = shared.upgrade() else { return };
        let (repaired, notified) = match &job {
            Job::Repair(segment) => (Some(Arc::clone(segment)), None),
            Job::Notify(segment) => (None, Some(Arc::clone(segment))),
            Job::RefreshAll => (None, None),
        };
        // A panic in one job must not end the thread and with it all later repairs.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            serve(&shared, job);
        }));
        jobs.fetch_sub(1, Ordering::AcqRel);
        if outcome.is_err() {
            log::error!("control: a job panicked; its slices were failed");
            // Dropping the slices fails them.
            repaired.map(|segment| segment.empty());
            notified.map(|segment| segment.drop_posted());
        }
    }
}

fn serve(shared: &Shared, job: Job) {
    match job {
        Job::Repair(segment) => {
            while let Some(parked) = segment.next_repair() {
                repair(shared, &segment, parked);
            }
        }
        // One after the other: the peer is to see them in the order of the batches.
        Job::Notify(segment) => {
            while let Some((notification, deadline)) = segment.next_posted() {
                let timeout = deadline.remaining(Instant::now());
                if let Err(error) = shared.notify(segment.id, &notification, timeout) {
                    log::warn!("the notification after a batch was not delivered: {error}");
                }
            }
        }
        Job::RefreshAll => {
            for segment in shared.segments.all() {
                if let Err(error) = shared.refresh(&segment, shared.default_deadline()) {
                    log::debug!("background refresh failed: {error}");
                }
            }
        }
    }
}

fn repair(shared: &Shared, segment: &Arc<Segment>, parked: Vec<Parked>) {
    let now = Instant::now();
    let (mut again, mut stale) = (Vec::new(), Vec::new());
    let before = segment.state().ok();
    let place = |error: Error| match error.context("segment") {
        Some(_) => error,
        None => error.with("segment", &segment.name),
    };
    for mut parked in parked {
        if let Some(key) = found_meanwhile(before.as_deref(), &parked, now) {
            parked.slice.remote_key = key;
            again.push(parked.slice);
            continue;
        }
        parked.slice.attempts += 1;
        let Parked { slice, error, scope } = &parked;
        let failure = Failure {
            kind: error.kind(),
            scope: *scope,
            attempts: slice.attempts,
            deadline: slice.deadline,
            cancelled: slice.is_cancelled(),
        };
        let decision = decide(failure, shared.config.retry_max, now);
        let Parked { slice, error, scope } = parked;
        match decision {
            Decision::Retry => again.push(slice),
            Decision::Refresh => stale.push(Parked { slice, error, scope }),
            Decision::Fail => slice.fail(place(error)),
            Decision::FailTimeout => slice.fail(place(timed_out(&error))),
            Decision::FailCancelled => slice.fail(cancelled()),
        }
    }
    send(shared, segment, again);
    if stale.is_empty() {
        return;
    }
    // Nobody waits longer than the most patient slice; others end where they are left.
    let deadline = stale.iter().map(|parked| parked.slice.deadline).max().unwrap_or(now);
    let deadline = shared.default_deadline().instant().min(deadline);
    segment.leave(stale);
    let refreshed = shared.refresh(segment, Deadline::at(deadline));
    let stale = segment.take_back().into_iter();
    match refreshed {
        Ok(()) => {
            let revised = stale.filter_map(|parked| {
                let Parked { slice, error, .. } = parked;
                revise(segment, before.as_deref(), slice, place(error))
            });
            let revised = revised.collect();
            send(shared, segment, revised);
        }
        Err(refresh_error) => {
            for Parked { slice, error, .. } in stale {
                slice.fail(place(error).with("refresh", &refresh_error));
            }
        }
    }
}

/// The key of a range that the slice did not know, where a look for another slice has brought it
/// since: many requests for what a peer registered a moment ago share one look. Each time costs a
/// look of somebody, and the deadline ends it, so this counts as no attempt.
fn found_meanwhile(
    state: Option<&super::segment::SegmentState>,
    parked: &Parked,
    now: Instant,
) -> Option<u64> {
    let Parked { slice, error, .. } = parked;
    let is_over = slice.is_cancelled() || now >= slice.deadline;
    if error.kind() != ErrorKind::RemoteRange || slice.is_pinned || is_over {
        return None;
    }
    match state?.find(slice.remote_address, slice.length, slice.operation) {
        Found::Key(key) if key != slice.remote_key => Some(key),
        _ => None,
    }
}

/// Slices as a route wants them: they may have been planned for another one, or for none.
struct Fitted {
    slices: std::vec::IntoIter<Slice>,
    rest: Option<Slice>,
    bytes_max: u64,
}

impl Iterator for Fitted {
    type Item = Slice;

    fn next(&mut self) -> Option<Slice> {
        let mut slice = self.rest.take().or_else(|| self.slices.next())?;
        if slice.length <= self.bytes_max {
            return Some(slice);
        }
        let front = slice.cut(self.bytes_max);
        self.rest = Some(slice);
        Some(front)
    }
}

/// Hands slices to the present route again.
fn send(shared: &Shared, segment: &Segment, slices: Vec<Slice>) {
    if slices.is_empty() {
        return;
    }
    shared.metrics.retries.inc_by(slices.len() as u64);
    match segment.state() {
        Ok(state) => {
            // Another repair may have found the peer elsewhere, or with another registration.
            let mut fresh = Vec::with_capacity(slices.len());
            for mut slice in slices {
                let found = state.find(slice.remote_address, slice.length, slice.operation);
                match found {
                    Found::Key(key) if slice.is_pinned && key != slice.remote_key => {
                        slice.fail(registered_anew().with("segment", &segment.name));
                        continue;
                    }
                    Found::Key(key) => slice.remote_key = key,
                    Found::Missing | Found::Denied => {}
                }
                fresh.push(slice);
            }
            let bytes_max = state.way.route.split_rule().slice_bytes_max.max(1);
            let mut fitted = Fitted { slices: fresh.into_iter(), rest: None, bytes_max };
            state.way.route.submit(&mut fitted, Driver::Threads);
        }
        Err(error) => {
            for slice in slices {
                slice.fail(error.clone());
            }
        }
    }
}

/// Looks the slice's range up in the fresh descriptor. A range that the peer refused and whose
/// description has not changed is refused for good.
fn revise(
    segment: &Segment,
    before: Option<&super::segment::SegmentState>,
    mut slice: Slice,
    error: Error,
) -> Option<Slice> {
    let (address, length, operation) = (slice.remote_address, slice.length, slice.operation);
    let found = segment.with_state(|state| state.find(address, length, operation));
    match found {
        Ok(Found::Key(key)) => {
            let refused = error.kind() == ErrorKind::RemoteRange;
            let known = before.map(|state| state.find(address, length, operation));
            if refused && known == Some(Found::Key(key)) && key == slice.remote_key {
                slice.fail(error);
                return None;
            }
            if slice.is_pinned && key != slice.remote_key {
                slice.fail(registered_anew().with("first", &error));
                return None;
            }
            slice.remote_key = key;
            Some(slice)
        }
        Ok(Found::Missing | Found::Denied) => {
            if error.kind() == ErrorKind::RemoteRange {
                slice.fail(error);
            } else {
                let text = "the peer came back without this buffer";
                slice.fail(Error::new(ErrorKind::RemoteRange, text).with("first", &error));
            }
            None
        }
        Err(gone) => {
            slice.fail(gone);
            None
        }
    }
}

fn registered_anew() -> Error {
    let text = "the peer has registered the buffer anew since the request began";
    Error::new(ErrorKind::RemoteRange, text)
}

pub(super) fn timed_out(error: &Error) -> Error {
    Error::new(ErrorKind::Timeout, "the deadline passed").with("last_failure", error)
}

pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled by its owner")
}

/// Parks failed slices at their segment. Given to transports before the engine is complete.
pub(super) struct SegmentRecovery {
    shared: std::sync::OnceLock<Weak<Shared>>,
}

impl SegmentRecovery {
    pub(super) fn new() -> SegmentRecovery {
        SegmentRecovery { shared: std::sync::OnceLock::new() }
    }

    pub(super) fn connect(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
    }
}

impl Recovery for SegmentRecovery {
    fn recover(&self, slice: Slice, error: Error, scope: Scope) {
        let shared = self.shared.get().and_then(Weak::upgrade);
        let Some(shared) = shared.filter(|shared| !shared.is_closed()) else {
            slice.fail(super::shutdown_error());
            return;
        };
        match shared.segments.get(SegmentId(slice.segment)) {
            Ok(segment) => shared.park(&segment, Parked { slice, error, scope }),
            Err(_) => slice.fail(error),
        }
    }
}
