//! Registered memory.

use std::ffi::{c_char, c_int, c_void};

use super::entry::{self, UpstreamEngine};
use super::types::{buffer_entry_t, transfer_engine_t};
use crate::capi::boundary::{self, bad_argument};
use crate::engine::{Access, BufferSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::location_is_valid;

/// Bytes of a location that are looked at; upstream has no limit.
const LOCATION_BYTES_MAX: usize = 4096;

/// Registers memory, so that the engine's and its peers' transfers may use it.
///
/// @param engine             the engine.
/// @param addr               its first byte.
/// @param length             its length in bytes.
/// @param location           where it lives, for example "cpu:0"; "*" or NULL = find out.
/// @param remote_accessible  ignored, as upstream does: peers always may use it.
/// @return 0; -7 when part or all of it is registered already; -1 for a length of zero or a handle
///         that is not an engine; another negative number otherwise.
#[no_mangle]
pub unsafe extern "C" fn registerLocalMemory(
    engine: transfer_engine_t,
    addr: *mut c_void,
    length: usize,
    location: *const c_char,
    remote_accessible: c_int,
) -> c_int {
    let _ = remote_accessible;
    entry::code(engine, |engine| {
        // SAFETY: the caller's promise about location.
        let location = unsafe { location_of(location) }?;
        register(engine, &[spec(addr, length, &location)])
    })
}

/// Takes a registration back. When it returns, no transfer and no peer touches the memory any more.
///
/// @param engine  the engine.
/// @param addr    first byte of registered memory.
/// @return 0; -3 when none begins there; -1 for a handle that is not an engine.
#[no_mangle]
pub unsafe extern "C" fn unregisterLocalMemory(
    engine: transfer_engine_t,
    addr: *mut c_void,
) -> c_int {
    entry::code(engine, |engine| engine.engine.unregister(&[boundary::address(addr)]))
}

/// Registers several ranges: all of them, or none when one is refused.
///
/// @param engine       the engine.
/// @param buffer_list  the ranges; ignored if buffer_len is 0.
/// @param buffer_len   how many.
/// @param location     where they live, as in registerLocalMemory.
/// @return as registerLocalMemory.
#[no_mangle]
pub unsafe extern "C" fn registerLocalMemoryBatch(
    engine: transfer_engine_t,
    buffer_list: *mut buffer_entry_t,
    buffer_len: usize,
    location: *const c_char,
) -> c_int {
    entry::code(engine, |engine| {
        check_count(buffer_len)?;
        // SAFETY: the caller's promise about location.
        let location = unsafe { location_of(location) }?;
        // SAFETY: the caller's promise about buffer_list.
        let entries = unsafe { boundary::slice(buffer_list, buffer_len, "buffer_list") }?;
        let specs: Vec<BufferSpec> =
            entries.iter().map(|entry| spec(entry.addr, entry.length, &location)).collect();
        register(engine, &specs)
    })
}

/// Takes several registrations back: all of them, or none when one does not exist.
///
/// @param engine     the engine.
/// @param addr_list  first bytes of registered memory; ignored if addr_len is 0.
/// @param addr_len   how many.
/// @return as unregisterLocalMemory.
#[no_mangle]
pub unsafe extern "C" fn unregisterLocalMemoryBatch(
    engine: transfer_engine_t,
    addr_list: *mut *mut c_void,
    addr_len: usize,
) -> c_int {
    entry::code(engine, |engine| {
        check_count(addr_len)?;
        // SAFETY: the caller's promise about addr_list.
        let addresses = unsafe { boundary::slice(addr_list.cast_const(), addr_len, "addr_list") }?;
        let addresses: Vec<usize> =
            addresses.iter().map(|address| boundary::address(*address)).collect();
        engine.engine.unregister(&addresses)
    })
}

fn check_count(count: usize) -> Result<()> {
    if count > limits::BUFFERS_MAX {
        return Err(bad_argument("the list", "is longer than an engine may register")
            .with("count", count)
            .with("count_max", limits::BUFFERS_MAX));
    }
    Ok(())
}

/// A location as this library understands it. Upstream takes any text, so one that says nothing
/// here is no reason to refuse.
///
/// # Safety
/// A pointer that is not NULL points to a NUL-terminated text.
unsafe fn location_of(pointer: *const c_char) -> Result<String> {
    // SAFETY: the caller's promise.
    let text = unsafe { boundary::text(pointer, LOCATION_BYTES_MAX, "location") }?;
    Ok(text.filter(|text| location_is_valid(text)).unwrap_or_else(|| "*".to_owned()))
}

fn spec(address: *mut c_void, length: usize, location: &str) -> BufferSpec {
    BufferSpec {
        address: boundary::address(address),
        length,
        location: location.to_owned(),
        access: Access::ALL,
    }
}

/// Registers what is not registered yet. This library counts repeats, upstream refuses them.
fn register(engine: &UpstreamEngine, specs: &[BufferSpec]) -> Result<()> {
    let _registering = engine.registering.lock();
    let mut ranges: Vec<(usize, usize)> = specs.iter().map(|s| (s.address, s.length)).collect();
    ranges.sort_unstable();
    let twice = ranges.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let registered = ranges
        .iter()
        .copied()
        .find(|(address, length)| engine.engine.is_registered(*address, *length));
    if let Some((address, length)) = twice.or(registered) {
        return Err(Error::new(ErrorKind::Overlap, "the memory is registered already")
            .with("address", format_args!("{address:#x}"))
            .with("length_bytes", length));
    }
    engine.engine.register(specs)
}
