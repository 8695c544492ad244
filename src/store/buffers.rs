//! Local copy buffers: memory of a fixed size, registered once, lent in pieces.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Access, Mapping, Region};

use super::held::{Held, Spot};
use super::own::Run;
use super::plan::Range;

/// Pieces begin at a multiple of this: a cache line, which every element type is content with.
const ALIGNMENT: usize = 64;

/// The memory and which parts of it are free.
pub(super) struct LocalBuffers {
    mapping: Option<Mapping>,
    /// Length by offset; neighbours are one entry.
    free: Mutex<BTreeMap<usize, usize>>,
}

impl LocalBuffers {
    /// Takes the memory over; without memory nothing can be lent.
    pub(super) fn new(mapping: Option<Mapping>) -> LocalBuffers {
        let length = mapping.as_ref().map_or(0, Mapping::length);
        let free = if length == 0 { BTreeMap::new() } else { BTreeMap::from([(0, length)]) };
        LocalBuffers { mapping, free: Mutex::new(free) }
    }

    /// Where it is.
    pub(super) fn range(&self) -> Option<Range> {
        let mapping = self.mapping.as_ref()?;
        Some(Range { address: mapping.address(), length: mapping.length() })
    }

    /// Bytes that are not lent.
    pub(super) fn free_bytes(&self) -> usize {
        self.free.lock().values().sum()
    }

    /// Lends `length` bytes, from the smallest free part that has room.
    pub(super) fn lend(self: &Arc<Self>, length: usize) -> Result<StoreBuffer> {
        let full = || {
            Error::new(ErrorKind::LimitReached, "the local buffer has no room for the object")
                .with("length_bytes", length)
                .with("free_bytes", self.free_bytes())
        };
        let (Some(mapping), Some(taken)) =
            (self.mapping.as_ref(), length.max(1).checked_next_multiple_of(ALIGNMENT))
        else {
            return Err(full());
        };
        let mut free = self.free.lock();
        let best = free.iter().filter(|(_, size)| **size >= taken).min_by_key(|(_, size)| **size);
        let Some((offset, size)) = best.map(|(offset, size)| (*offset, *size)) else {
            drop(free);
            return Err(full());
        };
        free.remove(&offset);
        if size > taken {
            free.insert(offset + taken, size - taken);
        }
        let address = mapping.address() + offset;
        let source = Source::Lent { owner: Arc::clone(self), offset, taken };
        Ok(StoreBuffer { length, bytes: Mutex::new(Bytes { address, source }) })
    }

    fn give_back(&self, offset: usize, taken: usize) {
        let mut free = self.free.lock();
        let (mut offset, mut length) = (offset, taken);
        if let Some(next) = free.remove(&(offset + length)) {
            length += next;
        }
        if let Some((before, size)) = free.range(..offset).next_back().map(|(o, s)| (*o, *s)) {
            if before + size == offset {
                offset = before;
                length += size;
            }
        }
        free.insert(offset, length);
    }
}

/// An object's bytes in memory of the store; given back when dropped, by any thread. It stays
/// valid after the store was closed, and its bytes stay what they are whatever becomes of the
/// object. They must not be changed before [`StoreBuffer::detach`]: they may be the object itself.
pub struct StoreBuffer {
    length: usize,
    bytes: Mutex<Bytes>,
}

struct Bytes {
    address: usize,
    source: Source,
}

/// Whose memory it is.
enum Source {
    /// A piece of the local buffer, read into.
    Lent { owner: Arc<LocalBuffers>, offset: usize, taken: usize },
    /// The object itself, in a segment of this process.
    View {
        held: Arc<Mutex<Held>>,
        spot: Spot,
        _mapping: Arc<Mapping>,
        /// Where a copy is made.
        copies: Arc<LocalBuffers>,
    },
}

impl StoreBuffer {
    /// A view of an object in an own segment, if it is known to stay there while it is read.
    pub(super) fn view(
        held: &Arc<Mutex<Held>>,
        copies: &Arc<LocalBuffers>,
        run: Run,
        generation: u64,
        bytes_max: u64,
    ) -> Option<StoreBuffer> {
        let Run { spot, length, mapping } = run;
        let address = usize::try_from(spot.1).ok()?;
        if !held.lock().lend(spot, generation, bytes_max) {
            return None;
        }
        let (held, copies) = (Arc::clone(held), Arc::clone(copies));
        let source = Source::View { held, spot, _mapping: mapping, copies };
        Some(StoreBuffer { length, bytes: Mutex::new(Bytes { address, source }) })
    }

