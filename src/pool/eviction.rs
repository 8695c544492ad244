//! Order of eviction: lists from the longest unused object to the latest used one, and the choice
//! among the heads of many lists.
//!
//! There is one list for each pair of index shard and segment, so a read moves an object in a list
//! of its own shard only, in constant time, and whoever needs room in a segment finds the oldest
//! objects *there*. The oldest of all is found by merging the heads. Bytes are counted, not
//! objects. Pure data without a lock.

use super::lease::Micros;

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
pub struct Ends {
    /// The longest unused object.
    pub oldest: u32,
    /// The latest used one.
    pub newest: u32,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends { oldest: NIL, newest: NIL }
    }
}

impl Ends {
    /// Puts an object that is in no list at the newest end.
    pub fn push(&mut self, links: &mut impl Links, object: u32) {
        *links.link(object) = Link { older: self.newest, newer: NIL };
        if self.newest == NIL {
            self.oldest = object;
        } else {
            links.link(self.newest).newer = object;
        }
        self.newest = object;
    }

    /// Takes an object out of this list.
    pub fn unlink(&mut self, links: &mut impl Links, object: u32) {
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
    use super::{choose, Candidate, Ends, Link, Links, NIL};

    impl Links for Vec<Link> {
        fn link(&mut self, object: u32) -> &mut Link {
            &mut self[object as usize]
        }
    }

    #[test]
    fn lists_equal_a_vector() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut links = vec![Link::default(); 20];
        let mut ends = Ends::default();
        let mut model: Vec<u32> = Vec::new();
        for _ in 0..5000 {
            let object = rng.u32(..20);
            let at = model.iter().position(|other| *other == object);
            if let Some(at) = at {
                ends.unlink(&mut links, object);
                model.remove(at);
            }
            if at.is_none() || rng.bool() {
                ends.push(&mut links, object);
                model.push(object);
            }
            let mut listed = Vec::new();
            let mut next = ends.oldest;
            while next != NIL {
                listed.push(next);
                next = links[next as usize].newer;
            }
            assert_eq!(listed, model);
            assert_eq!(ends.newest, model.last().copied().unwrap_or(NIL));
        }
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
