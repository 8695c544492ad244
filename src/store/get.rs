//! Getting objects: look up, copy, and check that the lease still ran when the copy was done.
//!
//! The clock is read before the lookup is sent, so the lease is never thought longer than it is.
//! Bytes whose lease ended during the copy are not given out: the object is looked up again. If it
//! is the same put at the same place, nothing can have been written there meanwhile and the bytes
//! are good; else they are read again.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Located, Place, Replica, ReplicaStatus};
use crate::time::Deadline;

use super::buffers::StoreBuffer;
use super::calls::parts;
use super::client::Shared;
use super::failure::{refused, shown};
use super::mover::{Direction, Move};
use super::plan::{check_key, memory_of, pair, readable, total, Ranges};
use super::put::is_peers_fault;

/// Where an object of a batch goes: asked with its position and size once the size is known.
pub(super) type Target<'t> = dyn FnMut(usize, u64) -> Result<Ranges> + 't;

/// Asked first whether an object can be had without reading it: its size if so.
pub(super) type View<'t> = dyn FnMut(usize, &Located) -> Option<u64> + 't;

/// The put and the replica that bytes were read from.
#[derive(PartialEq)]
struct ReadFrom {
    generation: u64,
    place: Place,
}

/// One read of a batch while it goes on.
struct Read<'a> {
    index: usize,
    bytes: u64,
    target: Ranges,
    replicas: SmallVec<[&'a Replica; 2]>,
    /// Which of them is next.
    next: usize,
    generation: u64,
    trusted_until: Instant,
    error: Option<Error>,
}

