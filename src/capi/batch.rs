//! Batches: requests submitted together, and what became of each.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use super::boundary::{self, bad_argument, failed, guard_ok, on, on_ok, Out};
use super::engine::{handle_out, mc_engine_t};
use super::handle::{Kind, Noun, Table};
use super::notify;
use super::options::{self, Sized32};
use super::segment::{from_c, mc_segment_t};
use super::status::{mc_status_t, MC_IN_PROGRESS, MC_OK};
use crate::engine::{Batch, BatchProgress, Engine, Operation, Request, TaskState};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Requests submitted together, and what became of each. Opaque.
pub struct mc_batch_t {
    _private: [u8; 0],
}

/// From the peer to local memory.
pub const MC_READ: i32 = 0;
/// From local memory to the peer.
pub const MC_WRITE: i32 = 1;

/// One read or write.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_request_t {
    /// MC_READ or MC_WRITE.
    pub operation: i32,
    /// Zero.
    pub reserved: u32,
    /// First local byte, inside a registered buffer; stays registered until the task is done.
    pub local: *mut c_void,
    /// Whose memory is read or written.
    pub segment: mc_segment_t,
    /// First byte there, as mc_segment_buffers tells it or as the peer's program told it.
    pub remote_address: u64,
    /// How many bytes.
    pub length_bytes: u64,
}

/// What to do with a submission besides moving its bytes. Set struct_size to
/// sizeof(mc_submit_options_t); zero means default for every member.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_submit_options_t {
    /// sizeof(mc_submit_options_t).
    pub struct_size: u32,
    /// Longest time of these requests; default: the engine's transfer_timeout_ms.
    pub timeout_ms: u32,
    /// With notify_name_len: name of a notification for the peer, sent once all these requests
    /// completed; copied.
    pub notify_name: *const c_char,
    /// Its bytes; 0 together with notify_message_len = no notification.
    pub notify_name_len: usize,
    /// The notification's message; copied.
    pub notify_message: *const c_char,
    /// Its bytes.
    pub notify_message_len: usize,
}

// SAFETY: repr(C), size first, numbers and pointers that may be NULL.
unsafe impl Sized32 for mc_submit_options_t {
    const FIRST_SIZE: usize = 40;
    const NAME: &'static str = "options";
}

/// How far a batch is. It is done when completed + failed equals submitted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_batch_progress_t {
    /// Requests handed in.
    pub submitted: usize,
    /// Tasks that ended well.
    pub completed: usize,
    /// Tasks that failed or were cancelled.
    pub failed: usize,
    /// Bytes moved so far.
    pub transferred_bytes: u64,
}

/// Not handed to a transport yet.
pub const MC_TASK_WAITING: i32 = 0;
/// Under way.
pub const MC_TASK_IN_FLIGHT: i32 = 1;
/// All its bytes are where they belong.
pub const MC_TASK_COMPLETED: i32 = 2;
/// It failed; the bytes of its target are undefined.
pub const MC_TASK_FAILED: i32 = 3;
/// The batch was cancelled before it ended; the bytes of its target are undefined.
pub const MC_TASK_CANCELLED: i32 = 4;

/// What became of one request.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_task_status_t {
    /// One of MC_TASK_*.
    pub state: i32,
    /// MC_OK when completed, MC_IN_PROGRESS before its end, else why it failed.
    pub status: mc_status_t,
    /// Bytes moved so far.
    pub transferred_bytes: u64,
}

/// Cancelled tasks end as soon as their transports let go of the memory; this is the longest wait.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests up to this many are translated without allocating, after a thread's first call.
const SCRATCH_REQUESTS_MAX: usize = 4096;

thread_local! {
    /// Room to translate requests in.
    static SCRATCH: Cell<Vec<Request>> = const { Cell::new(Vec::new()) };
}

static BATCHES: Table<Batch> = Table::new(Kind::Batch);

impl Noun for Batch {
    type Opaque = mc_batch_t;
    const WORD: &'static str = "batch";

    fn table() -> &'static Table<Self> {
        &BATCHES
    }
}

