//! One registered range and the leases on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// What a peer may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    /// Only this process touches the buffer; it is not published.
    pub const LOCAL: Access = Access(0);
    /// Peers may read.
    pub const REMOTE_READ: Access = Access(1);
    /// Peers may write.
    pub const REMOTE_WRITE: Access = Access(2);
    /// Peers may read and write.
    pub const ALL: Access = Access(3);

    /// True if everything in `other` is granted.
    pub fn allows(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits, as published to native peers.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From published bits; unknown bits are dropped.
    pub fn from_bits(bits: u32) -> Access {
        Access(bits & 3)
    }

    /// Both grants together.
    pub fn union(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

const CLOSED: u64 = 1 << 63;

/// A registered range: where it is, who may use it, and whether it is still registered.
#[derive(Debug)]
pub struct Region {
    address: usize,
    length: usize,
    location: String,
    access: Access,
    key: u64,
    // Number of leases, and CLOSED once unregistering has begun.
    leases: AtomicU64,
}

impl Region {
    /// Describes `[address, address + length)`. The caller of the library promises that the range
    /// stays mapped until it is unregistered; nothing is accessed here.
    pub fn new(
        address: usize,
        length: usize,
        location: &str,
        access: Access,
        key: u64,
    ) -> Result<Region> {
        if length == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "a buffer of zero bytes"));
        }
        if address == 0 || address.checked_add(length).is_none_or(|end| end > isize::MAX as usize) {
            return Err(Error::new(ErrorKind::InvalidArgument, "the range is not in user memory")
                .with("address", format_args!("{address:#x}"))
                .with("length_bytes", length));
        }
        Ok(Region {
            address,
            length,
            location: location.to_owned(),
            access,
            key,
            leases: AtomicU64::new(0),
        })
    }

    /// First address.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// One past the last address.
    pub fn end(&self) -> usize {
        self.address + self.length
    }

    /// Where the memory lives, as the caller said.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// What peers may do.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The key that native peers must present; new for every registration.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// True if `[address, address + length)` lies inside.
    pub fn contains(&self, address: u64, length: u64) -> bool {
        address >= self.address as u64
            && address.checked_add(length).is_some_and(|end| end <= self.end() as u64)
    }

    /// True once unregistering has begun.
    pub fn is_closed(&self) -> bool {
        self.leases.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Takes a lease, or says that the region is gone.
    pub fn lease(self: &Arc<Self>) -> Result<Lease> {
        std::mem::forget(self.begin_use()?);
        Ok(Lease(Arc::clone(self)))
    }

    /// A lease that borrows the region.
    fn begin_use(&self) -> Result<Use<'_>> {
        // The count cannot reach CLOSED: a lease needs a thread inside a system call.
        if self.leases.fetch_add(1, Ordering::AcqRel) & CLOSED != 0 {
            self.leases.fetch_sub(1, Ordering::Release);
            return Err(self.gone());
        }
        Ok(Use(self))
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::Unregistered, "the memory was unregistered during the transfer")
            .with("address", format_args!("{:#x}", self.address))
    }

    /// Refuses new leases and waits until the present ones are over. Leases last for one
    /// non-blocking system call, so this is microseconds, or one page fault.
    pub fn close(&self) {
        self.leases.fetch_or(CLOSED, Ordering::AcqRel);
        let mut rounds = 0u32;
        while self.leases.load(Ordering::Acquire) & !CLOSED != 0 {
            rounds += 1;
            if rounds < 100 {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// Copies `length` bytes at `source` of one region to `target` of another (or the same one).
    pub fn copy_between(
        from: &Arc<Region>,
        source: u64,
        to: &Arc<Region>,
        target: u64,
        length: usize,
    ) -> Result<()> {
        let both = Both::begin(from, to)?;
        both.copy(source, target, length)
    }

    /// Copies blocks (source, target, length) of one region to another, or to the same one, with
    /// one lease on each. Returns how many from the front were copied: the first one that leaves
    /// its region ends it.
    pub fn copy_blocks(
        from: &Region,
        to: &Region,
        blocks: impl Iterator<Item = (u64, u64, usize)>,
    ) -> Result<usize> {
        let both = Both::begin(from, to)?;
        let mut copied = 0;
        for (source, target, length) in blocks {
            if both.copy(source, target, length).is_err() {
                break;
            }
            copied += 1;
        }
        Ok(copied)
    }

    /// The right to touch a range for the length of a borrow.
    pub(super) fn use_range(&self, address: u64, length: usize) -> Result<Use<'_>> {
        self.check(address, length)?;
        self.begin_use()
    }

    pub(super) fn check(&self, address: u64, length: usize) -> Result<()> {
        if self.contains(address, length as u64) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotRegistered, "the range leaves its registered buffer")
            .with("address", format_args!("{address:#x}"))
            .with("length_bytes", length))
    }
}