    /// Makes the bytes the holder's own, to be changed at will: what is a view becomes a copy in
    /// the local buffer, at another address. The error is that of a full local buffer; the view
    /// stays then.
    pub fn detach(&self) -> Result<()> {
        let mut bytes = self.bytes.lock();
        let Source::View { copies, .. } = &bytes.source else { return Ok(()) };
        let copied = copies.lend(self.length)?;
        copy(Range { address: bytes.address, length: self.length }, copied.range())?;
        // The old place is given back with `copied`, which is dropped last.
        std::mem::swap(&mut *bytes, &mut *copied.bytes.lock());
        drop(bytes);
        Ok(())
    }

    /// True if no byte was copied for it.
    pub fn is_view(&self) -> bool {
        matches!(self.bytes.lock().source, Source::View { .. })
    }

    /// First address.
    pub fn address(&self) -> usize {
        self.bytes.lock().address
    }

    /// Bytes of the object.
    pub fn length(&self) -> usize {
        self.length
    }

    pub(super) fn range(&self) -> Range {
        Range { address: self.address(), length: self.length }
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = zeroed(self.length)?;
        // Held, so that nobody detaches meanwhile.
        let own = self.bytes.lock();
        copy(Range { address: own.address, length: self.length }, Range::of_mut(&mut bytes))?;
        Ok(bytes)
    }
}

impl Drop for StoreBuffer {
    fn drop(&mut self) {
        match &self.bytes.get_mut().source {
            Source::Lent { owner, offset, taken } => owner.give_back(*offset, *taken),
            Source::View { held, spot, .. } => held.lock().give_back(*spot),
        }
    }
}

/// Copies between two ranges of the same length that the caller keeps alive.
pub(super) fn copy(from: Range, to: Range) -> Result<()> {
    if from.length == 0 {
        return Ok(());
    }
    let source = Arc::new(Region::new(from.address, from.length, "*", Access::LOCAL, 0)?);
    let target = Arc::new(Region::new(to.address, to.length, "*", Access::LOCAL, 0)?);
    Region::copy_between(&source, from.address as u64, &target, to.address as u64, from.length)
}

/// Zeroed memory, or an error where there is not so much.
pub(super) fn zeroed(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| {
        Error::new(ErrorKind::Resource, "not enough memory for the object")
            .with("length_bytes", length)
    })?;
    bytes.resize(length, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Pages;

    #[test]
    fn pieces_do_not_overlap_and_come_back_whole() {
        let mapping = Mapping::new(64 << 10, Pages::Ordinary).unwrap();
        let buffers = Arc::new(LocalBuffers::new(Some(mapping)));
        let whole = buffers.free_bytes();
        let mut held: Vec<StoreBuffer> = Vec::new();
        let mut seed = 7u64;
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let length = (seed >> 33) as usize % 5000 + 1;
            match buffers.lend(length) {
                Ok(piece) => held.push(piece),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::LimitReached);
                    held.swap_remove((seed >> 20) as usize % held.len());
                }
            }
            let mut ends: Vec<_> =
                held.iter().map(|p| (p.address(), p.address() + p.length())).collect();
            ends.sort_unstable();
            assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        }
        drop(held);
        assert_eq!(buffers.free_bytes(), whole);
        assert_eq!(buffers.free.lock().len(), 1);
    }

    #[test]
    fn without_memory_nothing_is_lent() {
        let buffers = Arc::new(LocalBuffers::new(None));
        assert_eq!(buffers.lend(1).err().unwrap().kind(), ErrorKind::LimitReached);
        assert!(buffers.range().is_none());
    }

    #[test]
    fn a_buffer_outlives_its_owner() {
        let mapping = Mapping::new(4096, Pages::Ordinary).unwrap();
        let buffers = Arc::new(LocalBuffers::new(Some(mapping)));
        let piece = buffers.lend(5).unwrap();
        drop(buffers);
        copy(Range::of(b"hello"), piece.range()).unwrap();
        assert_eq!(piece.to_vec().unwrap(), b"hello");
    }
}
