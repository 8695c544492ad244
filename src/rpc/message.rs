//! Every call of a store client and every answer of the master, whatever the dialect.
//!
//! A dialect that lacks a field leaves it at the value documented here; what a dialect cannot say
//! at all is [`Refusal::NOT_SUPPORTED`], and its text names the dialect.

use crate::pool::identity::{ClientId, SegmentId};
use crate::pool::object::{Generation, Key, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Located, Replica, ReplicaKind};
use crate::pool::segment::{HeldObject, KeptRange, Pong, Segment, SegmentEvent};

/// A call. Single and batched calls are apart, because their answers differ on upstream's wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Which version is spoken?
    ServiceReady,
    /// The folder of the shared file tier; empty without one.
    StorageDirectory,
    /// A sign of life.
    Ping(ClientId),
    /// Is there a complete copy? Grants a lease where there is.
    Exists(Key),
    /// The same for many.
    BatchExists(Vec<Key>),
    /// Where are the complete copies? Grants a lease.
    Lookup(Key),
    /// The same for many.
    BatchLookup(Vec<Key>),
    /// The same for all keys in which the pattern is found.
    LookupByPattern(Vec<u8>),
    /// Room for one object.
    PutStart(Option<ClientId>, PutItem, PutOptions),
    /// Room for many.
    BatchPutStart(Option<ClientId>, Vec<PutItem>, PutOptions),
    /// The copies of that kind are written. The generation says of which put; 0 is whichever the
    /// key has now, as upstream's dialect means it.
    PutEnd(Option<ClientId>, Key, ReplicaKind, Generation),
    /// The same for many: one generation for each key, or none at all.
    BatchPutEnd(Option<ClientId>, Vec<Key>, ReplicaKind, Vec<Generation>),
    /// The copies of that kind will not be written; generations as for their end.
    PutRevoke(Option<ClientId>, Key, ReplicaKind, Generation),
    /// The same for many.
    BatchPutRevoke(Option<ClientId>, Vec<Key>, ReplicaKind, Vec<Generation>),
    /// Removes one object; with `force`, leases do not protect it.
    Remove {
        /// Which.
        key: Key,
        /// In spite of leases.
        force: bool,
    },
    /// The same for many.
    BatchRemove {
        /// Which.
        keys: Vec<Key>,
        /// In spite of leases.
        force: bool,
    },
    /// Removes all objects in whose key the pattern is found.
    RemoveByPattern {
        /// A regular expression.
        pattern: Vec<u8>,
        /// In spite of leases.
        force: bool,
    },
    /// Removes all objects.
    RemoveAll {
        /// In spite of leases.
        force: bool,
    },
    /// Gives memory to the pool.
    Mount(Segment, ClientId),
    /// Gives all memory of the client to the pool again.
    Remount(Vec<Segment>, ClientId),
    /// Takes memory out of the pool.
    Unmount(SegmentId, ClientId),
    /// Native: what is spoken, and which life of the master answers.
    Greet {
        /// Newest native version the client speaks.
        version: u32,
    },
    /// Native: a sign of life that waits for news of the client's own segments.
    Attend {
        /// Who.
        client: ClientId,
        /// All events up to this one have been taken in.
        acknowledged: u64,
        /// Answer at the latest after this time, without events if there are none.
        wait_ms: u32,
    },
    /// Native: what the client's segments hold; sent in parts after a remount at a master that does
    /// not know it.
    Report {
        /// Who.
        client: ClientId,
        /// One part.
        objects: Vec<HeldObject>,
        /// No part follows.
        last: bool,
    },
    /// Native: a transfer with that endpoint has failed; nothing more should be placed there until
    /// its owner is heard of.
    Suspect {
        /// Who noticed.
        client: ClientId,
        /// The endpoint as in its replicas.
        endpoint: String,
    },
    /// Native: ranges of the client's segments that its process still reads, all of them: what was
    /// kept before and is not named is kept no longer. Segments are mounted again in the same step,
    /// so that nothing is placed in them in between.
    Keep {
        /// Who.
        client: ClientId,
        /// As in [`Call::Remount`]; empty where they are mounted.
        segments: Vec<Segment>,
        /// The ranges.
        ranges: Vec<KeptRange>,
    },
    /// Native: the client's puts that go on, all of them. Of its unfinished puts the others were
    /// given up, but the word about it was lost, or the answer that granted them; those are dropped
    /// that began at least `age_ms` ago, because answers on their way are younger.
    Unfinished {
        /// Who.
        client: ClientId,
        /// What goes on.
        puts: Vec<Generation>,
        /// Younger puts are left alone.
        age_ms: u32,
    },
}

