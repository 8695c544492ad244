//! The rules of the store one by one, with upstream's numbers.

use std::time::Duration;

use super::{addresses, client, item, segment, Bench, MIB};
use crate::limits;
use crate::master::state::{Operation, Settings, Step, Waiting};
use crate::pool::object::{PutItem, PutOptions};
use crate::pool::outcome::Refusal;
use crate::pool::replica::{Place, ReplicaKind, ReplicaStatus};
use crate::pool::segment::{ClientStatus, SegmentEvent};
use crate::rpc::message::{Call, Reply};

fn bench() -> Bench {
    let bench = Bench::new(Settings { shards: 8, ..Settings::default() });
    bench.mount(1, 64 * MIB).unwrap();
    bench
}

fn revoke(bench: &Bench, key: &[u8]) -> Result<(), Refusal> {
    bench.done(Call::PutRevoke(None, key.to_vec(), ReplicaKind::Memory, 0))
}

#[test]
fn life_of_an_object() {
    let mut bench = bench();
    assert_eq!(bench.lookup(b"k").unwrap_err(), Refusal::OBJECT_NOT_FOUND);
    assert!(!bench.exists(b"k"));
    let granted = bench.start(None, item(b"k", 1000), PutOptions::default()).unwrap();
    assert_eq!(granted.replicas.len(), 1);
    assert_eq!(granted.replicas[0].status, ReplicaStatus::Processing);
    assert_eq!(bench.lookup(b"k").unwrap_err(), Refusal::REPLICA_IS_NOT_READY);
    assert!(!bench.exists(b"k"));
    assert_eq!(bench.remove(b"k").unwrap_err(), Refusal::REPLICA_IS_NOT_READY);
    bench.end(None, b"k").unwrap();
    bench.end(None, b"k").unwrap();
    assert_eq!(revoke(&bench, b"k").unwrap_err(), Refusal::INVALID_WRITE);
    // The end of a put gives no lease, a look does.
    let located = bench.lookup(b"k").unwrap();
    assert_eq!(addresses(&located.replicas), addresses(&granted.replicas));
    assert_eq!((located.generation, located.lease_ttl_ms), (granted.generation, 5000));
    assert_eq!(located.replicas[0].status, ReplicaStatus::Complete);
    bench.pass(4999);
    assert_eq!(bench.remove(b"k").unwrap_err(), Refusal::OBJECT_HAS_LEASE);
    bench.pass(1);
    bench.remove(b"k").unwrap();
    assert_eq!(bench.remove(b"k").unwrap_err(), Refusal::OBJECT_NOT_FOUND);
    assert_eq!(bench.end(None, b"k").unwrap_err(), Refusal::OBJECT_NOT_FOUND);
    assert_eq!(revoke(&bench, b"k").unwrap_err(), Refusal::OBJECT_NOT_FOUND);
}

#[test]
fn exist_gives_a_lease_and_force_ignores_it() {
    let bench = bench();
    bench.put(b"k", 10).unwrap();
    assert!(bench.exists(b"k"));
    assert_eq!(bench.remove(b"k").unwrap_err(), Refusal::OBJECT_HAS_LEASE);
    assert_eq!(bench.call(Call::RemoveAll { force: false }), Reply::RemovedAll(0));
    bench.done(Call::Remove { key: b"k".to_vec(), force: true }).unwrap();
    assert!(!bench.exists(b"k"));
}