/// Creates a batch for up to capacity requests.
///
/// @param engine     the engine that will move the bytes.
/// @param capacity   1 to 1048576 requests, counted until mc_batch_reset.
/// @param batch_out  receives the batch, owned by the caller until mc_batch_destroy; NULL on
///                   failure.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_LIMIT_REACHED;
/// MC_ERR_SHUTDOWN. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_create(
    engine: *mut mc_engine_t,
    capacity: usize,
    batch_out: *mut *mut mc_batch_t,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let batch_out = handle_out(batch_out, "batch_out")?;
        batch_out.set(BATCHES.insert(engine.create_batch(capacity)?)?);
        Ok(())
    })
}

/// Destroys a batch; tasks in flight are cancelled.
///
/// When it returns MC_OK the local memory of its requests is not touched any more.
///
/// @param batch  the batch; NULL does nothing. The handle is invalid afterwards, whatever is
///               returned.
///
/// Threads: any; calls of other threads in the same batch end soon. Blocks: until cancelled tasks
/// have ended, longest 10 s. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was destroyed before;
/// MC_ERR_TIMEOUT when a task did not end in time: keep its memory until the engine is destroyed.
/// Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_destroy(batch: *mut mc_batch_t) -> mc_status_t {
    guard_ok(|| {
        if batch.is_null() {
            return Ok(());
        }
        let batch = BATCHES.close(batch)?;
        if batch.seal() {
            return Ok(());
        }
        batch.cancel();
        batch.wait(CANCEL_TIMEOUT).map(|_| ())
    })
}

/// Submits requests: all of them, or none when one is refused.
///
/// @param batch     the batch.
/// @param requests  copied; ignored if count is 0.
/// @param count     requests in it.
///
/// Threads: any. Blocks: no longer than starting the transfer takes.
/// Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_HANDLE also for an unknown segment;
/// MC_ERR_TOO_MANY_REQUESTS; MC_ERR_NOT_REGISTERED for local memory; MC_ERR_UNSUPPORTED;
/// MC_ERR_INVALID_STATE after mc_batch_cancel; MC_ERR_LIMIT_REACHED; MC_ERR_SHUTDOWN. What happens
/// later is the status of the task. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_submit(
    batch: *mut mc_batch_t,
    requests: *const mc_request_t,
    count: usize,
) -> mc_status_t {
    on_ok(batch, |batch: &Batch| {
        // SAFETY: the caller's promise about requests.
        unsafe { with_requests(requests, count, |requests| batch.submit(requests)) }
    })
}

/// Submits requests with a deadline of their own, a notification to the peer, or both.
///
/// @param batch, requests, count  as in mc_batch_submit. With a notification count is not 0 and
///                                all requests have the same segment.
/// @param options                 read during the call only; NULL = as mc_batch_submit.
///
/// Threads, Blocks, Returns: as mc_batch_submit. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_submit_with(
    batch: *mut mc_batch_t,
    requests: *const mc_request_t,
    count: usize,
    options: *const mc_submit_options_t,
) -> mc_status_t {
    on_ok(batch, |batch: &Batch| {
        // SAFETY: the caller's promise about options.
        let options = unsafe { options::read(options) }?;
        let timeout = timeout(options.timeout_ms);
        let wanted = options.notify_name_len != 0 || options.notify_message_len != 0;
        let notification = if wanted {
            // SAFETY: the caller's promise about the texts in options.
            Some(unsafe {
                notify::notification(
                    options.notify_name,
                    options.notify_name_len,
                    options.notify_message,
                    options.notify_message_len,
                )
            }?)
        } else {
            None
        };
        // SAFETY: the caller's promise about requests.
        unsafe {
            with_requests(requests, count, |requests| {
                batch.submit_with(requests, timeout, notification)
            })
        }
    })
}

/// Tells how far a batch is.
///
/// @param batch         the batch.
/// @param progress_out  receives the counts; may be NULL.
///
/// Threads: any. Blocks: no.
/// Returns: MC_OK when all submitted tasks completed (or none was submitted); MC_IN_PROGRESS;
/// once all tasks have ended and some failed, the status of the first that failed. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_poll(
    batch: *mut mc_batch_t,
    progress_out: *mut mc_batch_progress_t,
) -> mc_status_t {
    on(batch, |batch: &Batch| {
        let progress_out = Out::optional(progress_out, "progress_out")?;
        Ok(report(batch, batch.poll(), &progress_out))
    })
}

