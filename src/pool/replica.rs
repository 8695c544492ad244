//! Replicas: where the copies of an object are, as writers and readers see them.

/// A range of memory in a mounted segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferRange {
    /// Bytes.
    pub size: u64,
    /// Address in the process that owns the segment.
    pub address: u64,
    /// How the bytes are reached, such as `tcp`; empty where the dialect does not say.
    pub protocol: String,
    /// Name under which the transfer engine finds the segment.
    pub endpoint: String,
}

/// What kind of storage a call about replicas means. Numbers are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaKind {
    /// Memory of a mounted segment.
    Memory,
    /// A file below the master's `root_fs_dir`.
    Disk,
    /// A file of one client.
    LocalDisk,
    /// Every kind that the writer itself fills.
    All,
}

/// Where one copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory; the ranges in the order of the object's slices.
    Memory(Vec<BufferRange>),
    /// In a file that every client can open.
    Disk {
        /// Absolute path.
        path: String,
        /// Bytes of the object.
        size: u64,
    },
}

/// Life of one copy. Numbers are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaStatus {
    /// No meaning.
    Undefined,
    /// Known, no room yet.
    Initialized,
    /// Being written.
    Processing,
    /// Written.
    Complete,
    /// Gone.
    Removed,
    /// Could not be written.
    Failed,
}

/// One copy of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Unique in one life of the master; 0 where the dialect has none.
    pub id: u64,
    /// Where it is.
    pub place: Place,
    /// How far it is.
    pub status: ReplicaStatus,
}

/// What a lookup answers: the complete copies, and how long they stay where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Complete copies, in the order in which to try them.
    pub replicas: Vec<Replica>,
    /// From the moment before the lookup was sent, the reader may trust the ranges for this long.
    pub lease_ttl_ms: u64,
    /// Which life of the key this is; 0 where the dialect has none.
    pub generation: u64,
}
