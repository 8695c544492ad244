//! Ports for servers that a test starts and stops: no other test program gets the same one.
//!
//! A port that "was free a moment ago" is soon somebody else's, and one of the range that the
//! kernel draws from can even connect to itself while its server is not up yet. These lie below
//! that range and are reserved by the name of an abstract socket, which ends with the process.
//! `tests/harness/ports.py` reserves from the same names.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Above the ports that engines choose for themselves (12300 to 17000), below the kernel's range.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Held until the process ends.
static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 and ::1 that is this process's until it ends.
pub fn free_port() -> u16 {
    let mut reserved = RESERVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Two programs start at different places, so that they seldom try the same names.
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for step in 0..u32::from(COUNT) {
        let port = FIRST + ((start + step) % u32::from(COUNT)) as u16;
        let name = SocketAddr::from_abstract_name(format!("mooncake-test-port-{port}")).unwrap();
        let Ok(reservation) = UnixListener::bind_addr(&name) else { continue };
        reserved.push(reservation);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {FIRST} and the {COUNT} after it is free");
}
