//! When a master campaigns, leads, and stops leading: a state machine without socket or clock.
//!
//! [`Election::next`] says what is to be done, the caller does it and tells how it went, with the
//! moment before it began where that counts. The rules:
//!
//! - Nobody serves without a lease that is certainly held: it is counted from the moment *before*
//!   its last renewal was asked for, less a tenth, so the cluster always gives it up later.
//! - Whoever loses it stops serving first, then gives the lease back, then campaigns again. What it
//!   knew of objects is forgotten, because another leader may have served meanwhile.
//! - A leader of ours is known to keep these rules, so its successor serves at once. After anybody
//!   else, and where it is not known who led last, the winner waits for one length of a lease, as
//!   upstream does.

use std::time::{Duration, Instant};

/// Upstream's lease and wait.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(5);
/// A leader of upstream's keeps its key at least this long, so it cannot come and go between two
/// looks that are closer than this.
const UNSEEN_MAX: Duration = Duration::from_secs(4);
/// Added to the last leader's number, for what it may have numbered since it wrote it: more than
/// sixty thousand million objects.
const LIFE_STEP_MS: u64 = 60_000;

/// How often things are done, from the length of the lease.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Length of the lease.
    pub ttl: Duration,
    /// Pause between two looks at who leads.
    pub look: Duration,
    /// Pause between two renewals.
    pub keep: Duration,
    /// Pause after a failure.
    pub retry: Duration,
}

impl Timing {
    /// For a lease of this length.
    pub fn of(ttl: Duration) -> Timing {
        Timing { ttl, look: ttl / 20, keep: ttl / 5, retry: ttl / 10 }
    }
}

/// What was seen of the present leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its address.
    pub address: String,
    /// The lease it leads under.
    pub lease: String,
    /// It keeps the rules above.
    pub is_ours: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing before this moment.
    Sleep(Instant),
    /// Look who leads; then [`Election::looked`].
    Look,
    /// Take a lease; then [`Election::granted`].
    Grant,
    /// Try to lead under this lease; then [`Election::claimed`].
    Claim {
        /// The lease.
        lease: String,
        /// The number that this leader would have.
        number_after: u64,
    },
    /// Renew the lease; then [`Election::kept`].
    Keep {
        /// The lease.
        lease: String,
        /// The answer is of no use after this moment.
        until: Instant,
    },
    /// Begin to serve; then [`Election::serves`].
    Serve {
        /// The version of the view.
        revision: i64,
    },
    /// Stop serving at once; then [`Election::stopped`].
    Stop,
    /// Give this lease back; then [`Election::resigned`].
    Resign {
        /// The lease.
        lease: String,
    },
}

/// A lease that is held, as far as this side can know.
#[derive(Clone, Debug)]
struct Held {
    id: String,
    ttl: Duration,
    /// It is certain until then.
    until: Instant,
    keep_at: Instant,
}

impl Held {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }
}

#[derive(Clone, Debug)]
enum Phase {
    /// Looks from time to time who leads.
    Watching {
        at: Instant,
    },
    /// Nobody leads.
    Granting,
    Claiming(Held),
    /// The key is ours; the leader before may still be about to notice.
    Warming {
        held: Held,
        revision: i64,
        serve_at: Instant,
    },
    Leading(Held),
    /// Still serves, and must not.
    Stopping {
        lease: String,
    },
    /// Serves no longer, and gives the lease back.
    Resigning {
        lease: String,
        at: Instant,
        tries: u32,
    },
}

/// A lease that could not be given back is left to its end after this many tries; the key of a
/// leader that is gone is given back whenever it is seen.
const RESIGN_TRIES: u32 = 3;

/// One master's part in the election.
#[derive(Clone, Debug)]
pub struct Election {
    timing: Timing,
    phase: Phase,
    /// The last leader that was seen, and the moment before that look.
    last: Option<(Seen, Instant)>,
    /// The number of the last leader of ours.
    number: u64,
    /// A lease of ours that may not have been given back.
    abandoned: Option<String>,
}

impl Election {
    /// A candidate.
    pub fn new(timing: Timing, now: Instant) -> Election {
        Election {
            timing,
            phase: Phase::Watching { at: now },
            last: None,
            number: 0,
            abandoned: None,
        }
    }

