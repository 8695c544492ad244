//! How a store operation ended, with the numbers that upstream's wire and interfaces carry.

use std::fmt;

/// Result of a store operation that the master or a client decided.
pub type Outcome<T> = std::result::Result<T, Refusal>;

/// Why a store operation was refused: a number of upstream's table. Numbers that this build does
/// not know are kept, so that a newer peer's answer is passed on unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Refusal(i32);

/// One row per number: constant, number, upstream's name.
macro_rules! refusals {
    ($($(#[$doc:meta])* $constant:ident = $number:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $constant: Refusal = Refusal($number);)*

            /// Upstream's name of the number, such as `OBJECT_NOT_FOUND`.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($constant),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

refusals! {
    /// A defect or an unexpected state of the other side.
    INTERNAL_ERROR = -1;
    /// The result does not fit the caller's buffer.
    BUFFER_OVERFLOW = -10;
    /// No such shard.
    SHARD_INDEX_OUT_OF_RANGE = -100;
    /// No such segment.
    SEGMENT_NOT_FOUND = -101;
    /// The segment is mounted already.
    SEGMENT_ALREADY_EXISTS = -102;
    /// No such client.
    CLIENT_NOT_FOUND = -103;
    /// No room for the object.
    NO_AVAILABLE_HANDLE = -200;
    /// The two sides speak different versions.
    INVALID_VERSION = -300;
    /// The key cannot be used.
    INVALID_KEY = -400;
    /// Writing failed.
    WRITE_FAIL = -500;
    /// An argument is wrong.
    INVALID_PARAMS = -600;
    /// The caller is not the one who may do this.
    ILLEGAL_CLIENT = -601;
    /// The object is not in a state to be written.
    INVALID_WRITE = -700;
    /// The object is not in a state to be read.
    INVALID_READ = -701;
    /// The replica is not what the call expects.
    INVALID_REPLICA = -702;
    /// The object is not complete yet.
    REPLICA_IS_NOT_READY = -703;
    /// No such object.
    OBJECT_NOT_FOUND = -704;
    /// The object exists already.
    OBJECT_ALREADY_EXISTS = -705;
    /// Readers hold a lease on the object.
    OBJECT_HAS_LEASE = -706;
    /// The lease ended before the bytes were copied.
    LEASE_EXPIRED = -707;
    /// A copy or move of the object is under way.
    OBJECT_HAS_REPLICATION_TASK = -708;
    /// No copy or move of the object is under way.
    OBJECT_NO_REPLICATION_TASK = -709;
    /// No such replica.
    REPLICA_NOT_FOUND = -710;
    /// The replica exists already.
    REPLICA_ALREADY_EXISTS = -711;
    /// The replica went away meanwhile.
    REPLICA_IS_GONE = -712;
    /// The replica is not in the memory of this client.
    REPLICA_NOT_IN_LOCAL_MEMORY = -713;
    /// The replica is in use.
    OBJECT_REPLICA_BUSY = -714;
    /// The bytes could not be moved.
    TRANSFER_FAIL = -800;
    /// The bytes are not those that were put.
    CHECKSUM_MISMATCH = -801;
    /// The master did not answer.
    RPC_FAIL = -900;
    /// The master did not answer in time.
    RPC_TIMEOUT = -901;
    /// etcd refused.
    ETCD_OPERATION_ERROR = -1000;
    /// The key is not in etcd.
    ETCD_KEY_NOT_EXIST = -1001;
    /// An etcd transaction failed.
    ETCD_TRANSACTION_FAIL = -1002;
    /// An etcd call was cancelled.
    ETCD_CTX_CANCELLED = -1003;
    /// Not in the present state.
    UNAVAILABLE_IN_CURRENT_STATUS = -1010;
    /// Not in the mode in which the master runs.
    UNAVAILABLE_IN_CURRENT_MODE = -1011;
    /// Not offered by this build or dialect.
    NOT_SUPPORTED = -1012;
    /// The file is missing.
    FILE_NOT_FOUND = -1100;
    /// The file cannot be opened.
    FILE_OPEN_FAIL = -1101;
    /// The file cannot be read.
    FILE_READ_FAIL = -1102;
    /// The file cannot be written.
    FILE_WRITE_FAIL = -1103;
    /// The buffer of a file operation is wrong.
    FILE_INVALID_BUFFER = -1104;
    /// The file cannot be locked.
    FILE_LOCK_FAIL = -1105;
    /// The file handle is wrong.
    FILE_INVALID_HANDLE = -1106;
    /// No such bucket.
    BUCKET_NOT_FOUND = -1200;
    /// The bucket exists already.
    BUCKET_ALREADY_EXISTS = -1201;
    /// Too many keys for one bucket.
    KEYS_EXCEED_BUCKET_LIMIT = -1202;
    /// Too many keys.
    KEYS_ULTRA_LIMIT = -1203;
    /// Offloading is off.
    UNABLE_OFFLOAD = -1300;
    /// No such task.
    TASK_NOT_FOUND = -1400;
}

impl Refusal {
    /// From the wire. Numbers that are not negative are no refusals.
    pub fn from_number(number: i32) -> Option<Refusal> {
        (number < 0).then_some(Refusal(number))
    }

    /// The number of the wire and of upstream's interfaces; always negative.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn numbers_and_names() {
        assert_eq!(Refusal::OBJECT_NOT_FOUND.number(), -704);
        assert_eq!(Refusal::OBJECT_NOT_FOUND.name(), "OBJECT_NOT_FOUND");
        assert_eq!(Refusal::from_number(-704), Some(Refusal::OBJECT_NOT_FOUND));
        assert_eq!(Refusal::from_number(-123_456).map(Refusal::name), Some("UNKNOWN"));
        assert_eq!(Refusal::from_number(0), None);
        assert_eq!(Refusal::from_number(1), None);
    }
}
