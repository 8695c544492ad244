//! Where objects are: their replicas as JSON, for people and for bindings that show them.
//!
//! Owns nothing; any thread enters it. It must not decide which replica is read.

use std::ffi::c_char;

use super::boundary::{self, on_ok};
use super::status::mc_status_t;
use super::store::{mc_store_t, timeout};
use super::store_batch::{mc_store_object_t, Batch, Outs};
use crate::store::{replica_shown, Store};

/// Tells where the complete replicas of objects are. Takes a lease on each object.
///
/// The text is a JSON array with an entry for each object, in order: null after a failure, else an
/// array of replicas, each with "kind" ("memory" or "disk"), "status", "size", and "ranges"
/// ("address", "size", "endpoint") or "path".
///
/// @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
/// @param buf, buf_len, len_out  as in mc_engine_local_name.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_size_batch. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_replicas(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    timeout_ms: u32,
    statuses_out: *mut mc_status_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let outs = Outs::new(statuses_out, count, "statuses_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        let found = store.locate(&batch.keys(), timeout(timeout_ms))?;
        let mut entries = vec![serde_json::Value::Null; found.len()];
        outs.give(found, |index, replicas| {
            entries[index] = replicas.iter().map(replica_shown).collect();
        });
        let text = serde_json::Value::Array(entries).to_string();
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(&text, buf, buf_len, len_out) }
    })
}
