//! The route to a peer on this host: copies on the thread that submits or waits, and another route
//! behind it for everything that cannot be copied.
//!
//! Whatever is odd (a range that the peer does not have any more, memory that is not mapped, a peer
//! that is gone) is handed to the other route untouched, which finds out what is wrong and says so.
//! So failures look and are repaired as they always are, and this file only knows success.
//!
//! A copy is made under `copying`, and whoever must know that a batch or a peer is not touched any
//! more takes that lock for a moment.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use serde_json::{json, Value};
use smallvec::SmallVec;

use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::memory::CrossCall;
use crate::transport::{Driver, Operation, OwnerId, Rails, Route, Slice, SplitRule, WaitSource};

use super::link::{Link, Way};
use super::worker::Inner;

const BLOCKS: usize = limits::SHM_BLOCKS_PER_CALL;

/// Slices of one direction and one registration that are moved together.
type Run = SmallVec<[Slice; BLOCKS]>;

/// How far a run came.
struct Outcome {
    /// So many from the front are moved.
    done: usize,
    rest: Rest,
}

enum Rest {
    /// The first of those left cannot be moved here; the others may be.
    First,
    /// None of those left can be moved here.
    All,
}

/// The route.
pub(super) struct ShmRoute {
    link: Link,
    far: Arc<dyn Route>,
    inner: Arc<Inner>,
    queue: Mutex<VecDeque<Slice>>,
    /// Length of the queue, for a look without the lock.
    queued: AtomicUsize,
    copying: RwLock<()>,
}

