//! The memory that this client gives to the pool, and copies inside this process.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::Result;
use crate::memory::{check_mapped, Access, Mapping, Region};
use crate::pool::identity::SegmentId;
use crate::pool::replica::BufferRange;
use crate::pool::segment::Segment;

use super::held::Spot;
use super::mover::{Direction, Move};

/// One mounted range.
pub(super) struct Piece {
    pub(super) segment: Segment,
    region: Arc<Region>,
    /// Unmapped with the last copy: that of this piece, or of a view.
    mapping: Arc<Mapping>,
}

impl Piece {
    pub(super) fn new(segment: Segment, mapping: Arc<Mapping>) -> Result<Piece> {
        let region = Region::new(mapping.address(), mapping.length(), "*", Access::ALL, 0)?;
        Ok(Piece { segment, region: Arc::new(region), mapping })
    }
}

/// Bytes in one run in an own segment, and what keeps them mapped.
pub(super) struct Run {
    pub(super) spot: Spot,
    pub(super) length: usize,
    pub(super) mapping: Arc<Mapping>,
}

/// All of them, fixed for the life of the client.
pub(super) struct OwnMemory {
    pub(super) endpoint: String,
    pub(super) pieces: Vec<Piece>,
    /// False makes every byte take the way through the engine.
    pub(super) is_copied: bool,
    /// How often the memory was mounted anew. Held for reading during a copy into it.
    pub(super) mounts: RwLock<u64>,
}

impl OwnMemory {
    pub(super) fn segments(&self) -> Vec<Segment> {
        self.pieces.iter().map(|piece| piece.segment.clone()).collect()
    }

    /// The own segment that holds the whole range, by name and by address.
    pub(super) fn segment_of(&self, range: &BufferRange) -> Option<SegmentId> {
        self.piece(&range.endpoint, range.address, range.size).map(|piece| piece.segment.id)
    }

    /// The memory of a replica that lies in one own segment in one run.
    pub(super) fn run(&self, ranges: &[BufferRange]) -> Option<Run> {
        let first = ranges.first().filter(|_| self.is_copied)?;
        let mut length = 0_u64;
        for range in ranges {
            let follows = range.address == first.address.checked_add(length)?;
            length = length.checked_add(range.size)?;
            if !follows || range.endpoint != first.endpoint {
                return None;
            }
        }
        let piece = self.piece(&first.endpoint, first.address, length)?;
        Some(Run {
            spot: (piece.segment.id, first.address),
            length: usize::try_from(length).ok()?,
            mapping: Arc::clone(&piece.mapping),
        })
    }

    /// Bytes of all own segments.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.segment.size).sum()
    }

    /// True if the range lies in this process.
    pub(super) fn holds(&self, range: &BufferRange) -> bool {
        self.segment_of(range).is_some()
    }

    /// True if the move can be made by a copy.
    pub(super) fn can_copy(&self, wanted: &Move<'_>) -> bool {
        self.is_copied && self.piece(wanted.endpoint, wanted.remote, wanted.length as u64).is_some()
    }

    fn piece(&self, endpoint: &str, address: u64, length: u64) -> Option<&Piece> {
        if endpoint != self.endpoint {
            return None;
        }
        self.pieces.iter().find(|piece| piece.region.contains(address, length))
    }

    /// What a put that is granted room from now on is allowed to write by.
    pub(super) fn mounts(&self) -> u64 {
        *self.mounts.read()
    }

    /// The memory is about to be mounted anew: puts that were granted room before do not write any
    /// more. Waits for copies under way.
    pub(super) fn renew(&self) {
        *self.mounts.write() += 1;
    }

    /// Makes a move for which [`OwnMemory::can_copy`] is true. `mounts` is that of the time when
    /// its room was asked for.
    pub(super) fn copy(&self, wanted: &Move<'_>, mounts: u64) -> Result<()> {
        let Some(piece) = self.piece(wanted.endpoint, wanted.remote, wanted.length as u64) else {
            let text = "the range is in no segment of this process";
            return Err(crate::error::Error::new(crate::error::ErrorKind::RemoteRange, text));
        };
        check_mapped(wanted.local, wanted.length)?;
        let present = self.mounts.read();
        if wanted.direction == Direction::Put && *present != mounts {
            let text = "the memory was mounted anew since its room was granted";
            return Err(crate::error::Error::new(crate::error::ErrorKind::RemoteRange, text));
        }
        let local = Arc::new(Region::new(wanted.local, wanted.length, "*", Access::LOCAL, 0)?);
        let address = wanted.local as u64;
        match wanted.direction {
            Direction::Put => {
                Region::copy_between(&local, address, &piece.region, wanted.remote, wanted.length)
            }
            Direction::Get => {
                Region::copy_between(&piece.region, wanted.remote, &local, address, wanted.length)
            }
        }
    }

    /// Ends all copies; later ones fail.
    pub(super) fn close(&self) {
        for piece in &self.pieces {
            piece.region.close();
        }
    }
}
