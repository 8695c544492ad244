//! Open segments. Upstream never closes one, so ids count up from 1 and stay valid.

use std::ffi::{c_char, c_int};

use super::entry::{self, UpstreamEngine};
use super::numbers::CODE_INVALID_ARGUMENT;
use super::types::{segment_id_t, transfer_engine_t};
use crate::capi::boundary::{self, bad_argument};
use crate::engine::SegmentId;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Opens the segment of the engine called segment_name, or finds it open already.
///
/// @param engine        the engine.
/// @param segment_name  a peer's name, or the engine's own; leading slashes are dropped.
/// @return the segment, valid until the engine is destroyed; -1 on failure.
///
/// Blocks while metadata is fetched.
#[no_mangle]
pub unsafe extern "C" fn openSegment(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> segment_id_t {
    let refused = |_| CODE_INVALID_ARGUMENT;
    entry::on(engine, refused, |engine| {
        // SAFETY: the caller's promise about segment_name.
        let name = unsafe { name(segment_name) }?;
        open(engine, &name)
    })
}

/// As openSegment, but what is known of an open segment is fetched again first. Where that fails
/// the segment is given as it was known.
#[no_mangle]
pub unsafe extern "C" fn openSegmentNoCache(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> segment_id_t {
    let refused = |_| CODE_INVALID_ARGUMENT;
    entry::on(engine, refused, |engine| {
        // SAFETY: the caller's promise about segment_name.
        let name = unsafe { name(segment_name) }?;
        if let Err(error) = engine.engine.forget_segment(&name) {
            ::log::warn!("a segment could not be fetched again: {error}");
        }
        open(engine, &name)
    })
}

/// Does nothing, as upstream: a segment stays open until its engine is destroyed.
///
/// @return 0, or -1 for a handle that is not an engine.
#[no_mangle]
pub unsafe extern "C" fn closeSegment(
    engine: transfer_engine_t,
    segment_id: segment_id_t,
) -> c_int {
    let _ = segment_id;
    entry::code(engine, |_| Ok(()))
}

/// Forgets what is known of a segment: opening it by that name fetches it again. Nothing is
/// removed at the peer or in the metadata service.
///
/// @param engine        the engine.
/// @param segment_name  the name.
/// @return 0, or -1 for an empty name or a handle that is not an engine.
#[no_mangle]
pub unsafe extern "C" fn removeLocalSegment(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> c_int {
    entry::code(engine, |engine| {
        // SAFETY: the caller's promise about segment_name.
        let name = unsafe { name(segment_name) }?;
        let mut forgotten = engine.forgotten.lock();
        if forgotten.len() < limits::SEGMENTS_MAX {
            forgotten.insert(name);
        }
        Ok(())
    })
}

/// Fetches what is known of all open segments again. A segment for which that fails stays as it
/// was known; one whose peer is silent is waited for one second, and then not for half a minute.
///
/// @param engine  the engine.
/// @return 0, or -1 for a handle that is not an engine.
///
/// Blocks while metadata is fetched.
#[no_mangle]
pub unsafe extern "C" fn syncSegmentCache(engine: transfer_engine_t) -> c_int {
    entry::code(engine, |engine| {
        if let Err(error) = engine.engine.refresh_all_segments() {
            ::log::warn!("a segment could not be fetched again: {error}");
        }
        Ok(())
    })
}

/// Does nothing: connections of the transports of this library need no preparation.
///
/// @return 0, or -1 for a handle that is not an engine.
#[no_mangle]
pub unsafe extern "C" fn warmupEfaSegment(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> c_int {
    let _ = segment_name;
    entry::code(engine, |_| Ok(()))
}

fn open(engine: &UpstreamEngine, name: &str) -> Result<segment_id_t> {
    let forgotten = engine.forgotten.lock().contains(name);
    let id = if forgotten {
        engine.engine.open_segment_fresh(name)?
    } else {
        engine.engine.open_segment(name)?
    };
    if forgotten {
        engine.forgotten.lock().remove(name);
    }
    to_c(id)
}

/// A name without the leading slashes, which upstream drops.
///
/// # Safety
/// A pointer that is not NULL points to a NUL-terminated text.
unsafe fn name(pointer: *const c_char) -> Result<String> {
    // SAFETY: the caller's promise.
    let text = unsafe { boundary::required_text(pointer, limits::NAME_BYTES_MAX, "segment_name") }?;
    match text.trim_start_matches('/') {
        "" => Err(bad_argument("segment_name", "is empty")),
        name => Ok(name.to_owned()),
    }
}

/// The engine's number in upstream's 32 bits. It fits: no segment is ever closed through this API,
/// so every one of the engine is the first in its place.
fn to_c(id: SegmentId) -> Result<segment_id_t> {
    segment_id_t::try_from(id.0).map_err(|_| {
        Error::new(ErrorKind::Internal, "the number of a segment has more than 31 bits")
            .with("segment", id.0)
    })
}

/// The opposite of [`to_c`]: a negative number is no segment, any other is looked up.
pub(super) fn from_c(id: segment_id_t) -> Result<SegmentId> {
    match u64::try_from(id) {
        Ok(id) => Ok(SegmentId(id)),
        Err(_) => Err(bad_argument("target_id", "is negative").with("target_id", id)),
    }
}
