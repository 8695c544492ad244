//! What the pages and the summary need to know of the index: a trait, so that they are tested
//! without one.

use crate::pool::outcome::Outcome;
use crate::pool::replica::Replica;

/// Numbers of the pool at one moment; counters since the start where the name says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of all segments.
    pub capacity_bytes: u64,
    /// Bytes that objects asked for.
    pub allocated_bytes: u64,
    /// Bytes that held an object and wait until no reader can still be at them.
    pub quarantine_bytes: u64,
    /// Objects, unfinished ones too.
    pub keys: u64,
    /// Objects that were put with a soft pin.
    pub soft_pinned_keys: u64,
    /// Clients that were heard of lately.
    pub clients: u64,
    /// Segments.
    pub segments: u64,
    /// Segments in which nothing is placed at present.
    pub suspect_segments: u64,
    /// Puts that wait for room.
    pub waiting_puts: u64,
    /// Passes of eviction that freed something, since the start.
    pub evictions_done: u64,
    /// Passes of eviction, since the start.
    pub evictions_tried: u64,
    /// Objects evicted since the start.
    pub evicted_keys: u64,
    /// Bytes evicted since the start.
    pub evicted_bytes: u64,
    /// The journal, if there is one.
    pub journal: Option<JournalFigures>,
}

/// Numbers of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFigures {
    /// It takes changes; false after an error such as a full disk.
    pub works: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records written since the start.
    pub records: u64,
}

/// One mounted range of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentView {
    /// The client's name for it.
    pub name: String,
    /// Identity, in upstream's text form.
    pub id: String,
    /// Its owner, likewise.
    pub client: String,
    /// First address in the owner's process.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that objects use.
    pub used: u64,
    /// How the transfer engine finds it.
    pub endpoint: String,
    /// How it is reached.
    pub protocol: String,
    /// Nothing is placed in it at present.
    pub is_suspect: bool,
}

/// Questions to the index. May be asked from any thread; none waits for anything but locks.
pub trait View: Send + Sync {
    /// Numbers.
    fn figures(&self) -> Figures;
    /// Calls `each` with every key, in no order.
    fn keys(&self, each: &mut dyn FnMut(&[u8]));
    /// Every segment.
    fn segments(&self) -> Vec<SegmentView>;
    /// The complete copies of an object. Grants a lease and counts as a lookup.
    fn lookup(&self, key: &[u8]) -> Outcome<Vec<Replica>>;
    /// The same without either.
    fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>>;
    /// Removes all objects; with `force` in spite of leases. The result is their number.
    fn remove_all(&self, force: bool) -> i64;
}
