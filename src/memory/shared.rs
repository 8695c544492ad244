//! Memory that two processes of one host map: anonymous files whose size is sealed.
//!
//! [`SharedFile`] is a file of our own, [`Foreign`] a mapping of one that a peer sent. Both sides
//! may write what the other reads at any time, so nothing here is ever a Rust reference, except
//! single words, which are atomics. A peer cannot take mapped memory away: before anything is
//! mapped the file is checked to be ordinary memory of the kernel whose size nobody can change, so
//! an access inside of it is never a SIGBUS. Any thread; owns the mappings it makes and nothing
//! else.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock, Weak};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::error::{Error, ErrorKind, Result};

use super::Region;

/// Bytes of one word.
const WORD: usize = 8;

/// What makes mapped pages stay: nobody can make the file shorter or longer.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// `f_type` of files that are ordinary memory. Huge pages have another one: a hole in those can
/// be a SIGBUS when the pool of them is empty.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A file of shared memory that this process made. Its bytes begin as zeros.
#[derive(Debug)]
pub struct SharedFile {
    fd: OwnedFd,
    length: usize,
}

impl SharedFile {
    /// A new one of `length` bytes, rounded up to pages, whose size is sealed. `name` is for people
    /// who look into `/proc`.
    pub fn new(name: &str, length: usize) -> Result<SharedFile> {
        let refuse = |errno: rustix::io::Errno| {
            Error::io(ErrorKind::Resource, "cannot make shared memory", errno.into())
                .with("length_bytes", length)
        };
        let page = rustix::param::page_size();
        let length = length.max(1).checked_next_multiple_of(page);
        let Some(length) = length.filter(|length| *length < isize::MAX as usize) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "no address space is so large"));
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(refuse)?;
        rustix::fs::ftruncate(&fd, length as u64).map_err(refuse)?;
        rustix::fs::fcntl_add_seals(&fd, SIZE_SEALS).map_err(refuse)?;
        Ok(SharedFile { fd, length })
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The descriptor to give to a peer that may write.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// From now on only mappings that exist can write, where the kernel can do that (5.1). Returns
    /// a descriptor that can only be read from, for peers.
    pub fn seal_for_readers(&self) -> Result<OwnedFd> {
        // An older kernel lacks the seal; then the descriptor alone forbids it.
        let _ = rustix::fs::fcntl_add_seals(&self.fd, SealFlags::FUTURE_WRITE);
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            Error::io(ErrorKind::Resource, "cannot open own shared memory", errno.into())
        })
    }

    /// Maps the whole file for reading and writing.
    pub fn map(&self) -> Result<SharedWords> {
        Ok(SharedWords(View::map(self.fd.as_fd(), self.length, true)?))
    }

    /// Gives all pages back to the system, whoever has them mapped.
    fn empty(&self) {
        let flags =
            rustix::fs::FallocateFlags::PUNCH_HOLE.union(rustix::fs::FallocateFlags::KEEP_SIZE);
        // A kernel that cannot do it frees them with the last mapping.
        let _ = rustix::fs::fallocate(&self.fd, flags, 0, self.length as u64);
    }
}

/// A mapping of a file whose size is sealed; unmapped when dropped.
#[derive(Debug)]
struct View {
    address: usize,
    length: usize,
}

impl View {
    fn map(fd: BorrowedFd<'_>, length: usize, is_writable: bool) -> Result<View> {
        let write = if is_writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | write,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            return Err(Error::io(ErrorKind::Resource, "cannot map shared memory", error)
                .with("length_bytes", length));
        }
        Ok(View { address: address.expose_provenance(), length })
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        let end = index.checked_add(1)?.checked_mul(WORD)?;
        if end > self.length {
            return None;
        }
        let address = self.address + end - WORD;
        // SAFETY: the word lies inside the mapping, which lives as long as the borrow, begins at a
        // page and is aligned to words. Whoever else maps it reaches it from another process, or
        // by this function, as atomics.
        Some(unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(address)) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and belongs to this value alone; words are borrowed
        // from it, and copies borrow it for their length.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.length) };
    }
}

