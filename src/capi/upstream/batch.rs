//! Batches and the status of their tasks.
//!
//! A batch of this API remembers which tasks the program has seen ended: upstream frees a batch
//! only after that. It also keeps the notifications of submitTransferWithNotify, which upstream
//! sends from the status call that sees the whole batch completed; so they have arrived when that
//! call returns.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::entry::{self, UpstreamEngine};
use super::notify::{self, SEND_TIMEOUT};
use super::numbers::STATUS_BATCH_BUSY;
use super::segment;
use super::types::{
    batch_id_t, notify_msg_t, transfer_engine_t, transfer_request, transfer_status, INVALID_BATCH,
    OPCODE_READ, OPCODE_WRITE, STATUS_COMPLETED, STATUS_FAILED, STATUS_TIMEOUT, STATUS_WAITING,
};
use crate::capi::boundary::{self, bad_argument, Out};
use crate::capi::handle::{Kind, Noun, Table, HANDLE_MARK};
use crate::engine::{Batch, Notification, Operation, Request, SegmentId, TaskState, TaskStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// What upstream's batch id stands for.
struct UpstreamBatch {
    batch: Batch,
    /// The engine's handle; an id is good for that engine only.
    engine: usize,
    /// As the program asked for it: unlike a batch of the engine, it may be none.
    capacity: usize,
    /// One bit for each task that the program has seen ended, and how many are set.
    seen: Box<[AtomicU64]>,
    seen_count: AtomicUsize,
    notifications: Mutex<Vec<(SegmentId, Notification)>>,
    /// Spares most status calls the lock of `notifications`.
    has_notifications: AtomicBool,
}

static BATCHES: Table<UpstreamBatch> = Table::new(Kind::UpstreamBatch);

impl Noun for UpstreamBatch {
    type Opaque = c_void;
    const WORD: &'static str = "batch";

    fn table() -> &'static Table<Self> {
        &BATCHES
    }
}

/// Creates a batch.
///
/// @param engine      the engine that will move the bytes.
/// @param batch_size  how many requests may be submitted in its life.
/// @return the batch, owned by the caller until freeBatchID or destroyTransferEngine;
///         INVALID_BATCH on failure.
#[no_mangle]
pub unsafe extern "C" fn allocateBatchID(
    engine: transfer_engine_t,
    batch_size: usize,
) -> batch_id_t {
    let handle = engine.addr();
    entry::on(
        engine,
        |_| INVALID_BATCH,
        |engine| {
            let batch = engine.engine.create_batch(batch_size.max(1))?;
            let words = batch.capacity().div_ceil(64);
            let id = to_c(BATCHES.insert(UpstreamBatch {
                batch,
                engine: handle,
                capacity: batch_size,
                seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
                seen_count: AtomicUsize::new(0),
                notifications: Mutex::new(Vec::new()),
                has_notifications: AtomicBool::new(false),
            })?);
            engine.batches.lock().insert(id);
            Ok(id)
        },
    )
}

/// Submits requests: all of them, or none when one is refused.
///
/// @param engine    the engine.
/// @param batch_id  its batch.
/// @param entries   copied; ignored if count is 0.
/// @param count     requests in it. Tasks are numbered in the order of submission.
/// @return 0; 1 for a wrong batch, segment, operation or pointer; 2 when the batch is too small; 3
///         when source is not registered; another positive number otherwise.
#[no_mangle]
pub unsafe extern "C" fn submitTransfer(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
    entries: *mut transfer_request,
    count: usize,
) -> c_int {
    within(engine, batch_id, |_, batch| {
        // SAFETY: the caller's promise about entries.
        unsafe { submit(batch, entries, count) }?;
        Ok(0)
    })
}

