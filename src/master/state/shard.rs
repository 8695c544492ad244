//! One shard of the index: objects, found by key, and filed by last use for each segment.
//!
//! An object of one copy costs 96 bytes here, its key once, and about 15 bytes of hash table. The
//! whole shard is behind one lock, which is held for a few hundred nanoseconds per key; those who
//! look share it.
//!
//! In a large index nearly every access misses the caches. So a batch asks for what all of its keys
//! need, step by step ([`Shard::approach`]), before it looks at the first; and a use touches
//! nothing but the object itself ([`crate::pool::eviction`]).

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::Arc;

use smallvec::SmallVec;

use super::groups::Group;
use super::index::Index;
use crate::memory::prefetch;
use crate::pool::eviction::{Age, Ages, Calendar, Link, Links, NIL};
use crate::pool::lease::{LastUse, Micros, Pin};
use crate::pool::slab::Slab;

/// One copy of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copy {
    /// The segment's slot.
    pub(super) segment: u32,
    /// Its range there.
    pub(super) piece: u32,
    /// Where the range begins, in granules.
    pub(super) granule: u32,
    /// Neighbours in the segment's list of this shard.
    pub(super) link: Link,
    /// The age under which it is filed there.
    pub(super) age: Age,
}

/// In place of a segment's slot: the copy is the object's file of the disk tier. Its piece says
/// whether it is written.
pub(super) const FILES: u32 = u32::MAX;
/// The piece of a file that is written.
pub(super) const WRITTEN: u32 = 1;

/// List of objects that are evicted in their turn.
pub(super) const PLAIN: u8 = 0;
/// List of objects that are evicted last.
pub(super) const SOFT: u8 = 1;
/// List of objects that are not evicted: unfinished or pinned hard.
pub(super) const KEPT: u8 = 2;

/// What few objects have, boxed so that the others do not pay for it.
#[derive(Debug)]
pub(super) struct Extra {
    /// Lengths of the slices; empty where there is one.
    slices: Vec<u64>,
    group: Option<Arc<Group>>,
}

impl Extra {
    pub(super) fn of(mut slices: Vec<u64>, group: Option<Arc<Group>>) -> Option<Box<Extra>> {
        if slices.len() <= 1 {
            slices = Vec::new();
        }
        (!slices.is_empty() || group.is_some()).then(|| Box::new(Extra { slices, group }))
    }
}

#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) key: Box<[u8]>,
    /// Which put; 0 in a vacant slot.
    pub(super) generation: u64,
    /// Last use, or the start of an unfinished put. Readers stamp it, who share the lock.
    pub(super) at: AtomicU64,
    pub(super) pin_until: AtomicU64,
    pub(super) size: u64,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) copies: SmallVec<[Copy; 1]>,
    /// Serial of the client that puts or put it; 0 for anonymous.
    pub(super) owner: u32,
    pub(super) pin: u8,
    pub(super) granted: AtomicBool,
    pub(super) complete: bool,
    pub(super) list: u8,
}

impl Object {
    pub(super) fn last_use(&self) -> LastUse {
        LastUse { at: self.at.load(Relaxed), granted: self.granted.load(Relaxed) }
    }

    /// When it counts as used last: a use of one member of a group is one of all.
    pub(super) fn used_at(&self) -> Micros {
        let at = self.at.load(Relaxed);
        self.group().map_or(at, |group| group.used_at().max(at))
    }

    pub(super) fn set_last_use(&mut self, last: LastUse) {
        *self.at.get_mut() = last.at;
        *self.granted.get_mut() = last.granted;
    }

    pub(super) fn pin(&self) -> Pin {
        match self.pin {
            0 => Pin::None,
            1 => Pin::SoftExtended(self.pin_until.load(Relaxed)),
            2 => Pin::SoftFixed(self.pin_until.load(Relaxed)),
            _ => Pin::Hard,
        }
    }

    pub(super) fn set_pin(&mut self, pin: Pin) {
        let (kind, until) = match pin {
            Pin::None => (0, 0),
            Pin::SoftExtended(until) => (1, until),
            Pin::SoftFixed(until) => (2, until),
            Pin::Hard => (3, 0),
        };
        self.pin = kind;
        *self.pin_until.get_mut() = until;
    }

    /// A reader is told where the object is. Several may be at a time, and what one has given no
    /// other takes back. The object stays where it is filed; see [`crate::pool::eviction`].
    pub(super) fn grant(&self, now: Micros, soft_ttl: Micros) {
        let before = self.last_use();
        let mut last = before;
        last.grant(now);
        if last.at > before.at {
            self.at.fetch_max(last.at, Relaxed);
        }
        if !before.granted {
            self.granted.store(true, Relaxed);
        }
        let mut pin = self.pin();
        pin.grant(now, soft_ttl);
        if let Pin::SoftExtended(until) = pin {
            self.pin_until.fetch_max(until, Relaxed);
        }
        if let Some(group) = self.group() {
            group.grant(now);
        }
    }

    /// In which list it belongs.
    fn right_list(&self, now: Micros) -> u8 {
        if !self.complete || self.pin() == Pin::Hard {
            KEPT
        } else if self.pin().is_soft(now) {
            SOFT
        } else {
            PLAIN
        }
    }

