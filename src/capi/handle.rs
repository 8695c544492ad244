//! Handles: how C names objects of this library, and why no value of a handle is dangerous.
//!
//! A handle looks like a pointer in C, but it is never dereferenced. It is a word with the kind of
//! object, the index of a slot in that kind's table, and the generation of that slot. Using a
//! handle means: take the index, find the slot, compare the generation. So a NULL, foreign,
//! destroyed or invented handle, also one whose slot serves another object by now, is a status and
//! touches no memory but the table's own, which is never given back. Bit 63 is set, which no
//! address of a user process has, so C code that wrongly looks inside a handle faults at once.
//!
//! One atomic word per slot decides every race: generation, phase and the number of calls that are
//! inside the object ("pins"). A call pins, destroy closes; whoever removes the last pin of a
//! closed slot drops the object. All of it is lock-free, therefore also sound in a forked child,
//! where locks of the parent's threads would stay locked for ever.

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::fork;
use crate::error::{Error, ErrorKind, Result};

// The handle word: 1 | kind (5) | generation (36) | index (22).
const INDEX_BITS: u32 = 22;
const GENERATION_BITS: u32 = 36;
const KIND_SHIFT: u32 = INDEX_BITS + GENERATION_BITS;
const KIND_BITS: u32 = 5;
/// The bit every handle has.
pub(crate) const HANDLE_MARK: u64 = 1 << 63;
const _: () = assert!(KIND_SHIFT + KIND_BITS == 63);

// The slot's state word: generation (36) | poisoned (1) | phase (2) | pins (25).
const PIN: u64 = 1;
const PINS_MASK: u64 = (1 << 25) - 1;
const PHASE_LIVE: u64 = 1 << 25;
const PHASE_CLOSED: u64 = 2 << 25;
const PHASE_MASK: u64 = 3 << 25;
const POISONED: u64 = 1 << 27;
const GENERATION_SHIFT: u32 = 28;
const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;
const _: () = assert!(GENERATION_SHIFT + GENERATION_BITS == 64);

/// Slots of the first chunk; each further chunk is twice the one before, and none ever moves.
const FIRST_CHUNK_SLOTS: usize = 64;
const CHUNKS: usize = 16;
const SLOTS_MAX: usize = FIRST_CHUNK_SLOTS * ((1 << CHUNKS) - 1);
const _: () = assert!(SLOTS_MAX <= 1 << INDEX_BITS);
const _: () = assert!(SLOTS_MAX >= crate::limits::BATCHES_MAX);

/// Kinds of handles. The numbers are not part of the ABI; they must only differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Engine = 1,
    Batch = 2,
    Notifications = 3,
    UpstreamEngine = 4,
    UpstreamBatch = 5,
    Store = 6,
    StoreBuffer = 7,
    UpstreamStore = 8,
}

/// A type C holds handles of. One type has one table, so a handle cannot name another type's slot.
pub(crate) trait Noun: Sized + Send + Sync + 'static {
    /// The opaque C type, for example `mc_engine_t`.
    type Opaque;
    /// The word used in messages, for example "engine".
    const WORD: &'static str;
    /// The table of this type.
    fn table() -> &'static Table<Self>;
}

/// Whole cache lines, so that two handles used by two threads do not slow each other down.
#[repr(align(64))]
struct Slot<T> {
    state: AtomicU64,
    /// The process that created the object; written before the slot goes live.
    epoch: AtomicU64,
    /// Next slot of the free list, as index + 1; 0 ends it.
    next_free: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

/// All handles of one type.
pub(crate) struct Table<T: 'static> {
    kind: Kind,
    chunks: [AtomicPtr<Slot<T>>; CHUNKS],
    /// Slots ever used; those below are initialised.
    used: AtomicU32,
    /// Head of the free list: counter (32) | index + 1 (32). The counter makes every change of
    /// the head visible to a thread that read it before.
    free: AtomicU64,
}

// SAFETY: a value is created, shared between pinned threads and dropped by any of them; `Noun`
// demands Send and Sync of it. Everything else in the table is atomic.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

