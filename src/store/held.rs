//! What the own segments hold, as the master told: enough to tell it to a master that has lost its
//! memory. And which of their ranges are lent out as views. Pure.
//!
//! A range may be lent while its object is known to be there: the master uses it again only after
//! the end of the object was acknowledged, and with the acknowledgement goes the list of the ranges
//! that are still lent.

use std::collections::HashMap;

use crate::limits;
use crate::pool::identity::SegmentId;
use crate::pool::segment::{HeldObject, KeptRange, SegmentEvent};

use super::calls::parts;

/// Segment and first address.
pub(super) type Spot = (SegmentId, u64);

/// A range that is lent out.
struct Loan {
    readers: usize,
    bytes: u64,
    generation: u64,
    /// Its object is gone; only the readers keep it.
    is_gone: bool,
}

/// The list, and how far the news have been taken in.
#[derive(Default)]
pub(super) struct Held {
    objects: HashMap<Spot, HeldObject>,
    loans: HashMap<Spot, Loan>,
    lent_bytes: u64,
    /// The master has not heard of the last change of what is lent without an object.
    is_untold: bool,
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
        self.loans.values_mut().for_each(|loan| loan.is_gone = true);
    }

    /// Lends the range of an object to one more reader; false where it is not known to be there or
    /// `bytes_max` bytes would be exceeded.
    pub(super) fn lend(&mut self, spot: Spot, generation: u64, bytes_max: u64) -> bool {
        let Some(object) = self.objects.get(&spot).filter(|o| o.generation == generation) else {
            return false;
        };
        if let Some(loan) = self.loans.get_mut(&spot) {
            if loan.generation != generation || loan.is_gone {
                return false;
            }
            loan.readers += 1;
            return true;
        }
        let bytes = object.slices.iter().sum();
        let is_full = self.loans.len() >= limits::STORE_KEPT_RANGES_MAX
            || self.lent_bytes.saturating_add(bytes) > bytes_max;
        if is_full {
            return false;
        }
        self.lent_bytes += bytes;
        self.loans.insert(spot, Loan { readers: 1, bytes, generation, is_gone: false });
        true
    }

    /// A reader is done.
    pub(super) fn give_back(&mut self, spot: Spot) {
        let Some(loan) = self.loans.get_mut(&spot) else { return };
        loan.readers -= 1;
        if loan.readers == 0 {
            self.is_untold |= loan.is_gone;
            self.lent_bytes -= loan.bytes;
            self.loans.remove(&spot);
        }
    }

    /// Ranges that are lent, those without an object only or all of them.
    pub(super) fn lent(&self, all: bool) -> Vec<KeptRange> {
        let named = self.loans.iter().filter(|(_, loan)| all || loan.is_gone);
        let range = |(spot, loan): (&Spot, &Loan)| KeptRange {
            segment: spot.0,
            address: spot.1,
            size: loan.bytes,
        };
        named.map(range).collect()
    }

    /// What the master is to be told before the next acknowledgement, if anything.
    pub(super) fn untold(&mut self) -> Option<Vec<KeptRange>> {
        std::mem::take(&mut self.is_untold).then(|| self.lent(false))
    }

    /// It could not be told.
    pub(super) fn stay_untold(&mut self) {
        self.is_untold = true;
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

    /// Whether that very object, or a later one, is said to be there.
    pub(super) fn knows(&self, segment: SegmentId, address: u64, generation: u64) -> bool {
        self.objects.get(&(segment, address)).is_some_and(|held| held.generation >= generation)
    }

    fn drop_up_to(&mut self, segment: SegmentId, address: u64, generation: u64) {
        let place = (segment, address);
        if let Some(loan) = self.loans.get_mut(&place).filter(|l| l.generation <= generation) {
            self.is_untold |= !loan.is_gone;
            loan.is_gone = true;
        }
        if self.objects.get(&place).is_some_and(|held| held.generation <= generation) {
            self.objects.remove(&place);
        }
    }

    /// All objects, in parts.
    pub(super) fn report(&self) -> Vec<Vec<HeldObject>> {
        let mut all: Vec<HeldObject> = self.objects.values().cloned().collect();
        all.sort_unstable_by_key(|object| object.generation);
        let bytes =
            |object: &HeldObject| object.key.len() + object.group.len() + 8 * object.slices.len();
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
            group: Vec::new(),
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
    fn what_is_lent_is_named_when_its_object_goes_and_again_when_it_came_back() {
        let mut held = Held::default();
        held.meet(1);
        let spot = (object(0, 0).segment, 64);
        assert!(!held.lend(spot, 1, 100), "not known to be there");
        held.add(object(64, 1));
        assert!(!held.lend(spot, 2, 100), "another put");
        assert!(!held.lend(spot, 1, 7), "too much");
        assert!(held.lend(spot, 1, 8) && held.lend(spot, 1, 8));
        assert_eq!(held.untold(), None);
        held.take(vec![gone(64, 1)], 1);
        let range = KeptRange { segment: spot.0, address: 64, size: 8 };
        assert_eq!(held.untold(), Some(vec![range]));
        assert_eq!(held.untold(), None);
        held.stay_untold();
        assert_eq!(held.untold(), Some(vec![range]));
        assert!(!held.lend(spot, 1, 100), "gone");
        held.give_back(spot);
        assert_eq!(held.untold(), None);
        held.give_back(spot);
        assert_eq!(held.untold(), Some(vec![]));
        // A second one too many changes nothing.
        held.give_back(spot);
        assert_eq!((held.untold(), held.lent_bytes), (None, 0));
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
    fn long_names_of_groups_make_reports_shorter() {
        let mut held = Held::default();
        held.meet(1);
        let group = vec![b'g'; limits::KEY_BYTES_MAX];
        let count = (limits::STORE_KEY_BYTES_PER_CALL_MAX / limits::KEY_BYTES_MAX) as u64 + 1;
        for generation in 1..=count {
            held.add(HeldObject { group: group.clone(), ..object(64 * generation, generation) });
        }
        let reports = held.report();
        assert_eq!(reports.len(), 2);
        assert!(reports.concat().iter().all(|object| object.group == group));
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
