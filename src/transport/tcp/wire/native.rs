//! The native protocol: hello, request frames and reply frames. Pure bytes.
//!
//! All numbers are little-endian. Fields are only appended, numbers never reused.
//!
//! Hello, both ways: a fixed part of 64 bytes, a text (the sender's name, or why it refuses), in a
//! request the mark of the lane (8 bytes lane, 8 bytes epoch), and whatever later versions append;
//! `length` counts everything, so older readers skip it.
//!
//! ```text
//! request                            reply
//!  0  8  magic                        0  8  magic
//!  8  2  newest version spoken        8  2  version chosen, 0 refuses
//! 10  2  oldest version spoken       10  2  reason of a refusal
//! 12  4  length                      12  4  length
//! 16  8  capabilities                16  8  capabilities
//! 24 16  own instance                24 16  own instance
//! 40 16  expected instance          40 16  zero
//! 56  2  bytes of the name           56  2  bytes of the text
//! 58  2  bytes of the lane's mark    58  6  zero
//! 60  4  zero
//! ```
//!
//! A request frame is a header of 16 bytes, `blocks` entries of 24 bytes, and for WRITE the
//! payload of all blocks in order. Its reply is a header of 16 bytes, one status byte per block if
//! a flag says so (else all are fine), and for READ the payload of the blocks that are fine.
//! Replies come in the order of the requests.
//!
//! A FENCE frame has no payload and no reply. Its entries are marks of lanes: no connection of such
//! a lane with that epoch or an earlier one stores another byte before what follows the frame is
//! served. Only sent to peers with [`CAPABILITY_FENCE`].
//!
//! ```text
//! request header   0 1 kind   1 1 zero    2 2 blocks   4 4 sequence   8 8 payload bytes
//! block            0 8 address            8 8 key     16 4 length    20 4 zero
//! mark in a FENCE  0 8 lane               8 8 epoch   16 8 zero
//! reply header     0 1 kind   1 1 flags   2 2 blocks   4 4 sequence   8 8 payload bytes
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// First bytes of a native connection. As an upstream `size` they would be beyond every limit.
pub const MAGIC: [u8; 8] = *b"MCNATIVE";
/// The version this build speaks.
pub const VERSION: u16 = 1;
/// Fixed part of a hello.
pub const HELLO_BYTES: usize = 64;
/// Header of a request or reply frame.
pub const HEADER_BYTES: usize = 16;
/// Entry of one block.
pub const BLOCK_BYTES: usize = 24;
/// Largest header with entries.
pub const HEAD_BYTES_MAX: usize = HEADER_BYTES + limits::NATIVE_BLOCKS_MAX * BLOCK_BYTES;

/// Reply flag: one status byte per block follows the header.
pub const FLAG_STATUSES: u8 = 1;

/// Capability bit, both ways: marks in hellos and FENCE frames are understood and obeyed.
pub const CAPABILITY_FENCE: u64 = 1;

/// No common version.
pub const REFUSED_VERSION: u16 = 1;
/// Another life of the engine, or another engine, lives at this address now.
pub const REFUSED_INSTANCE: u16 = 2;
/// The lane has had a newer connection already, or this one was fenced off before it came.
pub const REFUSED_STALE: u16 = 3;

const _: () = assert!(u64::from_le_bytes(MAGIC) > limits::UPSTREAM_SIZE_MAX);
const _: () = assert!(HELLO_BYTES < limits::NATIVE_HELLO_BYTES_MAX);

/// How a block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockStatus {
    /// Moved.
    Ok = 0,
    /// Not inside a registered buffer, wrong key, or access not granted.
    Refused = 1,
    /// The buffer was unregistered meanwhile.
    Unregistered = 2,
    /// The memory is not mapped as its owner said.
    Fault = 3,
}

impl BlockStatus {
    /// From the wire; unknown numbers are failures of a newer peer.
    pub fn from_byte(byte: u8) -> BlockStatus {
        match byte {
            0 => BlockStatus::Ok,
            2 => BlockStatus::Unregistered,
            3 => BlockStatus::Fault,
            _ => BlockStatus::Refused,
        }
    }
}

/// What a request frame asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Store the payload.
    Write,
    /// Send the blocks.
    Read,
    /// Keep earlier connections from storing.
    Fence,
}

const KIND_WRITE: u8 = 1;
const KIND_READ: u8 = 2;
const KIND_FENCE: u8 = 3;
const REPLY: u8 = 0x80;

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Write => KIND_WRITE,
            Kind::Read => KIND_READ,
            Kind::Fence => KIND_FENCE,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            KIND_WRITE => Some(Kind::Write),
            KIND_READ => Some(Kind::Read),
            KIND_FENCE => Some(Kind::Fence),
            _ => None,
        }
    }
}