/// Shared memory as words that may change at any time.
#[derive(Debug)]
pub struct SharedWords(View);

impl SharedWords {
    /// Word `index`, or `None` beyond the end. Words of memory that is mapped for reading only must
    /// be loaded with `Relaxed`.
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.0.word(index)
    }

    /// Maps words that a peer sent, of exactly `length` bytes.
    pub fn of_peer(fd: BorrowedFd<'_>, length: usize, is_writable: bool) -> Result<SharedWords> {
        let found = sealed_length(fd)?;
        if found != length {
            return Err(Error::new(ErrorKind::Protocol, "shared memory of another size")
                .with("length_bytes", found)
                .with("expected_bytes", length));
        }
        Ok(SharedWords(View::map(fd, length, is_writable)?))
    }
}

/// Memory of a peer, mapped here.
#[derive(Debug)]
pub struct Foreign(View);

impl Foreign {
    /// Maps what a peer sent, for reading and writing.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Foreign> {
        let length = sealed_length(fd)?;
        Ok(Foreign(View::map(fd, length, true)?))
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.0.length
    }

    fn at(&self, offset: u64, length: usize) -> Result<usize> {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(length));
        match end {
            Some(end) if end <= self.0.length => Ok(self.0.address + end - length),
            _ => Err(Error::new(ErrorKind::RemoteRange, "the range leaves the peer's memory")
                .with("offset", offset)
                .with("length_bytes", length)),
        }
    }

    /// Copies `length` bytes at `offset` to `address` of `region`.
    pub fn read(&self, offset: u64, region: &Region, address: u64, length: usize) -> Result<()> {
        let from = self.at(offset, length)?;
        let _use = region.use_range(address, length)?;
        // SAFETY: both ranges were checked, one to lie inside this mapping, whose pages nobody can
        // take away, one inside a region that the lease keeps registered and that its owner
        // promised to be mapped. `copy` allows for one memory behind both.
        unsafe {
            ptr::copy(
                ptr::with_exposed_provenance::<u8>(from),
                ptr::with_exposed_provenance_mut::<u8>(address as usize),
                length,
            );
        }
        Ok(())
    }

    /// Copies `length` bytes at `address` of `region` to `offset`.
    pub fn write(&self, offset: u64, region: &Region, address: u64, length: usize) -> Result<()> {
        let to = self.at(offset, length)?;
        let _use = region.use_range(address, length)?;
        // SAFETY: as for `read`, the other way round.
        unsafe {
            ptr::copy(
                ptr::with_exposed_provenance::<u8>(address as usize),
                ptr::with_exposed_provenance_mut::<u8>(to),
                length,
            );
        }
        Ok(())
    }
}

/// The size of a descriptor from a peer, if it is memory that stays as it is.
fn sealed_length(fd: BorrowedFd<'_>) -> Result<usize> {
    let refuse = |why: &'static str| Error::new(ErrorKind::Protocol, why);
    let seals = rustix::fs::fcntl_get_seals(fd)
        .map_err(|_| refuse("the descriptor of a peer is not shared memory"))?;
    if !seals.contains(SIZE_SEALS) {
        return Err(refuse("the size of a peer's shared memory is not sealed"));
    }
    let system =
        rustix::fs::fstatfs(fd).map_err(|_| refuse("a peer's memory cannot be looked at"))?;
    if system.f_type as u64 != TMPFS_MAGIC {
        return Err(refuse("a peer's shared memory is not ordinary memory"));
    }
    let stat = rustix::fs::fstat(fd).map_err(|_| refuse("a peer's memory cannot be looked at"))?;
    match usize::try_from(stat.st_size) {
        Ok(length) if length > 0 && length < isize::MAX as usize => Ok(length),
        _ => Err(refuse("a peer's shared memory has no usable size")),
    }
}

/// The file behind a range of this process's own memory.
#[derive(Debug)]
pub struct Backing {
    file: SharedFile,
    address: usize,
}

