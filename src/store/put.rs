//! Putting objects: room from the master, all bytes at once, then one word about how it went.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::object::PutOptions;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Place, Replica, ReplicaKind};
use crate::pool::segment::HeldObject;
use crate::rpc::message::Granted;
use crate::time::Deadline;

use super::calls::{parts, Put};
use super::client::{check_count, Shared, Store};
use super::failure::{grant_is_too_old, refused, shown};
use super::files::Word;
use super::mover::{Direction, Move};
use super::plan::{check_object, item_bytes, memory_of, pair, put_item, slices, total, Object};

/// An object of a batch that passed the checks.
struct Wanted<'a> {
    /// Its place in the batch.
    index: usize,
    object: Object<'a>,
    /// Empty where it is to stand alone.
    group: &'a str,
}

/// How often a put whose peer failed is tried again with other room.
const TRIES: usize = 2;

impl Store {
    /// As [`Store::put_batch`], each object into a group: `groups` is empty, or has a name for
    /// each object, which is empty where that is to stand alone. Masters of ours lease and evict
    /// the objects of a group together; others are not told of groups.
    pub fn put_batch_in_groups(
        &self,
        objects: &[Object<'_>],
        groups: &[&str],
        options: &PutOptions,
        timeout: Option<Duration>,
    ) -> Result<Vec<Result<()>>> {
        let (shared, _inside) = self.enter()?;
        check_count(objects.len())?;
        check_groups(groups, objects.len())?;
        Ok(shared.put_objects(objects, groups, options, shared.deadline(timeout)))
    }
}

fn check_groups(groups: &[&str], objects: usize) -> Result<()> {
    let text = if !groups.is_empty() && groups.len() != objects {
        "not one group for each object"
    } else if groups.iter().any(|group| group.len() > limits::KEY_BYTES_MAX) {
        "the name of a group is too long"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidArgument, text)
        .with("groups", groups.len())
        .with("objects", objects))
}

impl Shared {
    /// Puts a batch; one result for each object, in their order. `groups` is empty, or as long.
    pub(super) fn put_objects<'a>(
        &self,
        objects: &[Object<'a>],
        groups: &[&'a str],
        options: &PutOptions,
        deadline: Deadline,
    ) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = Vec::with_capacity(objects.len());
        let mut wanted = Vec::with_capacity(objects.len());
        for (index, object) in objects.iter().enumerate() {
            let checked = match options.replica_num {
                0 => Err(Error::new(ErrorKind::InvalidArgument, "no replica is asked for")),
                _ => check_object(object),
            };
            if checked.is_ok() {
                let group = groups.get(index).copied().unwrap_or_default();
                wanted.push(Wanted { index, object: *object, group });
            }
            results.push(checked);
        }
        let bytes = |wanted: &Wanted<'_>| item_bytes(&wanted.object) + wanted.group.len();
        for part in parts(&wanted, bytes) {
            self.put_part(part, options, deadline, &mut results);
        }
        if self.calls.is_native() {
            tell_repeated(&wanted, &mut results);
        } else {
            self.tell_existing(&wanted, deadline, &mut results);
        }
        self.count_puts(objects, options, &results);
        results
    }

