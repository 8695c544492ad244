//! Batches as callers see them, and what is checked and counted before requests become slices.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::transport::{Driver, Operation, Rails, Tasks};

use super::batch::{BatchCore, BatchProgress, TaskState, TaskStatus};
use super::control::{cancelled, timed_out};
use super::notify::{Notification, NotifyAfter};
use super::recent::Recent;
use super::segment::{Parked, Segment, SegmentId, SegmentState};
use super::slices::{Ends, Ledger, Slices};
use super::Shared;

/// One read or write.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Direction.
    pub operation: Operation,
    /// First local address; the range must lie inside one registered buffer.
    pub local: usize,
    /// Whose memory.
    pub segment: SegmentId,
    /// First address in the peer; the range must lie inside one of its buffers.
    pub remote_address: u64,
    /// Bytes; 0 completes at once.
    pub length: u64,
}

/// Segments that a batch has slices for, with the rails they went to. Few, so a list.
type Used = SmallVec<[(Arc<Segment>, Rails); 2]>;

/// What submitters of one batch work with, one at a time.
#[derive(Default)]
struct Desk {
    used: Used,
    recent: Recent,
}

/// A batch and what is needed to drive and cancel it.
pub(super) struct BatchShared {
    pub(super) core: Arc<BatchCore>,
    desk: Mutex<Desk>,
}

impl BatchShared {
    fn new(shared: &Shared, capacity: usize) -> Result<BatchShared> {
        let failures = shared.metrics.requests_failed.clone();
        let core = Arc::new(BatchCore::new(capacity, failures)?);
        Ok(BatchShared { core, desk: Mutex::default() })
    }
}

/// Requests submitted together. Clones are handles to the same batch; dropping the last one
/// cancels what is in flight.
#[derive(Clone)]
pub struct Batch(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    batch: Arc<BatchShared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.batch.core.is_done() {
            cancel(&self.shared, &self.batch, &cancelled());
        }
    }
}

impl Batch {
    pub(super) fn new(shared: &Arc<Shared>, capacity: usize) -> Result<Batch> {
        shared.ensure_open()?;
        let batch = Arc::new(BatchShared::new(shared, capacity)?);
        Ok(Batch(Arc::new(Owner { shared: Arc::clone(shared), batch })))
    }

    /// Tasks it can hold until it is reset.
    pub fn capacity(&self) -> usize {
        self.0.batch.core.capacity()
    }

    /// Starts the requests. On an error none was started.
    pub fn submit(&self, requests: &[Request]) -> Result<()> {
        self.submit_with(requests, None, None)
    }

    /// Starts the requests with a timeout of their own, and a notification that is sent to the
    /// first request's segment once all of them completed.
    pub fn submit_with(
        &self,
        requests: &[Request],
        timeout: Option<Duration>,
        notification: Option<Notification>,
    ) -> Result<()> {
        let Owner { shared, batch } = &*self.0;
        // A notification follows when the requests have ended, whether anybody asks or not.
        let driver = match notification {
            Some(_) => Driver::Threads,
            None => Driver::Onlookers,
        };
        submit(shared, batch, requests, How { timeout, driver, is_pinned: false }, notification)
    }

    /// Starts the requests as [`super::Engine::transfer_pinned`] does.
    pub fn submit_pinned(&self, requests: &[Request], timeout: Option<Duration>) -> Result<()> {
        let Owner { shared, batch } = &*self.0;
        let how = How { timeout, driver: Driver::Onlookers, is_pinned: true };
        submit(shared, batch, requests, how, None)
    }

    /// Moves what can be moved now and tells how far the batch is. Never blocks.
    pub fn poll(&self) -> BatchProgress {
        let Owner { batch, .. } = &*self.0;
        if !batch.core.is_done() {
            for (segment, rails) in &batch.desk.lock().used {
                let _ = segment.with_state(|state| state.way.route.progress(*rails));
            }
        }
        batch.core.progress()
    }

    /// Waits until all tasks ended, at most `timeout`; then the tasks go on and the error is
    /// `Timeout`. Failed tasks are in the progress.
    pub fn wait(&self, timeout: Duration) -> Result<BatchProgress> {
        let Owner { shared, batch } = &*self.0;
        let deadline = Instant::now() + timeout.min(limits::TIMEOUT_MAX);
        if !batch.core.is_done() {
            let used = used(batch);
            for (segment, rails) in &used {
                let _ = segment.with_state(|state| state.way.route.attend(*rails));
            }
            shared.wait(&batch.core, &used, deadline);
            release(&used);
        }
        let progress = batch.core.progress();
        if progress.is_done() {
            return Ok(progress);
        }
        Err(Error::new(ErrorKind::Timeout, "the batch is not done yet")
            .with("submitted", progress.submitted)
            .with("done", progress.completed + progress.failed))
    }

    /// Why the first failed task failed.
    pub fn first_error(&self) -> Option<Error> {
        self.0.batch.core.first_error()
    }

