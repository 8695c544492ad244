//! Life of a batch and its tasks: a state machine of atomics, without sockets or clock.
//!
//! A task ends when its last slice ended, so a finished task's memory is no longer in use. Any
//! thread may report slices; the one that ends the last task wakes the sleepers.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::wake::EventFd;
use crate::transport::{OwnerId, Tasks};

/// Tasks are allocated in runs of this many, as they are submitted.
const CHUNK: usize = 256;

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Not submitted yet.
    Waiting,
    /// Submitted, at least one slice is under way.
    InFlight,
    /// All bytes are where they belong.
    Completed,
    /// At least one slice failed.
    Failed,
    /// The owner cancelled it.
    Cancelled,
}

/// The counts of a batch in one word, so that they always fit together: submitted, finished and
/// failed tasks, the last among the finished ones.
const COUNT_BITS: u32 = 21;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const SUBMITTED: u64 = 1;
const FINISHED: u64 = 1 << COUNT_BITS;
const FAILED: u64 = 1 << (2 * COUNT_BITS);
const _: () = assert!(limits::BATCH_REQUESTS_MAX as u64 <= COUNT_MASK);

/// The counts, taken apart.
#[derive(Clone, Copy)]
struct Counts {
    submitted: usize,
    finished: usize,
    failed: usize,
}

impl Counts {
    fn of(word: u64) -> Counts {
        let part = |shift: u32| ((word >> shift) & COUNT_MASK) as usize;
        Counts { submitted: part(0), finished: part(COUNT_BITS), failed: part(2 * COUNT_BITS) }
    }

    fn is_done(self) -> bool {
        self.finished == self.submitted
    }
}

const WAITING: u8 = 0;
const IN_FLIGHT: u8 = 1;
const COMPLETED: u8 = 2;
const BROKEN: u8 = 3;
const CANCELLED: u8 = 4;

/// Snapshot of one task.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    /// Where it is.
    pub state: TaskState,
    /// Bytes of its finished slices.
    pub transferred_bytes: u64,
    /// Why it failed.
    pub error: Option<Error>,
}

/// Snapshot of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchProgress {
    /// Tasks handed in.
    pub submitted: usize,
    /// Tasks that ended well.
    pub completed: usize,
    /// Tasks that failed or were cancelled.
    pub failed: usize,
    /// Bytes moved by all finished slices.
    pub transferred_bytes: u64,
}

impl BatchProgress {
    /// True when no task is under way.
    pub fn is_done(&self) -> bool {
        self.completed + self.failed == self.submitted
    }
}

#[derive(Default)]
struct TaskCell {
    state: AtomicU8,
    slices_left: AtomicU32,
    transferred_bytes: AtomicU64,
    // Set before the lock of `error` is ever taken, so that tasks that end well never take it.
    has_error: AtomicBool,
    error: Mutex<Option<Error>>,
}

/// The shared state of one batch.
pub(super) struct BatchCore {
    capacity: usize,
    chunks: Box<[OnceLock<Box<[TaskCell]>>]>,
    /// See [`Counts`]. Who ends the last task adds to this and then looks for sleepers; who is
    /// about to sleep counts itself among the sleepers and then looks at this. All four are
    /// sequentially consistent, so one of the two sees the other: nobody sleeps through the end.
    counts: AtomicU64,
    transferred_bytes: AtomicU64,
    cancelled: AtomicBool,
    // Index + 1 of the first task that failed; 0 while none has.
    first_failed: AtomicUsize,
    /// The engine's count of failed requests.
    failures: Counter,
    /// Those in `sleeping`, and one for `event` once it is there.
    sleepers: AtomicUsize,
    sleeping: Mutex<Vec<Arc<EventFd>>>,
    event: OnceLock<EventFd>,
}

