//! The index of the store as a deterministic state machine: calls and moments in, answers out.
//!
//! [`State::apply`] may be called from any number of threads. What cannot be answered at once is a
//! [`Waiting`]: the caller keeps it and gives it back to [`State::resume`] when the [`Outlet`] says
//! that something has changed, and at the latest when its time is over. [`State::tick`] does what
//! time demands; it is to be called every ten milliseconds or so, from one thread.
//!
//! Nothing here has a socket, a clock or a thread. Changes that must survive the process go to the
//! outlet as records, in an order in which they can be replayed.
//!
//! Order of locks, outermost first; nobody waits for one while holding another of its kind:
//! 1. `mounting` (segments come and go) or `reports`,
//! 2. an index shard,
//! 3. a table of groups, then the members of one,
//! 4. the room of a segment,
//! 5. a client, or those that were given up lately,
//! 6. whatever the outlet takes.
//!
//! The table of segments is read without a lock. A slot of it is used again only after every shard
//! has been purged of it, so whoever reads the table under the lock of a shard finds there the
//! segments that the shard's objects mean, or nothing.

mod cell;
mod client;
mod counters;
mod evict;
mod files;
mod groups;
mod index;
mod keep;
mod liveness;
mod pattern;
mod puts;
mod queries;
mod reads;
mod removal;
mod report;
mod restore;
mod segments;
mod settings;
mod shard;
mod sights;
mod tick;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use siphasher::sip::SipHasher13;

pub use counters::{Counters, Operation, Tally, VALUE_SIZE_BOUNDS};
pub use puts::WaitingPut;
pub use queries::{SegmentUse, Totals};
pub use settings::Settings;

use self::client::Client;
use self::segments::{Mounting, Table};
use self::settings::Times;
use self::shard::Shard;
use super::journal::record::Record;
use crate::limits;
use crate::pool::eviction::Calendar;
use crate::pool::identity::ClientId;
use crate::pool::lease::Micros;
use crate::pool::object::{Generation, Key};
use crate::pool::outcome::Refusal;
use crate::rpc::message::{Call, Greeting, Reply};

/// Newest native version spoken.
pub const NATIVE_VERSION: u32 = 1;
/// Moments begin here, so that lengths of time can be taken off them.
const FIRST_MOMENT: Micros = 1 << 50;
/// Generations of one life: a million for each millisecond that it may be longer than the clock.
const GENERATIONS_PER_MS_BITS: u32 = 20;
const SHARDS_MAX: usize = 1024;