    /// Until when answers may go out; absent while this master does not lead.
    pub fn serves_until(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Leading(held) => Some(held.until),
            _ => None,
        }
    }

    /// The leader that was seen last, while it is not this one.
    pub fn other_leader(&self) -> Option<&Seen> {
        match self.phase {
            Phase::Watching { .. } => self.last.as_ref().map(|(seen, _)| seen),
            _ => None,
        }
    }

    /// Whether the key is this master's.
    pub fn is_elected(&self) -> bool {
        matches!(self.phase, Phase::Warming { .. } | Phase::Leading(_))
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Instant) -> Act {
        self.give_up_late(now);
        let keep = |held: &Held| Act::Keep { lease: held.id.clone(), until: held.until };
        match &self.phase {
            Phase::Watching { at } if now < *at => Act::Sleep(*at),
            Phase::Watching { .. } => Act::Look,
            Phase::Granting => Act::Grant,
            Phase::Claiming(held) => Act::Claim {
                lease: held.id.clone(),
                number_after: self.number.saturating_add(LIFE_STEP_MS),
            },
            Phase::Warming { held, .. } if now >= held.keep_at => keep(held),
            Phase::Warming { revision, serve_at, .. } if now >= *serve_at => {
                Act::Serve { revision: *revision }
            }
            Phase::Warming { held, serve_at, .. } => {
                Act::Sleep(held.keep_at.min(held.until).min(*serve_at))
            }
            Phase::Leading(held) if now >= held.keep_at => keep(held),
            Phase::Leading(held) => Act::Sleep(held.keep_at.min(held.until)),
            Phase::Stopping { .. } => Act::Stop,
            Phase::Resigning { at, .. } if now < *at => Act::Sleep(*at),
            Phase::Resigning { lease, .. } => Act::Resign { lease: lease.clone() },
        }
    }

    /// A lease whose end may have come is as good as lost.
    fn give_up_late(&mut self, now: Instant) {
        match &self.phase {
            Phase::Claiming(held) | Phase::Warming { held, .. } if held.is_over(now) => {
                self.phase = Phase::Resigning { lease: held.id.clone(), at: now, tries: 0 };
            }
            Phase::Leading(held) if held.is_over(now) => {
                self.phase = Phase::Stopping { lease: held.id.clone() };
            }
            _ => {}
        }
    }

    /// How a look went that began at `asked`: the leader and the last number, or none of both.
    pub fn looked(&mut self, asked: Instant, now: Instant, found: Option<(Option<Seen>, u64)>) {
        let Phase::Watching { .. } = self.phase else { return };
        let Some((seen, number)) = found else {
            self.phase = Phase::Watching { at: now + self.timing.retry };
            return;
        };
        self.number = number;
        match seen {
            None => self.phase = Phase::Granting,
            // Its own key of an earlier time, which nobody needs to wait for.
            Some(seen) if self.abandoned.as_deref() == Some(&seen.lease) => {
                self.phase = Phase::Resigning { lease: seen.lease.clone(), at: now, tries: 0 };
                self.last = Some((seen, asked));
            }
            Some(seen) => {
                self.last = Some((seen, asked));
                self.phase = Phase::Watching { at: now + self.timing.look };
            }
        }
    }

    /// How taking a lease went that was asked for at `asked`: its name and length.
    pub fn granted(&mut self, asked: Instant, now: Instant, granted: Option<(String, Duration)>) {
        let Phase::Granting = self.phase else { return };
        self.phase = match granted {
            Some((id, ttl)) => Phase::Claiming(self.held(id, ttl, asked)),
            None => Phase::Watching { at: now + self.timing.retry },
        };
    }

    fn held(&self, id: String, ttl: Duration, asked: Instant) -> Held {
        let until = asked + (ttl - ttl / 10);
        Held { id, ttl, until, keep_at: asked + self.timing.keep.min(ttl / 3) }
    }

    /// How the attempt to lead went: the version of the new view, or that somebody else leads;
    /// absent where that is not known.
    pub fn claimed(&mut self, now: Instant, outcome: Option<Option<i64>>) {
        let Phase::Claiming(held) = &self.phase else { return };
        match outcome {
            Some(Some(revision)) => {
                let was_ours = self.last.as_ref().is_some_and(|(seen, at)| {
                    seen.is_ours && now.saturating_duration_since(*at) < UNSEEN_MAX
                });
                let wait = if was_ours { Duration::ZERO } else { self.timing.ttl };
                self.phase = Phase::Warming { held: held.clone(), revision, serve_at: now + wait };
            }
            // Lost, or perhaps won without knowing.
            _ => self.phase = Phase::Resigning { lease: held.id.clone(), at: now, tries: 0 },
        }
    }

    /// How a renewal went that was asked for at `asked`: it is held, or it is gone; absent where
    /// that is not known.
    pub fn kept(&mut self, asked: Instant, now: Instant, outcome: Option<bool>) {
        let (Phase::Warming { held, .. } | Phase::Leading(held)) = &mut self.phase else { return };
        match outcome {
            Some(true) => {
                held.until = held.until.max(asked + (held.ttl - held.ttl / 10));
                held.keep_at = asked + self.timing.keep.min(held.ttl / 3);
            }
            Some(false) => held.until = now,
            None => held.keep_at = now + self.timing.retry,
        }
    }

    /// This master serves.
    pub fn serves(&mut self) {
        if let Phase::Warming { held, .. } = &self.phase {
            self.phase = Phase::Leading(held.clone());
        }
    }

    /// This master has stopped serving.
    pub fn stopped(&mut self, now: Instant) {
        if let Phase::Stopping { lease } = &self.phase {
            self.phase = Phase::Resigning { lease: lease.clone(), at: now, tries: 0 };
        }
    }

    /// Whether the lease was given back, or is gone.
    pub fn resigned(&mut self, now: Instant, done: bool) {
        let Phase::Resigning { lease, tries, .. } = &self.phase else { return };
        let (lease, tries) = (lease.clone(), tries + 1);
        self.phase = match (done, tries < RESIGN_TRIES) {
            (true, _) => {
                self.abandoned = None;
                Phase::Watching { at: now }
            }
            (false, true) => {
                let at = now + self.timing.retry;
                Phase::Resigning { lease, at, tries }
            }
            (false, false) => {
                self.abandoned = Some(lease);
                Phase::Watching { at: now }
            }
        };
    }

    /// The lease to give back where the process ends, after it has stopped serving.
    pub fn lease(&self) -> Option<&str> {
        match &self.phase {
            Phase::Claiming(held) | Phase::Warming { held, .. } | Phase::Leading(held) => {
                Some(&held.id)
            }
            Phase::Stopping { lease } | Phase::Resigning { lease, .. } => Some(lease),
            Phase::Watching { .. } | Phase::Granting => self.abandoned.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests;
