//! The mover over an engine: segments opened once, memory registered for as long as it is needed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::engine::{BufferSpec, Engine, Operation, Request, SegmentId, TaskState};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::Access;
use crate::time::Deadline;

use super::buffers::{copy, zeroed};
use super::failure::grant_is_too_old;
use super::mover::{Direction, Move, Mover};
use super::plan::Range;

/// Moves bytes through an engine, its own or one that it shares with the host.
pub(super) struct EngineMover {
    engine: Engine,
    is_shared: bool,
    segments: Mutex<HashMap<String, SegmentId>>,
    /// Ranges that stay registered until they are taken back: first address and length.
    lasting: RwLock<BTreeMap<usize, usize>>,
}

/// Memory that is registered for the length of one call.
struct Registered<'a> {
    engine: &'a Engine,
    addresses: Vec<usize>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        for address in &self.addresses {
            // It fails only when the engine is gone, and the registration with it.
            let _ = self.engine.unregister(&[*address]);
        }
    }
}

/// Memory that stands in for a range that cannot be registered, because it overlaps another one.
struct StandIn {
    index: usize,
    bytes: Vec<u8>,
}

impl StandIn {
    /// Puts what was read where it was wanted.
    fn give(&self, wanted: &Move<'_>) -> Result<()> {
        if wanted.direction == Direction::Put {
            return Ok(());
        }
        crate::memory::check_mapped(wanted.local, wanted.length)?;
        copy(Range::of(&self.bytes), Range { address: wanted.local, length: wanted.length })
    }
}

fn request(wanted: &Move<'_>, local: usize, segment: SegmentId) -> Request {
    Request {
        operation: match wanted.direction {
            Direction::Put => Operation::Write,
            Direction::Get => Operation::Read,
        },
        local,
        segment,
        remote_address: wanted.remote,
        length: wanted.length as u64,
    }
}

impl EngineMover {
    pub(super) fn new(engine: Engine, is_shared: bool) -> EngineMover {
        EngineMover { engine, is_shared, segments: Mutex::default(), lasting: RwLock::default() }
    }

    fn segment(&self, endpoint: &str, deadline: Deadline) -> Result<SegmentId> {
        if let Some(id) = self.segments.lock().get(endpoint) {
            return Ok(*id);
        }
        let id = self.engine.open_segment_until(endpoint, deadline)?;
        let raced = self.segments.lock().insert(endpoint.to_owned(), id);
        if let Some(before) = raced {
            // Another thread opened it as well; one opening is enough.
            let _ = self.engine.close_segment(before);
        }
        Ok(id)
    }

    /// A peer that cannot be reached may be gone for good; one that refuses a range has renewed it.
    fn forget(&self, endpoint: &str) {
        let id = self.segments.lock().remove(endpoint);
        if let Some(id) = id {
            let _ = self.engine.close_segment(id);
        }
    }

    /// True if the range stays registered for the length of a call. What another call has
    /// registered for itself does not.
    fn is_lasting(&self, address: usize, length: usize) -> bool {
        let lasting = self.lasting.read();
        let before = lasting.range(..=address).next_back();
        before.is_some_and(|(start, size)| {
            address.saturating_add(length) <= start.saturating_add(*size)
        })
    }

    /// Registers what is not registered yet. A range that overlaps a registered one is used as it
    /// is where it lies inside, else it gets memory that stands in for it.
    fn prepare<'a>(
        &'a self,
        moves: &[Move<'_>],
        results: &mut [Result<()>],
    ) -> (Registered<'a>, Vec<StandIn>) {
        let mut registered = Registered { engine: &self.engine, addresses: Vec::new() };
        let mut stand_ins = Vec::new();
        let mut missing: Vec<(usize, usize, usize)> = moves
            .iter()
            .enumerate()
            .filter(|(index, m)| results[*index].is_ok() && !self.is_lasting(m.local, m.length))
            .map(|(index, m)| (m.local, m.local.saturating_add(m.length), index))
            .collect();
        missing.sort_unstable();
        let mut group: Vec<(usize, usize, usize)> = Vec::new();
        let mut close = |group: &mut Vec<(usize, usize, usize)>| {
            let Some((start, ..)) = group.first().copied() else { return };
            let end = group.iter().map(|(_, end, _)| *end).max().unwrap_or(start);
            match self.engine.register(&[spec(start, end - start, Access::LOCAL)]) {
                Ok(()) => registered.addresses.push(start),
                Err(error) if error.kind() == ErrorKind::Overlap => {
                    for (start, end, index) in group.iter() {
                        if self.engine.is_covered(*start, end - start) {
                            continue;
                        }
                        let made = self.stand_in(&moves[*index], *index);
                        match made {
                            Ok(made) => {
                                registered.addresses.push(Range::of(&made.bytes).address);
                                stand_ins.push(made);
                            }
                            Err(error) => results[*index] = Err(error),
                        }
                    }
                }
                Err(error) => {
                    for (_, _, index) in group.iter() {
                        results[*index] = Err(error.clone());
                    }
                }
            }
            group.clear();
        };
        for range in missing {
            // Ranges that touch are one registration.
            let touches = group.iter().any(|(_, end, _)| range.0 <= *end);
            if !touches {
                close(&mut group);
            }
            group.push(range);
        }
        close(&mut group);
        (registered, stand_ins)
    }

