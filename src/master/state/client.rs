//! Clients: signs of life, and the news for those that hold memory and attend to it.
//!
//! Entered by every thread that applies calls. The lock of a client is the last in the order of
//! locks (see the parent); nothing but the outlet is called under it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::limits;
use crate::pool::identity::ClientId;
use crate::pool::lease::Micros;
use crate::pool::segment::SegmentEvent;

/// One client, as long as it is heard of.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    /// Its short name inside objects; never 0, never used twice.
    pub(super) serial: u32,
    /// Last sign of life.
    pub(super) heard: AtomicU64,
    /// It attends: its ranges are used again only after it has taken note.
    pub(super) native: AtomicBool,
    /// Some of its segments are marked because it was silent or suspected.
    pub(super) marked: AtomicBool,
    /// Last event that it has taken in.
    pub(super) acknowledged: AtomicU64,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// Its segments are mounted; only a remount makes it so.
    pub(super) ok: bool,
    /// It gives signs of life by itself, so its silence means something.
    pub(super) pings: bool,
    /// It was dropped; whoever still has it must not add to it.
    pub(super) gone: bool,
    /// Slots of its segments.
    pub(super) segments: Vec<u32>,
    /// News not acknowledged yet; the first has the number `first`.
    events: VecDeque<SegmentEvent>,
    first: u64,
    sent: u64,
    /// News did not fit, or the holder is new: the index is read again from this shard.
    pub(super) refill: Option<u32>,
    overflowed: bool,
}

impl Client {
    /// `first_event` is larger in every later life of the master, so that acknowledgements of an
    /// earlier life mean nothing.
    pub(super) fn new(id: ClientId, serial: u32, now: Micros, first_event: u64) -> Client {
        Client {
            id,
            serial,
            heard: AtomicU64::new(now),
            native: AtomicBool::new(false),
            marked: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                ok: false,
                pings: false,
                gone: false,
                segments: Vec::new(),
                events: VecDeque::new(),
                first: first_event,
                sent: 0,
                refill: None,
                overflowed: false,
            }),
        }
    }

    pub(super) fn is_native(&self) -> bool {
        self.native.load(Ordering::Acquire)
    }

    /// Adds news of an object that is gone and says under which number. These are never left out;
    /// there are at most as many as ranges in the holder's segments.
    pub(super) fn push_gone(&self, event: SegmentEvent) -> u64 {
        let mut inner = self.inner.lock();
        inner.events.push_back(event);
        inner.first + inner.events.len() as u64 - 1
    }

    /// Adds news of a complete object; false where it did not fit and will be told later.
    pub(super) fn push_completed(&self, event: impl FnOnce() -> SegmentEvent) -> bool {
        let mut inner = self.inner.lock();
        if inner.events.len() >= limits::HOLDER_EVENTS_MAX {
            inner.overflowed = true;
            return false;
        }
        inner.events.push_back(event());
        true
    }

    /// Adds news that was left out before; the reader of the index sees to the bound.
    pub(super) fn push_refilled(&self, event: SegmentEvent) {
        self.inner.lock().events.push_back(event);
    }

    /// Takes note of an acknowledgement.
    pub(super) fn acknowledge(&self, number: u64) {
        let mut inner = self.inner.lock();
        // What was never sent cannot be acknowledged; such a number is of another life.
        if number > inner.sent {
            return;
        }
        while inner.first <= number && inner.events.pop_front().is_some() {
            inner.first += 1;
        }
        if inner.overflowed && inner.refill.is_none() && inner.events.is_empty() {
            inner.overflowed = false;
            inner.refill = Some(0);
        }
        self.acknowledged.fetch_max(number, Ordering::AcqRel);
    }

    /// The next news and the number of the last of them.
    pub(super) fn news(&self) -> (u64, Vec<SegmentEvent>) {
        let mut inner = self.inner.lock();
        let count = inner.events.len().min(limits::HOLDER_EVENTS_PER_REPLY);
        let events: Vec<SegmentEvent> = inner.events.iter().take(count).cloned().collect();
        let last = inner.first + count as u64 - 1;
        inner.sent = inner.sent.max(last);
        (last, events)
    }

    /// Where to go on reading the index for it, if its queue has room.
    pub(super) fn take_refill(&self) -> Option<u32> {
        let mut inner = self.inner.lock();
        if inner.events.len() >= limits::HOLDER_EVENTS_PER_REPLY {
            return None;
        }
        inner.refill.take()
    }
}
