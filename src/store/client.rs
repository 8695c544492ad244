//! The store client as its users see it: open, call from any thread, close.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::Access;
use crate::pool::object::{Key, PutOptions};
use crate::pool::replica::{Located, Replica};
use crate::time::Deadline;

use super::attend::Attendant;
use super::buffers::{zeroed, LocalBuffers, StoreBuffer};
use super::calls::Calls;
use super::failure::{plain, refused};
use super::files::FileTier;
use super::get::View;
use super::held::Held;
use super::metrics::StoreMetrics;
use super::mover::{Move, Mover};
use super::open_puts::OpenPuts;
use super::own::OwnMemory;
use super::plan::{check_key, Object, Range, Ranges};

/// A client of the store. Clones are handles to the same client; it ends with the last one, or
/// earlier by [`Store::close`]. Every method may be called from any thread.
#[derive(Clone)]
pub struct Store(pub(super) Arc<Owner>);

/// Ends the client when the last handle goes.
pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) attendant: Mutex<Option<Attendant>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        close(self);
    }
}

/// The state behind all handles and the attending thread.
pub(super) struct Shared {
    pub(super) hostname: String,
    pub(super) timeout: Duration,
    pub(super) calls: Calls,
    pub(super) mover: Arc<dyn Mover>,
    pub(super) own: OwnMemory,
    pub(super) buffers: Arc<LocalBuffers>,
    pub(super) files: FileTier,
    pub(super) held: Arc<Mutex<Held>>,
    pub(super) open_puts: Mutex<OpenPuts>,
    /// The master takes note of ranges that are still read.
    pub(super) can_keep: AtomicBool,
    pub(super) metrics: StoreMetrics,
    /// Held while segments are mounted or taken away, so that neither undoes the other.
    pub(super) mounting: Mutex<()>,
    pub(super) gate: Gate,
    /// When a sign of life was answered last, and what went wrong since.
    pub(super) pulse: Mutex<Pulse>,
    /// Peers are to be kept from writing by old grants before the master is spoken to again.
    pub(super) is_fence_due: AtomicBool,
    /// Ranges that the caller registered, by address; true where the engine knew them already.
    pub(super) registered: Mutex<std::collections::BTreeMap<usize, (usize, bool)>>,
    /// Keeps the port of the name from being chosen by another client of this host.
    pub(super) _port: Option<std::net::TcpListener>,
}

#[derive(Default)]
pub(super) struct Pulse {
    pub(super) answered: Option<Instant>,
    pub(super) failures: u32,
    pub(super) last_error: Option<Error>,
}

/// Lets calls in until the client is closed, and knows how many are inside.
#[derive(Default)]
pub(super) struct Gate {
    is_closed: AtomicBool,
    inside: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

pub(super) struct Inside<'a>(&'a Gate);

impl Gate {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn enter(&self) -> Result<Inside<'_>> {
        self.inside.fetch_add(1, Ordering::AcqRel);
        let inside = Inside(self);
        match self.is_closed() {
            true => Err(Error::new(ErrorKind::Shutdown, "the store client is closed")),
            false => Ok(inside),
        }
    }

    /// True for the first caller.
    fn close(&self) -> bool {
        let _lock = self.lock.lock();
        let is_first = !self.is_closed.swap(true, Ordering::AcqRel);
        self.left.notify_all();
        is_first
    }

    /// Sleeps at most `time`, less if the client is closed.
    pub(super) fn sleep(&self, time: Duration) {
        let mut lock = self.lock.lock();
        if !self.is_closed() {
            self.left.wait_for(&mut lock, time);
        }
    }

    /// Waits for the calls inside; false when `time` has passed.
    fn wait_empty(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut lock = self.lock.lock();
        while self.inside.load(Ordering::Acquire) > 0 {
            if self.left.wait_until(&mut lock, end).timed_out() {
                return self.inside.load(Ordering::Acquire) == 0;
            }
        }
        true
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.is_closed() {
            let _lock = self.0.lock.lock();
            self.0.left.notify_all();
        }
    }
}

