//! Copies between this process and another one of the host, made by the kernel.
//!
//! One call moves many blocks. The kernel checks every address on both sides, so memory that is not
//! mapped is an error, not a fault. Local ranges are leased for the length of the call. What the
//! other side's ranges may be is the caller's business.

use std::io;

use smallvec::SmallVec;

use crate::error::Result;
use crate::limits;

use super::region::Use;
use super::Region;

const BLOCKS: usize = limits::SHM_BLOCKS_PER_CALL;

/// Where the bytes go.
enum Way {
    Here,
    There,
}

/// Blocks to move in one call.
pub struct CrossCall<'a> {
    local: SmallVec<[libc::iovec; BLOCKS]>,
    remote: SmallVec<[libc::iovec; BLOCKS]>,
    region: Option<&'a Region>,
    uses: SmallVec<[Use<'a>; 4]>,
}

impl<'a> CrossCall<'a> {
    /// An empty call.
    pub fn new() -> CrossCall<'a> {
        CrossCall {
            local: SmallVec::new(),
            remote: SmallVec::new(),
            region: None,
            uses: SmallVec::new(),
        }
    }

    /// Blocks added so far.
    pub fn blocks(&self) -> usize {
        self.local.len()
    }

    /// Adds a block: `length` bytes at `address` of `region`, and at `remote` of the other process.
    pub fn push(
        &mut self,
        region: &'a Region,
        address: u64,
        remote: u64,
        length: usize,
    ) -> Result<()> {
        if self.region.is_some_and(|last| std::ptr::eq(last, region)) {
            region.check(address, length)?;
        } else {
            self.uses.push(region.use_range(address, length)?);
            self.region = Some(region);
        }
        let vector = |base: u64| libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(base as usize),
            iov_len: length,
        };
        self.local.push(vector(address));
        self.remote.push(vector(remote));
        Ok(())
    }

    /// Moves the blocks from the process `pid` into the regions. Returns the bytes moved, in order;
    /// fewer than all means that the first block that is not whole failed. `EFAULT` means that the
    /// first one did.
    pub fn read(self, pid: i32) -> io::Result<usize> {
        self.make(Way::Here, pid)
    }

    /// The same from the regions into the process. For the own process the caller has proved that
    /// the target is registered there.
    pub fn write(self, pid: i32) -> io::Result<usize> {
        self.make(Way::There, pid)
    }

    fn make(self, way: Way, pid: i32) -> io::Result<usize> {
        let copy = match way {
            Way::Here => libc::process_vm_readv,
            Way::There => libc::process_vm_writev,
        };
        let (local, remote) = (&self.local, &self.remote);
        let count = |vectors: &[libc::iovec]| vectors.len() as libc::c_ulong;
        // SAFETY: both arrays live across the call. Local ranges lie in regions that leases keep
        // registered and to which no Rust reference exists, and the memory of another process holds
        // no reference of this one; for the own process see `write`. The kernel checks that all
        // are mapped.
        let moved =
            unsafe { copy(pid, local.as_ptr(), count(local), remote.as_ptr(), count(remote), 0) };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }
}

impl Default for CrossCall<'_> {
    fn default() -> Self {
        CrossCall::new()
    }
}

/// Reads bytes of the process `pid` into memory of our own; fails unless all could be read.
pub fn peek(pid: i32, address: u64, into: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(address as usize),
        iov_len: into.len(),
    };
    // SAFETY: `into` is valid for writes of its length; the kernel checks the remote address.
    let moved = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    match usize::try_from(moved) {
        Ok(count) if count == into.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::*;
    use crate::error::ErrorKind;

    fn skipped(error: &io::Error) {
        let why = format_args!("the kernel does not copy between processes: {error}");
        crate::test_skip::skipped(why);
    }

    fn own_pid() -> i32 {
        std::process::id() as i32
    }

    #[test]
    fn blocks_move_both_ways_and_stay_in_their_regions() {
        let mut here = vec![0u8; 64];
        let mut there: Vec<u8> = (0..64).collect();
        let address = here.as_mut_ptr().expose_provenance() as u64;
        let remote = there.as_mut_ptr().expose_provenance() as u64;
        let region = Region::new(address as usize, 64, "*", Access::LOCAL, 0).unwrap();
        let mut call = CrossCall::new();
        call.push(&region, address, remote + 32, 8).unwrap();
        call.push(&region, address + 8, remote, 4).unwrap();
        for (at, length) in [(address + 60, 8), (address - 1, 1), (u64::MAX, 2)] {
            let refused = call.push(&region, at, remote, length).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotRegistered);
        }
        assert_eq!(call.blocks(), 2);
        match call.read(own_pid()) {
            Ok(moved) => assert_eq!(moved, 12),
            Err(error) => {
                skipped(&error);
                return;
            }
        }
        assert_eq!(here[..12], [32, 33, 34, 35, 36, 37, 38, 39, 0, 1, 2, 3]);
        let mut call = CrossCall::new();
        call.push(&region, address, remote + 1, 2).unwrap();
        assert_eq!(call.write(own_pid()).unwrap(), 2);
        assert_eq!(there[..4], [0, 32, 33, 3]);
        let mut call = CrossCall::new();
        call.push(&region, address, 4096, 2).unwrap();
        assert_eq!(call.read(own_pid()).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        region.close();
        let refused = CrossCall::new().push(&region, address, remote, 1).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unregistered);
    }

    #[test]
    fn a_peek_is_whole_or_an_error() {
        let secret = [7u8; 16];
        let address = secret.as_ptr().expose_provenance() as u64;
        let mut seen = [0; 16];
        if let Err(error) = peek(own_pid(), address, &mut seen) {
            skipped(&error);
            return;
        }
        assert_eq!(seen, secret);
        assert!(peek(own_pid(), 4096, &mut seen).is_err());
        assert!(peek(i32::MAX, address, &mut seen).is_err());
    }
}
