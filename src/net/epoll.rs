//! A thin epoll: tokens in, readiness out. Registration is thread-safe.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;

use crate::error::{Error, ErrorKind, Result};

/// What to be told about a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Readable, or closed by the peer.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// The peer has ended its side.
    pub end: bool,
    /// Tell once, then stay silent until the interest is set again.
    pub once: bool,
}

impl Interest {
    /// Readable, every time.
    pub const READ: Interest = Interest { read: true, write: false, end: true, once: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::RDHUP, self.end);
        flags.set(EventFlags::OUT, self.write);
        flags.set(EventFlags::ONESHOT, self.once);
        flags
    }
}

/// One readiness report.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The token given at registration.
    pub token: u64,
    /// Something can be read, or the peer is gone.
    pub readable: bool,
    /// Something can be written, or the peer is gone.
    pub writable: bool,
    /// The connection is broken, or closed in both directions: reported whatever was asked for, and
    /// every time, until the descriptor is closed.
    pub over: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// A new one, close-on-exec.
    pub fn new() -> Result<Epoll> {
        match epoll::create(CreateFlags::CLOEXEC) {
            Ok(fd) => Ok(Epoll { fd }),
            Err(errno) => {
                Err(Error::io(ErrorKind::Resource, "cannot create an epoll", errno.into()))
            }
        }
    }

    /// Starts watching a descriptor. It leaves by itself when it is closed.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> Result<()> {
        epoll::add(&self.fd, fd, EventData::new_u64(token), interest.flags()).map_err(|errno| {
            Error::io(ErrorKind::Resource, "cannot watch a descriptor", errno.into())
        })
    }

    /// Changes what is watched.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> Result<()> {
        epoll::modify(&self.fd, fd, EventData::new_u64(token), interest.flags()).map_err(|errno| {
            Error::io(ErrorKind::Resource, "cannot watch a descriptor", errno.into())
        })
    }

    /// Stops watching.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        // Fails only for a descriptor that is not watched, which is what is wanted.
        let _ = epoll::delete(&self.fd, fd);
    }

    /// Waits for at most `timeout` (`None`: until something happens) and replaces `events`.
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<()> {
        const EVENTS: usize = 128;
        let mut raw = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().min(3600) as i64,
            tv_nsec: t.subsec_nanos().into(),
        });
        events.clear();
        match epoll::wait(&self.fd, &mut raw, timeout.as_ref()) {
            Ok((ready, _)) => {
                let gone = EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP;
                events.extend(ready.iter().map(|event| {
                    let flags = event.flags;
                    Event {
                        token: event.data.u64(),
                        readable: flags.intersects(EventFlags::IN | gone),
                        writable: flags.intersects(EventFlags::OUT | gone),
                        over: flags.intersects(EventFlags::HUP | EventFlags::ERR),
                    }
                }));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::io(ErrorKind::Internal, "epoll failed", errno.into())),
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
