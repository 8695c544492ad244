//! The master behind an address, or behind one of several of which one answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::rpc::client::{ClientOptions, MasterClient};
use crate::rpc::dialect;
use crate::rpc::message::{Call, Reply};
use crate::time::Deadline;

use super::master::{Dialect, Master};

/// Calls the first address until it fails, then the next one.
pub(super) struct RpcMaster {
    client: MasterClient,
    addresses: Vec<String>,
    /// Which address is called; the position in the list.
    current: AtomicUsize,
}

impl RpcMaster {
    /// Opens nothing yet. `addresses` is one address or a list with commas.
    pub(super) fn new(addresses: &str, connect_timeout: Duration) -> Result<RpcMaster> {
        let addresses: Vec<String> = addresses
            .split([',', ';'])
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .take(limits::METADATA_ENDPOINTS_MAX)
            .collect();
        let Some(first) = addresses.first() else {
            return Err(Error::new(ErrorKind::InvalidAddress, "no master address is given"));
        };
        let options = ClientOptions { connect_timeout, ..ClientOptions::new(first.clone()) };
        let client = MasterClient::new(options)?;
        Ok(RpcMaster { client, addresses, current: AtomicUsize::new(0) })
    }

    /// Turns to the next address, once for each failure of the present one.
    fn turn(&self, failed: usize) -> Result<()> {
        let next = (failed + 1) % self.addresses.len();
        let won = self.current.compare_exchange(failed, next, Ordering::AcqRel, Ordering::Acquire);
        match (won, self.addresses.get(next)) {
            (Ok(_), Some(address)) => self.client.redirect(address),
            _ => Ok(()),
        }
    }
}

impl Master for RpcMaster {
    fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply> {
        let mut tries = self.addresses.len();
        loop {
            let current = self.current.load(Ordering::Acquire);
            let error = match self.client.call(call, deadline) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            tries -= 1;
            // These mean that the call was not made, so another master may take it.
            let is_away = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::PeerDown);
            if !is_away || self.addresses.len() == 1 || self.turn(current).is_err() || tries == 0 {
                return Err(error);
            }
        }
    }

    fn dialect(&self) -> Dialect {
        match self.client.dialect() {
            Some(dialect::Dialect::Native) => Dialect::Native,
            _ => Dialect::Upstream,
        }
    }

    fn close(&self) {
        self.client.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_when_they_are_given() {
        for (text, kind) in [("", ErrorKind::InvalidAddress), (" , ", ErrorKind::InvalidAddress)] {
            let error = RpcMaster::new(text, Duration::from_secs(1)).err().unwrap();
            assert_eq!(error.kind(), kind, "{text}");
        }
    }

    #[test]
    fn every_address_of_a_list_is_tried() {
        // Ports that nobody listens on: they were bound a moment ago and are not any more.
        let free = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap().to_string()
        };
        let (first, second) = (free(), free());
        let both = format!("{first}, {second}");
        let master = RpcMaster::new(&both, Duration::from_secs(1)).unwrap();
        let deadline = Deadline::within(Duration::from_secs(5));
        let error = master.call(&Call::ServiceReady, deadline).unwrap_err();
        assert!(error.to_string().contains(&second), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}
