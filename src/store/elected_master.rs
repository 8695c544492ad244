//! The master that leads a group: found in etcd, called, and found anew when it does not answer.
//!
//! The leader is looked up at the first call and after a failure of the known one, by one caller at
//! a time and not more often than every [`limits::LEADER_LOOK_PAUSE`]. The others do not wait for
//! that. There is no thread and no watch behind it: a client gives signs of life all the time, so
//! that a failure is noticed within one of them. A leader that was replaced without failing stops
//! answering by itself, which is the failure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::EngineConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::address::{parse_metadata, MetadataAddress};
use crate::rpc::client::{ClientOptions, MasterClient};
use crate::rpc::dialect;
use crate::rpc::message::{Call, Reply};
use crate::time::Deadline;

use super::master::{Dialect, Master};

#[cfg(feature = "etcd")]
use crate::metadata::etcd::{Leader, Leadership};

/// See the module.
pub(super) struct ElectedMaster {
    finder: Finder,
    /// Made with the first leader that was found.
    client: OnceLock<MasterClient>,
    connect_timeout: Duration,
    looks: Mutex<Looks>,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Looks {
    /// When the last look ended.
    at: Option<Instant>,
    /// The view that is being called.
    view: Option<Leader>,
}

/// What a look found out.
enum Look {
    /// Nothing: it was not the time.
    Unasked,
    /// Another leader is called from now on.
    Moved,
    /// The same leader, or none, or nobody knows.
    Same,
}

impl ElectedMaster {
    /// Opens nothing yet. `address` is `etcd://host:port;host:port`.
    pub(super) fn new(
        address: &str,
        config: &EngineConfig,
        connect_timeout: Duration,
    ) -> Result<ElectedMaster> {
        let MetadataAddress::Etcd(endpoints) = parse_metadata(address)? else {
            let text = "masters are elected in etcd: etcd://host:port;host:port";
            return Err(Error::new(ErrorKind::UnknownProtocol, text));
        };
        Ok(ElectedMaster {
            finder: Finder::new(&endpoints, config)?,
            client: OnceLock::new(),
            connect_timeout,
            looks: Mutex::default(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// The client of the leader; the first caller waits for one to be elected, as long as it would
    /// for a connection.
    fn client(&self, deadline: Deadline) -> Result<&MasterClient> {
        let patience = deadline.min(Deadline::within(self.connect_timeout));
        let mut cause = None;
        loop {
            if let Some(client) = self.client.get() {
                return Ok(client);
            }
            let now = Instant::now();
            if patience.passed(now) {
                let (kind, text) = match &cause {
                    Some(_) => (ErrorKind::MetadataUnavailable, "nobody says which master leads"),
                    None => (ErrorKind::Unreachable, "no master is elected"),
                };
                let error = Error::new(kind, text).with("key", self.finder.place());
                return Err(match cause {
                    Some(cause) => error.caused_by(cause),
                    None => error,
                });
            }
            self.check_open()?;
            match self.look(patience) {
                Ok(Look::Unasked) => {}
                Ok(_) => cause = None,
                Err(error) => cause = Some(error),
            }
            if self.client.get().is_none() {
                let pause = limits::LEADER_LOOK_PAUSE;
                std::thread::sleep(pause.min(patience.remaining(Instant::now())));
            }
        }
    }

    fn check_open(&self) -> Result<()> {
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Shutdown, "the client is being closed")),
            false => Ok(()),
        }
    }

    /// Asks who leads, unless somebody else is doing that or has just done it.
    fn look(&self, deadline: Deadline) -> Result<Look> {
        let Some(mut looks) = self.looks.try_lock() else { return Ok(Look::Unasked) };
        let is_recent = |at: Instant| at.elapsed() < limits::LEADER_LOOK_PAUSE;
        if looks.at.is_some_and(is_recent) || self.is_closed.load(Ordering::Acquire) {
            return Ok(Look::Unasked);
        }
        let end = deadline.min(Deadline::within(limits::LEADER_LOOK_TIMEOUT));
        let found = self.finder.leader(end);
        looks.at = Some(Instant::now());
        let Some(leader) = found? else { return Ok(Look::Same) };
        if looks.view.as_ref().is_some_and(|view| view.revision == leader.revision) {
            return Ok(Look::Same);
        }
        match self.client.get() {
            Some(client) => {
                log::info!("master {} leads now, as view {}", leader.address, leader.revision);
                client.replace(&leader.address)?;
            }
            None => {
                let connect_timeout = self.connect_timeout;
                let options =
                    ClientOptions { connect_timeout, ..ClientOptions::new(leader.address.clone()) };
                let client = MasterClient::new(options)?;
                // Nobody else makes one while the lock is held.
                let _ = self.client.set(client);
            }
        }
        looks.view = Some(leader);
        Ok(Look::Moved)
    }
}

impl Master for ElectedMaster {
    fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply> {
        self.check_open()?;
        let client = self.client(deadline)?;
        let error = match client.call(call, deadline) {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let is_failure = matches!(
            error.kind(),
            ErrorKind::Unreachable
                | ErrorKind::PeerDown
                | ErrorKind::ConnectionLost
                | ErrorKind::Timeout
                | ErrorKind::Rejected
        );
        if !is_failure || self.check_open().is_err() {
            return Err(error);
        }
        // The time of this call may be over; the look is for those that come.
        let looked = self.look(Deadline::within(limits::LEADER_LOOK_TIMEOUT));
        // These mean that the call was not made, or by one whose word is worth nothing any more.
        let was_not_made = matches!(
            error.kind(),
            ErrorKind::Unreachable | ErrorKind::PeerDown | ErrorKind::Rejected
        );
        match looked {
            Ok(Look::Moved) if was_not_made && !deadline.passed(Instant::now()) => {
                client.call(call, deadline)
            }
            Ok(_) => Err(error),
            Err(unknown) => {
                log::debug!("nobody says which master leads: {unknown}");
                Err(error)
            }
        }
    }

    fn find(&self, deadline: Deadline) -> Result<()> {
        let patience = deadline.min(Deadline::within(limits::LEADER_WAIT));
        loop {
            let error = match self.call(&Call::ServiceReady, patience) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            // Nobody is elected, or who is does not serve yet.
            let may_come = matches!(
                error.kind(),
                ErrorKind::Unreachable
                    | ErrorKind::PeerDown
                    | ErrorKind::ConnectionLost
                    | ErrorKind::Timeout
                    | ErrorKind::Rejected
            );
            let left = patience.remaining(Instant::now());
            if !may_come || left.is_zero() {
                return Err(error);
            }
            std::thread::sleep(limits::LEADER_LOOK_PAUSE.min(left));
        }
    }

    fn dialect(&self) -> Dialect {
        match self.client.get().and_then(MasterClient::dialect) {
            Some(dialect::Dialect::Native) => Dialect::Native,
            _ => Dialect::Upstream,
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        if let Some(client) = self.client.get() {
            client.close();
        }
    }
}

/// Where the leader is found.
#[cfg(feature = "etcd")]
struct Finder(Leadership);

#[cfg(feature = "etcd")]
impl Finder {
    fn new(endpoints: &[String], config: &EngineConfig) -> Result<Finder> {
        let settings = crate::metadata::backend::etcd_settings(endpoints, config);
        Leadership::new(&settings, &config.store_cluster_id).map(Finder)
    }

    fn leader(&self, end: Deadline) -> Result<Option<Leader>> {
        self.0.leader(end)
    }

    fn place(&self) -> &str {
        self.0.key()
    }
}

#[cfg(not(feature = "etcd"))]
struct Leader {
    address: String,
    revision: i64,
}

#[cfg(not(feature = "etcd"))]
struct Finder;

#[cfg(not(feature = "etcd"))]
impl Finder {
    fn new(_: &[String], _: &EngineConfig) -> Result<Finder> {
        let text = "elected masters are found in etcd, which is not part of this build";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn leader(&self, _: Deadline) -> Result<Option<Leader>> {
        Ok(None)
    }

    fn place(&self) -> &str {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(address: &str) -> Result<ElectedMaster> {
        ElectedMaster::new(address, &EngineConfig::default(), Duration::from_millis(300))
    }

    #[test]
    fn addresses_are_checked_when_they_are_given() {
        for (text, kind) in [
            ("etcd://", ErrorKind::InvalidAddress),
            ("redis://127.0.0.1:1", ErrorKind::UnknownProtocol),
            ("k8s://default/x", ErrorKind::UnknownProtocol),
        ] {
            assert_eq!(open(text).err().unwrap().kind(), kind, "{text}");
        }
    }

    #[test]
    #[cfg(feature = "etcd")]
    fn without_etcd_a_call_fails_in_time_and_says_why() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        // It accepts and says nothing.
        let master = open(&format!("etcd://{place}")).unwrap();
        let error = master
            .call(&Call::ServiceReady, Deadline::within(Duration::from_secs(30)))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MetadataUnavailable);
        assert!(error.to_string().contains("nobody says which master leads"), "{error}");
        master.close();
        let error = master.call(&Call::ServiceReady, Deadline::within(Duration::from_secs(1)));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Shutdown);
    }
}
