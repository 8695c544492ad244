//! Batches as callers see them, and the way from requests to slices on a route.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::Region;
use crate::transport::{Driver, Operation, Rails, Scope, Slice, Tasks};

use super::batch::{BatchCore, BatchProgress, TaskStatus};
use super::control::{cancelled, timed_out};
use super::notify::{Notification, NotifyAfter};
use super::plan::Pieces;
use super::remote::Found;
use super::segment::{closed_handle, Parked, Segment, SegmentId, SegmentState};
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
type Used = Vec<(Arc<Segment>, Rails)>;

/// A batch and what is needed to drive and cancel it.
pub(super) struct BatchShared {
    pub(super) core: Arc<BatchCore>,
    used: Mutex<Used>,
}

impl BatchShared {
    fn new(shared: &Shared, capacity: usize) -> Result<BatchShared> {
        let failures = shared.metrics.requests_failed.clone();
        let core = Arc::new(BatchCore::new(capacity, failures)?);
        Ok(BatchShared { core, used: Mutex::default() })
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
        let how = How { timeout, driver: Driver::Threads, is_pinned: false };
        submit(shared, batch, requests, how, notification)
    }

    /// Starts the requests as [`super::Engine::transfer_pinned`] does.
    pub fn submit_pinned(&self, requests: &[Request], timeout: Option<Duration>) -> Result<()> {
        let Owner { shared, batch } = &*self.0;
        let how = How { timeout, driver: Driver::Threads, is_pinned: true };
        submit(shared, batch, requests, how, None)
    }

    /// Moves what can be moved now and tells how far the batch is. Never blocks.
    pub fn poll(&self) -> BatchProgress {
        let Owner { batch, .. } = &*self.0;
        if !batch.core.is_done() {
            for (segment, rails) in batch.used.lock().iter() {
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

    /// One task, by its position in the order of submission.
    pub fn task(&self, index: usize) -> Result<TaskStatus> {
        self.0.batch.core.task(index)
    }

    /// A descriptor that is readable while all submitted tasks are done; owned by the batch.
    pub fn event_fd(&self) -> Result<RawFd> {
        self.0.batch.core.event_fd()
    }

    /// Ends all tasks that are in flight as cancelled. When this returns, their memory is not
    /// touched any more, and the batch takes no further requests until it is reset.
    pub fn cancel(&self) {
        cancel(&self.0.shared, &self.0.batch, &cancelled());
    }

    /// Empties a batch whose tasks have all ended, for reuse.
    pub fn reset(&self) -> Result<()> {
        reset(&self.0.batch)
    }
}

fn reset(batch: &BatchShared) -> Result<()> {
    let mut used = batch.used.lock();
    batch.core.reset()?;
    used.clear();
    Ok(())
}

fn used(batch: &BatchShared) -> Vec<(Arc<Segment>, Rails)> {
    batch.used.lock().clone()
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
    let deadline = deadline_for(shared, how.timeout, bytes, Instant::now());
    submit(shared, batch, requests, how, None)?;
    if !batch.core.is_done() {
        let used = used(batch);
        shared.wait(&batch.core, &used, deadline);
    }
    release(&used(batch));
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

/// The timeout, and a nanosecond for each byte: no link in use is slower than 1 GB/s for long.
fn deadline_for(shared: &Shared, timeout: Option<Duration>, bytes: u64, now: Instant) -> Instant {
    let timeout = timeout.unwrap_or_else(|| shared.default_timeout());
    now + timeout.saturating_add(Duration::from_nanos(bytes)).min(limits::TIMEOUT_MAX)
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
    let mut known = check(shared, requests)?;
    // Serialises submitters of one batch, and keeps `cancel` from missing a segment.
    let mut used = batch.used.lock();
    let first = batch.core.accept(requests.len())?;
    shared.metrics.requests.inc_by(requests.len() as u64);
    let now = Instant::now();
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
    let tasks: Arc<dyn Tasks> = match &notify {
        Some(notify) => Arc::clone(notify) as Arc<dyn Tasks>,
        None => Arc::clone(&batch.core) as Arc<dyn Tasks>,
    };
    let mut index = 0;
    for run in requests.chunk_by(|a, b| a.segment == b.segment) {
        let mut slices = Slices {
            shared,
            core: &batch.core,
            tasks: &tasks,
            notify: notify.as_deref(),
            requests: run.iter(),
            index: first + index,
            segment: None,
            timeout,
            is_pinned,
            now,
            current: None,
            recent: known.region.take(),
        };
        index += run.len();
        let Some(id) = run.first().map(|request| request.segment) else { continue };
        let segment = match known.segment.take().filter(|segment| segment.id == id) {
            Some(segment) => Ok(segment),
            None => shared.segments.get(id),
        };
        let fresh = segment.and_then(|segment| {
            if shared.config.disable_metacache {
                shared.refresh(&segment, shared.default_deadline())?;
            }
            Ok(segment)
        });
        let segment = match fresh {
            Ok(segment) => segment,
            Err(error) => {
                slices.fail_all(&error);
                continue;
            }
        };
        let look = segment.look();
        let Some(state) = look.as_deref() else {
            slices.fail_all(&closed_handle());
            continue;
        };
        slices.segment = Some((&segment, state));
        let rails = state.way.route.submit(&mut slices, driver);
        known.region = slices.recent.take();
        drop(slices);
        match used.iter_mut().rev().find(|(other, _)| other.id == segment.id) {
            Some((_, all)) => {
                if driver == Driver::Caller {
                    // They are released once, however often the requests came back to them.
                    state.way.route.release(all.common(rails));
                }
                all.add(rails);
            }
            None => used.push((segment, rails)),
        }
    }
    if let Some(notify) = notify {
        notify.all_started();
    }
    Ok(())
}

/// What the check found and the submission uses again.
#[derive(Default)]
struct Known {
    segment: Option<Arc<Segment>>,
    region: Option<Arc<Region>>,
}

/// Finds what is wrong with the caller's own side before anything starts.
fn check(shared: &Shared, requests: &[Request]) -> Result<Known> {
    let mut known = Known::default();
    for (index, request) in requests.iter().enumerate() {
        let add = |error: Error| error.with("request", index);
        if request.length > limits::REQUEST_BYTES_MAX {
            return Err(add(Error::new(ErrorKind::InvalidArgument, "the request is too long")
                .with("length_bytes", request.length)));
        }
        if known.segment.as_ref().is_none_or(|segment| segment.id != request.segment) {
            known.segment = Some(shared.segments.get(request.segment).map_err(add)?);
        }
        if request.length > 0 {
            find_local(shared, request, &mut known.region).map_err(add)?;
        }
    }
    Ok(known)
}

/// The region of a request's local range; mostly the one of the request before.
fn find_local<'a>(
    shared: &Shared,
    request: &Request,
    recent: &'a mut Option<Arc<Region>>,
) -> Result<&'a Arc<Region>> {
    let address = request.local as u64;
    let again = recent.take().filter(|r| r.contains(address, request.length) && !r.is_closed());
    let region = match again {
        Some(region) => region,
        None => shared.registry.find(address, request.length)?,
    };
    Ok(recent.insert(region))
}

struct Current<'a> {
    request: &'a Request,
    task: u32,
    key: u64,
    pieces: Pieces,
    deadline: Instant,
}

/// Turns requests for one segment into slices, as the route asks for them.
struct Slices<'a> {
    shared: &'a Arc<Shared>,
    core: &'a Arc<BatchCore>,
    tasks: &'a Arc<dyn Tasks>,
    notify: Option<&'a NotifyAfter>,
    requests: std::slice::Iter<'a, Request>,
    index: usize,
    segment: Option<(&'a Arc<Segment>, &'a SegmentState)>,
    timeout: Option<Duration>,
    is_pinned: bool,
    now: Instant,
    current: Option<Current<'a>>,
    /// The local region of the last request.
    recent: Option<Arc<Region>>,
}

