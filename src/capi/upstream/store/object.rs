//! Objects: put, get, ask for, remove; one by one and in batches.

use std::ffi::{c_char, c_int, c_void};

use super::entry::{self, array, key, keys, null, options};
use super::types::{mooncake_replicate_config_t, mooncake_store_t};
use crate::capi::boundary;
use crate::capi::store::range_of;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{outcome_number, Object, Range, Store};

/// Puts one object. An object that exists is not changed, and that is a success.
///
/// @param store   the client.
/// @param key     name of the object.
/// @param value   its bytes; any memory.
/// @param size    how many.
/// @param config  NULL for the defaults.
/// @return 0; -200 without room in the pool; -600 for a wrong argument, also for 0 bytes; -703 when
///         another put of the key is not complete; -800 when the bytes could not be moved; -900
///         without a master; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_put(
    store: mooncake_store_t,
    key: *const c_char,
    value: *const c_void,
    size: usize,
    config: *const mooncake_replicate_config_t,
) -> c_int {
    entry::code(store, |client| {
        // SAFETY: the caller's promise about key, value and config.
        unsafe { put(client, key, value, size, config) }
    })
}

/// Puts one object from registered memory. As mooncake_store_put, but 0 bytes are a success that
/// stores nothing.
///
/// @param store, key, config  as in mooncake_store_put.
/// @param buffer  its bytes.
/// @param size    how many.
/// @return as mooncake_store_put.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_put_from(
    store: mooncake_store_t,
    key: *const c_char,
    buffer: *mut c_void,
    size: usize,
    config: *const mooncake_replicate_config_t,
) -> c_int {
    entry::code(store, |client| {
        if size == 0 && !key.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise about key, buffer and config.
        unsafe { put(client, key, buffer.cast_const(), size, config) }
    })
}

/// Puts many objects from registered memory.
///
/// @param store        the client.
/// @param keys         names.
/// @param buffers      bytes of each.
/// @param sizes        how many of each.
/// @param count        how many objects.
/// @param config       for all; NULL for the defaults.
/// @param results_out  receives what mooncake_store_put would return, for each.
/// @return 0 when results_out was filled; -600 or -1 when nothing was done.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_batch_put_from(
    store: mooncake_store_t,
    keys: *const *const c_char,
    buffers: *const *mut c_void,
    sizes: *const usize,
    count: usize,
    config: *const mooncake_replicate_config_t,
    results_out: *mut c_int,
) -> c_int {
    entry::code(store, |client| {
        // SAFETY: the caller's promise about the arrays.
        let batch = unsafe { Batch::read(keys, buffers, sizes, count) }?;
        // SAFETY: the caller's promise about config.
        let options = unsafe { options(config) }?;
        let results = client.put_batch(&batch.objects(), &options, None)?;
        // SAFETY: the caller's promise about results_out.
        unsafe { give(results_out, results, |result| existing_is_fine(result).map(|()| 0)) }
    })
}

/// Reads one object into memory of the caller.
///
/// @param store   the client.
/// @param key     name of the object.
/// @param buffer  receives the bytes.
/// @param size    its room.
/// @return the object's size; -600 when it is larger; -703 when it is not complete; -704 without
///         it; -707 when its lease ended; -800; -900; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_get_into(
    store: mooncake_store_t,
    key: *const c_char,
    buffer: *mut c_void,
    size: usize,
) -> i64 {
    entry::on(store, |client| {
        // SAFETY: the caller's promise about key.
        let name = unsafe { self::key(key, "key") }?;
        let ranges = [range(buffer, size)?];
        let objects = [Object { key: &name, ranges: &ranges }];
        first(client.get_batch(&objects, None)?).map(|size| size as i64)
    })
}

/// Reads many objects into memory of the caller.
///
/// @param store        the client.
/// @param keys         names.
/// @param buffers      where the bytes of each go.
/// @param sizes        room for each.
/// @param count        how many objects.
/// @param results_out  receives what mooncake_store_get_into would return, for each.
/// @return 0 when results_out was filled; -600 or -1 when nothing was done.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_batch_get_into(
    store: mooncake_store_t,
    keys: *const *const c_char,
    buffers: *const *mut c_void,
    sizes: *const usize,
    count: usize,
    results_out: *mut i64,
) -> c_int {
    entry::code(store, |client| {
        // SAFETY: the caller's promise about the arrays.
        let batch = unsafe { Batch::read(keys, buffers, sizes, count) }?;
        let results = client.get_batch(&batch.objects(), None)?;
        // SAFETY: the caller's promise about results_out.
        unsafe { give(results_out, results, |result| result.map(|size| size as i64)) }
    })
}

/// Tells whether an object exists and is complete. Takes a lease on it if it does.
///
/// @param store  the client.
/// @param key    name of the object.
/// @return 1 or 0; -600; -900; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_is_exist(
    store: mooncake_store_t,
    key: *const c_char,
) -> c_int {
    entry::on(store, |client| {
        // SAFETY: the caller's promise about key.
        let name = unsafe { self::key(key, "key") }?;
        first(client.exists(&[&name], None)?).map(i64::from)
    }) as c_int
}

/// As mooncake_store_is_exist, for many.
///
/// @param store        the client.
/// @param keys         names.
/// @param count        how many.
/// @param results_out  receives what mooncake_store_is_exist would return, for each.
/// @return 0 when results_out was filled; -600, -900 or -1 when nothing was done.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_batch_is_exist(
    store: mooncake_store_t,
    keys: *const *const c_char,
    count: usize,
    results_out: *mut c_int,
) -> c_int {
    entry::code(store, |client| {
        // SAFETY: the caller's promise about keys.
        let names = unsafe { self::keys(keys, count) }?;
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let results = client.exists(&names, None)?;
        // SAFETY: the caller's promise about results_out.
        unsafe { give(results_out, results, |result| result.map(i64::from)) }
    })
}