    /// One task, by its position in the order of submission. Moves what can be moved now, if it has
    /// not ended. Never blocks.
    pub fn task(&self, index: usize) -> Result<TaskStatus> {
        let core = &self.0.batch.core;
        let task = core.task(index)?;
        if !matches!(task.state, TaskState::Waiting | TaskState::InFlight) {
            return Ok(task);
        }
        self.poll();
        core.task(index)
    }

    /// A descriptor that is readable while all submitted tasks are done; owned by the batch.
    pub fn event_fd(&self) -> Result<RawFd> {
        let batch = &self.0.batch;
        let event = batch.core.event_fd()?;
        if !batch.core.is_done() {
            // Whoever waits for this does not call before the end, as onlookers do. If a submission
            // does not see the descriptor yet, its tasks are seen here.
            for (segment, rails) in used(batch) {
                let _ = segment.with_state(|state| {
                    state.way.route.attend(rails);
                    state.way.route.release(rails);
                });
            }
        }
        Ok(event)
    }

    /// Ends all tasks that are in flight as cancelled. When this returns, their memory is not
    /// touched any more, and the batch takes no further requests until it is reset.
    pub fn cancel(&self) {
        cancel(&self.0.shared, &self.0.batch, &cancelled());
    }

    /// Takes no further requests until it is reset, also none that another thread is about to
    /// submit at this moment. True if nothing is in flight.
    pub fn seal(&self) -> bool {
        let batch = &self.0.batch;
        batch.core.set_cancelled();
        // Whoever submits has ended, or finds the mark when it is its turn.
        let _desk = batch.desk.lock();
        batch.core.is_done()
    }

    /// Empties a batch whose tasks have all ended, for reuse.
    pub fn reset(&self) -> Result<()> {
        reset(&self.0.batch)
    }
}

fn reset(batch: &BatchShared) -> Result<()> {
    let mut desk = batch.desk.lock();
    batch.core.reset()?;
    desk.used.clear();
    Ok(())
}

fn used(batch: &BatchShared) -> Used {
    batch.desk.lock().used.clone()
}

fn release(used: &[(Arc<Segment>, Rails)]) {
    for (segment, rails) in used {
        let _ = segment.with_state(|state| state.way.route.release(*rails));
    }
}

/// Ends what is in flight with `error`.
fn cancel(shared: &Shared, batch: &BatchShared, error: &Error) {
    // New slices of this batch fail before they start, the ones under way are ended here.
    batch.core.set_cancelled();
    let owner = batch.core.owner();
    for (segment, _) in used(batch) {
        let _ = segment.with_state(|state| state.way.route.cancel(owner, error));
        for Parked { slice, .. } in segment.unpark(|slice| slice.belongs_to(owner)) {
            slice.fail(error.clone());
        }
    }
    // A slice that is between two places at this moment belongs to a control thread, which touches
    // no memory and finds the mark.
    let deadline = Instant::now() + limits::CANCEL_HANDOVER;
    while !batch.core.is_done() && Instant::now() < deadline && !shared.is_closed() {
        std::thread::yield_now();
    }
}

/// The one-call form: the calling thread moves the bytes.
pub(super) fn transfer(
    shared: &Arc<Shared>,
    requests: &[Request],
    timeout: Option<Duration>,
) -> Result<()> {
    transfer_how(shared, requests, How { timeout, driver: Driver::Caller, is_pinned: false })
}

/// The same, without another key than the one that is known now.
pub(super) fn transfer_pinned(
    shared: &Arc<Shared>,
    requests: &[Request],
    timeout: Option<Duration>,
) -> Result<()> {
    transfer_how(shared, requests, How { timeout, driver: Driver::Caller, is_pinned: true })
}

fn transfer_how(shared: &Arc<Shared>, requests: &[Request], how: How) -> Result<()> {
    if requests.is_empty() {
        return shared.ensure_open();
    }
    let batch = borrow_batch(shared, requests.len())?;
    let outcome = transfer_with(shared, &batch, requests, how);
    if batch.core.is_done() && reset(&batch).is_ok() {
        give_back(shared, batch);
    }
    outcome
}

fn transfer_with(
    shared: &Arc<Shared>,
    batch: &Arc<BatchShared>,
    requests: &[Request],
    how: How,
) -> Result<()> {
    let bytes: u64 = requests.iter().fold(0, |sum, r| sum.saturating_add(r.length));
    let deadline = Ends::new(shared, how.timeout).of(bytes);
    submit(shared, batch, requests, how, None)?;
    let used = used(batch);
    if !batch.core.is_done() {
        shared.wait(&batch.core, &used, deadline);
    }
    release(&used);
    if !batch.core.is_done() {
        cancel(shared, batch, &timed_out(&Error::new(ErrorKind::Timeout, "no answer yet")));
    }
    match batch.core.first_error() {
        Some(error) => Err(error),
        None if batch.core.is_done() => Ok(()),
        None => Err(Error::new(ErrorKind::Timeout, "the deadline passed")),
    }
}

/// Batches of one-call transfers are kept and used again, so that a small transfer allocates
/// nothing.
const IDLE_BATCH_CAPACITY: usize = 256;
const IDLE_BATCHES_MAX: usize = 64;

