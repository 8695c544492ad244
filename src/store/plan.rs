//! From objects and their replicas to moves. Pure.

use smallvec::SmallVec;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::object::PutItem;
use crate::pool::replica::{BufferRange, Place, Replica, ReplicaStatus};

use super::failure::shown;
use super::mover::{Direction, Move};

/// A range of local memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub address: usize,
    /// Bytes.
    pub length: usize,
}

impl Range {
    /// The memory of a slice, which the caller keeps borrowed as long as the range is used.
    pub fn of(bytes: &[u8]) -> Range {
        Range { address: bytes.as_ptr().expose_provenance(), length: bytes.len() }
    }

    /// The same for memory that is going to be written.
    pub fn of_mut(bytes: &mut [u8]) -> Range {
        Range { address: bytes.as_mut_ptr().expose_provenance(), length: bytes.len() }
    }
}

/// Ranges one after the other; nearly always one.
pub(super) type Ranges = SmallVec<[Range; 1]>;

/// An object and the local memory that it comes from or goes to, in one or more ranges one after
/// the other.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Its name.
    pub key: &'a [u8],
    /// Its bytes.
    pub ranges: &'a [Range],
}

/// Bytes in all ranges together.
pub(super) fn total(ranges: &[Range]) -> u64 {
    ranges.iter().fold(0, |sum, range| sum.saturating_add(range.length as u64))
}

/// A key that can be sent.
pub(super) fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > limits::KEY_BYTES_MAX {
        let text = format!("a key has 1 to {} bytes", limits::KEY_BYTES_MAX);
        return Err(Error::new(ErrorKind::InvalidArgument, text).with("length_bytes", key.len()));
    }
    Ok(())
}

/// Checks an object that is to be put.
pub(super) fn check_object(object: &Object<'_>) -> Result<()> {
    check_key(object.key)?;
    let bytes = total(object.ranges);
    if bytes == 0 {
        return Err(Error::new(ErrorKind::InvalidArgument, "an object has at least one byte")
            .with("key", shown(object.key)));
    }
    if bytes > limits::REQUEST_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidArgument, "no object is so large")
            .with("key", shown(object.key))
            .with("length_bytes", bytes));
    }
    Ok(())
}

/// What the master is told of an object that was checked.
pub(super) fn put_item(object: &Object<'_>, group: &str) -> PutItem {
    let mut item = PutItem::new(object.key.to_vec(), slices(object.ranges));
    item.group = group.as_bytes().to_vec();
    item
}

/// Bytes of that in a call, or somewhat more, without the name of its group.
pub(super) fn item_bytes(object: &Object<'_>) -> usize {
    let cuts = (total(object.ranges) / limits::STORE_SLICE_BYTES_MAX) as usize;
    object.key.len() + 8 * (object.ranges.len() + cuts)
}

/// Cuts ranges as readers of upstream 0.3.7 expect it: each range for itself, into slices of at
/// most [`limits::STORE_SLICE_BYTES_MAX`]. Readers of ours take any cut.
pub(super) fn slices(ranges: &[Range]) -> Vec<u64> {
    let mut slices = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut rest = range.length as u64;
        while rest > 0 {
            let slice = rest.min(limits::STORE_SLICE_BYTES_MAX);
            slices.push(slice);
            rest -= slice;
        }
    }
    slices
}

/// The ranges of a replica in memory, and their sum.
pub(super) fn memory_of(replica: &Replica) -> Option<(&[BufferRange], u64)> {
    match &replica.place {
        Place::Memory(ranges) => {
            let bytes = ranges.iter().try_fold(0u64, |sum, range| sum.checked_add(range.size))?;
            (bytes > 0 && bytes <= limits::REQUEST_BYTES_MAX).then_some((ranges.as_slice(), bytes))
        }
        Place::Disk { .. } => None,
    }
}

/// The replicas that can be read, those for which `is_near` says so first.
pub(super) fn readable(
    replicas: &[Replica],
    is_near: impl Fn(&BufferRange) -> bool,
) -> SmallVec<[&Replica; 2]> {
    let complete = replicas.iter().filter(|replica| {
        replica.status == ReplicaStatus::Complete && memory_of(replica).is_some()
    });
    let mut readable: SmallVec<[&Replica; 2]> =
        complete.take(limits::STORE_REPLICAS_TRIED_MAX).collect();
    if readable.len() > 1 {
        let is_far = |(ranges, _): (&[BufferRange], u64)| !ranges.iter().all(&is_near);
        readable.sort_by_key(|replica| memory_of(replica).is_none_or(is_far));
    }
    readable
}

