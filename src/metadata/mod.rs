//! What is needed to reach a segment, and where it is kept.
//!
//! A [`MetadataStore`] keeps documents under keys (an HTTP service, etcd, redis, a table in this
//! process). A [`Directory`] answers the engine's questions about names, either over a store or by
//! asking the peers themselves (`P2PHANDSHAKE`). Calls may block up to their deadline and are
//! therefore made on the caller's thread or on control threads, never on data threads.

pub mod backend;
pub mod directory;
pub mod document;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod handshake_server;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod http_server;
#[cfg(feature = "_client")]
mod keeper;
pub mod memory;
pub mod p2p;
#[cfg(feature = "redis")]
pub mod redis;

use crate::descriptor::{PeerAddress, SegmentDescriptor};
use crate::error::Result;
use crate::time::Deadline;

use document::RpcMeta;

/// How long an entry should outlive its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is removed.
    Permanent,
    /// Until the writer is gone, where the service can tell (leases); else until removed.
    Session,
}

/// What became of a value that was to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Done,
    /// The service keeps another one under this key and does not replace it.
    Taken,
}

/// A service that keeps documents.
pub trait MetadataStore: Send + Sync {
    /// URL scheme or other short name for messages and the dump.
    fn scheme(&self) -> &'static str;

    /// The value under `key`, or `None`.
    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>>;

    /// Creates or replaces the value under `key`. HTTP services do not replace every value.
    fn put(&self, key: &str, value: &[u8], lifetime: Lifetime, deadline: Deadline) -> Result<Put>;

    /// Removes the value; absent is fine.
    fn remove(&self, key: &str, deadline: Deadline) -> Result<()>;

    /// Ends the care for a value that was put for the session, and leaves it where it is.
    fn forget(&self, key: &str) {
        let _ = key;
    }

    /// True where upstream writes documents with a newline at their end.
    fn ends_documents_with_newline(&self) -> bool {
        true
    }
}

/// Where names lead. One per engine.
pub trait Directory: Send + Sync {
    /// Short name for messages and the dump.
    fn scheme(&self) -> &'static str;

    /// True if peers ask the engine itself, so that there is nothing to publish.
    fn is_passive(&self) -> bool {
        false
    }

    /// Makes the own segment known, or replaces what is known of it.
    fn publish(
        &self,
        descriptor: &SegmentDescriptor,
        location: &RpcMeta,
        deadline: Deadline,
    ) -> Result<()>;

    /// Takes the own segment back.
    fn withdraw(&self, name: &str, deadline: Deadline) -> Result<()>;

    /// The present descriptor of a segment and the host of its data plane.
    fn fetch(&self, name: &str, deadline: Deadline) -> Result<PeerAddress>;

    /// Where the handshake plane of the segment's owner listens.
    fn locate(&self, name: &str, deadline: Deadline) -> Result<RpcMeta>;
}