    pub(super) fn slices(&self) -> &[u64] {
        match &self.extra {
            Some(extra) if !extra.slices.is_empty() => &extra.slices,
            _ => std::slice::from_ref(&self.size),
        }
    }

    /// The group that it belongs to.
    pub(super) fn group(&self) -> Option<&Arc<Group>> {
        self.extra.as_ref()?.group.as_ref()
    }

    /// Whether the object has a file, and whether that is written.
    pub(super) fn file(&self) -> Option<bool> {
        self.copy_in(FILES).map(|copy| copy.piece == WRITTEN)
    }

    /// Nothing is left of it that could be read, now or later.
    pub(super) fn is_void(&self) -> bool {
        let has_memory = self.copies.iter().any(|copy| copy.segment != FILES);
        let has_file = self.complete && self.file() == Some(true);
        !has_memory && !has_file
    }

    pub(super) fn copy_in(&self, segment: u32) -> Option<&Copy> {
        self.copies.iter().find(|copy| copy.segment == segment)
    }

    /// Asked for with a soft pin, whether or not it is over; what upstream's gauge counts.
    pub(super) fn asked_soft(&self) -> bool {
        matches!(self.pin, 1 | 2)
    }
}

/// The links of one segment's lists.
struct InSegment<'a> {
    objects: &'a mut Slab<Object>,
    segment: u32,
    /// For a link that is not there; never read as one that is.
    spare: Link,
}

impl Links for InSegment<'_> {
    fn link(&mut self, object: u32) -> &mut Link {
        let copies = &mut self.objects.get_mut(object).copies;
        match copies.iter_mut().find(|copy| copy.segment == self.segment) {
            Some(copy) => &mut copy.link,
            None => {
                debug_assert!(false, "in the list of a segment without a copy there");
                &mut self.spare
            }
        }
    }
}

/// A put that had begun at that time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) at: Micros,
    pub(super) slot: u32,
    pub(super) generation: u64,
}

/// Steps towards an object, each of which depends on the one before.
#[derive(Clone, Copy, Debug)]
pub(super) enum Approach {
    /// Its entry in the hash table.
    Entry,
    /// The object.
    Object,
    /// Its key.
    Key,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) number: u32,
    index: Index,
    pub(super) objects: Slab<Object>,
    lists: Vec<[Ages; 3]>,
    /// The same for files.
    files: [Ages; 3],
    calendar: Calendar,
    /// Puts in the order of their starts; finished ones leave when they come to the front.
    pub(super) starts: VecDeque<Start>,
    pub(super) rng: fastrand::Rng,
    /// Objects that asked for a soft pin.
    pub(super) soft: usize,
    slots_max: u32,
}

