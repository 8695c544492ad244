//! Ways to move bytes. A transport is one folder; this file is the contract between them and the
//! engine, and the engine never asks a transport for its name.
//!
//! Flow: the engine plans requests into [`Slice`]s and hands them to the [`Route`] of the target
//! segment. The route owns them until it completes them, fails them for good, or gives them back
//! through [`Recovery`]. Completion is asynchronous and may happen on any thread, also inside
//! [`Route::submit`]. A slice cannot be lost: dropping it fails its task.

use std::os::fd::RawFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::descriptor::{PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Access, Region};

pub mod loopback;
pub mod shm;
pub mod tcp;

/// Direction of a request, seen from the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the peer's memory into local memory.
    Read,
    /// From local memory into the peer's.
    Write,
}

impl Operation {
    /// The word used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
        }
    }

    /// What the owner of the remote memory must have granted.
    pub fn remote_access(self) -> Access {
        match self {
            Operation::Read => Access::REMOTE_READ,
            Operation::Write => Access::REMOTE_WRITE,
        }
    }
}

/// What a transport can do; the planner obeys it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Moves host memory.
    pub host_memory: bool,
    /// Moves accelerator memory without a copy through the host.
    pub device_memory: bool,
    /// Offers reads.
    pub read: bool,
    /// Offers writes.
    pub write: bool,
}

impl Capabilities {
    /// Reads and writes of host memory.
    pub const HOST: Capabilities =
        Capabilities { host_memory: true, device_memory: false, read: true, write: true };

    /// True if the operation is offered.
    pub fn offers(self, operation: Operation) -> bool {
        match operation {
            Operation::Read => self.read,
            Operation::Write => self.write,
        }
    }
}

/// Keys that one transport made for one region, in the order of the transport's devices. Published
/// with the buffer. Transports without keys of their own return empty lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionKeys {
    /// Keys for local use.
    pub local: Vec<u32>,
    /// Keys for peers.
    pub remote: Vec<u32>,
}

/// How a route wants large requests cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// Longest slice; the planner cuts longer requests.
    pub slice_bytes_max: u64,
    /// A request of at least this size is spread over the rails.
    pub stripe_bytes_min: u64,
    /// Rails that can move bytes at the same time.
    pub rails: u32,
}

/// The set of rails of one route that a batch has slices on: bit i is rail i modulo 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rails(pub u64);

impl Rails {
    /// Every rail.
    pub const ALL: Rails = Rails(u64::MAX);

    /// The set with one rail.
    pub fn one(index: usize) -> Rails {
        Rails(1 << (index % 64))
    }

    /// True if the rail is in the set.
    pub fn has(self, index: usize) -> bool {
        self.0 & Rails::one(index).0 != 0
    }

    /// The rails that are in both sets.
    pub fn common(self, other: Rails) -> Rails {
        Rails(self.0 & other.0)
    }

    /// Adds the rails of `other`.
    pub fn add(&mut self, other: Rails) {
        self.0 |= other.0;
    }
}

/// Who moves the bytes after `submit` has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The calling thread goes on with [`Route::progress`]; no thread needs to be woken.
    Caller,
    /// Whoever wants to know calls [`Route::progress`], so what only waits for an answer need not
    /// wake the transport's own threads at once. They still finish it soon if nobody asks.
    Onlookers,
    /// Nobody may call again; the transport's own threads must finish the work.
    Threads,
}

/// What was lost, from small to large; decides what must be rebuilt before a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only this slice: its range, key or memory.
    Slice,
    /// The endpoint; a new one to the same address may work.
    Endpoint,
    /// The whole route: nobody answers at the address the descriptor names.
    Route,
}

/// Tells the batches of a process apart while they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId(pub usize);

/// Where slices report their end. Implemented by batches.
pub trait Tasks: Send + Sync {
    /// The batch behind it.
    fn owner(&self) -> OwnerId;
    /// A slice of `task` moved `bytes`.
    fn slice_completed(&self, task: u32, bytes: u64);
    /// A slice of `task` failed for good.
    fn slice_failed(&self, task: u32, error: Error);
    /// A slice of `task` that has not ended became two.
    fn slice_cut(&self, task: u32);
    /// True once the owner has cancelled; slices not yet started need not start.
    fn is_cancelled(&self) -> bool;
}

