//! The buffers of a peer, arranged for look-up.

use crate::descriptor::SegmentDescriptor;
use crate::memory::Access;
use crate::transport::Operation;

#[derive(Clone, Copy, Debug)]
struct RemoteBuffer {
    start: u64,
    end: u64,
    key: u64,
    access: Option<Access>,
}

/// What the peer's descriptor says about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Inside one buffer; the native key, 0 where the peer has none.
    Key(u64),
    /// Inside one buffer that does not grant the access.
    Denied,
    /// Not inside any buffer.
    Missing,
}

/// Buffers sorted by address.
#[derive(Debug, Default)]
pub(super) struct RemoteIndex {
    buffers: Vec<RemoteBuffer>,
    // Upstream peers may publish overlapping buffers; then the nearest start is not enough.
    overlapping: bool,
}

impl RemoteIndex {
    pub(super) fn new(descriptor: &SegmentDescriptor) -> RemoteIndex {
        let native = descriptor.native.as_ref();
        let mut buffers: Vec<RemoteBuffer> = descriptor
            .buffers
            .iter()
            .enumerate()
            .map(|(index, buffer)| {
                let own = native.and_then(|native| native.buffers.get(index));
                RemoteBuffer {
                    start: buffer.addr,
                    end: buffer.addr.saturating_add(buffer.length),
                    key: own.map_or(0, |own| own.key),
                    access: own.map(|own| Access::from_bits(own.access)),
                }
            })
            .collect();
        buffers.sort_unstable_by_key(|buffer| buffer.start);
        let overlapping = buffers.windows(2).any(|pair| pair[0].end > pair[1].start);
        RemoteIndex { buffers, overlapping }
    }

    pub(super) fn find(&self, address: u64, length: u64, operation: Operation) -> Found {
        let Some(end) = address.checked_add(length) else { return Found::Missing };
        let after = self.buffers.partition_point(|buffer| buffer.start <= address);
        let candidates = &self.buffers[..after];
        let holds = |buffer: &&RemoteBuffer| buffer.end >= end;
        let buffer = if self.overlapping {
            candidates.iter().rev().find(holds)
        } else {
            candidates.last().filter(holds)
        };
        let Some(buffer) = buffer else { return Found::Missing };
        let wanted = operation.remote_access();
        if buffer.access.is_some_and(|access| !access.allows(wanted)) {
            return Found::Denied;
        }
        Found::Key(buffer.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::BufferDescriptor;

    fn index(ranges: &[(u64, u64)]) -> RemoteIndex {
        let buffers = ranges
            .iter()
            .map(|(addr, length)| BufferDescriptor {
                name: "peer".into(),
                addr: *addr,
                length: *length,
                lkey: Vec::new(),
                rkey: Vec::new(),
            })
            .collect();
        RemoteIndex::new(&SegmentDescriptor { buffers, ..SegmentDescriptor::default() })
    }

    #[test]
    fn ranges_are_found_inside_one_buffer_only() {
        let index = index(&[(300, 100), (100, 100), (200, 50)]);
        for (address, length, found) in [
            (100, 100, true),
            (199, 1, true),
            (199, 2, false),
            (200, 50, true),
            (250, 1, false),
            (99, 1, false),
            (399, 1, true),
            (400, 1, false),
            (u64::MAX, 2, false),
        ] {
            let expected = if found { Found::Key(0) } else { Found::Missing };
            assert_eq!(
                index.find(address, length, Operation::Read),
                expected,
                "{address}+{length}"
            );
        }
    }

    #[test]
    fn overlapping_buffers_are_all_tried() {
        let index = index(&[(100, 1000), (200, 10)]);
        assert_eq!(index.find(205, 100, Operation::Read), Found::Key(0));
        assert_eq!(index.find(205, 1000, Operation::Read), Found::Missing);
    }
}
