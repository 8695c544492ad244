//! Offsets inside one segment: which ranges are free and which are taken.
//!
//! A range is a whole number of *granules*: 64 bytes, so that the copies of every object begin on
//! a cache line of an aligned segment; larger for segments of 128 GiB and more, so that 31 bits
//! number them. Free ranges hang in bins, 32 per power of two, found through two levels of bit
//! maps. The range that is taken is the best of the first few of the exact bin, else one of the
//! next larger bin; the first of a bin is as large as any of its first few, so a segment's free
//! run is usable to its full length. Everything takes constant time, whatever the number of ranges.
//!
//! An empty segment costs about 6 KB here, every range 24 bytes more. The bytes lost by rounding
//! are at most one granule per range; whoever counts bytes in use counts those asked for.
//!
//! Pure data without a lock. It knows no objects: a taken range carries a *tag* of its owner's.

use std::collections::BTreeMap;

use super::slab::Slab;

const SUB_BITS: u32 = 5;
const SUBS: u32 = 1 << SUB_BITS;
const BINS: usize = (32 * SUBS) as usize;
/// Entries of a bin that are looked at; bounds the time.
const LOOKS: usize = 8;
const GRANULE_BITS_MIN: u32 = 6;
const GRANULES_MAX: u64 = 1 << 31;
const NIL: u32 = u32::MAX;
/// In place of a link to the next free range: the range is taken.
const TAKEN: u32 = u32::MAX - 1;
/// Ranges one segment may be cut into. 24 bytes each; a segment of 64 GiB of objects of 4 KiB has
/// 16 million.
pub const PIECES_MAX: u32 = 1 << 28;

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    offset: u32,
    size: u32,
    /// Neighbours by address.
    before: u32,
    after: u32,
    /// Free: the next and previous of the bin. Taken: `TAKEN` and the tag.
    link: u32,
    back: u32,
}

/// A range that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Number of the range, valid until it is freed.
    pub id: u32,
    /// Bytes from the start of the segment.
    pub offset: u64,
}

/// What lies at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of the range.
    pub id: u32,
    /// Bytes from the start of the segment.
    pub offset: u64,
    /// Bytes, whole granules.
    pub size: u64,
    /// The owner's tag; `None` where the range is free.
    pub tag: Option<u32>,
}

/// Free and taken ranges of one segment.
#[derive(Debug)]
pub struct Allocator {
    bytes: u64,
    granule_bits: u32,
    pieces_max: u32,
    nodes: Slab<Node>,
    heads: Box<[u32]>,
    level: u32,
    sublevels: [u32; 32],
    free: u64,
    /// All ranges by offset, kept only while ranges are taken by their place.
    places: Option<BTreeMap<u32, u32>>,
}

fn bin_of(size: u32) -> usize {
    if size < SUBS {
        return size as usize;
    }
    let high = 31 - size.leading_zeros();
    let sub = (size >> (high - SUB_BITS)) & (SUBS - 1);
    (((high - SUB_BITS + 1) << SUB_BITS) | sub) as usize
}

impl Allocator {
    /// All of a segment of that many bytes, free.
    pub fn new(bytes: u64) -> Allocator {
        Allocator::with_pieces_max(bytes, PIECES_MAX)
    }

    fn with_pieces_max(bytes: u64, pieces_max: u32) -> Allocator {
        let mut granule_bits = GRANULE_BITS_MIN;
        while bytes.div_ceil(1 << granule_bits) >= GRANULES_MAX {
            granule_bits += 1;
        }
        let mut new = Allocator {
            bytes,
            granule_bits,
            pieces_max,
            nodes: Slab::default(),
            heads: vec![NIL; BINS].into_boxed_slice(),
            level: 0,
            sublevels: [0; 32],
            free: 0,
            places: None,
        };
        let size = bytes.div_ceil(1 << granule_bits) as u32;
        if size > 0 {
            let node = Node { offset: 0, size, before: NIL, after: NIL, link: NIL, back: NIL };
            if let Some(id) = new.nodes.insert(node, pieces_max) {
                new.hang(id);
            }
        }
        new
    }

    /// Bytes of one granule.
    pub fn granule(&self) -> u64 {
        1 << self.granule_bits
    }

    /// Bytes that are free, whole granules.
    pub fn free_bytes(&self) -> u64 {
        (self.free << self.granule_bits).min(self.bytes)
    }

    /// An allocation of up to this many bytes succeeds.
    pub fn largest(&self) -> u64 {
        if self.level == 0 {
            return 0;
        }
        let high = 31 - self.level.leading_zeros();
        let sub = 31 - self.sublevels[high as usize].leading_zeros();
        let head = self.nodes.get(self.heads[((high << SUB_BITS) | sub) as usize]);
        self.usable(head)
    }

    /// Ranges, free and taken.
    pub fn pieces(&self) -> usize {
        self.nodes.len()
    }

