//! Objects in memory of the store, which the caller gives back.

use std::ffi::{c_char, c_void};

use super::boundary::{guard_ok, guard_value, on_ok};
use super::engine::handle_out;
use super::handle::{Kind, Noun, Table};
use super::status::mc_status_t;
use super::store::{key_of, mc_store_t, timeout};
use super::store_batch::{mc_store_object_t, Batch, Outs};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Store, StoreBuffer};

/// An object's bytes in memory of the store: the object itself where it lies in memory that this
/// client gave to the pool of a master of ours, else a copy in its local buffer. Opaque.
pub struct mc_store_buffer_t {
    _private: [u8; 0],
}

static BUFFERS: Table<StoreBuffer> = Table::new(Kind::StoreBuffer);

impl Noun for StoreBuffer {
    type Opaque = mc_store_buffer_t;
    const WORD: &'static str = "store buffer";

    fn table() -> &'static Table<Self> {
        &BUFFERS
    }
}

/// Gives one object as memory of the store. An object in own memory is not copied: its memory is
/// not used again before the buffer is released, even when the object is removed or evicted. Views
/// hold at most half of the own memory; beyond that, and in all other cases, the object is read
/// once, into the local buffer.
///
/// @param store, key, key_len, timeout_ms  as in mc_store_get.
/// @param buffer_out  receives the buffer, owned by the caller until mc_store_buffer_release; NULL
///                    on failure.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_get, and MC_ERR_LIMIT_REACHED
/// when buffers that were not released leave no room. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_get_buffer(
    store: *mut mc_store_t,
    key: *const c_char,
    key_len: usize,
    timeout_ms: u32,
    buffer_out: *mut *mut mc_store_buffer_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let buffer_out = handle_out(buffer_out, "buffer_out")?;
        // SAFETY: the caller's promise about key.
        let key = unsafe { key_of(key, key_len) }?;
        let got = store.get_buffers(&[&key], timeout(timeout_ms))?.into_iter().next();
        let missing = || Err(Error::new(ErrorKind::Internal, "a call without a result"));
        buffer_out.set(BUFFERS.insert(got.unwrap_or_else(missing)?)?);
        Ok(())
    })
}

/// Gives many objects as memory of the store; see mc_store_get_buffer.
///
/// @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
/// @param buffers_out  receives a buffer for each object, NULL where its status is a failure.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_put_batch. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_get_buffers(
    store: *mut mc_store_t,
    objects: *const mc_store_object_t,
    count: usize,
    timeout_ms: u32,
    buffers_out: *mut *mut mc_store_buffer_t,
    statuses_out: *mut mc_status_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let statuses = Outs::new(statuses_out, count, "statuses_out")?;
        let buffers = Outs::new(buffers_out, count, "buffers_out")?;
        // SAFETY: the caller's promise about objects.
        let batch = unsafe { Batch::read(objects, count) }?;
        let got = store.get_buffers(&batch.keys(), timeout(timeout_ms))?;
        buffers.fill(std::ptr::null_mut());
        let handles: Vec<Result<_>> =
            got.into_iter().map(|buffer| buffer.and_then(|b| BUFFERS.insert(b))).collect();
        statuses.give(handles, |index, handle| buffers.set(index, handle));
        Ok(())
    })
}

/// Gives the first byte of a buffer. The bytes stay what they are and may be read until the buffer
/// is released, also after the store was closed. They must not be changed, because they may be the
/// object itself; see mc_store_buffer_detach.
///
/// @param buffer  the buffer.
/// @return the address; NULL for a handle that is not a buffer.
///
/// Threads: any. Blocks: no. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_buffer_address(buffer: *const mc_store_buffer_t) -> *mut c_void {
    guard_value(std::ptr::null_mut(), || {
        let address = BUFFERS.pin(buffer).map_or(0, |buffer| buffer.address());
        std::ptr::with_exposed_provenance_mut(address)
    })
}

/// Gives the bytes of a buffer.
///
/// @param buffer  the buffer.
/// @return how many; 0 for a handle that is not a buffer.
///
/// Threads: any. Blocks: no. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_buffer_size(buffer: *const mc_store_buffer_t) -> usize {
    guard_value(0, || BUFFERS.pin(buffer).map_or(0, |buffer| buffer.length()))
}

/// Makes the bytes of a buffer its holder's own, to be changed at will. A buffer that is the object
/// itself becomes a copy in the local buffer, at another address; any other stays as it is.
///
/// @param buffer  the buffer.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_LIMIT_REACHED when the local buffer has no
/// room, and the buffer stays as it is. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_buffer_detach(buffer: *mut mc_store_buffer_t) -> mc_status_t {
    guard_ok(|| BUFFERS.pin(buffer)?.detach())
}

/// Gives a buffer back, from any thread, in any order. Its memory must not be touched any more.
///
/// @param buffer  the buffer; NULL does nothing.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was released before.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_buffer_release(buffer: *mut mc_store_buffer_t) -> mc_status_t {
    guard_ok(|| {
        if buffer.is_null() {
            return Ok(());
        }
        BUFFERS.close(buffer).map(drop)
    })
}
