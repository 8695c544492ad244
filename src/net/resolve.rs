//! Names to addresses, within a time.
//!
//! The system's resolver cannot be interrupted, so a name is asked for on a thread of its own and
//! abandoned when time is over; the thread ends when the resolver gives up. Their number is
//! bounded. Addresses cost no thread.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{bounded, never, select};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

use super::address::{self, Family};
use super::ending::Ending;
use super::thread;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// As [`address::resolve`], but never longer than `timeout`.
pub fn resolve_within(
    host: &str,
    port: u16,
    family: Family,
    timeout: Duration,
) -> Result<Vec<SocketAddr>> {
    look_up(host, port, family, timeout, None, address::resolve)
}

/// As [`resolve_within`], and not longer than an engine lives.
pub fn resolve_before(
    host: &str,
    port: u16,
    family: Family,
    timeout: Duration,
    ending: &Ending,
) -> Result<Vec<SocketAddr>> {
    look_up(host, port, family, timeout, Some(ending), address::resolve)
}

fn look_up(
    host: &str,
    port: u16,
    family: Family,
    timeout: Duration,
    ending: Option<&Ending>,
    ask: impl FnOnce(&str, u16, Family) -> Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>> {
    if address::literal(host).is_some() {
        return address::resolve(host, port, family);
    }
    ending.map_or(Ok(()), Ending::check)?;
    let place = |error: Error| error.with("host", host.escape_debug());
    let late = || {
        let text = "the system's resolver did not answer in time";
        place(Error::new(ErrorKind::Timeout, text))
    };
    if timeout.is_zero() {
        return Err(late());
    }
    let Some(slot) = Slot::take() else {
        return Err(place(Error::new(
            ErrorKind::LimitReached,
            "too many name look-ups are waiting for the system's resolver",
        )));
    };
    let (sender, receiver) = bounded(1);
    let asked = host.to_owned();
    thread::spawn("mc-resolve", move || {
        let _slot = slot;
        // Nobody may be listening any more.
        let _ = sender.send(ask(&asked, port, family));
    })?;
    let nothing = never();
    let end = ending.map_or(&nothing, Ending::heard);
    select! {
        recv(receiver) -> found => found.unwrap_or_else(|_| {
            Err(place(Error::new(ErrorKind::Internal, "the look-up ended without an answer")))
        }),
        recv(end) -> _ => {
            Err(place(Error::new(ErrorKind::Shutdown, "the engine is being destroyed")))
        }
        default(timeout) => Err(late()),
    }
}

/// One of the look-ups that may run.
struct Slot;

impl Slot {
    fn take() -> Option<Slot> {
        let taken = RUNNING.fetch_add(1, Ordering::Relaxed) < limits::NAME_LOOKUPS_MAX;
        // Made first, so that it gives the count back in either case.
        let slot = Slot;
        taken.then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_no_time() {
        let second = Duration::from_secs(1);
        let expected: SocketAddr = "[::1]:5".parse().unwrap();
        assert_eq!(resolve_within("[::1]", 5, Family::Any, second).unwrap(), [expected]);
        let minute = Duration::from_secs(60);
        let found = resolve_within("localhost", 5, Family::Any, minute).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        let error = resolve_within("localhost", 5, Family::Any, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }

    #[test]
    fn a_resolver_that_hangs_holds_up_nobody() {
        let (release, hang) = bounded::<()>(0);
        let stuck = || {
            let hang = hang.clone();
            move |_: &str, _, _| {
                let _ = hang.recv();
                Ok(Vec::new())
            }
        };
        let hour = Duration::from_secs(3600);
        let short = Duration::from_millis(20);
        let error = look_up("name", 5, Family::Any, short, None, stuck()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let ending = Ending::new().unwrap();
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| look_up("name", 5, Family::Any, hour, Some(&ending), stuck()));
            std::thread::sleep(short);
            ending.begin();
            assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Shutdown);
        });
        let error = resolve_before("name", 5, Family::Any, hour, &ending).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shutdown);
        drop(release);
    }
}
