//! Values under small stable numbers, kept in chunks: growing moves nothing and costs no more than
//! one chunk ahead of what is in use.
//!
//! Pure data, owned by whoever holds it; it has no lock. Numbers come from the slab itself, so a
//! number that it never gave out is a defect of the owner.

/// Values of one chunk: a power of two, small enough that an idle owner costs little.
const CHUNK: usize = 64;

/// Values under numbers.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    vacant: Vec<u32>,
    next: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { chunks: Vec::new(), vacant: Vec::new(), next: 0 }
    }
}

impl<T: Default> Slab<T> {
    /// Keeps `value` and says under which number; `None` when `max` numbers are in use.
    pub fn insert(&mut self, value: T, max: u32) -> Option<u32> {
        let number = match self.vacant.pop() {
            Some(number) => number,
            None if self.next >= max => return None,
            None => {
                let number = self.next;
                if number as usize / CHUNK == self.chunks.len() {
                    self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
                }
                self.next += 1;
                number
            }
        };
        *self.get_mut(number) = value;
        Some(number)
    }

    /// Gives a value back and its number free.
    pub fn remove(&mut self, number: u32) -> T {
        let value = std::mem::take(self.get_mut(number));
        self.vacant.push(number);
        value
    }

    /// The value under a number that is in use; the default one where the number is vacant.
    pub fn get(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// The same for a number that may be stale or of another owner.
    pub fn try_get(&self, number: u32) -> Option<&T> {
        self.chunks.get(number as usize / CHUNK).map(|chunk| &chunk[number as usize % CHUNK])
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
