//! The client of the store's calls against the real master of 0.3.7.post2: every function that it
//! has, its refusals, and its end and return.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[path = "common/ports.rs"]
#[allow(unreachable_pub, clippy::unwrap_used, clippy::panic)] // A failed test is a panic.
mod ports;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/upstream_master.rs"]
mod upstream_master;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mooncake::error::ErrorKind;
use mooncake::pool::identity::{ClientId, SegmentId, Uuid};
use mooncake::pool::object::{Key, PutItem, PutOptions};
use mooncake::pool::outcome::{Outcome, Refusal};
use mooncake::pool::replica::{Located, Place, Replica, ReplicaKind, ReplicaStatus};
use mooncake::pool::segment::{ClientStatus, Segment};
use mooncake::rpc::client::{ClientOptions, MasterClient};
use mooncake::rpc::dialect::Dialect;
use mooncake::rpc::message::{Call, Granted, Method, Reply};
use mooncake::time::Deadline;
use upstream_master::UpstreamMaster;

const BASE: u64 = 0x7000_0000_0000;
const SIZE: u64 = 64 << 20;
const ENDPOINT: &str = "127.0.0.1:12345";
const LEASE_MS: u64 = 300;

/// Calls and remembers what was called.
struct Caller {
    client: MasterClient,
    called: RefCell<BTreeSet<Method>>,
}

macro_rules! answer {
    ($caller:expr, $call:expr, $kind:ident) => {
        match $caller.call($call) {
            Reply::$kind(answer) => answer,
            other => panic!("{other:?}"),
        }
    };
}

impl Caller {
    fn new(master: &UpstreamMaster) -> Caller {
        let client = MasterClient::new(ClientOptions::new(master.address.to_string())).unwrap();
        Caller { client, called: RefCell::default() }
    }

    fn call(&self, call: Call) -> Reply {
        self.called.borrow_mut().insert(call.method());
        self.client.call(&call, Deadline::within(Duration::from_secs(20))).unwrap()
    }

    fn done(&self, call: Call) -> Outcome<()> {
        answer!(self, call, Done)
    }

    fn all_done(&self, call: Call) -> Vec<Outcome<()>> {
        answer!(self, call, BatchDone)
    }

    fn exists(&self, key: &str) -> bool {
        answer!(self, Call::Exists(bytes(key)), Exists).unwrap()
    }

    fn lookup(&self, key: &str) -> Outcome<Located> {
        answer!(self, Call::Lookup(bytes(key)), Located)
    }

    fn put_start(&self, key: &str, slices: &[u64]) -> Outcome<Granted> {
        let call = Call::PutStart(None, item(key, slices), PutOptions::default());
        answer!(self, call, Granted)
    }

    fn put(&self, key: &str) {
        self.put_start(key, &[100]).unwrap();
        assert_eq!(self.done(Call::PutEnd(None, bytes(key), ReplicaKind::Memory, 0)), Ok(()));
    }
}

fn bytes(key: &str) -> Key {
    key.as_bytes().to_vec()
}

fn item(key: &str, slices: &[u64]) -> PutItem {
    PutItem::new(bytes(key), slices.to_vec())
}

/// The ranges of one replica in memory: address and size, all inside of the segment.
fn ranges(replicas: &[Replica], status: ReplicaStatus) -> Vec<(u64, u64)> {
    assert_eq!(replicas.len(), 1);
    assert_eq!((replicas[0].id, replicas[0].status), (0, status));
    let Place::Memory(ranges) = &replicas[0].place else { panic!("{replicas:?}") };
    let check = |range: &mooncake::pool::replica::BufferRange| {
        assert_eq!((range.endpoint.as_str(), range.protocol.as_str()), (ENDPOINT, ""));
        assert!(range.address >= BASE && range.address + range.size <= BASE + SIZE);
        (range.address, range.size)
    };
    ranges.iter().map(check).collect()
}