    /// Takes `bytes` bytes, at least 1; `None` where no free range that was looked at is as large.
    pub fn allocate(&mut self, bytes: u64, tag: u32) -> Option<Piece> {
        if bytes == 0 || bytes > self.bytes {
            return None;
        }
        let size = bytes.div_ceil(self.granule()) as u32;
        let found = self.best_of(bin_of(size), bytes);
        let id = found.or_else(|| self.first_above(bin_of(size), bytes))?;
        self.unhang(id);
        self.cut(id, size);
        self.take(id, tag);
        Some(Piece { id, offset: self.offset(id) })
    }

    /// Frees a taken range and merges it with free neighbours.
    pub fn free(&mut self, id: u32) {
        let mut id = id;
        if self.nodes.get(id).link != TAKEN {
            debug_assert!(false, "freed twice");
            return;
        }
        let Node { before, after, .. } = *self.nodes.get(id);
        if after != NIL && self.nodes.get(after).link != TAKEN {
            self.unhang(after);
            self.swallow(id, after);
        }
        if before != NIL && self.nodes.get(before).link != TAKEN {
            self.unhang(before);
            self.swallow(before, id);
            id = before;
        }
        self.hang(id);
    }

    /// Changes the tag of a taken range.
    pub fn retag(&mut self, id: u32, tag: u32) {
        let node = self.nodes.get_mut(id);
        if node.link == TAKEN {
            node.back = tag;
        }
    }

    /// A range and what is in it.
    pub fn span(&self, id: u32) -> Span {
        let node = self.nodes.get(id);
        Span {
            id,
            offset: u64::from(node.offset) << self.granule_bits,
            size: u64::from(node.size) << self.granule_bits,
            tag: (node.link == TAKEN).then_some(node.back),
        }
    }

    /// The range before this one.
    pub fn before(&self, id: u32) -> Option<Span> {
        let before = self.nodes.get(id).before;
        (before != NIL).then(|| self.span(before))
    }

    /// The range after this one.
    pub fn after(&self, id: u32) -> Option<Span> {
        let after = self.nodes.get(id).after;
        (after != NIL).then(|| self.span(after))
    }

    /// From now on ranges can be taken by their place; costs memory for every range.
    pub fn begin_places(&mut self) {
        let mut places = BTreeMap::new();
        for id in 0..self.nodes.bound() {
            let node = self.nodes.get(id);
            if node.size > 0 {
                places.insert(node.offset, id);
            }
        }
        self.places = Some(places);
    }

    /// Ends what [`Allocator::begin_places`] began.
    pub fn end_places(&mut self) {
        self.places = None;
    }

    /// Taken ranges that the place touches, from its first to its last byte; at most `max`.
    pub fn overlaps(&self, offset: u64, bytes: u64, max: usize) -> Vec<Span> {
        let mut found = Vec::new();
        let Some(places) = &self.places else { return found };
        let Some((first, end)) = self.granules(offset, bytes) else { return found };
        let Some((_, id)) = places.range(..=first).next_back() else { return found };
        let mut next = Some(self.span(*id));
        while let Some(span) = next {
            if span.offset >> self.granule_bits >= u64::from(end) || found.len() == max {
                break;
            }
            if span.tag.is_some() {
                found.push(span);
            }
            next = self.after(span.id);
        }
        found
    }

    /// Takes a given place; `None` where it is not inside one free range, or places are not kept.
    pub fn reserve(&mut self, offset: u64, bytes: u64, tag: u32) -> Option<Piece> {
        if offset & (self.granule() - 1) != 0 {
            return None;
        }
        let (first, end) = self.granules(offset, bytes)?;
        let (_, id) = self.places.as_ref()?.range(..=first).next_back()?;
        let mut id = *id;
        let node = *self.nodes.get(id);
        if node.link == TAKEN || u64::from(node.offset) + u64::from(node.size) < u64::from(end) {
            return None;
        }
        self.unhang(id);
        if node.offset < first {
            let front = id;
            let back = self.split(front, first - node.offset);
            // Also where there are too many ranges already: the place stays free, and known as
            // such.
            self.hang(front);
            id = back?;
        }
        self.cut(id, end - first);
        self.take(id, tag);
        Some(Piece { id, offset })
    }

    fn granules(&self, offset: u64, bytes: u64) -> Option<(u32, u32)> {
        let end = offset.checked_add(bytes)?;
        if bytes == 0 || end > self.bytes {
            return None;
        }
        Some(((offset >> self.granule_bits) as u32, end.div_ceil(self.granule()) as u32))
    }

    fn offset(&self, id: u32) -> u64 {
        u64::from(self.nodes.get(id).offset) << self.granule_bits
    }

    /// Bytes of a range that lie inside the segment; its last granule may stick out.
    fn usable(&self, node: &Node) -> u64 {
        let offset = u64::from(node.offset) << self.granule_bits;
        (u64::from(node.size) << self.granule_bits).min(self.bytes - offset)
    }

    fn best_of(&self, bin: usize, bytes: u64) -> Option<u32> {
        let mut best: Option<(u64, u32)> = None;
        let mut id = self.heads[bin];
        for _ in 0..LOOKS {
            if id == NIL {
                break;
            }
            let node = self.nodes.get(id);
            let usable = self.usable(node);
            if usable >= bytes && best.is_none_or(|(least, _)| usable < least) {
                best = Some((usable, id));
            }
            id = node.link;
        }
        best.map(|(_, id)| id)
    }

