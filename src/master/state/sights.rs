//! What of an object is needed to say where it is: taken under the lock of its shard, told later,
//! by views that borrow the names of segments from the table of that moment.

use std::sync::Arc;

use smallvec::SmallVec;

use super::cell::HIDDEN;
use super::segments::Table;
use super::shard::{Object, FILES};
use super::State;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{
    Copies, CopiesView, LocatedView, PlaceView, RangesView, Replica, ReplicaStatus, ReplicaView,
};
use crate::rpc::look::Sights;

/// A copy in memory that can be reached.
#[derive(Clone, Copy)]
struct Spot {
    /// Slot of its segment.
    segment: u32,
    /// Which copy of the object it is, counting those that cannot be reached.
    number: u32,
    address: u64,
}

/// What few objects have.
struct More {
    /// Lengths of the slices, where there are several.
    slices: Option<Box<[u64]>>,
    /// Path of the file, if it is to be told of.
    file: Option<String>,
    /// Copies in memory, also those that cannot be reached.
    copies: u32,
}

/// Where one object is. Small, because a batch makes many.
pub(super) struct Sight {
    pub(super) generation: u64,
    size: u64,
    spots: SmallVec<[Spot; 1]>,
    more: Option<Box<More>>,
    complete: bool,
}

impl Sight {
    fn file(&self) -> Option<(&str, u32)> {
        let more = self.more.as_ref()?;
        Some((more.file.as_deref()?, more.copies))
    }

    /// Copies that can be reached.
    fn count(&self) -> usize {
        self.spots.len() + usize::from(self.file().is_some())
    }

    fn sizes(&self) -> &[u64] {
        match self.more.as_ref().and_then(|more| more.slices.as_deref()) {
            Some(slices) => slices,
            None => std::slice::from_ref(&self.size),
        }
    }

    /// One of them; `first_generation` is that of this life.
    fn copy<'s>(&'s self, at: usize, table: &'s Table, first_generation: u64) -> ReplicaView<'s> {
        let (number, place) = match (self.spots.get(at), self.file()) {
            (Some(spot), _) => {
                let segment = table.cell(spot.segment).map(|cell| &cell.segment);
                let place = PlaceView::Memory(RangesView::Run {
                    sizes: self.sizes(),
                    address: spot.address,
                    protocol: segment.map_or("", |segment| &segment.protocol),
                    endpoint: segment.map_or("", |segment| &segment.endpoint),
                });
                (spot.number, place)
            }
            (None, file) => {
                let (path, number) = file.unwrap_or_default();
                (number, PlaceView::Disk { path, size: self.size })
            }
        };
        let first_id = self.generation.wrapping_sub(first_generation).wrapping_mul(64);
        let status = match self.complete {
            true => ReplicaStatus::Complete,
            false => ReplicaStatus::Processing,
        };
        ReplicaView { id: first_id.wrapping_add(u64::from(number) + 1), place, status }
    }
}

impl State {
    /// Where an object is; to be taken under the lock of its shard, with the table read under it.
    pub(super) fn sight(&self, table: &Table, object: &Object) -> Sight {
        let mut spots = SmallVec::new();
        let mut number = 0;
        for copy in object.copies.iter().filter(|copy| copy.segment != FILES) {
            if let Some(cell) = table.cell(copy.segment).filter(|cell| !cell.has(HIDDEN)) {
                let address = cell.address(copy.granule);
                spots.push(Spot { segment: copy.segment, number, address });
            }
            number += 1;
        }
        // Readers are told of a file once it is written, the writer while it is not.
        let is_told = object.file() == Some(object.complete);
        let is_cut = object.slices().len() > 1;
        let more = (is_told || is_cut).then(|| {
            Box::new(More {
                slices: is_cut.then(|| object.slices().into()),
                file: is_told.then(|| self.file_path(object)),
                copies: number,
            })
        });
        let (generation, size) = (object.generation, object.size);
        Sight { generation, size, spots, more, complete: object.complete }
    }

    /// The copies of an object that can be reached.
    pub(super) fn replicas(&self, table: &Table, sight: &Sight) -> Vec<Replica> {
        let copy = |at| sight.copy(at, table, self.first_generation).to_replica();
        (0..sight.count()).map(copy).collect()
    }
}

/// What the lookup of some keys has seen, in their order.
pub(super) struct Sighted {
    /// Nearly always one: segments come and go seldom.
    tables: SmallVec<[Arc<Table>; 1]>,
    /// Each with the place of its table.
    seen: SmallVec<[(Outcome<Sight>, u32); 1]>,
    lease_ttl_ms: u64,
    first_generation: u64,
}

impl Sighted {
    /// As if nothing were found, until [`Sighted::put`] says otherwise.
    pub(super) fn new(count: usize, lease_ttl_ms: u64, first_generation: u64) -> Sighted {
        let unseen = || (Err(Refusal::OBJECT_NOT_FOUND), 0);
        let seen = std::iter::repeat_with(unseen).take(count).collect();
        Sighted { tables: SmallVec::new(), seen, lease_ttl_ms, first_generation }
    }

    /// Keeps one, with the table that it was taken with.
    pub(super) fn put(&mut self, at: usize, table: &Arc<Table>, sight: Outcome<Sight>) {
        if !self.tables.last().is_some_and(|last| Arc::ptr_eq(last, table)) {
            self.tables.push(Arc::clone(table));
        }
        self.seen[at] = (sight, self.tables.len() as u32 - 1);
    }

    /// How many were not found, or cannot be read yet.
    pub(super) fn failed(&self) -> usize {
        self.seen.iter().filter(|(sight, _)| sight.is_err()).count()
    }
}

impl Sights for Sighted {
    fn count(&self) -> usize {
        self.seen.len()
    }

    fn sight(&self, at: usize) -> Outcome<LocatedView<'_>> {
        let sight = self.seen[at].0.as_ref().map_err(|refusal| *refusal)?;
        let copies = CopiesView::Told { by: self, object: at, count: sight.count() };
        let (lease_ttl_ms, generation) = (self.lease_ttl_ms, sight.generation);
        Ok(LocatedView { copies, lease_ttl_ms, generation })
    }
}

impl Copies for Sighted {
    fn copy(&self, object: usize, at: usize) -> ReplicaView<'_> {
        match &self.seen[object] {
            (Ok(sight), table) => {
                sight.copy(at, &self.tables[*table as usize], self.first_generation)
            }
            // Nobody is told of copies of what was not seen.
            (Err(_), _) => ReplicaView {
                id: 0,
                place: PlaceView::Disk { path: "", size: 0 },
                status: ReplicaStatus::Undefined,
            },
        }
    }
}
