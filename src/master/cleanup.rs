//! What clients that are given up have left in a metadata service: taken away, where that is asked
//! for.
//!
//! The index hands over names with locks held, so they go through a bounded queue to a thread of
//! their own, `mc-cleanup`, which may block in a call to a service. What does not fit is left
//! there: an entry that stays costs a peer one failed connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::error::Result;
use crate::limits;
use crate::metadata::document::{ram_key, rpc_meta_key};
use crate::metadata::http_server::Table;
use crate::metadata::MetadataStore;
use crate::net::thread;
use crate::time::Deadline;

/// Where the entries are.
pub(super) enum Place {
    /// In the metadata server of this process.
    Inside(Arc<Table>),
    /// In a service.
    Service(Arc<dyn MetadataStore>),
}

/// Takes names; cheap to clone, never blocks.
#[derive(Clone)]
pub(super) struct Cleanup {
    /// None only wakes.
    names: SyncSender<Option<String>>,
    is_over: Arc<AtomicBool>,
}

impl Cleanup {
    /// The engine of that name is gone.
    pub(super) fn gone(&self, name: String) {
        if self.names.try_send(Some(name)).is_err() {
            log::warn!("too many clients are gone at once: the metadata of some stays");
        }
    }

    /// Ends the thread, after the call it is in.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        // Where there is no room the thread is awake.
        let _ = self.names.try_send(None);
    }
}

/// The thread, which [`Cleanup::end`] ends.
pub(super) fn start(place: Place, cluster: String) -> Result<(Cleanup, JoinHandle<()>)> {
    let (names, incoming) = sync_channel(limits::CLEANUP_NAMES_MAX);
    let cleanup = Cleanup { names, is_over: Arc::default() };
    let is_over = Arc::clone(&cleanup.is_over);
    let work = move || work(&place, &cluster, &incoming, &is_over);
    Ok((cleanup, thread::spawn("mc-cleanup", work)?))
}

fn work(place: &Place, cluster: &str, names: &Receiver<Option<String>>, is_over: &AtomicBool) {
    while let Ok(name) = names.recv() {
        if is_over.load(Ordering::Acquire) {
            return;
        }
        let Some(name) = name else { continue };
        // Where it is reached first: peers that still find the segment fail at once then.
        for key in [rpc_meta_key(cluster, &name), ram_key(cluster, &name)] {
            let removed = match place {
                Place::Inside(table) => {
                    table.remove(key.as_bytes());
                    Ok(())
                }
                Place::Service(store) => {
                    store.remove(&key, Deadline::within(limits::METADATA_KEEP_TIMEOUT))
                }
            };
            match removed {
                Ok(()) => log::info!("client {name} is gone: {key} is removed"),
                Err(error) => log::warn!("client {name} is gone, and its metadata stays: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documents_of_a_name_go_and_no_others() {
        let table = Arc::new(Table::default());
        for key in ["mooncake/c/ram/h:1", "mooncake/c/rpc_meta/h:1", "mooncake/c/ram/h:2"] {
            table.put(key.as_bytes(), "x".into());
        }
        let (cleanup, thread) = start(Place::Inside(Arc::clone(&table)), "c".to_owned()).unwrap();
        cleanup.gone("h:1".to_owned());
        cleanup.gone("h:3".to_owned());
        while table.all().len() > 1 {
            std::thread::yield_now();
        }
        let clone = cleanup.clone();
        cleanup.end();
        thread.join().unwrap();
        // Whoever still has one does no harm.
        clone.gone("h:2".to_owned());
        let left: Vec<Vec<u8>> = table.all().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [b"mooncake/c/ram/h:2".to_vec()]);
    }
}