/// One connection of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneMark {
    /// The lane: a secret of the initiator, known to this target only.
    pub lane: u64,
    /// Grows with every connection of the lane; starts with 1 and is never used up.
    pub epoch: u64,
}

/// Bytes of a mark in a hello.
const MARK_BYTES: usize = 16;

impl LaneMark {
    fn encode(self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.lane.to_le_bytes());
        into.extend_from_slice(&self.epoch.to_le_bytes());
    }

    /// Appends a FENCE frame with these marks, of which there are as few as a route has lanes.
    pub fn encode_fence(marks: &[LaneMark], into: &mut Vec<u8>) {
        for marks in marks.chunks(limits::NATIVE_BLOCKS_MAX) {
            put_header(into, KIND_FENCE, 0, marks.len() as u16, 0, 0);
            for mark in marks {
                mark.encode(into);
                into.extend_from_slice(&[0; BLOCK_BYTES - MARK_BYTES]);
            }
        }
    }

    /// Reads the entries behind the header of a FENCE frame.
    pub fn decode_all(entries: &[u8]) -> impl Iterator<Item = LaneMark> + '_ {
        entries
            .chunks_exact(BLOCK_BYTES)
            .map(|entry| LaneMark { lane: u64_at(entry, 0), epoch: u64_at(entry, 8) })
    }
}

/// Either hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Request: newest version spoken. Reply: version chosen, 0 refuses.
    pub version: u16,
    /// Request: oldest version spoken. Reply: reason of a refusal.
    pub second: u16,
    /// Optional abilities.
    pub capabilities: u64,
    /// The sender's instance.
    pub instance: [u8; 16],
    /// Request: the instance the sender wants to meet.
    pub expected: [u8; 16],
    /// Request: the sender's name. Reply: why it refuses.
    pub text: String,
    /// Request: which connection of which lane this is. Needs the capability.
    pub mark: Option<LaneMark>,
}

impl Hello {
    /// The bytes; an over-long text is cut.
    pub fn encode(&self) -> Vec<u8> {
        let room = limits::NATIVE_HELLO_BYTES_MAX - HELLO_BYTES - MARK_BYTES;
        let mut cut = self.text.len().min(room);
        while !self.text.is_char_boundary(cut) {
            cut -= 1;
        }
        let text = &self.text.as_bytes()[..cut];
        let mark_bytes = if self.mark.is_some() { MARK_BYTES } else { 0 };
        let length = HELLO_BYTES + text.len() + mark_bytes;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.second.to_le_bytes());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&self.capabilities.to_le_bytes());
        bytes.extend_from_slice(&self.instance);
        bytes.extend_from_slice(&self.expected);
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(mark_bytes as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(text);
        if let Some(mark) = self.mark {
            mark.encode(&mut bytes);
        }
        bytes
    }

    /// Reads a hello from the front of `bytes`; `None` while incomplete. Returns its length too.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Hello, usize)>> {
        if bytes.len() < MAGIC.len() {
            return Ok(None);
        }
        if bytes[..8] != MAGIC {
            return Err(protocol("the peer does not speak the native protocol"));
        }
        let Some(fixed) = bytes.first_chunk::<HELLO_BYTES>() else { return Ok(None) };
        let length = u32_at(fixed, 12) as usize;
        if !(HELLO_BYTES..=limits::NATIVE_HELLO_BYTES_MAX).contains(&length) {
            return Err(protocol("a hello of impossible length").with("length_bytes", length));
        }
        if bytes.len() < length {
            return Ok(None);
        }
        let text_end = HELLO_BYTES + u16_at(fixed, 56) as usize;
        if text_end > length {
            return Err(protocol("the text of the hello is longer than the hello"));
        }
        let capabilities = u64_at(fixed, 16);
        // Without the capability the bytes mean nothing yet.
        let mark_bytes = match capabilities & CAPABILITY_FENCE {
            0 => 0,
            _ => u16_at(fixed, 58) as usize,
        };
        if text_end + mark_bytes > length || (1..MARK_BYTES).contains(&mark_bytes) {
            return Err(protocol("the mark of the hello's lane is of impossible length"));
        }
        let mut hello = Hello {
            version: u16_at(fixed, 8),
            second: u16_at(fixed, 10),
            capabilities,
            instance: [0; 16],
            expected: [0; 16],
            text: String::from_utf8_lossy(&bytes[HELLO_BYTES..text_end]).into_owned(),
            mark: (mark_bytes > 0).then(|| LaneMark {
                lane: u64_at(bytes, text_end),
                epoch: u64_at(bytes, text_end + 8),
            }),
        };
        hello.instance.copy_from_slice(&fixed[24..40]);
        hello.expected.copy_from_slice(&fixed[40..56]);
        Ok(Some((hello, length)))
    }
}

