//! Counts of calls and of eviction, as upstream's metrics and ours need them. Only grow.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pool::outcome::Outcome;
use crate::rpc::message::{Call, Reply};

/// Upper bounds of the histogram of sizes at the start of puts (upstream's).
pub const VALUE_SIZE_BOUNDS: [u64; 7] =
    [4096, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];

/// One row per kind of call: variant, upstream's name in metrics.
macro_rules! operations {
    ($($variant:ident $name:literal,)*) => {
        /// A kind of call that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $(
                #[doc = $name]
                $variant,
            )*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Operation] = &[$(Operation::$variant),*];

            /// Name inside upstream's metrics; those that upstream lacks are named alike.
            pub fn name(self) -> &'static str {
                match self {
                    $(Operation::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    ExistKey "exist_key",
    BatchExistKey "batch_exist_key",
    GetReplicaList "get_replica_list",
    BatchGetReplicaList "batch_get_replica_list",
    GetReplicaListByRegex "get_replica_list_by_regex",
    PutStart "put_start",
    BatchPutStart "batch_put_start",
    PutEnd "put_end",
    BatchPutEnd "batch_put_end",
    PutRevoke "put_revoke",
    BatchPutRevoke "batch_put_revoke",
    Remove "remove",
    BatchRemove "batch_remove",
    RemoveByRegex "remove_by_regex",
    RemoveAll "remove_all",
    MountSegment "mount_segment",
    RemountSegment "remount_segment",
    UnmountSegment "unmount_segment",
    Ping "ping",
    Attend "attend",
    Report "report",
    Suspect "suspect",
    Keep "keep",
    Unfinished "unfinished",
}

const OPERATIONS: usize = Operation::ALL.len();

impl Operation {
    /// Under what a call is counted.
    pub fn of(call: &Call) -> Option<Operation> {
        Some(match call {
            Call::ServiceReady | Call::StorageDirectory | Call::Greet { .. } => return None,
            Call::Ping(_) => Operation::Ping,
            Call::Exists(_) => Operation::ExistKey,
            Call::BatchExists(_) => Operation::BatchExistKey,
            Call::Lookup(_) => Operation::GetReplicaList,
            Call::BatchLookup(_) => Operation::BatchGetReplicaList,
            Call::LookupByPattern(_) => Operation::GetReplicaListByRegex,
            Call::PutStart(..) => Operation::PutStart,
            Call::BatchPutStart(..) => Operation::BatchPutStart,
            Call::PutEnd(..) => Operation::PutEnd,
            Call::BatchPutEnd(..) => Operation::BatchPutEnd,
            Call::PutRevoke(..) => Operation::PutRevoke,
            Call::BatchPutRevoke(..) => Operation::BatchPutRevoke,
            Call::Remove { .. } => Operation::Remove,
            Call::BatchRemove { .. } => Operation::BatchRemove,
            Call::RemoveByPattern { .. } => Operation::RemoveByRegex,
            Call::RemoveAll { .. } => Operation::RemoveAll,
            Call::Mount(..) => Operation::MountSegment,
            Call::Remount(..) => Operation::RemountSegment,
            Call::Unmount(..) => Operation::UnmountSegment,
            Call::Attend { .. } => Operation::Attend,
            Call::Report { .. } => Operation::Report,
            Call::Suspect { .. } => Operation::Suspect,
            Call::Keep { .. } => Operation::Keep,
            Call::Unfinished { .. } => Operation::Unfinished,
        })
    }
}

/// Counts of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls.
    pub requests: u64,
    /// Calls that failed; of batched ones, those in which every item failed.
    pub failures: u64,
    /// Batched calls in which some items failed.
    pub partial_successes: u64,
    /// Items of batched calls.
    pub items: u64,
    /// Items that failed.
    pub failed_items: u64,
}

#[derive(Debug, Default)]
struct AtomicTally {
    requests: AtomicU64,
    failures: AtomicU64,
    partial: AtomicU64,
    items: AtomicU64,
    failed_items: AtomicU64,
}

