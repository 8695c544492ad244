//! Batches of objects: one call to the master, all transfers together, a status for each object.

use std::ffi::{c_char, c_void};

use super::boundary::{self, failed, on_ok};
use super::status::{mc_status_t, MC_OK};
use super::store::{key_of, mc_put_options_t, mc_store_t, put_options, range_of, timeout};
use crate::error::Result;
use crate::limits;
use crate::store::{Object, Range, Store};

/// A range of local memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_store_range_t {
    /// Its first byte.
    pub address: *mut c_void,
    /// Its length.
    pub length_bytes: usize,
}

/// An object of a batch, and the memory its bytes come from or go to: ranges one after the other,
/// in any cut.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_store_object_t {
    /// Name of the object.
    pub key: *const c_char,
    /// Its bytes.
    pub key_len: usize,
    /// The memory.
    pub ranges: *const mc_store_range_t,
    /// How many ranges; 0 where a call is about names only.
    pub range_count: usize,
}

/// Puts many objects.
///
/// @param store         the client.
/// @param objects       what to put; memory is read during the call only.
/// @param count         how many.
/// @param options       for all of them; NULL = all defaults.
/// @param statuses_out  receives a status for each object, as mc_store_put returns it.
///
/// Threads: any. Blocks: as mc_store_put. Returns: MC_OK when the batch was carried out and
/// statuses_out says how each object ended, the last error text being that of the first failure;
/// MC_ERR_INVALID_ARGUMENT, MC_ERR_TOO_MANY_REQUESTS or MC_ERR_SHUTDOWN when nothing was done.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_put_batch(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    options: *const mc_put_options_t,
    statuses_out: *mut mc_status_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let outs = Outs::new(statuses_out, count, "statuses_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        // SAFETY: the caller's promise about options.
        let asked = unsafe { put_options(options) }?;
        outs.give(asked.put(store, &batch.objects())?, |_, ()| ());
        Ok(())
    })
}

/// Reads many objects into memory of the caller.
///
/// @param store         the client.
/// @param objects       names, and where the bytes go; the ranges of an object may have more room
///                      than it has bytes.
/// @param count         how many.
/// @param timeout_ms    longest time; 0 = the setting transfer_timeout_ms.
/// @param sizes_out     receives the size of each object, 0 after a failure; may be NULL.
/// @param statuses_out  receives a status for each object, as mc_store_get returns it.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_put_batch. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_get_batch(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    timeout_ms: u32,
    sizes_out: *mut u64,
    statuses_out: *mut mc_status_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let outs = Outs::new(statuses_out, count, "statuses_out")?;
        let sizes = Outs::optional(sizes_out, count, "sizes_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        let results = store.get_batch(&batch.objects(), timeout(timeout_ms))?;
        sizes.fill(0);
        outs.give(results, |index, size| sizes.set(index, size));
        Ok(())
    })
}

/// Tells the sizes of many objects. Takes a lease on each.
///
/// @param store, objects, count, timeout_ms, sizes_out, statuses_out  as in mc_store_get_batch;
///        only the names of the objects are looked at.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_put_batch, and
/// MC_ERR_MASTER_UNAVAILABLE. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_size_batch(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    timeout_ms: u32,
    sizes_out: *mut u64,
    statuses_out: *mut mc_status_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let outs = Outs::new(statuses_out, count, "statuses_out")?;
        let sizes = Outs::new(sizes_out, count, "sizes_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        let results = store.sizes(&batch.keys(), timeout(timeout_ms))?;
        sizes.fill(0);
        outs.give(results, |index, size| sizes.set(index, size));
        Ok(())
    })
}

/// Tells which of many objects exist and are complete. Takes a lease on each that does.
///
/// @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
/// @param exists_out  receives 1 or 0 for each object.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_size_batch. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_exists_batch(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    timeout_ms: u32,
    exists_out: *mut i32,
    statuses_out: *mut mc_status_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let outs = Outs::new(statuses_out, count, "statuses_out")?;
        let exists = Outs::new(exists_out, count, "exists_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        let results = store.exists(&batch.keys(), timeout(timeout_ms))?;
        exists.fill(0);
        outs.give(results, |index, found| exists.set(index, found.into()));
        Ok(())
    })
}