impl Shard {
    pub(super) fn new(number: u32, seed: u64, slots_max: u32, calendar: Calendar) -> Shard {
        Shard {
            number,
            index: Index::default(),
            objects: Slab::default(),
            lists: Vec::new(),
            files: Default::default(),
            calendar,
            starts: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
            soft: 0,
            slots_max,
        }
    }

    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |slot| *self.objects.get(slot).key == *key)
    }

    /// Asks for the memory that the use of an object needs; what the step before has asked for
    /// should have arrived.
    pub(super) fn approach(&self, hash: u64, step: Approach) {
        match step {
            Approach::Entry => self.index.approach(hash),
            Approach::Object => {
                if let Some(slot) = self.index.find(hash, |_| true) {
                    prefetch(self.objects.get(slot));
                }
            }
            Approach::Key => {
                if let Some(slot) = self.index.find(hash, |_| true) {
                    prefetch(&*self.objects.get(slot).key);
                }
            }
        }
    }

    /// The object of a slot if it still is that generation.
    pub(super) fn alive(&self, slot: u32, generation: u64) -> Option<&Object> {
        let object = self.objects.try_get(slot)?;
        (generation != 0 && object.generation == generation).then_some(object)
    }

    /// Takes a slot for an object that is not in the index yet; `None` when the shard is full.
    pub(super) fn vacant(&mut self) -> Option<u32> {
        self.objects.insert(Object::default(), self.slots_max)
    }

    /// Puts an object with its copies into a slot, the index and the lists.
    pub(super) fn insert(&mut self, slot: u32, hash: u64, object: Object, now: Micros) {
        let unfinished = !object.complete;
        let (at, generation) = (object.last_use().at, object.generation);
        let start = Start { at, slot, generation };
        self.soft += usize::from(object.asked_soft());
        *self.objects.get_mut(slot) = object;
        self.enlist(slot, now);
        self.index.insert(hash, slot);
        if unfinished {
            self.starts.push_back(start);
        }
    }

    /// Takes an object out of everything; its ranges are the caller's affair.
    pub(super) fn remove(&mut self, slot: u32, hash: u64) -> Object {
        self.delist(slot);
        self.index.remove(hash, slot);
        let object = self.objects.remove(slot);
        self.soft -= usize::from(object.asked_soft());
        object
    }

    /// Gives a slot back that was taken by [`Shard::vacant`] and not used.
    pub(super) fn forget(&mut self, slot: u32) {
        self.objects.remove(slot);
    }

    fn enlist(&mut self, slot: u32, now: Micros) {
        let object = self.objects.get_mut(slot);
        object.list = object.right_list(now);
        let segments: SmallVec<[u32; 4]> = object.copies.iter().map(|c| c.segment).collect();
        for segment in segments {
            self.push(slot, segment);
        }
    }

    /// Files one copy in the list of its object, under the age of the last use.
    fn push(&mut self, slot: u32, segment: u32) {
        if segment != FILES && self.lists.len() <= segment as usize {
            self.lists.resize_with(segment as usize + 1, Default::default);
        }
        let object = self.objects.get_mut(slot);
        let (list, age) = (object.list as usize, self.calendar.age(object.used_at()));
        if let Some(copy) = object.copies.iter_mut().find(|copy| copy.segment == segment) {
            copy.age = age;
        }
        let ages = match segment {
            FILES => &mut self.files[list],
            _ => &mut self.lists[segment as usize][list],
        };
        let spare = Link::default();
        ages.push(&mut InSegment { objects: &mut self.objects, segment, spare }, slot, age);
    }

    fn delist(&mut self, slot: u32) {
        let object = self.objects.get(slot);
        let segments: SmallVec<[u32; 4]> = object.copies.iter().map(|c| c.segment).collect();
        for segment in segments {
            self.unlink(slot, segment);
        }
    }

    fn unlink(&mut self, slot: u32, segment: u32) {
        let object = self.objects.get(slot);
        let list = object.list as usize;
        let Some(age) = object.copy_in(segment).map(|copy| copy.age) else { return };
        let lists = match segment {
            FILES => Some(&mut self.files),
            _ => self.lists.get_mut(segment as usize),
        };
        let Some(lists) = lists else { return };
        let spare = Link::default();
        lists[list].unlink(
            &mut InSegment { objects: &mut self.objects, segment, spare },
            slot,
            age,
        );
    }

    /// Files an object anew: where it belongs now, behind all of the same age.
    pub(super) fn renew(&mut self, slot: u32, now: Micros) {
        self.delist(slot);
        self.enlist(slot, now);
    }

    /// Whether an object was used in a later age than the one under which it is filed in that
    /// segment, or was given a soft pin since. One whose soft pin has ended is found where it is.
    pub(super) fn is_misfiled(&self, slot: u32, segment: u32, now: Micros) -> bool {
        let object = self.objects.get(slot);
        let used = self.calendar.age(object.used_at());
        (object.list == PLAIN && object.right_list(now) == SOFT)
            || object.copy_in(segment).is_some_and(|copy| copy.age < used)
    }

    /// Up to which last use all objects are known that are filed before that one, or with it.
    pub(super) fn known_until(&self, slot: u32, segment: u32) -> Micros {
        let age = self.objects.get(slot).copy_in(segment).map_or(0, |copy| copy.age);
        self.calendar.end(age)
    }

    /// Takes one copy of an object away and says which; the object keeps the others.
    pub(super) fn drop_copy(&mut self, slot: u32, segment: u32) -> Option<Copy> {
        let object = self.objects.get(slot);
        let at = object.copies.iter().position(|copy| copy.segment == segment)?;
        self.unlink(slot, segment);
        Some(self.objects.get_mut(slot).copies.remove(at))
    }

    /// Adds a copy to an object.
    pub(super) fn add_copy(&mut self, slot: u32, copy: Copy) {
        let object = self.objects.get_mut(slot);
        // A file is the last resort of readers.
        let at = object.copies.iter().position(|copy| copy.segment == FILES);
        object.copies.insert(at.unwrap_or(object.copies.len()), copy);
        self.push(slot, copy.segment);
    }

    fn ages(&self, segment: u32, list: u8) -> Option<&Ages> {
        let lists = match segment {
            FILES => Some(&self.files),
            _ => self.lists.get(segment as usize),
        };
        lists.map(|lists| &lists[list as usize])
    }

    /// What was filed first under the oldest age of a segment's list.
    pub(super) fn oldest(&self, segment: u32, list: u8) -> u32 {
        self.ages(segment, list).map_or(NIL, Ages::oldest)
    }

    /// The object that comes after one in the list of a segment in which it is.
    pub(super) fn newer(&self, slot: u32, segment: u32) -> u32 {
        let object = self.objects.get(slot);
        let after = |copy: &Copy| {
            let ages = self.ages(segment, object.list);
            ages.map_or(NIL, |ages| ages.newer(copy.link, copy.age))
        };
        object.copy_in(segment).map_or(NIL, after)
    }

    /// Forgets starts of puts that have ended, as far as they are the oldest.
    pub(super) fn trim_starts(&mut self) {
        while let Some(start) = self.starts.front() {
            let open = self.alive(start.slot, start.generation).is_some_and(|o| !o.complete);
            if open {
                break;
            }
            self.starts.pop_front();
        }
    }

    /// All slots in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.objects.bound()).filter(|slot| self.objects.get(*slot).generation != 0)
    }

    /// Objects in the index.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }
}
