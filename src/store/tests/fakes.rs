//! A master and a mover in memory, which fail on command. All peers live in this process, so a
//! move is a copy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Access, Pages};
use crate::pool::file::relative_path;
use crate::pool::identity::ClientId;
use crate::pool::object::{Key, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{BufferRange, Located, Place, Replica, ReplicaKind, ReplicaStatus};
use crate::pool::segment::{ClientStatus, HeldObject, KeptRange, Pong, Segment, SegmentEvent};
use crate::rpc::message::{Call, Events, Granted, Greeting, Reply};
use crate::time::Deadline;

use crate::store::buffers::copy;
use crate::store::open::Parts;
use crate::store::{Dialect, Direction, Master, Move, Mover, Range, Store};

/// One object as the fake master knows it.
pub(super) struct Entry {
    pub(super) replicas: Vec<Replica>,
    pub(super) generation: u64,
}

#[derive(Default)]
pub(super) struct MasterState {
    pub(super) objects: BTreeMap<Key, Entry>,
    pub(super) segments: Vec<(Segment, ClientId, u64)>,
    pub(super) known: BTreeSet<ClientId>,
    pub(super) life: u64,
    pub(super) generation: u64,
    pub(super) is_down: bool,
    pub(super) suspects: Vec<String>,
    pub(super) reports: Vec<HeldObject>,
    /// Reports that get no answer.
    pub(super) reports_lost: usize,
    /// News that are told until they are acknowledged, and their numbers.
    pub(super) events: Vec<SegmentEvent>,
    pub(super) told: u64,
    pub(super) acknowledged: u64,
    /// What clients keep, as they said last.
    pub(super) kept: Vec<KeptRange>,
    /// Lease lengths to give next; a minute when there are none.
    pub(super) leases_ms: VecDeque<u64>,
    /// Names of the calls that came, without signs of life.
    pub(super) calls: Vec<String>,
    /// Answers this to the next `BatchPutEnd`.
    pub(super) put_end: Option<Refusal>,
    /// Calls of that name are carried out, and their answers are lost.
    pub(super) answers_lost: Option<&'static str>,
    /// Calls of that name do not arrive.
    pub(super) calls_lost: Option<&'static str>,
    /// Signs of life are not answered; other calls are.
    pub(super) signs_lost: bool,
    /// It is down from the next call of that name on.
    pub(super) falls_silent_at: Option<&'static str>,
    /// Puts that were named as going on, by each call.
    pub(super) unfinished: Vec<Vec<u64>>,
    /// Folder of the disk tier.
    pub(super) folder: String,
    /// Puts whose files are written, and will not be, as often as it was said.
    pub(super) files_ended: Vec<u64>,
    pub(super) files_revoked: Vec<u64>,
    /// Answers this to the ends of files.
    pub(super) file_end: Option<Refusal>,
}

/// A master in memory.
pub(super) struct FakeMaster {
    pub(super) state: Mutex<MasterState>,
    pub(super) dialect: Mutex<Dialect>,
}

impl FakeMaster {
    pub(super) fn new(dialect: Dialect) -> Arc<FakeMaster> {
        let state = MasterState { life: 1, ..MasterState::default() };
        Arc::new(FakeMaster { state: Mutex::new(state), dialect: Mutex::new(dialect) })
    }

    /// Forgets everything, and speaks otherwise.
    pub(super) fn restart_as(&self, dialect: Dialect) {
        *self.dialect.lock() = dialect;
        self.restart();
    }

    /// Forgets everything, as a restarted master does.
    pub(super) fn restart(&self) {
        let mut state = self.state.lock();
        let (life, generation) = (state.life + 1, state.generation);
        let reports_lost = state.reports_lost;
        *state = MasterState { life, generation, reports_lost, ..MasterState::default() };
    }

    /// News for the holder.
    pub(super) fn tell(&self, events: Vec<SegmentEvent>) {
        let mut state = self.state.lock();
        state.told += events.len() as u64;
        state.events.extend(events);
    }

    pub(super) fn calls(&self, name: &str) -> usize {
        self.state.lock().calls.iter().filter(|call| *call == name).count()
    }
}

impl MasterState {
    fn start(&mut self, item: &PutItem, options: &PutOptions, is_native: bool) -> Outcome<Granted> {
        if let Some(entry) = self.objects.get(&item.key) {
            let done = entry.replicas.iter().all(|r| r.status == ReplicaStatus::Complete);
            return Err(match done || !is_native {
                true => Refusal::OBJECT_ALREADY_EXISTS,
                false => Refusal::REPLICA_IS_NOT_READY,
            });
        }
        self.generation += 1;
        let bytes: u64 = item.slices.iter().sum();
        let suspects = self.suspects.clone();
        let wanted = options.replica_num as usize;
        let room = self.segments.iter_mut().filter(|(segment, _, used)| {
            !suspects.contains(&segment.endpoint) && segment.size - used >= bytes
        });
        let mut replicas: Vec<Replica> = room
            .take(wanted)
            .map(|(segment, _, used)| {
                let mut address = segment.base + *used;
                *used += bytes;
                let range = |size: &u64| {
                    let range = BufferRange {
                        size: *size,
                        address,
                        protocol: "tcp".into(),
                        endpoint: segment.endpoint.clone(),
                    };
                    address += size;
                    range
                };
                Replica {
                    id: 0,
                    place: Place::Memory(item.slices.iter().map(range).collect()),
                    status: ReplicaStatus::Processing,
                }
            })
            .collect();
        if replicas.is_empty() {
            return Err(Refusal::NO_AVAILABLE_HANDLE);
        }
        if !self.folder.is_empty() {
            let path = relative_path(&item.key, self.generation);
            let path = format!("{}/{path}", self.folder);
            let place = Place::Disk { path, size: bytes };
            replicas.push(Replica { id: 1, place, status: ReplicaStatus::Processing });
        }
        let entry = Entry { replicas: replicas.clone(), generation: self.generation };
        self.objects.insert(item.key.clone(), entry);
        Ok(Granted { replicas, generation: self.generation })
    }

    fn end(&mut self, key: &Key) -> Outcome<()> {
        if let Some(refusal) = self.put_end {
            return Err(refusal);
        }
        let entry = self.objects.get_mut(key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        for replica in &mut entry.replicas {
            replica.status = ReplicaStatus::Complete;
        }
        Ok(())
    }

    fn end_file(&mut self, put: u64) -> Outcome<()> {
        self.files_ended.push(put);
        self.file_end.map_or(Ok(()), Err)
    }

    fn locate(&mut self, key: &Key) -> Outcome<Located> {
        let entry = self.objects.get(key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        let complete = |r: &&Replica| r.status == ReplicaStatus::Complete;
        let replicas: Vec<Replica> = entry.replicas.iter().filter(complete).cloned().collect();
        if replicas.is_empty() {
            return Err(Refusal::REPLICA_IS_NOT_READY);
        }
        let generation = entry.generation;
        let lease_ttl_ms = self.leases_ms.pop_front().unwrap_or(60_000);
        Ok(Located { replicas, lease_ttl_ms, generation })
    }

    fn pong(&self, client: ClientId) -> Pong {
        let is_known = self.known.contains(&client);
        let status = if is_known { ClientStatus::Ok } else { ClientStatus::NeedRemount };
        Pong { view_version: 0, status }
    }

    fn mount(&mut self, segment: &Segment, client: ClientId) {
        if !self.segments.iter().any(|(known, ..)| known.id == segment.id) {
            self.segments.push((segment.clone(), client, 0));
        }
    }
}

impl Master for FakeMaster {
    fn call(&self, call: &Call, _: Deadline) -> Result<Reply> {
        if let Call::Attend { .. } = call {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut state = self.state.lock();
        if state.is_down || state.signs_lost && matches!(call, Call::Attend { .. }) {
            return Err(Error::new(ErrorKind::Unreachable, "the fake master is down"));
        }
        if !matches!(call, Call::Attend { .. } | Call::Ping(_)) {
            let text = format!("{call:?}");
            state.calls.push(text.chars().take_while(|c| c.is_alphanumeric()).collect());
        }
        let name = state.calls.last().cloned().unwrap_or_default();
        let is_word = !matches!(call, Call::Attend { .. } | Call::Ping(_));
        let lost = || Error::new(ErrorKind::Timeout, "the fake master's word is lost");
        if is_word && state.falls_silent_at == Some(name.as_str()) {
            (state.falls_silent_at, state.is_down) = (None, true);
            return Err(lost());
        }
        if is_word && state.calls_lost == Some(name.as_str()) {
            return Err(lost());
        }
        let is_answer_lost = is_word && state.answers_lost == Some(name.as_str());
        let is_native = self.dialect() == Dialect::Native;
        let generation = |granted: Granted| Granted {
            generation: if is_native { granted.generation } else { 0 },
            ..granted
        };
        let located = |located: Located| Located {
            generation: if is_native { located.generation } else { 0 },
            ..located
        };
        let reply = match call {
            Call::ServiceReady => Reply::Ready(Ok(String::new())),
            Call::Ping(client) => Reply::Pong(Ok(state.pong(*client))),
            Call::Greet { .. } => {
                Reply::Greeted(Ok(Greeting { version: 1, master_life: state.life }))
            }
            Call::Attend { client, acknowledged, .. } => {
                state.acknowledged = *acknowledged;
                if *acknowledged == state.told {
                    state.events.clear();
                }
                Reply::Events(Ok(Events {
                    pong: state.pong(*client),
                    master_life: state.life,
                    last: state.told,
                    events: state.events.clone(),
                }))
            }
            Call::Report { .. } if state.reports_lost > 0 => {
                state.reports_lost -= 1;
                return Err(Error::new(ErrorKind::Timeout, "the fake master is slow"));
            }
            Call::Report { objects, .. } => {
                state.reports.extend(objects.iter().cloned());
                Reply::Done(Ok(()))
            }
            Call::Keep { client, segments, ranges } => {
                for segment in segments {
                    state.mount(segment, *client);
                    state.known.insert(*client);
                }
                state.kept = ranges.clone();
                Reply::Done(Ok(()))
            }
            Call::Suspect { endpoint, .. } => {
                state.suspects.push(endpoint.clone());
                Reply::Done(Ok(()))
            }
            Call::Mount(segment, client) => {
                state.mount(segment, *client);
                Reply::Done(Ok(()))
            }
            Call::Remount(segments, client) => {
                for segment in segments {
                    state.mount(segment, *client);
                }
                state.known.insert(*client);
                Reply::Done(Ok(()))
            }
            Call::Unmount(id, _) => {
                state.segments.retain(|(segment, ..)| segment.id != *id);
                Reply::Done(Ok(()))
            }
            Call::BatchExists(keys) => {
                Reply::BatchExists(keys.iter().map(|key| Ok(state.locate(key).is_ok())).collect())
            }
            Call::BatchLookup(keys) => {
                Reply::BatchLocated(keys.iter().map(|key| state.locate(key).map(located)).collect())
            }
            Call::BatchPutStart(_, items, options) => Reply::BatchGranted(
                items
                    .iter()
                    .map(|item| state.start(item, options, is_native).map(generation))
                    .collect(),
            ),
            Call::StorageDirectory => Reply::Directory(Ok(state.folder.clone())),
            Call::PutEnd(.., ReplicaKind::Disk, put) => Reply::Done(state.end_file(*put)),
            Call::BatchPutEnd(.., ReplicaKind::Disk, puts) => {
                Reply::BatchDone(puts.iter().map(|put| state.end_file(*put)).collect())
            }
            Call::PutRevoke(.., ReplicaKind::Disk, put) => {
                state.files_revoked.push(*put);
                Reply::Done(Ok(()))
            }
            Call::BatchPutRevoke(.., ReplicaKind::Disk, puts) => {
                state.files_revoked.extend(puts);
                Reply::BatchDone(vec![Ok(()); puts.len()])
            }
            Call::BatchPutEnd(_, keys, ..) => {
                Reply::BatchDone(keys.iter().map(|key| state.end(key)).collect())
            }
            Call::BatchPutRevoke(_, keys, ..) => {
                let mut revoke = |key| state.objects.remove(key).map(|_| ());
                let gone = Refusal::OBJECT_NOT_FOUND;
                Reply::BatchDone(keys.iter().map(|key| revoke(key).ok_or(gone)).collect())
            }
            Call::Remove { key, .. } => {
                Reply::Done(state.objects.remove(key).map(|_| ()).ok_or(Refusal::OBJECT_NOT_FOUND))
            }
            Call::RemoveAll { .. } => {
                let count = state.objects.len();
                state.objects.clear();
                Reply::RemovedAll(count as i64)
            }
            Call::Unfinished { puts, .. } => {
                state.unfinished.push(puts.clone());
                let done =
                    |e: &Entry| e.replicas.iter().all(|r| r.status == ReplicaStatus::Complete);
                state.objects.retain(|_, e| done(e) || puts.contains(&e.generation));
                Reply::Done(Ok(()))
            }
            other => other.refuse(Refusal::NOT_SUPPORTED),
        };
        match is_answer_lost {
            true => Err(lost()),
            false => Ok(reply),
        }
    }

    fn dialect(&self) -> Dialect {
        *self.dialect.lock()
    }

    fn close(&self) {}
}

/// What all fake movers of a test share.
#[derive(Default)]
pub(super) struct World {
    /// Endpoints that cannot be reached.
    pub(super) dead: Mutex<BTreeSet<String>>,
    /// Called before each group of moves.
    #[allow(clippy::type_complexity)] // One hook, named right here.
    pub(super) before_moves: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Memory that was renewed, in that order; and whether that fails.
    pub(super) renewed: Mutex<Vec<usize>>,
    pub(super) renewal_fails: AtomicBool,
    /// Registered ranges, to see that all are given back.
    pub(super) registered: Mutex<BTreeMap<usize, usize>>,
}

/// A mover in memory.
pub(super) struct FakeMover {
    endpoint: String,
    world: Arc<World>,
}

impl Mover for FakeMover {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn register(&self, address: usize, length: usize, _: Access) -> Result<()> {
        match self.world.registered.lock().insert(address, length) {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Overlap, "registered before")),
        }
    }

    fn covers(&self, _: usize, _: usize) -> bool {
        false
    }

    fn renew(&self, address: usize) -> Result<()> {
        self.world.renewed.lock().push(address);
        match self.world.renewal_fails.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::MetadataUnavailable, "not published")),
            false => Ok(()),
        }
    }

    fn unregister(&self, address: usize) -> Result<()> {
        match self.world.registered.lock().remove(&address) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::NotRegistered, "not registered")),
        }
    }

    fn move_all(
        &self,
        moves: &[Move<'_>],
        _: Deadline,
        meanwhile: &mut dyn FnMut(),
    ) -> Vec<Result<()>> {
        if let Some(hook) = &mut *self.world.before_moves.lock() {
            hook();
        }
        meanwhile();
        moves
            .iter()
            .map(|wanted| {
                if self.world.dead.lock().contains(wanted.endpoint) {
                    return Err(Error::new(ErrorKind::Unreachable, "the fake peer is dead"));
                }
                let local = Range { address: wanted.local, length: wanted.length };
                let remote = Range { address: wanted.remote as usize, length: wanted.length };
                match wanted.direction {
                    Direction::Put => copy(local, remote),
                    Direction::Get => copy(remote, local),
                }
            })
            .collect()
    }

    fn dump(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn close(&self) {}
}

/// A client over both fakes.
pub(super) fn client(
    master: &Arc<FakeMaster>,
    world: &Arc<World>,
    name: &str,
    segment_bytes: u64,
) -> Store {
    let mover = FakeMover { endpoint: name.to_owned(), world: Arc::clone(world) };
    Store::assemble(Parts {
        master: Arc::clone(master) as Arc<dyn Master>,
        mover: Arc::new(mover),
        hostname: name.to_owned(),
        segment_bytes,
        segment_bytes_max: 1 << 40,
        local_buffer_bytes: 1 << 20,
        pages: Pages::Ordinary,
        is_copied: true,
        timeout: Duration::from_secs(30),
        master_timeout: Duration::from_secs(5),
        protocol: "tcp".to_owned(),
    })
    .unwrap()
}