/// As submitTransfer, and sends a notification to the segment of the first request: from inside
/// the call of getTransferStatus that finds the whole batch completed.
///
/// @param engine, batch_id, entries, count  as in submitTransfer; count is not 0.
/// @param notify_msg                        two texts, as in genNotifyInEngine; copied.
/// @return as submitTransfer.
#[no_mangle]
pub unsafe extern "C" fn submitTransferWithNotify(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
    entries: *mut transfer_request,
    count: usize,
    notify_msg: notify_msg_t,
) -> c_int {
    within(engine, batch_id, |_, batch| {
        // SAFETY: the caller's promise about the texts.
        let notification = unsafe { notify::notification(&notify_msg) }?;
        // SAFETY: the caller's promise about entries.
        let Some(first) = unsafe { submit(batch, entries, count) }? else {
            return Err(bad_argument("count", "is zero: the notification has no segment"));
        };
        batch.notifications.lock().push((first, notification));
        batch.has_notifications.store(true, Ordering::Release);
        Ok(0)
    })
}

/// Tells what became of a task, and moves bytes while it is asked.
///
/// @param engine    the engine.
/// @param batch_id  its batch.
/// @param task_id   the task, from 0 in the order of submission.
/// @param status    receives the status; written only if 0 is returned.
/// @return 0; 1 for a wrong batch, task or pointer.
#[no_mangle]
pub unsafe extern "C" fn getTransferStatus(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
    task_id: usize,
    status: *mut transfer_status,
) -> c_int {
    within(engine, batch_id, |engine, batch| {
        let status = Out::required(status, "status")?;
        let mut task = batch.batch.task(task_id)?;
        if !has_ended(&task) {
            batch.batch.poll();
            task = batch.batch.task(task_id)?;
        }
        if has_ended(&task) {
            batch.mark_seen(task_id);
            batch.send_notifications(engine);
        }
        status.set(transfer_status {
            status: number(&task, engine.reports_timeouts),
            transferred_bytes: task.transferred_bytes,
        });
        Ok(0)
    })
}

/// Frees a batch.
///
/// @param engine    the engine.
/// @param batch_id  its batch; invalid afterwards if 0 is returned.
/// @return 0; 4 unless getTransferStatus has shown every task of it as ended; 1 for a wrong batch.
#[no_mangle]
pub unsafe extern "C" fn freeBatchID(engine: transfer_engine_t, batch_id: batch_id_t) -> c_int {
    within(engine, batch_id, |engine, batch| {
        if batch.seen_count.load(Ordering::Acquire) < batch.batch.poll().submitted {
            let error =
                Error::new(ErrorKind::Busy, "not every task of the batch was seen to have ended");
            boundary::failed(&error);
            return Ok(STATUS_BATCH_BUSY);
        }
        engine.batches.lock().remove(&batch_id);
        // The last pin drops the batch, which is the one of this call.
        BATCHES.close(from_c(batch_id)).map(|_| 0)
    })
}

/// Ends the life of a batch with its engine.
pub(super) fn forget(id: batch_id_t) {
    // An error says that it has ended already.
    let _ = BATCHES.close(from_c(id));
}

/// Runs a call inside a batch of `engine`.
fn within(
    engine: transfer_engine_t,
    id: batch_id_t,
    call: impl FnOnce(&UpstreamEngine, &UpstreamBatch) -> Result<c_int>,
) -> c_int {
    let handle = engine.addr();
    entry::status(engine, |engine| {
        let pin = BATCHES.pin(from_c(id))?;
        if pin.engine != handle {
            return Err(Error::new(ErrorKind::InvalidHandle, "the batch is another engine's"));
        }
        pin.run(|batch| call(engine, batch))
    })
}

/// Submits the requests; gives the segment of the first, if there is one.
///
/// # Safety
/// `entries` is readable for `count` requests.
unsafe fn submit(
    batch: &UpstreamBatch,
    entries: *const transfer_request,
    count: usize,
) -> Result<Option<SegmentId>> {
    let submitted = batch.batch.poll().submitted;
    if count > batch.capacity.saturating_sub(submitted) {
        return Err(Error::new(ErrorKind::TooManyRequests, "the batch is full")
            .with("capacity", batch.capacity)
            .with("submitted", submitted)
            .with("requested", count));
    }
    debug_assert!(batch.capacity <= limits::BATCH_REQUESTS_MAX);
    // SAFETY: the caller's promise.
    let entries = unsafe { boundary::slice(entries, count, "entries") }?;
    let requests: Vec<Request> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| request(entry).map_err(|error| error.with("request", index)))
        .collect::<Result<_>>()?;
    batch.batch.submit(&requests)?;
    Ok(requests.first().map(|request| request.segment))
}

