//! Memory of our own: anonymous mappings for segments and copy buffers.

use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

use super::shared::{forget, remember, Backing, SharedFile};

/// Segments begin at a multiple of this, because upstream's slab allocator demands it.
const SEGMENT_ALIGNMENT: usize = 16 << 20;

/// Which pages a mapping should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Those of the system, with the wish for transparent huge ones.
    #[default]
    Ordinary,
    /// Those of the system, of a file that peers on this host can map; where the system has none,
    /// ordinary ones.
    Shared,
    /// Of the pool of huge pages, so large each; refused where the pool has too few.
    Huge(usize),
}

impl Pages {
    /// The same for memory that no peer ever reaches.
    pub fn private(self) -> Pages {
        match self {
            Pages::Shared => Pages::Ordinary,
            other => other,
        }
    }
}

/// An anonymous, zeroed mapping; unmapped when dropped. What a peer has of it is zeros from then
/// on.
#[derive(Debug)]
pub struct Mapping {
    address: usize,
    length: usize,
    backing: Option<Arc<Backing>>,
}

impl Mapping {
    /// Maps `length` bytes. The kernel provides pages when they are first touched.
    pub fn new(length: usize, pages: Pages) -> Result<Mapping> {
        let page = match pages {
            Pages::Ordinary | Pages::Shared => rustix::param::page_size(),
            Pages::Huge(bytes) if bytes.is_power_of_two() => bytes,
            Pages::Huge(_) => {
                return Err(Error::new(ErrorKind::InvalidArgument, "not the size of a huge page"))
            }
        };
        let length = length.max(1).checked_next_multiple_of(page);
        let Some(length) = length.filter(|length| *length < isize::MAX as usize) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "no address space is so large"));
        };
        let alignment =
            if length >= SEGMENT_ALIGNMENT { SEGMENT_ALIGNMENT.max(page) } else { page };
        let mut mapping = match pages {
            // The kernel aligns huge pages by their size only; a larger alignment is cut out.
            _ if alignment > page => aligned(length, alignment, flags_of(pages))?,
            _ => map(length, flags_of(pages))?,
        };
        if pages == Pages::Shared {
            if let Err(error) = mapping.share() {
                log::debug!("memory that peers on this host cannot map: {error}");
            }
        }
        if matches!(pages, Pages::Ordinary | Pages::Shared) {
            mapping.wish_huge_pages();
        }
        Ok(mapping)
    }

    /// First address.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Puts a file behind the memory, which nobody has used yet.
    fn share(&mut self) -> Result<()> {
        let file = SharedFile::new("mooncake", self.length)?;
        // SAFETY: the range is this mapping, which nobody knows yet; it is replaced as a whole, and
        // stays as it is when the call fails.
        let address = unsafe {
            libc::mmap(
                ptr::with_exposed_provenance_mut(self.address),
                self.length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            return Err(Error::io(ErrorKind::Resource, "cannot map shared memory", error));
        }
        self.backing = Some(remember(file, self.address));
        Ok(())
    }

    fn wish_huge_pages(&self) {
        // SAFETY: the range is this mapping; the call changes how pages are provided, not what
        // they hold. A kernel without the feature refuses, which is fine.
        unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(self.address),
                self.length,
                libc::MADV_HUGEPAGE,
            )
        };
    }
}

fn flags_of(pages: Pages) -> libc::c_int {
    match pages {
        Pages::Ordinary | Pages::Shared => libc::MAP_NORESERVE,
        Pages::Huge(bytes) => {
            libc::MAP_HUGETLB | ((bytes.trailing_zeros() as libc::c_int) << libc::MAP_HUGE_SHIFT)
        }
    }
}

fn map(length: usize, flags: libc::c_int) -> Result<Mapping> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that
    // exists.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        return Err(
            Error::io(ErrorKind::Resource, "cannot map memory", error).with("length_bytes", length)
        );
    }
    Ok(Mapping { address: address.expose_provenance(), length, backing: None })
}

/// Maps more than is needed and gives back what stands before and after the aligned part.
fn aligned(length: usize, alignment: usize, flags: libc::c_int) -> Result<Mapping> {
    let Some(whole) = length.checked_add(alignment) else {
        return Err(Error::new(ErrorKind::InvalidArgument, "no address space is so large"));
    };
    let whole = map(whole, flags)?;
    let start = whole.address.next_multiple_of(alignment);
    let part = |address, length| Mapping { address, length, backing: None };
    let head = part(whole.address, start - whole.address);
    let tail = part(start + length, whole.address + whole.length - start - length);
    std::mem::forget(whole);
    drop((head, tail));
    Ok(part(start, length))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length == 0 {
            return;
        }
        if let Some(backing) = &self.backing {
            forget(backing);
        }
        // SAFETY: the range was mapped by `map` and belongs to this value alone; whoever was
        // given its address went through a region, which its owner closes first.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_zero_aligned_and_go_away() {
        for length in [1, 4096, 5000, SEGMENT_ALIGNMENT, SEGMENT_ALIGNMENT + 1] {
            let mapping = Mapping::new(length, Pages::Ordinary).unwrap();
            assert!(mapping.length() >= length);
            if length >= SEGMENT_ALIGNMENT {
                assert_eq!(mapping.address() % SEGMENT_ALIGNMENT, 0);
            }
            crate::memory::check_mapped(mapping.address(), mapping.length()).unwrap();
        }
    }

    #[test]
    fn shared_memory_is_found_as_a_whole_and_given_back() {
        use crate::memory::{backing_of, Access, Foreign, Region};
        for length in [5000, SEGMENT_ALIGNMENT + 1] {
            let mapping = Mapping::new(length, Pages::Shared).unwrap();
            let (address, whole) = (mapping.address(), mapping.length());
            assert!(length < SEGMENT_ALIGNMENT || address % SEGMENT_ALIGNMENT == 0);
            let foreign = Foreign::map(backing_of(address, whole).unwrap().fd()).unwrap();
            assert!(backing_of(address, length).is_some());
            for (start, size) in [(address, 4096), (address + 4096, 904), (address, usize::MAX)] {
                assert!(backing_of(start, size).is_none());
            }
            let own = Region::new(address, whole, "*", Access::ALL, 0).unwrap();
            let mut bytes = [9u8; 4];
            let here = bytes.as_mut_ptr().expose_provenance();
            let other = Region::new(here, 4, "*", Access::LOCAL, 0).unwrap();
            foreign.write(4998, &other, here as u64, 2).unwrap();
            let seen = foreign.read(4998, &own, address as u64, 2);
            seen.unwrap();
            foreign.read(0, &other, here as u64, 4).unwrap();
            assert_eq!(bytes, [9, 9, 0, 0]);
            drop(mapping);
            // The peer's mapping is harmless, and holds no memory of ours any more.
            foreign.read(0, &other, here as u64, 4).unwrap();
            assert_eq!(bytes, [0; 4]);
            assert!(backing_of(address, whole).is_none());
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(Mapping::new(usize::MAX, Pages::Ordinary).is_err());
        assert!(Mapping::new(isize::MAX as usize, Pages::Ordinary).is_err());
        assert_eq!(Mapping::new(1, Pages::Huge(3)).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
