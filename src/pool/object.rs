//! Objects: their keys, and what a writer asks for when it puts one.

/// Name of an object: any bytes, not empty, at most [`crate::limits::KEY_BYTES_MAX`].
pub type Key = Vec<u8>;

/// Orders the lives of objects: a put that starts later has the larger generation, across restarts
/// of the master too. Where two claims to one range of memory meet, the larger one is right.
pub type Generation = u64;

/// What a writer asks of a put beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOptions {
    /// Copies wanted, each in another segment; fewer are made where there are fewer segments.
    pub replica_num: u64,
    /// Evict only when nothing else is left.
    pub soft_pin: bool,
    /// Length of the soft pin; `None` is the master's default.
    pub soft_pin_ttl_ms: Option<u64>,
    /// Never evict.
    pub hard_pin: bool,
    /// Names of segments to try first, in this order.
    pub preferred_segments: Vec<String>,
    /// Put all objects of a batch into the segment of the first.
    pub same_node: bool,
}

impl Default for PutOptions {
    fn default() -> PutOptions {
        PutOptions {
            replica_num: 1,
            soft_pin: false,
            soft_pin_ttl_ms: None,
            hard_pin: false,
            preferred_segments: Vec::new(),
            same_node: false,
        }
    }
}

/// One object of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutItem {
    /// Name.
    pub key: Key,
    /// Lengths of the slices in which the writer wants to write and every reader will read. Most
    /// puts have one. A replica lies in one segment whatever their number.
    pub slices: Vec<u64>,
    /// Name of the group that it joins; empty for none. Objects of a group are leased and evicted
    /// together. Dialects of upstream do not carry it.
    pub group: Key,
}

impl PutItem {
    /// An object without a group.
    pub fn new(key: Key, slices: Vec<u64>) -> PutItem {
        PutItem { key, slices, group: Key::new() }
    }
}