/// What a native put is given: its copies and the generation that orders it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Where to write; every copy is [`crate::pool::replica::ReplicaStatus::Processing`].
    pub replicas: Vec<Replica>,
    /// Which put this is; 0 where the dialect has none.
    pub generation: Generation,
}

/// An answer; the variant fits the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Call::ServiceReady`]: the version, empty where the dialect has none.
    Ready(Outcome<String>),
    /// To [`Call::StorageDirectory`].
    Directory(Outcome<String>),
    /// To [`Call::Ping`].
    Pong(Outcome<Pong>),
    /// To [`Call::Exists`].
    Exists(Outcome<bool>),
    /// To [`Call::BatchExists`].
    BatchExists(Vec<Outcome<bool>>),
    /// To [`Call::Lookup`].
    Located(Outcome<Located>),
    /// To [`Call::BatchLookup`].
    BatchLocated(Vec<Outcome<Located>>),
    /// To [`Call::LookupByPattern`].
    Found(Outcome<Vec<(Key, Vec<Replica>)>>),
    /// To [`Call::PutStart`].
    Granted(Outcome<Granted>),
    /// To [`Call::BatchPutStart`].
    BatchGranted(Vec<Outcome<Granted>>),
    /// To calls without a result of their own: end, revoke, remove, mount, remount, unmount,
    /// report, suspect, keep, unfinished.
    Done(Outcome<()>),
    /// To their batched forms.
    BatchDone(Vec<Outcome<()>>),
    /// To [`Call::RemoveByPattern`].
    Removed(Outcome<i64>),
    /// To [`Call::RemoveAll`], which cannot fail.
    RemovedAll(i64),
    /// To [`Call::Greet`].
    Greeted(Outcome<Greeting>),
    /// To [`Call::Attend`].
    Events(Outcome<Events>),
}

/// Who answers, in the native dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The version chosen.
    pub version: u32,
    /// This life of the master; another one means that it may have forgotten things.
    pub master_life: u64,
}

/// News of a client's segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// As in a pong.
    pub pong: Pong,
    /// This life of the master.
    pub master_life: u64,
    /// Number of the last event in `events`; to be acknowledged.
    pub last: u64,
    /// In the order in which they happened.
    pub events: Vec<SegmentEvent>,
}

/// What a call asks for, without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// [`Call::ServiceReady`].
    ServiceReady,
    /// [`Call::StorageDirectory`].
    StorageDirectory,
    /// [`Call::Ping`].
    Ping,
    /// [`Call::Exists`].
    Exists,
    /// [`Call::BatchExists`].
    BatchExists,
    /// [`Call::Lookup`].
    Lookup,
    /// [`Call::BatchLookup`].
    BatchLookup,
    /// [`Call::LookupByPattern`].
    LookupByPattern,
    /// [`Call::PutStart`].
    PutStart,
    /// [`Call::BatchPutStart`].
    BatchPutStart,
    /// [`Call::PutEnd`].
    PutEnd,
    /// [`Call::BatchPutEnd`].
    BatchPutEnd,
    /// [`Call::PutRevoke`].
    PutRevoke,
    /// [`Call::BatchPutRevoke`].
    BatchPutRevoke,
    /// [`Call::Remove`].
    Remove,
    /// [`Call::BatchRemove`].
    BatchRemove,
    /// [`Call::RemoveByPattern`].
    RemoveByPattern,
    /// [`Call::RemoveAll`].
    RemoveAll,
    /// [`Call::Mount`].
    Mount,
    /// [`Call::Remount`].
    Remount,
    /// [`Call::Unmount`].
    Unmount,
    /// [`Call::Greet`].
    Greet,
    /// [`Call::Attend`].
    Attend,
    /// [`Call::Report`].
    Report,
    /// [`Call::Suspect`].
    Suspect,
    /// [`Call::Keep`].
    Keep,
    /// [`Call::Unfinished`].
    Unfinished,
}

