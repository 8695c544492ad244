//! The place of the index as the pages see it: taken by a term, or empty on a standby.
//!
//! Any thread may ask. An empty seat answers as an empty pool would, and says who leads instead.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;

use super::fence::Fence;
use super::service::Master;
use super::state::{Operation, Tally, VALUE_SIZE_BOUNDS};
use super::view::{Figures, SegmentView, Standing, View};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::Replica;
use crate::rpc::server::Counters;

/// See the module.
pub(super) struct Seat {
    inner: RwLock<Inner>,
    /// Of an elected master: who sits there beyond it does not lead.
    fence: Option<Arc<Fence>>,
}

#[derive(Default)]
struct Inner {
    taken: Option<(Arc<Master>, Arc<Counters>)>,
    standing: Standing,
}

impl Seat {
    /// An empty one; with a fence, of a master that is elected.
    pub(super) fn new(fence: Option<Arc<Fence>>) -> Seat {
        let standing = match fence {
            None => Standing::default(),
            Some(_) => Standing { elects: true, leads: false, state: "standby", leader: None },
        };
        Seat { inner: RwLock::new(Inner { taken: None, standing }), fence }
    }

    /// A term begins.
    pub(super) fn take(&self, master: &Arc<Master>, counters: &Arc<Counters>) {
        self.inner.write().taken = Some((Arc::clone(master), Arc::clone(counters)));
    }

    /// It is over.
    pub(super) fn leave(&self) {
        // Dropped without the lock: an index may be large.
        let taken = self.inner.write().taken.take();
        drop(taken);
    }

    /// What the pages say about the election.
    pub(super) fn stand(&self, standing: Standing) {
        self.inner.write().standing = standing;
    }

    /// What the server of calls has counted in this term.
    pub(super) fn counters(&self) -> Option<Arc<Counters>> {
        self.inner.read().taken.as_ref().map(|(_, counters)| Arc::clone(counters))
    }

    /// The master of the present term.
    pub(super) fn master(&self) -> Option<Arc<Master>> {
        self.inner.read().taken.as_ref().map(|(master, _)| Arc::clone(master))
    }
}

impl View for Seat {
    fn standing(&self) -> Standing {
        let mut standing = self.inner.read().standing.clone();
        if self.fence.as_ref().is_some_and(|fence| !fence.holds(Instant::now())) {
            standing.leads = false;
        }
        standing
    }

    fn figures(&self) -> Figures {
        self.master().map(|master| master.figures()).unwrap_or_default()
    }

    fn tally(&self, operation: Operation) -> Tally {
        self.master().map(|master| master.tally(operation)).unwrap_or_default()
    }

    fn value_sizes(&self) -> ([u64; VALUE_SIZE_BOUNDS.len() + 1], u64) {
        self.master().map_or(([0; VALUE_SIZE_BOUNDS.len() + 1], 0), |master| master.value_sizes())
    }

    fn keys(&self, each: &mut dyn FnMut(&[u8])) {
        if let Some(master) = self.master() {
            master.keys(each);
        }
    }

    fn segments(&self) -> Vec<SegmentView> {
        self.master().map(|master| master.segments()).unwrap_or_default()
    }

    fn lookup(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        self.master().map_or(Err(Refusal::OBJECT_NOT_FOUND), |master| master.lookup(key))
    }

    fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        self.master().map_or(Err(Refusal::OBJECT_NOT_FOUND), |master| master.peek(key))
    }

    fn remove_all(&self, force: bool) -> i64 {
        self.master().map_or(0, |master| master.remove_all(force))
    }

    fn latency(&self, method: crate::rpc::message::Method) -> super::latency::Times {
        self.master().map(|master| master.latency(method)).unwrap_or_default()
    }
}