#[test]
fn wrong_arguments() {
    let bench = bench();
    let start = |item: PutItem, replica_num| {
        let options = PutOptions { replica_num, ..PutOptions::default() };
        bench.start(None, item, options).map(|_| ())
    };
    let slices = |slices: Vec<u64>| PutItem::new(b"k".to_vec(), slices);
    let long = vec![b'x'; limits::KEY_BYTES_MAX];
    let too_long = vec![b'x'; limits::KEY_BYTES_MAX + 1];
    for (item, replica_num) in [
        (item(b"", 1), 1),
        (item(b"k", 1), 0),
        (slices(vec![]), 1),
        (slices(vec![0]), 1),
        (slices(vec![1, 0]), 1),
        (slices(vec![u64::MAX, 2]), 1),
        (slices(vec![1; limits::OBJECT_SLICES_MAX + 1]), 1),
        (item(&too_long, 1), 1),
    ] {
        assert_eq!(start(item, replica_num), Err(Refusal::INVALID_PARAMS));
    }
    start(item(&long, 1), 1).unwrap();
    start(item(b"a\0/\xff\n", 1), u64::MAX).unwrap();
    assert_eq!(start(item(b"k", 65 * MIB), 1), Err(Refusal::NO_AVAILABLE_HANDLE));
    start(item(b"whole", 63 * MIB), 1).unwrap();
}

#[test]
fn slices_lie_one_behind_the_other() {
    let bench = bench();
    let put = PutItem::new(b"k".to_vec(), vec![100, 28, 1]);
    bench.start(None, put, PutOptions::default()).unwrap();
    bench.end(None, b"k").unwrap();
    let located = bench.lookup(b"k").unwrap();
    let Place::Memory(ranges) = &located.replicas[0].place else { panic!() };
    let sizes: Vec<u64> = ranges.iter().map(|range| range.size).collect();
    assert_eq!(sizes, [100, 28, 1]);
    assert_eq!(ranges[1].address, ranges[0].address + 100);
    assert_eq!(ranges[2].address, ranges[1].address + 28);
    assert_eq!(ranges[0].address % 64, 0);
    assert_eq!((ranges[0].endpoint.as_str(), ranges[0].protocol.as_str()), ("host1:1", "tcp"));
}

#[test]
fn an_existing_key_and_an_unfinished_one() {
    let mut bench = bench();
    let (one, two) = (Some(client(1)), Some(client(2)));
    let start = |bench: &Bench, owner| {
        bench.start(owner, item(b"k", 10), PutOptions::default()).map(|granted| granted.generation)
    };
    let first = start(&bench, None).unwrap();
    // Upstream's dialect has one number for both.
    assert_eq!(start(&bench, None), Err(Refusal::OBJECT_ALREADY_EXISTS));
    assert_eq!(start(&bench, one), Err(Refusal::REPLICA_IS_NOT_READY));
    bench.ping(client(1));
    bench.pass(29_999);
    bench.ping(client(1));
    assert_eq!(start(&bench, one), Err(Refusal::REPLICA_IS_NOT_READY));
    bench.pass(1);
    let second = start(&bench, one).unwrap();
    assert!(second > first);
    // Now it has an owner.
    assert_eq!(bench.end(two, b"k"), Err(Refusal::ILLEGAL_CLIENT));
    assert_eq!(bench.end(None, b"k"), Err(Refusal::ILLEGAL_CLIENT));
    assert_eq!(revoke(&bench, b"k"), Err(Refusal::ILLEGAL_CLIENT));
    assert!(!bench.exists(b"k"));
    bench.end(one, b"k").unwrap();
    bench.end(one, b"k").unwrap();
    assert_eq!(bench.end(two, b"k"), Err(Refusal::ILLEGAL_CLIENT));
    assert_eq!(start(&bench, one), Err(Refusal::OBJECT_ALREADY_EXISTS));
    assert_eq!(start(&bench, None), Err(Refusal::OBJECT_ALREADY_EXISTS));
}

#[test]
fn a_late_end_does_not_complete_the_put_of_somebody_else() {
    let mut bench = bench();
    let late = Some(client(2));
    bench.ping(client(2));
    bench.start(late, item(b"k", 10), PutOptions::default()).unwrap();
    bench.pass(9_000);
    bench.ping(client(1));
    bench.pass(1_100);
    bench.tick();
    assert_eq!(bench.end(late, b"k"), Err(Refusal::OBJECT_NOT_FOUND));
    bench.start(None, item(b"k", 10), PutOptions::default()).unwrap();
    assert_eq!(bench.end(late, b"k"), Err(Refusal::ILLEGAL_CLIENT));
    let revoked = Call::PutRevoke(late, b"k".to_vec(), ReplicaKind::Memory, 0);
    assert_eq!(bench.done(revoked), Err(Refusal::ILLEGAL_CLIENT));
    assert!(!bench.exists(b"k"));
    bench.end(None, b"k").unwrap();
    assert!(bench.exists(b"k"));
}

