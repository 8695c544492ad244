//! Leases and pins: until when an object may not be touched, and when its range may be used again.
//!
//! Pure rules over microseconds of one clock. An object carries one stamp, the moment of its last
//! use; with the length of a lease, which is the same for all, it gives the lease, the order of
//! eviction and the quarantine of the range.

/// A moment: microseconds of the clock of one master.
pub type Micros = u64;

/// Last use of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastUse {
    /// When: the end of its put, or the latest grant of a lease.
    pub at: Micros,
    /// Whether a reader was ever given a lease.
    pub granted: bool,
}

impl LastUse {
    /// A reader is told where the object is. A clock that is read earlier and comes later does not
    /// shorten a lease.
    pub fn grant(&mut self, now: Micros) {
        self.at = self.at.max(now);
        self.granted = true;
    }

    /// End of the lease, exclusive.
    pub fn leased_until(self, ttl: Micros) -> Micros {
        if self.granted {
            self.at.saturating_add(ttl)
        } else {
            self.at
        }
    }

    /// Whether a reader may be copying the object now.
    pub fn is_leased(self, now: Micros, ttl: Micros) -> bool {
        self.leased_until(ttl) > now
    }

    /// When the range may hold another object: one lease after the end of the last lease, so that
    /// a reader that is late by less than that reads old bytes, never another object's.
    pub fn reusable_at(self, ttl: Micros) -> Micros {
        if self.granted {
            self.leased_until(ttl).saturating_add(ttl)
        } else {
            0
        }
    }
}

/// How hard an object is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// Evicted in its turn.
    #[default]
    None,
    /// Evicted after all others, until that moment; reads extend it by the default length.
    SoftExtended(Micros),
    /// Evicted after all others, until that moment, whatever is read.
    SoftFixed(Micros),
    /// Never evicted.
    Hard,
}

impl Pin {
    /// A reader is told where the object is.
    pub fn grant(&mut self, now: Micros, ttl: Micros) {
        if let Pin::SoftExtended(until) = self {
            *until = (*until).max(now.saturating_add(ttl));
        }
    }

    /// Whether the object is to be evicted last.
    pub fn is_soft(self, now: Micros) -> bool {
        matches!(self, Pin::SoftExtended(until) | Pin::SoftFixed(until) if until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::{LastUse, Pin};

    #[test]
    fn a_lease_never_shrinks_and_the_range_waits_for_one_more() {
        let mut last = LastUse { at: 100, granted: false };
        assert!(!last.is_leased(100, 50));
        assert_eq!(last.reusable_at(50), 0);
        last.grant(120);
        assert!(last.is_leased(169, 50) && !last.is_leased(170, 50));
        last.grant(110);
        assert_eq!((last.leased_until(50), last.reusable_at(50)), (170, 220));
        last.grant(u64::MAX);
        assert_eq!(last.leased_until(50), u64::MAX);
    }

    #[test]
    fn pins() {
        let mut pin = Pin::SoftExtended(100);
        assert!(pin.is_soft(99) && !pin.is_soft(100));
        pin.grant(99, 30);
        assert!(pin.is_soft(128));
        pin.grant(50, 30);
        assert!(pin.is_soft(128));
        let mut pin = Pin::SoftFixed(100);
        pin.grant(99, 30);
        assert!(!pin.is_soft(100));
        assert!(!Pin::Hard.is_soft(0) && !Pin::None.is_soft(0));
    }
}