/// Header of a request frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Direction.
    pub kind: Kind,
    /// Number of blocks, 1 to [`limits::NATIVE_BLOCKS_MAX`].
    pub blocks: u16,
    /// Repeated in the reply.
    pub sequence: u32,
    /// Sum of all block lengths; 0 for a FENCE.
    pub payload: u64,
}

impl RequestHeader {
    /// Appends the header.
    pub fn encode(&self, into: &mut Vec<u8>) {
        put_header(into, self.kind.byte(), 0, self.blocks, self.sequence, self.payload);
    }

    /// Reads a header; an error means that the stream cannot be trusted any more.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<RequestHeader> {
        let kind = Kind::from_byte(bytes[0])
            .ok_or_else(|| protocol("unknown kind of request").with("kind", bytes[0]))?;
        let blocks = u16_at(bytes, 2);
        if blocks == 0 || usize::from(blocks) > limits::NATIVE_BLOCKS_MAX {
            return Err(protocol("impossible number of blocks").with("blocks", blocks));
        }
        let payload = u64_at(bytes, 8);
        if (payload == 0) != (kind == Kind::Fence) || payload > limits::NATIVE_FRAME_BYTES_MAX {
            return Err(protocol("impossible payload").with("length_bytes", payload));
        }
        Ok(RequestHeader { kind, blocks, sequence: u32_at(bytes, 4), payload })
    }

    /// Bytes of header and entries.
    pub fn head_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(self.blocks) * BLOCK_BYTES
    }
}

/// One block of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Address in the target.
    pub address: u64,
    /// Key of the registration.
    pub key: u64,
    /// Bytes, at least 1.
    pub length: u32,
}

impl Block {
    /// Appends the entry.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.address.to_le_bytes());
        into.extend_from_slice(&self.key.to_le_bytes());
        into.extend_from_slice(&self.length.to_le_bytes());
        into.extend_from_slice(&[0; 4]);
    }

    /// Reads the entries behind a header and checks that their lengths add up.
    pub fn decode_all(header: &RequestHeader, entries: &[u8], into: &mut Vec<Block>) -> Result<()> {
        into.clear();
        let mut sum = 0u64;
        for entry in entries.chunks_exact(BLOCK_BYTES).take(header.blocks.into()) {
            let Some(entry) = entry.first_chunk::<BLOCK_BYTES>() else { break };
            let block = Block {
                address: u64_at(entry, 0),
                key: u64_at(entry, 8),
                length: u32_at(entry, 16),
            };
            if block.length == 0 {
                return Err(protocol("a block of zero bytes"));
            }
            sum += u64::from(block.length);
            into.push(block);
        }
        if into.len() != usize::from(header.blocks) || sum != header.payload {
            return Err(protocol("the blocks do not add up to the payload")
                .with("blocks_bytes", sum)
                .with("payload_bytes", header.payload));
        }
        Ok(())
    }
}

/// Header of a reply frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// Direction of the request.
    pub kind: Kind,
    /// Status bytes follow.
    pub statuses: bool,
    /// Blocks of the request.
    pub blocks: u16,
    /// Sequence of the request.
    pub sequence: u32,
    /// Payload bytes that follow.
    pub payload: u64,
}

impl ReplyHeader {
    /// Appends the header.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let flags = if self.statuses { FLAG_STATUSES } else { 0 };
        let kind = self.kind.byte() | REPLY;
        put_header(into, kind, flags, self.blocks, self.sequence, self.payload);
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<ReplyHeader> {
        let kind = (bytes[0] & REPLY != 0).then(|| Kind::from_byte(bytes[0] & !REPLY)).flatten();
        let kind = kind.filter(|kind| *kind != Kind::Fence);
        let kind = kind.ok_or_else(|| protocol("unknown kind of reply").with("kind", bytes[0]))?;
        Ok(ReplyHeader {
            kind,
            statuses: bytes[1] & FLAG_STATUSES != 0,
            blocks: u16_at(bytes, 2),
            sequence: u32_at(bytes, 4),
            payload: u64_at(bytes, 8),
        })
    }
}

fn put_header(into: &mut Vec<u8>, kind: u8, flags: u8, blocks: u16, sequence: u32, payload: u64) {
    into.extend_from_slice(&[kind, flags]);
    into.extend_from_slice(&blocks.to_le_bytes());
    into.extend_from_slice(&sequence.to_le_bytes());
    into.extend_from_slice(&payload.to_le_bytes());
}

fn protocol(text: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, text)
}

