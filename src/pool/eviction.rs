//! Order of eviction: lists from the longest unused object to the latest used one, and the choice
//! among the heads of many lists.
//!
//! There are lists for each pair of index shard and segment, so whoever needs room in a segment
//! finds the oldest objects *there*. The oldest of all is found by merging the heads. Bytes are
//! counted, not objects. Pure data without a lock.
//!
//! A read only stamps the object; it does not move it in a list, which would cost more than all
//! else that a look-up does, because the neighbours are never in a cache. Instead an object is
//! filed under the age of its last move, and whoever looks for the oldest and meets one that was
//! used since files it again, under the age of its last use. So an object is moved at most once
//! for all its reads in between, and never where nothing is evicted. Order is kept from age to
//! age; within one it is that of filing.

use std::collections::BTreeMap;

use super::lease::Micros;

/// Moments that are so near to each other that their order does not matter.
pub type Age = u32;

/// Ages per lease: nobody can say that an object is older than another by less than that.
const AGES_PER_LEASE: Micros = 8;
/// So that ages last for more than a year.
const AGE_MIN: Micros = 10_000;

/// How long an age is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    length: Micros,
}

impl Calendar {
    /// For leases of that length.
    pub fn new(lease: Micros) -> Calendar {
        Calendar { length: (lease / AGES_PER_LEASE).max(AGE_MIN) }
    }

    /// The age of a moment.
    pub fn age(self, at: Micros) -> Age {
        Age::try_from(at / self.length).unwrap_or(Age::MAX)
    }

    /// The last moment of an age.
    pub fn end(self, age: Age) -> Micros {
        (Micros::from(age) + 1).saturating_mul(self.length).saturating_sub(1)
    }
}

/// No object.
pub const NIL: u32 = u32::MAX;

/// Neighbours of an object in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The next older one.
    pub older: u32,
    /// The next newer one.
    pub newer: u32,
}

impl Default for Link {
    fn default() -> Link {
        Link { older: NIL, newer: NIL }
    }
}

/// Where the links of a list are kept.
pub trait Links {
    /// The link of an object in this list.
    fn link(&mut self, object: u32) -> &mut Link;
}

/// Both ends of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    /// What was filed first.
    oldest: u32,
    /// What was filed last.
    newest: u32,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends { oldest: NIL, newest: NIL }
    }
}

impl Ends {
    /// Puts an object that is in no list at the newest end.
    fn push(&mut self, links: &mut impl Links, object: u32) {
        *links.link(object) = Link { older: self.newest, newer: NIL };
        if self.newest == NIL {
            self.oldest = object;
        } else {
            links.link(self.newest).newer = object;
        }
        self.newest = object;
    }

    /// Takes an object out of this list.
    fn unlink(&mut self, links: &mut impl Links, object: u32) {
        let Link { older, newer } = std::mem::take(links.link(object));
        if older == NIL {
            self.oldest = newer;
        } else {
            links.link(older).newer = newer;
        }
        if newer == NIL {
            self.newest = older;
        } else {
            links.link(newer).older = older;
        }
    }
}

/// A list for each age. Objects must be taken out under the age that they were filed under.
#[derive(Debug, Default)]
pub struct Ages {
    /// None of them is empty.
    lists: BTreeMap<Age, Ends>,
}

impl Ages {
    /// Files an object that is in no list.
    pub fn push(&mut self, links: &mut impl Links, object: u32, age: Age) {
        self.lists.entry(age).or_default().push(links, object);
    }

    /// Takes an object out.
    pub fn unlink(&mut self, links: &mut impl Links, object: u32, age: Age) {
        let Some(ends) = self.lists.get_mut(&age) else { return };
        ends.unlink(links, object);
        if ends.oldest == NIL {
            self.lists.remove(&age);
        }
    }

    /// The object that was filed first under the oldest age.
    pub fn oldest(&self) -> u32 {
        self.lists.first_key_value().map_or(NIL, |(_, ends)| ends.oldest)
    }

    /// What comes after an object with that link, filed under that age.
    pub fn newer(&self, link: Link, age: Age) -> u32 {
        if link.newer != NIL {
            return link.newer;
        }
        let later = (std::ops::Bound::Excluded(age), std::ops::Bound::Unbounded);
        self.lists.range(later).next().map_or(NIL, |(_, ends)| ends.oldest)
    }
}