fn borrow_batch(shared: &Shared, requests: usize) -> Result<Arc<BatchShared>> {
    if requests > IDLE_BATCH_CAPACITY {
        return Ok(Arc::new(BatchShared::new(shared, requests)?));
    }
    match shared.idle_batches.lock().pop() {
        Some(batch) => Ok(batch),
        None => Ok(Arc::new(BatchShared::new(shared, IDLE_BATCH_CAPACITY)?)),
    }
}

fn give_back(shared: &Shared, batch: Arc<BatchShared>) {
    // Somebody who still holds the core could report into its next use.
    if batch.core.capacity() != IDLE_BATCH_CAPACITY || Arc::strong_count(&batch.core) > 1 {
        return;
    }
    let mut idle = shared.idle_batches.lock();
    if idle.len() < IDLE_BATCHES_MAX && !shared.is_closed() {
        idle.push(batch);
    }
}

/// How requests are carried out.
#[derive(Clone, Copy)]
struct How {
    timeout: Option<Duration>,
    driver: Driver,
    is_pinned: bool,
}

fn submit(
    shared: &Arc<Shared>,
    batch: &Arc<BatchShared>,
    requests: &[Request],
    how: How,
    notification: Option<Notification>,
) -> Result<()> {
    let How { timeout, driver, is_pinned } = how;
    shared.ensure_open()?;
    if let Some(notification) = &notification {
        notification.check()?;
        if requests.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a notification needs at least one request to follow",
            ));
        }
    }
    // Serialises submitters of one batch, and keeps `cancel` from missing a segment.
    let mut desk = batch.desk.lock();
    let Desk { used, recent } = &mut *desk;
    check(shared, requests, recent)?;
    let first = batch.core.accept(requests.len())?;
    shared.metrics.requests.inc_by(requests.len() as u64);
    let notify = match (notification, requests.first()) {
        (Some(notification), Some(request)) => Some(NotifyAfter::new(
            shared,
            &batch.core,
            request.segment,
            notification,
            timeout.unwrap_or_else(|| shared.default_timeout()),
        )),
        _ => None,
    };
    let ledger = Ledger { core: &batch.core, notify: notify.as_ref() };
    let mut ends = Ends::new(shared, timeout);
    let mut index = first;
    for run in requests.chunk_by(|a, b| a.segment == b.segment) {
        let Some(id) = run.first().map(|request| request.segment) else { continue };
        let fail_all = |error: &Error| {
            (index..index + run.len()).for_each(|task| ledger.fail(task, error.clone()));
        };
        match segment_for(shared, recent, id) {
            Ok(segment) => {
                let is_open = segment.with_state(|state| {
                    let (ends, recent) = (&mut ends, &mut *recent);
                    let mut slices = Slices::new(
                        shared, ledger, run, index, &segment, state, is_pinned, ends, recent,
                    );
                    if !slices.move_at_once() {
                        let driver = driver_of(batch, driver);
                        let rails = state.way.route.submit(&mut slices, driver);
                        note_used(used, &segment, state, rails, driver);
                    }
                });
                if let Err(error) = is_open {
                    fail_all(&error);
                }
                recent.give_back(segment);
            }
            Err(error) => fail_all(&error),
        }
        index += run.len();
    }
    if let Some(notify) = notify {
        notify.all_started();
    }
    Ok(())
}

/// The segment of a run, as fresh as the configuration wants it.
fn segment_for(shared: &Shared, recent: &mut Recent, id: SegmentId) -> Result<Arc<Segment>> {
    let segment = recent.lend(&shared.segments, id)?;
    if shared.config.disable_metacache {
        shared.refresh(&segment, shared.default_deadline())?;
    }
    Ok(segment)
}

/// Who drives what is handed over now: not all of those who wait for the batch may call again.
fn driver_of(batch: &BatchShared, wanted: Driver) -> Driver {
    match wanted {
        Driver::Onlookers if batch.core.is_awaited() => Driver::Threads,
        other => other,
    }
}

/// Remembers which rails the batch has slices on.
fn note_used(
    used: &mut Used,
    segment: &Arc<Segment>,
    state: &SegmentState,
    rails: Rails,
    driver: Driver,
) {
    match used.iter_mut().rev().find(|(other, _)| other.id == segment.id) {
        Some((_, all)) => {
            if driver == Driver::Caller {
                // They are released once, however often the requests came back to them.
                state.way.route.release(all.common(rails));
            }
            all.add(rails);
        }
        None => used.push((Arc::clone(segment), rails)),
    }
}

/// Finds what is wrong with the caller's own side before anything starts.
fn check(shared: &Shared, requests: &[Request], recent: &mut Recent) -> Result<()> {
    for (index, request) in requests.iter().enumerate() {
        let add = |error: Error| error.with("request", index);
        let (local, length) = (request.local as u64, request.length);
        if length > limits::REQUEST_BYTES_MAX {
            return Err(add(Error::new(ErrorKind::InvalidArgument, "the request is too long")
                .with("length_bytes", length)));
        }
        recent.segment(&shared.segments, request.segment).map_err(add)?;
        if length > 0 {
            recent.local(&shared.registry, local, length).map_err(add)?;
        }
    }
    Ok(())
}
