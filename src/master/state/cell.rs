//! One mounted segment: its free ranges, its quarantine, and why nothing is placed in it.
//!
//! The numbers that placement reads are atomics beside the lock, so choosing among a thousand
//! segments takes none of their locks. Under the lock: free ranges and quarantine.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::client::Client;
use crate::pool::allocator::{Allocator, Piece};
use crate::pool::lease::Micros;
use crate::pool::segment::{Segment, SegmentEvent};

/// Tag of ranges whose object is gone.
pub(super) const RESTING: u32 = u32::MAX;

/// A peer could not reach it.
pub(super) const SUSPECT: u32 = 1;
/// Its owner is silent.
pub(super) const SILENT: u32 = 2;
/// It is about to be unmounted.
pub(super) const DRAINING: u32 = 4;
/// Its owner has not yet told what it holds.
pub(super) const REPORTING: u32 = 8;
/// Readers may still copy from it by leases that are not known any more: of the master's earlier
/// life, or of the time before its owner was given up and came back.
pub(super) const SETTLING: u32 = 16;
/// Its owner does not acknowledge.
pub(super) const UNHEARD: u32 = 32;
/// Known from the journal; its owner has not mounted it again.
pub(super) const HIDDEN: u32 = 64;

#[derive(Debug)]
pub(super) struct Cell {
    /// Its short name inside objects.
    pub(super) slot: u32,
    pub(super) segment: Segment,
    pub(super) holder: Arc<Client>,
    /// Why nothing is placed in it; 0 if it may.
    pub(super) flags: AtomicU32,
    /// When it was mounted.
    pub(super) since: Micros,
    /// End of [`SETTLING`].
    pub(super) settled: Micros,
    /// Nothing rests shorter than this: its owner was silent and is taking in what has waited.
    awake: AtomicU64,
    pub(super) granule_bits: u32,
    largest: AtomicU64,
    free: AtomicU64,
    used: AtomicU64,
    resting: AtomicU64,
    room: Mutex<Room>,
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) allocator: Allocator,
    /// The segment is being unmounted: nothing is taken or given back any more.
    pub(super) closed: bool,
    timed: BinaryHeap<Reverse<(Micros, u32)>>,
    unacknowledged: VecDeque<Unacknowledged>,
    /// Offsets of ranges that the holder still reads, and the piece where its object is gone.
    kept: HashMap<u64, Option<u32>>,
}

#[derive(Debug)]
struct Unacknowledged {
    event: u64,
    since: Micros,
    reusable_at: Micros,
    piece: u32,
}

/// How a range comes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// Bytes of the object that was in it.
    pub(super) bytes: u64,
    /// Not to be used earlier than this.
    pub(super) until: Micros,
    /// Which object it was, for the holder.
    pub(super) generation: u64,
    /// Whether the holder must take note first.
    pub(super) tell: bool,
}

