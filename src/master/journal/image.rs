//! What a row of records adds up to: segments, objects, and ranges that still rest. Pure.
//!
//! A snapshot is taken while the index changes, so its records and those of the log after it
//! overlap: every record may come twice, and an object may come again after it has gone from the
//! snapshot's point of view. Therefore nothing is decided here; the whole is looked at once it is
//! complete.

use std::collections::{HashMap, VecDeque};

use super::record::{KeptFile, KeptPin, Record};
use crate::pool::identity::ClientId;
use crate::pool::lease::Micros;
use crate::pool::segment::Segment;

/// An object as the records tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptObject {
    /// Whose; `None` for anonymous ones.
    pub owner: Option<ClientId>,
    /// Whether its put has ended.
    pub complete: bool,
    /// How it is pinned.
    pub pin: KeptPin,
    /// Name.
    pub key: Vec<u8>,
    /// Lengths of its slices.
    pub slices: Vec<u64>,
    /// Segment slot and offset of each copy.
    pub copies: Vec<(u32, u64)>,
    /// Name of its group; empty without one.
    pub group: Vec<u8>,
    /// Its file of the disk tier, and the CRC-32 of the folder of the tier.
    pub file: (KeptFile, u32),
}

/// A range whose object is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestingRange {
    /// Segment slot.
    pub slot: u32,
    /// From the start of the segment.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// Until then, in microseconds of the life that wrote the last records.
    pub until: Micros,
}

/// The sum of all records so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Mounted segments by slot.
    pub segments: HashMap<u32, (ClientId, Segment)>,
    /// Objects by generation.
    pub objects: HashMap<u64, KeptObject>,
    /// Ranges that may still rest.
    pub resting: VecDeque<RestingRange>,
    /// No generation was larger.
    pub generation: u64,
    /// The last moment written, of the last life.
    pub moment: Micros,
}

impl Image {
    /// Adds a record. Any row of records is taken; what makes no sense is left out at the end.
    pub fn apply(&mut self, record: Record<'_>) {
        match record {
            Record::Life { generation } => {
                self.generation = self.generation.max(generation);
                self.begin_life();
            }
            Record::Mount { slot, owner, segment } => {
                self.segments.insert(slot, (owner, segment.into_owned()));
            }
            Record::Unmount { slot } => self.unmount(slot),
            Record::Put { generation, owner, complete, pin, key, slices, copies, group } => {
                self.generation = self.generation.max(generation);
                let known = self.objects.get(&generation);
                let ended = known.is_some_and(|object| object.complete);
                let file = known.map(|object| object.file).unwrap_or_default();
                let object = KeptObject {
                    owner,
                    complete: complete || ended,
                    pin,
                    key: key.into_owned(),
                    slices: slices.into_owned(),
                    copies: copies.into_owned(),
                    group: group.into_owned(),
                    file,
                };
                self.objects.insert(generation, object);
            }
            Record::End { generation } => {
                if let Some(object) = self.objects.get_mut(&generation) {
                    object.complete = true;
                }
            }
            Record::File { generation, state, folder } => {
                if let Some(object) = self.objects.get_mut(&generation) {
                    object.file = (state, folder);
                }
            }
            Record::Gone { generation, rest } => self.gone(generation, rest),
            Record::Rest { slot, offset, bytes, rest } => {
                let until = self.moment.saturating_add(rest);
                self.resting.push_back(RestingRange { slot, offset, bytes, until });
            }
            Record::Moment(moment) => {
                self.moment = self.moment.max(moment);
                while self.resting.front().is_some_and(|range| range.until <= self.moment) {
                    self.resting.pop_front();
                }
            }
        }
    }

    /// The clock begins anew. What rested then rests as long again: nobody knows how much time
    /// lies between two lives.
    fn begin_life(&mut self) {
        for range in &mut self.resting {
            range.until = range.until.saturating_sub(self.moment);
        }
        self.moment = 0;
    }

    fn unmount(&mut self, slot: u32) {
        self.segments.remove(&slot);
        self.resting.retain(|range| range.slot != slot);
        self.objects.retain(|_, object| {
            object.copies.retain(|(segment, _)| *segment != slot);
            !object.copies.is_empty() || object.file.0 == KeptFile::Written
        });
    }

    fn gone(&mut self, generation: u64, rest: Micros) {
        let Some(object) = self.objects.remove(&generation) else { return };
        if rest == 0 {
            return;
        }
        let bytes = object.slices.iter().fold(0, |sum: u64, slice| sum.saturating_add(*slice));
        for (slot, offset) in object.copies {
            let until = self.moment.saturating_add(rest);
            self.resting.push_back(RestingRange { slot, offset, bytes, until });
        }
    }
}