impl ShmRoute {
    pub(super) fn new(link: Link, far: Arc<dyn Route>, inner: Arc<Inner>) -> ShmRoute {
        ShmRoute {
            link,
            far,
            inner,
            queue: Mutex::default(),
            queued: AtomicUsize::new(0),
            copying: RwLock::new(()),
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// True while slices wait.
    pub(super) fn has_work(&self) -> bool {
        self.queued.load(Ordering::Acquire) > 0
    }

    /// The peer is gone or closed its door: everything goes the other way, for good.
    pub(super) fn lose(&self, why: &str) {
        self.link.fail(why);
        drop(self.copying.write());
        self.link.forget_all();
        self.empty_into_far();
    }

    fn empty_into_far(&self) {
        let waiting = self.take_queue();
        if !waiting.is_empty() {
            self.far.submit(&mut waiting.into_iter(), Driver::Threads);
        }
    }

    fn take_queue(&self) -> VecDeque<Slice> {
        let mut queue = self.queue.lock();
        self.queued.store(0, Ordering::Release);
        std::mem::take(&mut *queue)
    }

    /// Lets slices wait for whoever comes first: the transport's thread, which is woken, and those
    /// who poll or wait. Slices that must not be moved here are put into `far`.
    fn share(&self, slices: impl Iterator<Item = Slice>, far: &mut Vec<Slice>) {
        let mut queue = self.queue.lock();
        for slice in slices {
            match needs_fence(&slice) {
                true => far.push(slice),
                false => queue.push_back(slice),
            }
        }
        self.queued.store(queue.len(), Ordering::Release);
        drop(queue);
        self.inner.wake.signal();
    }

    /// Moves waiting slices, about `bytes` of them.
    pub(super) fn drive(&self, bytes: u64) {
        let mut far: Vec<Slice> = Vec::new();
        let mut run = Run::new();
        let mut moved = 0;
        while moved < bytes && self.has_work() {
            if self.link.is_over() {
                self.empty_into_far();
                break;
            }
            // The lock before the slices, so that nobody overlooks them between queue and copy.
            let copying = self.copying.read();
            let mut late: Vec<Slice> = Vec::new();
            self.take_run(&mut run, &mut late);
            moved += run.iter().map(|slice| slice.length).sum::<u64>();
            let outcome = self.copy(&mut run, &mut late);
            drop(copying);
            self.settle(outcome, &mut run, &mut far);
            for slice in late {
                end_late(slice);
            }
            // What is left of this run was not tried; it is tried again, on its own.
            self.go(&mut run, &mut far);
        }
        if !far.is_empty() {
            self.far.submit(&mut far.into_iter(), Driver::Threads);
        }
    }

    /// Takes a run from the front of the queue; `late` gets those whose time is over.
    fn take_run(&self, run: &mut Run, late: &mut Vec<Slice>) {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        while let Some(slice) = queue.front() {
            if run.len() >= BLOCKS || !fits(run, bytes, slice, limits::SHM_BYTES_PER_CALL) {
                break;
            }
            let Some(slice) = queue.pop_front() else { break };
            if now >= slice.deadline {
                late.push(slice);
                continue;
            }
            bytes += slice.length;
            run.push(slice);
        }
        self.queued.store(queue.len(), Ordering::Release);
    }

    /// Moves a run to its end: each slice is completed, or goes to `far`.
    fn go(&self, run: &mut Run, far: &mut Vec<Slice>) {
        while !run.is_empty() {
            let mut late = Vec::new();
            let copying = self.copying.read();
            let outcome = self.copy(run, &mut late);
            drop(copying);
            self.settle(outcome, run, far);
            for slice in late {
                end_late(slice);
            }
        }
    }

    /// Completes what was moved, with no lock held.
    fn settle(&self, outcome: Outcome, run: &mut Run, far: &mut Vec<Slice>) {
        let Outcome { done, rest } = outcome;
        let left = run.len().saturating_sub(done);
        let direction = run.first().map(|slice| slice.operation);
        let mut bytes = 0;
        let mut slices = run.drain(..);
        for slice in slices.by_ref().take(done) {
            bytes += slice.length;
            slice.complete();
        }
        let mut kept = Run::new();
        match rest {
            _ if left == 0 => {}
            Rest::First => {
                far.extend(slices.next());
                kept.extend(slices.by_ref());
            }
            Rest::All => far.extend(slices.by_ref()),
        }
        drop(slices);
        if !kept.is_empty() {
            *run = kept;
        }
        let metrics = &self.inner.metrics;
        match direction {
            Some(Operation::Read) => metrics.bytes_read.inc_by(bytes),
            Some(Operation::Write) => metrics.bytes_written.inc_by(bytes),
            None => return,
        };
        metrics.same_host_bytes.inc_by(bytes);
        metrics.same_host_blocks.inc_by(done as u64);
    }

    /// Copies as many slices from the front of `run` as one call takes. Called under `copying`;
    /// slices of a batch that was cancelled go to `cancelled`.
    fn copy(&self, run: &mut Run, cancelled: &mut Vec<Slice>) -> Outcome {
        let nothing = |rest| Outcome { done: 0, rest };
        if self.link.is_over() {
            return nothing(Rest::All);
        }
        let mut index = 0;
        while index < run.len() {
            if run[index].is_cancelled() {
                cancelled.push(run.swap_remove(index));
            } else {
                index += 1;
            }
        }
        let Some(first) = run.first() else { return nothing(Rest::All) };
        let (key, operation) = (first.remote_key, first.operation);
        let Some(way) = self.link.way(key, &self.inner.ending) else { return nothing(Rest::All) };
        let (slot, memory) = match &way {
            Way::Cross { slot, .. } => (*slot, None),
            Way::Mapped { slot, memory } => (*slot, Some(memory)),
            Way::Far => return nothing(Rest::All),
        };
        let Some(_pin) = self.link.pin(slot) else { return nothing(Rest::All) };
        if !self.link.holds(slot, key) {
            self.link.forget(key);
            return nothing(Rest::All);
        }
        let outcome = match (memory, way.process()) {
            (Some(memory), _) => {
                let base = self.link.base(slot);
                let mut done = 0;
                for slice in run.iter() {
                    let length = slice.length as usize;
                    let (region, local) = (&slice.region, slice.local_address);
                    if !self.link.covers(slot, slice) {
                        break;
                    }
                    let offset = slice.remote_address.wrapping_sub(base);
                    let copied = match operation {
                        Operation::Read => memory.read(offset, region, local, length),
                        Operation::Write => memory.write(offset, region, local, length),
                    };
                    if copied.is_err() {
                        break;
                    }
                    done += 1;
                }
                Outcome { done, rest: Rest::First }
            }
            (None, Some(pid)) => self.cross(run, slot, operation, pid),
            (None, None) => nothing(Rest::All),
        };
        // An owner who lost its patience, or never had any, has taken the registration away.
        if !self.link.holds(slot, key) {
            self.link.forget(key);
            return nothing(Rest::All);
        }
        outcome
    }

    fn cross(&self, run: &Run, slot: u32, operation: Operation, pid: i32) -> Outcome {
        let mut call = CrossCall::new();
        for slice in run.iter() {
            let (local, remote) = (slice.local_address, slice.remote_address);
            let length = slice.length as usize;
            let fits = self.link.covers(slot, slice);
            if !fits || call.push(&slice.region, local, remote, length).is_err() {
                break;
            }
        }
        if call.blocks() == 0 {
            return Outcome { done: 0, rest: Rest::First };
        }
        let moved = match operation {
            Operation::Read => call.read(pid),
            Operation::Write => call.write(pid),
        };
        match moved {
            Ok(mut bytes) => {
                let mut done = 0;
                for slice in run.iter() {
                    if bytes < slice.length as usize {
                        break;
                    }
                    bytes -= slice.length as usize;
                    done += 1;
                }
                // Where a call stops short, the next one says whether it is for that slice.
                Outcome { done, rest: Rest::First }
            }
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                Outcome { done: 0, rest: Rest::First }
            }
            Err(error) => {
                self.link.fail(&format!("copies between processes: {error}"));
                Outcome { done: 0, rest: Rest::All }
            }
        }
    }
}

impl Way {
    fn process(&self) -> Option<i32> {
        match self {
            Way::Cross { pid, .. } => Some(*pid),
            Way::Mapped { .. } | Way::Far => None,
        }
    }
}

/// True if the slice can be moved together with the run, which has `bytes` of at most `limit`.
fn fits(run: &Run, bytes: u64, slice: &Slice, limit: u64) -> bool {
    run.first().is_none_or(|first| {
        first.remote_key == slice.remote_key
            && first.operation == slice.operation
            && bytes.saturating_add(slice.length) <= limit
    })
}

/// True for a write whose target counts on shutting it out (`Engine::renew`). A writer that stood
/// still in the middle of a copy goes on with it whatever became of the key; TCP has a fence.
fn needs_fence(slice: &Slice) -> bool {
    slice.is_pinned && slice.operation == Operation::Write
}

/// Ends a slice that nobody wants any more.
fn end_late(slice: Slice) {
    let error = match slice.is_cancelled() {
        true => Error::new(ErrorKind::Cancelled, "cancelled by its owner"),
        false => Error::new(ErrorKind::Timeout, "the deadline passed"),
    };
    slice.fail(error);
}

impl Route for ShmRoute {
    fn split_rule(&self) -> SplitRule {
        SplitRule {
            slice_bytes_max: limits::SHM_BYTES_PER_CALL,
            stripe_bytes_min: u64::MAX,
            rails: 1,
        }
    }