    /// One call's worth of objects, with a second try for those whose peer failed.
    fn put_part(
        &self,
        part: &[Wanted<'_>],
        options: &PutOptions,
        deadline: Deadline,
        results: &mut [Result<()>],
    ) {
        let mut open: Vec<&Wanted<'_>> = part.iter().collect();
        for attempt in 1..=TRIES {
            let failed = self.put_once(&open, options, deadline, results);
            // Only a native master keeps the same peer from being chosen again.
            if failed.is_empty() || attempt == TRIES || !self.calls.is_native() {
                return;
            }
            open = failed;
        }
    }

    /// Returns the objects that failed because a peer did.
    fn put_once<'w, 'a>(
        &self,
        wanted: &[&'w Wanted<'a>],
        options: &PutOptions,
        deadline: Deadline,
        results: &mut [Result<()>],
    ) -> Vec<&'w Wanted<'a>> {
        let items = wanted.iter().map(|wanted| put_item(&wanted.object, wanted.group)).collect();
        let (asked, mounts) = (Instant::now(), self.own.mounts());
        let granted = match self.calls.put_start(items, options, deadline) {
            Ok(granted) if granted.len() == wanted.len() => granted,
            Ok(_) => {
                self.open_puts.lock().doubt();
                let error = Error::new(ErrorKind::Protocol, "an answer for other objects");
                return all_failed(wanted, &error, results);
            }
            Err(error) => {
                // The master may have granted what nobody here knows of.
                self.open_puts.lock().doubt();
                return all_failed(wanted, &error, results);
            }
        };
        let _going = self.going(granted.iter().flatten().map(|granted| granted.generation));
        let mut moves: Vec<Move<'_>> = Vec::new();
        let mut owners: Vec<usize> = Vec::new();
        for (position, (wanted, granted)) in wanted.iter().zip(&granted).enumerate() {
            if let (Ok(granted), true) = (granted, self.files.is_here()) {
                self.files.begin_put(wanted.object.key, granted.generation);
            }
            results[wanted.index] = plan_put(wanted, granted, &mut moves);
            owners.resize(moves.len(), position);
        }
        let moved = match asked.elapsed() < limits::STORE_GRANT_USE_MAX {
            true => self.run_moves(&moves, mounts, deadline),
            // Only our masters give up writers that are silent.
            false if !self.calls.is_native() => self.run_moves(&moves, mounts, deadline),
            false => vec![Err(grant_is_too_old()); moves.len()],
        };
        let mut suspects: HashSet<&str> = HashSet::new();
        let mut peer_failed: HashSet<usize> = HashSet::new();
        for ((wanted_move, owner), moved) in moves.iter().zip(&owners).zip(moved) {
            let Err(error) = moved else { continue };
            if is_peers_fault(error.kind()) {
                // Who has renewed its memory is well.
                if error.kind() != ErrorKind::RemoteRange {
                    suspects.insert(wanted_move.endpoint);
                }
                peer_failed.insert(*owner);
            } else if error.kind() == ErrorKind::LeaseExpired {
                peer_failed.insert(*owner);
            }
            let key = shown(wanted[*owner].object.key);
            results[wanted[*owner].index] =
                Err(error.with("key", key).with("endpoint", wanted_move.endpoint));
        }
        self.suspect(suspects.into_iter(), deadline);
        self.finish(wanted, &granted, deadline, results);
        self.queue_files(wanted, &granted, deadline, results);
        let failed = |(position, wanted): (usize, &&'w Wanted<'a>)| {
            (peer_failed.contains(&position) && results[wanted.index].is_err()).then_some(*wanted)
        };
        wanted.iter().enumerate().filter_map(failed).collect()
    }

    /// Hands the values of good puts to the writers of files. What will not be written is taken
    /// back, else its copy would stay unfinished.
    fn queue_files(
        &self,
        wanted: &[&Wanted<'_>],
        granted: &[Outcome<Granted>],
        deadline: Deadline,
        results: &[Result<()>],
    ) {
        let mut unwritten: Vec<Put> = Vec::new();
        for (wanted, granted) in wanted.iter().zip(granted) {
            let Ok(granted) = granted else { continue };
            let file = granted.replicas.iter().find_map(|replica| match &replica.place {
                Place::Disk { path, .. } => Some(path),
                Place::Memory(_) => None,
            });
            let Some(path) = file else { continue };
            let Object { key, ranges } = wanted.object;
            let is_queued = results[wanted.index].is_ok()
                && self.queue_file(key, path, granted.generation, ranges);
            if !is_queued {
                unwritten.push(Put { key: key.to_vec(), generation: granted.generation });
            }
        }
        if !unwritten.is_empty() {
            let deadline = deadline.max(Deadline::within(REVOKE_TIMEOUT));
            if let Err(error) = self.calls.revoke_files(&unwritten, deadline) {
                let is_numbered = |put: &Put| put.generation != 0;
                let words = unwritten.into_iter().filter(is_numbered);
                self.keep_words(words.map(|put| Word { put, path: None }), &error);
            }
        }
    }

    /// Tells the master which objects are complete and which will not be.
    fn finish(
        &self,
        wanted: &[&Wanted<'_>],
        granted: &[Outcome<Granted>],
        deadline: Deadline,
        results: &mut [Result<()>],
    ) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (position, wanted) in wanted.iter().enumerate() {
            match (&granted[position], &results[wanted.index]) {
                (Ok(_), Ok(())) => good.push(position),
                (Ok(_), Err(_)) => bad.push(position),
                (Err(_), _) => {}
            }
        }
        let puts_of = |positions: &[usize]| -> Vec<Put> {
            let put = |position: &usize| Put {
                key: wanted[*position].object.key.to_vec(),
                generation: granted[*position].as_ref().map_or(0, |granted| granted.generation),
            };
            positions.iter().map(put).collect()
        };
        if !good.is_empty() {
            match self.calls.put_end(&puts_of(&good), deadline) {
                Ok(ended) => {
                    for (position, ended) in good.iter().zip(ended) {
                        let wanted = wanted[*position];
                        match ended {
                            Ok(()) => self.remember(wanted, &granted[*position]),
                            Err(refusal) => {
                                results[wanted.index] = Err(refused(refusal, wanted.object.key));
                            }
                        }
                    }
                }
                Err(error) => {
                    self.open_puts.lock().doubt();
                    for position in &good {
                        results[wanted[*position].index] = Err(error.clone());
                    }
                }
            }
        }
        if !bad.is_empty() {
            // The bytes did not arrive; whether the room comes back now or later, they are not
            // shown to anybody. The deadline may have passed, so this has a time of its own.
            let deadline = deadline.max(Deadline::within(REVOKE_TIMEOUT));
            let revoked = self.calls.put_revoke(&puts_of(&bad), ReplicaKind::Memory, deadline);
            if let Err(error) = revoked {
                // It is said again, together with everything else that was not heard.
                self.open_puts.lock().doubt();
                log::debug!("room of {} failed puts was not given back: {error}", bad.len());
            }
        }
    }

    /// Notes what the own segments hold now; the master's word on it may come late.
    fn remember(&self, wanted: &Wanted<'_>, granted: &Outcome<Granted>) {
        let Ok(granted) = granted else { return };
        if granted.generation == 0 {
            return;
        }
        let own = |replica: &Replica| match &replica.place {
            Place::Memory(ranges) => {
                ranges.first().and_then(|r| self.own.segment_of(r).map(|id| (id, r.address)))
            }
            Place::Disk { .. } => None,
        };
        for (segment, address) in granted.replicas.iter().filter_map(own) {
            self.held.lock().add(HeldObject {
                key: wanted.object.key.to_vec(),
                generation: granted.generation,
                segment,
                address,
                slices: slices(wanted.object.ranges),
                soft_pin: false,
                group: wanted.group.as_bytes().to_vec(),
            });
        }
    }

    /// Upstream says "exists" of an object that is still being written, or never will be. A caller
    /// may take "exists" for success, so the two are told apart.
    fn tell_existing(&self, wanted: &[Wanted<'_>], deadline: Deadline, results: &mut [Result<()>]) {
        let doubtful: Vec<&Wanted<'_>> = wanted
            .iter()
            .filter(|wanted| {
                let result = &results[wanted.index];
                result.as_ref().is_err_and(|e| e.kind() == ErrorKind::ObjectExists)
            })
            .collect();
        if doubtful.is_empty() {
            return;
        }
        let keys: Vec<&[u8]> = doubtful.iter().map(|wanted| wanted.object.key).collect();
        match self.calls.exists(&keys, deadline) {
            Ok(answers) => {
                for (wanted, answer) in doubtful.iter().zip(answers) {
                    if answer != Ok(true) {
                        let refusal = Refusal::REPLICA_IS_NOT_READY;
                        results[wanted.index] = Err(refused(refusal, wanted.object.key));
                    }
                }
            }
            Err(error) => {
                for wanted in doubtful {
                    results[wanted.index] = Err(error.clone());
                }
            }
        }
    }

    fn count_puts(&self, objects: &[Object<'_>], options: &PutOptions, results: &[Result<()>]) {
        let metrics = &self.metrics;
        let good = || objects.iter().zip(results).filter(|(_, result)| result.is_ok());
        let bytes = |(object, _): (&Object<'_>, _)| total(object.ranges);
        let bytes = good().map(bytes).fold(0, u64::saturating_add);
        metrics.puts.inc_by(good().count() as u64);
        metrics.bytes_put.inc_by(bytes.saturating_mul(options.replica_num.max(1)));
        for result in results {
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ObjectExists => {
                    metrics.puts_existing.inc();
                }
                Err(_) => {
                    metrics.puts_failed.inc();
                }
            }
        }
    }
}

/// Appends the moves of one object to all its replicas in memory.
fn plan_put<'g>(
    wanted: &Wanted<'_>,
    granted: &'g Outcome<Granted>,
    moves: &mut Vec<Move<'g>>,
) -> Result<()> {
    let key = wanted.object.key;
    let granted = granted.as_ref().map_err(|refusal| refused(*refusal, key))?;
    let bytes = total(wanted.object.ranges);
    let mut replicas = 0;
    for replica in &granted.replicas {
        if let Place::Disk { .. } = replica.place {
            continue;
        }
        match memory_of(replica) {
            Some((ranges, size)) if size == bytes => {
                pair(Direction::Put, wanted.object.ranges, ranges, moves);
                replicas += 1;
            }
            _ => {
                let text = "the master gave room of another size";
                return Err(Error::new(ErrorKind::Protocol, text).with("key", shown(key)));
            }
        }
    }
    if replicas == 0 {
        return Err(refused(Refusal::NO_AVAILABLE_HANDLE, key));
    }
    Ok(())
}

/// A key that comes twice in a batch is put once. The second time it is not complete yet when the
/// master is asked, but it is when the batch is over.
fn tell_repeated(wanted: &[Wanted<'_>], results: &mut [Result<()>]) {
    let is_not_ready =
        |result: &Result<()>| result.as_ref().is_err_and(|e| e.kind() == ErrorKind::ObjectNotReady);
    if !wanted.iter().any(|wanted| is_not_ready(&results[wanted.index])) {
        return;
    }
    let done = wanted.iter().filter(|wanted| results[wanted.index].is_ok());
    let done: HashSet<&[u8]> = done.map(|wanted| wanted.object.key).collect();
    for wanted in wanted {
        if is_not_ready(&results[wanted.index]) && done.contains(wanted.object.key) {
            let refusal = Refusal::OBJECT_ALREADY_EXISTS;
            results[wanted.index] = Err(refused(refusal, wanted.object.key));
        }
    }
}

/// Time for giving room back after a put whose own time is over.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

fn all_failed<'w, 'a>(
    wanted: &[&'w Wanted<'a>],
    error: &Error,
    results: &mut [Result<()>],
) -> Vec<&'w Wanted<'a>> {
    for wanted in wanted {
        results[wanted.index] = Err(error.clone());
    }
    Vec::new()
}

/// True for failures that say something about the peer, not about this process or the caller.
pub(super) fn is_peers_fault(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Timeout
            | ErrorKind::RemoteRange
            | ErrorKind::Unreachable
            | ErrorKind::ConnectionLost
            | ErrorKind::PeerDown
            | ErrorKind::Protocol
            | ErrorKind::Rejected
            | ErrorKind::SegmentNotFound
            | ErrorKind::MetadataUnavailable
    )
}