    fn stand_in(&self, wanted: &Move<'_>, index: usize) -> Result<StandIn> {
        let bytes = zeroed(wanted.length)?;
        let range = Range::of(&bytes);
        if wanted.direction == Direction::Put {
            crate::memory::check_mapped(wanted.local, wanted.length)?;
            copy(Range { address: wanted.local, length: wanted.length }, range)?;
        }
        self.engine.register(&[spec(range.address, range.length, Access::LOCAL)])?;
        Ok(StandIn { index, bytes })
    }

    /// Makes moves again whose memory was registered by another call that ended before this one.
    fn repeat_lost(
        &self,
        moves: &[Move<'_>],
        results: &mut [Result<()>],
        deadline: Deadline,
        puts_until: Instant,
    ) {
        for (index, wanted) in moves.iter().enumerate() {
            let is_lost = results[index].as_ref().is_err_and(|error| {
                matches!(error.kind(), ErrorKind::Unregistered | ErrorKind::NotRegistered)
            });
            // A late put would go by a key that its owner may have meant for others.
            let is_late = wanted.direction == Direction::Put && Instant::now() >= puts_until;
            if is_lost && !is_late && !self.is_lasting(wanted.local, wanted.length) {
                results[index] = self.move_by_stand_in(wanted, index, deadline);
            }
        }
    }

    /// One request. A put goes by the key that is known now, or not at all.
    fn transfer(&self, request: Request, deadline: Deadline) -> Result<()> {
        let left = Some(deadline.remaining(Instant::now()));
        match request.operation {
            Operation::Write => self.engine.transfer_pinned(&[request], left),
            Operation::Read => self.engine.transfer(&[request], left),
        }
    }

    fn move_by_stand_in(&self, wanted: &Move<'_>, index: usize, deadline: Deadline) -> Result<()> {
        let segment = self.segment(wanted.endpoint, deadline)?;
        let stand_in = self.stand_in(wanted, index)?;
        let address = Range::of(&stand_in.bytes).address;
        let _registered = Registered { engine: &self.engine, addresses: vec![address] };
        let request = request(wanted, address, segment);
        self.transfer(request, deadline)?;
        stand_in.give(wanted)
    }

    /// Makes all requests and returns how each ended.
    fn run(
        &self,
        requests: &[Request],
        deadline: Deadline,
        meanwhile: &mut dyn FnMut(),
    ) -> Vec<Result<()>> {
        let left = |deadline: Deadline| deadline.remaining(Instant::now());
        if let [one] = requests {
            let outcome = self.transfer(*one, deadline);
            meanwhile();
            return vec![outcome];
        }
        let batch = self.engine.create_batch(requests.len()).and_then(|batch| {
            if requests.iter().any(|one| one.operation == Operation::Write) {
                batch.submit_pinned(requests, Some(left(deadline)))?;
            } else {
                batch.submit_with(requests, Some(left(deadline)), None)?;
            }
            Ok(batch)
        });
        let batch = match batch {
            Ok(batch) => batch,
            Err(_) => {
                // One of them is wrong, and none was started: each for itself tells which.
                let outcome = requests.iter().map(|one| self.transfer(*one, deadline)).collect();
                meanwhile();
                return outcome;
            }
        };
        meanwhile();
        let waited = batch.wait(left(deadline).saturating_add(GRACE));
        if waited.is_err() {
            // Afterwards the engine does not touch the memory any more.
            batch.cancel();
        }
        (0..requests.len())
            .map(|index| {
                let task = batch.task(index)?;
                match (task.state, task.error) {
                    (TaskState::Completed, _) => Ok(()),
                    (_, Some(error)) if error.kind() != ErrorKind::Cancelled => Err(error),
                    _ => Err(Error::new(ErrorKind::Timeout, "the transfer took too long")),
                }
            })
            .collect()
    }
}

/// The engine ends requests at their deadline itself; this is for the way back.
const GRACE: Duration = Duration::from_millis(500);

fn spec(address: usize, length: usize, access: Access) -> BufferSpec {
    BufferSpec { address, length, location: "*".into(), access }
}

impl Mover for EngineMover {
    fn endpoint(&self) -> &str {
        self.engine.local_name()
    }

