//! One change of the index as bytes, and back. Pure.
//!
//! A record is framed: length of the body (4 bytes, little-endian), CRC-32 of the body (4 bytes),
//! body. The body begins with its kind; numbers are little-endian, texts and lists are preceded by
//! their length in 4 bytes. Kinds are never reused; a body may be longer than its reader knows.

use std::borrow::Cow;

use crate::limits;
use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::lease::Micros;
use crate::pool::segment::Segment;

/// Bytes before a body.
pub const FRAME_BYTES: usize = 8;
/// Longest body: the longest names of an object and its group, the most slices and copies.
pub const BODY_BYTES_MAX: usize =
    2 * limits::KEY_BYTES_MAX + 8 * limits::OBJECT_SLICES_MAX + 12 * limits::REPLICAS_MAX + 4096;

/// How an object is pinned; lengths count from the moment of the restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeptPin {
    /// Not.
    #[default]
    None,
    /// Softly, extended by reads; seconds left.
    SoftExtended(u32),
    /// Softly; seconds left.
    SoftFixed(u32),
    /// For ever.
    Hard,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A life of the master begins; no generation of an earlier one is this large.
    Life {
        /// First generation.
        generation: u64,
    },
    /// A segment is mounted under a slot.
    Mount {
        /// Its short name in other records, until it is unmounted.
        slot: u32,
        /// Whose it is.
        owner: ClientId,
        /// What it is.
        segment: Cow<'a, Segment>,
    },
    /// A segment is gone, and every copy in it.
    Unmount {
        /// Which.
        slot: u32,
    },
    /// An object has been given ranges; the same generation again replaces what was said.
    Put {
        /// Which put.
        generation: u64,
        /// Whose; `None` for anonymous ones.
        owner: Option<ClientId>,
        /// Whether it is complete already.
        complete: bool,
        /// How it is pinned.
        pin: KeptPin,
        /// Name.
        key: Cow<'a, [u8]>,
        /// Lengths of its slices.
        slices: Cow<'a, [u64]>,
        /// Segment slot and offset of each copy.
        copies: Cow<'a, [(u32, u64)]>,
        /// Name of its group; empty without one.
        group: Cow<'a, [u8]>,
    },
    /// An object is complete.
    End {
        /// Which put.
        generation: u64,
    },
    /// An object is gone; its ranges rest.
    Gone {
        /// Which put.
        generation: u64,
        /// For how long from now, in microseconds.
        rest: Micros,
    },
    /// So late is it, in microseconds of this life.
    Moment(Micros),
    /// A range without an object rests.
    Rest {
        /// Segment slot.
        slot: u32,
        /// From the start of the segment.
        offset: u64,
        /// Bytes.
        bytes: u64,
        /// For how long from now, in microseconds.
        rest: Micros,
    },
    /// How an object's file of the disk tier is.
    File {
        /// Which put.
        generation: u64,
        /// How far it is.
        state: KeptFile,
        /// CRC-32 of the folder of the tier; in another folder there is no such file.
        folder: u32,
    },
}

/// How far a file of the disk tier is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeptFile {
    /// There is none.
    #[default]
    None,
    /// Its writer is at it.
    Unfinished,
    /// It is whole.
    Written,
}

const LIFE: u8 = 1;
const MOUNT: u8 = 2;
const UNMOUNT: u8 = 3;
const PUT: u8 = 4;
const END: u8 = 5;
const GONE: u8 = 6;
const MOMENT: u8 = 7;
const REST: u8 = 8;
const FILE: u8 = 9;

