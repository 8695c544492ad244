//! Listening sockets on a fixed port or on one drawn from a range.
//!
//! A port is taken once and kept: the socket that found it free is the one that listens. Nothing
//! here knows what the port is for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Which port to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRule {
    /// This one; 0 leaves it to the kernel.
    Fixed(u16),
    /// Any of these, both ends included.
    Range {
        /// First.
        min: u16,
        /// Last.
        max: u16,
    },
}

/// A socket that listens, non-blocking, closed on exec. `bind` absent is every address: of both
/// families if `dual_stack` and the host has IPv6, else of IPv4.
pub fn bind_listener(
    bind: Option<IpAddr>,
    rule: PortRule,
    dual_stack: bool,
    backlog: u32,
) -> Result<TcpListener> {
    if let PortRule::Range { min, max } = rule {
        if min > max || min == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "port range is empty")
                .with("ports", rule_text(rule)));
        }
    }
    let address = bind.unwrap_or(match dual_stack {
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    });
    match listen_on_first(address, rule, dual_stack, backlog) {
        Err(failure) if bind.is_none() && failure.means_no_ipv6(address) => {
            let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            listen_on_first(any_v4, rule, false, backlog).map_err(|f| f.into_error(any_v4, rule))
        }
        result => result.map_err(|failure| failure.into_error(address, rule)),
    }
}

/// The last port tried, and what the kernel said.
struct Failure {
    port: u16,
    error: io::Error,
}

impl Failure {
    /// True when another port may do.
    fn is_about_the_port(&self) -> bool {
        // The second is the answer to ports below 1024.
        matches!(self.error.raw_os_error(), Some(libc::EADDRINUSE | libc::EACCES))
    }

    /// True when the host has no IPv6: not built in, or switched off.
    fn means_no_ipv6(&self, address: IpAddr) -> bool {
        address.is_ipv6()
            && matches!(
                self.error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
            )
    }

    fn into_error(self, address: IpAddr, rule: PortRule) -> Error {
        let errno = self.error.raw_os_error().unwrap_or(0);
        Error::io(ErrorKind::Resource, "cannot listen", self.error)
            .with("address", address)
            .with("port", self.port)
            .with("ports", rule_text(rule))
            .with("errno", errno)
    }
}

fn listen_on_first(
    address: IpAddr,
    rule: PortRule,
    dual_stack: bool,
    backlog: u32,
) -> std::result::Result<TcpListener, Failure> {
    let mut last = None;
    for port in candidates(rule, random_u32) {
        match listen(SocketAddr::new(address, port), dual_stack, backlog) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                let failure = Failure { port, error };
                if !failure.is_about_the_port() {
                    return Err(failure);
                }
                last = Some(failure);
            }
        }
    }
    // A rule has at least one port, so there is a last failure; the fallback is for the compiler.
    let nothing = || Failure { port: 0, error: io::Error::from_raw_os_error(libc::EADDRINUSE) };
    Err(last.unwrap_or_else(nothing))
}

/// The ports to try: random draws, so that engines that start together do not race for the same
/// ones, then the whole range, so that a free port is found if there is one.
fn candidates(
    rule: PortRule,
    mut random: impl FnMut() -> Option<u32>,
) -> impl Iterator<Item = u16> {
    let (min, max, draws) = match rule {
        PortRule::Fixed(port) => (port, port, 0),
        PortRule::Range { min, max } => (min, max, limits::PORT_DRAWS_MAX),
    };
    let count = u32::from(max - min) + 1;
    let drawn = (0..draws).map_while(move |_| random().map(|r| min + (r % count) as u16));
    drawn.chain(min..=max)
}

fn listen(address: SocketAddr, dual_stack: bool, backlog: u32) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of a former process that still linger do not keep the port from its successor.
    // On Linux this never lets two sockets listen on one port: the second bind or listen fails.
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

fn random_u32() -> Option<u32> {
    let mut bytes = [0_u8; 4];
    // SAFETY: the buffer is ours and as long as stated.
    let filled = unsafe {
        libc::getrandom(bytes.as_mut_ptr().cast::<libc::c_void>(), bytes.len(), libc::GRND_NONBLOCK)
    };
    (filled == bytes.len() as isize).then(|| u32::from_ne_bytes(bytes))
}