/// How a client is.
#[derive(Clone, Debug)]
pub struct Health {
    /// The last sign of life was answered.
    pub master_is_reachable: bool,
    /// Since the last answer; `None` before the first.
    pub since_answer: Option<Duration>,
    /// Signs of life in a row that were not answered.
    pub failures: u32,
    /// Why the last one was not.
    pub last_error: Option<Error>,
    /// The master speaks our extensions.
    pub is_native: bool,
    /// Objects that the own segments are known to hold.
    pub objects_held: usize,
}

impl Store {
    /// Name of this client, by which others prefer its segments: `host:port`.
    pub fn hostname(&self) -> &str {
        &self.0.shared.hostname
    }

    /// Name under which peers find the memory of this client.
    pub fn endpoint(&self) -> &str {
        &self.0.shared.own.endpoint
    }

    /// Puts one object. An object that exists is not changed: the error is `ObjectExists`, or
    /// `ObjectNotReady` while it is not complete.
    pub fn put(&self, key: &[u8], value: &[u8], options: &PutOptions) -> Result<()> {
        let ranges = [Range::of(value)];
        first(self.put_batch(&[Object { key, ranges: &ranges }], options, None)?)
    }

    /// Puts many objects: one question to the master, all transfers together, one report. The
    /// result has one entry for each object. The ranges must stay mapped and unchanged until the
    /// call returns.
    pub fn put_batch(
        &self,
        objects: &[Object<'_>],
        options: &PutOptions,
        timeout: Option<Duration>,
    ) -> Result<Vec<Result<()>>> {
        self.put_batch_in_groups(objects, &[], options, timeout)
    }

    /// Reads one object.
    pub fn get(&self, key: &[u8]) -> Result<Vec<u8>> {
        let (shared, _inside) = self.enter()?;
        let mut bytes = Vec::new();
        let results = shared.get_objects(
            &[key],
            &mut |_, size| {
                bytes = zeroed(usize::try_from(size).unwrap_or(usize::MAX))?;
                Ok(Ranges::from_iter([Range::of_mut(&mut bytes)]))
            },
            None,
            shared.deadline(None),
        );
        first(results)?;
        Ok(bytes)
    }

    /// Reads objects into memory of the caller; each result is the object's size. The ranges of
    /// an object may be longer than it. After an error they hold nothing of value.
    pub fn get_batch(
        &self,
        objects: &[Object<'_>],
        timeout: Option<Duration>,
    ) -> Result<Vec<Result<u64>>> {
        let (shared, _inside) = self.enter()?;
        check_count(objects.len())?;
        let keys: Vec<&[u8]> = objects.iter().map(|object| object.key).collect();
        let mut target = |index: usize, _: u64| {
            let object = objects.get(index);
            Ok(object.map(|object| Ranges::from_slice(object.ranges)).unwrap_or_default())
        };
        Ok(shared.get_objects(&keys, &mut target, None, shared.deadline(timeout)))
    }

    /// Objects as memory of the store, which is given back when it is dropped: a view where the
    /// object lies in an own segment and a master of ours leaves it there as long as it is viewed,
    /// else a piece of the local buffer that the object was read into.
    pub fn get_buffers(
        &self,
        keys: &[&[u8]],
        timeout: Option<Duration>,
    ) -> Result<Vec<Result<StoreBuffer>>> {
        let (shared, _inside) = self.enter()?;
        check_count(keys.len())?;
        let mut lent: Vec<Option<StoreBuffer>> = keys.iter().map(|_| None).collect();
        let mut views: Vec<Option<StoreBuffer>> = keys.iter().map(|_| None).collect();
        let mut view = |index: usize, located: &Located| {
            let view = shared.view(located)?;
            let size = view.length() as u64;
            *views.get_mut(index)? = Some(view);
            Some(size)
        };
        let view: Option<&mut View<'_>> = match shared.can_keep.load(Ordering::Relaxed) {
            true => Some(&mut view),
            false => None,
        };
        let mut target = |index: usize, size: u64| {
            let Some(place) = lent.get_mut(index) else { return Ok(Ranges::new()) };
            *place = None;
            let buffer = shared.buffers.lend(usize::try_from(size).unwrap_or(usize::MAX))?;
            let range = buffer.range();
            *place = Some(buffer);
            Ok(Ranges::from_iter([range]))
        };
        let results = shared.get_objects(keys, &mut target, view, shared.deadline(timeout));
        let missing = || Error::new(ErrorKind::Internal, "an object without its buffer");
        let buffers = views.into_iter().zip(lent).map(|(view, lent)| view.or(lent));
        let pairs = results.into_iter().zip(buffers);
        Ok(pairs.map(|(result, buffer)| result.and_then(|_| buffer.ok_or_else(missing))).collect())
    }

    /// Sizes of objects. Takes a lease on each.
    pub fn sizes(&self, keys: &[&[u8]], timeout: Option<Duration>) -> Result<Vec<Result<u64>>> {
        let found = self.locate(keys, timeout)?;
        let size = |replicas: Vec<Replica>| {
            let first = replicas.into_iter().next();
            first.map(|replica| size_of(&replica)).ok_or_else(|| {
                Error::new(ErrorKind::ObjectNotReady, "the object has no complete replica")
            })
        };
        Ok(found.into_iter().map(|found| found.and_then(size)).collect())
    }

    /// Where the complete replicas of objects are. Takes a lease on each.
    pub fn locate(
        &self,
        keys: &[&[u8]],
        timeout: Option<Duration>,
    ) -> Result<Vec<Result<Vec<Replica>>>> {
        let (shared, _inside) = self.enter()?;
        let deadline = shared.deadline(timeout);
        each(keys, |keys| {
            let answers = shared.calls.lookup(keys, deadline)?;
            let pairs = keys.iter().zip(answers);
            Ok(pairs
                .map(|(key, answer)| {
                    answer.map(|located| located.replicas).map_err(|why| refused(why, key))
                })
                .collect())
        })
    }

    /// Which objects exist and are complete. Takes a lease on each that does.
    pub fn exists(&self, keys: &[&[u8]], timeout: Option<Duration>) -> Result<Vec<Result<bool>>> {
        let (shared, _inside) = self.enter()?;
        let deadline = shared.deadline(timeout);
        each(keys, |keys| {
            let answers = shared.calls.exists(keys, deadline)?;
            let pairs = keys.iter().zip(answers);
            Ok(pairs.map(|(key, answer)| answer.map_err(|why| refused(why, key))).collect())
        })
    }

    /// Removes objects. With `force`, leases do not protect them; upstream masters do not offer
    /// that.
    pub fn remove(
        &self,
        keys: &[&[u8]],
        force: bool,
        timeout: Option<Duration>,
    ) -> Result<Vec<Result<()>>> {
        let (shared, _inside) = self.enter()?;
        let deadline = shared.deadline(timeout);
        let removed = each(keys, |keys| {
            if let [key] = keys {
                return Ok(vec![shared.calls.remove(key, force, deadline)]);
            }
            let answers = shared.calls.remove_each(keys, force, deadline)?;
            let pairs = keys.iter().zip(answers);
            Ok(pairs.map(|(key, answer)| answer.map_err(|why| refused(why, key))).collect())
        })?;
        let count = removed.iter().filter(|removed| removed.is_ok()).count();
        shared.metrics.removes.inc_by(count as u64);
        Ok(removed)
    }

    /// Removes all objects in whose key the regular expression is found, as far as they are
    /// complete and not leased. Returns how many.
    pub fn remove_by_pattern(&self, pattern: &[u8], force: bool) -> Result<u64> {
        let (shared, _inside) = self.enter()?;
        check_key(pattern)?;
        let count = shared.calls.remove_by_pattern(pattern, force, shared.deadline(None))?;
        shared.metrics.removes.inc_by(count);
        Ok(count)
    }

    /// Removes all objects that are not leased. Returns how many.
    pub fn remove_all(&self, force: bool) -> Result<u64> {
        let (shared, _inside) = self.enter()?;
        let count = shared.calls.remove_all(force, shared.deadline(None))?;
        shared.metrics.removes.inc_by(count);
        Ok(count)
    }

    /// All complete objects in whose key the regular expression is found, with their replicas, in
    /// the order of their keys. Takes a lease on each.
    pub fn find(&self, pattern: &[u8]) -> Result<Vec<(Key, Vec<Replica>)>> {
        let (shared, _inside) = self.enter()?;
        check_key(pattern)?;
        let mut found = shared.calls.find(pattern, shared.deadline(None))?;
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Registers memory that objects will be put from and got into, which makes that cheaper. It
    /// must stay mapped until it is unregistered. No peer can reach it.
    pub fn register_buffer(&self, address: usize, length: usize) -> Result<()> {
        let (shared, _inside) = self.enter()?;
        let end = address.saturating_add(length);
        let mut registered = shared.registered.lock();
        let before = registered.range(..end).next_back();
        if before.is_some_and(|(start, (length, _))| start.saturating_add(*length) > address) {
            return Err(Error::new(ErrorKind::Overlap, "the memory is registered already")
                .with("address", format_args!("{address:#x}"))
                .with("length_bytes", length));
        }
        let outcome = shared.mover.register(address, length, Access::LOCAL);
        let is_known = match outcome {
            Ok(()) => false,
            // The engine is shared with the host, which has registered it.
            Err(error)
                if error.kind() == ErrorKind::Overlap && shared.mover.covers(address, length) =>
            {
                true
            }
            Err(error) => return Err(error),
        };
        registered.insert(address, (length, is_known));
        Ok(())
    }

    /// Takes that back. Afterwards nothing of the store touches the memory any more.
    pub fn unregister_buffer(&self, address: usize) -> Result<()> {
        let (shared, _inside) = self.enter()?;
        let mut registered = shared.registered.lock();
        let Some((_, is_known)) = registered.remove(&address) else {
            return Err(Error::new(ErrorKind::NotRegistered, "no buffer is registered here")
                .with("address", format_args!("{address:#x}")));
        };
        match is_known {
            true => Ok(()),
            false => shared.mover.unregister(address),
        }
    }

    /// How the client is, from what it last heard; makes no call.
    pub fn health(&self) -> Result<Health> {
        let (shared, _inside) = self.enter()?;
        let objects_held = shared.held.lock().len();
        let pulse = shared.pulse.lock();
        Ok(Health {
            master_is_reachable: pulse.failures == 0 && pulse.answered.is_some(),
            since_answer: pulse.answered.map(|at| at.elapsed()),
            failures: pulse.failures,
            last_error: pulse.last_error.clone(),
            is_native: shared.calls.is_native(),
            objects_held,
        })
    }

    /// Counters.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.0.shared.metrics
    }

    /// Everything found and chosen.
    pub fn dump(&self) -> serde_json::Value {
        let shared = &self.0.shared;
        let segments: Vec<_> = shared
            .own
            .segments()
            .iter()
            .map(|segment| {
                serde_json::json!({
                    "id": segment.id.to_string(),
                    "base": segment.base,
                    "size_bytes": segment.size,
                })
            })
            .collect();
        let pulse = shared.pulse.lock();
        serde_json::json!({
            "hostname": shared.hostname,
            "endpoint": shared.own.endpoint,
            "client": shared.calls.client().to_string(),
            "master": {
                "native": shared.calls.is_native(),
                "failures": pulse.failures,
                "last_error": pulse.last_error.as_ref().map(ToString::to_string),
            },
            "segments": segments,
            "objects_held": shared.held.lock().len(),
            "local_buffer_free_bytes": shared.buffers.free_bytes(),
            "engine": shared.mover.dump(),
        })
    }

    /// Ends the client: waits for calls under way, takes the segments out of the pool, and lets
    /// go of all memory but that of buffers which are still held. Later calls fail with
    /// `Shutdown`; repeating it does nothing. Blocks for [`limits::STORE_CLOSE_TIMEOUT`] at most,
    /// as long again where objects wait to be written to files, and where the master does not
    /// answer.
    pub fn close(&self) {
        close(&self.0);
    }

    pub(super) fn enter(&self) -> Result<(&Arc<Shared>, Inside<'_>)> {
        let shared = &self.0.shared;
        Ok((shared, shared.gate.enter()?))
    }
}

impl Shared {
    pub(super) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::within(timeout.unwrap_or(self.timeout))
    }