impl Slices<'_> {
    fn start(&self, index: usize, slices: u32) {
        if let Some(notify) = self.notify {
            notify.expect(slices);
        }
        self.core.start(index, slices);
    }

    fn fail_all(&mut self, error: &Error) {
        while self.requests.next().is_some() {
            let index = self.index;
            self.index += 1;
            self.start(index, 1);
            self.tasks.slice_failed(index as u32, error.clone());
        }
    }

    /// A slice of the current request, whose region is the most recent one.
    fn make(&self, current: &Current<'_>, offset: u64, length: u64) -> Option<Slice> {
        let region = Arc::clone(self.recent.as_ref()?);
        let mut slice = Slice::new(
            current.request.operation,
            current.request.segment.0,
            region,
            current.request.local as u64 + offset,
            current.request.remote_address + offset,
            current.key,
            length,
            current.deadline,
            Arc::clone(self.tasks),
            current.task,
        );
        slice.is_pinned = self.is_pinned;
        Some(slice)
    }

    /// Starts the next request; true if it has slices for the route.
    fn begin(&mut self) -> Option<bool> {
        let request = self.requests.next()?;
        let index = self.index;
        self.index += 1;
        let task = index as u32;
        let (segment, state) = self.segment?;
        if request.length == 0 {
            self.start(index, 0);
            return Some(false);
        }
        if let Err(error) = find_local(self.shared, request, &mut self.recent) {
            self.start(index, 1);
            self.tasks.slice_failed(task, error);
            return Some(false);
        }
        let deadline = deadline_for(self.shared, self.timeout, request.length, self.now);
        let found = state.find(request.remote_address, request.length, request.operation);
        let (key, miss) = match found {
            Found::Key(key) => (key, None),
            Found::Missing => (0, Some("the range is in no buffer that the peer published")),
            Found::Denied => (0, Some("the peer does not grant this access to the buffer")),
        };
        let pieces = Pieces::new(request.length, state.way.route.split_rule());
        let current = Current { request, task, key, pieces, deadline };
        if let Some(why) = miss {
            self.start(index, 1);
            let slice = self.make(&current, 0, request.length)?;
            let error = Error::new(ErrorKind::RemoteRange, why)
                .with("segment", &segment.name)
                .with("operation", request.operation.name())
                .with("address", format_args!("{:#x}", request.remote_address))
                .with("length_bytes", request.length);
            // The peer may have registered the range since its descriptor was fetched.
            self.shared.park(segment, Parked { slice, error, scope: Scope::Slice });
            return Some(false);
        }
        self.start(index, current.pieces.left());
        self.current = Some(current);
        Some(true)
    }
}

impl Iterator for Slices<'_> {
    type Item = Slice;

    fn next(&mut self) -> Option<Slice> {
        loop {
            if let Some(mut current) = self.current.take() {
                if let Some((offset, length)) = current.pieces.next() {
                    let slice = self.make(&current, offset, length);
                    self.current = Some(current);
                    return slice;
                }
            }
            self.begin()?;
        }
    }
}