/// Takes slices that failed but might succeed after repair.
pub trait Recovery: Send + Sync {
    /// Retries `slice` or fails it; never blocks.
    fn recover(&self, slice: Slice, error: Error, scope: Scope);
}

/// The piece of a task that one transport operation moves.
pub struct Slice {
    /// Direction.
    pub operation: Operation,
    /// Segment the slice is for, as the engine numbers them.
    pub segment: u64,
    /// The local region; kept alive, but not kept registered.
    pub region: Arc<Region>,
    /// Local address, inside the region.
    pub local_address: u64,
    /// Address in the peer.
    pub remote_address: u64,
    /// The peer's key for the range (0 where the dialect has none).
    pub remote_key: u64,
    /// Bytes.
    pub length: u64,
    /// When the owner stops being interested.
    pub deadline: Instant,
    /// Attempts that failed so far.
    pub attempts: u32,
    /// The key may not be replaced by a later one: what the peer has registered since is not what
    /// the owner was allowed to touch.
    pub is_pinned: bool,
    owner: Option<(Arc<dyn Tasks>, u32)>,
}

impl Slice {
    /// A slice of task `task` of `tasks`. The argument list mirrors the fields.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        operation: Operation,
        segment: u64,
        region: Arc<Region>,
        local_address: u64,
        remote_address: u64,
        remote_key: u64,
        length: u64,
        deadline: Instant,
        tasks: Arc<dyn Tasks>,
        task: u32,
    ) -> Slice {
        Slice {
            operation,
            segment,
            region,
            local_address,
            remote_address,
            remote_key,
            length,
            deadline,
            attempts: 0,
            is_pinned: false,
            owner: Some((tasks, task)),
        }
    }

    /// All bytes are where they belong.
    pub fn complete(mut self) {
        if let Some((tasks, task)) = self.owner.take() {
            tasks.slice_completed(task, self.length);
        }
    }

    /// The slice will not be moved.
    pub fn fail(mut self, error: Error) {
        if let Some((tasks, task)) = self.owner.take() {
            tasks.slice_failed(task, error);
        }
    }

    /// Cuts `bytes` off the front, which must leave some on both sides. The parts are slices of the
    /// same task, which ends with the last of them.
    pub fn cut(&mut self, bytes: u64) -> Slice {
        if let Some((tasks, task)) = &self.owner {
            tasks.slice_cut(*task);
        }
        let front = Slice {
            operation: self.operation,
            segment: self.segment,
            region: Arc::clone(&self.region),
            local_address: self.local_address,
            remote_address: self.remote_address,
            remote_key: self.remote_key,
            length: bytes,
            deadline: self.deadline,
            attempts: self.attempts,
            is_pinned: self.is_pinned,
            owner: self.owner.clone(),
        };
        self.local_address += bytes;
        self.remote_address += bytes;
        self.length -= bytes;
        front
    }

    /// True if the slice belongs to that batch.
    pub fn belongs_to(&self, owner: OwnerId) -> bool {
        self.owner.as_ref().is_some_and(|(tasks, _)| tasks.owner() == owner)
    }

    /// True once its owner has cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.owner.as_ref().is_none_or(|(tasks, _)| tasks.is_cancelled())
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        if let Some((tasks, task)) = self.owner.take() {
            let error = Error::new(ErrorKind::Internal, "a transport dropped the slice");
            tasks.slice_failed(task, error);
        }
    }
}

/// One block that [`Route::move_at_once`] moves: a slice that nobody keeps.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Direction.
    pub operation: Operation,
    /// Local address, inside the region that goes with it.
    pub local_address: u64,
    /// Address in the peer.
    pub remote_address: u64,
    /// The peer's key for the range (0 where the dialect has none).
    pub remote_key: u64,
    /// Bytes.
    pub length: u64,
}

/// What a caller of [`Route::move_at_once`] keeps for the route between two calls: the region it
/// found last, and where. It is checked before every use, so it may be older than anything.
pub struct Reached {
    /// Whose region it is: another route may lead to another engine.
    pub table: Weak<dyn RegionTable>,
    /// The region; may be closed by now.
    pub region: Arc<Region>,
}

/// A descriptor to wait on until a route can make progress.
#[derive(Clone, Copy, Debug)]
pub struct WaitSource {
    /// File descriptor; may be closed by other threads meanwhile, so waits on it are short.
    pub fd: RawFd,
    /// Wake when it can be written to, not only when it can be read from.
    pub writable: bool,
}

