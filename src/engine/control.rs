//! Work that may block, off the data path: repairs of segments and notifications.
//!
//! A few threads (`mc-control-N`) take jobs from one bounded queue. A segment has at most one
//! repair queued, so the queue is bounded by the number of segments.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, Receiver, Sender, TrySendError};
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::net::thread::spawn;
use crate::time::Deadline;
use crate::transport::{Driver, Recovery, Scope, Slice};

use super::failover::{decide, Decision, Failure};
use super::remote::Found;
use super::segment::{Parked, Segment, SegmentId};
use super::{Notification, Shared};

const THREADS: usize = 3;
const QUEUE: usize = 8192;

pub(super) enum Job {
    /// Slices of this segment are parked.
    Repair(Arc<Segment>),
    /// All requests before this notification ended well.
    Notify { segment: SegmentId, notification: Notification, timeout: Duration },
    /// Fetch every descriptor again, as `metadata_refresh_interval_s` asks.
    RefreshAll,
}

/// The queue and its threads.
pub(super) struct Control {
    sender: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Control {
    pub(super) fn new() -> (Control, Receiver<Job>) {
        let (sender, receiver) = bounded(QUEUE);
        (Control { sender: Mutex::new(Some(sender)), threads: Mutex::default() }, receiver)
    }

    pub(super) fn start(&self, shared: &Arc<Shared>, jobs: &Receiver<Job>) -> Result<()> {
        for index in 0..THREADS {
            let (shared, jobs) = (Arc::downgrade(shared), jobs.clone());
            let thread = spawn(&format!("mc-control-{index}"), move || run(&shared, &jobs))?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }

    /// Queues a job, or gives it back.
    pub(super) fn queue(&self, job: Job) -> std::result::Result<(), Job> {
        match &*self.sender.lock() {
            Some(sender) => sender.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }

    /// Ends the threads after the jobs they are at.
    pub(super) fn stop(&self) {
        self.sender.lock().take();
        let own = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The last handle of an engine may be dropped by one of its own threads.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

fn run(shared: &Weak<Shared>, jobs: &Receiver<Job>) {
    let interval = match shared.upgrade() {
        Some(shared) => shared.config.metadata_refresh_interval_s,
        None => return,
    };
    let mut next_refresh =
        (interval > 0).then(|| Instant::now() + Duration::from_secs(interval.into()));
    loop {
        let job = match next_refresh {
            None => jobs.recv().ok(),
            Some(at) => match jobs.recv_deadline(at) {
                Ok(job) => Some(job),
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                    next_refresh = Some(Instant::now() + Duration::from_secs(interval.into()));
                    Some(Job::RefreshAll)
                }
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => None,
            },
        };
        let (Some(job), Some(shared)) = (job, shared.upgrade()) else { return };
        // A panic in one job must not end the thread and with it all later repairs.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            serve(&shared, job);
        }));
        if outcome.is_err() {
            log::error!("control: a job panicked; its slices were failed");
        }
    }
}

fn serve(shared: &Shared, job: Job) {
    match job {
        Job::Repair(segment) => repair(shared, &segment),
        Job::Notify { segment, notification, timeout } => {
            if let Err(error) = shared.notify(segment, &notification, timeout) {
                log::warn!("the notification after a batch was not delivered: {error}");
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

fn repair(shared: &Shared, segment: &Arc<Segment>) {
    let parked = segment.take_parked();
    let now = Instant::now();
    let (mut again, mut stale) = (Vec::new(), Vec::new());
    let before = segment.state().ok();
    for Parked { mut slice, error, scope } in parked {
        slice.attempts += 1;
        let failure = Failure {
            kind: error.kind(),
            scope,
            attempts: slice.attempts,
            deadline: slice.deadline,
            cancelled: slice.is_cancelled(),
        };
        match decide(failure, shared.config.retry_max, now) {
            Decision::Retry => again.push(slice),
            Decision::Refresh => stale.push((slice, error)),
            Decision::Fail => slice.fail(error),
            Decision::FailTimeout => slice.fail(timed_out(&error)),
            Decision::FailCancelled => slice.fail(cancelled()),
        }
    }
    if !stale.is_empty() {
        // Nobody waits longer than the most patient slice; others fail when their time is over.
        let deadline = stale.iter().map(|(slice, _)| slice.deadline).max().unwrap_or(now);
        let deadline = shared.default_deadline().instant().min(deadline);
        match shared.refresh(segment, Deadline::at(deadline)) {
            Ok(()) => again.extend(
                stale
                    .into_iter()
                    .filter_map(|(slice, error)| revise(segment, before.as_deref(), slice, error)),
            ),
            Err(refresh_error) => {
                for (slice, error) in stale {
                    slice.fail(error.with("refresh", &refresh_error));
                }
            }
        }
    }
    if again.is_empty() {
        return;
    }
    shared.metrics.retries.inc_by(again.len() as u64);
    match segment.state() {
        Ok(state) => {
            state.route.submit(&mut again.into_iter(), Driver::Threads);
        }
        Err(error) => {
            for slice in again {
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
