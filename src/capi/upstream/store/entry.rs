//! How every function of the store's API is entered: the guard, the handle, the client inside, and
//! the number of what went wrong.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::time::Duration;

use parking_lot::Mutex;

use super::types::{mooncake_replicate_config, mooncake_store_t};
use crate::capi::boundary::{self, bad_argument};
use crate::capi::handle::{Kind, Noun, Table};
use crate::capi::store::text_list;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::store::{outcome_number, outcome_of, PutOptions, Store};

/// What upstream's handle stands for: a client that is perhaps not set up yet.
#[derive(Default)]
pub(super) struct UpstreamStore {
    pub(super) client: Mutex<Option<Store>>,
    /// Files for TLS to etcd: authorities, certificate, key.
    pub(super) tls: Mutex<[String; 3]>,
}

static STORES: Table<UpstreamStore> = Table::new(Kind::UpstreamStore);

impl Noun for UpstreamStore {
    type Opaque = c_void;
    const WORD: &'static str = "store";

    fn table() -> &'static Table<Self> {
        &STORES
    }
}

impl UpstreamStore {
    /// The client, for one call.
    pub(super) fn client(&self) -> Result<Store> {
        let not_yet = || Error::new(ErrorKind::InvalidState, "the store is not set up");
        self.client.lock().clone().ok_or_else(not_yet)
    }
}

/// Pointers that cannot be right have a number of their own in this API.
pub(super) const BAD_POINTER: c_int = -1;
/// Longest wait for calls of other threads that are inside a client when it is destroyed.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a call with the client inside a handle and returns what it returns, or the number of what
/// went wrong.
pub(super) fn on(store: mooncake_store_t, call: impl FnOnce(&Store) -> Result<i64>) -> i64 {
    on_handle(store, |handle| call(&handle.client()?))
}

/// As [`on`], for functions that return a C int.
pub(super) fn code(store: mooncake_store_t, call: impl FnOnce(&Store) -> Result<()>) -> c_int {
    on(store, |store| call(store).map(|()| 0)) as c_int
}

/// Runs a call with what the handle stands for.
pub(super) fn on_handle(
    store: mooncake_store_t,
    call: impl FnOnce(&UpstreamStore) -> Result<i64>,
) -> i64 {
    let defect = i64::from(outcome_of(ErrorKind::Panic));
    boundary::guard_value(defect, || match STORES.pin(store) {
        Ok(pin) => number(pin.run(call)),
        Err(error) => {
            boundary::failed(&error);
            i64::from(BAD_POINTER)
        }
    })
}

/// A result as this API returns it.
pub(super) fn number(result: Result<i64>) -> i64 {
    match result {
        Ok(value) => value,
        Err(error) => {
            boundary::failed(&error);
            match error.context("pointer") {
                Some(_) => i64::from(BAD_POINTER),
                None => i64::from(outcome_number(&error)),
            }
        }
    }
}

/// A pointer that is NULL where none may be.
pub(super) fn null(what: &str) -> Error {
    bad_argument(what, "is NULL").with("pointer", "NULL")
}

/// The bytes of a key.
///
/// # Safety
/// A pointer that is not NULL points to a NUL-terminated text.
pub(super) unsafe fn key(key: *const c_char, what: &str) -> Result<Vec<u8>> {
    if key.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller's promise.
    let key = unsafe { CStr::from_ptr(key) };
    Ok(key.to_bytes().to_vec())
}

/// As [`key`], for many.
///
/// # Safety
/// As [`key`], for an array of `count`.
pub(super) unsafe fn keys(keys: *const *const c_char, count: usize) -> Result<Vec<Vec<u8>>> {
    // SAFETY: the caller's promise.
    let keys = unsafe { array(keys, count, "keys") }?;
    // SAFETY: as above.
    keys.iter().map(|name| unsafe { key(*name, "keys") }).collect()
}

/// An array of the caller, which must be there if it is not empty.
///
/// # Safety
/// As [`boundary::slice`].
pub(super) unsafe fn array<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    if count > limits::BATCH_REQUESTS_MAX {
        return Err(bad_argument(what, "has too many entries"));
    }
    if pointer.is_null() && count > 0 {
        return Err(null(what));
    }
    // SAFETY: the caller's promise.
    unsafe { boundary::slice(pointer, count, what) }
}

/// What a put is asked for.
///
/// # Safety
/// NULL, or a struct whose texts are NUL-terminated.
pub(super) unsafe fn options(config: *const mooncake_replicate_config) -> Result<PutOptions> {
    // SAFETY: the caller's promise.
    let given = unsafe { array(config, usize::from(!config.is_null()), "config") }?;
    let Some(given) = given.first() else { return Ok(PutOptions::default()) };
    // SAFETY: as above.
    let preferred_segments = unsafe {
        text_list(
            given.preferred_segments.cast_const(),
            given.preferred_segments_count,
            "preferred_segments",
        )
    }?;
    Ok(PutOptions {
        replica_num: given.replica_num as u64,
        soft_pin: given.with_soft_pin != 0,
        hard_pin: given.with_hard_pin != 0,
        preferred_segments,
        ..PutOptions::default()
    })
}
