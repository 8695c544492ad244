//! Replicas: where the copies of an object are, as writers and readers see them.
//!
//! Each has a form that owns its names, and a view that borrows them from whoever knows them, so
//! that an index can tell where a thousand objects are without a copy of a name.

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

/// The ranges of a copy in memory, in the order of the object's slices.
#[derive(Clone, Copy, Debug)]
pub enum RangesView<'a> {
    /// As a replica has them.
    Listed(&'a [BufferRange]),
    /// One after the other in one segment.
    Run {
        /// Bytes of each.
        sizes: &'a [u64],
        /// Where the first one begins.
        address: u64,
        /// As in [`BufferRange::protocol`].
        protocol: &'a str,
        /// As in [`BufferRange::endpoint`].
        endpoint: &'a str,
    },
}

impl RangesView<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            RangesView::Listed(ranges) => ranges.len(),
            RangesView::Run { sizes, .. } => sizes.len(),
        }
    }

    /// Calls `take` with bytes, address, protocol and endpoint of each.
    pub fn each(&self, mut take: impl FnMut(u64, u64, &str, &str)) {
        match *self {
            RangesView::Listed(ranges) => {
                ranges.iter().for_each(|r| take(r.size, r.address, &r.protocol, &r.endpoint));
            }
            RangesView::Run { sizes, mut address, protocol, endpoint } => {
                for size in sizes {
                    take(*size, address, protocol, endpoint);
                    address = address.wrapping_add(*size);
                }
            }
        }
    }
}

/// Where one copy is: [`Place`], with borrowed names.
#[derive(Clone, Copy, Debug)]
pub enum PlaceView<'a> {
    /// In memory.
    Memory(RangesView<'a>),
    /// In a file.
    Disk {
        /// Absolute path.
        path: &'a str,
        /// Bytes of the object.
        size: u64,
    },
}

/// One copy of an object: [`Replica`], with borrowed names.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaView<'a> {
    /// As in [`Replica::id`].
    pub id: u64,
    /// Where it is.
    pub place: PlaceView<'a>,
    /// How far it is.
    pub status: ReplicaStatus,
}

impl<'a> From<&'a Replica> for ReplicaView<'a> {
    fn from(replica: &'a Replica) -> ReplicaView<'a> {
        let place = match &replica.place {
            Place::Memory(ranges) => PlaceView::Memory(RangesView::Listed(ranges)),
            Place::Disk { path, size } => PlaceView::Disk { path, size: *size },
        };
        ReplicaView { id: replica.id, place, status: replica.status }
    }
}

impl ReplicaView<'_> {
    /// With names of its own.
    pub fn to_replica(&self) -> Replica {
        let place = match self.place {
            PlaceView::Memory(view) => {
                let mut ranges = Vec::with_capacity(view.count());
                view.each(|size, address, protocol, endpoint| {
                    let (protocol, endpoint) = (protocol.to_owned(), endpoint.to_owned());
                    ranges.push(BufferRange { size, address, protocol, endpoint });
                });
                Place::Memory(ranges)
            }
            PlaceView::Disk { path, size } => Place::Disk { path: path.to_owned(), size },
        };
        Replica { id: self.id, place, status: self.status }
    }
}

/// Knows the copies of numbered objects.
pub trait Copies {
    /// A copy of an object, by their places.
    fn copy(&self, object: usize, at: usize) -> ReplicaView<'_>;
}

/// The copies of one object.
#[derive(Clone, Copy)]
pub enum CopiesView<'a> {
    /// As an answer has them.
    Listed(&'a [Replica]),
    /// Told when they are asked for.
    Told {
        /// By whom.
        by: &'a dyn Copies,
        /// Of which object.
        object: usize,
        /// How many.
        count: usize,
    },
}

impl std::fmt::Debug for CopiesView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut list = f.debug_list();
        self.each(|copy| {
            list.entry(copy);
        });
        list.finish()
    }
}

impl CopiesView<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            CopiesView::Listed(replicas) => replicas.len(),
            CopiesView::Told { count, .. } => *count,
        }
    }

    /// Calls `take` with each.
    pub fn each(&self, mut take: impl FnMut(&ReplicaView<'_>)) {
        match *self {
            CopiesView::Listed(replicas) => replicas.iter().for_each(|copy| take(&copy.into())),
            CopiesView::Told { by, object, count } => {
                (0..count).for_each(|at| take(&by.copy(object, at)));
            }
        }
    }

    /// With names of their own.
    pub fn to_replicas(&self) -> Vec<Replica> {
        let mut replicas = Vec::with_capacity(self.count());
        self.each(|copy| replicas.push(copy.to_replica()));
        replicas
    }
}

/// What a lookup answers: [`Located`], with borrowed names.
#[derive(Clone, Copy, Debug)]
pub struct LocatedView<'a> {
    /// As in [`Located::replicas`].
    pub copies: CopiesView<'a>,
    /// As in [`Located::lease_ttl_ms`].
    pub lease_ttl_ms: u64,
    /// As in [`Located::generation`].
    pub generation: u64,
}

impl<'a> From<&'a Located> for LocatedView<'a> {
    fn from(located: &'a Located) -> LocatedView<'a> {
        LocatedView {
            copies: CopiesView::Listed(&located.replicas),
            lease_ttl_ms: located.lease_ttl_ms,
            generation: located.generation,
        }
    }
}

impl LocatedView<'_> {
    /// With names of its own.
    pub fn to_located(&self) -> Located {
        Located {
            replicas: self.copies.to_replicas(),
            lease_ttl_ms: self.lease_ttl_ms,
            generation: self.generation,
        }
    }
}
