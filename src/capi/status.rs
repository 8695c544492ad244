//! Statuses: one number, name and text for each kind of error.
//!
//! Bands say how much is lost. Numbers are never used again; a retired one stays as a comment.
//! Upstream's two number families collide with each other, so neither is used here.

use std::ffi::{c_char, CStr};

use crate::error::ErrorKind;

/// Outcome of a call: 0 is success, positive is "not yet", negative is a failure. The hundreds of
/// a failure say what is lost: 1 the caller's mistake, 2 nothing (try later), 3 this operation,
/// 4 the connection to this peer, 5 metadata, 7 this engine, 9 a defect of the library.
pub type mc_status_t = i32;

/// Success.
pub const MC_OK: mc_status_t = 0;
/// Not finished yet; ask again or wait.
pub const MC_IN_PROGRESS: mc_status_t = 1;

// The caller's mistake: the same call gives the same answer again.

/// An argument is out of its documented range or malformed.
pub const MC_ERR_INVALID_ARGUMENT: mc_status_t = -100;
/// A handle is NULL, of another type, or already destroyed.
pub const MC_ERR_INVALID_HANDLE: mc_status_t = -101;
/// A name, connection string or address cannot be parsed.
pub const MC_ERR_INVALID_ADDRESS: mc_status_t = -102;
/// The named transport or metadata scheme does not exist in this build.
pub const MC_ERR_UNKNOWN_PROTOCOL: mc_status_t = -103;
/// This build, peer or dialect cannot do what was asked.
pub const MC_ERR_UNSUPPORTED: mc_status_t = -104;
/// The range overlaps a registered buffer without being equal to it.
pub const MC_ERR_OVERLAP: mc_status_t = -105;
/// A local range is not inside registered memory.
pub const MC_ERR_NOT_REGISTERED: mc_status_t = -106;
/// The buffer is registered, but not for this access.
pub const MC_ERR_ACCESS_DENIED: mc_status_t = -107;
/// More requests than the batch was created for.
pub const MC_ERR_TOO_MANY_REQUESTS: mc_status_t = -108;
/// The object is not in a state in which this call makes sense.
pub const MC_ERR_INVALID_STATE: mc_status_t = -109;
/// The result does not fit into the buffer that was given for it.
pub const MC_ERR_BUFFER_TOO_SMALL: mc_status_t = -110;

// Nothing is lost: the same call may succeed later.

/// The deadline passed.
pub const MC_ERR_TIMEOUT: mc_status_t = -200;
/// The object is in use.
pub const MC_ERR_BUSY: mc_status_t = -201;
/// A bounded queue or table is full.
pub const MC_ERR_LIMIT_REACHED: mc_status_t = -202;

// This operation is lost: the peer and the engine are fine.

/// The task was cancelled by its owner.
pub const MC_ERR_CANCELLED: mc_status_t = -300;
/// The peer refused the remote range: not registered, not remotely accessible, or gone.
pub const MC_ERR_REMOTE_RANGE: mc_status_t = -301;
/// Local memory was unregistered while the transfer used it.
pub const MC_ERR_UNREGISTERED: mc_status_t = -302;
/// The kernel refused access to a registered range; it is not mapped as the caller said.
pub const MC_ERR_MEMORY_FAULT: mc_status_t = -303;

// The connection to this peer is lost.

/// No connection to the peer could be made.
pub const MC_ERR_UNREACHABLE: mc_status_t = -400;
/// An established connection broke.
pub const MC_ERR_CONNECTION_LOST: mc_status_t = -401;
/// The peer failed moments ago; refused without trying again yet.
pub const MC_ERR_PEER_DOWN: mc_status_t = -402;
/// The bytes of the peer do not follow the protocol.
pub const MC_ERR_PROTOCOL: mc_status_t = -403;
/// The peer answered, and its answer is no.
pub const MC_ERR_REJECTED: mc_status_t = -404;

// Metadata.

/// The metadata service cannot be reached or does not answer.
pub const MC_ERR_METADATA_UNAVAILABLE: mc_status_t = -500;
/// No segment of this name is published.
pub const MC_ERR_SEGMENT_NOT_FOUND: mc_status_t = -501;
/// A metadata document cannot be read.
pub const MC_ERR_METADATA_MALFORMED: mc_status_t = -502;
/// The master of the store cannot be reached or does not answer.
pub const MC_ERR_MASTER_UNAVAILABLE: mc_status_t = -503;

// How an operation of the store ended.

