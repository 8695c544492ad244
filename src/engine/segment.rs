//! Open segments: what was published about them, the route to them, and slices that wait for a
//! repair of either.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};

use crate::descriptor::PeerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::time::Deadline;
use crate::transport::{Operation, Route, Scope, Slice};

use super::notify::Notification;
use super::remote::{Found, RemoteIndex};
use super::way::Way;

/// A handle to an open segment: index in the low half, generation in the high half. A closed
/// handle is never given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentId(pub u64);

impl SegmentId {
    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The engine's own segment.
pub const LOCAL_SEGMENT: SegmentId = SegmentId(0);

/// A buffer of an open segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentBuffer {
    /// First address in the owner's process.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Where the memory lives, `*` where the owner does not say.
    pub location: String,
}

/// The present knowledge about a segment. Replaced as a whole by a refresh.
pub(super) struct SegmentState {
    /// `None` for the local segment, whose buffers are looked up where they are.
    pub(super) peer: Option<Arc<PeerAddress>>,
    pub(super) way: Way,
    index: RemoteIndex,
}

impl SegmentState {
    pub(super) fn remote(peer: Arc<PeerAddress>, way: Way) -> SegmentState {
        let index = RemoteIndex::new(&peer.descriptor);
        SegmentState { peer: Some(peer), way, index }
    }

    pub(super) fn local(route: Arc<dyn Route>) -> SegmentState {
        let way = Way { transport: "loopback", route, why: "the own segment".into() };
        SegmentState { peer: None, way, index: RemoteIndex::default() }
    }

    pub(super) fn find(&self, address: u64, length: u64, operation: Operation) -> Found {
        match self.peer {
            Some(_) => self.index.find(address, length, operation),
            None => Found::Key(0),
        }
    }
}

/// A slice that failed and may be tried again after a repair.
pub(super) struct Parked {
    pub(super) slice: Slice,
    pub(super) error: Error,
    pub(super) scope: Scope,
}

/// One open segment.
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) name: String,
    /// The own segment's, which stays what it is as long as the engine lives.
    fixed: Option<Arc<SegmentState>>,
    state: ArcSwapOption<SegmentState>,
    /// Its last opening was taken back, so the table does not know it any more.
    is_closed: AtomicBool,
    /// Held during a refresh, so that callers who need one share it.
    pub(super) refreshing: Mutex<()>,
    /// Until when a look at all segments passes this one over, whose peer was silent.
    passed_over_until: Mutex<Option<Instant>>,
    garage: Mutex<Garage>,
    outbox: Mutex<Outbox>,
}

/// Notifications that follow batches which ended well, in that order.
#[derive(Default)]
struct Outbox {
    waiting: VecDeque<(Notification, Deadline)>,
    /// A control thread is asked, or at it.
    is_queued: bool,
}

/// What putting a notification into the outbox comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// It waits behind others.
    Behind,
    /// The caller must queue a job for it.
    First,
    /// There is no room.
    Full,
}

/// Slices that failed and may be tried again.
#[derive(Default)]
struct Garage {
    waiting: Vec<Parked>,
    /// Those that a repair under way is for.
    held: Vec<Parked>,
    /// A repair is queued or under way.
    is_queued: bool,
}

impl Segment {
    fn new(id: SegmentId, name: &str, state: SegmentState) -> Segment {
        let state = Arc::new(state);
        Segment {
            id,
            name: name.to_owned(),
            fixed: (id == LOCAL_SEGMENT).then(|| Arc::clone(&state)),
            state: ArcSwapOption::new(Some(state)),
            is_closed: AtomicBool::new(false),
            refreshing: Mutex::new(()),
            passed_over_until: Mutex::default(),
            garage: Mutex::default(),
            outbox: Mutex::default(),
        }
    }

    /// True once the table would not give it out any more: handles are never used again, so whoever
    /// has it from before need not ask the table.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// A look at all segments passes this one over until then; `None` takes that back.
    pub(super) fn pass_over(&self, until: Option<Instant>) {
        *self.passed_over_until.lock() = until;
    }

    /// True if a look at all segments is not to wait for this one.
    pub(super) fn is_passed_over(&self, now: Instant) -> bool {
        self.passed_over_until.lock().is_some_and(|until| now < until)
    }

    /// Adds a notification that is to be sent until the deadline.
    pub(super) fn post(&self, notification: Notification, deadline: Deadline) -> Posted {
        let mut outbox = self.outbox.lock();
        if outbox.waiting.len() >= limits::NOTIFICATIONS_UNSENT_MAX {
            return Posted::Full;
        }
        outbox.waiting.push_back((notification, deadline));
        match std::mem::replace(&mut outbox.is_queued, true) {
            true => Posted::Behind,
            false => Posted::First,
        }
    }

