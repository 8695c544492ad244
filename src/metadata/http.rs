//! An HTTP metadata service: `http://host:port/path`, `https://...`.
//!
//! The whole connection string is the base of every URL; the key is one query parameter, percent-
//! encoded completely, since some servers compare keys as they arrive. Runs on the caller's thread;
//! the own entries are watched over by a [`Keeper`], because these services forget everything when
//! they are restarted. They have no leases: a killed process leaves its entries, and its successor
//! of the same name replaces them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::{utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::http::{HttpClient, HttpReply, HttpRequest, Verb};
use crate::net::tls::TlsFiles;
use crate::time::Deadline;

use super::keeper::{Entries, Keeper, Writer};
use super::{Lifetime, MetadataStore, Put};

/// Everything but RFC 3986's unreserved characters, as upstream's client escapes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Documents in an HTTP service.
pub struct HttpStore {
    service: Arc<Service>,
    keeper: Keeper<HttpWriter>,
}

impl HttpStore {
    /// The service at `base_url`. `lease` says how often the own entries are looked after, which
    /// is three times in it.
    pub fn new(base_url: &str, files: &TlsFiles, lease: Option<Duration>) -> Result<HttpStore> {
        let client = HttpClient::new(base_url, files)?;
        let service = Arc::new(Service { client, base_url: base_url.to_owned() });
        let keeper = Keeper::new(HttpWriter(Arc::clone(&service)), lease);
        Ok(HttpStore { service, keeper })
    }
}

impl MetadataStore for HttpStore {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        self.service.get(key, deadline)
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

    fn ends_documents_with_newline(&self) -> bool {
        false
    }
}

const SCHEME: &str = "http";

struct Service {
    client: HttpClient,
    base_url: String,
}

impl Service {
    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        let reply = self.exchange(Verb::Get, key, b"", deadline)?;
        match reply.status {
            200 => Ok(Some(reply.body)),
            404 => Ok(None),
            _ => Err(refused(key, &reply)),
        }
    }

    fn put(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Put> {
        let reply = self.exchange(Verb::Put, key, value, deadline)?;
        match reply.status {
            200 => Ok(Put::Done),
            // What the stock servers say to a second `rpc_meta` of one name.
            400 if reply.body.starts_with(b"Duplicate") => Ok(Put::Taken),
            _ => Err(refused(key, &reply)),
        }
    }

    fn remove(&self, key: &str, deadline: Deadline) -> Result<()> {
        let reply = self.exchange(Verb::Delete, key, b"", deadline)?;
        match reply.status {
            200 | 404 => Ok(()),
            _ => Err(refused(key, &reply)),
        }
    }

    fn exchange(
        &self,
        verb: Verb,
        key: &str,
        body: &[u8],
        deadline: Deadline,
    ) -> Result<HttpReply> {
        let url = format!("{}?key={}", self.base_url, utf8_percent_encode(key, ESCAPED));
        let headers: &[_] = match verb {
            Verb::Put => &[("Content-Type", "application/json")],
            _ => &[],
        };
        let longest = Deadline::after(Instant::now(), limits::HTTP_CALL_TIMEOUT);
        let request = HttpRequest {
            verb,
            url: &url,
            headers,
            body,
            connect_timeout: limits::HTTP_CONNECT_TIMEOUT,
            deadline: deadline.min(longest),
        };
        self.client.exchange(&request).map_err(|error| place(error, key))
    }
}

fn refused(key: &str, reply: &HttpReply) -> Error {
    let (kind, text) = match reply.status {
        500.. => (ErrorKind::MetadataUnavailable, "the metadata service failed"),
        401 | 403 | 407 => (ErrorKind::Rejected, "the metadata service grants no access"),
        _ => (ErrorKind::Rejected, "the metadata service refused the request"),
    };
    let error = Error::new(kind, text).with("status", reply.status).with("reply", reply.excerpt());
    place(error, key)
}

fn place(error: Error, key: &str) -> Error {
    error.with("service", SCHEME).with("key", key.escape_debug())
}

struct HttpWriter(Arc<Service>);

impl Writer for HttpWriter {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn put(&mut self, key: &str, value: &[u8], _: Lifetime, end: Deadline) -> Result<Put> {
        self.0.put(key, value, end)
    }

    fn remove(&mut self, key: &str, end: Deadline) -> Result<()> {
        self.0.remove(key, end)
    }

    fn keep(&mut self, entries: &Entries, end: Deadline) -> Result<bool> {
        // A service that restarted has lost all that was put before, so the entry that was put
        // first tells. It is also the short one: an engine puts its location before its segment.
        let Some((key, _)) = entries.iter().next() else { return Ok(false) };
        if self.0.get(key, end)?.is_some() {
            return Ok(false);
        }
        for (key, value) in entries.iter() {
            if self.0.put(key, value, end)? == Put::Taken {
                log::warn!("another engine has taken the name of {}", key.escape_debug());
            }
        }
        Ok(true)
    }
}
