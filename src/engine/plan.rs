//! From a request to its slices: pure arithmetic.

use crate::transport::SplitRule;

/// Consecutive pieces of a request: offset and length of each.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    offset: u64,
    total: u64,
    piece: u64,
}

impl Pieces {
    /// Cuts `total` bytes under `rule`.
    pub(super) fn new(total: u64, rule: SplitRule) -> Pieces {
        let mut piece = rule.slice_bytes_max.max(1);
        let rails = u64::from(rule.rails.max(1));
        if rails > 1 && total >= rule.stripe_bytes_min {
            // One piece per rail at least, but none below half of what is worth a stripe.
            let share = total.div_ceil(rails).max(rule.stripe_bytes_min / 2).max(1);
            piece = piece.min(share.next_multiple_of(4096));
        }
        Pieces { offset: 0, total, piece }
    }

    /// How many pieces there are; 0 for an empty request.
    pub(super) fn left(&self) -> u32 {
        u32::try_from((self.total - self.offset).div_ceil(self.piece)).unwrap_or(u32::MAX)
    }
}

impl Iterator for Pieces {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if self.offset >= self.total {
            return None;
        }
        let length = self.piece.min(self.total - self.offset);
        let piece = (self.offset, length);
        self.offset += length;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_tile_the_request(
            total in 0u64..1 << 40,
            slice in 4096u64..1 << 30,
            stripe in 0u64..1 << 24,
            rails in 0u32..64,
        ) {
            let slice = slice.max(total >> 12);
            let rule = SplitRule { slice_bytes_max: slice, stripe_bytes_min: stripe, rails };
            let pieces = Pieces::new(total, rule);
            let count = pieces.left();
            let mut at = 0;
            let mut seen = 0;
            for (offset, length) in pieces {
                prop_assert_eq!(offset, at);
                prop_assert!(length > 0 && length <= slice);
                at += length;
                seen += 1;
            }
            prop_assert_eq!(at, total);
            prop_assert_eq!(seen, count);
        }
    }

    #[test]
    fn small_requests_stay_whole_and_large_ones_use_the_rails() {
        let rule = SplitRule { slice_bytes_max: 4 << 20, stripe_bytes_min: 1 << 20, rails: 4 };
        assert_eq!(Pieces::new(4096, rule).left(), 1);
        assert_eq!(Pieces::new((1 << 20) - 1, rule).left(), 1);
        assert_eq!(Pieces::new(1 << 20, rule).left(), 2);
        assert_eq!(Pieces::new(8 << 20, rule).left(), 4);
        assert_eq!(Pieces::new(64 << 20, rule).left(), 16);
    }
}
