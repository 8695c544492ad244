//! A redis service: `redis://host:port`, `rediss://` with TLS.
//!
//! Keys, values and commands (`GET`, `SET`, `DEL`) are upstream's. Beyond them, entries of this
//! session expire a while after the process is gone; a [`Keeper`] prolongs them, and puts them
//! again where the service has lost them. One connection, made when needed and made again when
//! broken, shared by turns.

mod address;
mod connection;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{cmd, Cmd, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::limits;
use crate::net::tls::TlsFiles;
use crate::time::Deadline;

use address::Address;
use connection::Connection;

use super::keeper::{Entries, Keeper, Writer};
use super::{Lifetime, MetadataStore, Put};

const SCHEME: &str = "redis";

/// How to reach a service.
pub struct Settings<'a> {
    /// `redis://[user:password@]host[:port][/database]`; what it holds wins over the rest.
    pub url: &'a str,
    /// Port of a URL without one.
    pub default_port: u16,
    /// User of a URL without one; may be empty.
    pub username: &'a str,
    /// Password of a URL without one; may be empty.
    pub password: &'a str,
    /// Database of a URL without one.
    pub database: u32,
    /// Certificates.
    pub files: TlsFiles,
    /// How long entries outlive this process; none is for ever.
    pub lease: Option<Duration>,
}

/// Documents in a redis service.
pub struct RedisStore {
    service: Arc<Service>,
    keeper: Keeper<RedisWriter>,
}

impl RedisStore {
    /// Connects to nothing yet.
    pub fn new(settings: Settings<'_>) -> Result<RedisStore> {
        let lease = settings.lease;
        let address = Address::parse(&settings)?;
        let service = Arc::new(Service { address, connection: Mutex::new(None) });
        let writer = RedisWriter { service: Arc::clone(&service), lease };
        Ok(RedisStore { service, keeper: Keeper::new(writer, lease) })
    }
}

impl MetadataStore for RedisStore {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        match self.service.command(cmd("GET").arg(key), key, deadline)? {
            Value::Nil => Ok(None),
            Value::BulkString(value) => Ok(Some(value)),
            other => Err(unexpected(&other, key)),
        }
    }

    fn put(&self, key: &str, value: &[u8], lifetime: Lifetime, deadline: Deadline) -> Result<Put> {
        self.keeper.put(key, value, lifetime, deadline)
    }

    fn remove(&self, key: &str, deadline: Deadline) -> Result<()> {
        self.keeper.remove(key, deadline)
    }

    fn forget(&self, key: &str) {
        self.keeper.forget(key);
    }
}

struct Service {
    address: Address,
    /// Held during a command: replies come in the order of commands. Waited for only until the
    /// deadline.
    connection: Mutex<Option<Connection>>,
}

impl Service {
    /// Sends a command and reads its reply. A broken connection is made again once.
    fn command(&self, command: &Cmd, key: &str, deadline: Deadline) -> Result<Value> {
        let longest = Deadline::after(Instant::now(), limits::METADATA_CALL_TIMEOUT);
        let end = deadline.min(longest);
        let add_place = |error: Error| {
            error
                .with("service", SCHEME)
                .with("endpoint", self.address.endpoint())
                .with("key", key.escape_debug())
        };
        let bytes = command.get_packed_command();
        let Some(mut slot) = self.connection.try_lock_until(end.instant()) else {
            let text = "another call to the metadata service is not done yet";
            return Err(add_place(Error::new(ErrorKind::Timeout, text)));
        };
        let kept = slot.take();
        let was_kept = kept.is_some();
        let mut reply = self.attempt(kept, &bytes, end);
        if was_kept && matches!(&reply, Err(error) if error.kind() == ErrorKind::ConnectionLost) {
            reply = self.attempt(None, &bytes, end);
        }
        let (connection, value) = reply.map_err(lost_is_unavailable).map_err(add_place)?;
        // A connection is kept only after a whole reply, so that replies stay with their commands.
        *slot = Some(connection);
        match value {
            Value::ServerError(error) => Err(add_place(refusal(&error))),
            value => Ok(value),
        }
    }

    fn attempt(
        &self,
        kept: Option<Connection>,
        bytes: &[u8],
        end: Deadline,
    ) -> Result<(Connection, Value)> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(&self.address, end)?,
        };
        let value = connection.exchange(bytes, end)?;
        Ok((connection, value))
    }
}

/// To a caller, a connection to the service that breaks is a service that is away.
fn lost_is_unavailable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::ConnectionLost | ErrorKind::Unreachable => {
            Error::new(ErrorKind::MetadataUnavailable, "the metadata service cannot be reached")
                .caused_by(error)
        }
        _ => error,
    }
}

fn refusal(error: &redis::ServerError) -> Error {
    let (kind, text) = match error.code() {
        "NOAUTH" | "NOPERM" | "WRONGPASS" => {
            (ErrorKind::Rejected, "the metadata service grants no access")
        }
        "LOADING" | "BUSY" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "OOM" | "READONLY" => {
            (ErrorKind::MetadataUnavailable, "redis cannot serve the request now")
        }
        _ => (ErrorKind::Rejected, "redis refused the request"),
    };
    Error::new(kind, text).with("reply", json::quote(&error.to_string()))
}

fn unexpected(value: &Value, key: &str) -> Error {
    let reply = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) => "a value",
        Value::Okay | Value::SimpleString(_) => "a status",
        _ => "something else",
    };
    Error::new(ErrorKind::MetadataMalformed, "redis answered something else than was asked for")
        .with("service", SCHEME)
        .with("key", key.escape_debug())
        .with("reply", reply)
}

struct RedisWriter {
    service: Arc<Service>,
    lease: Option<Duration>,
}

impl Writer for RedisWriter {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn put(&mut self, key: &str, value: &[u8], lifetime: Lifetime, end: Deadline) -> Result<Put> {
        let mut set = cmd("SET");
        set.arg(key).arg(value);
        if let (Lifetime::Session, Some(lease)) = (lifetime, self.lease) {
            set.arg("EX").arg(lease.as_secs());
        }
        match self.service.command(&set, key, end)? {
            Value::Okay => Ok(Put::Done),
            other => Err(unexpected(&other, key)),
        }
    }

    fn remove(&mut self, key: &str, end: Deadline) -> Result<()> {
        match self.service.command(cmd("DEL").arg(key), key, end)? {
            Value::Int(_) => Ok(()),
            other => Err(unexpected(&other, key)),
        }
    }

    fn keep(&mut self, entries: &Entries, end: Deadline) -> Result<bool> {
        let Some(lease) = self.lease else { return Ok(false) };
        let mut was_lost = false;
        for (key, value) in entries.iter() {
            match self.service.command(cmd("EXPIRE").arg(key).arg(lease.as_secs()), key, end)? {
                Value::Int(0) => {
                    self.put(key, value, Lifetime::Session, end)?;
                    was_lost = true;
                }
                Value::Int(_) => {}
                other => return Err(unexpected(&other, key)),
            }
        }
        Ok(was_lost)
    }
}
