//! What the lanes towards one peer are called, and which of their connections were given up with a
//! WRITE under way: the initiator's side of the write fence.
//!
//! Outlives routes: a segment that is closed and opened again, or whose route was replaced, keeps
//! its lanes' names towards the same life of the same peer, and with them what is in doubt.
//!
//! No socket and no clock. Any thread; a lane that sends looks at one number and takes no lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::limits;
use crate::net::random;

use super::wire::native::LaneMark;

struct Identity {
    lane: u64,
    epoch: AtomicU64,
}

/// The lanes towards one peer.
pub(super) struct Identities {
    lanes: Vec<Identity>,
    /// For each lane the newest epoch that was given up with a WRITE under way; 0 without one.
    doubts: Mutex<Vec<u64>>,
    /// Grows with every doubt.
    version: AtomicU64,
}

impl Identities {
    /// Names for `count` lanes. They are secrets: who knows one can cut the lane off.
    pub(super) fn new(count: usize) -> Result<Identities> {
        let identity = |_| Ok(Identity { lane: random::u64()?, epoch: AtomicU64::new(0) });
        Ok(Identities {
            lanes: (0..count).map(identity).collect::<Result<_>>()?,
            doubts: Mutex::new(vec![0; count]),
            version: AtomicU64::new(0),
        })
    }

    /// The mark of a lane's next connection.
    pub(super) fn next(&self, lane: usize) -> Option<LaneMark> {
        let identity = self.lanes.get(lane)?;
        let epoch = identity.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        Some(LaneMark { lane: identity.lane, epoch })
    }

    /// A connection was given up and may still bring bytes of a WRITE to the peer. Called before
    /// the request ends for its owner, so that whatever is submitted then finds the doubt.
    pub(super) fn doubt(&self, lane: usize, mark: LaneMark) {
        let mut doubts = self.doubts.lock();
        if let Some(doubt) = doubts.get_mut(lane).filter(|doubt| **doubt < mark.epoch) {
            *doubt = mark.epoch;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// The peer has taken a connection of the lane, so earlier ones are over.
    pub(super) fn settle(&self, lane: usize, mark: LaneMark) {
        let mut doubts = self.doubts.lock();
        if let Some(doubt) = doubts.get_mut(lane).filter(|doubt| **doubt < mark.epoch) {
            *doubt = 0;
        }
    }

    /// Changes with every doubt.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What is in doubt, and the version that goes with it.
    pub(super) fn doubts(&self) -> (u64, Vec<LaneMark>) {
        let doubts = self.doubts.lock();
        let marks = self.lanes.iter().zip(&*doubts);
        let marks = marks.filter(|(_, epoch)| **epoch > 0);
        let marks = marks.map(|(identity, epoch)| LaneMark { lane: identity.lane, epoch: *epoch });
        (self.version(), marks.collect())
    }
}

/// Name of the segment and instance of the peer.
type Destination = (String, [u8; 16]);

/// The identities of all peers, by the name of the segment and the peer's instance. Segments that
/// lead to one peer under several names have lanes of their own.
#[derive(Default)]
pub(super) struct IdentityBook(Mutex<HashMap<Destination, Arc<Identities>>>);

impl IdentityBook {
    /// Those towards `instance` under `name`.
    pub(super) fn of(
        &self,
        name: &str,
        instance: [u8; 16],
        lanes: usize,
    ) -> Result<Arc<Identities>> {
        let mut book = self.0.lock();
        let key = (name.to_owned(), instance);
        if let Some(known) = book.get(&key) {
            return Ok(Arc::clone(known));
        }
        let identities = Arc::new(Identities::new(lanes)?);
        if book.len() >= limits::PEERS_MAX {
            // Those of closed segments.
            book.retain(|_, identities| Arc::strong_count(identities) > 1);
        }
        if book.len() < limits::PEERS_MAX {
            book.insert(key, Arc::clone(&identities));
        }
        Ok(identities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_last_until_the_lane_is_back() {
        let identities = Identities::new(2).unwrap();
        let first = identities.next(0).unwrap();
        let other = identities.next(1).unwrap();
        assert_ne!(first.lane, other.lane);
        assert_eq!((first.epoch, identities.doubts()), (1, (0, vec![])));
        identities.doubt(0, first);
        identities.doubt(0, first);
        assert_eq!(identities.doubts(), (1, vec![first]));
        identities.settle(0, first);
        identities.settle(1, other);
        assert_eq!(identities.doubts(), (1, vec![first]));
        let second = identities.next(0).unwrap();
        identities.settle(0, second);
        assert_eq!(identities.doubts(), (1, vec![]));
        // News of an older connection after a newer one changes nothing.
        identities.doubt(0, second);
        identities.doubt(0, first);
        assert_eq!(identities.doubts(), (2, vec![second]));
        assert_eq!(identities.next(2), None);
    }

    #[test]
    fn the_book_is_bounded_and_keeps_what_is_in_use() {
        let book = IdentityBook::default();
        let kept = book.of("kept", [7; 16], 1).unwrap();
        assert!(Arc::ptr_eq(&kept, &book.of("kept", [7; 16], 1).unwrap()));
        assert!(!Arc::ptr_eq(&kept, &book.of("kept", [8; 16], 1).unwrap()));
        for number in 0..limits::PEERS_MAX + 10 {
            book.of(&format!("peer-{number}"), [0; 16], 1).unwrap();
        }
        assert!(book.0.lock().len() <= limits::PEERS_MAX);
        assert!(Arc::ptr_eq(&kept, &book.of("kept", [7; 16], 1).unwrap()));
    }
}