/// Appends the moves between local ranges and those of a replica. Neighbours on both sides become
/// one move. The local side may be the longer one.
pub(super) fn pair<'a>(
    direction: Direction,
    local: &[Range],
    remote: &'a [BufferRange],
    moves: &mut Vec<Move<'a>>,
) {
    let first = moves.len();
    let mut locals = local.iter().filter(|range| range.length > 0).copied();
    let mut here = locals.next();
    for there in remote {
        let mut done = 0;
        while done < there.size {
            let Some(range) = here else { return };
            let length = (there.size - done).min(range.length as u64) as usize;
            let next = Move {
                direction,
                local: range.address,
                endpoint: &there.endpoint,
                remote: there.address.wrapping_add(done),
                length,
            };
            let goes_on = moves[first..].last().is_some_and(|last| continues(last, &next));
            match moves.last_mut() {
                Some(last) if goes_on => last.length += length,
                _ => moves.push(next),
            }
            done += length as u64;
            here = match range.length - length {
                0 => locals.next(),
                rest => Some(Range { address: range.address.wrapping_add(length), length: rest }),
            };
        }
    }
}

fn continues(last: &Move<'_>, next: &Move<'_>) -> bool {
    last.endpoint == next.endpoint
        && last.local.wrapping_add(last.length) == next.local
        && last.remote.wrapping_add(last.length as u64) == next.remote
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(usize, usize)]) -> Vec<Range> {
        list.iter().map(|(address, length)| Range { address: *address, length: *length }).collect()
    }

    fn buffers(list: &[(u64, u64)]) -> Vec<BufferRange> {
        let buffer = |(address, size): &(u64, u64)| BufferRange {
            size: *size,
            address: *address,
            protocol: String::new(),
            endpoint: "e".into(),
        };
        list.iter().map(buffer).collect()
    }

    fn paired(local: &[(usize, usize)], remote: &[(u64, u64)]) -> Vec<(usize, u64, usize)> {
        let remote = buffers(remote);
        let mut moves = Vec::new();
        pair(Direction::Get, &ranges(local), &remote, &mut moves);
        moves.iter().map(|m| (m.local, m.remote, m.length)).collect()
    }

    #[test]
    fn any_cut_meets_any_other() {
        assert_eq!(paired(&[(10, 8)], &[(100, 8)]), [(10, 100, 8)]);
        assert_eq!(paired(&[(10, 9)], &[(100, 8)]), [(10, 100, 8)]);
        assert_eq!(paired(&[(10, 8)], &[(100, 3), (200, 5)]), [(10, 100, 3), (13, 200, 5)]);
        assert_eq!(paired(&[(10, 3), (50, 5)], &[(100, 8)]), [(10, 100, 3), (50, 103, 5)]);
        assert_eq!(
            paired(&[(10, 3), (50, 0), (60, 5)], &[(100, 2), (200, 6)]),
            [(10, 100, 2), (12, 200, 1), (60, 201, 5)]
        );
    }

    #[test]
    fn neighbours_on_both_sides_become_one_move() {
        assert_eq!(paired(&[(10, 3), (13, 5)], &[(100, 3), (103, 5)]), [(10, 100, 8)]);
        assert_eq!(paired(&[(10, 3), (13, 5)], &[(100, 8)]), [(10, 100, 8)]);
    }

    #[test]
    fn slices_are_cut_as_upstream_readers_expect() {
        let most = limits::STORE_SLICE_BYTES_MAX as usize;
        assert_eq!(most, 16_777_200);
        assert_eq!(slices(&ranges(&[(0, most)])), [most as u64]);
        assert_eq!(slices(&ranges(&[(0, most + 1), (9, 5), (9, 0)])), [most as u64, 1, 5]);
    }

    #[test]
    fn objects_are_checked() {
        let bytes = ranges(&[(0x1000, 4)]);
        let check = |key: &[u8], ranges: &[Range]| check_object(&Object { key, ranges });
        assert!(check(b"k", &bytes).is_ok());
        for refused in [
            check(b"", &bytes),
            check(&vec![b'k'; limits::KEY_BYTES_MAX + 1], &bytes),
            check(b"k", &[]),
            check(b"k", &ranges(&[(0, 0)])),
            check(b"k", &ranges(&[(0, usize::MAX), (0, usize::MAX)])),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn near_and_complete_replicas_come_first() {
        let replica = |id, endpoint: &str, status| Replica {
            id,
            place: Place::Memory(vec![BufferRange {
                size: 8,
                address: 64,
                protocol: String::new(),
                endpoint: endpoint.into(),
            }]),
            status,
        };
        let all = [
            replica(1, "far", ReplicaStatus::Complete),
            replica(2, "near", ReplicaStatus::Processing),
            replica(3, "near", ReplicaStatus::Complete),
            Replica {
                id: 4,
                place: Place::Disk { path: "/x".into(), size: 8 },
                status: ReplicaStatus::Complete,
            },
        ];
        let order: Vec<u64> =
            readable(&all, |range| range.endpoint == "near").iter().map(|r| r.id).collect();
        assert_eq!(order, [3, 1]);
    }
}
