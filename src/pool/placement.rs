//! Where copies go: which segments are tried, in which order.
//!
//! Pure: segments are numbers with three questions, randomness comes in. The work is a few draws
//! for each copy, whatever the number of segments; only when none of them has room is every
//! segment asked once.

/// What placement asks about segments, numbered from 0.
pub trait Segments {
    /// How many there are.
    fn count(&self) -> usize;
    /// Whether objects may be placed there, and the largest range it would take; 0 if not.
    fn room(&self, segment: usize) -> u64;
    /// Share of its bytes that is free, in thousandths.
    fn free_share(&self, segment: usize) -> u32;
    /// Whether a copy may go there beside those that were placed before.
    fn is_distinct(&self, segment: usize) -> bool;
}

/// How segments are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// The emptiest of a few.
    FreeRatioFirst,
}

/// Draws before every segment is asked.
const DRAWS: usize = 12;
/// Segments of which the emptiest is taken (upstream's number).
const SAMPLE: usize = 6;

/// The segment for one copy of `bytes` bytes; `None` where no segment takes it.
pub fn choose(
    policy: Policy,
    segments: &impl Segments,
    bytes: u64,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let count = segments.count();
    if count == 0 {
        return None;
    }
    let fits = |at: &usize| segments.room(*at) >= bytes && segments.is_distinct(*at);
    let found = match policy {
        Policy::Random => (0..DRAWS).map(|_| rng.usize(..count)).find(fits),
        Policy::FreeRatioFirst => {
            let sample: Vec<usize> =
                (0..SAMPLE).map(|_| rng.usize(..count)).filter(|at| fits(at)).collect();
            sample.into_iter().max_by_key(|at| segments.free_share(*at))
        }
    };
    let start = rng.usize(..count);
    found.or_else(|| (start..count).chain(0..start).find(fits))
}

#[cfg(test)]
mod tests {
    use super::{choose, Policy, Segments};

    struct Table {
        rooms: Vec<u64>,
        taken: Vec<usize>,
    }

    impl Segments for Table {
        fn count(&self) -> usize {
            self.rooms.len()
        }
        fn room(&self, segment: usize) -> u64 {
            self.rooms[segment]
        }
        fn free_share(&self, segment: usize) -> u32 {
            self.rooms[segment] as u32
        }
        fn is_distinct(&self, segment: usize) -> bool {
            !self.taken.contains(&segment)
        }
    }

    #[test]
    fn only_where_there_is_room_and_no_copy_yet() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut table = Table { rooms: vec![10; 100], taken: Vec::new() };
        table.rooms[42] = 1000;
        for policy in [Policy::Random, Policy::FreeRatioFirst] {
            assert_eq!(choose(policy, &table, 11, &mut rng), Some(42));
            assert_eq!(choose(policy, &table, 1001, &mut rng), None);
        }
        table.taken.push(42);
        assert_eq!(choose(Policy::Random, &table, 11, &mut rng), None);
        let none = Table { rooms: Vec::new(), taken: Vec::new() };
        assert_eq!(choose(Policy::Random, &none, 0, &mut rng), None);
    }

    #[test]
    fn random_reaches_all_and_free_ratio_prefers_the_empty() {
        let mut rng = fastrand::Rng::with_seed(7);
        let rooms: Vec<u64> = (1..=10).collect();
        let table = Table { rooms, taken: Vec::new() };
        let mut hits = [[0; 10]; 2];
        for _ in 0..10_000 {
            for (row, policy) in [Policy::Random, Policy::FreeRatioFirst].into_iter().enumerate() {
                hits[row][choose(policy, &table, 1, &mut rng).unwrap()] += 1;
            }
        }
        assert!(hits[0].iter().all(|count| (800..1200).contains(count)), "{hits:?}");
        assert!(hits[1][9] > 4000 && hits[1][0] < 100, "{hits:?}");
    }
}
