//! What a master is told at its start. Lengths of time and shares; no file, no address.

use std::time::Duration;

use crate::pool::lease::Micros;
use crate::pool::placement::Policy;

/// Settings of the index. The defaults are upstream's where it has them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Unpredictable number: placement, and the hash of keys.
    pub seed: u128,
    /// Milliseconds of the wall clock at the start, or any number that grows from life to life.
    pub life: u64,
    /// Version of the view in which this master leads; 0 where nobody is elected.
    pub view_version: i64,
    /// Index shards, rounded up to a power of two, at most 1024.
    pub shards: usize,
    /// Length of a lease.
    pub lease_ttl: Duration,
    /// Length of a soft pin that asks for none.
    pub soft_pin_ttl: Duration,
    /// Longest soft pin; more is refused.
    pub soft_pin_ttl_max: Duration,
    /// A client that is not heard of for so long is gone, and its memory with it.
    pub client_ttl: Duration,
    /// Nothing is placed in the memory of a client that is not heard of for so long.
    pub suspect_after: Duration,
    /// An unfinished put without owner gives way to another one after this.
    pub discard_timeout: Duration,
    /// An unfinished put is dropped after this.
    pub release_timeout: Duration,
    /// Rest of a range whose put was given up: writes of a slow writer may still arrive.
    pub writer_grace: Duration,
    /// A holder that has left news of gone objects unacknowledged for so long is suspect.
    pub acknowledge_limit: Duration,
    /// A segment that was remounted takes new objects after its report, or after this.
    pub report_limit: Duration,
    /// Longest wait of a put for room.
    pub room_wait: Duration,
    /// Eviction begins when more than this share of a segment's bytes is in use.
    pub eviction_high_watermark: f64,
    /// Share of a segment's bytes that one pass of eviction takes beyond the watermark.
    pub eviction_ratio: f64,
    /// Whether soft-pinned objects are evicted when nothing else is left.
    pub evict_soft_pinned: bool,
    /// How segments are chosen.
    pub policy: Policy,
    /// Answer to the question for the shared file tier; empty: there is none.
    pub storage_directory: String,
    /// Bytes that the shared file tier may hold.
    pub file_capacity: u64,
    /// Whether the oldest files go when there are too many bytes of them.
    pub evict_files: bool,
    /// Answer to the question whether the service is ready.
    pub version: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: 0,
            life: 0,
            view_version: 0,
            shards: 64,
            lease_ttl: Duration::from_secs(5),
            soft_pin_ttl: Duration::from_secs(1800),
            soft_pin_ttl_max: Duration::from_secs(86_400),
            client_ttl: Duration::from_secs(10),
            suspect_after: Duration::from_secs(3),
            discard_timeout: Duration::from_secs(30),
            release_timeout: Duration::from_secs(600),
            writer_grace: Duration::from_secs(5),
            acknowledge_limit: Duration::from_secs(10),
            report_limit: Duration::from_secs(10),
            room_wait: Duration::from_millis(500),
            eviction_high_watermark: 0.95,
            eviction_ratio: 0.05,
            evict_soft_pinned: true,
            policy: Policy::Random,
            storage_directory: String::new(),
            file_capacity: u64::MAX,
            evict_files: true,
            version: String::new(),
        }
    }
}

/// The same in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) lease: Micros,
    pub(super) soft_pin: Micros,
    pub(super) soft_pin_max: Micros,
    pub(super) client_ttl: Micros,
    pub(super) suspect: Micros,
    pub(super) discard: Micros,
    pub(super) release: Micros,
    pub(super) grace: Micros,
    pub(super) acknowledge: Micros,
    pub(super) report: Micros,
    pub(super) room_wait: Micros,
}

/// Saturates: lengths beyond half a million years are for ever.
pub(super) fn micros(length: Duration) -> Micros {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

impl Settings {
    pub(super) fn times(&self) -> Times {
        Times {
            lease: micros(self.lease_ttl),
            soft_pin: micros(self.soft_pin_ttl),
            soft_pin_max: micros(self.soft_pin_ttl_max),
            client_ttl: micros(self.client_ttl),
            suspect: micros(self.suspect_after),
            discard: micros(self.discard_timeout),
            release: micros(self.release_timeout),
            grace: micros(self.writer_grace),
            acknowledge: micros(self.acknowledge_limit),
            report: micros(self.report_limit),
            room_wait: micros(self.room_wait),
        }
    }
}
