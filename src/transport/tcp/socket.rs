//! Socket options of data connections, and connecting without blocking.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::error::{Error, ErrorKind, Result};

use super::settings::Settings;

/// Starts a connection; [`connected`] tells how it went.
pub(super) fn connect(address: SocketAddr, settings: &Settings) -> Result<TcpStream> {
    let failed = |what: &'static str| {
        move |error| Error::io(ErrorKind::Resource, what, error).with("address", address)
    };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
        .map_err(failed("cannot create a socket"))?;
    socket.set_nonblocking(true).map_err(failed("cannot set a socket non-blocking"))?;
    if is_this_host(address.ip()) {
        set_congestion(&socket, &settings.local_congestion);
    }
    tune(SockRef::from(&socket), settings);
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => {
            return Err(
                Error::io(ErrorKind::Unreachable, "cannot connect", error).with("address", address)
            )
        }
    }
    Ok(socket.into())
}

/// `Ok(true)` once connected, `Ok(false)` while under way.
pub(super) fn connected(stream: &TcpStream) -> std::io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now))? == 0 {
        return Ok(false);
    }
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(true),
    }
}

/// Options for an accepted connection.
pub(super) fn accepted(stream: &TcpStream, peer: SocketAddr, settings: &Settings) -> Result<()> {
    stream.set_nonblocking(true).map_err(|error| {
        Error::io(ErrorKind::Resource, "cannot set a socket non-blocking", error)
    })?;
    let socket = SockRef::from(stream);
    let own = stream.local_addr().map(|address| address.ip().to_canonical());
    let peer = peer.ip().to_canonical();
    if peer.is_loopback() || own.is_ok_and(|own| own == peer) {
        set_congestion(&socket, &settings.local_congestion);
    }
    tune(socket, settings);
    Ok(())
}

/// A dead peer is noticed by unacknowledged data or, on an idle connection, by keep-alive probes,
/// which also keep middleboxes from forgetting the connection. None of the options is vital, so a
/// kernel that refuses one is not an error.
fn tune(socket: SockRef<'_>, settings: &Settings) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(settings.keepalive)
        .with_interval((settings.keepalive / 3).max(Duration::from_secs(1)))
        .with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(settings.progress_timeout));
}

/// Pacing congestion controls halve the rate of a connection that never leaves the host.
fn set_congestion(socket: &Socket, name: &str) {
    if !name.is_empty() {
        let _ = socket.set_tcp_congestion(name.as_bytes());
    }
}

fn is_this_host(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Makes the kernel answer everything that arrives from now on with a reset.
pub(super) fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}