impl Method {
    /// All, in the order of their numbers.
    pub const ALL: [Method; 27] = [
        Method::ServiceReady,
        Method::StorageDirectory,
        Method::Ping,
        Method::Exists,
        Method::BatchExists,
        Method::Lookup,
        Method::BatchLookup,
        Method::LookupByPattern,
        Method::PutStart,
        Method::BatchPutStart,
        Method::PutEnd,
        Method::BatchPutEnd,
        Method::PutRevoke,
        Method::BatchPutRevoke,
        Method::Remove,
        Method::BatchRemove,
        Method::RemoveByPattern,
        Method::RemoveAll,
        Method::Mount,
        Method::Remount,
        Method::Unmount,
        Method::Greet,
        Method::Attend,
        Method::Report,
        Method::Suspect,
        Method::Keep,
        Method::Unfinished,
    ];

    /// True where a second call with the same arguments leaves everything as the first one did
    /// and is answered like it, so that a call whose answer was lost may be made again.
    pub fn is_repeatable(self) -> bool {
        !matches!(
            self,
            Method::PutStart
                | Method::BatchPutStart
                | Method::PutRevoke
                | Method::BatchPutRevoke
                | Method::Remove
                | Method::BatchRemove
                | Method::RemoveByPattern
                | Method::RemoveAll
        )
    }
}

impl Reply {
    /// True if this is an answer to `call`, with one entry for each of its items.
    pub fn fits(&self, call: &Call) -> bool {
        match (call, self) {
            (Call::BatchExists(keys), Reply::BatchExists(answers)) => keys.len() == answers.len(),
            (Call::BatchLookup(keys), Reply::BatchLocated(answers)) => keys.len() == answers.len(),
            (Call::BatchPutStart(_, items, _), Reply::BatchGranted(answers)) => {
                items.len() == answers.len()
            }
            (
                Call::BatchPutEnd(_, keys, ..)
                | Call::BatchPutRevoke(_, keys, ..)
                | Call::BatchRemove { keys, .. },
                Reply::BatchDone(answers),
            ) => keys.len() == answers.len(),
            _ => self.answers(call.method()),
        }
    }

    /// True if calls of this method are answered in this way.
    pub fn answers(&self, method: Method) -> bool {
        match self {
            Reply::Ready(_) => method == Method::ServiceReady,
            Reply::Directory(_) => method == Method::StorageDirectory,
            Reply::Pong(_) => method == Method::Ping,
            Reply::Exists(_) => method == Method::Exists,
            Reply::BatchExists(_) => method == Method::BatchExists,
            Reply::Located(_) => method == Method::Lookup,
            Reply::BatchLocated(_) => method == Method::BatchLookup,
            Reply::Found(_) => method == Method::LookupByPattern,
            Reply::Granted(_) => method == Method::PutStart,
            Reply::BatchGranted(_) => method == Method::BatchPutStart,
            Reply::Done(_) => matches!(
                method,
                Method::PutEnd
                    | Method::PutRevoke
                    | Method::Remove
                    | Method::Mount
                    | Method::Remount
                    | Method::Unmount
                    | Method::Report
                    | Method::Suspect
                    | Method::Keep
                    | Method::Unfinished
            ),
            Reply::BatchDone(_) => {
                matches!(method, Method::BatchPutEnd | Method::BatchPutRevoke | Method::BatchRemove)
            }
            Reply::Removed(_) => method == Method::RemoveByPattern,
            Reply::RemovedAll(_) => method == Method::RemoveAll,
            Reply::Greeted(_) => method == Method::Greet,
            Reply::Events(_) => method == Method::Attend,
        }
    }
}