    /// Makes moves: those inside this process by a copy while the others travel.
    /// Makes all moves; `mounts` is that of the own memory when room for them was asked for.
    pub(super) fn run_moves(
        &self,
        moves: &[Move<'_>],
        mounts: u64,
        deadline: Deadline,
    ) -> Vec<Result<()>> {
        let (near, far): (Vec<usize>, Vec<usize>) =
            (0..moves.len()).partition(|index| self.own.can_copy(&moves[*index]));
        let mut results: Vec<Result<()>> = vec![Ok(()); moves.len()];
        let mut copy = || {
            for index in &near {
                results[*index] = self.own.copy(&moves[*index], mounts);
            }
        };
        let moved = if far.is_empty() {
            copy();
            Vec::new()
        } else {
            let wanted: Vec<Move<'_>> = far.iter().map(|index| moves[*index]).collect();
            self.mover.move_all(&wanted, deadline, &mut copy)
        };
        self.metrics.copies.inc_by(near.len() as u64);
        for (index, moved) in far.iter().zip(moved) {
            results[*index] = moved;
        }
        results
    }

    /// Tells a native master which endpoints failed, so that it places nothing there for now.
    pub(super) fn suspect<'a>(&self, endpoints: impl Iterator<Item = &'a str>, deadline: Deadline) {
        if !self.calls.is_native() {
            return;
        }
        let deadline = deadline.max(Deadline::within(Duration::from_millis(500)));
        for endpoint in endpoints {
            if let Err(error) = self.calls.suspect(endpoint, deadline) {
                log::debug!("the master was not told of the failure of {endpoint}: {error}");
            }
        }
    }
}