    fn register(&self, address: usize, length: usize, access: Access) -> Result<()> {
        self.engine.register(&[spec(address, length, access)])?;
        self.lasting.write().insert(address, length);
        Ok(())
    }

    fn covers(&self, address: usize, length: usize) -> bool {
        self.engine.is_covered(address, length)
    }

    fn renew(&self, address: usize) -> Result<()> {
        self.engine.renew(address)
    }

    fn unregister(&self, address: usize) -> Result<()> {
        self.lasting.write().remove(&address);
        self.engine.unregister(&[address])
    }

    fn move_all(
        &self,
        moves: &[Move<'_>],
        deadline: Deadline,
        meanwhile: &mut dyn FnMut(),
    ) -> Vec<Result<()>> {
        let puts_until = Instant::now() + limits::STORE_GRANT_USE_MAX;
        let mut results: Vec<Result<()>> = vec![Ok(()); moves.len()];
        let mut opened: HashMap<&str, Result<SegmentId>> = HashMap::new();
        for (wanted, result) in moves.iter().zip(&mut results) {
            let id = opened
                .entry(wanted.endpoint)
                .or_insert_with(|| self.segment(wanted.endpoint, deadline));
            if let Err(error) = id {
                *result = Err(error.clone());
            }
        }
        let (registered, stand_ins) = self.prepare(moves, &mut results);
        if Instant::now() >= puts_until {
            // A peer that was only now found may have renewed its memory, and given it to others.
            for (wanted, result) in moves.iter().zip(&mut results) {
                if wanted.direction == Direction::Put && result.is_ok() {
                    *result = Err(grant_is_too_old());
                }
            }
        }
        let mut order: Vec<(SegmentId, usize)> = Vec::with_capacity(moves.len());
        for (index, wanted) in moves.iter().enumerate() {
            if let (Ok(()), Some(Ok(id))) = (&results[index], opened.get(wanted.endpoint)) {
                order.push((*id, index));
            }
        }
        order.sort_by_key(|(id, _)| id.0);
        let requests: Vec<Request> = order
            .iter()
            .map(|(segment, index)| {
                let wanted = &moves[*index];
                let stand_in = stand_ins.iter().find(|s| s.index == *index);
                let local = stand_in.map_or(wanted.local, |s| Range::of(&s.bytes).address);
                request(wanted, local, *segment)
            })
            .collect();
        if requests.is_empty() {
            meanwhile();
        } else {
            let outcomes = self.run(&requests, deadline, meanwhile);
            for ((_, index), outcome) in order.iter().zip(outcomes) {
                results[*index] = outcome;
            }
        }
        for stand_in in &stand_ins {
            if results[stand_in.index].is_ok() {
                results[stand_in.index] = stand_in.give(&moves[stand_in.index]);
            }
        }
        drop(registered);
        self.repeat_lost(moves, &mut results, deadline, puts_until);
        let mut gone: Vec<&str> = moves
            .iter()
            .zip(&results)
            .filter(|(wanted, result)| {
                let direction = wanted.direction;
                result.as_ref().is_err_and(|e| is_to_be_forgotten(e.kind(), direction))
            })
            .map(|(wanted, _)| wanted.endpoint)
            .collect();
        gone.sort_unstable();
        gone.dedup();
        for endpoint in gone {
            self.forget(endpoint);
        }
        results
    }

    fn dump(&self) -> serde_json::Value {
        self.engine.dump()
    }

    fn close(&self) {
        let segments = std::mem::take(&mut *self.segments.lock());
        if self.is_shared {
            for id in segments.into_values() {
                let _ = self.engine.close_segment(id);
            }
        } else {
            self.engine.shutdown();
        }
    }
}

fn is_to_be_forgotten(kind: ErrorKind, direction: Direction) -> bool {
    match kind {
        ErrorKind::Unreachable | ErrorKind::PeerDown => true,
        // The next put has to know the new key before it asks for room.
        ErrorKind::RemoteRange => direction == Direction::Put,
        _ => false,
    }
}

/// For the two that create one.
pub(super) fn engine_mover(engine: Engine, is_shared: bool) -> Arc<dyn Mover> {
    Arc::new(EngineMover::new(engine, is_shared))
}