/// The right to use one object: it is not dropped while a pin exists.
pub(crate) struct Pin<T: Noun> {
    slot: &'static Slot<T>,
    index: u32,
    /// Set while a call runs inside the object; still set at drop means the call panicked.
    inside: bool,
}

impl<T: Noun> Table<T> {
    pub(crate) const fn new(kind: Kind) -> Self {
        Table {
            kind,
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            used: AtomicU32::new(0),
            free: AtomicU64::new(0),
        }
    }

    /// Puts `value` behind a new handle.
    pub(crate) fn insert(&self, value: T) -> Result<*mut T::Opaque> {
        let index = match self.pop_free() {
            Some(index) => index,
            None => self.first_unused()?,
        };
        let Some(slot) = self.slot(index) else {
            return Err(Error::new(ErrorKind::Internal, "a slot of the handle table is missing"));
        };
        slot.epoch.store(fork::epoch(), Ordering::Relaxed);
        // SAFETY: the slot was taken off the free list or is new, so it is in phase "free" and
        // this thread alone may touch its value until the phase changes below.
        unsafe { *slot.value.get() = Some(value) };
        // Adding keeps pins that callers with stale handles hold for a moment.
        let step = (1 << GENERATION_SHIFT) + PHASE_LIVE;
        let generation = (slot.state.fetch_add(step, Ordering::Release) >> GENERATION_SHIFT) + 1;
        Ok(ptr::without_provenance_mut(self.word(index, generation) as usize))
    }

    /// Pins the object behind `handle` for a call.
    #[inline]
    pub(crate) fn pin(&self, handle: *const T::Opaque) -> Result<Pin<T>> {
        let pin = self.pin_any(handle)?;
        if pin.slot.state.load(Ordering::Relaxed) & POISONED != 0 {
            return Err(poisoned::<T>());
        }
        Ok(pin)
    }

