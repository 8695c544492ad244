//! Random calls of the store and answers to them, in the native dialect or within what upstream's
//! 0.3.7 can say.
#![allow(dead_code, unreachable_pub)]

use mooncake::pool::identity::{ClientId, SegmentId, Uuid};
use mooncake::pool::object::{PutItem, PutOptions};
use mooncake::pool::outcome::{Outcome, Refusal};
use mooncake::pool::replica::{BufferRange, Located, Place, Replica, ReplicaKind, ReplicaStatus};
use mooncake::pool::segment::{ClientStatus, HeldObject, KeptRange, Pong, Segment, SegmentEvent};
use mooncake::rpc::dialect::{upstream_name, Dialect};
use mooncake::rpc::message::{Call, Events, Granted, Greeting, Method, Reply};

use super::random::Random;

/// Makes calls and answers.
pub struct Maker<'a> {
    pub random: &'a mut Random,
    pub dialect: Dialect,
}

impl Maker<'_> {
    fn is_native(&self) -> bool {
        self.dialect == Dialect::Native
    }

    /// The methods that the dialect has.
    pub fn methods(&self) -> Vec<Method> {
        let is_native = self.is_native();
        let has = |method: &Method| is_native || upstream_name(*method).is_some();
        Method::ALL.into_iter().filter(has).collect()
    }

    fn flag(&mut self) -> bool {
        self.random.chance(50)
    }

    fn number(&mut self) -> u64 {
        let bits = self.random.below(65);
        self.random.next().checked_shr(bits as u32).unwrap_or(0)
    }

    fn key(&mut self) -> Vec<u8> {
        let longest = if self.random.chance(2) { 70_000 } else { 300 };
        let length = self.random.below(longest) as usize;
        self.random.bytes(length)
    }

    fn text(&mut self) -> String {
        let length = self.random.below(30);
        (0..length).map(|_| char::from(b' ' + self.random.below(94) as u8)).collect()
    }

    fn some<T>(&mut self, most: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let most = if self.random.chance(2) { 400 } else { most };
        (0..self.random.below(most + 1)).map(|_| one(self)).collect()
    }

    fn exactly<T>(&mut self, count: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..count).map(|_| one(self)).collect()
    }

    fn uuid(&mut self) -> Uuid {
        Uuid { first: self.random.next(), second: self.random.next() }
    }

    fn client(&mut self) -> ClientId {
        ClientId(self.uuid())
    }

    fn caller(&mut self) -> Option<ClientId> {
        (self.is_native() && self.flag()).then(|| self.client())
    }

    fn force(&mut self) -> bool {
        self.is_native() && self.flag()
    }

    fn kind(&mut self, batched: bool) -> ReplicaKind {
        let kinds: &[ReplicaKind] = match (self.is_native(), batched) {
            (true, _) => {
                &[ReplicaKind::Memory, ReplicaKind::Disk, ReplicaKind::LocalDisk, ReplicaKind::All]
            }
            (false, true) => &[ReplicaKind::Memory],
            (false, false) => &[ReplicaKind::Memory, ReplicaKind::Disk],
        };
        kinds[self.random.below(kinds.len() as u64) as usize]
    }

    fn item(&mut self) -> PutItem {
        let mut item = PutItem::new(self.key(), self.some(4, Self::number));
        if self.is_native() && self.flag() {
            item.group = self.key();
        }
        item
    }

    fn options(&mut self) -> PutOptions {
        let is_native = self.is_native();
        let mut preferred = self.some(3, Self::text);
        if !is_native {
            preferred.retain(|name| !name.is_empty());
            preferred.truncate(1);
        }
        PutOptions {
            replica_num: self.number(),
            soft_pin: self.flag(),
            soft_pin_ttl_ms: (is_native && self.flag()).then(|| self.number()),
            hard_pin: is_native && self.flag(),
            preferred_segments: preferred,
            same_node: self.flag(),
        }
    }

    fn protocol(&mut self) -> String {
        if self.is_native() {
            self.text()
        } else {
            String::new()
        }
    }

    fn segment(&mut self) -> Segment {
        Segment {
            id: SegmentId(self.uuid()),
            name: self.text(),
            base: self.number(),
            size: self.number(),
            endpoint: self.text(),
            protocol: self.protocol(),
        }
    }

    fn held(&mut self) -> HeldObject {
        HeldObject {
            key: self.key(),
            generation: self.number(),
            segment: SegmentId(self.uuid()),
            address: self.number(),
            slices: self.some(3, Self::number),
            soft_pin: self.flag(),
            group: if self.flag() { self.key() } else { Vec::new() },
        }
    }

    /// Which put is meant; only our dialect says.
    fn which(&mut self) -> u64 {
        match self.is_native() && self.flag() {
            true => self.number(),
            false => 0,
        }
    }

    fn which_of(&mut self, keys: usize) -> Vec<u64> {
        match self.is_native() && self.flag() {
            true => self.exactly(keys, Self::number),
            false => Vec::new(),
        }
    }

    /// A call of that method.
    pub fn call(&mut self, method: Method) -> Call {
        match method {
            Method::ServiceReady => Call::ServiceReady,
            Method::StorageDirectory => Call::StorageDirectory,
            Method::Ping => Call::Ping(self.client()),
            Method::Exists => Call::Exists(self.key()),
            Method::BatchExists => Call::BatchExists(self.some(5, Self::key)),
            Method::Lookup => Call::Lookup(self.key()),
            Method::BatchLookup => Call::BatchLookup(self.some(5, Self::key)),
            Method::LookupByPattern => Call::LookupByPattern(self.key()),
            Method::PutStart => Call::PutStart(self.caller(), self.item(), self.options()),
            Method::BatchPutStart => {
                Call::BatchPutStart(self.caller(), self.some(5, Self::item), self.options())
            }
            Method::PutEnd => {
                Call::PutEnd(self.caller(), self.key(), self.kind(false), self.which())
            }
            Method::BatchPutEnd => {
                let (caller, keys) = (self.caller(), self.some(5, Self::key));
                let puts = self.which_of(keys.len());
                Call::BatchPutEnd(caller, keys, self.kind(true), puts)
            }
            Method::PutRevoke => {
                Call::PutRevoke(self.caller(), self.key(), self.kind(false), self.which())
            }
            Method::BatchPutRevoke => {
                let (caller, keys) = (self.caller(), self.some(5, Self::key));
                let puts = self.which_of(keys.len());
                Call::BatchPutRevoke(caller, keys, self.kind(true), puts)
            }
            Method::Remove => Call::Remove { key: self.key(), force: self.force() },
            Method::BatchRemove => {
                Call::BatchRemove { keys: self.some(5, Self::key), force: self.force() }
            }
            Method::RemoveByPattern => {
                Call::RemoveByPattern { pattern: self.key(), force: self.force() }
            }
            Method::RemoveAll => Call::RemoveAll { force: self.force() },
            Method::Mount => Call::Mount(self.segment(), self.client()),
            Method::Remount => Call::Remount(self.some(4, Self::segment), self.client()),
            Method::Unmount => Call::Unmount(SegmentId(self.uuid()), self.client()),
            Method::Greet => Call::Greet { version: self.random.next() as u32 },
            Method::Attend => Call::Attend {
                client: self.client(),
                acknowledged: self.number(),
                wait_ms: self.random.next() as u32,
            },
            Method::Report => Call::Report {
                client: self.client(),
                objects: self.some(5, Self::held),
                last: self.flag(),
            },
            Method::Suspect => Call::Suspect { client: self.client(), endpoint: self.text() },
            Method::Keep => Call::Keep {
                client: self.client(),
                segments: self.some(3, Self::segment),
                ranges: self.some(5, |maker| KeptRange {
                    segment: SegmentId(maker.uuid()),
                    address: maker.number(),
                    size: maker.number(),
                }),
            },
            Method::Unfinished => Call::Unfinished {
                client: self.client(),
                puts: self.some(5, Self::number),
                age_ms: self.random.next() as u32,
            },
        }
    }

    fn outcome<T>(&mut self, ok: impl FnOnce(&mut Self) -> T) -> Outcome<T> {
        if self.random.chance(70) {
            return Ok(ok(self));
        }
        let number = -1 - self.random.below(2000) as i32;
        Err(Refusal::from_number(number).unwrap())
    }

    fn replica(&mut self) -> Replica {
        let place = if self.random.chance(70) {
            Place::Memory(self.some(3, |maker| BufferRange {
                size: maker.number(),
                address: maker.number(),
                protocol: maker.protocol(),
                endpoint: maker.text(),
            }))
        } else {
            Place::Disk { path: self.text(), size: self.number() }
        };
        let statuses = [
            ReplicaStatus::Undefined,
            ReplicaStatus::Initialized,
            ReplicaStatus::Processing,
            ReplicaStatus::Complete,
            ReplicaStatus::Removed,
            ReplicaStatus::Failed,
        ];
        let status = statuses[self.random.below(6) as usize];
        Replica { id: self.native_number(), place, status }
    }

    /// 0 in dialects without the field.
    fn native_number(&mut self) -> u64 {
        if self.is_native() {
            self.number()
        } else {
            0
        }
    }

    fn located(&mut self) -> Located {
        Located {
            replicas: self.some(3, Self::replica),
            lease_ttl_ms: self.number(),
            generation: self.native_number(),
        }
    }

    fn granted(&mut self) -> Granted {
        Granted { replicas: self.some(3, Self::replica), generation: self.native_number() }
    }

    fn pong(&mut self) -> Pong {
        let statuses = [ClientStatus::Undefined, ClientStatus::Ok, ClientStatus::NeedRemount];
        let status = statuses[self.random.below(3) as usize];
        Pong { view_version: self.number() as i64, status }
    }

    /// An answer that fits the call.
    pub fn reply(&mut self, call: &Call) -> Reply {
        match call {
            Call::ServiceReady => {
                let version = self.protocol();
                Reply::Ready(self.outcome(|_| version))
            }
            Call::StorageDirectory => Reply::Directory(self.outcome(Self::text)),
            Call::Ping(_) => Reply::Pong(self.outcome(Self::pong)),
            Call::Exists(_) => Reply::Exists(self.outcome(Self::flag)),
            Call::BatchExists(keys) => {
                Reply::BatchExists(self.exactly(keys.len(), |maker| maker.outcome(Self::flag)))
            }
            Call::Lookup(_) => Reply::Located(self.outcome(Self::located)),
            Call::BatchLookup(keys) => {
                Reply::BatchLocated(self.exactly(keys.len(), |maker| maker.outcome(Self::located)))
            }
            Call::LookupByPattern(_) => Reply::Found(self.outcome(|maker| {
                maker.some(4, |maker| (maker.key(), maker.some(3, Self::replica)))
            })),
            Call::PutStart(..) => Reply::Granted(self.outcome(Self::granted)),
            Call::BatchPutStart(_, items, _) => {
                Reply::BatchGranted(self.exactly(items.len(), |maker| maker.outcome(Self::granted)))
            }
            Call::BatchPutEnd(_, keys, ..)
            | Call::BatchPutRevoke(_, keys, ..)
            | Call::BatchRemove { keys, .. } => {
                Reply::BatchDone(self.exactly(keys.len(), |maker| maker.outcome(|_| ())))
            }
            Call::RemoveByPattern { .. } => {
                Reply::Removed(self.outcome(|maker| maker.number() as i64))
            }
            Call::RemoveAll { .. } => Reply::RemovedAll(self.number() as i64),
            Call::Greet { .. } => Reply::Greeted(self.outcome(|maker| Greeting {
                version: maker.random.next() as u32,
                master_life: maker.number(),
            })),
            Call::Attend { .. } => Reply::Events(self.outcome(|maker| Events {
                pong: maker.pong(),
                master_life: maker.number(),
                last: maker.number(),
                events: maker.some(5, |maker| {
                    if maker.flag() {
                        return SegmentEvent::Completed(maker.held());
                    }
                    SegmentEvent::Gone {
                        segment: SegmentId(maker.uuid()),
                        address: maker.number(),
                        generation: maker.number(),
                    }
                }),
            })),
            Call::PutEnd(..)
            | Call::PutRevoke(..)
            | Call::Remove { .. }
            | Call::Mount(..)
            | Call::Remount(..)
            | Call::Unmount(..)
            | Call::Report { .. }
            | Call::Suspect { .. }
            | Call::Keep { .. }
            | Call::Unfinished { .. } => Reply::Done(self.outcome(|_| ())),
        }
    }
}