/// No such object.
pub const MC_ERR_OBJECT_NOT_FOUND: mc_status_t = -600;
/// The object exists already; it was not changed.
pub const MC_ERR_OBJECT_EXISTS: mc_status_t = -601;
/// The object is still being written, or its writer has gone.
pub const MC_ERR_OBJECT_NOT_READY: mc_status_t = -602;
/// Readers hold a lease on the object.
pub const MC_ERR_OBJECT_LEASED: mc_status_t = -603;
/// The lease ended before the bytes were copied; the bytes must not be used.
pub const MC_ERR_LEASE_EXPIRED: mc_status_t = -604;
/// No segment has room for the object.
pub const MC_ERR_NO_SPACE: mc_status_t = -605;
/// The bytes are not those that were put.
pub const MC_ERR_CHECKSUM_MISMATCH: mc_status_t = -606;
/// The master refused for another reason; the last error text has its number.
pub const MC_ERR_STORE_REFUSED: mc_status_t = -607;

// This engine.

/// The engine is being or has been destroyed.
pub const MC_ERR_SHUTDOWN: mc_status_t = -700;
/// The handle was inherited through fork; it works only in the process that made it.
pub const MC_ERR_FORKED: mc_status_t = -701;
/// The operating system refused a port, descriptor, memory or thread.
pub const MC_ERR_RESOURCE: mc_status_t = -702;

// A defect of this library. Please report it.

/// A panic was caught; the object it happened in can only be destroyed.
pub const MC_ERR_PANIC: mc_status_t = -900;
/// An invariant of the library does not hold.
pub const MC_ERR_INTERNAL: mc_status_t = -901;

/// What is known of one status.
struct Row {
    status: mc_status_t,
    /// The kind of error it stands for; none for the two that are no errors.
    kind: Option<ErrorKind>,
    name: &'static CStr,
    text: &'static CStr,
}

const fn row(
    status: mc_status_t,
    kind: Option<ErrorKind>,
    name: &'static CStr,
    text: &'static CStr,
) -> Row {
    Row { status, kind, name, text }
}

