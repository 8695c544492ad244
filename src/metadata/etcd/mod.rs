//! An etcd cluster: `etcd://a:2379;b:2379`, or the same without a scheme.
//!
//! Keys and values are upstream's. Entries of this session hang on a lease that a [`Keeper`]
//! renews, so that a killed process leaves nothing for long; where the cluster has lost the lease,
//! the entries are put again under a new one.

mod gateway;
mod leadership;

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::net::tls::TlsFiles;
use crate::time::Deadline;

pub use leadership::{Board, Claim, Leader, Leadership, Life};

use gateway::{Failure, Gateway};

use super::keeper::{Entries, Keeper, Writer};
use super::{Lifetime, MetadataStore, Put};

const SCHEME: &str = "etcd";

/// How to reach a cluster.
pub struct Settings<'a> {
    /// `host:port` each, or a URL.
    pub endpoints: &'a [String],
    /// Use TLS for endpoints that are no URLs.
    pub tls: bool,
    /// Empty means no authentication.
    pub username: &'a str,
    /// The user's password.
    pub password: &'a str,
    /// Certificates.
    pub files: TlsFiles,
    /// How long entries outlive this process; none is for ever.
    pub lease: Option<Duration>,
}

/// Documents in an etcd cluster.
pub struct EtcdStore {
    gateway: Arc<Gateway>,
    keeper: Keeper<EtcdWriter>,
}

impl EtcdStore {
    /// Connects to nothing yet.
    pub fn new(settings: Settings<'_>) -> Result<EtcdStore> {
        let lease = settings.lease;
        let gateway = Arc::new(Gateway::new(&settings)?);
        let writer =
            EtcdWriter { gateway: Arc::clone(&gateway), lease, lease_id: None, is_stale: false };
        Ok(EtcdStore { gateway, keeper: Keeper::new(writer, lease) })
    }
}

impl MetadataStore for EtcdStore {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        Ok(self.gateway.range(key, deadline)?)
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

struct EtcdWriter {
    gateway: Arc<Gateway>,
    lease: Option<Duration>,
    lease_id: Option<String>,
    /// Entries may hang on a lease that is gone.
    is_stale: bool,
}

impl EtcdWriter {
    /// The lease to put under, granted when there is none.
    fn ensure_lease(
        &mut self,
        key: &str,
        end: Deadline,
    ) -> std::result::Result<Option<String>, Failure> {
        if let (Some(lease), None) = (self.lease, &self.lease_id) {
            self.lease_id = Some(self.gateway.grant(lease, key, end)?);
        }
        Ok(self.lease_id.clone())
    }
}

impl Writer for EtcdWriter {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn put(&mut self, key: &str, value: &[u8], lifetime: Lifetime, end: Deadline) -> Result<Put> {
        if lifetime == Lifetime::Permanent {
            self.gateway.put(key, value, None, end)?;
            return Ok(Put::Done);
        }
        let lease = self.ensure_lease(key, end)?;
        match self.gateway.put(key, value, lease.as_deref(), end) {
            Err(failure) if failure.is_not_found() && lease.is_some() => {
                self.lease_id = None;
                self.is_stale = true;
                let lease = self.ensure_lease(key, end)?;
                self.gateway.put(key, value, lease.as_deref(), end)?;
            }
            other => other?,
        }
        Ok(Put::Done)
    }

    fn remove(&mut self, key: &str, end: Deadline) -> Result<()> {
        Ok(self.gateway.remove(key, end)?)
    }

    fn keep(&mut self, entries: &Entries, end: Deadline) -> Result<bool> {
        if let (Some(id), false) = (&self.lease_id, self.is_stale) {
            if self.gateway.keep_alive(id, end)? {
                return Ok(false);
            }
            self.lease_id = None;
        }
        // Until every entry is back: a failure half-way must not end in a lease that is kept alive
        // for some of them only.
        self.is_stale = true;
        for (key, value) in entries.iter() {
            self.put(key, value, Lifetime::Session, end)?;
        }
        self.is_stale = false;
        Ok(true)
    }

    fn rest(&mut self, end: Deadline) {
        let Some(id) = self.lease_id.take() else { return };
        // Without this the cluster forgets the lease by itself, only later.
        if let Err(failure) = self.gateway.revoke(&id, end) {
            log::debug!("the lease is left to expire: {}", failure.error);
        }
    }
}