impl Backing {
    /// The descriptor to give to a peer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.fd()
    }
}

/// Memory of this process that has a file behind it, by address.
static BACKINGS: RwLock<BTreeMap<usize, Weak<Backing>>> = RwLock::new(BTreeMap::new());

/// Remembers that the memory at `address` is `file`, until the answer is dropped.
pub(super) fn remember(file: SharedFile, address: usize) -> Arc<Backing> {
    let backing = Arc::new(Backing { file, address });
    let mut all = BACKINGS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.insert(address, Arc::downgrade(&backing));
    backing
}

/// Forgets it, and gives the memory back, also where a peer still maps it.
pub(super) fn forget(backing: &Backing) {
    let mut all = BACKINGS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.remove(&backing.address);
    backing.file.empty();
}

/// The file behind exactly this range, up to the end of its last page. A part of the memory of a
/// file has none: whoever got the file could reach the rest.
pub fn backing_of(address: usize, length: usize) -> Option<Arc<Backing>> {
    let all = BACKINGS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let backing = all.get(&address)?.upgrade()?;
    let whole = length.checked_next_multiple_of(rustix::param::page_size())?;
    (whole == backing.file.length()).then_some(backing)
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn words_are_shared_and_end_where_the_file_ends() {
        let file = SharedFile::new("mc-test", 100).unwrap();
        let own = file.map().unwrap();
        let reader = file.seal_for_readers().unwrap();
        let other = SharedWords::of_peer(reader.as_fd(), file.length(), false).unwrap();
        own.word(511).unwrap().store(7, Ordering::SeqCst);
        assert_eq!(other.word(511).unwrap().load(Ordering::Relaxed), 7);
        assert!(other.word(512).is_none());
        assert!(other.word(usize::MAX).is_none());
        assert!(SharedWords::of_peer(reader.as_fd(), 8192, false).is_err());
        // A reader cannot become a writer.
        assert!(SharedWords::of_peer(reader.as_fd(), file.length(), true).is_err());
    }

    #[test]
    fn only_sealed_ordinary_memory_is_mapped() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let open = rustix::fs::memfd_create("mc-test", flags).unwrap();
        rustix::fs::ftruncate(&open, 4096).unwrap();
        assert!(Foreign::map(open.as_fd()).is_err());
        rustix::fs::fcntl_add_seals(&open, SealFlags::SHRINK).unwrap();
        assert!(Foreign::map(open.as_fd()).is_err());
        rustix::fs::fcntl_add_seals(&open, SealFlags::GROW).unwrap();
        assert_eq!(Foreign::map(open.as_fd()).unwrap().length(), 4096);
        let empty = rustix::fs::memfd_create("mc-test", flags).unwrap();
        rustix::fs::fcntl_add_seals(&empty, SIZE_SEALS).unwrap();
        assert!(Foreign::map(empty.as_fd()).is_err());
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Foreign::map(file.as_fd()).is_err());
    }

    #[test]
    fn copies_stay_inside_the_file_and_the_region() {
        let file = SharedFile::new("mc-test", 4096).unwrap();
        let foreign = Foreign::map(file.fd()).unwrap();
        let mut bytes = [1u8, 2, 3, 4, 0, 0, 0, 0];
        let address = bytes.as_mut_ptr().expose_provenance();
        let region = Region::new(address, 8, "*", Access::LOCAL, 0).unwrap();
        let at = address as u64;
        foreign.write(4092, &region, at, 4).unwrap();
        foreign.read(4092, &region, at + 4, 4).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 1, 2, 3, 4]);
        for (offset, address, length) in [
            (4093, at, 4),
            (u64::MAX, at, 4),
            (0, at + 5, 4),
            (0, at - 1, 4),
            (0, at, 4097),
            (0, at, usize::MAX),
        ] {
            assert!(foreign.read(offset, &region, address, length).is_err());
            assert!(foreign.write(offset, &region, address, length).is_err());
        }
        region.close();
        assert!(foreign.read(0, &region, at, 4).is_err());
    }
}
