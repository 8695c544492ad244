//! Keeps a connection that was given up from storing what its successor has stored already: the
//! target's side of the write fence.
//!
//! A connection whose hello carries the mark of a lane stores through a [`Gate`]. A newer
//! connection of the same lane, or a FENCE frame on any connection of the same initiator, closes
//! the gate for ever. Whoever closes one waits for at most the one non-blocking call that another
//! I/O thread is storing with.
//!
//! A lane's newest epoch is known as long as one of its connections is served. It is remembered for
//! a while longer, and a hello that was held up in the network and names an older one is refused.
//! That memory is bounded and may forget: an initiator sends nothing behind a hello until it has
//! the answer, so a hello that nobody waits for any more brings no bytes that could be stored.
//!
//! Strangers cannot cut off others: a lane is a random number of 64 bits that its initiator has
//! told this target only.
//!
//! Lock order: the table, then a gate. I/O threads only.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::limits;

use super::wire::native::LaneMark;
use super::worker::Place;

/// What one connection stores through.
pub(super) struct Gate {
    epoch: u64,
    is_open: Mutex<bool>,
    place: Place,
}

/// Nobody closes the gate while this lives; held during one non-blocking call.
pub(super) struct Passage<'a> {
    _held: MutexGuard<'a, bool>,
}

impl Gate {
    /// The right to store once; `None` once the gate is closed.
    pub(super) fn enter(&self) -> Option<Passage<'_>> {
        let is_open = self.is_open.lock();
        is_open.then(|| Passage { _held: is_open })
    }

    /// When this returns, nothing more is stored through the gate.
    fn close(&self) {
        *self.is_open.lock() = false;
        // It is of no use any more.
        self.place.dismiss();
    }
}

/// An initiator's instance and one of its lanes.
type Key = ([u8; 16], u64);

struct Entry {
    /// Epochs up to this one are over, except for the connection of `gate`.
    epoch: u64,
    /// The newest connection, while it is served.
    gate: Option<Arc<Gate>>,
}

#[derive(Default)]
struct Table {
    lanes: HashMap<Key, Entry>,
    /// Lanes without a connection, the longest abandoned first; some may have one again.
    abandoned: VecDeque<Key>,
}

impl Table {
    fn abandon(&mut self, key: Key) {
        self.abandoned.push_back(key);
        while self.abandoned.len() > limits::ABANDONED_LANES_MAX {
            let Some(oldest) = self.abandoned.pop_front() else { return };
            if self.lanes.get(&oldest).is_some_and(|entry| entry.gate.is_none()) {
                self.lanes.remove(&oldest);
            }
        }
    }
}

/// The lanes of all peers that are served.
#[derive(Default)]
pub(super) struct Fences(Mutex<Table>);

impl Fences {
    /// A new connection of a lane. When this returns, no earlier one stores anything more. `None`
    /// if this is not the newest one.
    pub(super) fn admit(
        self: &Arc<Self>,
        instance: [u8; 16],
        mark: LaneMark,
        place: &Place,
    ) -> Option<Admission> {
        let key = (instance, mark.lane);
        let table = &mut *self.0.lock();
        let entry = table.lanes.entry(key).or_insert(Entry { epoch: 0, gate: None });
        if mark.epoch <= entry.epoch {
            return None;
        }
        if let Some(before) = entry.gate.take() {
            before.close();
        }
        let is_open = Mutex::new(true);
        let gate = Arc::new(Gate { epoch: mark.epoch, is_open, place: place.clone() });
        *entry = Entry { epoch: mark.epoch, gate: Some(Arc::clone(&gate)) };
        Some(Admission { fences: Arc::clone(self), key, gate })
    }

    /// When this returns, no connection of the lane with that epoch or an earlier one stores
    /// anything more.
    pub(super) fn fence(&self, instance: [u8; 16], mark: LaneMark) {
        let key = (instance, mark.lane);
        let table = &mut *self.0.lock();
        let Some(entry) = table.lanes.get_mut(&key) else {
            table.lanes.insert(key, Entry { epoch: mark.epoch, gate: None });
            table.abandon(key);
            return;
        };
        entry.epoch = entry.epoch.max(mark.epoch);
        if entry.gate.as_ref().is_some_and(|gate| gate.epoch <= mark.epoch) {
            if let Some(gate) = entry.gate.take() {
                gate.close();
                table.abandon(key);
            }
        }
    }
}