    /// The next notification to send; `None` ends the job, and the next one queues another.
    pub(super) fn next_posted(&self) -> Option<(Notification, Deadline)> {
        let mut outbox = self.outbox.lock();
        let next = outbox.waiting.pop_front();
        outbox.is_queued = next.is_some();
        next
    }

    /// Forgets what waits to be sent, and says how many those were; no job is under way.
    pub(super) fn drop_posted(&self) -> usize {
        let mut outbox = self.outbox.lock();
        outbox.is_queued = false;
        std::mem::take(&mut outbox.waiting).len()
    }

    /// The present knowledge.
    pub(super) fn state(&self) -> Result<Arc<SegmentState>> {
        self.state.load_full().ok_or_else(closed_handle)
    }

    /// Calls `body` with the present knowledge, without counting references.
    pub(super) fn with_state<T>(&self, body: impl FnOnce(&SegmentState) -> T) -> Result<T> {
        if let Some(state) = &self.fixed {
            return Ok(body(state));
        }
        match self.state.load().as_ref() {
            Some(state) => Ok(body(state)),
            None => Err(closed_handle()),
        }
    }

    /// Replaces the knowledge and returns the former one.
    pub(super) fn replace(&self, state: Option<SegmentState>) -> Option<Arc<SegmentState>> {
        self.state.swap(state.map(Arc::new))
    }

    /// Replaces the knowledge if it is still `known`; else the segment was closed meanwhile.
    pub(super) fn advance(&self, known: &Arc<SegmentState>, state: SegmentState) -> bool {
        let state = Some(Arc::new(state));
        let before = self.state.compare_and_swap(known, state);
        before.as_ref().is_some_and(|before| Arc::ptr_eq(before, known))
    }

    /// Puts a slice aside; true if the caller must queue a repair.
    pub(super) fn park(&self, parked: Parked) -> bool {
        let mut garage = self.garage.lock();
        garage.waiting.push(parked);
        !std::mem::replace(&mut garage.is_queued, true)
    }

    /// The next slices to repair; `None` ends the repair, and the next slice queues another.
    pub(super) fn next_repair(&self) -> Option<Vec<Parked>> {
        let mut garage = self.garage.lock();
        if garage.waiting.is_empty() {
            garage.is_queued = false;
            return None;
        }
        Some(std::mem::take(&mut garage.waiting))
    }

    /// Leaves slices here while the repair blocks, so that their time and their owner's wish hold.
    pub(super) fn leave(&self, parked: Vec<Parked>) {
        self.garage.lock().held.extend(parked);
    }

    /// Takes back what [`Segment::leave`] left and nobody ended meanwhile.
    pub(super) fn take_back(&self) -> Vec<Parked> {
        std::mem::take(&mut self.garage.lock().held)
    }

    /// Takes everything that is parked; no repair is under way any more.
    pub(super) fn empty(&self) -> Vec<Parked> {
        let mut garage = self.garage.lock();
        garage.is_queued = false;
        let mut all = std::mem::take(&mut garage.waiting);
        all.append(&mut garage.held);
        all
    }

    /// Takes the parked slices that `belongs` chooses.
    pub(super) fn unpark(&self, belongs: impl Fn(&Slice) -> bool) -> Vec<Parked> {
        let mut garage = self.garage.lock();
        let Garage { waiting, held, .. } = &mut *garage;
        let mut chosen = Vec::new();
        for list in [waiting, held] {
            let (own, others): (Vec<_>, Vec<_>) =
                std::mem::take(list).into_iter().partition(|parked| belongs(&parked.slice));
            *list = others;
            chosen.extend(own);
        }
        chosen
    }

    /// The first deadline of what is parked.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let garage = self.garage.lock();
        garage.waiting.iter().chain(&garage.held).map(|parked| parked.slice.deadline).min()
    }
}

fn closed_handle() -> Error {
    Error::new(ErrorKind::InvalidHandle, "the segment handle is closed or was never given out")
}

struct Slot {
    generation: u32,
    segment: Option<Arc<Segment>>,
    opens: u32,
}

#[derive(Default)]
struct Inner {
    slots: Vec<Slot>,
    by_name: HashMap<String, SegmentId>,
    free: Vec<u32>,
}

impl Inner {
    fn open_again(&mut self, name: &str, count: bool) -> Option<Arc<Segment>> {
        let slot = self.slots.get_mut(self.by_name.get(name)?.index())?;
        if count {
            slot.opens = slot.opens.saturating_add(1);
        }
        slot.segment.clone()
    }
}

/// All open segments of an engine.
#[derive(Default)]
pub(super) struct SegmentTable {
    inner: RwLock<Inner>,
}

