//! Event descriptors: the way to wake a thread that sleeps in `poll` or `epoll`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{eventfd, EventfdFlags};

use crate::error::{Error, ErrorKind, Result};

/// A non-blocking, close-on-exec eventfd.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, not signalled.
    pub fn new() -> Result<EventFd> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(EventFd).map_err(|errno| {
            Error::io(ErrorKind::Resource, "cannot create an event descriptor", errno.into())
        })
    }

    /// Makes it readable. Signalling twice is the same as once.
    pub fn signal(&self) {
        // The only possible failure is a counter at its maximum, and then it is readable anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }

    /// True while readable.
    pub fn is_signalled(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sleeps until `event` is signalled, one of the sources is ready, or the time is over. Sources are
/// raw: another thread may close one meanwhile, which at worst costs the rest of the time, so
/// callers keep `timeout` short. True if `event` is signalled.
pub fn sleep_on(event: &EventFd, sources: &[(RawFd, bool)], timeout: Duration) -> bool {
    // A thread waits on few connections; more than this are woken by `event` or the time.
    const SOURCES: usize = 64;
    let unused = libc::pollfd { fd: -1, events: 0, revents: 0 };
    let mut fds = [unused; SOURCES + 1];
    fds[0] = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let count = sources.len().min(SOURCES);
    for (slot, (fd, writable)) in fds[1..].iter_mut().zip(sources) {
        let events = libc::POLLIN | if *writable { libc::POLLOUT } else { 0 };
        *slot = libc::pollfd { fd: *fd, events, revents: 0 };
    }
    let time = libc::timespec {
        tv_sec: timeout.as_secs().min(3600) as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: `fds` holds `count + 1` initialised elements and lives until the call returns; a
    // descriptor that is no longer open is reported in `revents`, nothing else happens to it.
    let ready = unsafe {
        libc::ppoll(fds.as_mut_ptr(), (count + 1) as libc::nfds_t, &time, std::ptr::null())
    };
    ready > 0 && fds[0].revents != 0
}
