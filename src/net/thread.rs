//! Threads of this library: named, bounded, deaf to signals.

use std::thread::JoinHandle;

use crate::error::{Error, ErrorKind, Result};

/// Starts a thread with all signals blocked, so that handlers of the host run on its own threads.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let blocked = BlockedSignals::new();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    drop(blocked);
    thread.map_err(|error| {
        Error::io(ErrorKind::Resource, "cannot start a thread", error).with("thread", name)
    })
}

/// Blocks all signals of the calling thread until dropped; a new thread inherits the mask, so it
/// never runs unblocked.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> BlockedSignals {
        // SAFETY: sigset_t is a plain C struct; sigfillset and pthread_sigmask write it before it
        // is read.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `all` is valid for writes.
        unsafe { libc::sigfillset(&mut all) };
        // SAFETY: both sets are valid; only the calling thread's mask changes.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
        BlockedSignals { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` was filled in by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn threads_have_their_name_and_no_signals() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = super::spawn("mc-test-name", move || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            sender.send(status).unwrap();
        })
        .unwrap();
        let status = receiver.recv().unwrap();
        thread.join().unwrap();
        assert!(status.contains("mc-test-name"));
        let blocked = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap();
        let mask = u64::from_str_radix(blocked.split_whitespace().nth(1).unwrap(), 16).unwrap();
        let sigint = 1 << (libc::SIGINT - 1);
        assert_eq!(mask & sigint, sigint);
    }
}