/// Tells the size of an object. Takes a lease on it.
///
/// @param store  the client.
/// @param key    name of the object.
/// @return the size; -703; -704; -900; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_get_size(
    store: mooncake_store_t,
    key: *const c_char,
) -> i64 {
    entry::on(store, |client| {
        // SAFETY: the caller's promise about key.
        let name = unsafe { self::key(key, "key") }?;
        first(client.sizes(&[&name], None)?).map(|size| size as i64)
    })
}

/// Removes one object.
///
/// @param store  the client.
/// @param key    name of the object.
/// @param force  not 0: also when readers hold a lease; masters of ours only.
/// @return 0; -703 when it is not complete; -704 without it; -706 with a lease; -900; -1 for a
///         wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_remove(
    store: mooncake_store_t,
    key: *const c_char,
    force: c_int,
) -> c_int {
    entry::code(store, |client| {
        // SAFETY: the caller's promise about key.
        let name = unsafe { self::key(key, "key") }?;
        first(client.remove(&[&name], force != 0, None)?)
    })
}

/// Removes all objects in whose name a regular expression is found.
///
/// @param store    the client.
/// @param pattern  the expression.
/// @param force    as in mooncake_store_remove.
/// @return how many were removed; -600 for a wrong expression; -900; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_remove_by_regex(
    store: mooncake_store_t,
    pattern: *const c_char,
    force: c_int,
) -> i64 {
    entry::on(store, |client| {
        // SAFETY: the caller's promise about pattern.
        let pattern = unsafe { key(pattern, "pattern") }?;
        client.remove_by_pattern(&pattern, force != 0).map(|count| count as i64)
    })
}

/// Removes all objects that are not leased.
///
/// @param store  the client.
/// @param force  as in mooncake_store_remove.
/// @return how many were removed; -900; -1 for a wrong handle.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_remove_all(store: mooncake_store_t, force: c_int) -> i64 {
    entry::on(store, |client| client.remove_all(force != 0).map(|count| count as i64))
}

/// # Safety
/// As the exported function.
unsafe fn put(
    client: &Store,
    name: *const c_char,
    value: *const c_void,
    size: usize,
    config: *const mooncake_replicate_config_t,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let name = unsafe { key(name, "key") }?;
    let ranges = [range(value, size)?];
    // SAFETY: as above.
    let options = unsafe { options(config) }?;
    let objects = [Object { key: &name, ranges: &ranges }];
    existing_is_fine(first(client.put_batch(&objects, &options, None)?))
}

/// Upstream calls a put of an object that is there a success.
fn existing_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::ObjectExists => Ok(()),
        result => result,
    }
}

fn range(address: *const c_void, length: usize) -> Result<Range> {
    range_of(address, length, "buffer").map_err(|error| error.with("pointer", "NULL"))
}

fn first<T>(results: Vec<Result<T>>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Internal, "a call without a result"));
    results.into_iter().next().unwrap_or_else(missing)
}

/// Copies of what the caller's arrays say; the memory itself stays numbers.
struct Batch {
    keys: Vec<Vec<u8>>,
    ranges: Vec<[Range; 1]>,
}

impl Batch {
    /// # Safety
    /// Three arrays of `count`; the keys are NUL-terminated.
    unsafe fn read(
        keys: *const *const c_char,
        buffers: *const *mut c_void,
        sizes: *const usize,
        count: usize,
    ) -> Result<Batch> {
        // SAFETY: the caller's promise.
        let keys = unsafe { self::keys(keys, count) }?;
        // SAFETY: as above.
        let buffers = unsafe { array(buffers, count, "buffers") }?;
        // SAFETY: as above.
        let sizes = unsafe { array(sizes, count, "sizes") }?;
        let pairs = buffers.iter().zip(sizes);
        let ranges = pairs.map(|(buffer, size)| range(buffer.cast_const(), *size).map(|r| [r]));
        Ok(Batch { keys, ranges: ranges.collect::<Result<_>>()? })
    }

    fn objects(&self) -> Vec<Object<'_>> {
        let pairs = self.keys.iter().zip(&self.ranges);
        pairs.map(|(key, ranges)| Object { key, ranges }).collect()
    }
}

/// Writes a number for each result. The text of the first failure becomes the thread's last one.
///
/// # Safety
/// `out` is NULL, or writable for as many numbers as there are results.
unsafe fn give<V, N: Copy + TryFrom<i64>>(
    out: *mut N,
    results: Vec<Result<V>>,
    number: impl Fn(Result<V>) -> Result<i64>,
) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    if out.is_null() || !out.is_aligned() {
        return Err(null("results_out"));
    }
    let mut first = None;
    for (index, result) in results.into_iter().enumerate() {
        let value = number(result).unwrap_or_else(|error| {
            let number = i64::from(outcome_number(&error));
            first.get_or_insert(error);
            number
        });
        let Ok(value) = N::try_from(value) else { continue };
        // SAFETY: within the caller's array.
        let place = unsafe { out.add(index) };
        // SAFETY: as above; aligned, checked above.
        unsafe { place.write(value) };
    }
    if let Some(error) = first {
        boundary::failed(&error);
    }
    Ok(())
}
