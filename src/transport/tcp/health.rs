//! Whether a peer answers at all: pure, the clock is a parameter.
//!
//! A refused connection is a fast answer and costs nothing, so it is not remembered. Silence costs
//! a whole time limit; after it, requests are refused without trying, while one lane probes the
//! peer now and then, until it answers. When nobody has asked for the peer for a while the probing
//! ends, and the next request tries for itself.

use std::sync::atomic::{AtomicBool, Ordering};
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
}

impl Health {
    pub(super) fn new(cooldown: Duration, now: Instant) -> Health {
        Health {
            cooldown,
            down: AtomicBool::new(false),
            times: Mutex::new(Times { next_probe: now, last_request: now }),
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
    fn no_cooldown_means_never_down() {
        let health = Health::new(Duration::ZERO, Instant::now());
        health.silent(Instant::now());
        assert!(!health.is_down());
    }
}