impl SegmentTable {
    /// The segment behind a handle.
    pub(super) fn get(&self, id: SegmentId) -> Result<Arc<Segment>> {
        let inner = self.inner.read();
        match inner.slots.get(id.index()) {
            Some(Slot { generation, segment: Some(segment), .. })
                if *generation == id.generation() =>
            {
                Ok(Arc::clone(segment))
            }
            _ => Err(closed_handle().with("handle", id.0)),
        }
    }

    /// The segment with that name, counted as opened once more if `count`.
    pub(super) fn find(&self, name: &str, count: bool) -> Option<Arc<Segment>> {
        self.inner.write().open_again(name, count)
    }

    /// Adds a segment; if another thread added the name first, that one is opened instead.
    pub(super) fn insert(&self, name: &str, state: SegmentState) -> Result<Arc<Segment>> {
        let mut inner = self.inner.write();
        if let Some(segment) = inner.open_again(name, true) {
            return Ok(segment);
        }
        if inner.by_name.len() >= limits::SEGMENTS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, "too many open segments")
                .with("limit", limits::SEGMENTS_MAX));
        }
        let index = match inner.free.pop() {
            Some(index) => index,
            None => {
                inner.slots.push(Slot { generation: 0, segment: None, opens: 0 });
                (inner.slots.len() - 1) as u32
            }
        };
        let slot = &mut inner.slots[index as usize];
        let id = SegmentId(u64::from(slot.generation) << 32 | u64::from(index));
        let segment = Arc::new(Segment::new(id, name, state));
        slot.segment = Some(Arc::clone(&segment));
        slot.opens = 1;
        inner.by_name.insert(name.to_owned(), id);
        Ok(segment)
    }

    /// Takes back one opening; returns the segment when it was the last one.
    pub(super) fn close(&self, id: SegmentId) -> Result<Option<Arc<Segment>>> {
        let mut inner = self.inner.write();
        let index = id.index();
        let slot = inner.slots.get_mut(index).filter(|slot| slot.generation == id.generation());
        let Some((slot, segment)) = slot.and_then(|slot| {
            let segment = slot.segment.clone()?;
            Some((slot, segment))
        }) else {
            return Err(closed_handle().with("handle", id.0));
        };
        if slot.opens > 1 || index == 0 {
            slot.opens = slot.opens.saturating_sub(1).max(1);
            return Ok(None);
        }
        slot.segment = None;
        slot.opens = 0;
        segment.is_closed.store(true, Ordering::Release);
        // A slot whose generations are used up stays empty for ever.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            inner.free.push(index as u32);
        }
        inner.by_name.remove(&segment.name);
        Ok(Some(segment))
    }

    /// Every open segment.
    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.inner.read().slots.iter().filter_map(|slot| slot.segment.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::loopback::local_route;

    struct NoRecovery;
    impl crate::transport::Recovery for NoRecovery {
        fn recover(&self, slice: Slice, error: Error, _: Scope) {
            slice.fail(error);
        }
    }

    fn state() -> SegmentState {
        let table = Arc::new(super::super::registry::Registry::default());
        SegmentState::local(local_route(table, Arc::new(NoRecovery)))
    }

    #[test]
    fn a_closed_handle_stays_closed_when_its_place_is_used_again() {
        let table = SegmentTable::default();
        table.insert("own", state()).unwrap();
        let first = table.insert("peer", state()).unwrap().id;
        assert_eq!(table.insert("peer", state()).unwrap().id, first);
        assert!(table.close(first).unwrap().is_none());
        assert!(!table.get(first).unwrap().is_closed());
        assert!(table.close(first).unwrap().unwrap().is_closed());
        assert!(table.close(first).is_err());
        let second = table.insert("other", state()).unwrap().id;
        assert_eq!(second.index(), first.index());
        assert_ne!(second, first);
        assert!(table.get(first).is_err());
        assert!(table.close(first).is_err());
        assert_eq!(table.get(second).unwrap().name, "other");
    }

    #[test]
    fn a_segment_is_passed_over_for_a_time() {
        let table = SegmentTable::default();
        table.insert("own", state()).unwrap();
        let segment = table.insert("peer", state()).unwrap();
        let now = Instant::now();
        let later = now + limits::SYNC_PAUSE;
        assert!(!segment.is_passed_over(now));
        segment.pass_over(Some(later));
        assert!(segment.is_passed_over(now));
        assert!(!segment.is_passed_over(later));
        segment.pass_over(None);
        assert!(!segment.is_passed_over(now));
    }

    #[test]
    fn threads_that_open_one_name_share_one_segment() {
        let table = SegmentTable::default();
        table.insert("own", state()).unwrap();
        for round in 0..200 {
            let name = format!("peer-{round}");
            let ids: Vec<_> = std::thread::scope(|scope| {
                let open = || scope.spawn(|| table.insert(&name, state()).unwrap().id);
                let threads: Vec<_> = (0..4).map(|_| open()).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}