/// A connection's place in the table, until it is dropped.
pub(super) struct Admission {
    fences: Arc<Fences>,
    key: Key,
    gate: Arc<Gate>,
}

impl Admission {
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let table = &mut *self.fences.0.lock();
        let Some(entry) = table.lanes.get_mut(&self.key) else { return };
        if entry.gate.as_ref().is_some_and(|gate| Arc::ptr_eq(gate, &self.gate)) {
            entry.gate = None;
            table.abandon(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::WorkerShared;
    use super::*;

    const PEER: [u8; 16] = [1; 16];

    fn mark(lane: u64, epoch: u64) -> LaneMark {
        LaneMark { lane, epoch }
    }

    fn stage() -> (Arc<Fences>, Place) {
        (Arc::default(), Place::new(&WorkerShared::new().unwrap()))
    }

    #[test]
    fn the_newest_connection_of_a_lane_closes_the_others() {
        let (fences, place) = stage();
        let first = fences.admit(PEER, mark(7, 1), &place).unwrap();
        let other_lane = fences.admit(PEER, mark(8, 1), &place).unwrap();
        let other_peer = fences.admit([2; 16], mark(7, 1), &place).unwrap();
        let third = fences.admit(PEER, mark(7, 3), &place).unwrap();
        assert!(first.gate().enter().is_none());
        for untouched in [&other_lane, &other_peer, &third] {
            assert!(untouched.gate().enter().is_some());
        }
        for stale in [0, 1, 2, 3] {
            assert!(fences.admit(PEER, mark(7, stale), &place).is_none(), "{stale}");
        }
        assert!(third.gate().enter().is_some(), "a stale hello cut off the newest connection");
        // Its end is not the end of the newest one.
        drop(first);
        drop(third);
        for stale in [2, 3] {
            assert!(fences.admit(PEER, mark(7, stale), &place).is_none(), "forgotten: {stale}");
        }
        assert!(fences.admit(PEER, mark(7, u64::MAX), &place).is_some());
    }

    #[test]
    fn a_fence_closes_what_is_not_newer() {
        let (fences, place) = stage();
        let served = fences.admit(PEER, mark(7, 5), &place).unwrap();
        fences.fence(PEER, mark(7, 4));
        fences.fence([2; 16], mark(7, 9));
        fences.fence(PEER, mark(8, 9));
        assert!(served.gate().enter().is_some());
        fences.fence(PEER, mark(7, 5));
        assert!(served.gate().enter().is_none());
        assert!(fences.admit(PEER, mark(7, 5), &place).is_none());
        assert!(fences.admit(PEER, mark(8, 9), &place).is_none(), "fenced before it came");
        assert!(fences.admit(PEER, mark(7, 6), &place).is_some());
    }

    /// Closing waits for the call under way and lets no later one begin.
    #[test]
    fn nothing_is_stored_once_the_newcomer_is_in() {
        for _ in 0..200 {
            let (fences, place) = stage();
            let old = fences.admit(PEER, mark(7, 1), &place).unwrap();
            let stored = Mutex::new(0u32);
            let at_admission = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while let Some(_passage) = old.gate().enter() {
                        *stored.lock() += 1;
                    }
                });
                let _new = fences.admit(PEER, mark(7, 2), &place).unwrap();
                let count = *stored.lock();
                count
            });
            assert_eq!(*stored.lock(), at_admission);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (fences, place) = stage();
        let served = fences.admit(PEER, mark(u64::MAX, 1), &place).unwrap();
        for lane in 0..3 * limits::ABANDONED_LANES_MAX as u64 {
            match lane % 2 {
                0 => drop(fences.admit(PEER, mark(lane, 1), &place).unwrap()),
                _ => fences.fence(PEER, mark(lane, 1)),
            }
        }
        // The same lane over and over is remembered too often, not too long.
        for epoch in 2..2 * limits::ABANDONED_LANES_MAX as u64 {
            drop(fences.admit(PEER, mark(5, epoch), &place).unwrap());
        }
        let table = fences.0.lock();
        assert!(table.abandoned.len() <= limits::ABANDONED_LANES_MAX);
        assert!(table.lanes.len() <= limits::ABANDONED_LANES_MAX + 1);
        drop(table);
        assert!(served.gate().enter().is_some());
        assert!(fences.admit(PEER, mark(u64::MAX, 1), &place).is_none(), "a live lane forgotten");
    }
}
