//! Buffers: memory the engine may use, and what peers may do with it.

use std::ffi::{c_char, c_void};

use super::boundary::{self, bad_argument, on_ok};
use super::engine::mc_engine_t;
use super::status::mc_status_t;
use crate::engine::{Access, BufferSpec, Engine};
use crate::error::Result;
use crate::limits;

/// Peers may read the buffer.
pub const MC_ACCESS_REMOTE_READ: u32 = 1;
/// Peers may write the buffer.
pub const MC_ACCESS_REMOTE_WRITE: u32 = 2;
/// Peers may read and write the buffer; the same as 0.
pub const MC_ACCESS_REMOTE_ALL: u32 = 3;
/// Only this engine uses the buffer; peers do not see it.
pub const MC_ACCESS_LOCAL_ONLY: u32 = 4;

/// One contiguous range of memory to register.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_buffer_t {
    /// Its first byte.
    pub address: *mut c_void,
    /// Its length; not zero.
    pub length_bytes: usize,
    /// Where it lives, for example "cpu:0"; NULL = "*", find out.
    pub location: *const c_char,
    /// MC_ACCESS_* bits; 0 = MC_ACCESS_REMOTE_ALL.
    pub access: u32,
    /// Zero.
    pub reserved: u32,
}

/// Registers a buffer: from now on transfers may use it, and peers may reach it as its access
/// says.
///
/// The memory must stay mapped until the buffer is unregistered or the engine is destroyed.
/// Registering exactly the same range again counts; it is gone after as many unregistrations.
///
/// @param engine  the engine.
/// @param buffer  copied.
///
/// Threads: any. Blocks: while metadata is published, longest the transfer timeout.
/// Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_OVERLAP when it partly covers another buffer;
/// MC_ERR_LIMIT_REACHED; MC_ERR_METADATA_UNAVAILABLE; MC_ERR_SHUTDOWN. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_buffer_register(
    engine: *mut mc_engine_t,
    buffer: *const mc_buffer_t,
) -> mc_status_t {
    // SAFETY: the caller's promise about buffer: one of them.
    on_ok(engine, |engine: &Engine| unsafe { register(engine, buffer, 1) })
}

/// Registers several buffers: all of them, or none when one is refused.
///
/// @param engine   the engine.
/// @param buffers  copied; ignored if count is 0.
/// @param count    buffers in it.
///
/// Threads, Blocks, Returns: as mc_buffer_register. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_buffer_register_many(
    engine: *mut mc_engine_t,
    buffers: *const mc_buffer_t,
    count: usize,
) -> mc_status_t {
    // SAFETY: the caller's promise about buffers.
    on_ok(engine, |engine: &Engine| unsafe { register(engine, buffers, count) })
}

/// Unregisters a buffer; when it returns, no transfer and no peer touches the memory any more.
///
/// Transfers that still use it fail with MC_ERR_UNREGISTERED.
///
/// @param engine   the engine.
/// @param address  first byte of a registered buffer.
///
/// Threads: any. Blocks: until running system calls let go of it and the change is published,
/// longest the transfer timeout.
/// Returns: MC_OK; MC_ERR_NOT_REGISTERED; MC_ERR_METADATA_UNAVAILABLE; MC_ERR_TIMEOUT;
/// MC_ERR_SHUTDOWN. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_buffer_unregister(
    engine: *mut mc_engine_t,
    address: *mut c_void,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| engine.unregister(&[boundary::address(address)]))
}

/// Unregisters several buffers: all of them, or none when one is not registered.
///
/// @param engine     the engine.
/// @param addresses  first bytes of registered buffers; ignored if count is 0.
/// @param count      addresses in it.
///
/// Threads, Blocks, Returns: as mc_buffer_unregister. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_buffer_unregister_many(
    engine: *mut mc_engine_t,
    addresses: *const *mut c_void,
    count: usize,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        // SAFETY: the caller's promise about addresses.
        let addresses = unsafe { boundary::slice(addresses, count, "addresses") }?;
        let addresses: Vec<usize> =
            addresses.iter().map(|address| boundary::address(*address)).collect();
        engine.unregister(&addresses)
    })
}

unsafe fn register(engine: &Engine, buffers: *const mc_buffer_t, count: usize) -> Result<()> {
    if count > limits::BUFFERS_MAX {
        return Err(bad_argument("count", "is more than an engine may register")
            .with("count", count)
            .with("count_max", limits::BUFFERS_MAX));
    }
    // SAFETY: the caller's promise.
    let buffers = unsafe { boundary::slice(buffers, count, "buffers") }?;
    let specs: Result<Vec<BufferSpec>> = buffers
        .iter()
        .enumerate()
        // SAFETY: the caller's promise about the texts in the array.
        .map(|(index, buffer)| unsafe { spec(buffer) }.map_err(|e| e.with("buffer", index)))
        .collect();
    engine.register(&specs?)
}

unsafe fn spec(buffer: &mc_buffer_t) -> Result<BufferSpec> {
    if buffer.reserved != 0 {
        return Err(bad_argument("buffer.reserved", "is not zero"));
    }
    // SAFETY: the caller's promise.
    let location = unsafe { boundary::text(buffer.location, LOCATION_BYTES_MAX, "location") }?;
    Ok(BufferSpec {
        address: boundary::address(buffer.address),
        length: buffer.length_bytes,
        location: location.filter(|text| !text.is_empty()).unwrap_or_else(|| "*".to_owned()),
        access: access(buffer.access)?,
    })
}

fn access(bits: u32) -> Result<Access> {
    Ok(match bits {
        0 | MC_ACCESS_REMOTE_ALL => Access::ALL,
        MC_ACCESS_REMOTE_READ => Access::REMOTE_READ,
        MC_ACCESS_REMOTE_WRITE => Access::REMOTE_WRITE,
        MC_ACCESS_LOCAL_ONLY => Access::LOCAL,
        _ => {
            return Err(
                bad_argument("access", "is no valid combination of MC_ACCESS_*").with("bits", bits)
            )
        }
    })
}

/// Bytes of a location without NUL; it has a fixed place in mc_segment_buffer_t.
pub(crate) const LOCATION_BYTES_MAX: usize = 63;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<mc_buffer_t>() == 32);
    assert!(offset_of!(mc_buffer_t, length_bytes) == 8);
    assert!(offset_of!(mc_buffer_t, location) == 16);
    assert!(offset_of!(mc_buffer_t, access) == 24);
};
