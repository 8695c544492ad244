//! Memory of our own: anonymous mappings for segments and copy buffers.

use std::ptr;

use crate::error::{Error, ErrorKind, Result};

/// Segments begin at a multiple of this, because upstream's slab allocator demands it.
const SEGMENT_ALIGNMENT: usize = 16 << 20;

/// Which pages a mapping should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Those of the system, with the wish for transparent huge ones.
    #[default]
    Ordinary,
    /// Of the pool of huge pages, so large each; refused where the pool has too few.
    Huge(usize),
}

/// An anonymous, private, zeroed mapping; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    address: usize,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes. The kernel provides pages when they are first touched.
    pub fn new(length: usize, pages: Pages) -> Result<Mapping> {
        let page = match pages {
            Pages::Ordinary => rustix::param::page_size(),
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
        let mapping = match pages {
            // The kernel aligns huge pages by their size only; a larger alignment is cut out.
            _ if alignment > page => aligned(length, alignment, flags_of(pages))?,
            _ => map(length, flags_of(pages))?,
        };
        if pages == Pages::Ordinary {
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
        Pages::Ordinary => libc::MAP_NORESERVE,
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
    Ok(Mapping { address: address.expose_provenance(), length })
}

/// Maps more than is needed and gives back what stands before and after the aligned part.
fn aligned(length: usize, alignment: usize, flags: libc::c_int) -> Result<Mapping> {
    let Some(whole) = length.checked_add(alignment) else {
        return Err(Error::new(ErrorKind::InvalidArgument, "no address space is so large"));
    };
    let whole = map(whole, flags)?;
    let start = whole.address.next_multiple_of(alignment);
    let head = Mapping { address: whole.address, length: start - whole.address };
    let tail =
        Mapping { address: start + length, length: whole.address + whole.length - start - length };
    std::mem::forget(whole);
    drop((head, tail));
    Ok(Mapping { address: start, length })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length == 0 {
            return;
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
    fn impossible_sizes_are_refused() {
        assert!(Mapping::new(usize::MAX, Pages::Ordinary).is_err());
        assert!(Mapping::new(isize::MAX as usize, Pages::Ordinary).is_err());
        assert_eq!(Mapping::new(1, Pages::Huge(3)).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