    fn submit(&self, slices: &mut dyn Iterator<Item = Slice>, driver: Driver) -> Rails {
        if self.link.is_over() {
            return self.far.submit(slices, driver);
        }
        let mut far: Vec<Slice> = Vec::new();
        let mut next: Option<Slice> = None;
        let mut run = Run::new();
        let mut moved = 0;
        loop {
            let mut bytes = 0;
            while run.len() < BLOCKS {
                let Some(slice) = next.take().or_else(|| slices.next()) else { break };
                if needs_fence(&slice) {
                    far.push(slice);
                    continue;
                }
                if !fits(&run, bytes, &slice, limits::SHM_SHARED_BYTES_MIN) {
                    next = Some(slice);
                    break;
                }
                bytes += slice.length;
                run.push(slice);
            }
            if run.is_empty() {
                break;
            }
            let more = next.as_ref().map_or(0, |slice| slice.length);
            let is_large = bytes.saturating_add(more) > limits::SHM_SHARED_BYTES_MIN;
            // A queue that is full is none: then the caller moves everything.
            let has_room = self.queued.load(Ordering::Acquire) < self.inner.queue_max;
            if has_room && (is_large || moved >= limits::SHM_SUBMIT_BYTES_MAX) {
                let rest = run.drain(..).chain(next.take()).chain(&mut *slices);
                self.share(rest, &mut far);
                break;
            }
            moved += bytes;
            self.go(&mut run, &mut far);
        }
        match far.is_empty() {
            true => Rails::default(),
            false => self.far.submit(&mut far.into_iter(), driver),
        }
    }

    fn attend(&self, rails: Rails) {
        self.far.attend(rails);
    }

    fn progress(&self, rails: Rails) -> bool {
        let has_work = self.has_work();
        if has_work {
            self.drive(limits::SHM_PROGRESS_BYTES_MAX);
        }
        self.far.progress(rails) || has_work
    }

    fn wait_sources(&self, rails: Rails, into: &mut Vec<WaitSource>) {
        if self.has_work() {
            // Nobody sleeps while there is something to move.
            into.push(WaitSource { fd: self.inner.ready.as_raw_fd(), writable: false });
        }
        self.far.wait_sources(rails, into);
    }

    fn release(&self, rails: Rails) {
        if self.has_work() {
            self.inner.wake.signal();
        }
        self.far.release(rails);
    }

    fn cancel(&self, owner: OwnerId, error: &Error) {
        let ended: Vec<Slice> = {
            let mut queue = self.queue.lock();
            let all = std::mem::take(&mut *queue);
            let (ended, kept): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|slice| slice.belongs_to(owner));
            *queue = kept.into();
            self.queued.store(queue.len(), Ordering::Release);
            ended
        };
        for slice in ended {
            slice.fail(error.clone());
        }
        // Whoever copies for this batch has ended; whoever is about to finds it cancelled.
        drop(self.copying.write());
        self.far.cancel(owner, error);
    }

    fn close(&self, error: &Error) {
        self.link.end();
        drop(self.copying.write());
        self.link.forget_all();
        for slice in self.take_queue() {
            slice.fail(error.clone());
        }
        self.far.close(error);
    }

    fn retire(&self) {
        self.link.end();
        drop(self.copying.write());
        self.link.forget_all();
        self.far.retire();
        self.empty_into_far();
    }

    fn is_down(&self) -> bool {
        self.far.is_down()
    }

    fn dump(&self) -> Value {
        json!({
            "same_host": self.link.dump(),
            "waiting": self.queued.load(Ordering::Acquire),
            "otherwise": self.far.dump(),
        })
    }
}

impl Drop for ShmRoute {
    fn drop(&mut self) {
        self.close(&Error::new(ErrorKind::Cancelled, "the segment was closed"));
    }
}
