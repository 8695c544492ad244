//! What the own segments hold, as the master told: enough to tell it to a master that has lost its
//! memory. Pure.

use std::collections::HashMap;

use crate::limits;
use crate::pool::identity::SegmentId;
use crate::pool::segment::{HeldObject, SegmentEvent};

use super::calls::parts;

/// The list, and how far the news have been taken in.
#[derive(Default)]
pub(super) struct Held {
    objects: HashMap<(SegmentId, u64), HeldObject>,
    /// The life of the master whose events these are.
    master_life: Option<u64>,
    acknowledged: u64,
}

impl Held {
    /// The life of the master that was heard last.
    pub(super) fn master_life(&self) -> Option<u64> {
        self.master_life
    }

    /// All events up to this one have been taken in.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// A master has been met. Numbers of events of another life mean nothing any more.
    pub(super) fn meet(&mut self, master_life: u64) {
        if self.master_life != Some(master_life) {
            self.master_life = Some(master_life);
            self.acknowledged = 0;
        }
    }

    /// The master has taken the segments away and with them what they held.
    pub(super) fn forget(&mut self) {
        self.objects.clear();
        self.acknowledged = 0;
    }

    /// The segments are given to a master that keeps no such list.
    pub(super) fn leave(&mut self) {
        self.forget();
        self.master_life = None;
    }

    /// Takes news in.
    pub(super) fn take(&mut self, events: Vec<SegmentEvent>, last: u64) {
        for event in events {
            match event {
                SegmentEvent::Completed(object) => self.add(object),
                SegmentEvent::Gone { segment, address, generation } => {
                    self.drop_up_to(segment, address, generation);
                }
            }
        }
        self.acknowledged = self.acknowledged.max(last);
    }

    /// An object was completed. Of two claims to one address the later put is right. Nothing is
    /// taken from a put that ends after the segments went to a master without such a list.
    pub(super) fn add(&mut self, object: HeldObject) {
        if self.master_life.is_none() {
            return;
        }
        let place = (object.segment, object.address);
        let is_newer =
            self.objects.get(&place).is_none_or(|held| held.generation <= object.generation);
        let has_room = self.objects.len() < limits::STORE_HELD_OBJECTS_MAX;
        if is_newer && (has_room || self.objects.contains_key(&place)) {
            self.objects.insert(place, object);
        }
    }

    fn drop_up_to(&mut self, segment: SegmentId, address: u64, generation: u64) {
        let place = (segment, address);
        if self.objects.get(&place).is_some_and(|held| held.generation <= generation) {
            self.objects.remove(&place);
        }
    }

    /// All objects, in parts.
    pub(super) fn report(&self) -> Vec<Vec<HeldObject>> {
        let mut all: Vec<HeldObject> = self.objects.values().cloned().collect();
        all.sort_unstable_by_key(|object| object.generation);
        let bytes = |object: &HeldObject| object.key.len() + 8 * object.slices.len();
        parts(&all, bytes).into_iter().map(<[HeldObject]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::identity::Uuid;

    fn object(address: u64, generation: u64) -> HeldObject {
        HeldObject {
            key: format!("k{generation}").into_bytes(),
            generation,
            segment: SegmentId(Uuid { first: 1, second: 1 }),
            address,
            slices: vec![8],
            soft_pin: false,
        }
    }

    fn gone(address: u64, generation: u64) -> SegmentEvent {
        SegmentEvent::Gone { segment: object(0, 0).segment, address, generation }
    }

    #[test]
    fn the_list_follows_the_news() {
        let mut held = Held::default();
        held.meet(7);
        held.take(
            vec![
                SegmentEvent::Completed(object(64, 1)),
                SegmentEvent::Completed(object(128, 2)),
                gone(64, 1),
                SegmentEvent::Completed(object(64, 3)),
                gone(64, 2),
            ],
            5,
        );
        assert_eq!(held.acknowledged(), 5);
        let generations: Vec<u64> = held.report()[0].iter().map(|o| o.generation).collect();
        assert_eq!(generations, [2, 3]);
    }

    #[test]
    fn an_older_claim_does_not_replace_a_newer_one() {
        let mut held = Held::default();
        held.meet(1);
        held.add(object(64, 9));
        held.add(object(64, 8));
        assert_eq!(held.report()[0][0].generation, 9);
    }

    #[test]
    fn another_life_keeps_the_objects_and_begins_to_count_anew() {
        let mut held = Held::default();
        held.meet(1);
        held.take(vec![SegmentEvent::Completed(object(64, 1))], 40);
        held.meet(1);
        assert_eq!(held.acknowledged(), 40);
        held.meet(2);
        assert_eq!((held.acknowledged(), held.len()), (0, 1));
        held.forget();
        assert_eq!(held.len(), 0);
    }

    #[test]
    fn nothing_is_told_of_a_time_under_another_kind_of_master() {
        let mut held = Held::default();
        held.meet(1);
        held.take(vec![SegmentEvent::Completed(object(64, 1))], 40);
        held.leave();
        held.add(object(128, 2));
        assert_eq!((held.len(), held.acknowledged(), held.master_life()), (0, 0, None));
        assert!(held.report().is_empty());
    }

    #[test]
    fn reports_come_in_parts() {
        let mut held = Held::default();
        held.meet(1);
        let count = limits::STORE_KEYS_PER_CALL_MAX as u64 + 1;
        for generation in 0..count {
            held.add(object(64 * (generation + 1), generation));
        }
        let lengths: Vec<usize> = held.report().iter().map(Vec::len).collect();
        assert_eq!(lengths, [limits::STORE_KEYS_PER_CALL_MAX, 1]);
    }
}
