//! The hash table of one shard: from the hash of a key to the slots that may hold it.
//!
//! An entry is one word: 32 bits of the hash and the slot. So a search touches one cache line
//! before it knows the slot, a wrong key is met once in four billion, and the table grows without a
//! look at any key. Linear probing, at most three quarters full; removal moves the entries behind
//! up, so there are no tombstones. Pure data behind the lock of its shard.

use crate::memory::{prefetch, wish_huge_pages};

/// No entry: its slot is none that a slab gives out.
const VACANT: u64 = u64::MAX;
const CAPACITY_MIN: usize = 16;

/// Slots under hashes.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// A power of two of them, or none.
    entries: Vec<u64>,
    len: usize,
}

/// The lower half of a hash; the upper one has chosen the shard.
fn print_of(hash: u64) -> u32 {
    hash as u32
}

fn home_of(entry: u64) -> usize {
    (entry >> 32) as usize
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Asks for the memory at which a search begins.
    pub(super) fn approach(&self, hash: u64) {
        let mask = self.entries.len().wrapping_sub(1);
        if let Some(entry) = self.entries.get(print_of(hash) as usize & mask) {
            prefetch(entry);
        }
    }

    /// The slot under that hash which `is_it`.
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.position(hash, is_it).map(|at| self.entries[at] as u32)
    }

    fn position(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<usize> {
        let print = print_of(hash);
        let mask = self.entries.len().wrapping_sub(1);
        let mut at = print as usize & mask;
        // Ends: there is always a vacant entry.
        loop {
            let entry = *self.entries.get(at)?;
            if entry == VACANT {
                return None;
            }
            if (entry >> 32) as u32 == print && is_it(entry as u32) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a slot that is not here yet.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        self.place(u64::from(print_of(hash)) << 32 | u64::from(slot));
        self.len += 1;
    }

    fn place(&mut self, entry: u64) {
        let mask = self.entries.len() - 1;
        let mut at = home_of(entry) & mask;
        while self.entries[at] != VACANT {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry;
    }

    fn grow(&mut self) {
        let capacity = (self.entries.len() * 2).max(CAPACITY_MIN);
        let mut entries: Vec<u64> = Vec::with_capacity(capacity);
        wish_huge_pages(entries.as_ptr().cast(), capacity * size_of::<u64>());
        entries.resize(capacity, VACANT);
        let old = std::mem::replace(&mut self.entries, entries);
        old.into_iter().filter(|entry| *entry != VACANT).for_each(|entry| self.place(entry));
    }

    /// Takes a slot away.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let Some(mut hole) = self.position(hash, |other| other == slot) else { return };
        let mask = self.entries.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry == VACANT {
                break;
            }
            // It may move up if the hole is not before its home.
            let from_home = at.wrapping_sub(home_of(entry)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole] = VACANT;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::Index;

    /// Hashes of few values, so that runs are long, wrap around and share their prints.
    #[test]
    fn an_index_equals_a_list() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut index = Index::default();
            let mut model: Vec<(u64, u32)> = Vec::new();
            let spread = [1, 3, 17, 1 << 40][seed as usize % 4];
            let target = rng.usize(1..300);
            for slot in 0..4000_u32 {
                if model.len() < target && rng.u8(..5) < 3 {
                    // The last home of the table, and those around it.
                    let hash = (0xffff_fff0_u64).wrapping_add(rng.u64(..spread));
                    index.insert(hash, slot);
                    model.push((hash, slot));
                } else if !model.is_empty() {
                    let (hash, slot) = model.swap_remove(rng.usize(..model.len()));
                    index.remove(hash, slot);
                    index.remove(hash, slot);
                    assert_eq!(index.find(hash, |other| other == slot), None);
                }
                assert_eq!(index.len(), model.len());
                if slot % 16 == 0 {
                    for (hash, slot) in &model {
                        index.approach(*hash);
                        assert_eq!(index.find(*hash, |o| o == *slot), Some(*slot), "seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_index_has_nothing() {
        let mut index = Index::default();
        index.approach(7);
        index.remove(7, 7);
        assert_eq!((index.find(7, |_| true), index.len()), (None, 0));
    }
}
