//! Segments: memory that clients give to the pool.

use super::identity::SegmentId;
use super::object::{Generation, Key};

/// One mounted range of one client's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Identity.
    pub id: SegmentId,
    /// The client's name, by which `preferred_segment` finds it; several segments may share one.
    pub name: String,
    /// First address, in the owner's process.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Name under which the transfer engine finds it.
    pub endpoint: String,
    /// How it is reached, such as `tcp`; empty where the dialect does not say.
    pub protocol: String,
}

/// A range of a segment that holds a complete object, as its holder reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldObject {
    /// Name of the object.
    pub key: Key,
    /// Which put wrote it.
    pub generation: Generation,
    /// The segment that holds it.
    pub segment: SegmentId,
    /// First address, in the owner's process.
    pub address: u64,
    /// Lengths of its slices, which lie one behind the other.
    pub slices: Vec<u64>,
    /// True while it should be evicted last.
    pub soft_pin: bool,
    /// Name of its group; empty where it stands alone.
    pub group: Key,
}

/// A range of a segment that the holder's process still reads. It must not hold anything else
/// before the holder says so, whatever becomes of the object that is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptRange {
    /// The segment.
    pub segment: SegmentId,
    /// First address, in the owner's process.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// What happened to a segment's content, told to the client that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentEvent {
    /// An object was completed in it.
    Completed(HeldObject),
    /// The object of that generation is gone; its range will be used again after the holder has
    /// acknowledged this.
    Gone {
        /// The segment.
        segment: SegmentId,
        /// First address of the range.
        address: u64,
        /// Which put wrote it.
        generation: Generation,
    },
}

/// Whether the master knows a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientStatus {
    /// No meaning.
    Undefined,
    /// Known; its segments are mounted.
    Ok,
    /// Unknown or expired: it must mount its segments again.
    NeedRemount,
}

/// What a client is told on every sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Counts changes of leader; 0 without high availability.
    pub view_version: i64,
    /// What to do.
    pub status: ClientStatus,
}