/// The wheel, or a printed reason.
fn start(flags: &[&str]) -> Option<UpstreamMaster> {
    match upstream_master::wheel() {
        Ok(wheel) => Some(UpstreamMaster::start(&wheel, flags)),
        Err(reason) => {
            skip::skipped(format_args!("no upstream master: {reason}"));
            None
        }
    }
}

#[test]
fn every_function_of_the_upstream_master() {
    let lease = format!("--default_kv_lease_ttl={LEASE_MS}");
    let Some(master) = start(&[&lease]) else { return };
    let caller = Caller::new(&master);
    let me = ClientId(Uuid { first: 11, second: 22 });
    // The view it tells is a number that it never set.
    let status = || answer!(caller, Call::Ping(me), Pong).map(|pong| pong.status);

    assert_eq!(answer!(caller, Call::ServiceReady, Ready), Ok(String::new()));
    assert_eq!(caller.client.dialect(), Some(Dialect::Upstream0_3_7));
    assert_eq!(caller.client.greeting(), None);
    assert_eq!(answer!(caller, Call::StorageDirectory, Directory), Ok(String::new()));
    assert_eq!(status(), Ok(ClientStatus::NeedRemount));
    assert_eq!(caller.done(Call::Remount(Vec::new(), me)), Ok(()));
    assert_eq!(status(), Ok(ClientStatus::Ok));
    assert_eq!(caller.put_start("a", &[1]), Err(Refusal::NO_AVAILABLE_HANDLE));
    let segment = Segment {
        id: SegmentId(Uuid { first: 33, second: 44 }),
        name: "host:1".to_owned(),
        base: BASE,
        size: SIZE,
        endpoint: ENDPOINT.to_owned(),
        protocol: String::new(),
    };
    assert_eq!(caller.done(Call::Mount(segment.clone(), me)), Ok(()));
    let none = Segment { base: 0, ..segment.clone() };
    assert_eq!(caller.done(Call::Mount(none, me)), Err(Refusal::INVALID_PARAMS));

    // One object in two slices, from room to removal.
    assert!(!caller.exists("a"));
    assert_eq!(caller.lookup("a"), Err(Refusal::OBJECT_NOT_FOUND));
    let granted = caller.put_start("a", &[1000, 24]).unwrap();
    let given = ranges(&granted.replicas, ReplicaStatus::Processing);
    assert_eq!(given.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [1000, 24]);
    assert_eq!(caller.put_start("a", &[8]), Err(Refusal::OBJECT_ALREADY_EXISTS));
    assert_eq!(caller.put_start("", &[8]), Err(Refusal::INVALID_PARAMS));
    assert_eq!(caller.lookup("a"), Err(Refusal::REPLICA_IS_NOT_READY));
    let end = |key: &str, kind| Call::PutEnd(None, bytes(key), kind, 0);
    assert_eq!(caller.done(end("a", ReplicaKind::All)), Ok(()), "all is memory there");
    assert_eq!(caller.done(end("b", ReplicaKind::Memory)), Err(Refusal::OBJECT_NOT_FOUND));
    let revoke = |key: &str| Call::PutRevoke(None, bytes(key), ReplicaKind::Memory, 0);
    assert_eq!(caller.done(revoke("a")), Err(Refusal::INVALID_WRITE));
    let located = caller.lookup("a").unwrap();
    assert_eq!(ranges(&located.replicas, ReplicaStatus::Complete), given);
    assert_eq!((located.lease_ttl_ms, located.generation), (LEASE_MS, 0));
    assert!(caller.exists("a"));
    let remove = |key: &str| Call::Remove { key: bytes(key), force: false };
    assert_eq!(caller.done(remove("a")), Err(Refusal::OBJECT_HAS_LEASE));

    // Many at once, with keys that are long or no text.
    let long = "L".repeat(300);
    let odd = "nul\0/slash";
    let items = vec![item("b1", &[100]), item("b1", &[100]), item(&long, &[7]), item(odd, &[9])];
    let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
    let start = Call::BatchPutStart(None, items, PutOptions::default());
    let all = answer!(caller, start, BatchGranted);
    assert_eq!(all[1], Err(Refusal::OBJECT_ALREADY_EXISTS));
    assert!([0, 2, 3].into_iter().all(|at| all[at].is_ok()), "{all:?}");
    let call = Call::BatchPutEnd(None, keys.clone(), ReplicaKind::Memory, Vec::new());
    assert_eq!(caller.all_done(call), vec![Ok(()); 4]);
    let mut asked = keys.clone();
    asked.push(bytes("absent"));
    let there = answer!(caller, Call::BatchExists(asked.clone()), BatchExists);
    assert_eq!(there, [Ok(true), Ok(true), Ok(true), Ok(true), Ok(false)]);
    let all = answer!(caller, Call::BatchLookup(asked), BatchLocated);
    let sizes = |one: &Outcome<Located>| {
        one.as_ref().map(|one| ranges(&one.replicas, ReplicaStatus::Complete)[0].1).map_err(|e| *e)
    };
    let sizes: Vec<_> = all.iter().map(sizes).collect();
    assert_eq!(sizes, [Ok(100), Ok(100), Ok(7), Ok(9), Err(Refusal::OBJECT_NOT_FOUND)]);
    let found = answer!(caller, Call::LookupByPattern(b"^(L+|b1)$".to_vec()), Found).unwrap();
    let found: BTreeSet<Key> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, BTreeSet::from([bytes("b1"), bytes(&long)]));
    let bad = answer!(caller, Call::LookupByPattern(b"(".to_vec()), Found);
    assert_eq!(bad, Err(Refusal::INVALID_PARAMS));

    // Puts that are given up.
    caller.put_start("r", &[5]).unwrap();
    assert_eq!(caller.done(revoke("r")), Ok(()));
    assert_eq!(caller.lookup("r"), Err(Refusal::OBJECT_NOT_FOUND));
    caller.put_start("r", &[5]).unwrap();
    let call =
        Call::BatchPutRevoke(None, vec![bytes("r"), bytes("x")], ReplicaKind::Memory, Vec::new());
    assert_eq!(caller.all_done(call), [Ok(()), Err(Refusal::OBJECT_NOT_FOUND)]);

    // Removal, once the leases are over.
    let until = Instant::now() + Duration::from_secs(20);
    while caller.done(remove("a")) == Err(Refusal::OBJECT_HAS_LEASE) {
        assert!(Instant::now() < until, "the lease does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!caller.exists("a"));
    caller.put("c1");
    caller.put("c2");
    let pattern = |pattern: &str| Call::RemoveByPattern { pattern: bytes(pattern), force: false };
    assert_eq!(answer!(caller, pattern("^c[0-9]$"), Removed), Ok(2));
    caller.put("d");
    let call = Call::RemoveAll { force: false };
    assert!((1..=4).contains(&answer!(caller, call, RemovedAll)));
    assert_eq!(caller.done(Call::Unmount(segment.id, me)), Ok(()));
    assert_eq!(caller.put_start("e", &[1]), Err(Refusal::NO_AVAILABLE_HANDLE));

    assert_eq!(caller.called.borrow().len(), 20, "{:?}", caller.called.borrow());
    let greet = Call::Greet { version: 1 };
    let error = caller.client.call(&greet, Deadline::within(Duration::from_secs(20))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_killed_upstream_master_is_refused_and_its_successor_is_found() {
    let Some(master) = start(&[]) else { return };
    let caller = Caller::new(&master);
    let deadline = || Deadline::within(Duration::from_secs(20));
    let call = Call::Exists(bytes("key"));
    assert!(!caller.exists("key"));
    drop(master);
    let mut kinds = BTreeSet::new();
    for _ in 0..100 {
        let error = caller.client.call(&call, deadline()).unwrap_err();
        kinds.insert(format!("{:?}", error.kind()));
    }
    assert!(kinds.contains("PeerDown"), "{kinds:?}");
    let Some(master) = start(&[]) else { return };
    caller.client.redirect(&master.address.to_string()).unwrap();
    assert!(!caller.exists("key"));
    assert_eq!(caller.client.dialect(), Some(Dialect::Upstream0_3_7));
}
