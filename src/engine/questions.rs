//! What a layer above asks of an engine beyond the C API: the store looks before it registers, and
//! opens segments with deadlines of its own.

use crate::error::Result;
use crate::time::Deadline;

use super::{Engine, SegmentId};

impl Engine {
    /// True if the range lies inside one registered buffer.
    pub fn is_covered(&self, address: usize, length: usize) -> bool {
        self.0 .0.registry.covers(address, length)
    }

    /// As [`Engine::open_segment`], blocking no longer than until `deadline`.
    pub fn open_segment_until(&self, name: &str, deadline: Deadline) -> Result<SegmentId> {
        self.0 .0.open(name, false, deadline)
    }
}