/// What was found at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record, and how many bytes it took.
    Record(Record<'a>, usize),
    /// A record of a kind that this version does not know, and how many bytes it took.
    Unknown(u8, usize),
    /// The bytes end within a record.
    Cut,
    /// No record: wrong length, checksum or content.
    Damaged,
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_uuid(out: &mut Vec<u8>, uuid: Uuid) {
    out.extend_from_slice(&uuid.first.to_le_bytes());
    out.extend_from_slice(&uuid.second.to_le_bytes());
}

impl Record<'_> {
    /// The same without borrowing from anybody.
    pub fn into_static(self) -> Record<'static> {
        match self {
            Record::Life { generation } => Record::Life { generation },
            Record::Mount { slot, owner, segment } => {
                Record::Mount { slot, owner, segment: Cow::Owned(segment.into_owned()) }
            }
            Record::Unmount { slot } => Record::Unmount { slot },
            Record::Put { generation, owner, complete, pin, key, slices, copies, group } => {
                Record::Put {
                    generation,
                    owner,
                    complete,
                    pin,
                    key: Cow::Owned(key.into_owned()),
                    slices: Cow::Owned(slices.into_owned()),
                    copies: Cow::Owned(copies.into_owned()),
                    group: Cow::Owned(group.into_owned()),
                }
            }
            Record::End { generation } => Record::End { generation },
            Record::Gone { generation, rest } => Record::Gone { generation, rest },
            Record::Moment(micros) => Record::Moment(micros),
            Record::Rest { slot, offset, bytes, rest } => {
                Record::Rest { slot, offset, bytes, rest }
            }
            Record::File { generation, state, folder } => {
                Record::File { generation, state, folder }
            }
        }
    }

    /// Appends the framed record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_BYTES]);
        match self {
            Record::Life { generation } => {
                out.push(LIFE);
                out.extend_from_slice(&generation.to_le_bytes());
            }
            Record::Mount { slot, owner, segment } => {
                out.push(MOUNT);
                out.extend_from_slice(&slot.to_le_bytes());
                put_uuid(out, owner.0);
                put_uuid(out, segment.id.0);
                out.extend_from_slice(&segment.base.to_le_bytes());
                out.extend_from_slice(&segment.size.to_le_bytes());
                put_bytes(out, segment.name.as_bytes());
                put_bytes(out, segment.endpoint.as_bytes());
                put_bytes(out, segment.protocol.as_bytes());
            }
            Record::Unmount { slot } => {
                out.push(UNMOUNT);
                out.extend_from_slice(&slot.to_le_bytes());
            }
            Record::Put { generation, owner, complete, pin, key, slices, copies, group } => {
                out.push(PUT);
                out.extend_from_slice(&generation.to_le_bytes());
                out.push(u8::from(*complete) | u8::from(owner.is_some()) << 1);
                put_uuid(out, owner.unwrap_or_default().0);
                let (kind, seconds) = match pin {
                    KeptPin::None => (0, 0),
                    KeptPin::SoftExtended(seconds) => (1, *seconds),
                    KeptPin::SoftFixed(seconds) => (2, *seconds),
                    KeptPin::Hard => (3, 0),
                };
                out.push(kind);
                out.extend_from_slice(&seconds.to_le_bytes());
                put_bytes(out, key);
                out.extend_from_slice(&(slices.len() as u32).to_le_bytes());
                for slice in slices.iter() {
                    out.extend_from_slice(&slice.to_le_bytes());
                }
                out.extend_from_slice(&(copies.len() as u32).to_le_bytes());
                for (slot, offset) in copies.iter() {
                    out.extend_from_slice(&slot.to_le_bytes());
                    out.extend_from_slice(&offset.to_le_bytes());
                }
                // Last, and only where there is one: earlier versions end before it.
                if !group.is_empty() {
                    put_bytes(out, group);
                }
            }
            Record::End { generation } => {
                out.push(END);
                out.extend_from_slice(&generation.to_le_bytes());
            }
            Record::Gone { generation, rest } => {
                out.push(GONE);
                out.extend_from_slice(&generation.to_le_bytes());
                out.extend_from_slice(&rest.to_le_bytes());
            }
            Record::Moment(micros) => {
                out.push(MOMENT);
                out.extend_from_slice(&micros.to_le_bytes());
            }
            Record::Rest { slot, offset, bytes, rest } => {
                out.push(REST);
                out.extend_from_slice(&slot.to_le_bytes());
                for number in [offset, bytes, rest] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Record::File { generation, state, folder } => {
                out.push(FILE);
                out.extend_from_slice(&generation.to_le_bytes());
                out.push(match state {
                    KeptFile::None => 0,
                    KeptFile::Unfinished => 1,
                    KeptFile::Written => 2,
                });
                out.extend_from_slice(&folder.to_le_bytes());
            }
        }
        let body = &out[start + FRAME_BYTES..];
        let (length, sum) = (body.len() as u32, crc32fast::hash(body));
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The record at the start of `bytes`.
pub fn decode(bytes: &[u8]) -> Found<'_> {
    let Some((frame, rest)) = bytes.split_at_checked(FRAME_BYTES) else { return Found::Cut };
    let mut reader = Reader { bytes: frame };
    let (Some(length), Some(sum)) = (reader.u32(), reader.u32()) else { return Found::Cut };
    let length = length as usize;
    if length == 0 || length > BODY_BYTES_MAX {
        return Found::Damaged;
    }
    let Some(body) = rest.get(..length) else { return Found::Cut };
    if crc32fast::hash(body) != sum {
        return Found::Damaged;
    }
    let taken = FRAME_BYTES + length;
    if !(LIFE..=FILE).contains(&body[0]) {
        return Found::Unknown(body[0], taken);
    }
    let mut reader = Reader { bytes: &body[1..] };
    match reader.record(body[0]) {
        Some(record) => Found::Record(record, taken),
        None => Found::Damaged,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn uuid(&mut self) -> Option<Uuid> {
        Some(Uuid { first: self.u64()?, second: self.u64()? })
    }

    fn counted(&mut self, max: usize) -> Option<&'a [u8]> {
        let count = self.u32()? as usize;
        if count > max {
            return None;
        }
        self.take(count)
    }

    fn text(&mut self) -> Option<String> {
        let bytes = self.counted(limits::NAME_BYTES_MAX)?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    fn list<T>(&mut self, max: usize, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        if count > max {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn record(&mut self, kind: u8) -> Option<Record<'a>> {
        Some(match kind {
            LIFE => Record::Life { generation: self.u64()? },
            MOUNT => {
                let slot = self.u32()?;
                let owner = ClientId(self.uuid()?);
                let id = SegmentId(self.uuid()?);
                let (base, size) = (self.u64()?, self.u64()?);
                let (name, endpoint, protocol) = (self.text()?, self.text()?, self.text()?);
                let segment = Segment { id, name, base, size, endpoint, protocol };
                Record::Mount { slot, owner, segment: Cow::Owned(segment) }
            }
            UNMOUNT => Record::Unmount { slot: self.u32()? },
            PUT => {
                let generation = self.u64()?;
                let flags = self.u8()?;
                let owner = ClientId(self.uuid()?);
                let (pin, seconds) = (self.u8()?, self.u32()?);
                let pin = match pin {
                    0 => KeptPin::None,
                    1 => KeptPin::SoftExtended(seconds),
                    2 => KeptPin::SoftFixed(seconds),
                    3 => KeptPin::Hard,
                    _ => return None,
                };
                let key = Cow::Borrowed(self.counted(limits::KEY_BYTES_MAX)?);
                let slices = Cow::Owned(self.list(limits::OBJECT_SLICES_MAX, Self::u64)?);
                let copy = |r: &mut Self| Some((r.u32()?, r.u64()?));
                let copies = Cow::Owned(self.list(limits::REPLICAS_MAX, copy)?);
                let group = match self.bytes.is_empty() {
                    true => &[],
                    false => self.counted(limits::KEY_BYTES_MAX)?,
                };
                let group = Cow::Borrowed(group);
                let complete = flags & 1 != 0;
                let owner = (flags & 2 != 0).then_some(owner);
                Record::Put { generation, owner, complete, pin, key, slices, copies, group }
            }
            END => Record::End { generation: self.u64()? },
            GONE => Record::Gone { generation: self.u64()?, rest: self.u64()? },
            MOMENT => Record::Moment(self.u64()?),
            REST => {
                let slot = self.u32()?;
                let (offset, bytes, rest) = (self.u64()?, self.u64()?, self.u64()?);
                Record::Rest { slot, offset, bytes, rest }
            }
            FILE => {
                let generation = self.u64()?;
                let state = match self.u8()? {
                    0 => KeptFile::None,
                    1 => KeptFile::Unfinished,
                    2 => KeptFile::Written,
                    _ => return None,
                };
                Record::File { generation, state, folder: self.u32()? }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{decode, Found, KeptFile, KeptPin, Record, FRAME_BYTES};
    use crate::pool::identity::{ClientId, SegmentId, Uuid};
    use crate::pool::segment::Segment;

    fn samples() -> Vec<Record<'static>> {
        let segment = Segment {
            id: SegmentId(Uuid { first: 1, second: 2 }),
            name: "host:1".to_owned(),
            base: 4096,
            size: 1 << 40,
            endpoint: "[::1]:2".to_owned(),
            protocol: String::new(),
        };
        let owner = ClientId(Uuid { first: 3, second: u64::MAX });
        let put = |owner, complete, pin, group: &'static [u8]| Record::Put {
            generation: 9,
            owner,
            complete,
            pin,
            key: Cow::Borrowed(b"a\0\xff/"),
            slices: Cow::Borrowed(&[1, 2, u64::MAX]),
            copies: Cow::Borrowed(&[(0, 0), (u32::MAX, 1 << 50)]),
            group: Cow::Borrowed(group),
        };
        vec![
            Record::Life { generation: u64::MAX },
            Record::Mount { slot: 7, owner, segment: Cow::Owned(segment) },
            Record::Unmount { slot: 7 },
            put(None, false, KeptPin::None, b""),
            put(Some(owner), true, KeptPin::SoftExtended(5), b"g"),
            put(Some(owner), false, KeptPin::SoftFixed(u32::MAX), b""),
            put(None, true, KeptPin::Hard, b"page/1"),
            Record::End { generation: 1 },
            Record::Gone { generation: 1, rest: 2 },
            Record::Moment(3),
            Record::Rest { slot: 1, offset: 2, bytes: 3, rest: 4 },
            Record::File { generation: 1, state: KeptFile::Written, folder: u32::MAX },
        ]
    }

    #[test]
    fn every_record_comes_back() {
        let mut bytes = Vec::new();
        samples().iter().for_each(|record| record.encode(&mut bytes));
        let mut rest = &bytes[..];
        for record in samples() {
            let Found::Record(found, taken) = decode(rest) else { panic!("{:?}", decode(rest)) };
            assert_eq!(found, record);
            rest = &rest[taken..];
        }
        assert_eq!(decode(rest), Found::Cut);
    }

    #[test]
    fn cut_and_changed_bytes_are_seen() {
        for record in samples() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Found::Cut, "{end} of {record:?}");
            }
            for at in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[at / 8] ^= 1 << (at % 8);
                assert!(matches!(decode(&changed), Found::Cut | Found::Damaged), "bit {at}");
            }
        }
        assert_eq!(decode(&[0; 100]), Found::Damaged);
    }

    #[test]
    fn later_kinds_are_stepped_over_and_longer_bodies_read() {
        let frame = |body: &[u8]| {
            let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
            bytes.extend_from_slice(body);
            bytes
        };
        assert_eq!(decode(&frame(&[200, 1, 2])), Found::Unknown(200, FRAME_BYTES + 3));
        let longer = frame(&[5, 1, 0, 0, 0, 0, 0, 0, 0, 99]);
        assert_eq!(decode(&longer), Found::Record(Record::End { generation: 1 }, longer.len()));
        assert_eq!(decode(&frame(&[5, 1])), Found::Damaged);
        // A list that claims more than there is allocates nothing.
        let mut body = vec![4; 1];
        body.extend_from_slice(&[0; 30]);
        body.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&frame(&body)), Found::Damaged);
    }
}