#[rustfmt::skip]
static ROWS: &[Row] = {
    use ErrorKind as E;
    &[
        row(MC_OK, None, c"MC_OK", c"success"),
        row(MC_IN_PROGRESS, None, c"MC_IN_PROGRESS", c"in progress"),
        row(MC_ERR_INVALID_ARGUMENT, Some(E::InvalidArgument), c"MC_ERR_INVALID_ARGUMENT", c"invalid argument"),
        row(MC_ERR_INVALID_HANDLE, Some(E::InvalidHandle), c"MC_ERR_INVALID_HANDLE", c"invalid handle"),
        row(MC_ERR_INVALID_ADDRESS, Some(E::InvalidAddress), c"MC_ERR_INVALID_ADDRESS", c"invalid address"),
        row(MC_ERR_UNKNOWN_PROTOCOL, Some(E::UnknownProtocol), c"MC_ERR_UNKNOWN_PROTOCOL", c"unknown protocol"),
        row(MC_ERR_UNSUPPORTED, Some(E::Unsupported), c"MC_ERR_UNSUPPORTED", c"not supported"),
        row(MC_ERR_OVERLAP, Some(E::Overlap), c"MC_ERR_OVERLAP", c"overlaps a registered buffer"),
        row(MC_ERR_NOT_REGISTERED, Some(E::NotRegistered), c"MC_ERR_NOT_REGISTERED", c"memory not registered"),
        row(MC_ERR_ACCESS_DENIED, Some(E::AccessDenied), c"MC_ERR_ACCESS_DENIED", c"access denied"),
        row(MC_ERR_TOO_MANY_REQUESTS, Some(E::TooManyRequests), c"MC_ERR_TOO_MANY_REQUESTS", c"too many requests for the batch"),
        row(MC_ERR_INVALID_STATE, Some(E::InvalidState), c"MC_ERR_INVALID_STATE", c"not possible in this state"),
        row(MC_ERR_BUFFER_TOO_SMALL, Some(E::BufferTooSmall), c"MC_ERR_BUFFER_TOO_SMALL", c"buffer too small"),
        row(MC_ERR_TIMEOUT, Some(E::Timeout), c"MC_ERR_TIMEOUT", c"timed out"),
        row(MC_ERR_BUSY, Some(E::Busy), c"MC_ERR_BUSY", c"busy"),
        row(MC_ERR_LIMIT_REACHED, Some(E::LimitReached), c"MC_ERR_LIMIT_REACHED", c"limit reached"),
        row(MC_ERR_CANCELLED, Some(E::Cancelled), c"MC_ERR_CANCELLED", c"cancelled"),
        row(MC_ERR_REMOTE_RANGE, Some(E::RemoteRange), c"MC_ERR_REMOTE_RANGE", c"remote range refused"),
        row(MC_ERR_UNREGISTERED, Some(E::Unregistered), c"MC_ERR_UNREGISTERED", c"memory unregistered during the transfer"),
        row(MC_ERR_MEMORY_FAULT, Some(E::MemoryFault), c"MC_ERR_MEMORY_FAULT", c"registered memory is not accessible"),
        row(MC_ERR_UNREACHABLE, Some(E::Unreachable), c"MC_ERR_UNREACHABLE", c"peer unreachable"),
        row(MC_ERR_CONNECTION_LOST, Some(E::ConnectionLost), c"MC_ERR_CONNECTION_LOST", c"connection lost"),
        row(MC_ERR_PEER_DOWN, Some(E::PeerDown), c"MC_ERR_PEER_DOWN", c"peer is down"),
        row(MC_ERR_PROTOCOL, Some(E::Protocol), c"MC_ERR_PROTOCOL", c"protocol error"),
        row(MC_ERR_REJECTED, Some(E::Rejected), c"MC_ERR_REJECTED", c"rejected by the peer"),
        row(MC_ERR_METADATA_UNAVAILABLE, Some(E::MetadataUnavailable), c"MC_ERR_METADATA_UNAVAILABLE", c"metadata unavailable"),
        row(MC_ERR_SEGMENT_NOT_FOUND, Some(E::SegmentNotFound), c"MC_ERR_SEGMENT_NOT_FOUND", c"segment not found"),
        row(MC_ERR_METADATA_MALFORMED, Some(E::MetadataMalformed), c"MC_ERR_METADATA_MALFORMED", c"metadata malformed"),
        row(MC_ERR_MASTER_UNAVAILABLE, Some(E::MasterUnavailable), c"MC_ERR_MASTER_UNAVAILABLE", c"master unavailable"),
        row(MC_ERR_OBJECT_NOT_FOUND, Some(E::ObjectNotFound), c"MC_ERR_OBJECT_NOT_FOUND", c"object not found"),
        row(MC_ERR_OBJECT_EXISTS, Some(E::ObjectExists), c"MC_ERR_OBJECT_EXISTS", c"object exists"),
        row(MC_ERR_OBJECT_NOT_READY, Some(E::ObjectNotReady), c"MC_ERR_OBJECT_NOT_READY", c"object not complete"),
        row(MC_ERR_OBJECT_LEASED, Some(E::ObjectLeased), c"MC_ERR_OBJECT_LEASED", c"object is leased"),
        row(MC_ERR_LEASE_EXPIRED, Some(E::LeaseExpired), c"MC_ERR_LEASE_EXPIRED", c"lease expired"),
        row(MC_ERR_NO_SPACE, Some(E::NoSpace), c"MC_ERR_NO_SPACE", c"no space in the pool"),
        row(MC_ERR_CHECKSUM_MISMATCH, Some(E::ChecksumMismatch), c"MC_ERR_CHECKSUM_MISMATCH", c"checksum mismatch"),
        row(MC_ERR_STORE_REFUSED, Some(E::StoreRefused), c"MC_ERR_STORE_REFUSED", c"refused by the master"),
        row(MC_ERR_SHUTDOWN, Some(E::Shutdown), c"MC_ERR_SHUTDOWN", c"engine is shut down"),
        row(MC_ERR_FORKED, Some(E::Forked), c"MC_ERR_FORKED", c"handle of the parent process"),
        row(MC_ERR_RESOURCE, Some(E::Resource), c"MC_ERR_RESOURCE", c"resource refused"),
        row(MC_ERR_PANIC, Some(E::Panic), c"MC_ERR_PANIC", c"internal panic"),
        row(MC_ERR_INTERNAL, Some(E::Internal), c"MC_ERR_INTERNAL", c"internal error"),
    ]
};