    /// Ends the life of `handle` and returns the last right to use its object. Exactly one caller
    /// gets it; the object is dropped when this pin and those of running calls are gone.
    pub(crate) fn close(&self, handle: *const T::Opaque) -> Result<Pin<T>> {
        let pin = self.pin_any(handle)?;
        let closed = pin.slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & PHASE_MASK == PHASE_LIVE).then_some(state ^ (PHASE_LIVE | PHASE_CLOSED))
        });
        // The pin holds the generation in place, so the phase is all that can have changed.
        closed.map(|_| pin).map_err(|_| destroyed::<T>())
    }

    /// As [`Table::pin`], also for a poisoned object: it must still be possible to destroy it.
    #[inline]
    fn pin_any(&self, handle: *const T::Opaque) -> Result<Pin<T>> {
        let word = handle.addr() as u64;
        let index = (word & ((1 << INDEX_BITS) - 1)) as u32;
        let generation = (word >> INDEX_BITS) & GENERATION_MAX;
        if word != self.word(index, generation) {
            return Err(self.not_ours(word));
        }
        let Some(slot) = self.slot(index) else { return Err(unknown::<T>()) };
        // A look first: a stale handle must not write into a slot that serves somebody else.
        if !is_live(slot.state.load(Ordering::Acquire), generation) {
            return Err(destroyed::<T>());
        }
        if slot.epoch.load(Ordering::Relaxed) != fork::epoch() {
            return Err(forked::<T>());
        }
        let state = slot.state.fetch_add(PIN, Ordering::Acquire);
        let pin = Pin { slot, index, inside: false };
        if is_live(state, generation) {
            Ok(pin)
        } else {
            Err(destroyed::<T>())
        }
    }

    fn word(&self, index: u32, generation: u64) -> u64 {
        HANDLE_MARK | (self.kind as u64) << KIND_SHIFT | generation << INDEX_BITS | u64::from(index)
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&'static Slot<T>> {
        let (chunk, offset) = place(index);
        let slots = self.chunks.get(chunk)?.load(Ordering::Acquire);
        if slots.is_null() {
            return None;
        }
        // SAFETY: `place` keeps offset below the slots of its chunk.
        let slot = unsafe { slots.add(offset) };
        // SAFETY: a published chunk is initialised and never freed.
        Some(unsafe { &*slot })
    }

    /// Takes the next slot nobody used yet, allocating its chunk if it is the first of it.
    fn first_unused(&self) -> Result<u32> {
        let index = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                ((used as usize) < SLOTS_MAX).then_some(used + 1)
            })
            .map_err(|_| {
                Error::new(ErrorKind::LimitReached, format!("too many {} handles", T::WORD))
            })?;
        let (chunk, _) = place(index);
        if self.chunks[chunk].load(Ordering::Acquire).is_null() {
            self.add_chunk(chunk);
        }
        Ok(index)
    }

    fn add_chunk(&self, chunk: usize) {
        let slots: Box<[Slot<T>]> =
            (0..FIRST_CHUNK_SLOTS << chunk).map(|_| Slot::default()).collect();
        let fresh = Box::into_raw(slots);
        let won = self.chunks[chunk].compare_exchange(
            ptr::null_mut(),
            fresh.cast(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if won.is_err() {
            // SAFETY: another thread published its chunk; this one is still ours alone.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }

    fn pop_free(&self) -> Option<u32> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let index = (head as u32).checked_sub(1)?;
            let next = self.slot(index)?.next_free.load(Ordering::Relaxed);
            let fresh = next_head(head, next);
            match self.free.compare_exchange_weak(head, fresh, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(index),
                Err(seen) => head = seen,
            }
        }
    }

    fn push_free(&self, index: u32, slot: &Slot<T>) {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            slot.next_free.store(head as u32, Ordering::Relaxed);
            let fresh = next_head(head, index + 1);
            match self.free.compare_exchange_weak(head, fresh, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    #[cold]
    fn not_ours(&self, word: u64) -> Error {
        if word == 0 {
            return Error::new(ErrorKind::InvalidHandle, format!("the {} handle is NULL", T::WORD));
        }
        unknown::<T>()
    }

    /// Handles that are not destroyed yet; for tests of leaks.
    #[cfg(test)]
    fn live(&self) -> usize {
        (0..self.used.load(Ordering::Relaxed))
            .filter_map(|index| self.slot(index))
            .filter(|slot| slot.state.load(Ordering::Relaxed) & PHASE_MASK == PHASE_LIVE)
            .count()
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot {
            state: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            next_free: AtomicU32::new(0),
            value: UnsafeCell::new(None),
        }
    }
}

impl<T: Noun> Pin<T> {
    /// Runs one call inside the object. If it panics, the object is poisoned: later calls are
    /// refused, because nobody knows in which state the panic left it.
    #[inline]
    pub(crate) fn run<R>(mut self, call: impl FnOnce(&T) -> R) -> R {
        self.inside = true;
        let answer = call(&self);
        self.inside = false;
        answer
    }

    /// Waits until no other call is inside the object; false when `longest` has passed.
    pub(crate) fn wait_alone(&self, longest: Duration) -> bool {
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        while self.slot.state.load(Ordering::Acquire) & PINS_MASK > 1 {
            if start.elapsed() >= longest {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        true
    }
}

impl<T: Noun> Deref for Pin<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: a pinned slot is live or closed, and in both phases the value is set and nobody
        // writes it; it is taken out only after the last pin is gone.
        let value = unsafe { &*self.slot.value.get() };
        match value {
            Some(value) => value,
            None => unreachable!("a pinned slot has its value"),
        }
    }
}

impl<T: Noun> Drop for Pin<T> {
    #[inline]
    fn drop(&mut self) {
        if self.inside {
            self.slot.state.fetch_or(POISONED, Ordering::Relaxed);
        }
        let left = self.slot.state.fetch_sub(PIN, Ordering::AcqRel) - PIN;
        if left & PHASE_MASK == PHASE_CLOSED && left & PINS_MASK == 0 {
            retire(self.slot, self.index, left);
        }
    }
}

/// Drops the object of a closed slot nobody is inside of, and gives the slot back.
#[cold]
fn retire<T: Noun>(slot: &Slot<T>, index: u32, state: u64) {
    let empty = state & !(PHASE_MASK | POISONED);
    let won = slot.state.compare_exchange(state, empty, Ordering::AcqRel, Ordering::Relaxed);
    if won.is_err() {
        return; // A stale handle looked in between; it retires the slot when it leaves.
    }
    // SAFETY: the exchange from "closed, no pins" to "free" succeeds once per generation; the slot
    // is not on the free list yet, so nobody else touches the value.
    let value = unsafe { (*slot.value.get()).take() };
    drop(value);
    // A slot that has used up its generations is never used again: no handle is ever repeated.
    if state >> GENERATION_SHIFT < GENERATION_MAX {
        T::table().push_free(index, slot);
    }
}

#[inline]
fn is_live(state: u64, generation: u64) -> bool {
    state >> GENERATION_SHIFT == generation && state & PHASE_MASK == PHASE_LIVE
}

fn next_head(head: u64, index_plus_one: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(index_plus_one)
}

/// Chunk and offset of a slot.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let chunk = (index as usize / FIRST_CHUNK_SLOTS + 1).ilog2() as usize;
    (chunk, index as usize - FIRST_CHUNK_SLOTS * ((1 << chunk) - 1))
}

#[cold]
fn unknown<T: Noun>() -> Error {
    Error::new(ErrorKind::InvalidHandle, format!("this is not a handle of a(n) {}", T::WORD))
}

#[cold]
fn destroyed<T: Noun>() -> Error {
    Error::new(ErrorKind::InvalidHandle, format!("the {} was destroyed before", T::WORD))
}

#[cold]
fn forked<T: Noun>() -> Error {
    Error::new(ErrorKind::Forked, format!("the {} belongs to the parent process", T::WORD))
        .with("pid", std::process::id())
}

#[cold]
fn poisoned<T: Noun>() -> Error {
    Error::new(
        ErrorKind::Panic,
        format!("an earlier call left the {} in an unknown state; destroy it", T::WORD),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::AtomicUsize;
    use std::sync::Arc;

    use super::*;

    /// Counts its drops.
    struct Thing(u64, Arc<AtomicUsize>);
    struct mc_thing_t;

    static THINGS: Table<Thing> = Table::new(Kind::Batch);

    impl Noun for Thing {
        type Opaque = mc_thing_t;
        const WORD: &'static str = "thing";
        fn table() -> &'static Table<Self> {
            &THINGS
        }
    }

    impl Drop for Thing {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn kind_of<T>(result: Result<T>) -> ErrorKind {
        match result {
            Ok(_) => panic!("expected an error"),
            Err(error) => error.kind(),
        }
    }

    fn invented(word: u64) -> *const mc_thing_t {
        ptr::without_provenance(word as usize)
    }

    #[test]
    fn place_walks_the_chunks_without_gap() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(63), (0, 63));
        assert_eq!(place(64), (1, 0));
        assert_eq!(place(191), (1, 127));
        assert_eq!(place(192), (2, 0));
        let (chunk, offset) = place(SLOTS_MAX as u32 - 1);
        assert_eq!((chunk, offset), (CHUNKS - 1, (FIRST_CHUNK_SLOTS << (CHUNKS - 1)) - 1));
    }

    #[test]
    fn life_of_a_handle() {
        let drops = Arc::new(AtomicUsize::new(0));
        let handle = THINGS.insert(Thing(7, drops.clone())).unwrap();
        assert_eq!(THINGS.pin(handle).unwrap().run(|thing| thing.0), 7);

        let inside = THINGS.pin(handle).unwrap();
        let closed = THINGS.close(handle).unwrap();
        assert_eq!(kind_of(THINGS.close(handle)), ErrorKind::InvalidHandle);
        assert_eq!(kind_of(THINGS.pin(handle)), ErrorKind::InvalidHandle);
        assert!(!closed.wait_alone(Duration::from_millis(5)));
        drop(closed);
        assert_eq!(drops.load(Ordering::Relaxed), 0, "a call is still inside");
        assert_eq!(inside.0, 7);
        drop(inside);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        assert_eq!(kind_of(THINGS.pin(handle)), ErrorKind::InvalidHandle);
    }

    #[test]
    fn no_word_is_dangerous() {
        let drops = Arc::new(AtomicUsize::new(0));
        let handle = THINGS.insert(Thing(1, drops)).unwrap();
        let word = handle.addr() as u64;
        let local = 5u64;
        for wrong in [
            0,
            1,
            u64::MAX,
            &local as *const u64 as u64,
            word ^ HANDLE_MARK,
            word ^ (1 << KIND_SHIFT),
            word ^ (1 << INDEX_BITS),
            word ^ (1 << (INDEX_BITS - 1)),
            word | ((1 << INDEX_BITS) - 1),
        ] {
            assert_eq!(kind_of(THINGS.pin(invented(wrong))), ErrorKind::InvalidHandle, "{wrong:x}");
        }
        THINGS.close(handle).unwrap();
    }

    #[test]
    fn a_reused_slot_does_not_answer_to_its_old_handles() {
        let drops = Arc::new(AtomicUsize::new(0));
        let mut seen = HashSet::new();
        for round in 0..1000 {
            let handle = THINGS.insert(Thing(round, drops.clone())).unwrap();
            assert!(seen.insert(handle.addr()), "a handle came twice");
            drop(THINGS.close(handle).unwrap());
            assert!(THINGS.pin(handle).is_err());
        }
        assert_eq!(drops.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn a_panic_inside_poisons_and_destroy_still_works() {
        let drops = Arc::new(AtomicUsize::new(0));
        let handle = THINGS.insert(Thing(1, drops.clone())).unwrap();
        let word = handle.addr();
        let caught = std::panic::catch_unwind(|| {
            let handle: *const mc_thing_t = ptr::without_provenance(word);
            THINGS.pin(handle).unwrap().run(|_| panic!("on purpose"))
        });
        assert!(caught.is_err());
        assert_eq!(kind_of(THINGS.pin(handle)), ErrorKind::Panic);
        drop(THINGS.close(handle).unwrap());
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_handle_of_another_process_is_refused() {
        let drops = Arc::new(AtomicUsize::new(0));
        let handle = THINGS.insert(Thing(1, drops)).unwrap();
        let (index, _) = (handle.addr() & ((1 << INDEX_BITS) - 1), ());
        let slot = THINGS.slot(index as u32).unwrap();
        let epoch = slot.epoch.swap(u64::MAX, Ordering::Relaxed);
        assert_eq!(kind_of(THINGS.pin(handle)), ErrorKind::Forked);
        assert_eq!(kind_of(THINGS.close(handle)), ErrorKind::Forked);
        slot.epoch.store(epoch, Ordering::Relaxed);
        drop(THINGS.close(handle).unwrap());
    }

    #[test]
    fn races_of_use_and_destroy_end_in_one_drop_each() {
        let rounds: usize = if cfg!(miri) { 20 } else { 3000 };
        let drops = Arc::new(AtomicUsize::new(0));
        let closes = AtomicUsize::new(0);
        for round in 0..rounds {
            let handle = THINGS.insert(Thing(round as u64, drops.clone())).unwrap().addr();
            std::thread::scope(|scope| {
                for closer in [false, true, true] {
                    let closes = &closes;
                    scope.spawn(move || {
                        let handle: *const mc_thing_t = ptr::without_provenance(handle);
                        for _ in 0..4 {
                            if let Ok(pin) = THINGS.pin(handle) {
                                assert_eq!(pin.run(|thing| thing.0), round as u64);
                            }
                        }
                        if closer && THINGS.close(handle).is_ok() {
                            closes.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
        }
        assert_eq!(closes.load(Ordering::Relaxed), rounds);
        assert_eq!(drops.load(Ordering::Relaxed), rounds);
    }

    #[test]
    fn many_handles_at_once() {
        let drops = Arc::new(AtomicUsize::new(0));
        let count = if cfg!(miri) { 200 } else { 5000 };
        let handles: Vec<_> =
            (0..count).map(|i| THINGS.insert(Thing(i, drops.clone())).unwrap()).collect();
        assert!(THINGS.live() >= handles.len());
        for (i, &handle) in handles.iter().enumerate() {
            assert_eq!(THINGS.pin(handle).unwrap().0, i as u64);
        }
        for handle in handles {
            drop(THINGS.close(handle).unwrap());
        }
        assert_eq!(drops.load(Ordering::Relaxed) as u64, count);
    }
}