// The callers pass arrays of a fixed length and offsets inside it.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            second: 1,
            capabilities: 5,
            instance: [7; 16],
            expected: [9; 16],
            text: "node:15001".into(),
            mark: None,
        }
    }

    #[test]
    fn hello_round_trips_and_skips_what_is_newer() {
        let mut bytes = hello().encode();
        for cut in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(Hello::decode(&bytes).unwrap(), Some((hello(), bytes.len())));
        bytes.extend_from_slice(b"later");
        let length = bytes.len() as u32;
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Hello::decode(&bytes).unwrap(), Some((hello(), bytes.len())));
    }

    #[test]
    fn the_mark_of_a_lane_needs_its_capability() {
        let mark = Some(LaneMark { lane: 0x0102_0304_0506_0708, epoch: 9 });
        let marked = Hello { mark, ..hello() };
        let mut bytes = marked.encode();
        assert_eq!(bytes.len(), hello().encode().len() + 16);
        assert_eq!(bytes[58..60], [16, 0]);
        assert_eq!(
            bytes[bytes.len() - 16..],
            *b"\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\0"
        );
        assert_eq!(Hello::decode(&bytes).unwrap(), Some((marked, bytes.len())));
        let old = Hello { capabilities: 4, mark, ..hello() }.encode();
        let read = Hello::decode(&old).unwrap().unwrap();
        assert_eq!(read, (Hello { capabilities: 4, ..hello() }, old.len()));
        for impossible in [1, 15, 17, u16::MAX] {
            bytes[58..60].copy_from_slice(&impossible.to_le_bytes());
            assert_eq!(Hello::decode(&bytes).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn fences_round_trip_and_have_no_reply() {
        let marks: Vec<LaneMark> = (0..600).map(|i| LaneMark { lane: i, epoch: i + 1 }).collect();
        let mut bytes = Vec::new();
        LaneMark::encode_fence(&marks, &mut bytes);
        let (mut rest, mut seen) = (bytes.as_slice(), Vec::new());
        while let Some(head) = rest.first_chunk() {
            let header = RequestHeader::decode(head).unwrap();
            assert_eq!(header.kind, Kind::Fence);
            let (frame, after) = rest.split_at(header.head_bytes());
            seen.extend(LaneMark::decode_all(&frame[HEADER_BYTES..]));
            rest = after;
        }
        assert_eq!(seen, marks);
        let mut head: [u8; HEADER_BYTES] = *bytes.first_chunk().unwrap();
        head[8] = 1;
        assert!(RequestHeader::decode(&head).is_err());
        head = *bytes.first_chunk().unwrap();
        head[0] |= REPLY;
        assert!(ReplyHeader::decode(&head).is_err());
    }

    #[test]
    fn impossible_hellos_are_refused() {
        for (offset, value) in [(0, 0u32), (12, 63), (12, 1 << 30), (56, 60_000)] {
            let mut bytes = hello().encode();
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(Hello::decode(&bytes).unwrap_err().kind(), ErrorKind::Protocol);
        }
        let long = Hello { text: "ü".repeat(5000), ..hello() };
        assert!(long.encode().len() <= limits::NATIVE_HELLO_BYTES_MAX);
    }

    #[test]
    fn frames_round_trip() {
        let header = RequestHeader { kind: Kind::Read, blocks: 2, sequence: 77, payload: 12 };
        let blocks = [
            Block { address: 1, key: 2, length: 4 },
            Block { address: u64::MAX, key: 3, length: 8 },
        ];
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        blocks.iter().for_each(|block| block.encode(&mut bytes));
        assert_eq!(bytes.len(), header.head_bytes());
        let decoded = RequestHeader::decode(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(decoded, header);
        let mut out = Vec::new();
        Block::decode_all(&decoded, &bytes[HEADER_BYTES..], &mut out).unwrap();
        assert_eq!(out, blocks);
        let wrong = RequestHeader { payload: 13, ..header };
        assert!(Block::decode_all(&wrong, &bytes[HEADER_BYTES..], &mut out).is_err());
        let reply =
            ReplyHeader { kind: Kind::Write, statuses: true, blocks: 2, sequence: 77, payload: 0 };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(ReplyHeader::decode(bytes.first_chunk().unwrap()).unwrap(), reply);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Hello::decode(&bytes);
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&bytes);
            let _ = Hello::decode(&with_magic);
            if let Some(head) = bytes.first_chunk() {
                let _ = ReplyHeader::decode(head);
                if let Ok(header) = RequestHeader::decode(head) {
                    let mut blocks = Vec::new();
                    let _ = Block::decode_all(&header, &bytes[HEADER_BYTES..], &mut blocks);
                    prop_assert!(blocks.len() <= limits::NATIVE_BLOCKS_MAX);
                }
            }
        }
    }
}