impl Cell {
    pub(super) fn new(
        slot: u32,
        segment: Segment,
        holder: Arc<Client>,
        now: Micros,
        flags: u32,
    ) -> Cell {
        let mut allocator = Allocator::new(segment.size);
        if flags & (REPORTING | SETTLING | HIDDEN) != 0 {
            allocator.begin_places();
        }
        let cell = Cell {
            slot,
            segment,
            holder,
            flags: AtomicU32::new(flags),
            since: now,
            settled: now,
            awake: AtomicU64::new(0),
            granule_bits: allocator.granule().trailing_zeros(),
            largest: AtomicU64::new(0),
            free: AtomicU64::new(0),
            used: AtomicU64::new(0),
            resting: AtomicU64::new(0),
            room: Mutex::new(Room {
                allocator,
                closed: false,
                timed: BinaryHeap::new(),
                unacknowledged: VecDeque::new(),
                kept: HashMap::new(),
            }),
        };
        cell.publish(&cell.room.lock());
        cell
    }

    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    pub(super) fn mark(&self, flags: u32) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
    }

    /// Takes marks away; true if now something may be placed here that might not before.
    pub(super) fn unmark(&self, flags: u32) -> bool {
        let before = self.flags.fetch_and(!flags, Ordering::AcqRel);
        before & flags != 0 && before & !flags == 0
    }

    /// Its owner was silent and is heard again; it has until `until` to take in what waited for it.
    pub(super) fn wake(&self, until: Micros) {
        if self.has(SILENT) {
            self.awake.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// The largest range that it takes now; 0 where nothing may be placed.
    pub(super) fn largest(&self) -> u64 {
        if self.has(u32::MAX) {
            return 0;
        }
        self.largest.load(Ordering::Relaxed)
    }

    pub(super) fn free_share(&self) -> u32 {
        let share = u128::from(self.free.load(Ordering::Relaxed)) * 1000;
        (share / u128::from(self.segment.size.max(1))) as u32
    }

    /// Bytes of live objects.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes in quarantine.
    pub(super) fn resting(&self) -> u64 {
        self.resting.load(Ordering::Relaxed)
    }

    /// Bytes that are neither free nor about to be.
    pub(super) fn occupied(&self) -> u64 {
        let free = self.free.load(Ordering::Relaxed);
        self.segment.size.saturating_sub(free).saturating_sub(self.resting())
    }

    fn publish(&self, room: &Room) {
        self.largest.store(room.allocator.largest(), Ordering::Relaxed);
        self.free.store(room.allocator.free_bytes(), Ordering::Relaxed);
    }

    /// Takes a range for an object.
    pub(super) fn allocate(&self, now: Micros, bytes: u64, tag: u32) -> Option<Piece> {
        let mut room = self.room.lock();
        if room.closed {
            return None;
        }
        let mut piece = room.allocator.allocate(bytes, tag);
        if piece.is_none() && self.drain_locked(&mut room, now) {
            piece = room.allocator.allocate(bytes, tag);
        }
        self.publish(&room);
        if piece.is_some() {
            self.used.fetch_add(bytes, Ordering::Relaxed);
        }
        piece
    }

    /// Takes a given range for an object that lies there already.
    pub(super) fn reserve(&self, offset: u64, bytes: u64, tag: u32) -> Option<Piece> {
        let mut room = self.room.lock();
        if room.closed {
            return None;
        }
        let piece = room.allocator.reserve(offset, bytes, tag)?;
        self.publish(&room);
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Some(piece)
    }

    /// Takes a range that holds nothing but may not be used before a moment.
    pub(super) fn reserve_resting(&self, offset: u64, bytes: u64, until: Micros) {
        let mut room = self.room.lock();
        if let Some(piece) = room.allocator.reserve(offset, bytes, RESTING) {
            let size = room.allocator.span(piece.id).size;
            self.resting.fetch_add(size, Ordering::Relaxed);
            room.timed.push(Reverse((until, piece.id)));
            self.publish(&room);
        }
    }

    /// Gives a range back: at once where nothing speaks against it, else through the quarantine.
    /// True if the holder has news.
    pub(super) fn give_back(&self, now: Micros, piece: u32, rest: Rest) -> bool {
        let mut room = self.room.lock();
        if room.closed {
            return false;
        }
        self.used.fetch_sub(rest.bytes, Ordering::Relaxed);
        let tell = rest.tell && self.holder.is_native();
        if !tell && rest.until <= now {
            room.allocator.free(piece);
            self.publish(&room);
            return false;
        }
        room.allocator.retag(piece, RESTING);
        let span = room.allocator.span(piece);
        self.resting.fetch_add(span.size, Ordering::Relaxed);
        if tell {
            let event = self.holder.push_gone(SegmentEvent::Gone {
                segment: self.segment.id,
                address: self.segment.base + span.offset,
                generation: rest.generation,
            });
            let reusable_at = rest.until;
            let unacknowledged = Unacknowledged { event, since: now, reusable_at, piece };
            room.unacknowledged.push_back(unacknowledged);
        } else {
            room.timed.push(Reverse((rest.until, piece)));
        }
        tell
    }

    /// Ends the quarantine of what may be used again; true if that gave room.
    pub(super) fn drain(&self, now: Micros) -> bool {
        let mut room = self.room.lock();
        let gave = self.drain_locked(&mut room, now);
        if gave {
            self.publish(&room);
        }
        gave
    }

    fn drain_locked(&self, room: &mut Room, now: Micros) -> bool {
        // What is on its way to a silent owner may be stored when that goes on, and only then.
        if room.closed || self.has(SILENT) || now < self.awake.load(Ordering::Relaxed) {
            return false;
        }
        let acknowledged = self.holder.acknowledged.load(Ordering::Acquire);
        while let Some(first) = room.unacknowledged.front() {
            if first.event > acknowledged {
                break;
            }
            let due = (first.reusable_at, first.piece);
            room.unacknowledged.pop_front();
            room.timed.push(Reverse(due));
        }
        let mut gave = false;
        while let Some(Reverse((until, piece))) = room.timed.peek().copied() {
            if until > now {
                break;
            }
            room.timed.pop();
            if !room.kept.is_empty() {
                let offset = room.allocator.span(piece).offset;
                if let Some(kept) = room.kept.get_mut(&offset) {
                    *kept = Some(piece);
                    continue;
                }
            }
            self.resting.fetch_sub(room.allocator.span(piece).size, Ordering::Relaxed);
            room.allocator.free(piece);
            gave = true;
        }
        gave
    }

    /// The holder still reads these ranges, given by offset and bytes, and no others; true if that
    /// gave room.
    pub(super) fn keep(&self, now: Micros, ranges: impl Iterator<Item = (u64, u64)>) -> bool {
        let mut room = self.room.lock();
        if room.closed {
            return false;
        }
        let mut before = std::mem::take(&mut room.kept);
        for (offset, bytes) in ranges {
            if room.kept.contains_key(&offset) {
                continue;
            }
            let mut piece = before.remove(&offset).flatten();
            if piece.is_none() {
                // After a remount nobody else knows of it.
                piece = room.allocator.reserve(offset, bytes, RESTING).map(|piece| {
                    let size = room.allocator.span(piece.id).size;
                    self.resting.fetch_add(size, Ordering::Relaxed);
                    piece.id
                });
            }
            room.kept.insert(offset, piece);
        }
        room.timed.extend(before.into_values().flatten().map(|piece| Reverse((now, piece))));
        let gave = self.drain_locked(&mut room, now);
        self.publish(&room);
        gave
    }

    /// Makes way for the object of a kept range, which its holder reports.
    pub(super) fn yield_kept(&self, offset: u64) {
        let mut room = self.room.lock();
        if let Some(piece) = room.kept.get_mut(&offset).and_then(Option::take) {
            self.resting.fetch_sub(room.allocator.span(piece).size, Ordering::Relaxed);
            room.allocator.free(piece);
            self.publish(&room);
        }
    }

    /// Since when the holder owes an acknowledgement.
    pub(super) fn owes_since(&self) -> Option<Micros> {
        self.room.lock().unacknowledged.front().map(|first| first.since)
    }

    /// Offset, bytes and end of every rest. What waits for its holder rests for `unknown` at least.
    pub(super) fn rests(&self, unknown: Micros) -> Vec<(u64, u64, Micros)> {
        let room = self.room.lock();
        let timed = room.timed.iter().map(|Reverse((until, piece))| (*until, *piece));
        let owed = room.unacknowledged.iter().map(|u| (u.reusable_at.max(unknown), u.piece));
        let kept = room.kept.values().flatten().map(|piece| (unknown, *piece));
        let spans = timed.chain(owed).chain(kept).map(|(until, piece)| {
            let span = room.allocator.span(piece);
            (span.offset, span.size, until)
        });
        spans.collect()
    }

    /// Closes it for good; ranges are neither taken nor given back any more.
    pub(super) fn close(&self) {
        self.room.lock().closed = true;
    }

    /// Looks at or changes the ranges.
    pub(super) fn with_room<T>(&self, look: impl FnOnce(&mut Room) -> T) -> T {
        let mut room = self.room.lock();
        let result = look(&mut room);
        self.publish(&room);
        result
    }

    /// The address of a range in the owner's process.
    pub(super) fn address(&self, granule: u32) -> u64 {
        self.segment.base + (u64::from(granule) << self.granule_bits)
    }
}
