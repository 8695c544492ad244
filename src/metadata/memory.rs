//! A metadata service inside this process, for tests and single-process use: `memory://NAME`.
//!
//! All engines of the process that name the same hub share it. It takes faults on command, so that
//! what depends on a metadata service can be tested without one.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::time::Deadline;

use super::{Lifetime, MetadataStore, Put};

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Every call fails.
    pub unavailable: bool,
    /// Every call takes this long, or until its deadline.
    pub delay: Duration,
    /// A different `rpc_meta` is not replaced, as HTTP services have it.
    pub refuses_duplicates: bool,
}

/// A table of documents.
#[derive(Default)]
pub struct MemoryStore {
    documents: Mutex<HashMap<String, Vec<u8>>>,
    faults: Mutex<Faults>,
}

impl MemoryStore {
    /// The hub of this process with that name; it lives as long as somebody holds it.
    pub fn shared(name: &str) -> Arc<MemoryStore> {
        static HUBS: OnceLock<Mutex<HashMap<String, Weak<MemoryStore>>>> = OnceLock::new();
        let mut hubs = HUBS.get_or_init(Mutex::default).lock();
        hubs.retain(|_, hub| hub.strong_count() > 0);
        if let Some(hub) = hubs.get(name).and_then(Weak::upgrade) {
            return hub;
        }
        let hub = Arc::new(MemoryStore::default());
        hubs.insert(name.to_owned(), Arc::downgrade(&hub));
        hub
    }

    /// Replaces the faults.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.documents.lock().len()
    }

    /// True without documents.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fault(&self, key: &str, deadline: Deadline) -> Result<()> {
        let faults = *self.faults.lock();
        let left = deadline.remaining(Instant::now());
        if faults.delay >= left {
            std::thread::sleep(left);
            return Err(Error::new(ErrorKind::Timeout, "the metadata service did not answer")
                .with("service", "memory")
                .with("key", key));
        }
        std::thread::sleep(faults.delay);
        if faults.unavailable {
            return Err(Error::new(
                ErrorKind::MetadataUnavailable,
                "the metadata service is unavailable",
            )
            .with("service", "memory")
            .with("key", key));
        }
        Ok(())
    }
}

impl MetadataStore for MemoryStore {
    fn scheme(&self) -> &'static str {
        "memory"
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        self.fault(key, deadline)?;
        Ok(self.documents.lock().get(key).cloned())
    }

    fn put(&self, key: &str, value: &[u8], _: Lifetime, deadline: Deadline) -> Result<Put> {
        self.fault(key, deadline)?;
        let refuses_duplicates = self.faults.lock().refuses_duplicates && key.contains("rpc_meta");
        let mut documents = self.documents.lock();
        if refuses_duplicates && documents.get(key).is_some_and(|present| present != value) {
            return Ok(Put::Taken);
        }
        documents.insert(key.to_owned(), value.to_owned());
        Ok(Put::Done)
    }

    fn remove(&self, key: &str, deadline: Deadline) -> Result<()> {
        self.fault(key, deadline)?;
        self.documents.lock().remove(key);
        Ok(())
    }
}