/// All counts of one master.
#[derive(Debug, Default)]
pub struct Counters {
    calls: [AtomicTally; OPERATIONS],
    sizes: [AtomicU64; VALUE_SIZE_BOUNDS.len() + 1],
    size_sum: AtomicU64,
    /// Passes of eviction.
    pub(super) attempted_evictions: AtomicU64,
    /// Passes that evicted something.
    pub(super) successful_evictions: AtomicU64,
    /// Objects evicted.
    pub(super) evicted_keys: AtomicU64,
    /// Their bytes.
    pub(super) evicted_bytes: AtomicU64,
    /// Unfinished puts that were given up for their owner.
    pub(super) abandoned_puts: AtomicU64,
    /// Objects taken over from reports.
    pub(super) reported_objects: AtomicU64,
    pub(super) revived_files: AtomicU64,
    pub(super) evicted_files: AtomicU64,
    pub(super) evicted_file_bytes: AtomicU64,
    pub(super) refused_files: AtomicU64,
    /// Puts that had to wait for room.
    pub(super) waited_puts: AtomicU64,
    /// Puts with fewer copies than were asked for.
    pub(super) partial_allocations: AtomicU64,
    /// Clients that were given up because they were silent.
    pub(super) expired_clients: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    // Most calls have no failures, and the counters are shared by all threads.
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn failed<T>(outcomes: &[Outcome<T>]) -> (u64, Option<u64>) {
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    (failed as u64, Some(outcomes.len() as u64))
}

impl Counters {
    pub(super) fn count(&self, operation: Operation, reply: &Reply) {
        let single = |is_err: bool| (u64::from(is_err), None);
        let (failed, items) = match reply {
            Reply::Ready(outcome) | Reply::Directory(outcome) => single(outcome.is_err()),
            Reply::Pong(outcome) => single(outcome.is_err()),
            Reply::Exists(outcome) => single(outcome.is_err()),
            Reply::Located(outcome) => single(outcome.is_err()),
            Reply::Found(outcome) => single(outcome.is_err()),
            Reply::Granted(outcome) => single(outcome.is_err()),
            Reply::Done(outcome) => single(outcome.is_err()),
            Reply::Removed(outcome) => single(outcome.is_err()),
            Reply::RemovedAll(_) => single(false),
            Reply::Greeted(outcome) => single(outcome.is_err()),
            Reply::Events(outcome) => single(outcome.is_err()),
            Reply::BatchExists(outcomes) => failed(outcomes),
            Reply::BatchLocated(outcomes) => failed(outcomes),
            Reply::BatchGranted(outcomes) => failed(outcomes),
            Reply::BatchDone(outcomes) => failed(outcomes),
        };
        self.count_items(operation, failed, items);
    }

    /// A call of which `failed` items failed; `items` of batched ones.
    pub(super) fn count_items(&self, operation: Operation, failed: u64, items: Option<u64>) {
        let tally = &self.calls[operation as usize];
        add(&tally.requests, 1);
        let Some(items) = items else {
            add(&tally.failures, failed);
            return;
        };
        add(&tally.items, items);
        add(&tally.failed_items, failed);
        if failed > 0 && failed == items {
            add(&tally.failures, 1);
        } else if failed > 0 {
            add(&tally.partial, 1);
        }
    }

    pub(super) fn value_size(&self, bytes: u64) {
        let bucket = VALUE_SIZE_BOUNDS.iter().position(|bound| bytes <= *bound);
        add(&self.sizes[bucket.unwrap_or(VALUE_SIZE_BOUNDS.len())], 1);
        add(&self.size_sum, bytes);
    }

    /// Counts of one kind of call.
    pub fn tally(&self, operation: Operation) -> Tally {
        let tally = &self.calls[operation as usize];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            requests: read(&tally.requests),
            failures: read(&tally.failures),
            partial_successes: read(&tally.partial),
            items: read(&tally.items),
            failed_items: read(&tally.failed_items),
        }
    }

    /// Sizes at the start of puts: how many in each bucket (not added up; the last one is without
    /// bound), and the sum of all.
    pub fn value_sizes(&self) -> ([u64; VALUE_SIZE_BOUNDS.len() + 1], u64) {
        let buckets = std::array::from_fn(|at| self.sizes[at].load(Ordering::Relaxed));
        (buckets, self.size_sum.load(Ordering::Relaxed))
    }
}
