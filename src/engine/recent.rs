//! What one batch found last: a segment, a local region, and what its route reached. A repeated
//! submission finds them again without a lock that others hold and without counting references.
//!
//! Belongs to a batch and is entered under its lock; never blocks. Everything is checked before it
//! is used again, and what was closed is looked up anew, so nothing here can be stale: the handle
//! of a closed segment is never given out again, and a region leaves the registry to be closed.
//! Kept memory is some hundred bytes; no registered memory is held, as that takes a lease.

use std::sync::Arc;

use crate::error::Result;
use crate::memory::Region;
use crate::transport::Reached;

use super::registry::Registry;
use super::segment::{Segment, SegmentId, SegmentTable};

/// See the module.
#[derive(Default)]
pub(super) struct Recent {
    segment: Option<Arc<Segment>>,
    local: Option<Arc<Region>>,
    reached: Option<Reached>,
}

impl Recent {
    /// The segment behind a handle.
    pub(super) fn segment(&mut self, table: &SegmentTable, id: SegmentId) -> Result<&Arc<Segment>> {
        let again = self.segment.take().filter(|segment| segment.id == id && !segment.is_closed());
        let segment = match again {
            Some(segment) => segment,
            None => table.get(id)?,
        };
        Ok(self.segment.insert(segment))
    }

    /// Lends the segment that was found last; [`Recent::give_back`] returns it.
    pub(super) fn lend(&mut self, table: &SegmentTable, id: SegmentId) -> Result<Arc<Segment>> {
        match self.segment.take() {
            Some(segment) if segment.id == id => Ok(segment),
            _ => table.get(id),
        }
    }

    /// Takes back what was lent.
    pub(super) fn give_back(&mut self, segment: Arc<Segment>) {
        self.segment = Some(segment);
    }

    /// The region that contains the whole local range.
    pub(super) fn local(
        &mut self,
        registry: &Registry,
        address: u64,
        length: u64,
    ) -> Result<&Arc<Region>> {
        Ok(self.local_and_reached(registry, address, length)?.0)
    }

    /// The same, with the place for what a route reached.
    pub(super) fn local_and_reached(
        &mut self,
        registry: &Registry,
        address: u64,
        length: u64,
    ) -> Result<(&Arc<Region>, &mut Option<Reached>)> {
        let holds = |region: &Arc<Region>| region.contains(address, length) && !region.is_closed();
        let region = match self.local.take().filter(holds) {
            Some(region) => region,
            None => registry.find(address, length)?,
        };
        Ok((self.local.insert(region), &mut self.reached))
    }

    /// The local region that was found last.
    pub(super) fn last_local(&self) -> Option<&Arc<Region>> {
        self.local.as_ref()
    }
}