/// The status of a kind of error. A kind without one does not compile.
pub(crate) fn of(kind: ErrorKind) -> mc_status_t {
    match kind {
        ErrorKind::InvalidArgument => MC_ERR_INVALID_ARGUMENT,
        ErrorKind::InvalidHandle => MC_ERR_INVALID_HANDLE,
        ErrorKind::InvalidAddress => MC_ERR_INVALID_ADDRESS,
        ErrorKind::UnknownProtocol => MC_ERR_UNKNOWN_PROTOCOL,
        ErrorKind::Unsupported => MC_ERR_UNSUPPORTED,
        ErrorKind::Overlap => MC_ERR_OVERLAP,
        ErrorKind::NotRegistered => MC_ERR_NOT_REGISTERED,
        ErrorKind::AccessDenied => MC_ERR_ACCESS_DENIED,
        ErrorKind::TooManyRequests => MC_ERR_TOO_MANY_REQUESTS,
        ErrorKind::InvalidState => MC_ERR_INVALID_STATE,
        ErrorKind::Timeout => MC_ERR_TIMEOUT,
        ErrorKind::Busy => MC_ERR_BUSY,
        ErrorKind::LimitReached => MC_ERR_LIMIT_REACHED,
        ErrorKind::Cancelled => MC_ERR_CANCELLED,
        ErrorKind::RemoteRange => MC_ERR_REMOTE_RANGE,
        ErrorKind::Unregistered => MC_ERR_UNREGISTERED,
        ErrorKind::MemoryFault => MC_ERR_MEMORY_FAULT,
        ErrorKind::Unreachable => MC_ERR_UNREACHABLE,
        ErrorKind::ConnectionLost => MC_ERR_CONNECTION_LOST,
        ErrorKind::PeerDown => MC_ERR_PEER_DOWN,
        ErrorKind::Protocol => MC_ERR_PROTOCOL,
        ErrorKind::Rejected => MC_ERR_REJECTED,
        ErrorKind::MetadataUnavailable => MC_ERR_METADATA_UNAVAILABLE,
        ErrorKind::SegmentNotFound => MC_ERR_SEGMENT_NOT_FOUND,
        ErrorKind::MetadataMalformed => MC_ERR_METADATA_MALFORMED,
        ErrorKind::BufferTooSmall => MC_ERR_BUFFER_TOO_SMALL,
        ErrorKind::MasterUnavailable => MC_ERR_MASTER_UNAVAILABLE,
        ErrorKind::ObjectNotFound => MC_ERR_OBJECT_NOT_FOUND,
        ErrorKind::ObjectExists => MC_ERR_OBJECT_EXISTS,
        ErrorKind::ObjectNotReady => MC_ERR_OBJECT_NOT_READY,
        ErrorKind::ObjectLeased => MC_ERR_OBJECT_LEASED,
        ErrorKind::LeaseExpired => MC_ERR_LEASE_EXPIRED,
        ErrorKind::NoSpace => MC_ERR_NO_SPACE,
        ErrorKind::ChecksumMismatch => MC_ERR_CHECKSUM_MISMATCH,
        ErrorKind::StoreRefused => MC_ERR_STORE_REFUSED,
        ErrorKind::Shutdown => MC_ERR_SHUTDOWN,
        ErrorKind::Forked => MC_ERR_FORKED,
        ErrorKind::Resource => MC_ERR_RESOURCE,
        ErrorKind::Panic => MC_ERR_PANIC,
        ErrorKind::Internal => MC_ERR_INTERNAL,
    }
}

/// The kind that a status stands for; none for those that are no errors, and for unknown numbers.
pub(crate) fn kind_of(status: mc_status_t) -> Option<ErrorKind> {
    find(status).and_then(|row| row.kind)
}

fn find(status: mc_status_t) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.status == status)
}

/// Returns the name of a status, for example "MC_ERR_TIMEOUT".
///
/// @param status  any number.
/// @return a static text; "MC_ERR_UNKNOWN" for a number this version does not know. Never NULL.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub extern "C" fn mc_status_name(status: mc_status_t) -> *const c_char {
    find(status).map_or(c"MC_ERR_UNKNOWN", |row| row.name).as_ptr()
}

/// Returns what a status means in a few words, for example "timed out".
///
/// @param status  any number.
/// @return a static text; "unknown status" for a number this version does not know. Never NULL.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub extern "C" fn mc_status_text(status: mc_status_t) -> *const c_char {
    find(status).map_or(c"unknown status", |row| row.text).as_ptr()
}

/// Tells whether the same call may succeed later without the caller changing anything.
///
/// @param status  any number.
/// @return 1 if it may (for example after MC_ERR_TIMEOUT), else 0.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub extern "C" fn mc_status_is_retryable(status: mc_status_t) -> i32 {
    kind_of(status).is_some_and(ErrorKind::is_retryable).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn rows_agree_with_kinds() {
        for row in ROWS {
            match row.kind {
                Some(kind) => assert_eq!(of(kind), row.status, "{kind:?}"),
                None => assert!(row.status >= 0),
            }
        }
    }

    #[test]
    fn numbers_and_names_are_unique() {
        let numbers: HashSet<_> = ROWS.iter().map(|row| row.status).collect();
        let names: HashSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(numbers.len(), ROWS.len());
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn retryable_follows_the_kind() {
        assert_eq!(mc_status_is_retryable(MC_ERR_TIMEOUT), 1);
        assert_eq!(mc_status_is_retryable(MC_ERR_INVALID_ARGUMENT), 0);
        assert_eq!(mc_status_is_retryable(MC_OK), 0);
        assert_eq!(mc_status_is_retryable(12345), 0);
    }
}