fn close(owner: &Owner) {
    let shared = &owner.shared;
    if !shared.gate.close() {
        return;
    }
    if !shared.gate.wait_empty(limits::STORE_CLOSE_TIMEOUT) {
        log::warn!("a store client is closed while calls are still under way");
    }
    let unwritten = shared.files.finish(limits::STORE_CLOSE_TIMEOUT);
    let deadline = Deadline::within(limits::STORE_CLOSE_TIMEOUT);
    shared.tell_given_up(unwritten, deadline);
    {
        let _mounting = shared.mounting.lock();
        for segment in shared.own.segments() {
            if let Err(error) = shared.calls.unmount(segment.id, deadline) {
                log::warn!("segment {} was not taken out of the pool: {error}", segment.id);
                break;
            }
        }
    }
    shared.calls.close();
    if let Some(attendant) = owner.attendant.lock().take() {
        attendant.join();
    }
    let_go(shared);
}

/// Lets go of all memory. Nothing touches it afterwards.
pub(super) fn let_go(shared: &Shared) {
    shared.own.close();
    for (address, (_, is_known)) in std::mem::take(&mut *shared.registered.lock()) {
        if !is_known {
            let _ = shared.mover.unregister(address);
        }
    }
    for segment in shared.own.segments() {
        let _ = shared.mover.unregister(segment.base as usize);
    }
    if let Some(range) = shared.buffers.range() {
        let _ = shared.mover.unregister(range.address);
    }
    shared.mover.close();
}

