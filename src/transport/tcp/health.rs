//! Whether a peer answers at all: pure, the clock is a parameter.
//!
//! A refused connection is a fast answer and costs nothing, so it is not remembered. Silence costs
//! a whole time limit; after it, requests are refused without trying, while one lane probes the
//! peer now and then, until it answers. When nobody has asked for the peer for a while the probing
//! ends, and the next request tries for itself.
//!
//! Connections to one peer die together, when a middlebox forgets them or the peer's host is
//! gone. So once one was lost, the idle ones that were heard of before are not trusted any more:
//! else a request could try them all and find them dead one after the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Probing ends after this time without a request.
const INTEREST: Duration = Duration::from_secs(60);

struct Times {
    next_probe: Instant,
    last_request: Instant,
}

/// The health of one peer.
pub(super) struct Health {
    cooldown: Duration,
    down: AtomicBool,
    times: Mutex<Times>,
    start: Instant,
    /// Nanoseconds from `start` to the last loss of a connection; 0 without one.
    last_loss: AtomicU64,
}

impl Health {
    pub(super) fn new(cooldown: Duration, now: Instant) -> Health {
        Health {
            cooldown,
            down: AtomicBool::new(false),
            times: Mutex::new(Times { next_probe: now, last_request: now }),
            start: now,
            last_loss: AtomicU64::new(0),
        }
    }

    /// The peer did not answer within a time limit.
    pub(super) fn silent(&self, now: Instant) {
        let mut times = self.times.lock();
        times.next_probe = now + self.cooldown;
        if !self.down.swap(!self.cooldown.is_zero(), Ordering::AcqRel) {
            times.last_request = now;
        }
    }

    fn since_start(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos().try_into().unwrap_or(u64::MAX)
    }

    /// A connection broke or stood still.
    pub(super) fn lost(&self, now: Instant) {
        self.last_loss.fetch_max(self.since_start(now), Ordering::AcqRel);
    }

    /// True for a connection that was last heard of before another one was lost.
    pub(super) fn is_doubtful(&self, heard: Instant) -> bool {
        let lost = self.last_loss.load(Ordering::Acquire);
        lost > 0 && self.since_start(heard) <= lost
    }

    /// A connection was made.
    pub(super) fn worked(&self) {
        self.down.store(false, Ordering::Release);
    }

    /// True while requests should be refused without trying.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// A request was refused.
    pub(super) fn refused(&self, now: Instant) {
        self.times.lock().last_request = now;
    }

    /// True if it is time to try a connection without a request.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        if !self.is_down() {
            return false;
        }
        let times = self.times.lock();
        if now >= times.last_request + INTEREST {
            self.down.store(false, Ordering::Release);
            return false;
        }
        now >= times.next_probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_refuses_until_a_probe_succeeds_or_nobody_asks() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let health = Health::new(Duration::from_secs(1), start);
        assert!(!health.is_down() && !health.wants_probe(after(5000)));
        health.silent(start);
        assert!(health.is_down());
        assert!(!health.wants_probe(after(999)));
        assert!(health.wants_probe(after(1000)));
        health.silent(after(1000));
        assert!(!health.wants_probe(after(1999)));
        assert!(health.wants_probe(after(2000)));
        health.worked();
        assert!(!health.is_down());
        health.silent(start);
        health.refused(after(30_000));
        assert!(health.wants_probe(after(89_000)));
        assert!(!health.wants_probe(after(90_000)));
        assert!(!health.is_down());
    }

    #[test]
    fn a_loss_casts_doubt_on_what_was_heard_before_it() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let health = Health::new(Duration::from_secs(1), start);
        assert!(!health.is_doubtful(start) && !health.is_doubtful(after(5)));
        health.lost(after(10));
        health.lost(after(7));
        assert!(health.is_doubtful(start) && health.is_doubtful(after(10)));
        assert!(!health.is_doubtful(after(11)));
        assert!(!health.is_down());
    }

    #[test]
    fn no_cooldown_means_never_down() {
        let health = Health::new(Duration::ZERO, Instant::now());
        health.silent(Instant::now());
        assert!(!health.is_down());
    }
}
