//! Names of participants: clients and segments, each 16 random bytes.

use std::fmt;

/// 16 bytes as two numbers, in the order in which upstream's wire has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid {
    /// The first 8 bytes, little-endian.
    pub first: u64,
    /// The last 8 bytes, little-endian.
    pub second: u64,
}

impl Uuid {
    /// From 16 bytes in memory order.
    pub fn from_bytes(bytes: [u8; 16]) -> Uuid {
        let all = u128::from_le_bytes(bytes);
        Uuid { first: all as u64, second: (all >> 64) as u64 }
    }
}

impl fmt::Display for Uuid {
    /// Upstream's text form: both halves in decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.second)
    }
}

/// One life of one store client. A restarted process is another client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub Uuid);

/// One mounted range of memory. A restarted process mounts other segments, so an equal id means
/// that the memory still holds what it held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub Uuid);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
