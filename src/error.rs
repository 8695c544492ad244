//! The error of the whole crate: what kind, what happened, where.
//!
//! The first place that sees a failure adds peer, operation and cause; nobody above re-words it.
//! Kinds are flat. The C layer maps each kind to one number (`capi/status.rs`); the bands of those
//! numbers say how much was lost, so a kind belongs to exactly one band.

use std::fmt;
use std::sync::Arc;

/// Result of every fallible function of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, at the level on which a caller can act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    // The caller's mistake: repeating the same call gives the same answer.
    /// An argument is out of its documented range or malformed.
    InvalidArgument,
    /// A handle is NULL, of another type, or already destroyed.
    InvalidHandle,
    /// A name, connection string or address cannot be parsed.
    InvalidAddress,
    /// The named transport or metadata scheme does not exist in this build.
    UnknownProtocol,
    /// The request is well formed, but this build, peer or dialect cannot do it.
    Unsupported,
    /// The range overlaps a registered buffer without being equal to it.
    Overlap,
    /// A local range is not inside registered memory.
    NotRegistered,
    /// The buffer is registered, but not for this access.
    AccessDenied,
    /// More requests than the batch was created for.
    TooManyRequests,
    /// The object is not in a state in which this call makes sense.
    InvalidState,
    /// The result does not fit into the buffer that was given for it.
    BufferTooSmall,

    // Nothing is lost; the same call may succeed later.
    /// The deadline passed.
    Timeout,
    /// The object is in use.
    Busy,
    /// A bounded queue or table is full.
    LimitReached,

    // This operation is lost; the peer and the engine are fine.
    /// The task was cancelled by its owner.
    Cancelled,
    /// The peer refused the remote range: not registered, not remotely accessible, or stale key.
    RemoteRange,
    /// Local memory was unregistered while the transfer used it.
    Unregistered,
    /// The kernel refused access to a registered range (it is not mapped as the caller said).
    MemoryFault,

    // The connection to this peer is lost.
    /// No connection could be made.
    Unreachable,
    /// An established connection broke.
    ConnectionLost,
    /// The peer failed moments ago and is in its cool-down; refused without trying.
    PeerDown,
    /// The peer's bytes do not follow the protocol.
    Protocol,
    /// The peer answered, and its answer is no.
    Rejected,

    // Metadata.
    /// The metadata service cannot be reached or does not answer.
    MetadataUnavailable,
    /// A document is missing.
    SegmentNotFound,
    /// A document is malformed.
    MetadataMalformed,
    /// The master of the store cannot be reached or does not answer.
    MasterUnavailable,

    // How an operation of the store ended.
    /// No such object.
    ObjectNotFound,
    /// The object exists already; it was not changed.
    ObjectExists,
    /// The object is still being written, or its writer has gone.
    ObjectNotReady,
    /// Readers hold a lease on the object.
    ObjectLeased,
    /// The lease ended before the bytes were copied, so they may be those of another object.
    LeaseExpired,
    /// No segment has room for the object.
    NoSpace,
    /// The bytes are not those that were put.
    ChecksumMismatch,
    /// The master refused for another reason; its number is in the context.
    StoreRefused,

    // This engine.
    /// The engine is being destroyed.
    Shutdown,
    /// The handle was inherited through `fork`.
    Forked,
    /// The operating system refused a resource (port, descriptor, memory, thread).
    Resource,

    // A defect of this library.
    /// A panic was caught.
    Panic,
    /// An invariant of the library does not hold.
    Internal,
}

impl ErrorKind {
    /// True where the same call may succeed later without the caller changing anything.
    pub fn is_retryable(self) -> bool {
        use ErrorKind::*;
        matches!(
            self,
            Timeout
                | Busy
                | LimitReached
                | Unreachable
                | ConnectionLost
                | PeerDown
                | MetadataUnavailable
                | MasterUnavailable
                | ObjectNotReady
                | ObjectLeased
                | LeaseExpired
                | NoSpace
        )
    }
}

/// A failure with its place. Cheap to clone: many slices may fail for one reason.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error; `message` says what happened, without the place (see [`Error::with`]).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// An error whose cause is an operating system error.
    pub fn io(kind: ErrorKind, message: impl Into<String>, source: std::io::Error) -> Self {
        Error::new(kind, message).caused_by(source)
    }

    /// Adds a piece of context such as `("peer", name)`.
    #[must_use]
    pub fn with(self, key: &'static str, value: impl fmt::Display) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.context.push((key, value.to_string()));
        Error(Arc::new(inner))
    }

    /// Sets the underlying cause.
    #[must_use]
    pub fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.source = Some(Arc::new(source));
        Error(Arc::new(inner))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The value recorded under `key`, if any.
    pub fn context(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            f.write_str(if i == 0 { " (" } else { ", " })?;
            write!(f, "{key}: {value}")?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_cause_and_place() {
        let error = Error::io(
            ErrorKind::Unreachable,
            "cannot connect",
            std::io::Error::from_raw_os_error(libc::ECONNREFUSED),
        )
        .with("peer", "node1:15001")
        .with("operation", "write");
        let text = error.to_string();
        assert!(text.starts_with("cannot connect: Connection refused"), "{text}");
        assert!(text.ends_with("(peer: node1:15001, operation: write)"), "{text}");
        assert_eq!(error.context("peer"), Some("node1:15001"));
    }

    #[test]
    fn clones_are_independent() {
        let a = Error::new(ErrorKind::Timeout, "late");
        let b = a.clone().with("peer", "x");
        assert_eq!(a.context("peer"), None);
        assert_eq!(b.context("peer"), Some("x"));
    }
}