/// An object that may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Soft-pinned objects come after all others.
    pub soft: bool,
    /// Last use.
    pub at: Micros,
    /// What its eviction gives.
    pub bytes: u64,
    /// Index shard.
    pub shard: u32,
    /// Number in the shard.
    pub slot: u32,
    /// Which life of the slot.
    pub generation: u64,
    /// Its range in the segment that is looked at.
    pub piece: u32,
}

/// Sorts candidates into the order of eviction and keeps as many as give `bytes` bytes.
///
/// `complete_until` is the order up to which all candidates are known (lists were read only in
/// part); what comes after it is left for the next round, but at least one is kept.
pub fn choose(
    candidates: &mut Vec<Candidate>,
    complete_until: Option<(bool, Micros)>,
    bytes: u64,
) -> u64 {
    candidates.sort_unstable_by_key(|c| (c.soft, c.at, c.generation));
    let mut sum = 0_u64;
    let mut keep = 0;
    for candidate in candidates.iter() {
        let unknown = complete_until.is_some_and(|end| (candidate.soft, candidate.at) > end);
        if sum >= bytes || (unknown && keep > 0) {
            break;
        }
        sum = sum.saturating_add(candidate.bytes);
        keep += 1;
    }
    candidates.truncate(keep);
    sum
}

#[cfg(test)]
mod tests {
    use super::{choose, Age, Ages, Calendar, Candidate, Link, Links, AGE_MIN, NIL};

    impl Links for Vec<Link> {
        fn link(&mut self, object: u32) -> &mut Link {
            &mut self[object as usize]
        }
    }

    #[test]
    fn ages_equal_a_sorted_vector() {
        for seed in 0..4 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut links = vec![Link::default(); 20];
            let mut ages = Ages::default();
            let mut model: Vec<(u32, u32)> = Vec::new();
            for _ in 0..5000 {
                let object = rng.u32(..20);
                let at = model.iter().position(|(_, other)| *other == object);
                if let Some(at) = at {
                    let (age, _) = model.remove(at);
                    ages.unlink(&mut links, object, age);
                }
                if at.is_none() || rng.bool() {
                    let age = rng.u32(..[1, 3, 50, u32::MAX][seed as usize]);
                    ages.push(&mut links, object, age);
                    let at = model.partition_point(|(other, _)| *other <= age);
                    model.insert(at, (age, object));
                }
                let mut next = ages.oldest();
                for (age, object) in &model {
                    assert_eq!(next, *object, "seed {seed}");
                    next = ages.newer(links[next as usize], *age);
                }
                assert_eq!(next, NIL);
                assert!(ages.lists.len() <= model.len());
            }
        }
    }

    #[test]
    fn moments_of_one_age_are_near() {
        let calendar = Calendar::new(800_000);
        assert_eq!((calendar.age(0), calendar.age(99_999), calendar.age(100_000)), (0, 0, 1));
        assert_eq!((calendar.end(0), calendar.end(1)), (99_999, 199_999));
        // Short leases, and the end of time.
        assert_eq!(Calendar::new(0).age(AGE_MIN), 1);
        assert_eq!(calendar.age(u64::MAX), Age::MAX);
        assert!(Calendar::new(u64::MAX).end(Age::MAX) > u64::MAX / 2);
    }

    #[test]
    fn the_oldest_bytes_are_chosen_and_soft_pins_last() {
        let object = |soft, at, bytes| Candidate {
            soft,
            at,
            bytes,
            shard: 0,
            slot: 0,
            generation: at,
            piece: 0,
        };
        let all = vec![object(true, 1, 10), object(false, 9, 10), object(false, 5, 10)];
        let chosen = |until, bytes| {
            let mut all = all.clone();
            let sum = choose(&mut all, until, bytes);
            (sum, all.iter().map(|c| c.at).collect::<Vec<_>>())
        };
        assert_eq!(chosen(None, 10), (10, vec![5]));
        assert_eq!(chosen(None, 11), (20, vec![5, 9]));
        assert_eq!(chosen(None, 99), (30, vec![5, 9, 1]));
        assert_eq!(chosen(Some((false, 5)), 99), (10, vec![5]));
        assert_eq!(chosen(Some((false, 4)), 99), (10, vec![5]));
        assert_eq!(chosen(None, 0), (0, vec![]));
    }
}
