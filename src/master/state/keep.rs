//! Ranges that a holder's process still reads, although their objects may be gone.
//!
//! A holder that lends out views of its own memory acknowledges that an object is gone and names
//! its range here, until the last view was given back. So one long view does not hold up the
//! acknowledgements behind it.

use std::sync::atomic::Ordering;

use super::State;
use crate::limits;
use crate::pool::identity::ClientId;
use crate::pool::lease::Micros;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::segment::{KeptRange, Segment};

impl State {
    pub(super) fn keep(
        &self,
        now: Micros,
        id: ClientId,
        segments: Vec<Segment>,
        ranges: &[KeptRange],
    ) -> Outcome<()> {
        if ranges.len() > limits::STORE_KEPT_RANGES_MAX {
            return Err(Refusal::INVALID_PARAMS);
        }
        let client = self.client_of(now, id)?;
        self.hear(now, &client);
        if !segments.is_empty() {
            // Whoever keeps ranges also reports; nothing is placed before it has.
            client.native.store(true, Ordering::Release);
            self.remount(now, segments, id)?;
        }
        let mut gave = false;
        for cell in self.cells_of(&client) {
            let end = cell.segment.base.saturating_add(cell.segment.size);
            let own = ranges.iter().filter(|range| range.segment == cell.segment.id);
            let own = own.filter(|range| (cell.segment.base..end).contains(&range.address));
            let places = own.map(|range| (range.address - cell.segment.base, range.size));
            gave |= cell.keep(now, places);
        }
        if gave {
            self.outlet.room();
        }
        Ok(())
    }
}
