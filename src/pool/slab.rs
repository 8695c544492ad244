//! Values under small stable numbers, kept in chunks, each twice as large as the one before:
//! growing moves nothing, and the table of chunks is so short that it stays in the cache. What a
//! chunk has ahead of its use is address space that was never touched.
//!
//! Pure data, owned by whoever holds it; it has no lock. Numbers come from the slab itself, so a
//! number that it never gave out is a defect of the owner.

use crate::memory::wish_huge_pages;

/// Values of the first chunk: a power of two, small enough that an idle owner costs little.
const FIRST: usize = 64;

/// Values under numbers.
#[derive(Debug)]
pub struct Slab<T> {
    /// Chunk N has room for `FIRST << N` values and holds those that were ever used.
    chunks: Vec<Vec<T>>,
    vacant: Vec<u32>,
    next: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { chunks: Vec::new(), vacant: Vec::new(), next: 0 }
    }
}

/// Chunk and place there.
#[inline]
fn place(number: u32) -> (usize, usize) {
    let shifted = number as usize + FIRST;
    let chunk = shifted.ilog2() - FIRST.ilog2();
    (chunk as usize, shifted - (FIRST << chunk))
}

impl<T: Default> Slab<T> {
    /// Keeps `value` and says under which number; `None` when `max` numbers are in use.
    pub fn insert(&mut self, value: T, max: u32) -> Option<u32> {
        if let Some(number) = self.vacant.pop() {
            *self.get_mut(number) = value;
            return Some(number);
        }
        if self.next >= max {
            return None;
        }
        let number = self.next;
        let (chunk, _) = place(number);
        if chunk == self.chunks.len() {
            let values: Vec<T> = Vec::with_capacity(FIRST << chunk);
            wish_huge_pages(values.as_ptr().cast(), values.capacity() * size_of::<T>());
            self.chunks.push(values);
        }
        self.chunks[chunk].push(value);
        self.next += 1;
        Some(number)
    }

    /// Gives a value back and its number free.
    pub fn remove(&mut self, number: u32) -> T {
        let value = std::mem::take(self.get_mut(number));
        self.vacant.push(number);
        value
    }

    /// The value under a number that is in use; the default one where the number is vacant.
    #[inline]
    pub fn get(&self, number: u32) -> &T {
        let (chunk, at) = place(number);
        &self.chunks[chunk][at]
    }

    /// The same, to change it.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> &mut T {
        let (chunk, at) = place(number);
        &mut self.chunks[chunk][at]
    }

    /// The same for a number that may be stale or of another owner.
    #[inline]
    pub fn try_get(&self, number: u32) -> Option<&T> {
        let (chunk, at) = place(number);
        self.chunks.get(chunk)?.get(at)
    }

    /// Numbers in use.
    pub fn len(&self) -> usize {
        self.next as usize - self.vacant.len()
    }

    /// Whether no number is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers that are or were in use: all below this.
    pub fn bound(&self) -> u32 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::{place, Slab, FIRST};

    #[test]
    fn chunks_follow_each_other_without_gap() {
        assert_eq!(place(0), (0, 0));
        for number in 0..10_000 {
            let (chunk, at) = place(number);
            let next = if at + 1 == FIRST << chunk { (chunk + 1, 0) } else { (chunk, at + 1) };
            assert_eq!(place(number + 1), next);
        }
        assert!(place(u32::MAX).1 < FIRST << place(u32::MAX).0);
    }

    #[test]
    fn values_stay_under_their_numbers() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut slab: Slab<u64> = Slab::default();
        let mut model = std::collections::BTreeMap::new();
        let max = 1000;
        for value in 1..50_000 {
            if rng.u8(..5) < 3 {
                match slab.insert(value, max) {
                    Some(number) => assert_eq!(model.insert(number, value), None),
                    None => assert_eq!(model.len(), max as usize),
                }
            } else if let Some(number) = model.keys().nth(rng.usize(..model.len().max(1))).copied()
            {
                assert_eq!(Some(slab.remove(number)), model.remove(&number));
                assert_eq!(*slab.get(number), 0);
            }
            assert_eq!(slab.len(), model.len());
        }
        assert!(model.iter().all(|(number, value)| slab.get(*number) == value));
        assert_eq!(slab.try_get(slab.bound()), None);
        assert_eq!(slab.try_get(u32::MAX), None);
    }
}