fn rule_text(rule: PortRule) -> String {
    match rule {
        PortRule::Fixed(port) => port.to_string(),
        PortRule::Range { min, max } => format!("{min}..{max}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;

    const LOCAL: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn port_of(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn candidates_are_drawn_and_then_swept() {
        let rule = PortRule::Range { min: 100, max: 109 };
        let mut state = 7_u32;
        let ports: Vec<u16> = candidates(rule, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(state >> 8)
        })
        .collect();
        let (drawn, swept) = ports.split_at(limits::PORT_DRAWS_MAX);
        assert!(drawn.iter().all(|port| (100..=109).contains(port)));
        assert!((100..=109).all(|port| drawn.contains(&port)), "both ends are drawn");
        assert_eq!(swept, (100..=109).collect::<Vec<u16>>());
        // Without randomness the sweep is all there is; so it is for the largest range.
        assert_eq!(candidates(rule, || None).count(), 10);
        let all = PortRule::Range { min: 1, max: u16::MAX };
        assert_eq!(candidates(all, || None).count(), 65_535);
        assert_eq!(candidates(PortRule::Fixed(80), || Some(1)).collect::<Vec<_>>(), [80]);
    }

    #[test]
    fn two_listeners_do_not_share_a_port() {
        let first = bind_listener(LOCAL, PortRule::Fixed(0), false, 8).unwrap();
        let port = port_of(&first);
        for rule in [PortRule::Fixed(port), PortRule::Range { min: port, max: port }] {
            let error = bind_listener(LOCAL, rule, false, 8).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Resource);
            assert_eq!(error.context("address"), Some("127.0.0.1"));
            assert_eq!(error.context("port"), Some(port.to_string().as_str()));
            assert_eq!(error.context("errno"), Some(libc::EADDRINUSE.to_string().as_str()));
        }
    }

    #[test]
    fn the_last_free_port_of_a_range_is_found() {
        // A run of neighbouring free ports; other programs may take one meanwhile, hence the tries.
        const COUNT: u16 = 4;
        for _ in 0..100 {
            let base = port_of(&bind_listener(LOCAL, PortRule::Fixed(0), false, 8).unwrap());
            let Some(max) = base.checked_add(COUNT - 1) else { continue };
            let rule = PortRule::Range { min: base, max };
            let taken: Vec<TcpListener> =
                (0..COUNT).map_while(|_| bind_listener(LOCAL, rule, false, 8).ok()).collect();
            if taken.len() == usize::from(COUNT) {
                let mut ports: Vec<u16> = taken.iter().map(port_of).collect();
                ports.sort_unstable();
                assert_eq!(ports, (base..=max).collect::<Vec<u16>>());
                assert!(bind_listener(LOCAL, rule, false, 8).is_err());
                return;
            }
        }
        panic!("no run of {COUNT} free ports in 100 tries");
    }

    #[test]
    fn a_port_with_lingering_connections_can_be_taken_again() {
        let listener = bind_listener(LOCAL, PortRule::Fixed(0), false, 8).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (served, _) = listener.accept().unwrap();
        // The serving side closes first, so it is its port that lingers.
        drop(served);
        drop(client);
        drop(listener);
        let again = bind_listener(LOCAL, PortRule::Fixed(address.port()), false, 8).unwrap();
        assert_eq!(again.local_addr().unwrap(), address);
    }

    #[test]
    fn listeners_do_not_block_and_close_on_exec() {
        let listener = bind_listener(LOCAL, PortRule::Fixed(0), false, 8).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // SAFETY: the descriptor is open while `listener` lives.
        let flags = unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFD) };
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
    }

    /// Runs `test` on a thread with a network of its own, where listening on every address
    /// disturbs nobody. False when this user may not have one.
    fn in_own_network(test: impl FnOnce() + Send + 'static) -> bool {
        std::thread::spawn(|| {
            // SAFETY: changes the network of this thread only, which ends with the test.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return false;
            }
            test();
            true
        })
        .join()
        .unwrap()
    }

    #[test]
    fn every_address_of_one_or_both_families() {
        let ran = in_own_network(|| {
            let both = bind_listener(None, PortRule::Fixed(15_000), true, 8).unwrap();
            let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 15_000));
            assert_eq!(both.local_addr().unwrap(), any_v6);
            // It holds the port in IPv4 too.
            assert!(bind_listener(None, PortRule::Fixed(15_000), false, 8).is_err());
            assert!(bind_listener(LOCAL, PortRule::Fixed(15_000), false, 8).is_err());
            drop(both);
            let only_v4 = bind_listener(None, PortRule::Fixed(15_000), false, 8).unwrap();
            assert!(only_v4.local_addr().unwrap().is_ipv4());
        });
        if !ran {
            crate::test_skip::skipped("no network namespace for this user");
        }
    }

    #[test]
    fn of_many_that_race_for_a_port_one_gets_it() {
        let ran = in_own_network(|| {
            const RACERS: usize = 8;
            for round in 0..50 {
                let rule = PortRule::Fixed(15_000 + round);
                let start = std::sync::Barrier::new(RACERS);
                let race = || {
                    start.wait();
                    bind_listener(None, rule, true, 8)
                };
                let results: Vec<_> = std::thread::scope(|scope| {
                    let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
                    racers.into_iter().map(|racer| racer.join().unwrap()).collect()
                });
                assert!(results.iter().filter(|result| result.is_ok()).count() <= 1);
                // Racers may all have seen each other; the port is not lost by that.
                drop(results);
                assert!(bind_listener(None, rule, true, 8).is_ok());
            }
        });
        if !ran {
            crate::test_skip::skipped("no network namespace for this user");
        }
    }

    #[test]
    fn refusals() {
        let elsewhere = Some("203.0.113.1".parse().unwrap());
        let rule = PortRule::Range { min: 20_000, max: 20_010 };
        let error = bind_listener(elsewhere, rule, false, 8).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resource);
        assert_eq!(error.context("errno"), Some(libc::EADDRNOTAVAIL.to_string().as_str()));
        for (min, max) in [(5, 4), (0, 10)] {
            let error = bind_listener(LOCAL, PortRule::Range { min, max }, false, 8).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn only_a_missing_family_falls_back_to_ipv4() {
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let failure = |errno| Failure { port: 1, error: io::Error::from_raw_os_error(errno) };
        assert!(failure(libc::EAFNOSUPPORT).means_no_ipv6(v6));
        assert!(failure(libc::EADDRNOTAVAIL).means_no_ipv6(v6));
        assert!(!failure(libc::EADDRINUSE).means_no_ipv6(v6));
        assert!(!failure(libc::EADDRNOTAVAIL).means_no_ipv6(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
}
