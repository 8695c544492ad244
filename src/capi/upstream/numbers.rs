//! Upstream's two families of numbers, and which of them an error of this library is.

use crate::error::ErrorKind;

/// What one kind of error is called in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Of functions that return 0 or a negative code.
    pub(super) code: i32,
    /// Of functions that return 0 or a positive status.
    pub(super) status: i32,
}

const fn pair(code: i32, status: i32) -> Numbers {
    Numbers { code, status }
}

// Most numbers are the same in both families but for the sign.
const INVALID_ARGUMENT: Numbers = pair(-1, 1);
const TOO_MANY_REQUESTS: Numbers = pair(-2, 2);
const ADDRESS_NOT_REGISTERED: Numbers = pair(-3, 3);
const BATCH_BUSY: Numbers = pair(-4, 4);
const ADDRESS_OVERLAPPED: Numbers = pair(-7, 7);
const DNS: Numbers = pair(-101, 101);
const SOCKET: Numbers = pair(-102, 102);
const MALFORMED_JSON: Numbers = pair(-103, 103);
const REJECTED: Numbers = pair(-104, 104);
const METADATA: Numbers = pair(-200, 200);
const CONTEXT: Numbers = pair(-202, 202);
const MEMORY: Numbers = pair(-302, 302);
// No such transport: the positive family has a number of its own for it.
const NO_TRANSPORT: Numbers = pair(-303, 8);

/// Return value of functions that fail with a negative code, where the code is "metadata".
pub(super) const CODE_METADATA: i32 = METADATA.code;
/// "Invalid argument" of functions that fail with a negative code.
pub(super) const CODE_INVALID_ARGUMENT: i32 = INVALID_ARGUMENT.code;
/// "Batch busy" of functions that fail with a positive status.
pub(super) const STATUS_BATCH_BUSY: i32 = BATCH_BUSY.status;
/// A defect of this library, in both families the loss of the engine's context.
pub(super) const DEFECT: Numbers = CONTEXT;

/// The numbers of a kind of error. A kind without a row does not compile.
pub(super) fn of(kind: ErrorKind) -> Numbers {
    match kind {
        ErrorKind::InvalidArgument => INVALID_ARGUMENT,
        ErrorKind::InvalidHandle => INVALID_ARGUMENT,
        ErrorKind::InvalidAddress => DNS,
        ErrorKind::UnknownProtocol => NO_TRANSPORT,
        ErrorKind::Unsupported => NO_TRANSPORT,
        ErrorKind::Overlap => ADDRESS_OVERLAPPED,
        ErrorKind::NotRegistered => ADDRESS_NOT_REGISTERED,
        ErrorKind::AccessDenied => ADDRESS_NOT_REGISTERED,
        ErrorKind::TooManyRequests => TOO_MANY_REQUESTS,
        ErrorKind::InvalidState => INVALID_ARGUMENT,
        ErrorKind::Timeout => SOCKET,
        ErrorKind::Busy => BATCH_BUSY,
        ErrorKind::LimitReached => TOO_MANY_REQUESTS,
        ErrorKind::Cancelled => CONTEXT,
        ErrorKind::RemoteRange => ADDRESS_NOT_REGISTERED,
        ErrorKind::Unregistered => ADDRESS_NOT_REGISTERED,
        ErrorKind::MemoryFault => MEMORY,
        ErrorKind::Unreachable => SOCKET,
        ErrorKind::ConnectionLost => SOCKET,
        ErrorKind::PeerDown => SOCKET,
        ErrorKind::Protocol => MALFORMED_JSON,
        ErrorKind::Rejected => REJECTED,
        ErrorKind::MetadataUnavailable => METADATA,
        ErrorKind::SegmentNotFound => METADATA,
        ErrorKind::MetadataMalformed => MALFORMED_JSON,
        ErrorKind::BufferTooSmall => INVALID_ARGUMENT,
        // Of the store, whose functions have a family of their own: see `store_code`.
        ErrorKind::MasterUnavailable => METADATA,
        ErrorKind::ObjectNotFound
        | ErrorKind::ObjectExists
        | ErrorKind::ObjectNotReady
        | ErrorKind::ObjectLeased
        | ErrorKind::LeaseExpired
        | ErrorKind::NoSpace
        | ErrorKind::ChecksumMismatch
        | ErrorKind::StoreRefused => REJECTED,
        ErrorKind::Shutdown => CONTEXT,
        ErrorKind::Forked => CONTEXT,
        ErrorKind::Resource => MEMORY,
        ErrorKind::Panic => DEFECT,
        ErrorKind::Internal => DEFECT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_mistakes_have_upstreams_numbers() {
        for (kind, code, status) in [
            (ErrorKind::InvalidArgument, -1, 1),
            (ErrorKind::InvalidHandle, -1, 1),
            (ErrorKind::TooManyRequests, -2, 2),
            (ErrorKind::NotRegistered, -3, 3),
            (ErrorKind::Busy, -4, 4),
            (ErrorKind::Overlap, -7, 7),
            (ErrorKind::Unsupported, -303, 8),
        ] {
            assert_eq!(of(kind), pair(code, status), "{kind:?}");
        }
    }
}
