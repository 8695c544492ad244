//! Segments: the registered memory of an engine, as its peers see it.

use std::ffi::c_char;
use std::time::Duration;

use super::boundary::{self, on_ok, Out};
use super::buffer::LOCATION_BYTES_MAX;
use super::engine::mc_engine_t;
use super::status::mc_status_t;
use crate::engine::{Engine, SegmentBuffer, SegmentId};
use crate::limits;

/// An open segment: a number that means something to the engine that opened it. 0 is none.
pub type mc_segment_t = u64;

/// One buffer of a segment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_segment_buffer_t {
    /// Address of its first byte in its owner; use it as remote_address.
    pub address: u64,
    /// Its length.
    pub length_bytes: u64,
    /// Where it lives, for example "cpu:0"; NUL-terminated.
    pub location: [c_char; 64],
}

/// Opens the segment of the engine called name, or finds it open already.
///
/// @param engine       the engine.
/// @param name         NUL-terminated; a peer's local name, or the engine's own for its own memory.
/// @param segment_out  receives the segment; 0 on failure. Belongs to the engine; each open wants a
///                     mc_segment_close, or mc_engine_destroy.
///
/// Threads: any. Blocks: while metadata is fetched, longest the transfer timeout.
/// Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_ADDRESS; MC_ERR_SEGMENT_NOT_FOUND;
/// MC_ERR_METADATA_UNAVAILABLE; MC_ERR_METADATA_MALFORMED; MC_ERR_UNREACHABLE; MC_ERR_TIMEOUT;
/// MC_ERR_LIMIT_REACHED; MC_ERR_SHUTDOWN. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_segment_open(
    engine: *mut mc_engine_t,
    name: *const c_char,
    segment_out: *mut mc_segment_t,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let segment_out = Out::required(segment_out, "segment_out")?;
        segment_out.set(0);
        // SAFETY: the caller's promise about name.
        let name = unsafe { boundary::required_text(name, limits::NAME_BYTES_MAX, "name") }?;
        segment_out.set(to_c(engine.open_segment(&name)?));
        Ok(())
    })
}

/// Takes one opening of a segment back. With the last one, transfers in flight to it end with
/// MC_ERR_CANCELLED.
///
/// @param engine   the engine that opened it.
/// @param segment  the segment; invalid afterwards, once every open has been closed.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_segment_close(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| engine.close_segment(from_c(segment)))
}

/// Fetches the description of a segment again, to see buffers registered since it was opened.
///
/// A transfer that fails because the description is old does this by itself, once.
///
/// @param engine   the engine that opened it.
/// @param segment  the segment.
///
/// Threads: any. Blocks: while metadata is fetched, longest the transfer timeout. Returns: MC_OK;
/// MC_ERR_INVALID_HANDLE; as mc_segment_open. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_segment_refresh(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| engine.refresh_segment(from_c(segment)))
}

/// Lists the buffers of a segment as they were when it was opened or last refreshed.
///
/// @param engine       the engine that opened it.
/// @param segment      the segment.
/// @param buffers_out  receives the first capacity buffers; may be NULL if capacity is 0.
/// @param capacity     places in buffers_out.
/// @param count_out    receives how many buffers there are, also when that is more than capacity.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE; MC_ERR_INVALID_ARGUMENT.
/// Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_segment_buffers(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    buffers_out: *mut mc_segment_buffer_t,
    capacity: usize,
    count_out: *mut usize,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let count_out = Out::required(count_out, "count_out")?;
        if capacity > 0 {
            Out::required(buffers_out, "buffers_out")?;
        }
        let buffers = engine.segment_buffers(from_c(segment))?;
        for (index, buffer) in buffers.iter().take(capacity).enumerate() {
            // SAFETY: the caller's promise about capacity places.
            let place = unsafe { buffers_out.add(index) };
            Out::required(place, "buffers_out")?.set(describe(buffer));
        }
        count_out.set(buffers.len());
        Ok(())
    })
}

/// Asks the peer that owns a segment for a sign of life.
///
/// @param engine      the engine that opened it.
/// @param segment     the segment.
/// @param timeout_ms  longest time; 0 = 3000.
///
/// Threads: any. Blocks: until the answer, longest timeout_ms. Returns: MC_OK;
/// MC_ERR_INVALID_HANDLE; MC_ERR_UNREACHABLE; MC_ERR_CONNECTION_LOST; MC_ERR_PROTOCOL;
/// MC_ERR_REJECTED; MC_ERR_TIMEOUT; MC_ERR_SHUTDOWN. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_segment_probe(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    timeout_ms: u32,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        engine.probe_segment(from_c(segment), timeout_or(timeout_ms, PROBE_TIMEOUT))
    })
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// A deadline of the caller, or `default` where it gave 0.
pub(crate) fn timeout_or(timeout_ms: u32, default: Duration) -> Duration {
    match timeout_ms {
        0 => default,
        _ => Duration::from_millis(timeout_ms.into()).min(limits::TIMEOUT_MAX),
    }
}

/// The engine's number as C sees it: 0 is no segment in C.
pub(crate) fn to_c(segment: SegmentId) -> mc_segment_t {
    segment.0.wrapping_add(1)
}

/// The opposite of [`to_c`]; no C value is dangerous, the engine checks every number.
pub(crate) fn from_c(segment: mc_segment_t) -> SegmentId {
    SegmentId(segment.wrapping_sub(1))
}

fn describe(buffer: &SegmentBuffer) -> mc_segment_buffer_t {
    let mut location = [0; LOCATION_BYTES_MAX + 1];
    // SAFETY: the array has one byte more than the longest location.
    unsafe {
        boundary::copy_text(&buffer.location, location.as_mut_ptr(), location.len());
    }
    mc_segment_buffer_t { address: buffer.address, length_bytes: buffer.length, location }
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<mc_segment_buffer_t>() == 80);
    assert!(offset_of!(mc_segment_buffer_t, length_bytes) == 8);
    assert!(offset_of!(mc_segment_buffer_t, location) == 16);
};