/// Live connections to one peer through one transport.
///
/// All methods are thread-safe and none blocks for longer than one non-blocking system call.
pub trait Route: Send + Sync {
    /// How requests should be cut for this route.
    fn split_rule(&self) -> SplitRule;

    /// Takes the slices and starts as many as possible. Returns the rails they went to. With
    /// [`Driver::Caller`] these rails count as attended until [`Route::release`].
    fn submit(&self, slices: &mut dyn Iterator<Item = Slice>, driver: Driver) -> Rails;

    /// Requests up to this length are offered to [`Route::move_at_once`] first; 0: none.
    fn at_once_bytes_max(&self) -> u64 {
        0
    }

    /// Moves pieces whose local side lies in `local` on the calling thread, and returns how many
    /// from the front have arrived completely. Nothing is known of the others, and the reason is
    /// not told: they are to be submitted as slices. No piece is touched after the return.
    fn move_at_once(
        &self,
        local: &Arc<Region>,
        pieces: &[Piece],
        reached: &mut Option<Reached>,
    ) -> usize {
        let _ = (local, pieces, reached);
        0
    }

    /// The calling thread is about to call `progress` until it calls `release`: own threads may
    /// leave the rails to it.
    fn attend(&self, rails: Rails);

    /// Moves what can be moved now on the given rails, on the calling thread. True if something did
    /// move, so that more may follow soon.
    fn progress(&self, rails: Rails) -> bool;

    /// What to sleep on until `progress` makes sense again.
    fn wait_sources(&self, rails: Rails, into: &mut Vec<WaitSource>);

    /// Ends `attend` or `submit` with [`Driver::Caller`]: own threads take over what is left.
    fn release(&self, rails: Rails);

    /// Ends every slice of the batch `owner` with `error`. When this returns, their memory is not
    /// touched any more.
    fn cancel(&self, owner: OwnerId, error: &Error);

    /// Ends everything with `error` and closes the connections.
    fn close(&self, error: &Error);

    /// The peer is reached another way from now on: what is unfinished goes back through
    /// [`Recovery`], later slices too.
    fn retire(&self);

    /// True if the peer is in its cool-down after being unreachable.
    fn is_down(&self) -> bool;

    /// State for the dump.
    fn dump(&self) -> serde_json::Value;
}

/// A way to move bytes.
pub trait Transport: Send + Sync {
    /// The protocol name used in descriptors and options, such as `tcp`.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The TCP port it serves peers on, 0 without one.
    fn data_port(&self) -> u16 {
        0
    }

    /// Makes a region reachable; the keys are published with the buffer.
    fn register(&self, region: &Arc<Region>) -> Result<RegionKeys>;

    /// The region is about to be closed; gives up what `register` took. When this returns, no peer
    /// touches the memory by itself any more. The error says why that cannot be promised.
    fn unregister(&self, region: &Arc<Region>) -> Result<()>;

    /// Writes into the own descriptor what peers need in order to reach this transport.
    fn publish(&self, descriptor: &mut SegmentDescriptor);

    /// A route to the peer, or `None` where the peer does not offer this transport.
    fn route(&self, peer: &PeerAddress) -> Option<Result<Arc<dyn Route>>>;

    /// A shorter way to a peer that `far` reaches. Its route hands to `far` what it cannot move.
    /// May block for a moment.
    fn near(&self, peer: &PeerAddress, far: &Arc<dyn Route>) -> Near {
        let _ = (peer, far);
        Near::Silent
    }

    /// Stops serving and ends all threads. What is in flight fails with `Shutdown`.
    fn shutdown(&self);

    /// State and choices for the dump.
    fn dump(&self) -> serde_json::Value;
}

/// Whether a transport has a shorter way to a peer, and why.
pub enum Near {
    /// It does not know of such things.
    Silent,
    /// None to this peer.
    No(String),
    /// This one.
    Route(Arc<dyn Route>, String),
}

/// How transports look up the memory that peers name.
pub trait RegionTable: Send + Sync {
    /// The region that contains the whole range, if it is registered and grants the access.
    fn find_remote(
        &self,
        address: u64,
        length: u64,
        operation: Operation,
        key: Option<u64>,
    ) -> Result<Arc<Region>>;
}
