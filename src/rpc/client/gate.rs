//! Whether a master that failed is tried again. Pure.
//!
//! After a failure nobody tries for a while, which doubles with every further failure; then one
//! caller tries and the others go on being refused until it knows.

use std::time::{Duration, Instant};

/// How a call may go about the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Nothing is known against it.
    Open,
    /// It failed; this caller finds out whether it is back, and must report how it went.
    Probe,
    /// It failed; do not try.
    Refused,
}

#[derive(Debug)]
pub(super) struct Gate {
    pause_min: Duration,
    pause_max: Duration,
    failures: u32,
    closed_until: Option<Instant>,
    probing: bool,
}

impl Gate {
    pub(super) fn new(pause_min: Duration, pause_max: Duration) -> Gate {
        Gate { pause_min, pause_max, failures: 0, closed_until: None, probing: false }
    }

    pub(super) fn enter(&mut self, now: Instant) -> Pass {
        match self.closed_until {
            None => Pass::Open,
            Some(until) if now < until || self.probing => Pass::Refused,
            Some(_) => {
                self.probing = true;
                Pass::Probe
            }
        }
    }

    /// The master answered.
    pub(super) fn open(&mut self) {
        self.failures = 0;
        self.closed_until = None;
        self.probing = false;
    }

    /// The master did not answer. Several callers may notice the same failure.
    pub(super) fn close(&mut self, pass: Pass, now: Instant) {
        if pass == Pass::Probe {
            self.probing = false;
        } else if self.closed_until.is_some() {
            return;
        }
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let pause = self.pause_min.saturating_mul(factor).min(self.pause_max);
        self.failures = self.failures.saturating_add(1).min(30);
        self.closed_until = Some(now + pause);
    }

    /// The probe ended without finding anything out.
    pub(super) fn give_up_probe(&mut self, pass: Pass) {
        if pass == Pass::Probe {
            self.probing = false;
        }
    }

    /// True while the master counts as failed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tries_and_the_pause_doubles() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut gate = Gate::new(ms(100), ms(300));
        assert_eq!(gate.enter(start), Pass::Open);
        gate.close(Pass::Open, start);
        gate.close(Pass::Open, start + ms(50));
        assert_eq!(gate.enter(start + ms(99)), Pass::Refused);
        assert_eq!(gate.enter(start + ms(100)), Pass::Probe);
        assert_eq!(gate.enter(start + ms(101)), Pass::Refused, "one is trying");
        gate.close(Pass::Probe, start + ms(110));
        assert_eq!(gate.enter(start + ms(309)), Pass::Refused);
        assert_eq!(gate.enter(start + ms(310)), Pass::Probe);
        gate.close(Pass::Probe, start + ms(310));
        assert_eq!(gate.enter(start + ms(609)), Pass::Refused, "at most the longest pause");
        assert_eq!(gate.enter(start + ms(610)), Pass::Probe);
        gate.give_up_probe(Pass::Probe);
        assert_eq!(gate.enter(start + ms(611)), Pass::Probe);
        gate.open();
        assert_eq!(gate.enter(start + ms(612)), Pass::Open);
        gate.close(Pass::Open, start);
        assert_eq!(gate.enter(start + ms(100)), Pass::Probe, "the pause is short again");
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let now = Instant::now();
        let mut gate = Gate::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..100 {
            gate.close(Pass::Probe, now);
        }
        assert_eq!(gate.enter(now + Duration::from_secs(2)), Pass::Probe);
    }
}