impl Call {
    /// What it asks for.
    pub fn method(&self) -> Method {
        match self {
            Call::ServiceReady => Method::ServiceReady,
            Call::StorageDirectory => Method::StorageDirectory,
            Call::Ping(_) => Method::Ping,
            Call::Exists(_) => Method::Exists,
            Call::BatchExists(_) => Method::BatchExists,
            Call::Lookup(_) => Method::Lookup,
            Call::BatchLookup(_) => Method::BatchLookup,
            Call::LookupByPattern(_) => Method::LookupByPattern,
            Call::PutStart(..) => Method::PutStart,
            Call::BatchPutStart(..) => Method::BatchPutStart,
            Call::PutEnd(..) => Method::PutEnd,
            Call::BatchPutEnd(..) => Method::BatchPutEnd,
            Call::PutRevoke(..) => Method::PutRevoke,
            Call::BatchPutRevoke(..) => Method::BatchPutRevoke,
            Call::Remove { .. } => Method::Remove,
            Call::BatchRemove { .. } => Method::BatchRemove,
            Call::RemoveByPattern { .. } => Method::RemoveByPattern,
            Call::RemoveAll { .. } => Method::RemoveAll,
            Call::Mount(..) => Method::Mount,
            Call::Remount(..) => Method::Remount,
            Call::Unmount(..) => Method::Unmount,
            Call::Greet { .. } => Method::Greet,
            Call::Attend { .. } => Method::Attend,
            Call::Report { .. } => Method::Report,
            Call::Suspect { .. } => Method::Suspect,
            Call::Keep { .. } => Method::Keep,
            Call::Unfinished { .. } => Method::Unfinished,
        }
    }

    /// The answer that refuses the whole call; one entry per item where the call is batched.
    pub fn refuse(&self, why: Refusal) -> Reply {
        match self {
            Call::ServiceReady => Reply::Ready(Err(why)),
            Call::StorageDirectory => Reply::Directory(Err(why)),
            Call::Ping(_) => Reply::Pong(Err(why)),
            Call::Exists(_) => Reply::Exists(Err(why)),
            Call::BatchExists(keys) => Reply::BatchExists(vec![Err(why); keys.len()]),
            Call::Lookup(_) => Reply::Located(Err(why)),
            Call::BatchLookup(keys) => Reply::BatchLocated(vec![Err(why); keys.len()]),
            Call::LookupByPattern(_) => Reply::Found(Err(why)),
            Call::PutStart(..) => Reply::Granted(Err(why)),
            Call::BatchPutStart(_, items, _) => Reply::BatchGranted(vec![Err(why); items.len()]),
            Call::BatchPutEnd(_, keys, ..)
            | Call::BatchPutRevoke(_, keys, ..)
            | Call::BatchRemove { keys, .. } => Reply::BatchDone(vec![Err(why); keys.len()]),
            Call::RemoveByPattern { .. } => Reply::Removed(Err(why)),
            Call::RemoveAll { .. } => Reply::RemovedAll(0),
            Call::Greet { .. } => Reply::Greeted(Err(why)),
            Call::Attend { .. } => Reply::Events(Err(why)),
            Call::PutEnd(..)
            | Call::PutRevoke(..)
            | Call::Remove { .. }
            | Call::Mount(..)
            | Call::Remount(..)
            | Call::Unmount(..)
            | Call::Report { .. }
            | Call::Suspect { .. }
            | Call::Keep { .. }
            | Call::Unfinished { .. } => Reply::Done(Err(why)),
        }
    }
}