#[test]
fn a_late_word_about_an_earlier_put_of_the_same_client_changes_nothing() {
    let bench = bench();
    let owner = Some(client(2));
    let word = |end: bool, kind, put| {
        let (key, puts) = (b"k".to_vec(), vec![put]);
        let call = match end {
            true => Call::PutEnd(owner, key.clone(), kind, put),
            false => Call::PutRevoke(owner, key.clone(), kind, put),
        };
        let batch = match end {
            true => Call::BatchPutEnd(owner, vec![key], kind, puts),
            false => Call::BatchPutRevoke(owner, vec![key], kind, puts),
        };
        let outcome = bench.done(call);
        if outcome.is_err() {
            assert_eq!(bench.call(batch), Reply::BatchDone(vec![outcome]));
        }
        outcome
    };
    let start = || bench.start(owner, item(b"k", 10), PutOptions::default()).unwrap().generation;
    let (memory, disk) = (ReplicaKind::Memory, ReplicaKind::Disk);
    let first = start();
    word(false, memory, first).unwrap();
    assert_eq!(word(true, memory, first), Err(Refusal::OBJECT_NOT_FOUND));
    let second = start();
    for kind in [memory, disk] {
        assert_eq!(word(true, kind, first), Err(Refusal::REPLICA_IS_GONE));
        assert_eq!(word(false, kind, first), Err(Refusal::REPLICA_IS_GONE));
    }
    assert!(!bench.exists(b"k"), "an earlier end has completed it");
    word(true, memory, second).unwrap();
    assert!(bench.exists(b"k"), "an earlier revocation has dropped it");
    assert_eq!(word(false, memory, second), Err(Refusal::INVALID_WRITE));
    // Older clients of ours do not say which, and are believed as before.
    bench.start(owner, item(b"l", 10), PutOptions::default()).unwrap();
    bench.end(owner, b"l").unwrap();
}

#[test]
fn puts_that_their_client_does_not_know_are_dropped() {
    let mut bench = bench();
    let start = |bench: &Bench, owner, key: &[u8]| {
        bench.start(owner, item(key, 10), PutOptions::default()).unwrap().generation
    };
    let (one, two) = (Some(client(2)), Some(client(3)));
    let going = start(&bench, one, b"going");
    start(&bench, one, b"lost");
    start(&bench, two, b"of another");
    start(&bench, None, b"of nobody");
    start(&bench, one, b"ended");
    bench.end(one, b"ended").unwrap();
    bench.pass(3000);
    start(&bench, one, b"young");
    let call = |puts| Call::Unfinished { client: client(2), puts, age_ms: 2000 };
    bench.done(call(vec![going])).unwrap();
    assert_eq!(bench.end(one, b"lost"), Err(Refusal::OBJECT_NOT_FOUND));
    start(&bench, two, b"lost");
    for (owner, key) in
        [(one, &b"going"[..]), (two, b"of another"), (None, b"of nobody"), (one, b"young")]
    {
        bench.end(owner, key).unwrap();
    }
    assert!(bench.exists(b"ended"));
    assert_eq!(bench.state.totals().abandoned_puts, 1);
    // The writer may stand still and go on: the holder shuts it out before the range is used.
    let told = bench.attend_all(client(1));
    assert!(matches!(told[0], SegmentEvent::Completed(_)), "{told:?}");
    let most = limits::STORE_OPEN_PUTS_MAX;
    assert_eq!(bench.done(call(vec![1; most + 1])), Err(Refusal::INVALID_PARAMS));
}

