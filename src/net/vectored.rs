//! Vectored, non-blocking socket I/O straight between a socket and registered memory.
//!
//! A [`Pieces`] list names parts of a private byte arena and parts of registered regions, in
//! stream order. It holds a lease on every region it names, so the memory cannot be unregistered
//! during the call; callers clear the list right after the call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use crate::error::Result;
use crate::limits;
use crate::memory::{Lease, Region};

#[derive(Debug, Clone, Copy)]
enum Piece {
    Arena { offset: usize, length: usize },
    Region { address: usize, length: usize },
}

/// A list of memory pieces for one vectored call. Reused, so that a call allocates nothing.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Vec<Piece>,
    leases: Vec<Lease>,
    vectors: Vec<libc::iovec>,
    bytes: usize,
}

// SAFETY: the raw pointers in `vectors` are written and used within one call only; between calls
// they are never read. Everything else in the struct is Send.
unsafe impl Send for Pieces {}

impl Pieces {
    /// Forgets all pieces and gives back the leases.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.leases.clear();
        self.bytes = 0;
    }

    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// True when no further piece fits into one call.
    pub fn is_full(&self) -> bool {
        self.pieces.len() >= limits::IOV_MAX
    }

    /// True when only one piece more fits.
    pub fn is_nearly_full(&self) -> bool {
        self.pieces.len() + 1 >= limits::IOV_MAX
    }

    /// Total bytes named.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a part of the arena that is given to the call.
    pub fn push_arena(&mut self, offset: usize, length: usize) {
        if length > 0 {
            self.pieces.push(Piece::Arena { offset, length });
            self.bytes += length;
        }
    }

    /// Adds a part of a region; fails if the region is gone or does not contain the range.
    pub fn push_region(&mut self, region: &Arc<Region>, address: u64, length: usize) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let leased = self.leases.last().is_some_and(|l| Arc::ptr_eq(l.region(), region));
        if !leased {
            self.leases.push(region.lease()?);
        }
        if !region.contains(address, length as u64) {
            return Err(crate::error::Error::new(
                crate::error::ErrorKind::NotRegistered,
                "the range leaves its registered buffer",
            ));
        }
        self.pieces.push(Piece::Region { address: address as usize, length });
        self.bytes += length;
        Ok(())
    }

    /// Sends from the pieces; returns the bytes taken by the kernel. Never blocks, never raises
    /// SIGPIPE. `ErrorKind::WouldBlock` means that the socket is full.
    pub fn send(&mut self, socket: BorrowedFd<'_>, arena: &[u8]) -> io::Result<usize> {
        self.resolve(arena.as_ptr() as *mut u8, arena.len())?;
        let message = self.message();
        // SAFETY: `message` points to `vectors`, which live until the call returns. Each vector
        // lies in `arena`, borrowed for the call, or in a region that a lease keeps registered.
        // sendmsg only reads from them.
        let sent = unsafe {
            libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        result(sent)
    }

    /// Receives into the pieces; 0 means that the peer closed its side. Never blocks.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, arena: &mut [u8]) -> io::Result<usize> {
        self.resolve(arena.as_mut_ptr(), arena.len())?;
        let mut message = self.message();
        // SAFETY: as for `send`; `arena` is borrowed mutably, so nobody else sees it, and regions
        // are raw memory to which no Rust reference exists.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        result(received)
    }

    /// Copies `bytes` into the pieces, which must all be of regions and hold as many bytes. Memory
    /// that is not mapped, or not host memory, is an error of the kernel instead of a fault of this
    /// process. Returns the bytes copied; `EFAULT` means that the first piece is bad.
    pub fn scatter(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut nothing = [];
        self.resolve(nothing.as_mut_ptr(), 0)?;
        let local =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: `local` is `bytes`, which the call only reads. The targets lie in regions that
        // leases keep registered and to which no Rust reference exists; the kernel checks them.
        let copied = unsafe {
            libc::process_vm_writev(
                std::process::id() as libc::pid_t,
                &local,
                1,
                self.vectors.as_ptr(),
                self.vectors.len() as libc::c_ulong,
                0,
            )
        };
        match result(copied) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                Ok(self.scatter_unchecked(bytes))
            }
            other => other,
        }
    }

    /// Where a sandbox forbids the checked copy: trusts the owner's word that the memory is mapped.
    fn scatter_unchecked(&self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        for vector in &self.vectors {
            let (now, later) = rest.split_at(vector.iov_len.min(rest.len()));
            // SAFETY: the target lies in a region that a lease keeps registered; its owner promised
            // that registered memory is mapped and writable. `bytes` is ours alone.
            unsafe {
                std::ptr::copy_nonoverlapping(now.as_ptr(), vector.iov_base.cast(), now.len());
            }
            rest = later;
        }
        bytes.len() - rest.len()
    }

    fn resolve(&mut self, arena: *mut u8, arena_length: usize) -> io::Result<()> {
        self.vectors.clear();
        for piece in self.pieces.iter().take(limits::IOV_MAX) {
            let (base, length) = match *piece {
                Piece::Arena { offset, length } => {
                    if offset.checked_add(length).is_none_or(|end| end > arena_length) {
                        return Err(io::Error::from_raw_os_error(libc::EINVAL));
                    }
                    (arena.wrapping_add(offset), length)
                }
                Piece::Region { address, length } => (address as *mut u8, length),
            };
            self.vectors.push(libc::iovec { iov_base: base.cast(), iov_len: length });
        }
        Ok(())
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: msghdr is a plain C struct for which all zero bytes are a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.vectors.as_mut_ptr();
        message.msg_iovlen = self.vectors.len() as _;
        message
    }
}

/// Receives into bytes of our own; 0 means that the peer closed its side. Never blocks.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` is valid for writes of its length during the call.
    let received = unsafe {
        libc::recv(socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT)
    };
    result(received)
}

/// Sends bytes of our own. Never blocks, never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length during the call.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    result(sent)
}

/// Bytes sent that the other side's kernel has not acknowledged; `None` if that cannot be told.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ for sockets, writes one int to the address given.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if status != 0 {
        return None;
    }
    usize::try_from(bytes).ok()
}

fn result(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}
