//! The directory over a metadata store: upstream's keys and documents.
//!
//! One per engine. It never reads the own segment document: what a dead or hostile process left
//! under the own name is replaced, not adopted.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::descriptor::{Dialect, PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::handshake::{MessageType, NULL_LINE};
use crate::time::Deadline;

use super::document::{check_own_name, ram_key, rpc_meta_key, RpcMeta};
use super::p2p::HandshakeClient;
use super::{Directory, Lifetime, MetadataStore, Put};

/// Names, kept in a store.
pub struct StoreDirectory {
    store: Arc<dyn MetadataStore>,
    cluster_id: String,
    handshake: HandshakeClient,
    /// What is published under the own name. Services refuse to be told twice.
    published: Mutex<Option<RpcMeta>>,
}

impl StoreDirectory {
    /// Over `store`, with `MC_METADATA_CLUSTER_ID` as part of every key. `handshake` asks engines
    /// whether they are alive.
    pub fn new(
        store: Arc<dyn MetadataStore>,
        cluster_id: &str,
        handshake: HandshakeClient,
    ) -> StoreDirectory {
        let published = Mutex::new(None);
        StoreDirectory { store, cluster_id: cluster_id.to_owned(), handshake, published }
    }

    fn read(&self, key: &str, name: &str, deadline: Deadline) -> Result<Vec<u8>> {
        match self.store.get(key, deadline)? {
            Some(document) => Ok(document),
            None => Err(Error::new(ErrorKind::SegmentNotFound, "no such segment")
                .with("segment", name.escape_debug())
                .with("service", self.store.scheme())
                .with("key", key.escape_debug())),
        }
    }

    /// Puts the own `rpc_meta`.
    ///
    /// Most services replace what is there, and the newest engine of a name wins, as upstream has
    /// it. A service that refuses keeps the entry either of a dead engine, which is then replaced,
    /// or of a live one, which keeps its name.
    fn claim(&self, own: &SegmentDescriptor, location: &RpcMeta, deadline: Deadline) -> Result<()> {
        let name = &own.name;
        let key = rpc_meta_key(&self.cluster_id, name);
        let document = self.document(location.encode());
        let put = || self.store.put(&key, &document, Lifetime::Session, deadline);
        if put()? == Put::Done {
            return Ok(());
        }
        let holder = self.store.get(&key, deadline)?;
        if let Some(holder) = holder.as_deref().and_then(|bytes| RpcMeta::decode(bytes).ok()) {
            if self.is_alive(own, &holder, deadline) {
                return Err(name_in_use(name)
                    .with("holder", &holder.ip_or_host_name)
                    .with("holder_port", holder.rpc_port));
            }
            log::info!("the entry of a dead engine under {} is replaced", key.escape_debug());
        }
        self.store.remove(&key, deadline)?;
        match put()? {
            Put::Done => Ok(()),
            // Somebody else was faster in the moment between the two calls.
            Put::Taken => Err(name_in_use(name)),
        }
    }

    /// True if another engine of the own name answers at `location`.
    ///
    /// Upstream 0.3.13 answers, but does not say its name: it is believed to be the one that the
    /// entry speaks of. Upstream 0.3.7 with TCP does not answer at all.
    fn is_alive(&self, own: &SegmentDescriptor, location: &RpcMeta, deadline: Deadline) -> bool {
        let end = deadline.min(Deadline::after(Instant::now(), limits::NAME_CLAIM_TIMEOUT));
        let request = MessageType::Metadata;
        let Ok(reply) = self.handshake.exchange(location, request, b"{}\n", end) else {
            return false;
        };
        if reply.trim_ascii() == NULL_LINE.trim_ascii() {
            return true;
        }
        SegmentDescriptor::decode(&reply)
            .is_ok_and(|found| found.name == own.name && !is_one_life(&found, own))
    }

    fn document(&self, mut json: Vec<u8>) -> Vec<u8> {
        if self.store.ends_documents_with_newline() {
            json.push(b'\n');
        }
        json
    }
}

/// True if both come from the same engine, which may have asked itself: with fixed ports it listens
/// where its predecessor did.
fn is_one_life(one: &SegmentDescriptor, other: &SegmentDescriptor) -> bool {
    match (&one.native, &other.native) {
        (Some(one), Some(other)) => one.instance == other.instance,
        _ => one.timestamp == other.timestamp && one.tcp_data_port == other.tcp_data_port,
    }
}

fn name_in_use(name: &str) -> Error {
    Error::new(ErrorKind::Rejected, "another engine that is alive has this name")
        .with("segment", name.escape_debug())
}

impl Directory for StoreDirectory {
    fn scheme(&self) -> &'static str {
        self.store.scheme()
    }

    fn publish(
        &self,
        descriptor: &SegmentDescriptor,
        location: &RpcMeta,
        deadline: Deadline,
    ) -> Result<()> {
        let name = &descriptor.name;
        check_own_name(name)?;
        let is_claimed = self.published.lock().as_ref() == Some(location);
        if !is_claimed {
            self.claim(descriptor, location, deadline)?;
            *self.published.lock() = Some(location.clone());
        }
        let ram = ram_key(&self.cluster_id, name);
        let document = self.document(descriptor.encode(Dialect::V0_3_13));
        match self.store.put(&ram, &document, Lifetime::Session, deadline)? {
            Put::Done => Ok(()),
            Put::Taken => Err(name_in_use(name)),
        }
    }

    fn withdraw(&self, name: &str, deadline: Deadline) -> Result<()> {
        // What was never claimed is another engine's, and so is what was replaced since.
        let Some(own) = self.published.lock().take() else { return Ok(()) };
        let keys = [rpc_meta_key(&self.cluster_id, name), ram_key(&self.cluster_id, name)];
        let present = self.store.get(&keys[0], deadline);
        let holder = present.ok().flatten().and_then(|bytes| RpcMeta::decode(&bytes).ok());
        if holder.is_some_and(|holder| holder != own) {
            log::warn!("another engine has taken the name {} over", name.escape_debug());
            keys.iter().for_each(|key| self.store.forget(key));
            return Ok(());
        }
        let first = self.store.remove(&keys[0], deadline);
        let second = self.store.remove(&keys[1], deadline);
        first.and(second)
    }

    fn fetch(&self, name: &str, deadline: Deadline) -> Result<PeerAddress> {
        let key = ram_key(&self.cluster_id, name);
        let document = self.read(&key, name, deadline)?;
        let descriptor = SegmentDescriptor::decode(&document)
            .map_err(|error| error.with("service", self.store.scheme()).with("key", &key))?;
        let host = match &descriptor.tcp_data_host {
            Some(host) if !host.is_empty() => host.clone(),
            _ => self.locate(&descriptor.name, deadline)?.ip_or_host_name,
        };
        Ok(PeerAddress { name: name.to_owned(), descriptor, host })
    }

    fn locate(&self, name: &str, deadline: Deadline) -> Result<RpcMeta> {
        let key = rpc_meta_key(&self.cluster_id, name);
        let document = self.read(&key, name, deadline)?;
        RpcMeta::decode(&document)
            .map_err(|error| error.with("service", self.store.scheme()).with("key", &key))
    }
}