/// Waits until all submitted tasks have ended.
///
/// @param batch         the batch.
/// @param timeout_ms    longest wait; 0 = only look. At most an hour.
/// @param progress_out  receives the counts, also after a timeout; may be NULL.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_batch_poll, but MC_ERR_TIMEOUT instead
/// of MC_IN_PROGRESS; the tasks go on then. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_wait(
    batch: *mut mc_batch_t,
    timeout_ms: u32,
    progress_out: *mut mc_batch_progress_t,
) -> mc_status_t {
    on(batch, |batch: &Batch| {
        let progress_out = Out::optional(progress_out, "progress_out")?;
        let longest = Duration::from_millis(timeout_ms.into()).min(limits::TIMEOUT_MAX);
        match batch.wait(longest) {
            Ok(progress) => Ok(report(batch, progress, &progress_out)),
            Err(error) => {
                progress_out.set(progress(batch.poll()));
                Err(error)
            }
        }
    })
}

/// Gives a descriptor for the caller's own event loop: readable while all submitted tasks have
/// ended and at least one was submitted.
///
/// @param batch   the batch; it owns the descriptor and closes it when destroyed. Do not read,
///                write or close it.
/// @param fd_out  receives the descriptor; -1 on failure.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_RESOURCE. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_event_fd(
    batch: *mut mc_batch_t,
    fd_out: *mut c_int,
) -> mc_status_t {
    on_ok(batch, |batch: &Batch| {
        let fd_out = Out::required(fd_out, "fd_out")?;
        fd_out.set(-1);
        fd_out.set(batch.event_fd()?);
        Ok(())
    })
}

/// Cancels the tasks that have not ended. They end soon, as cancelled or, if that was faster, as
/// completed; until then their memory is in use.
///
/// @param batch  the batch; it takes no further requests until mc_batch_reset.
///
/// Threads: any. Blocks: no. Returns: MC_OK. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_cancel(batch: *mut mc_batch_t) -> mc_status_t {
    on_ok(batch, |batch: &Batch| {
        batch.cancel();
        Ok(())
    })
}

/// Makes a batch empty again, so that it can be used anew; cheaper than a new one.
///
/// @param batch  a batch whose tasks have all ended.
///
/// Threads: any, but not while another thread submits. Blocks: no.
/// Returns: MC_OK; MC_ERR_BUSY while a task is in flight. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_reset(batch: *mut mc_batch_t) -> mc_status_t {
    on_ok(batch, |batch: &Batch| batch.reset())
}

/// Tells what became of one request.
///
/// @param batch       the batch.
/// @param index       its place in the order of submission, from 0.
/// @param status_out  receives its state.
///
/// Threads: any. Blocks: no. Returns: MC_OK, also when the task failed; MC_ERR_INVALID_ARGUMENT
/// for an index nothing was submitted at. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_task_status(
    batch: *mut mc_batch_t,
    index: usize,
    status_out: *mut mc_task_status_t,
) -> mc_status_t {
    on_ok(batch, |batch: &Batch| {
        let status_out = Out::required(status_out, "status_out")?;
        let task = batch.task(index)?;
        let (state, status) = match task.state {
            TaskState::Waiting => (MC_TASK_WAITING, MC_IN_PROGRESS),
            TaskState::InFlight => (MC_TASK_IN_FLIGHT, MC_IN_PROGRESS),
            TaskState::Completed => (MC_TASK_COMPLETED, MC_OK),
            TaskState::Failed => (MC_TASK_FAILED, status_of(&task.error)),
            TaskState::Cancelled => (MC_TASK_CANCELLED, status_of(&task.error)),
        };
        status_out.set(mc_task_status_t {
            state,
            status,
            transferred_bytes: task.transferred_bytes,
        });
        Ok(())
    })
}

/// Copies the text of why one request failed: peer, operation and cause.
///
/// @param batch    the batch.
/// @param index    as in mc_batch_task_status.
/// @param buf      receives the text, cut to fit and NUL-terminated; empty if it did not fail. May
///                 be NULL if buf_len is 0.
/// @param buf_len  bytes in buf.
/// @param len_out  receives the full length without NUL; may be NULL.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_batch_task_error(
    batch: *mut mc_batch_t,
    index: usize,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(batch, |batch: &Batch| {
        let text = batch.task(index)?.error.map(|error| error.to_string()).unwrap_or_default();
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(&text, buf, buf_len, len_out) }
    })
}

