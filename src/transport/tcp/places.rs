//! How many connections are served at once, over all I/O threads, and who makes room.
//!
//! A connection that has not sent a valid request yet is a stranger. When all seats are taken, the
//! oldest stranger loses its seat to the newcomer, whichever thread serves it. That thread closes
//! it soon after, so for a moment a few more sockets are open than there are seats. Peers that
//! have proven themselves stay.
//!
//! Entered by I/O threads, when connections come, prove themselves and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::metrics::Metrics;

use super::worker::Place;

#[derive(Default)]
struct Inner {
    taken: usize,
    next: u64,
    /// By age.
    strangers: BTreeMap<u64, Place>,
}

/// The seats of one data port.
pub(super) struct Places {
    limit: usize,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

impl Places {
    pub(super) fn new(limit: usize, metrics: Arc<Metrics>) -> Arc<Places> {
        Arc::new(Places { limit, metrics, inner: Mutex::default() })
    }

    /// A seat for a connection that will be served at `place`; `None` if all are taken by peers
    /// that have proven themselves.
    pub(super) fn take(self: &Arc<Self>, place: &Place) -> Option<Seat> {
        let mut inner = self.inner.lock();
        if inner.taken >= self.limit {
            self.metrics.connections_refused.inc();
            let (_, oldest) = inner.strangers.pop_first()?;
            oldest.dismiss();
            self.leave(&mut inner);
        }
        let number = inner.next;
        inner.next += 1;
        inner.taken += 1;
        inner.strangers.insert(number, place.clone());
        self.metrics.connections_serving.inc();
        Some(Seat { places: Arc::clone(self), number, is_proven: false })
    }

    fn leave(&self, inner: &mut Inner) {
        inner.taken = inner.taken.saturating_sub(1);
        self.metrics.connections_serving.dec();
    }
}

/// The right of one connection to be served, until dropped.
pub(super) struct Seat {
    places: Arc<Places>,
    number: u64,
    is_proven: bool,
}

impl Seat {
    /// True until [`Seat::prove`].
    pub(super) fn is_stranger(&self) -> bool {
        !self.is_proven
    }

    /// The peer has sent a valid request. False if its seat was given away before.
    pub(super) fn prove(&mut self) -> bool {
        if !self.is_proven {
            self.is_proven = self.places.inner.lock().strangers.remove(&self.number).is_some();
        }
        self.is_proven
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.places.inner.lock();
        if self.is_proven || inner.strangers.remove(&self.number).is_some() {
            self.places.leave(&mut inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::WorkerShared;
    use super::*;

    #[test]
    fn the_oldest_stranger_makes_room() {
        let metrics = Arc::new(Metrics::default());
        let places = Places::new(3, Arc::clone(&metrics));
        let place = Place::new(&WorkerShared::new().unwrap());
        let mut first = places.take(&place).unwrap();
        let mut second = places.take(&place).unwrap();
        let third = places.take(&place).unwrap();
        assert!(first.prove() && !first.is_stranger());
        // `second` is the oldest stranger, then `third`.
        let mut fourth = places.take(&place).unwrap();
        assert!(!second.prove() && second.is_stranger());
        assert!(fourth.prove());
        let mut fifth = places.take(&place).unwrap();
        assert!(fifth.prove());
        assert!(places.take(&place).is_none(), "a proven peer was sent away");
        // Those without a seat leave none behind.
        drop((second, third));
        assert!(places.take(&place).is_none());
        assert_eq!(metrics.connections_serving.get(), 3);
        drop(first);
        assert!(places.take(&place).is_some());
        drop((fourth, fifth));
        assert_eq!(metrics.connections_serving.get(), 0);
        assert_eq!(places.inner.lock().taken, 0);
    }
}
