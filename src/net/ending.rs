//! The end of an engine, for those who wait for the network: their sleep ends with it.
//!
//! Begun once, by the thread that destroys the engine; looked at and waited for by any other.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, Sender};
use parking_lot::Mutex;
use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::error::{Error, ErrorKind, Result};

use super::wake::EventFd;

/// Whether the end has begun.
#[derive(Debug)]
pub struct Ending {
    has_begun: AtomicBool,
    /// Readable from then on.
    event: EventFd,
    /// Dropped then, which `heard` notices.
    bell: Mutex<Option<Sender<Infallible>>>,
    heard: Receiver<Infallible>,
}

impl Ending {
    /// One that has not begun. Takes an event descriptor.
    pub fn new() -> Result<Ending> {
        let (bell, heard) = bounded(0);
        Ok(Ending {
            has_begun: AtomicBool::new(false),
            event: EventFd::new()?,
            bell: Mutex::new(Some(bell)),
            heard,
        })
    }

    /// Begins it; false if it had begun before.
    pub fn begin(&self) -> bool {
        if self.has_begun.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.event.signal();
        self.bell.lock().take();
        true
    }

    /// True once it has begun.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// `Shutdown` once it has begun.
    pub fn check(&self) -> Result<()> {
        if self.has_begun() {
            return Err(Error::new(ErrorKind::Shutdown, "the engine is being destroyed"));
        }
        Ok(())
    }

    /// Never says anything, and is disconnected when the end begins.
    pub fn heard(&self) -> &Receiver<Infallible> {
        &self.heard
    }

    /// Sleeps until `source` can be read from, or written to if `write`; or until the end begins,
    /// or `timeout` is over. True if `source` is ready.
    pub fn wait(&self, source: BorrowedFd<'_>, write: bool, timeout: Duration) -> io::Result<bool> {
        let wanted = if write { PollFlags::OUT } else { PollFlags::IN };
        let event = self.event.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(source, wanted),
            PollFd::from_borrowed_fd(event, PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: timeout.as_secs().min(3600) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok(!fds[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn sleepers_of_all_kinds_wake() {
        let ending = Ending::new().unwrap();
        let (silent, _other) = UnixStream::pair().unwrap();
        assert!(ending.wait(silent.as_fd(), true, LONG).unwrap());
        assert!(!ending.wait(silent.as_fd(), false, Duration::ZERO).unwrap());
        assert!(ending.check().is_ok());
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!ending.wait(silent.as_fd(), false, LONG).unwrap()));
            scope.spawn(|| ending.heard().recv_timeout(LONG).unwrap_err());
            std::thread::sleep(Duration::from_millis(20));
            assert!(ending.begin());
        });
        assert!(!ending.begin());
        assert_eq!(ending.check().unwrap_err().kind(), ErrorKind::Shutdown);
        assert!(!ending.wait(silent.as_fd(), false, LONG).unwrap());
    }
}