/// Removes many objects.
///
/// @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
/// @param force  as in mc_store_remove.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_size_batch. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_remove_batch(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    force: i32,
    timeout_ms: u32,
    statuses_out: *mut mc_status_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let outs = Outs::new(statuses_out, count, "statuses_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        outs.give(store.remove(&batch.keys(), force != 0, timeout(timeout_ms))?, |_, ()| ());
        Ok(())
    })
}

/// Copies of what the caller's array says; the memory itself stays numbers.
pub(super) struct Batch {
    keys: Vec<Vec<u8>>,
    ranges: Vec<Vec<Range>>,
}

impl Batch {
    /// # Safety
    /// An array of `count` objects whose keys and arrays of ranges are readable.
    pub(super) unsafe fn read(objects: *const mc_store_object_t, count: usize) -> Result<Batch> {
        check_count(count)?;
        // SAFETY: the caller's promise.
        let objects = unsafe { boundary::slice(objects, count, "objects") }?;
        let mut batch = Batch { keys: Vec::new(), ranges: Vec::new() };
        for object in objects {
            // SAFETY: as above.
            batch.keys.push(unsafe { key_of(object.key, object.key_len) }?);
            check_count(object.range_count)?;
            // SAFETY: as above.
            let ranges = unsafe { boundary::slice(object.ranges, object.range_count, "ranges") }?;
            let ranges = ranges.iter().map(|r| range_of(r.address, r.length_bytes, "a range"));
            batch.ranges.push(ranges.collect::<Result<_>>()?);
        }
        Ok(batch)
    }

    pub(super) fn objects(&self) -> Vec<Object<'_>> {
        self.keys.iter().zip(&self.ranges).map(|(key, ranges)| Object { key, ranges }).collect()
    }

    pub(super) fn keys(&self) -> Vec<&[u8]> {
        self.keys.iter().map(Vec::as_slice).collect()
    }
}

pub(super) fn check_count(count: usize) -> Result<()> {
    if count > limits::BATCH_REQUESTS_MAX {
        return Err(crate::error::Error::new(
            crate::error::ErrorKind::TooManyRequests,
            "too many objects or ranges in one batch",
        )
        .with("count", count));
    }
    Ok(())
}

/// An array of the caller that results go to.
pub(super) struct Outs<T> {
    place: *mut T,
    count: usize,
}

impl<T: Copy> Outs<T> {
    pub(super) fn new(place: *mut T, count: usize, what: &str) -> Result<Outs<T>> {
        check_count(count)?;
        if count > 0 {
            boundary::Out::required(place, what)?;
        }
        Ok(Outs { place, count })
    }

    pub(super) fn optional(place: *mut T, count: usize, what: &str) -> Result<Outs<T>> {
        if place.is_null() {
            return Ok(Outs { place, count: 0 });
        }
        Outs::new(place, count, what)
    }

    /// Does nothing beyond the end, or where there is no array.
    pub(super) fn set(&self, index: usize, value: T) {
        if index >= self.count {
            return;
        }
        // SAFETY: within the array that the caller of the exported function vouches for.
        let place = unsafe { self.place.add(index) };
        // SAFETY: as above; aligned, checked when made.
        unsafe { place.write(value) };
    }

    pub(super) fn fill(&self, value: T) {
        for index in 0..self.count {
            self.set(index, value);
        }
    }
}

impl Outs<mc_status_t> {
    /// Gives each result's status, and what it holds to `good`. The text of the first failure
    /// becomes the thread's last one.
    pub(super) fn give<V>(&self, results: Vec<Result<V>>, mut good: impl FnMut(usize, V)) {
        let mut first = None;
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(value) => {
                    good(index, value);
                    self.set(index, MC_OK);
                }
                Err(error) => {
                    self.set(index, super::status::of(error.kind()));
                    first.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first {
            failed(&error);
        }
    }
}

const _: () = assert!(size_of::<mc_store_range_t>() == 16);
const _: () = assert!(size_of::<mc_store_object_t>() == 32);