    fn first_above(&self, bin: usize, bytes: u64) -> Option<u32> {
        let bin = bin + 1;
        let (high, sub) = (bin as u32 >> SUB_BITS, bin as u32 & (SUBS - 1));
        let within = self.sublevels.get(high as usize)? & (u32::MAX << sub);
        let found = if within != 0 {
            (high << SUB_BITS) | within.trailing_zeros()
        } else {
            let above = self.level & u32::MAX.checked_shl(high + 1).unwrap_or(0);
            if above == 0 {
                return None;
            }
            let high = above.trailing_zeros();
            (high << SUB_BITS) | self.sublevels[high as usize].trailing_zeros()
        };
        self.best_of(found as usize, bytes)
    }

    /// Keeps `size` granules of a range that hangs in no bin, and hangs up the rest.
    fn cut(&mut self, id: u32, size: u32) {
        if self.nodes.get(id).size > size {
            if let Some(rest) = self.split(id, size) {
                self.hang(rest);
            }
        }
    }

    /// Cuts a range in two; the second part hangs in no bin.
    fn split(&mut self, id: u32, size: u32) -> Option<u32> {
        let node = *self.nodes.get(id);
        let rest = Node {
            offset: node.offset + size,
            size: node.size - size,
            before: id,
            after: node.after,
            link: NIL,
            back: NIL,
        };
        let new = self.nodes.insert(rest, self.pieces_max)?;
        if node.after != NIL {
            self.nodes.get_mut(node.after).before = new;
        }
        let front = self.nodes.get_mut(id);
        front.size = size;
        front.after = new;
        if let Some(places) = &mut self.places {
            places.insert(rest.offset, new);
        }
        Some(new)
    }

    /// Joins two neighbours that hang in no bin.
    fn swallow(&mut self, id: u32, after: u32) {
        let gone = self.nodes.remove(after);
        let node = self.nodes.get_mut(id);
        node.size += gone.size;
        node.after = gone.after;
        if gone.after != NIL {
            self.nodes.get_mut(gone.after).before = id;
        }
        if let Some(places) = &mut self.places {
            places.remove(&gone.offset);
        }
    }

    fn take(&mut self, id: u32, tag: u32) {
        let node = self.nodes.get_mut(id);
        node.link = TAKEN;
        node.back = tag;
    }

    /// Hangs a range into its bin: first if it is at least as large as the first, else second.
    fn hang(&mut self, id: u32) {
        let size = self.nodes.get(id).size;
        let bin = bin_of(size);
        let head = self.heads[bin];
        self.free += u64::from(size);
        let first = head == NIL || size >= self.nodes.get(head).size;
        let (back, link) = if first { (NIL, head) } else { (head, self.nodes.get(head).link) };
        let node = self.nodes.get_mut(id);
        node.back = back;
        node.link = link;
        if first {
            self.heads[bin] = id;
        } else {
            self.nodes.get_mut(head).link = id;
        }
        if link != NIL {
            self.nodes.get_mut(link).back = id;
        }
        self.level |= 1 << (bin as u32 >> SUB_BITS);
        self.sublevels[bin >> SUB_BITS] |= 1 << (bin as u32 & (SUBS - 1));
    }

    fn unlink(&mut self, id: u32, bin: usize) {
        let Node { link, back, .. } = *self.nodes.get(id);
        if back == NIL {
            self.heads[bin] = link;
        } else {
            self.nodes.get_mut(back).link = link;
        }
        if link != NIL {
            self.nodes.get_mut(link).back = back;
        }
    }

    fn unhang(&mut self, id: u32) {
        let Node { size, back, .. } = *self.nodes.get(id);
        let bin = bin_of(size);
        self.free -= u64::from(size);
        self.unlink(id, bin);
        let head = self.heads[bin];
        if head == NIL {
            self.sublevels[bin >> SUB_BITS] &= !(1 << (bin as u32 & (SUBS - 1)));
            if self.sublevels[bin >> SUB_BITS] == 0 {
                self.level &= !(1 << (bin as u32 >> SUB_BITS));
            }
        } else if back == NIL {
            self.promote(head, bin);
        }
    }

    /// After the first of a bin has left: the largest of the next few becomes the first.
    fn promote(&mut self, head: u32, bin: usize) {
        let (mut best, mut id) = (head, head);
        for _ in 0..LOOKS {
            if id == NIL {
                break;
            }
            if self.nodes.get(id).size > self.nodes.get(best).size {
                best = id;
            }
            id = self.nodes.get(id).link;
        }
        if best == head {
            return;
        }
        self.unlink(best, bin);
        let head = self.heads[bin];
        let node = self.nodes.get_mut(best);
        node.back = NIL;
        node.link = head;
        self.nodes.get_mut(head).back = best;
        self.heads[bin] = best;
    }
}

#[cfg(test)]
mod tests;