fn request(entry: &transfer_request) -> Result<Request> {
    let operation = match entry.opcode {
        OPCODE_READ => Operation::Read,
        OPCODE_WRITE => Operation::Write,
        other => return Err(bad_argument("opcode", "is no operation").with("opcode", other)),
    };
    Ok(Request {
        operation,
        local: boundary::address(entry.source),
        segment: segment::from_c(entry.target_id)?,
        remote_address: entry.target_offset,
        length: entry.length,
    })
}

impl UpstreamBatch {
    fn mark_seen(&self, index: usize) {
        let Some(word) = self.seen.get(index / 64) else { return };
        let bit = 1 << (index % 64);
        if word.load(Ordering::Relaxed) & bit == 0
            && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            self.seen_count.fetch_add(1, Ordering::Release);
        }
    }

    /// Sends what waits for the end of the batch, if all of it ended well.
    fn send_notifications(&self, engine: &UpstreamEngine) {
        if !self.has_notifications.load(Ordering::Acquire) {
            return;
        }
        let progress = self.batch.poll();
        if !progress.is_done() || progress.failed > 0 {
            return;
        }
        let waiting = std::mem::take(&mut *self.notifications.lock());
        self.has_notifications.store(false, Ordering::Release);
        for (segment, notification) in waiting {
            if let Err(error) = engine.engine.notify(segment, &notification, SEND_TIMEOUT) {
                ::log::warn!("the notification after a batch was not delivered: {error}");
            }
        }
    }
}

fn has_ended(task: &TaskStatus) -> bool {
    !matches!(task.state, TaskState::Waiting | TaskState::InFlight)
}

/// Upstream's number for the state of a task. A program that did not ask for timeouts with
/// MC_SLICE_TIMEOUT may not know that status, and would poll for ever.
fn number(task: &TaskStatus, reports_timeouts: bool) -> c_int {
    match task.state {
        TaskState::Waiting | TaskState::InFlight => STATUS_WAITING,
        TaskState::Completed => STATUS_COMPLETED,
        TaskState::Cancelled => STATUS_FAILED,
        TaskState::Failed => match &task.error {
            Some(error) if error.kind() == ErrorKind::Timeout && reports_timeouts => STATUS_TIMEOUT,
            _ => STATUS_FAILED,
        },
    }
}

/// The handle as upstream's programs keep it: some put it into a signed number and take a negative
/// one for a failure, so the bit all handles have is left out.
fn to_c(handle: *mut c_void) -> batch_id_t {
    handle.addr() as u64 & !HANDLE_MARK
}

/// The opposite of [`to_c`]; an id with that bit is none of ours and stays wrong.
fn from_c(id: batch_id_t) -> *const c_void {
    std::ptr::without_provenance((id ^ HANDLE_MARK) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_upstreams_numbers() {
        let task = |state, kind: Option<ErrorKind>| TaskStatus {
            state,
            transferred_bytes: 0,
            error: kind.map(|kind| Error::new(kind, "")),
        };
        assert_eq!(number(&task(TaskState::InFlight, None), true), 0);
        assert_eq!(number(&task(TaskState::Completed, None), true), 4);
        assert_eq!(number(&task(TaskState::Cancelled, Some(ErrorKind::Cancelled)), true), 6);
        let late = task(TaskState::Failed, Some(ErrorKind::Timeout));
        assert_eq!(number(&late, false), 6);
        assert_eq!(number(&late, true), 5);
    }

    #[test]
    fn no_id_is_taken_for_another() {
        let handle = std::ptr::without_provenance_mut::<c_void>((HANDLE_MARK | 77) as usize);
        assert_eq!(to_c(handle), 77);
        assert_eq!(from_c(77), handle.cast_const());
        for wrong in [0, HANDLE_MARK, HANDLE_MARK | 77, INVALID_BATCH] {
            assert!(BATCHES.pin(from_c(wrong)).is_err(), "{wrong:#x}");
        }
    }
}
