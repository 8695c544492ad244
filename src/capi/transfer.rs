//! Transfers in one call: submit and wait, done by the calling thread where that is faster.

use std::ffi::c_void;

use super::batch::{timeout, with_scratch};
use super::boundary::{self, on_ok};
use super::engine::mc_engine_t;
use super::segment::{from_c, mc_segment_t};
use super::status::mc_status_t;
use crate::engine::{Engine, Operation, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Reads from a peer's memory and returns when the bytes are in local memory.
///
/// @param engine          the engine.
/// @param segment         whose memory is read.
/// @param local           first local byte, inside a registered buffer.
/// @param remote_address  first byte in the segment.
/// @param length_bytes    how many bytes.
/// @param timeout_ms      longest time; 0 = the engine's transfer_timeout_ms.
///
/// Threads: any. Blocks: longest timeout_ms, and 10 s more to withdraw from local memory.
/// Returns: MC_OK; what mc_batch_submit and the task can return, for example MC_ERR_NOT_REGISTERED,
/// MC_ERR_REMOTE_RANGE, MC_ERR_UNREACHABLE, MC_ERR_PEER_DOWN, MC_ERR_CONNECTION_LOST,
/// MC_ERR_TIMEOUT. After a failure the target bytes are undefined. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_read(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    local: *mut c_void,
    remote_address: u64,
    length_bytes: u64,
    timeout_ms: u32,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let local = boundary::address(local);
        let segment = from_c(segment);
        let operation = Operation::Read;
        let request = Request { operation, local, segment, remote_address, length: length_bytes };
        engine.transfer(&[request], timeout(timeout_ms))
    })
}

/// Writes to a peer's memory and returns when the peer has the bytes, as far as its protocol can
/// tell.
///
/// @param engine, segment, remote_address, length_bytes, timeout_ms  as in mc_read.
/// @param local  first local byte, inside a registered buffer; not changed.
///
/// Threads, Blocks, Returns: as mc_read. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_write(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    local: *const c_void,
    remote_address: u64,
    length_bytes: u64,
    timeout_ms: u32,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let local = boundary::address(local);
        let segment = from_c(segment);
        let operation = Operation::Write;
        let request = Request { operation, local, segment, remote_address, length: length_bytes };
        engine.transfer(&[request], timeout(timeout_ms))
    })
}

/// Reads several ranges of one segment and returns when all bytes are in local memory.
///
/// @param engine            the engine.
/// @param segment           whose memory is read.
/// @param locals            first local byte of each range.
/// @param remote_addresses  first remote byte of each range.
/// @param lengths_bytes     length of each range.
/// @param count             ranges; with 0 the arrays are ignored and nothing happens.
/// @param timeout_ms        longest time for all together; 0 = the engine's transfer_timeout_ms.
///
/// Threads, Blocks, Returns: as mc_read; the status of the first range that failed. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_read_vector(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    locals: *const *mut c_void,
    remote_addresses: *const u64,
    lengths_bytes: *const u64,
    count: usize,
    timeout_ms: u32,
) -> mc_status_t {
    let ranges = Ranges { segment, locals: locals.cast(), remote_addresses, lengths_bytes, count };
    // SAFETY: the caller's promise about the arrays.
    on_ok(engine, |engine: &Engine| unsafe {
        transfer(engine, Operation::Read, &ranges, timeout_ms)
    })
}

/// Writes several ranges of one segment and returns when the peer has all bytes, as far as its
/// protocol can tell.
///
/// @param engine, segment, remote_addresses, lengths_bytes, count, timeout_ms  as in
///        mc_read_vector.
/// @param locals  first local byte of each range; not changed.
///
/// Threads, Blocks, Returns: as mc_read_vector. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_write_vector(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    locals: *const *const c_void,
    remote_addresses: *const u64,
    lengths_bytes: *const u64,
    count: usize,
    timeout_ms: u32,
) -> mc_status_t {
    let ranges = Ranges { segment, locals, remote_addresses, lengths_bytes, count };
    // SAFETY: the caller's promise about the arrays.
    on_ok(engine, |engine: &Engine| unsafe {
        transfer(engine, Operation::Write, &ranges, timeout_ms)
    })
}

/// The arrays of a vector call.
struct Ranges {
    segment: mc_segment_t,
    locals: *const *const c_void,
    remote_addresses: *const u64,
    lengths_bytes: *const u64,
    count: usize,
}

unsafe fn transfer(
    engine: &Engine,
    operation: Operation,
    ranges: &Ranges,
    timeout_ms: u32,
) -> Result<()> {
    let count = ranges.count;
    if count > limits::BATCH_REQUESTS_MAX {
        return Err(Error::new(ErrorKind::TooManyRequests, "too many ranges for one call")
            .with("count", count)
            .with("count_max", limits::BATCH_REQUESTS_MAX));
    }
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let locals = unsafe { boundary::slice(ranges.locals, count, "locals") }?;
    // SAFETY: the caller's promise.
    let remotes = unsafe { boundary::slice(ranges.remote_addresses, count, "remote_addresses") }?;
    // SAFETY: the caller's promise.
    let lengths = unsafe { boundary::slice(ranges.lengths_bytes, count, "lengths_bytes") }?;
    with_scratch(|requests| {
        let segment = from_c(ranges.segment);
        requests.extend(locals.iter().zip(remotes).zip(lengths).map(
            |((&local, &remote_address), &length)| Request {
                operation,
                local: boundary::address(local),
                segment,
                remote_address,
                length,
            },
        ));
        engine.transfer(requests, timeout(timeout_ms))
    })
}
