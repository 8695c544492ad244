//! Time as a parameter: a clock that tests can move, and deadlines derived from the caller's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where "now" comes from. Pure cores take instants; shells ask a clock.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> Instant;
}

/// The operating system's monotonic clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that moves only when told to; for tests of deterministic cores.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    elapsed_nanos: AtomicU64,
}

impl Default for ManualClock {
    fn default() -> Self {
        ManualClock { start: Instant::now(), elapsed_nanos: AtomicU64::new(0) }
    }
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.elapsed_nanos.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.elapsed_nanos.load(Ordering::Relaxed))
    }
}

/// The latest instant at which an operation may still run. Never infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `timeout` from `now`, capped at [`crate::limits::TIMEOUT_MAX`].
    pub fn after(now: Instant, timeout: Duration) -> Self {
        Deadline(now + timeout.min(crate::limits::TIMEOUT_MAX))
    }

    /// At `instant`.
    pub fn at(instant: Instant) -> Self {
        Deadline(instant)
    }

    /// `timeout` from the present instant.
    pub fn within(timeout: Duration) -> Self {
        Deadline::after(Instant::now(), timeout)
    }

    /// The instant itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Time left at `now`; zero once passed.
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// True once `now` has reached the deadline.
    pub fn passed(self, now: Instant) -> bool {
        now >= self.0
    }
}

/// Local time as upstream writes it into descriptors: `YYYY-MM-DD hh:mm:ss.uuuuuu`. For people.
pub fn local_timestamp() -> String {
    let now = jiff::Zoned::now();
    now.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string()
}