/// A request as the engine takes it.
pub(crate) fn request(request: &mc_request_t) -> Result<Request> {
    if request.reserved != 0 {
        return Err(bad_argument("request.reserved", "is not zero"));
    }
    let operation = match request.operation {
        MC_READ => Operation::Read,
        MC_WRITE => Operation::Write,
        other => {
            return Err(bad_argument("request.operation", "is neither MC_READ nor MC_WRITE")
                .with("operation", other))
        }
    };
    Ok(Request {
        operation,
        local: boundary::address(request.local),
        segment: from_c(request.segment),
        remote_address: request.remote_address,
        length: request.length_bytes,
    })
}

/// The caller's deadline, if it gave one.
pub(crate) fn timeout(timeout_ms: u32) -> Option<Duration> {
    (timeout_ms != 0).then(|| Duration::from_millis(timeout_ms.into()).min(limits::TIMEOUT_MAX))
}

/// Translates the array of requests and hands it to `submit`.
///
/// # Safety
/// The array is readable during the call.
unsafe fn with_requests(
    requests: *const mc_request_t,
    count: usize,
    submit: impl FnOnce(&[Request]) -> Result<()>,
) -> Result<()> {
    if count > limits::BATCH_REQUESTS_MAX {
        return Err(Error::new(ErrorKind::TooManyRequests, "no batch holds that many requests")
            .with("requested", count)
            .with("capacity_max", limits::BATCH_REQUESTS_MAX));
    }
    // SAFETY: the caller's promise.
    let requests = unsafe { boundary::slice(requests, count, "requests") }?;
    with_scratch(|translated| {
        for (index, one) in requests.iter().enumerate() {
            translated.push(request(one).map_err(|error| error.with("request", index))?);
        }
        submit(translated)
    })
}

/// Runs `work` with the thread's empty list of requests.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut Vec<Request>) -> R) -> R {
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    let answer = work(&mut scratch);
    scratch.clear();
    if scratch.capacity() <= SCRATCH_REQUESTS_MAX {
        let _ = SCRATCH.try_with(|cell| cell.set(scratch));
    }
    answer
}

/// Writes the counts and says what they mean.
fn report(
    batch: &Batch,
    counts: BatchProgress,
    progress_out: &Out<mc_batch_progress_t>,
) -> mc_status_t {
    progress_out.set(progress(counts));
    if !counts.is_done() {
        return MC_IN_PROGRESS;
    }
    if counts.failed == 0 {
        return MC_OK;
    }
    failed(&batch.first_error().unwrap_or_else(unexplained))
}

fn progress(counts: BatchProgress) -> mc_batch_progress_t {
    mc_batch_progress_t {
        submitted: counts.submitted,
        completed: counts.completed,
        failed: counts.failed,
        transferred_bytes: counts.transferred_bytes,
    }
}

fn status_of(error: &Option<Error>) -> mc_status_t {
    let kind = error.as_ref().map_or(ErrorKind::Internal, Error::kind);
    super::status::of(kind)
}

fn unexplained() -> Error {
    Error::new(ErrorKind::Internal, "a task failed without a reason")
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<mc_request_t>() == 40);
    assert!(offset_of!(mc_request_t, local) == 8);
    assert!(offset_of!(mc_request_t, segment) == 16);
    assert!(offset_of!(mc_request_t, remote_address) == 24);
    assert!(offset_of!(mc_request_t, length_bytes) == 32);
    assert!(size_of::<mc_submit_options_t>() == 40);
    assert!(offset_of!(mc_submit_options_t, notify_name) == 8);
    assert!(offset_of!(mc_submit_options_t, notify_message_len) == 32);
    assert!(size_of::<mc_batch_progress_t>() == 32);
    assert!(offset_of!(mc_batch_progress_t, transferred_bytes) == 24);
    assert!(size_of::<mc_task_status_t>() == 16);
    assert!(offset_of!(mc_task_status_t, transferred_bytes) == 8);
};
