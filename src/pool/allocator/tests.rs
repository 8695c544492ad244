//! The allocator against a naive map, and how full it gets.

use std::collections::{BTreeMap, HashMap};

use super::{Allocator, Piece, PIECES_MAX};

const MIB: u64 = 1 << 20;

/// Taken ranges, by offset: their number, bytes and tag.
type Taken = BTreeMap<u64, (u32, u64, u32)>;

fn check(allocator: &Allocator, taken: &Taken, bytes: u64) {
    let granule = allocator.granule();
    let mut end = 0;
    let mut holes = Vec::new();
    for (offset, (id, size, tag)) in taken {
        assert!(*offset >= end, "ranges overlap at {offset}");
        assert!(offset + size <= bytes);
        if *offset > end {
            holes.push(offset - end);
        }
        end = offset + size.div_ceil(granule) * granule;
        let span = allocator.span(*id);
        assert_eq!((span.offset, span.tag), (*offset, Some(*tag)));
        assert_eq!(span.size, size.div_ceil(granule) * granule);
    }
    if bytes > end {
        holes.push(bytes - end);
    }
    let free: u64 = holes.iter().sum();
    assert!(allocator.free_bytes().abs_diff(free) < granule);
    let largest = holes.iter().copied().max().unwrap_or(0);
    assert!(allocator.largest() <= largest);
    // Within one bin the largest of the first few is known.
    let least = largest as f64 * 0.96 - granule as f64;
    assert!(allocator.largest() as f64 >= least, "{} of {largest}", allocator.largest());
    assert_eq!(allocator.pieces(), taken.len() + holes.len());
}

#[test]
fn equals_a_naive_map() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes = [64 * 100, 1000, MIB, 17 * MIB + 13, 1 << 38][seed as usize % 5];
        let mut allocator = Allocator::new(bytes);
        let mut taken = Taken::new();
        let biggest = (bytes / [2, 20, 100][seed as usize % 3]).clamp(1, 1 << 24);
        let by_place = seed % 4 == 3;
        if by_place {
            allocator.begin_places();
        }
        for step in 0..2000 {
            let size = rng.u64(1..=biggest);
            let tag = rng.u32(..1000);
            if rng.bool() && !taken.is_empty() {
                let at = *taken.keys().nth(rng.usize(..taken.len())).unwrap();
                let (id, ..) = taken.remove(&at).unwrap();
                allocator.free(id);
            } else if by_place && rng.bool() {
                let offset = rng.u64(..bytes) / allocator.granule() * allocator.granule();
                let end = (offset + size).div_ceil(allocator.granule()) * allocator.granule();
                let before = taken.range(..end).next_back();
                let hit = before.is_some_and(|(at, (_, len, _))| {
                    at + len.div_ceil(allocator.granule()) * allocator.granule() > offset
                });
                assert_eq!(
                    !allocator.overlaps(offset, size, 9).is_empty(),
                    hit && offset + size <= bytes,
                    "seed {seed} step {step}"
                );
                let fits = offset + size <= bytes && !hit;
                let piece = allocator.reserve(offset, size, tag);
                assert_eq!(piece.is_some(), fits, "seed {seed} step {step}");
                if let Some(Piece { id, offset: at }) = piece {
                    assert_eq!(at, offset);
                    taken.insert(at, (id, size, tag));
                }
            } else {
                let largest = allocator.largest();
                let piece = allocator.allocate(size, tag);
                assert!(piece.is_some() || size > largest, "seed {seed}: {size} <= {largest}");
                if let Some(Piece { id, offset }) = piece {
                    taken.insert(offset, (id, size, tag));
                }
            }
            if step % 7 == 0 {
                check(&allocator, &taken, bytes);
            }
        }
        for (id, ..) in taken.values() {
            allocator.free(*id);
        }
        check(&allocator, &Taken::new(), bytes);
        assert_eq!(allocator.largest(), bytes, "seed {seed}: not whole again");
    }
}

#[test]
fn an_empty_segment_is_usable_to_the_last_byte() {
    for bytes in [1, 63, 64, 1000, 97 * MIB, 100 * MIB, 100 * MIB + 1, (1 << 40) - 5] {
        let mut allocator = Allocator::new(bytes);
        assert_eq!(allocator.largest(), bytes);
        assert!(allocator.allocate(bytes + 1, 0).is_none());
        let piece = allocator.allocate(bytes, 0).unwrap();
        assert_eq!(piece.offset, 0);
        assert_eq!((allocator.largest(), allocator.free_bytes()), (0, 0));
        assert!(allocator.allocate(1, 0).is_none());
        allocator.free(piece.id);
        assert_eq!(allocator.largest(), bytes);
    }
    assert!(Allocator::new(0).allocate(1, 0).is_none());
    assert!(Allocator::new(64).allocate(0, 0).is_none());
    const { assert!(PIECES_MAX < super::TAKEN) };
}

#[test]
fn stays_full_under_mixed_sizes() {
    let mut lowest: f64 = 1.0;
    for seed in 0..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes = 1 << 30;
        let mut allocator = Allocator::new(bytes);
        let mut taken: HashMap<u32, u64> = HashMap::new();
        let mut used = 0;
        let (mut sum, mut count) = (0.0, 0);
        for step in 0..60_000 {
            // From 4 KiB to 16 MiB, every order of magnitude alike.
            let size = (4096.0 * 4096_f64.powf(rng.f64())) as u64;
            let piece = allocator.allocate(size, 0).unwrap_or_else(|| {
                // A run around a random range, as eviction clears it.
                let anchor = *taken.keys().nth(rng.usize(..taken.len().min(50))).unwrap();
                let mut run = vec![allocator.span(anchor)];
                while run.iter().map(|span| span.size).sum::<u64>() < size {
                    let last = run.iter().map(|span| (span.offset, span.id)).max().unwrap().1;
                    let first = run.iter().map(|span| (span.offset, span.id)).min().unwrap().1;
                    let next = allocator.after(last).or_else(|| allocator.before(first));
                    run.push(next.unwrap());
                }
                for span in run.iter().filter(|span| span.tag.is_some()) {
                    used -= taken.remove(&span.id).unwrap();
                    allocator.free(span.id);
                }
                allocator.allocate(size, 0).unwrap()
            });
            taken.insert(piece.id, size);
            used += size;
            if step > 10_000 {
                sum += used as f64 / bytes as f64;
                count += 1;
            }
        }
        lowest = lowest.min(sum / f64::from(count));
    }
    println!("mean utilisation of the worst seed: {lowest:.3}");
    assert!(lowest >= 0.95, "{lowest}");
}

#[test]
fn a_place_that_cannot_be_cut_out_stays_free() {
    let mut allocator = Allocator::with_pieces_max(1024, 2);
    allocator.begin_places();
    // The first cut gives the second range; a place in the middle of that would need two more.
    let first = allocator.reserve(0, 256, 1).unwrap();
    assert_eq!(allocator.reserve(512, 64, 2), None);
    assert_eq!((allocator.free_bytes(), allocator.pieces()), (768, 2));
    // What is left is taken as a whole, and everything merges again.
    let second = allocator.allocate(64, 3).unwrap();
    assert_eq!((second.offset, allocator.free_bytes()), (256, 0));
    allocator.free(first.id);
    allocator.free(second.id);
    assert_eq!((allocator.free_bytes(), allocator.largest(), allocator.pieces()), (1024, 1024, 1));
}
