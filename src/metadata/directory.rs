//! The directory over a metadata store: upstream's keys and documents.

use std::sync::Arc;

use crate::descriptor::{Dialect, PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Deadline;

use super::document::{ram_key, rpc_meta_key, RpcMeta};
use super::{Directory, Lifetime, MetadataStore};

/// Names, kept in a store.
pub struct StoreDirectory {
    store: Arc<dyn MetadataStore>,
    cluster_id: String,
}

impl StoreDirectory {
    /// Over `store`, with `MC_METADATA_CLUSTER_ID` as part of every key.
    pub fn new(store: Arc<dyn MetadataStore>, cluster_id: &str) -> StoreDirectory {
        StoreDirectory { store, cluster_id: cluster_id.to_owned() }
    }

    fn read(&self, key: &str, name: &str, deadline: Deadline) -> Result<Vec<u8>> {
        match self.store.get(key, deadline)? {
            Some(document) => Ok(document),
            None => Err(Error::new(ErrorKind::SegmentNotFound, "no such segment")
                .with("segment", name)
                .with("service", self.store.scheme())
                .with("key", key)),
        }
    }
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
        let meta = rpc_meta_key(&self.cluster_id, name);
        self.store.put(&meta, &location.encode_line(), Lifetime::Session, deadline)?;
        let ram = ram_key(&self.cluster_id, name);
        let document = descriptor.encode_line(Dialect::V0_3_13);
        self.store.put(&ram, &document, Lifetime::Session, deadline)
    }

    fn withdraw(&self, name: &str, deadline: Deadline) -> Result<()> {
        let first = self.store.remove(&rpc_meta_key(&self.cluster_id, name), deadline);
        let second = self.store.remove(&ram_key(&self.cluster_id, name), deadline);
        first.and(second)
    }

    fn fetch(&self, name: &str, deadline: Deadline) -> Result<PeerAddress> {
        let key = ram_key(&self.cluster_id, name);
        let document = self.read(&key, name, deadline)?;
        let descriptor =
            SegmentDescriptor::decode(&document).map_err(|error| error.with("key", &key))?;
        let host = match &descriptor.tcp_data_host {
            Some(host) if !host.is_empty() => host.clone(),
            _ => self.locate(&descriptor.name, deadline)?.ip_or_host_name,
        };
        Ok(PeerAddress { name: name.to_owned(), descriptor, host })
    }

    fn locate(&self, name: &str, deadline: Deadline) -> Result<RpcMeta> {
        let key = rpc_meta_key(&self.cluster_id, name);
        let document = self.read(&key, name, deadline)?;
        RpcMeta::decode(&document).map_err(|error| error.with("key", &key))
    }
}