/// The right to touch a region until dropped.
#[derive(Debug)]
pub struct Lease(Arc<Region>);

impl Lease {
    /// The leased region.
    pub fn region(&self) -> &Arc<Region> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Release);
    }
}

/// The same for the length of a borrow.
pub(super) struct Use<'a>(&'a Region);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Release);
    }
}

/// The right to copy from one region to another, which may be the same one.
struct Both<'a> {
    from: Use<'a>,
    /// `None`: the same region, whose one lease is enough.
    to: Option<Use<'a>>,
}

impl<'a> Both<'a> {
    fn begin(from: &'a Region, to: &'a Region) -> Result<Both<'a>> {
        let is_one = std::ptr::eq(from, to);
        let from = from.begin_use()?;
        let to = if is_one { None } else { Some(to.begin_use()?) };
        Ok(Both { from, to })
    }

    fn copy(&self, source: u64, target: u64, length: usize) -> Result<()> {
        let to = self.to.as_ref().unwrap_or(&self.from);
        self.from.0.check(source, length)?;
        to.0.check(target, length)?;
        // SAFETY: both ranges were checked to lie inside regions that the leases keep registered
        // and that their owners promised to be mapped. `copy` allows overlap.
        unsafe {
            std::ptr::copy(source as *const u8, target as *mut u8, length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region_over(bytes: &mut [u8]) -> Arc<Region> {
        let region =
            Region::new(bytes.as_mut_ptr() as usize, bytes.len(), "cpu:0", Access::ALL, 1).unwrap();
        Arc::new(region)
    }

    #[test]
    fn close_waits_for_leases_and_refuses_new_ones() {
        let mut bytes = vec![0u8; 64];
        let region = region_over(&mut bytes);
        let lease = region.lease().unwrap();
        let closer = {
            let region = Arc::clone(&region);
            std::thread::spawn(move || region.close())
        };
        while !region.is_closed() {
            std::thread::yield_now();
        }
        assert!(!closer.is_finished());
        assert_eq!(region.lease().unwrap_err().kind(), ErrorKind::Unregistered);
        drop(lease);
        closer.join().unwrap();
    }

    #[test]
    fn copies_stay_inside() {
        let mut bytes = vec![0u8; 64];
        bytes[60..].copy_from_slice(&[1, 2, 3, 4]);
        let region = region_over(&mut bytes);
        let base = region.address() as u64;
        let copy = |from, to| Region::copy_between(&region, from, &region, to, 4);
        for (from, to) in [(base + 61, base), (base, base + 61), (u64::MAX - 1, base)] {
            assert_eq!(copy(from, to).unwrap_err().kind(), ErrorKind::NotRegistered);
        }
        copy(base + 60, base).unwrap();
        assert_eq!(&bytes[..4], &[1, 2, 3, 4]);
    }

    #[test]
    fn blocks_are_copied_up_to_the_first_bad_one_and_leave_no_lease() {
        let (mut source, mut target) = ((0..64).collect::<Vec<u8>>(), vec![0u8; 64]);
        let (from, to) = (region_over(&mut source), region_over(&mut target));
        let (source_at, target_at) = (from.address() as u64, to.address() as u64);
        let blocks = |lengths: &'static [usize]| {
            lengths.iter().map(move |length| (source_at, target_at + 60, *length))
        };
        assert_eq!(Region::copy_blocks(&from, &to, blocks(&[2, 3, 5, 1])).unwrap(), 2);
        assert_eq!(&target[60..], &[0, 1, 2, 0]);
        let same = std::iter::once((source_at, source_at + 8, 8));
        assert_eq!(Region::copy_blocks(&from, &from, same).unwrap(), 1);
        assert_eq!(&source[8..16], &source[..8]);
        // Closing waits for leases, so it only returns where none is left.
        from.close();
        let gone = Region::copy_blocks(&to, &from, blocks(&[1])).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Unregistered);
        to.close();
    }

    #[test]
    fn impossible_ranges_are_refused() {
        for (address, length) in [(0, 8), (16, 0), (usize::MAX - 4, 8), (usize::MAX, usize::MAX)] {
            assert!(Region::new(address, length, "*", Access::ALL, 0).is_err());
        }
    }
}
