//! The documents of a metadata server: bytes by key, bounded. Pure but for a lock.

use std::collections::HashMap;

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits;

/// What became of a document that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is there now.
    Updated,
    /// It was there already, byte by byte, and keys like this are not written twice.
    Unchanged,
    /// Another one is there, and keys like this are not replaced.
    Duplicate,
    /// The table is full.
    Full,
}

/// Documents by key.
#[derive(Default)]
pub struct Table {
    state: Mutex<State>,
    /// Told about every change.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    documents: HashMap<Vec<u8>, Bytes>,
    bytes: usize,
}

impl Table {
    /// The document under `key`.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.state.lock().documents.get(key).cloned()
    }

    /// Stores a document. One that tells where an engine is reached (`rpc_meta`) is not replaced
    /// by another: this is how upstream's servers keep two engines from sharing a name.
    pub fn put(&self, key: &[u8], document: Bytes) -> Stored {
        let mut state = self.state.lock();
        let present = state.documents.get(key);
        if contains(key, b"rpc_meta") {
            match present {
                Some(present) if *present == document => return Stored::Unchanged,
                Some(_) => return Stored::Duplicate,
                None => {}
            }
        }
        let freed = present.map_or(0, |present| key.len() + present.len());
        let is_new = present.is_none();
        let bytes = state.bytes - freed + key.len() + document.len();
        let is_full = bytes > limits::SERVER_TABLE_BYTES_MAX
            || is_new && state.documents.len() >= limits::SERVER_DOCUMENTS_MAX;
        if is_full {
            return Stored::Full;
        }
        state.documents.insert(key.to_owned(), document);
        state.bytes = bytes;
        drop(state);
        self.changed.notify_one();
        Stored::Updated
    }

    /// Removes a document; false if there was none.
    pub fn remove(&self, key: &[u8]) -> bool {
        let mut state = self.state.lock();
        let Some(document) = state.documents.remove(key) else { return false };
        state.bytes -= key.len() + document.len();
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Every key and document, in the order of keys.
    pub fn all(&self) -> Vec<(Vec<u8>, Bytes)> {
        let state = self.state.lock();
        let mut all: Vec<_> =
            state.documents.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        drop(state);
        all.sort_unstable();
        all
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rpc_meta_is_not_replaced() {
        let table = Table::default();
        let put = |key: &str, value: &'static str| table.put(key.as_bytes(), value.into());
        assert_eq!(put("m/ram/x", "1"), Stored::Updated);
        assert_eq!(put("m/ram/x", "1"), Stored::Updated);
        assert_eq!(put("m/ram/x", "22"), Stored::Updated);
        assert_eq!(put("m/rpc_meta/x", "1"), Stored::Updated);
        assert_eq!(put("m/rpc_meta/x", "1"), Stored::Unchanged);
        assert_eq!(put("m/rpc_meta/x", "2"), Stored::Duplicate);
        assert_eq!(table.get(b"m/ram/x").unwrap(), "22");
        assert_eq!(table.get(b"m/rpc_meta/x").unwrap(), "1");
        assert_eq!(table.all().len(), 2);
        assert_eq!(table.state.lock().bytes, "m/ram/x22m/rpc_meta/x1".len());
        assert!(table.remove(b"m/ram/x"));
        assert!(!table.remove(b"m/ram/x"));
        assert!(table.remove(b"m/rpc_meta/x"));
        assert_eq!(table.state.lock().bytes, 0);
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        let table = Table::default();
        table.put(b"k", "v".into());
        table.state.lock().bytes = limits::SERVER_TABLE_BYTES_MAX;
        assert_eq!(table.put(b"l", "v".into()), Stored::Full);
        assert_eq!(table.put(b"k", "longer".into()), Stored::Full);
        assert_eq!(table.put(b"k", "w".into()), Stored::Updated);
        assert_eq!(table.get(b"k").unwrap(), "w");
    }
}