fn first<T>(results: Vec<Result<T>>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Internal, "a batch without a result"));
    results.into_iter().next().unwrap_or_else(missing)
}

pub(super) fn check_count(count: usize) -> Result<()> {
    if count > limits::BATCH_REQUESTS_MAX {
        return Err(Error::new(ErrorKind::TooManyRequests, "too many objects in one batch")
            .with("objects", count)
            .with("limit", limits::BATCH_REQUESTS_MAX));
    }
    Ok(())
}

/// Checks the keys, makes one call for the good ones, and puts the answers where they belong.
fn each<T>(
    keys: &[&[u8]],
    call: impl FnOnce(&[&[u8]]) -> Result<Vec<Result<T>>>,
) -> Result<Vec<Result<T>>> {
    check_count(keys.len())?;
    let checked: Vec<Result<()>> = keys.iter().map(|key| check_key(key)).collect();
    let good: Vec<&[u8]> = keys
        .iter()
        .zip(&checked)
        .filter(|(_, checked)| checked.is_ok())
        .map(|(key, _)| *key)
        .collect();
    let mut answers = if good.is_empty() { Vec::new() } else { call(&good)? }.into_iter();
    let missing = || Err(plain(crate::pool::outcome::Refusal::INTERNAL_ERROR));
    Ok(checked
        .into_iter()
        .map(|checked| checked.and_then(|()| answers.next().unwrap_or_else(missing)))
        .collect())
}

fn size_of(replica: &Replica) -> u64 {
    match &replica.place {
        crate::pool::replica::Place::Memory(ranges) => {
            ranges.iter().fold(0, |sum, range| sum.saturating_add(range.size))
        }
        crate::pool::replica::Place::Disk { size, .. } => *size,
    }
}