impl BatchCore {
    /// A batch for up to `capacity` tasks; those that fail are added to `failures`.
    pub(super) fn new(capacity: usize, failures: Counter) -> Result<BatchCore> {
        if capacity == 0 || capacity > limits::BATCH_REQUESTS_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a batch holds 1 to {} requests", limits::BATCH_REQUESTS_MAX),
            )
            .with("capacity", capacity));
        }
        let chunks = (0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Ok(BatchCore {
            capacity,
            chunks,
            counts: AtomicU64::new(0),
            transferred_bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            first_failed: AtomicUsize::new(0),
            failures,
            sleepers: AtomicUsize::new(0),
            sleeping: Mutex::new(Vec::new()),
            event: OnceLock::new(),
        })
    }

    /// Tasks it can hold.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    fn counts(&self) -> Counts {
        Counts::of(self.counts.load(Ordering::SeqCst))
    }

    fn cell(&self, index: usize) -> Option<&TaskCell> {
        if index >= self.capacity {
            return None;
        }
        self.chunks[index / CHUNK].get().map(|chunk| &chunk[index % CHUNK])
    }

    /// Accepts `count` more tasks and returns the index of the first. The caller serialises calls
    /// and must give each task its slices with [`BatchCore::start`].
    pub(super) fn accept(&self, count: usize) -> Result<usize> {
        let counts = self.counts();
        let first = counts.submitted;
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::InvalidState, "the batch was cancelled"));
        }
        if count > self.capacity - first {
            return Err(Error::new(ErrorKind::TooManyRequests, "the batch is full")
                .with("capacity", self.capacity)
                .with("submitted", first)
                .with("requested", count));
        }
        if count == 0 {
            return Ok(first);
        }
        for index in (first / CHUNK)..=((first + count - 1) / CHUNK) {
            let length = CHUNK.min(self.capacity - index * CHUNK);
            self.chunks[index].get_or_init(|| (0..length).map(|_| TaskCell::default()).collect());
        }
        if let Some(event) = self.event.get() {
            event.clear();
        }
        // Fits: `count` was compared with the room left.
        let more = count as u64 * SUBMITTED;
        if counts.is_done() {
            // Nobody has a slice, so nobody counts meanwhile. Whoever is about to sleep and does
            // not see these tasks yet finds the batch done as it was; see also `is_awaited`.
            let before = self.counts.load(Ordering::Relaxed);
            self.counts.store(before + more, Ordering::Release);
        } else {
            self.counts.fetch_add(more, Ordering::SeqCst);
        }
        Ok(first)
    }

    /// Task `index` consists of `slices` slices; with none it is complete at once.
    pub(super) fn start(&self, index: usize, slices: u32) {
        let Some(cell) = self.cell(index) else { return };
        cell.transferred_bytes.store(0, Ordering::Relaxed);
        cell.slices_left.store(slices.max(1), Ordering::Relaxed);
        cell.state.store(IN_FLIGHT, Ordering::Release);
        if slices == 0 {
            self.slice_ended(index, cell);
        }
    }

    /// Tasks from `first` on, none of which has slices, have moved so many bytes each. Called in
    /// the order of the tasks, by whoever called [`BatchCore::accept`].
    pub(super) fn complete(&self, first: usize, lengths: impl Iterator<Item = u64>) {
        let (mut count, mut bytes) = (0, 0);
        for (cell, length) in (first..).map_while(|index| self.cell(index)).zip(lengths) {
            cell.transferred_bytes.store(length, Ordering::Relaxed);
            cell.state.store(COMPLETED, Ordering::Release);
            count += 1;
            bytes += length;
        }
        if count == 0 {
            return;
        }
        if self.counts().finished == first {
            // All earlier tasks have ended and no later one has begun: nobody else adds.
            let earlier = self.transferred_bytes.load(Ordering::Relaxed);
            self.transferred_bytes.store(earlier + bytes, Ordering::Relaxed);
        } else {
            self.transferred_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.tasks_ended(count * FINISHED);
    }

    fn slice_ended(&self, index: usize, cell: &TaskCell) {
        // The last slice ends the task alone: nobody else is left to count down, and only whoever
        // has a slice can cut it. What the others wrote is visible, as each counted down with it.
        let is_last = cell.slices_left.load(Ordering::Acquire) == 1;
        if !is_last && cell.slices_left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if !cell.has_error.load(Ordering::Acquire) {
            cell.state.store(COMPLETED, Ordering::Release);
            return self.tasks_ended(FINISHED);
        }
        let state = match &*cell.error.lock() {
            Some(error) if error.kind() == ErrorKind::Cancelled => CANCELLED,
            _ => BROKEN,
        };
        cell.state.store(state, Ordering::Release);
        self.failures.inc();
        let first = &self.first_failed;
        let _ = first.compare_exchange(0, index + 1, Ordering::AcqRel, Ordering::Relaxed);
        self.tasks_ended(FINISHED + FAILED);
    }

    /// Counts tasks that ended, and wakes who waits if they were the last.
    fn tasks_ended(&self, step: u64) {
        let before = self.counts.fetch_add(step, Ordering::SeqCst);
        if Counts::of(before + step).is_done() && self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if let Some(event) = self.event.get() {
            event.signal();
        }
        for sleeper in self.sleeping.lock().iter() {
            sleeper.signal();
        }
    }

    /// True when no task is under way.
    pub(super) fn is_done(&self) -> bool {
        self.counts().is_done()
    }

    /// Snapshot of the whole batch.
    pub(super) fn progress(&self) -> BatchProgress {
        let Counts { submitted, finished, failed } = self.counts();
        BatchProgress {
            submitted,
            completed: finished - failed,
            failed,
            transferred_bytes: self.transferred_bytes.load(Ordering::Relaxed),
        }
    }

    /// Snapshot of one submitted task.
    pub(super) fn task(&self, index: usize) -> Result<TaskStatus> {
        let submitted = self.counts().submitted;
        let cell = if index < submitted { self.cell(index) } else { None };
        let Some(cell) = cell else {
            return Err(Error::new(ErrorKind::InvalidArgument, "no such task in the batch")
                .with("index", index)
                .with("submitted", submitted));
        };
        let state = match cell.state.load(Ordering::Acquire) {
            WAITING => TaskState::Waiting,
            IN_FLIGHT => TaskState::InFlight,
            COMPLETED => TaskState::Completed,
            CANCELLED => TaskState::Cancelled,
            _ => TaskState::Failed,
        };
        let error = match state {
            TaskState::Failed | TaskState::Cancelled => cell.error.lock().clone(),
            _ => None,
        };
        Ok(TaskStatus {
            state,
            transferred_bytes: cell.transferred_bytes.load(Ordering::Relaxed),
            error,
        })
    }

    /// Why the first failed task failed.
    pub(super) fn first_error(&self) -> Option<Error> {
        let index = self.first_failed.load(Ordering::Acquire).checked_sub(1)?;
        self.cell(index)?.error.lock().clone()
    }

    /// Marks the batch as cancelled; the engine then ends its slices.
    pub(super) fn set_cancelled(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Makes a finished batch empty again. The caller keeps [`BatchCore::accept`] away.
    pub(super) fn reset(&self) -> Result<()> {
        let counts = self.counts();
        if !counts.is_done() {
            return Err(Error::new(ErrorKind::Busy, "the batch has tasks in flight"));
        }
        for cell in (0..counts.submitted).filter_map(|index| self.cell(index)) {
            cell.state.store(WAITING, Ordering::Release);
            if cell.has_error.load(Ordering::Acquire) {
                cell.has_error.store(false, Ordering::Release);
                *cell.error.lock() = None;
            }
        }
        self.first_failed.store(0, Ordering::Release);
        self.transferred_bytes.store(0, Ordering::Relaxed);
        // From done to done: whoever is about to sleep sees either, so this need not be ordered
        // with the count of sleepers.
        self.counts.store(0, Ordering::Release);
        self.cancelled.store(false, Ordering::Release);
        if let Some(event) = self.event.get() {
            event.clear();
        }
        Ok(())
    }

    /// A descriptor that is readable while all submitted tasks are done and at least one was
    /// submitted. Owned by the batch.
    pub(super) fn event_fd(&self) -> Result<RawFd> {
        // A second thread's descriptor is dropped by the losing `set`.
        if self.event.get().is_none() && self.event.set(EventFd::new()?).is_ok() {
            self.sleepers.fetch_add(1, Ordering::SeqCst);
        }
        let Some(event) = self.event.get() else {
            return Err(Error::new(ErrorKind::Internal, "the event descriptor vanished"));
        };
        let counts = self.counts();
        if counts.is_done() && counts.submitted > 0 {
            event.signal();
        }
        Ok(event.as_raw_fd())
    }

    /// True if somebody may wait for the end without calling anything here until then. Whoever
    /// begins to wait after this was false sees the tasks that were accepted before.
    pub(super) fn is_awaited(&self) -> bool {
        // Between the tasks that were counted and the look for sleepers, who do it the other way
        // round: see `counts`.
        fence(Ordering::SeqCst);
        self.sleepers.load(Ordering::SeqCst) > 0
    }

    /// From now on the end of the batch signals `sleeper`. The caller checks `is_done` again
    /// afterwards and calls [`BatchCore::remove_sleeper`] when it woke.
    pub(super) fn add_sleeper(&self, sleeper: &Arc<EventFd>) {
        self.sleeping.lock().push(Arc::clone(sleeper));
        self.sleepers.fetch_add(1, Ordering::SeqCst);
    }

    /// Undoes [`BatchCore::add_sleeper`].
    pub(super) fn remove_sleeper(&self, sleeper: &Arc<EventFd>) {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        self.sleeping.lock().retain(|s| !Arc::ptr_eq(s, sleeper));
    }
}

impl Tasks for BatchCore {
    fn owner(&self) -> OwnerId {
        OwnerId(std::ptr::from_ref(self) as usize)
    }

    fn slice_completed(&self, task: u32, bytes: u64) {
        let index = task as usize;
        if let Some(cell) = self.cell(index) {
            if cell.slices_left.load(Ordering::Acquire) == 1 {
                // The last slice of the task: nobody else adds to its bytes any more.
                let earlier = cell.transferred_bytes.load(Ordering::Relaxed);
                cell.transferred_bytes.store(earlier + bytes, Ordering::Relaxed);
            } else {
                cell.transferred_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            self.transferred_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.slice_ended(index, cell);
        }
    }

    fn slice_failed(&self, task: u32, error: Error) {
        let index = task as usize;
        if let Some(cell) = self.cell(index) {
            cell.has_error.store(true, Ordering::Release);
            cell.error.lock().get_or_insert(error);
            self.slice_ended(index, cell);
        }
    }

    fn slice_cut(&self, task: u32) {
        // The slice that is cut has not ended, so the count cannot reach 0 meanwhile.
        if let Some(cell) = self.cell(task as usize) {
            cell.slices_left.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Error {
        Error::new(ErrorKind::ConnectionLost, "broken")
    }

    #[test]
    fn a_task_ends_with_its_last_slice() {
        let batch = BatchCore::new(4, Counter::default()).unwrap();
        assert_eq!(batch.accept(2).unwrap(), 0);
        batch.start(0, 2);
        batch.start(1, 1);
        batch.slice_completed(0, 10);
        assert_eq!(batch.task(0).unwrap().state, TaskState::InFlight);
        batch.slice_failed(0, failure());
        assert_eq!(batch.task(0).unwrap().state, TaskState::Failed);
        assert_eq!(batch.task(0).unwrap().transferred_bytes, 10);
        assert!(!batch.is_done());
        batch.slice_completed(1, 5);
        let progress = batch.progress();
        assert!(progress.is_done());
        assert_eq!((progress.completed, progress.failed, progress.transferred_bytes), (1, 1, 15));
        assert_eq!(batch.first_error().unwrap().kind(), ErrorKind::ConnectionLost);
    }

    #[test]
    fn a_task_whose_slice_was_cut_ends_with_the_last_part() {
        let batch = BatchCore::new(1, Counter::default()).unwrap();
        batch.accept(1).unwrap();
        batch.start(0, 1);
        batch.slice_cut(0);
        batch.slice_cut(0);
        for bytes in [4, 4] {
            batch.slice_completed(0, bytes);
            assert!(!batch.is_done());
        }
        batch.slice_completed(0, 1);
        assert!(batch.is_done());
        assert_eq!(batch.task(0).unwrap().transferred_bytes, 9);
    }

    #[test]
    fn capacity_counts_over_the_whole_life_until_reset() {
        let batch = BatchCore::new(3, Counter::default()).unwrap();
        batch.accept(2).unwrap();
        assert_eq!(batch.accept(2).unwrap_err().kind(), ErrorKind::TooManyRequests);
        assert_eq!(batch.reset().unwrap_err().kind(), ErrorKind::Busy);
        batch.start(0, 0);
        batch.start(1, 0);
        assert!(batch.is_done());
        batch.reset().unwrap();
        assert_eq!(batch.accept(3).unwrap(), 0);
    }

    #[test]
    fn event_descriptor_follows_the_batch() {
        let batch = BatchCore::new(2, Counter::default()).unwrap();
        batch.event_fd().unwrap();
        assert!(!batch.event.get().unwrap().is_signalled());
        batch.accept(1).unwrap();
        batch.start(0, 1);
        batch.slice_completed(0, 1);
        assert!(batch.event.get().unwrap().is_signalled());
        batch.accept(1).unwrap();
        assert!(!batch.event.get().unwrap().is_signalled());
        batch.start(1, 0);
        assert!(batch.event.get().unwrap().is_signalled());
    }

    /// Tasks that are moved at once, in between others whose slices end on other threads.
    #[test]
    fn tasks_without_slices_count_like_the_others() {
        for round in 0..200usize {
            let batch = BatchCore::new(600, Counter::default()).unwrap();
            let done = batch.accept(3).unwrap();
            batch.complete(done, [1, 2, 3].into_iter());
            assert!(batch.is_done());
            assert_eq!(batch.progress().transferred_bytes, 6);
            let first = batch.accept(500).unwrap();
            let sliced = first + round..first + round + 100;
            std::thread::scope(|scope| {
                batch.complete(first, (first..sliced.start).map(|_| 10));
                sliced.clone().for_each(|task| batch.start(task, 2));
                for part in 0..2 {
                    let (batch, sliced) = (&batch, sliced.clone());
                    scope.spawn(move || {
                        for task in sliced {
                            match part == 0 && task % 7 == 0 {
                                true => batch.slice_failed(task as u32, failure()),
                                false => batch.slice_completed(task as u32, 5),
                            }
                        }
                    });
                }
                batch.complete(sliced.end, (sliced.end..first + 500).map(|_| 10));
            });
            let failed = sliced.filter(|task| task % 7 == 0).count();
            let progress = batch.progress();
            assert!(progress.is_done(), "round {round}");
            assert_eq!((progress.submitted, progress.failed), (503, failed), "round {round}");
            let bytes = 6 + 500 * 10 - 5 * failed as u64;
            assert_eq!(progress.transferred_bytes, bytes, "round {round}");
            assert_eq!(batch.task(first).unwrap().transferred_bytes, 10);
            batch.reset().unwrap();
            assert_eq!(batch.progress(), BatchProgress::default());
        }
    }

    /// One thread ends tasks of either sort while another goes to sleep until they end.
    #[test]
    fn nobody_sleeps_through_the_end() {
        let rounds = if cfg!(miri) { 20 } else { 5000 };
        let batch = BatchCore::new(1, Counter::default()).unwrap();
        let begun = AtomicUsize::new(0);
        let woken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=rounds {
                    while begun.load(Ordering::Acquire) < round {
                        std::thread::yield_now();
                    }
                    let sleeper = Arc::new(EventFd::new().unwrap());
                    batch.add_sleeper(&sleeper);
                    if !batch.is_done() {
                        let time = std::time::Duration::from_secs(60);
                        let is_told = crate::net::wake::sleep_on(&sleeper, &[], time);
                        assert!(is_told && batch.is_done(), "round {round}");
                    }
                    batch.remove_sleeper(&sleeper);
                    woken.store(round, Ordering::Release);
                }
            });
            for round in 1..=rounds {
                batch.accept(1).unwrap();
                begun.store(round, Ordering::Release);
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                if round % 2 == 0 {
                    batch.complete(0, std::iter::once(1));
                } else {
                    batch.start(0, 1);
                    batch.slice_completed(0, 1);
                }
                while woken.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
                batch.reset().unwrap();
            }
        });
    }

    /// Random slices reported by several threads, against a plain counter.
    #[test]
    fn concurrent_reports_agree_with_a_counter() {
        for seed in 0..50u64 {
            let tasks = 1 + (seed as usize * 7) % 400;
            let batch = Arc::new(BatchCore::new(tasks, Counter::default()).unwrap());
            batch.accept(tasks).unwrap();
            let slices: Vec<u32> =
                (0..tasks).map(|i| ((seed as u32 * 31 + i as u32 * 17) % 5) + 1).collect();
            for (index, count) in slices.iter().enumerate() {
                batch.start(index, *count);
            }
            let failing = |task: usize| (task as u64 + seed) % 3 == 0;
            std::thread::scope(|scope| {
                for part in 0..3 {
                    let (batch, slices) = (&batch, &slices);
                    scope.spawn(move || {
                        for (task, count) in slices.iter().enumerate() {
                            for slice in 0..*count {
                                if slice % 3 != part {
                                    continue;
                                }
                                if slice == 0 && failing(task) {
                                    batch.slice_failed(task as u32, failure());
                                } else {
                                    batch.slice_completed(task as u32, 1);
                                }
                            }
                        }
                    });
                }
            });
            let progress = batch.progress();
            let expected = (0..tasks).filter(|t| failing(*t)).count();
            assert!(progress.is_done(), "seed {seed}");
            assert_eq!(progress.failed, expected, "seed {seed}");
        }
    }
}
