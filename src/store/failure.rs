//! Outcomes of the master as errors of this library, and errors as upstream's numbers.

use crate::error::{Error, ErrorKind};
use crate::pool::outcome::Refusal;

/// The error for an outcome that the master gave for a key.
pub(super) fn refused(refusal: Refusal, key: &[u8]) -> Error {
    plain(refusal).with("key", shown(key))
}

/// The error for an outcome of a call without a key.
pub(super) fn plain(refusal: Refusal) -> Error {
    let (kind, text) = match refusal {
        Refusal::OBJECT_NOT_FOUND => (ErrorKind::ObjectNotFound, "no such object"),
        Refusal::OBJECT_ALREADY_EXISTS => (ErrorKind::ObjectExists, "the object exists already"),
        Refusal::REPLICA_IS_NOT_READY => (ErrorKind::ObjectNotReady, "the object is not complete"),
        Refusal::OBJECT_HAS_LEASE => (ErrorKind::ObjectLeased, "readers hold a lease on it"),
        Refusal::LEASE_EXPIRED => (ErrorKind::LeaseExpired, "the lease has ended"),
        Refusal::NO_AVAILABLE_HANDLE => (ErrorKind::NoSpace, "no segment has room for the object"),
        Refusal::CHECKSUM_MISMATCH => (ErrorKind::ChecksumMismatch, "these are other bytes"),
        Refusal::INVALID_PARAMS | Refusal::INVALID_KEY => {
            (ErrorKind::InvalidArgument, "the master refused an argument")
        }
        Refusal::NOT_SUPPORTED => (ErrorKind::Unsupported, "the master does not offer this"),
        Refusal::RPC_FAIL | Refusal::RPC_TIMEOUT => {
            (ErrorKind::MasterUnavailable, "the master could not answer")
        }
        Refusal::REPLICA_IS_GONE => {
            (ErrorKind::StoreRefused, "this put was given up, and another of the key has begun")
        }
        _ => (ErrorKind::StoreRefused, "the master refused"),
    };
    let error = Error::new(kind, text);
    match kind {
        ErrorKind::StoreRefused => {
            error.with("outcome", refusal.name()).with("number", refusal.number())
        }
        _ => error,
    }
}

/// A call that got no answer.
pub(super) fn no_answer(cause: Error) -> Error {
    match cause.kind() {
        // These say what the caller must know, and are no matter of the master being there.
        ErrorKind::Unsupported
        | ErrorKind::InvalidArgument
        | ErrorKind::Shutdown
        | ErrorKind::LimitReached
        | ErrorKind::MasterUnavailable => cause,
        _ => Error::new(ErrorKind::MasterUnavailable, "the master did not answer").caused_by(cause),
    }
}

/// The number by which upstream's interfaces call a failure of a store operation; negative.
pub fn outcome_number(error: &Error) -> i32 {
    if error.kind() == ErrorKind::StoreRefused {
        let number = error.context("number").and_then(|text| text.parse().ok());
        return number.filter(|number| *number < 0).unwrap_or(Refusal::INTERNAL_ERROR.number());
    }
    outcome_of(error.kind())
}

/// The same for a kind of error. A kind without a row does not compile.
pub fn outcome_of(kind: ErrorKind) -> i32 {
    let refusal = match kind {
        ErrorKind::ObjectNotFound => Refusal::OBJECT_NOT_FOUND,
        ErrorKind::ObjectExists => Refusal::OBJECT_ALREADY_EXISTS,
        ErrorKind::ObjectNotReady => Refusal::REPLICA_IS_NOT_READY,
        ErrorKind::ObjectLeased => Refusal::OBJECT_HAS_LEASE,
        ErrorKind::LeaseExpired => Refusal::LEASE_EXPIRED,
        ErrorKind::NoSpace => Refusal::NO_AVAILABLE_HANDLE,
        ErrorKind::ChecksumMismatch => Refusal::CHECKSUM_MISMATCH,
        ErrorKind::MasterUnavailable => Refusal::RPC_FAIL,
        ErrorKind::StoreRefused | ErrorKind::Panic | ErrorKind::Internal | ErrorKind::Resource => {
            Refusal::INTERNAL_ERROR
        }
        // Mistakes of the caller, calls before `setup` or after `close`, and, as upstream has it,
        // a copy buffer that is full.
        ErrorKind::InvalidArgument
        | ErrorKind::InvalidHandle
        | ErrorKind::InvalidAddress
        | ErrorKind::UnknownProtocol
        | ErrorKind::Overlap
        | ErrorKind::NotRegistered
        | ErrorKind::AccessDenied
        | ErrorKind::TooManyRequests
        | ErrorKind::InvalidState
        | ErrorKind::BufferTooSmall
        | ErrorKind::LimitReached
        | ErrorKind::Busy
        | ErrorKind::Shutdown
        | ErrorKind::Unsupported
        | ErrorKind::Forked => Refusal::INVALID_PARAMS,
        ErrorKind::Timeout
        | ErrorKind::Cancelled
        | ErrorKind::RemoteRange
        | ErrorKind::Unregistered
        | ErrorKind::MemoryFault
        | ErrorKind::Unreachable
        | ErrorKind::ConnectionLost
        | ErrorKind::PeerDown
        | ErrorKind::Protocol
        | ErrorKind::Rejected
        | ErrorKind::MetadataUnavailable
        | ErrorKind::SegmentNotFound
        | ErrorKind::MetadataMalformed => Refusal::TRANSFER_FAIL,
    };
    refusal.number()
}

/// A key as it is shown in errors.
pub(super) fn shown(key: &[u8]) -> String {
    let end = key.len().min(crate::limits::STORE_KEY_BYTES_SHOWN);
    let text = key[..end].escape_ascii().to_string();
    match end < key.len() {
        true => format!("{text}... ({} bytes)", key.len()),
        false => text,
    }
}

/// Room must be used soon: a process that stood still meanwhile may have lost it to others.
pub(super) fn grant_is_too_old() -> Error {
    let text = "the room was granted too long ago, this process or its peer may have stood still";
    Error::new(ErrorKind::LeaseExpired, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_master_says_is_what_upstreams_callers_see() {
        for refusal in [
            Refusal::OBJECT_NOT_FOUND,
            Refusal::OBJECT_ALREADY_EXISTS,
            Refusal::REPLICA_IS_NOT_READY,
            Refusal::OBJECT_HAS_LEASE,
            Refusal::LEASE_EXPIRED,
            Refusal::NO_AVAILABLE_HANDLE,
            Refusal::CHECKSUM_MISMATCH,
            Refusal::INVALID_PARAMS,
            Refusal::RPC_FAIL,
            Refusal::INVALID_WRITE,
            Refusal::SEGMENT_ALREADY_EXISTS,
            Refusal::UNAVAILABLE_IN_CURRENT_STATUS,
        ] {
            assert_eq!(outcome_number(&refused(refusal, b"k")), refusal.number(), "{refusal}");
        }
    }

    #[test]
    fn keys_are_shown_safely() {
        assert_eq!(shown(b"a\n\xff"), "a\\n\\xff");
        let long = shown(&[b'x'; 5000]);
        assert!(long.len() < 300 && long.ends_with("(5000 bytes)"), "{long}");
    }
}
