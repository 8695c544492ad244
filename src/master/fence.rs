//! Until when a leader may answer. Shared by the thread that renews the lease and all that answer.
//!
//! A leader that was stopped, or cut off from the cluster, may be replaced without knowing. So the
//! clock decides, not the news: every answer looks here first. Lock-free.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A moment that moves on while the lease is renewed.
#[derive(Debug)]
pub struct Fence {
    start: Instant,
    /// Microseconds since `start`; 0 is over.
    until: AtomicU64,
}

impl Fence {
    /// One that lets nothing through yet.
    pub fn closed(now: Instant) -> Fence {
        Fence { start: now, until: AtomicU64::new(0) }
    }

    /// Lets answers through until then, or no longer.
    pub fn set(&self, until: Option<Instant>) {
        let until = until.map_or(0, |until| {
            let passed = until.saturating_duration_since(self.start).as_micros();
            u64::try_from(passed).unwrap_or(u64::MAX)
        });
        self.until.store(until, Ordering::Release);
    }

    /// Whether an answer may go out now.
    pub fn holds(&self, now: Instant) -> bool {
        let until = Duration::from_micros(self.until.load(Ordering::Acquire));
        now.saturating_duration_since(self.start) < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_until_its_moment() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let fence = Fence::closed(start);
        assert!(!fence.holds(start));
        fence.set(Some(at(100)));
        assert!(fence.holds(at(99)) && !fence.holds(at(100)));
        fence.set(Some(at(200)));
        assert!(fence.holds(at(150)));
        fence.set(None);
        assert!(!fence.holds(start) && !fence.holds(at(150)));
    }
}