#[test]
fn an_abandoned_put_is_freed() {
    let mut bench = bench();
    let whole = || item(b"k", 64 * MIB);
    bench.start(None, whole(), PutOptions::default()).unwrap();
    for _ in 0..599 {
        bench.pass(1000);
        bench.ping(client(1));
        bench.tick();
    }
    assert_eq!(bench.state.totals().keys, 1);
    bench.pass(1000);
    bench.ping(client(1));
    bench.tick();
    assert_eq!(bench.state.totals().keys, 0);
    bench.tick();
    bench.start(None, whole(), PutOptions::default()).unwrap();
}

#[test]
fn a_put_of_a_dead_owner_is_freed_at_its_time_to_live() {
    let mut bench = bench();
    bench.ping(client(2));
    bench.start(Some(client(2)), item(b"k", 64 * MIB), PutOptions::default()).unwrap();
    bench.pass(9_900);
    bench.ping(client(1));
    bench.tick();
    assert_eq!(bench.state.totals().keys, 1);
    bench.pass(100);
    bench.tick();
    assert_eq!(bench.state.totals().keys, 0);
    // It may go on where it stood, and the holder cannot keep it from that.
    let start = |bench: &Bench| bench.start(None, item(b"k", 64 * MIB), PutOptions::default());
    for _ in 0..20 {
        assert_eq!(start(&bench).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
        bench.pass(1_000);
        bench.ping(client(1));
        bench.tick();
    }
    start(&bench).unwrap();
}

#[test]
fn a_range_of_a_dead_writer_is_used_again_once_its_holder_has_shut_it_out() {
    let mut bench = bench();
    assert_eq!(bench.attend(client(1), 0).pong.status, ClientStatus::NeedRemount);
    bench.done(Call::Remount(vec![segment(1, 64 * MIB)], client(1))).unwrap();
    bench.ping(client(2));
    let whole = || item(b"k", 64 * MIB);
    let granted = bench.start(Some(client(2)), whole(), PutOptions::default()).unwrap();
    bench.pass(9_900);
    assert_eq!(bench.attend(client(1), 0).events, []);
    bench.pass(200);
    bench.tick();
    // Its writer has not gone on yet; whatever the holder says before it was told means nothing.
    let told = bench.attend(client(1), 0);
    let [SegmentEvent::Gone { address, generation, .. }] = told.events.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((*address, *generation), (addresses(&granted.replicas)[0], granted.generation));
    let start = |bench: &Bench| bench.start(None, whole(), PutOptions::default());
    for _ in 0..6 {
        bench.pass(1_000);
        bench.attend(client(1), 0);
        bench.tick();
        assert_eq!(start(&bench).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    }
    bench.attend(client(1), told.last);
    bench.tick();
    start(&bench).unwrap();
}

#[test]
fn a_holder_that_was_given_up_takes_nothing_while_old_leases_run() {
    for native in [false, true] {
        let mut bench = bench();
        let hear = |bench: &Bench| match native {
            true => bench.attend(client(1), 0).pong.status,
            false => bench.ping(client(1)),
        };
        let mount = Call::Remount(vec![segment(1, 64 * MIB)], client(1));
        assert_eq!(hear(&bench), ClientStatus::NeedRemount);
        bench.done(mount.clone()).unwrap();
        bench.pass(20_000);
        assert_eq!(hear(&bench), ClientStatus::Ok);
        bench.put(b"k", 10).unwrap();
        bench.pass(9_900);
        // A reader that may copy until five seconds later.
        bench.lookup(b"k").unwrap();
        bench.pass(101);
        bench.tick();
        assert_eq!(hear(&bench), ClientStatus::NeedRemount);
        bench.done(mount).unwrap();
        bench.done(Call::Report { client: client(1), objects: Vec::new(), last: true }).unwrap();
        for _ in 0..9 {
            bench.pass(1_000);
            hear(&bench);
            bench.tick();
            assert_eq!(bench.put(b"l", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
        }
        bench.pass(1_000);
        hear(&bench);
        bench.tick();
        bench.put(b"l", 10).unwrap();
    }
}

#[test]
fn what_waits_for_a_silent_holder_is_waited_for() {
    let mut bench = bench();
    bench.start(None, item(b"a", 64 * MIB), PutOptions::default()).unwrap();
    revoke(&bench, b"a").unwrap();
    bench.pass(3_000);
    bench.tick();
    bench.pass(3_000);
    bench.tick();
    // The rest is over, but its bytes may be in the holder's sockets.
    bench.ping(client(1));
    let put = |bench: &Bench| bench.put(b"b", 64 * MIB);
    assert_eq!(put(&bench).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    bench.pass(999);
    assert_eq!(put(&bench).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    bench.pass(1);
    put(&bench).unwrap();
}

#[test]
fn a_range_rests_one_lease_after_the_last_lease() {
    let mut bench = bench();
    let whole = 64 * MIB;
    bench.put(b"a", whole).unwrap();
    // Never looked up: at once.
    bench.remove(b"a").unwrap();
    bench.put(b"b", whole).unwrap();
    bench.lookup(b"b").unwrap();
    bench.pass(5_000);
    bench.ping(client(1));
    bench.remove(b"b").unwrap();
    bench.pass(4_999);
    bench.ping(client(1));
    assert_eq!(bench.put(b"c", whole).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    let totals = bench.state.totals();
    assert_eq!((totals.used, totals.resting, totals.keys), (0, whole, 0));
    bench.pass(1);
    bench.tick();
    bench.put(b"c", whole).unwrap();
    assert_eq!(bench.state.totals().resting, 0);
}

#[test]
fn a_revoked_range_rests_for_its_writer() {
    let mut bench = bench();
    bench.start(None, item(b"a", 64 * MIB), PutOptions::default()).unwrap();
    revoke(&bench, b"a").unwrap();
    assert_eq!(bench.put(b"b", 64 * MIB).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    bench.pass(5_000);
    bench.ping(client(1));
    bench.tick();
    bench.put(b"b", 64 * MIB).unwrap();
}

#[test]
fn copies_are_in_segments_of_different_names() {
    let bench = bench();
    bench.mount(2, 64 * MIB).unwrap();
    let mut twin = segment(3, 64 * MIB);
    twin.name = "host2".to_owned();
    bench.done(Call::Mount(twin, client(2))).unwrap();
    let options = PutOptions { replica_num: 5, ..PutOptions::default() };
    for key in 0..20_u8 {
        let granted = bench.start(None, item(&[key], 10), options.clone()).unwrap();
        assert_eq!(granted.replicas.len(), 2);
        let names: Vec<u64> = addresses(&granted.replicas).iter().map(|at| at >> 42).collect();
        assert!(names.contains(&2), "{names:?}");
    }
    assert_eq!(bench.state.totals().partial_allocations, 20);
    let preferred = PutOptions {
        preferred_segments: vec!["nobody".to_owned(), "host1".to_owned()],
        ..PutOptions::default()
    };
    for key in 100..120_u8 {
        let granted = bench.start(None, item(&[key], 10), preferred.clone()).unwrap();
        assert_eq!(addresses(&granted.replicas)[0] >> 42, 2);
    }
    let together = PutOptions { same_node: true, ..PutOptions::default() };
    for round in 0..10_u8 {
        let items = (0..5_u8).map(|n| PutItem::new(vec![200, round, n], vec![5, 6]));
        let call = Call::BatchPutStart(None, items.collect(), together.clone());
        let Reply::BatchGranted(all) = bench.call(call) else { panic!() };
        let all: Vec<_> = all.into_iter().map(|one| one.unwrap().replicas).collect();
        let names: std::collections::HashSet<String> = all
            .iter()
            .map(|replicas| match &replicas[0].place {
                Place::Memory(ranges) => {
                    assert_eq!(ranges.len(), 1);
                    assert_eq!(ranges[0].size, 11);
                    let at = ranges[0].address >> 42;
                    if at == 2 { "host1" } else { "host2" }.to_owned()
                }
                Place::Disk { .. } => panic!(),
            })
            .collect();
        assert_eq!(names.len(), 1);
    }
}

#[test]
fn mounting() {
    let bench = Bench::new(Settings::default());
    let size = MIB;
    let mut broken = segment(1, size);
    broken.base = 0;
    assert_eq!(bench.done(Call::Mount(broken, client(1))), Err(Refusal::INVALID_PARAMS));
    assert_eq!(bench.mount(1, 0), Err(Refusal::INVALID_PARAMS));
    let mut broken = segment(1, size);
    broken.base = u64::MAX - 5;
    assert_eq!(bench.done(Call::Mount(broken, client(1))), Err(Refusal::INVALID_PARAMS));
    bench.mount(1, size).unwrap();
    bench.mount(1, size).unwrap();
    let taken = Call::Mount(segment(1, size), client(2));
    assert_eq!(bench.done(taken), Err(Refusal::SEGMENT_ALREADY_EXISTS));
    let mut overlapping = segment(1, size);
    overlapping.id = segment(9, size).id;
    overlapping.base += size - 1;
    assert_eq!(bench.done(Call::Mount(overlapping, client(1))), Err(Refusal::INVALID_PARAMS));
    assert_eq!(bench.state.segments().len(), 1);
    // Mounting alone does not make a client known; remounting does, even of nothing.
    assert_eq!(bench.ping(client(1)), ClientStatus::NeedRemount);
    bench.done(Call::Remount(vec![segment(1, size)], client(1))).unwrap();
    assert_eq!(bench.ping(client(1)), ClientStatus::Ok);
    bench.done(Call::Remount(vec![segment(5, size)], client(1))).unwrap();
    assert_eq!(bench.state.segments().len(), 1);
    bench.done(Call::Remount(vec![], client(3))).unwrap();
    assert_eq!(bench.ping(client(3)), ClientStatus::Ok);
    bench.put(b"k", 10).unwrap();
    let unmount = |who| bench.done(Call::Unmount(segment(1, size).id, client(who)));
    assert_eq!(unmount(2), Err(Refusal::ILLEGAL_CLIENT));
    assert!(bench.exists(b"k"));
    unmount(1).unwrap();
    unmount(1).unwrap();
    assert!(!bench.exists(b"k"));
    assert_eq!(bench.put(b"k", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    assert_eq!(bench.ping(client(1)), ClientStatus::Ok);
    bench.mount(1, size).unwrap();
    bench.put(b"k", 10).unwrap();
}

#[test]
fn a_silent_client_is_left_out_at_once_and_gone_at_its_time_to_live() {
    let mut bench = bench();
    bench.put(b"k", 10).unwrap();
    bench.pass(3_000);
    bench.tick();
    assert_eq!(bench.put(b"l", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    assert!(bench.exists(b"k"));
    bench.ping(client(1));
    bench.put(b"l", 10).unwrap();
    bench.pass(9_999);
    bench.tick();
    assert!(bench.exists(b"k"));
    bench.pass(101);
    bench.tick();
    assert!(!bench.exists(b"k"));
    assert_eq!(bench.state.segments(), []);
    assert_eq!(bench.state.totals().keys, 0);
    assert_eq!(bench.ping(client(1)), ClientStatus::NeedRemount);
}

#[test]
fn a_suspect_is_left_out_until_it_is_heard_of() {
    let bench = bench();
    bench.ping(client(2));
    let suspect = |endpoint: &str| {
        bench.done(Call::Suspect { client: client(2), endpoint: endpoint.to_owned() })
    };
    assert_eq!(suspect("nobody"), Err(Refusal::SEGMENT_NOT_FOUND));
    suspect("host1:1").unwrap();
    assert!(!bench.state.segments()[0].is_open);
    assert_eq!(bench.put(b"k", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    bench.ping(client(1));
    bench.put(b"k", 10).unwrap();
    bench.state.drain_client(client(1), true);
    assert_eq!(bench.put(b"l", 10).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    assert!(bench.exists(b"k"));
    bench.state.drain_client(client(1), false);
    bench.put(b"l", 10).unwrap();
}

#[test]
fn batches_go_item_by_item_and_are_counted() {
    let bench = bench();
    let items = vec![item(b"a", 10), item(b"", 10), item(b"b", 10), item(b"a", 10)];
    let call = Call::BatchPutStart(None, items, PutOptions::default());
    let Reply::BatchGranted(granted) = bench.call(call) else { panic!() };
    let refusals: Vec<_> = granted.iter().map(|g| g.as_ref().err().copied()).collect();
    let exists = Some(Refusal::OBJECT_ALREADY_EXISTS);
    assert_eq!(refusals, [None, Some(Refusal::INVALID_PARAMS), None, exists]);
    let keys = vec![b"a".to_vec(), b"nope".to_vec()];
    let ended = bench.call(Call::BatchPutEnd(None, keys, ReplicaKind::Memory, Vec::new()));
    assert_eq!(ended, Reply::BatchDone(vec![Ok(()), Err(Refusal::OBJECT_NOT_FOUND)]));
    let keys = vec![b"b".to_vec()];
    let revoked = bench.call(Call::BatchPutRevoke(None, keys, ReplicaKind::Memory, Vec::new()));
    assert_eq!(revoked, Reply::BatchDone(vec![Ok(())]));
    let found = bench.call(Call::BatchExists(vec![b"a".to_vec(), b"b".to_vec()]));
    assert_eq!(found, Reply::BatchExists(vec![Ok(true), Ok(false)]));
    let tally = bench.state.counters().tally(Operation::BatchPutStart);
    assert_eq!((tally.requests, tally.failures, tally.partial_successes), (1, 0, 1));
    assert_eq!((tally.items, tally.failed_items), (4, 2));
    let (buckets, sum) = bench.state.counters().value_sizes();
    assert_eq!((buckets[0], sum), (4, 40));
}

#[test]
fn patterns() {
    let mut bench = bench();
    for key in ["layer_1/a", "layer_2/a", "other"] {
        bench.put(key.as_bytes(), 10).unwrap();
    }
    bench.start(None, item(b"layer_3/a", 10), PutOptions::default()).unwrap();
    let found = |pattern: &str| match bench.call(Call::LookupByPattern(pattern.into())) {
        Reply::Found(outcome) => outcome.map(|mut all| {
            all.sort_by(|one, other| one.0.cmp(&other.0));
            all.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<Vec<_>>()
        }),
        other => panic!("{other:?}"),
    };
    assert_eq!(found("^layer_[0-9]").unwrap(), ["layer_1/a", "layer_2/a"]);
    assert_eq!(found("(").unwrap_err(), Refusal::INVALID_PARAMS);
    let remove = |bench: &Bench, pattern: &str, force| {
        bench.call(Call::RemoveByPattern { pattern: pattern.into(), force })
    };
    assert_eq!(remove(&bench, "a", false), Reply::Removed(Ok(0)));
    assert_eq!(remove(&bench, "_1", true), Reply::Removed(Ok(1)));
    bench.pass(5_000);
    assert_eq!(remove(&bench, "a$", false), Reply::Removed(Ok(1)));
    assert_eq!(remove(&bench, "(?=a)", false), Reply::Removed(Err(Refusal::INVALID_PARAMS)));
    assert_eq!(bench.call(Call::RemoveAll { force: true }), Reply::RemovedAll(1));
    // The unfinished put is still there, and can be ended.
    bench.end(None, b"layer_3/a").unwrap();
    let mut keys = Vec::new();
    bench.state.each_key(|key| keys.push(key.to_vec()));
    assert_eq!(keys, [b"layer_3/a".to_vec()]);
}

#[test]
fn a_holder_that_attends_must_take_note_before_its_ranges_are_used_again() {
    let mut bench = bench();
    assert_eq!(bench.attend(client(1), 0).pong.status, ClientStatus::NeedRemount);
    bench.done(Call::Remount(vec![segment(1, 64 * MIB)], client(1))).unwrap();
    let granted = bench.put(b"k", 64 * MIB).unwrap();
    let events = bench.attend(client(1), 0);
    let [SegmentEvent::Completed(held)] = events.events.as_slice() else { panic!("{events:?}") };
    assert_eq!((held.key.as_slice(), held.generation), (&b"k"[..], granted.generation));
    assert_eq!(held.address, addresses(&granted.replicas)[0]);
    bench.remove(b"k").unwrap();
    bench.pass(2_000);
    let again = bench.attend(client(1), events.last);
    let gone = SegmentEvent::Gone {
        segment: segment(1, 0).id,
        address: held.address,
        generation: granted.generation,
    };
    assert_eq!(again.events, [gone]);
    bench.pass(9_000);
    // An acknowledgement that was never asked for means nothing.
    bench.attend(client(1), u64::MAX);
    bench.tick();
    assert_eq!(bench.put(b"l", 64 * MIB).unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
    // It has been late for too long.
    bench.pass(2_000);
    bench.attend(client(1), 0);
    bench.tick();
    assert!(!bench.state.segments()[0].is_open);
    bench.attend(client(1), again.last);
    bench.tick();
    bench.put(b"l", 64 * MIB).unwrap();
}

#[test]
fn attending_waits_for_news() {
    let bench = bench();
    bench.attend(client(1), 0);
    bench.done(Call::Remount(vec![segment(1, 64 * MIB)], client(1))).unwrap();
    let call = Call::Attend { client: client(1), acknowledged: 0, wait_ms: 1000 };
    let Step::Later(waiting) = bench.step(call) else { panic!() };
    assert_eq!(waiting.until(), bench.now + Duration::from_secs(1));
    let Step::Later(waiting) = bench.state.resume(bench.now, waiting) else { panic!() };
    bench.put(b"k", 10).unwrap();
    let Step::Reply(Reply::Events(Ok(events))) = bench.state.resume(bench.now, waiting) else {
        panic!()
    };
    assert_eq!(events.events.len(), 1);
    let call = Call::Attend { client: client(1), acknowledged: events.last, wait_ms: 1000 };
    let Step::Later(waiting) = bench.step(call) else { panic!() };
    let Waiting::News { until, .. } = waiting else { panic!() };
    let Step::Reply(Reply::Events(Ok(events))) = bench.state.resume(until, waiting) else {
        panic!()
    };
    assert_eq!(events.events, []);
}

#[test]
fn news_that_did_not_fit_are_told_later() {
    let bench = bench();
    bench.attend(client(1), 0);
    bench.done(Call::Remount(vec![segment(1, 64 * MIB)], client(1))).unwrap();
    let count = limits::HOLDER_EVENTS_MAX + 1000;
    for number in 0..count {
        bench.put(&number.to_le_bytes(), 1).unwrap();
    }
    let mut told = std::collections::HashSet::new();
    for event in bench.attend_all(client(1)) {
        let SegmentEvent::Completed(held) = event else { panic!("{event:?}") };
        told.insert(held.generation);
    }
    assert_eq!(told.len(), count);
}

#[test]
fn greeting() {
    let bench = bench();
    let Reply::Greeted(Ok(greeting)) = bench.call(Call::Greet { version: 9 }) else { panic!() };
    assert_eq!((greeting.version, greeting.master_life), (1, bench.state.life()));
    let refused = Reply::Greeted(Err(Refusal::INVALID_VERSION));
    assert_eq!(bench.call(Call::Greet { version: 0 }), refused);
    assert_eq!(bench.call(Call::ServiceReady), Reply::Ready(Ok(String::new())));
    assert_eq!(bench.call(Call::StorageDirectory), Reply::Directory(Ok(String::new())));
}