/// Where changes are told. Called with locks held: it must not block, nor call the state.
pub trait Outlet: Send + Sync {
    /// A change that must survive the process. Nobody may be told of the change before the record
    /// is as safe as it is to be.
    fn record(&self, _record: &Record<'_>) {}
    /// A client that attends has news.
    fn news(&self, _client: ClientId) {}
    /// A file of the disk tier, unfinished or not, belongs to no object any more.
    fn file_gone(&self, _path: String) {}
    /// A client was given up, and no other one has a segment of that name.
    fn gone(&self, _segment_name: &str) {}
    /// A put that found no room may find some now. Called often; it should cost next to nothing
    /// while nobody waits.
    fn room(&self) {}
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct NoOutlet;

impl Outlet for NoOutlet {}

/// What became of a call.
#[derive(Debug)]
pub enum Step {
    /// It is answered.
    Reply(Reply),
    /// It is answered later, by [`State::resume`].
    Later(Waiting),
}

/// A call that waits.
#[derive(Debug)]
pub enum Waiting {
    /// For room in the pool; resume it after [`Outlet::room`].
    Room(Box<WaitingPut>),
    /// For news of a holder's segments; resume it after [`Outlet::news`] of that client.
    News {
        /// Who.
        client: ClientId,
        /// When it is answered without news.
        until: Instant,
    },
}

impl Waiting {
    /// When it must be resumed at the latest.
    pub fn until(&self) -> Instant {
        match self {
            Waiting::Room(put) => put.until,
            Waiting::News { until, .. } => *until,
        }
    }
}

/// The index.
pub struct State {
    settings: Settings,
    times: Times,
    start: Instant,
    hash_keys: (u64, u64),
    shards: Box<[RwLock<Shard>]>,
    /// Bits of a tag that number the slot; those above number the shard.
    slot_bits: u32,
    table: ArcSwap<Table>,
    mounting: Mutex<Mounting>,
    clients: RwLock<HashMap<ClientId, Arc<Client>>>,
    serial: AtomicU32,
    generation: AtomicU64,
    first_generation: u64,
    /// It goes on where a journal ended, so it knows all objects of before.
    remembers: bool,
    counters: Counters,
    /// Clients that were given up lately, and when.
    expired: Mutex<HashMap<ClientId, Micros>>,
    file_use: files::FileUse,
    groups: groups::Groups,
    /// Makes reports come one after the other.
    reports: Mutex<()>,
    rng: Mutex<fastrand::Rng>,
    /// When clients and timeouts were looked at, and when a moment was recorded.
    looked: AtomicU64,
    outlet: Arc<dyn Outlet>,
}

impl State {
    /// An empty index.
    pub fn new(settings: Settings, now: Instant, outlet: Arc<dyn Outlet>) -> State {
        let first = settings.life.max(1) << GENERATIONS_PER_MS_BITS;
        State::with_generation(settings, now, outlet, first)
    }

    fn with_generation(
        settings: Settings,
        now: Instant,
        outlet: Arc<dyn Outlet>,
        first_generation: u64,
    ) -> State {
        let shards = settings.shards.clamp(1, SHARDS_MAX).next_power_of_two();
        let slot_bits = u32::BITS - shards.trailing_zeros();
        let slots_max = ((1_u64 << slot_bits) - 1) as u32;
        let seed = (settings.seed as u64, (settings.seed >> 64) as u64);
        let mut seeds = fastrand::Rng::with_seed(seed.0);
        outlet.record(&Record::Life { generation: first_generation });
        let times = settings.times();
        let calendar = Calendar::new(times.lease);
        State {
            times,
            start: now,
            hash_keys: seed,
            shards: (0..shards as u32)
                .map(|number| RwLock::new(Shard::new(number, seeds.u64(..), slots_max, calendar)))
                .collect(),
            slot_bits,
            table: ArcSwap::default(),
            mounting: Mutex::default(),
            clients: RwLock::default(),
            serial: AtomicU32::new(1),
            generation: AtomicU64::new(first_generation),
            first_generation,
            remembers: false,
            counters: Counters::default(),
            expired: Mutex::default(),
            file_use: files::FileUse::new(&settings.storage_directory),
            groups: groups::Groups::default(),
            reports: Mutex::default(),
            rng: Mutex::new(seeds.fork()),
            looked: AtomicU64::new(0),
            outlet,
            settings,
        }
    }

    /// This life, as told to native clients.
    pub fn life(&self) -> u64 {
        self.first_generation
    }

    /// The first put of this life, and what the next one will be. Later than anything that is
    /// known of puts by now.
    pub fn generations(&self) -> (u64, u64) {
        (self.first_generation, self.generation.load(Ordering::Relaxed))
    }

    /// The view in which this master leads; 0 where nobody is elected.
    pub fn view_version(&self) -> i64 {
        self.settings.view_version
    }

    /// Carries out a call.
    pub fn apply(&self, now: Instant, call: Call) -> Step {
        let at = self.micros(now);
        let operation = Operation::of(&call);
        if call_items(&call) > limits::STORE_BATCH_MAX {
            return Step::Reply(self.counted(operation, call.refuse(Refusal::INVALID_PARAMS)));
        }
        let reply = match call {
            Call::ServiceReady => Reply::Ready(Ok(self.settings.version.clone())),
            Call::StorageDirectory => Reply::Directory(Ok(self.settings.storage_directory.clone())),
            Call::Ping(client) => Reply::Pong(Ok(self.ping(at, client))),
            Call::Exists(key) => Reply::Exists(Ok(self.exists(at, &key))),
            Call::BatchExists(keys) => {
                Reply::BatchExists(self.exist_each(at, &keys).into_iter().map(Ok).collect())
            }
            Call::Lookup(key) => Reply::Located(self.lookup(at, &key)),
            Call::BatchLookup(keys) => Reply::BatchLocated(self.lookup_each(at, &keys)),
            Call::LookupByPattern(pattern) => Reply::Found(self.lookup_pattern(at, &pattern)),
            Call::PutStart(owner, item, options) => {
                return self.put_start(at, owner, vec![item], options, true);
            }
            Call::BatchPutStart(owner, items, options) => {
                return self.put_start(at, owner, items, options, false);
            }
            Call::PutEnd(owner, key, kind, put) => {
                Reply::Done(self.put_end(at, owner, (&key, put), kind))
            }
            Call::BatchPutEnd(owner, keys, kind, puts) => Reply::BatchDone(
                each_put(&keys, &puts).map(|put| self.put_end(at, owner, put, kind)).collect(),
            ),
            Call::PutRevoke(owner, key, kind, put) => {
                Reply::Done(self.put_revoke(at, owner, (&key, put), kind))
            }
            Call::BatchPutRevoke(owner, keys, kind, puts) => Reply::BatchDone(
                each_put(&keys, &puts).map(|put| self.put_revoke(at, owner, put, kind)).collect(),
            ),
            Call::Remove { key, force } => Reply::Done(self.remove(at, &key, force)),
            Call::BatchRemove { keys, force } => {
                Reply::BatchDone(keys.iter().map(|key| self.remove(at, key, force)).collect())
            }
            Call::RemoveByPattern { pattern, force } => {
                Reply::Removed(self.remove_pattern(at, &pattern, force))
            }
            Call::RemoveAll { force } => Reply::RemovedAll(self.remove_all(at, force)),
            Call::Mount(segment, client) => Reply::Done(self.mount(at, segment, client)),
            Call::Remount(segments, client) => Reply::Done(self.remount(at, segments, client)),
            Call::Unmount(segment, client) => Reply::Done(self.unmount(at, segment, client)),
            Call::Greet { version } => Reply::Greeted(self.greet(version)),
            Call::Attend { client, acknowledged, wait_ms } => {
                return self.attend(now, client, acknowledged, wait_ms);
            }
            Call::Report { client, objects, last } => {
                Reply::Done(self.report(at, client, objects, last))
            }
            Call::Suspect { client, endpoint } => Reply::Done(self.suspect(client, &endpoint)),
            Call::Keep { client, segments, ranges } => {
                Reply::Done(self.keep(at, client, segments, &ranges))
            }
            Call::Unfinished { client, puts, age_ms } => {
                Reply::Done(self.unfinished(at, client, puts, age_ms))
            }
        };
        Step::Reply(self.counted(operation, reply))
    }

    /// Goes on with a call that waits. It is answered if it can be, or if its time is over.
    pub fn resume(&self, now: Instant, waiting: Waiting) -> Step {
        match waiting {
            Waiting::Room(put) => self.resume_put(self.micros(now), *put),
            Waiting::News { client, until } => self.resume_attend(now, client, until),
        }
    }

    /// Answers a call that waits with what there is.
    pub fn give_up(&self, waiting: Waiting) -> Reply {
        match waiting {
            Waiting::Room(put) => self.give_up_put(*put),
            Waiting::News { client, .. } => self.news_of(client),
        }
    }

    /// Does something while no segment comes or goes.
    pub(crate) fn while_nothing_is_mounted<T>(&self, act: impl FnOnce() -> T) -> T {
        let _mounting = self.mounting.lock();
        act()
    }

    fn greet(&self, version: u32) -> crate::pool::outcome::Outcome<Greeting> {
        if version == 0 {
            return Err(Refusal::INVALID_VERSION);
        }
        let version = version.min(NATIVE_VERSION);
        Ok(Greeting { version, master_life: self.first_generation })
    }

    fn counted(&self, operation: Option<Operation>, reply: Reply) -> Reply {
        if let Some(operation) = operation {
            self.counters.count(operation, &reply);
        }
        reply
    }

    fn micros(&self, now: Instant) -> Micros {
        let passed = now.saturating_duration_since(self.start).as_micros();
        FIRST_MOMENT + u64::try_from(passed).unwrap_or(0)
    }

    fn instant(&self, at: Micros) -> Instant {
        self.start + Duration::from_micros(at.saturating_sub(FIRST_MOMENT))
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1);
        hasher.write(key);
        hasher.finish()
    }

    fn shard_of(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & (self.shards.len() as u32 - 1)
    }

    fn shard(&self, number: u32) -> &RwLock<Shard> {
        &self.shards[number as usize]
    }

    /// What the range of an object carries: where the object is.
    fn tag(&self, shard: u32, slot: u32) -> u32 {
        shard.checked_shl(self.slot_bits).unwrap_or(0) | slot
    }

    /// Shard and slot of a tag.
    fn place_of(&self, tag: u32) -> (u32, u32) {
        let shard = tag.checked_shr(self.slot_bits).unwrap_or(0);
        (shard, tag & ((1_u64 << self.slot_bits) - 1) as u32)
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }
}

/// Keys with the put that is meant of each; 0 where the caller does not say.
fn each_put<'a>(
    keys: &'a [Key],
    puts: &'a [Generation],
) -> impl Iterator<Item = (&'a [u8], Generation)> {
    let puts = puts.iter().copied().chain(std::iter::repeat(0));
    keys.iter().map(Vec::as_slice).zip(puts)
}

fn call_items(call: &Call) -> usize {
    match call {
        Call::BatchExists(keys)
        | Call::BatchLookup(keys)
        | Call::BatchPutEnd(_, keys, ..)
        | Call::BatchPutRevoke(_, keys, ..)
        | Call::BatchRemove { keys, .. } => keys.len(),
        Call::BatchPutStart(_, items, _) => items.len(),
        _ => 1,
    }
}