impl Shared {
    /// Reads a batch; one result for each key, in their order: the object's size.
    pub(super) fn get_objects(
        &self,
        keys: &[&[u8]],
        target: &mut Target<'_>,
        mut view: Option<&mut View<'_>>,
        deadline: Deadline,
    ) -> Vec<Result<u64>> {
        let unread = Error::new(ErrorKind::LeaseExpired, "the lease ended every time");
        let mut results: Vec<Result<u64>> = vec![Err(unread); keys.len()];
        let mut open: Vec<usize> = Vec::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            match check_key(key) {
                Ok(()) => open.push(index),
                Err(error) => results[index] = Err(error),
            }
        }
        let mut read_before: HashMap<usize, ReadFrom> = HashMap::new();
        for round in 0..=limits::STORE_REREADS_MAX {
            if open.is_empty() {
                break;
            }
            if round > 0 {
                self.metrics.rereads.inc_by(open.len() as u64);
            }
            // What took too long together goes in smaller parts.
            let part = (open.len() >> (2 * round)).max(1);
            let mut lapsed = Vec::new();
            for chunk in open.chunks(part) {
                for chunk in parts(chunk, |index| keys[*index].len()) {
                    let wave = Wave { keys, chunk, deadline };
                    let view = &mut view;
                    lapsed.extend(self.read(&wave, target, view, &mut read_before, &mut results));
                }
            }
            open = lapsed;
        }
        self.count_gets(&results);
        results
    }

    /// Looks up and reads some of the keys; returns those whose lease ended too early.
    fn read(
        &self,
        wave: &Wave<'_>,
        target: &mut Target<'_>,
        view: &mut Option<&mut View<'_>>,
        read_before: &mut HashMap<usize, ReadFrom>,
        results: &mut [Result<u64>],
    ) -> Vec<usize> {
        let names: Vec<&[u8]> = wave.chunk.iter().map(|index| wave.keys[*index]).collect();
        let asked = Instant::now();
        let located = match self.calls.lookup(&names, wave.deadline) {
            Ok(located) => located,
            Err(error) => {
                for index in wave.chunk {
                    results[*index] = Err(error.clone());
                }
                return Vec::new();
            }
        };
        let mut reads: Vec<Read<'_>> = Vec::with_capacity(located.len());
        for (index, located) in wave.chunk.iter().zip(&located) {
            if let (Some(before), Ok(now)) = (read_before.get(index), located) {
                if is_still_there(before, now) {
                    results[*index] = Ok(size_of(&before.place));
                    continue;
                }
            }
            let viewed = view.as_mut().zip(located.as_ref().ok());
            if let Some(size) = viewed.and_then(|(view, located)| view(*index, located)) {
                results[*index] = Ok(size);
                continue;
            }
            match self.begin(*index, wave.keys[*index], located, asked, target) {
                Ok(read) => reads.push(read),
                Err(error) => results[*index] = Err(error),
            }
        }
        let mut lapsed = Vec::new();
        while !reads.is_empty() {
            reads = self.try_replicas(reads, wave, read_before, results, &mut lapsed);
        }
        lapsed
    }

    fn begin<'a>(
        &self,
        index: usize,
        key: &[u8],
        located: &'a Outcome<Located>,
        asked: Instant,
        target: &mut Target<'_>,
    ) -> Result<Read<'a>> {
        let located = located.as_ref().map_err(|refusal| refused(*refusal, key))?;
        let mut replicas = readable(&located.replicas, |range| self.own.holds(range));
        // A file is the last resort.
        let is_file = |replica: &&Replica| {
            let size = matches!(replica.place, Place::Disk { size, .. } if is_possible(size));
            size && replica.status == ReplicaStatus::Complete
        };
        replicas.extend(located.replicas.iter().filter(is_file).take(1));
        let Some(bytes) = replicas.first().map(|replica| size_of(&replica.place)) else {
            return Err(refused(Refusal::REPLICA_IS_NOT_READY, key));
        };
        let target = target(index, bytes).map_err(|error| error.with("key", shown(key)))?;
        if total(&target) < bytes {
            return Err(Error::new(ErrorKind::BufferTooSmall, "the object is larger")
                .with("key", shown(key))
                .with("length_bytes", bytes)
                .with("room_bytes", total(&target)));
        }
        let lease = Duration::from_millis(located.lease_ttl_ms).min(limits::TIMEOUT_MAX);
        Ok(Read {
            index,
            bytes,
            target,
            replicas,
            next: 0,
            generation: located.generation,
            trusted_until: asked + lease,
            error: None,
        })
    }

    /// Reads the next replica of each; returns the reads that have to try another one.
    fn try_replicas<'a>(
        &self,
        reads: Vec<Read<'a>>,
        wave: &Wave<'_>,
        read_before: &mut HashMap<usize, ReadFrom>,
        results: &mut [Result<u64>],
        lapsed: &mut Vec<usize>,
    ) -> Vec<Read<'a>> {
        let mut moves: Vec<Move<'_>> = Vec::new();
        let mut owners: Vec<usize> = Vec::new();
        let mut failures: HashMap<usize, Error> = HashMap::new();
        let mut files: Vec<usize> = Vec::new();
        for (position, read) in reads.iter().enumerate() {
            let replica = read.replicas.get(read.next);
            if replica.is_some_and(|r| matches!(r.place, Place::Disk { .. })) {
                files.push(position);
                continue;
            }
            match replica.and_then(|replica| memory_of(replica)) {
                Some((ranges, bytes)) if bytes == read.bytes => {
                    pair(Direction::Get, &read.target, ranges, &mut moves);
                    owners.resize(moves.len(), position);
                }
                _ => {
                    let text = "the replicas of the object differ in size";
                    failures.insert(position, Error::new(ErrorKind::Protocol, text));
                }
            }
        }
        let moved = self.run_moves(&moves, self.own.mounts(), wave.deadline);
        let mut suspects: HashSet<&str> = HashSet::new();
        for ((wanted, owner), moved) in moves.iter().zip(&owners).zip(moved) {
            if let Err(error) = moved {
                if is_peers_fault(error.kind()) {
                    suspects.insert(wanted.endpoint);
                }
                failures.insert(*owner, error.with("endpoint", wanted.endpoint));
            }
        }
        // Files may take long; what came from memory is as good as it was before them.
        let moved_at = Instant::now();
        self.suspect(suspects.into_iter(), wave.deadline);
        let mut read_at: HashMap<usize, Instant> = HashMap::new();
        for position in files {
            if let Err(error) = self.read_file(&reads[position], wave) {
                failures.insert(position, error);
            }
            read_at.insert(position, Instant::now());
        }
        let now = Instant::now();
        let mut again = Vec::new();
        for (position, mut read) in reads.into_iter().enumerate() {
            let key = wave.keys[read.index];
            let replica = read.replicas.get(read.next).copied();
            read.next += 1;
            match failures.remove(&position) {
                Some(error) => {
                    self.metrics.replica_failures.inc();
                    read.error = Some(error);
                    let is_last = read.next >= read.replicas.len();
                    if is_last || wave.deadline.passed(now) {
                        let error = read.error.take();
                        results[read.index] =
                            Err(error.unwrap_or_else(gave_up).with("key", shown(key)));
                    } else {
                        again.push(read);
                    }
                }
                None if *read_at.get(&position).unwrap_or(&moved_at) < read.trusted_until => {
                    results[read.index] = Ok(read.bytes);
                }
                None => {
                    if let Some(replica) = replica {
                        let place = replica.place.clone();
                        let from = ReadFrom { generation: read.generation, place };
                        read_before.insert(read.index, from);
                    }
                    results[read.index] = Err(refused(Refusal::LEASE_EXPIRED, key));
                    lapsed.push(read.index);
                }
            }
        }
        again
    }

    /// A view of an object that lies in an own segment.
    pub(super) fn view(&self, located: &Located) -> Option<StoreBuffer> {
        let complete = |replica: &&Replica| replica.status == ReplicaStatus::Complete;
        let own =
            |replica: &Replica| memory_of(replica).and_then(|(ranges, _)| self.own.run(ranges));
        let run = located.replicas.iter().filter(complete).find_map(own)?;
        let bytes_max = self.own.bytes() / limits::STORE_KEPT_PART;
        let view =
            StoreBuffer::view(&self.held, &self.buffers, run, located.generation, bytes_max)?;
        self.metrics.views.inc();
        Some(view)
    }

    fn read_file(&self, read: &Read<'_>, wave: &Wave<'_>) -> Result<()> {
        let place = read.replicas.get(read.next).map(|replica| &replica.place);
        let Some(Place::Disk { path, size }) = place.filter(|p| size_of(p) == read.bytes) else {
            let text = "the replicas of the object differ in size";
            return Err(Error::new(ErrorKind::Protocol, text));
        };
        let key = wave.keys[read.index];
        let outcome = self.files.read(key, path, *size, &read.target, wave.deadline);
        match &outcome {
            Ok(()) => self.metrics.file_reads.inc(),
            Err(error) if error.kind() == ErrorKind::Timeout => self.metrics.file_timeouts.inc(),
            Err(_) => self.metrics.file_reads_failed.inc(),
        };
        outcome
    }

    fn count_gets(&self, results: &[Result<u64>]) {
        let good = || results.iter().flatten();
        self.metrics.gets.inc_by(good().count() as u64);
        self.metrics.bytes_got.inc_by(good().sum());
        for result in results {
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ObjectNotFound => {
                    self.metrics.gets_missed.inc();
                }
                Err(_) => {
                    self.metrics.gets_failed.inc();
                }
            }
        }
    }
}

/// Keys that are looked up together.
struct Wave<'a> {
    keys: &'a [&'a [u8]],
    chunk: &'a [usize],
    deadline: Deadline,
}

/// True where the bytes that were read are those of the object as it is now: the same put, not
/// moved. Its memory was not given to anybody else in between, for then it would be another put.
fn is_still_there(before: &ReadFrom, now: &Located) -> bool {
    before.generation != 0
        && before.generation == now.generation
        && now.replicas.iter().any(|replica| replica.place == before.place)
}

fn size_of(place: &Place) -> u64 {
    match place {
        Place::Memory(ranges) => ranges.iter().fold(0, |sum, r| sum.saturating_add(r.size)),
        Place::Disk { size, .. } => *size,
    }
}

fn is_possible(size: u64) -> bool {
    size > 0 && size <= limits::REQUEST_BYTES_MAX
}

fn gave_up() -> Error {
    Error::new(ErrorKind::Internal, "a read failed without a reason")
}
