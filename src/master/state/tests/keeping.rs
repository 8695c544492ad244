//! Ranges that a holder still reads after their objects are gone.

use super::{addresses, client, segment, Bench, MIB};
use crate::master::state::Settings;
use crate::pool::outcome::Refusal;
use crate::pool::segment::{ClientStatus, HeldObject, KeptRange, SegmentEvent};
use crate::rpc::message::Call;

/// One attending client of 4 MiB.
fn bench(life: u64) -> Bench {
    let bench = Bench::new(Settings { shards: 4, life, ..Settings::default() });
    bench.mount(1, 4 * MIB).unwrap();
    assert_eq!(bench.attend(client(1), 0).pong.status, ClientStatus::NeedRemount);
    bench.done(Call::Remount(vec![segment(1, 4 * MIB)], client(1))).unwrap();
    bench
}

fn keep(bench: &Bench, mount: bool, places: &[u64]) -> Result<(), Refusal> {
    let range =
        |address: &u64| KeptRange { segment: segment(1, 0).id, address: *address, size: MIB };
    let segments = if mount { vec![segment(1, 4 * MIB)] } else { Vec::new() };
    let ranges = places.iter().map(range).collect();
    bench.done(Call::Keep { client: client(1), segments, ranges })
}

/// Fills what is free with objects of 1 MiB; their addresses.
fn fill(bench: &Bench, name: u8) -> Vec<u64> {
    let mut taken = Vec::new();
    for number in 0..5 {
        match bench.start(None, super::item(&[name, number], MIB), Default::default()) {
            Ok(granted) => taken.extend(addresses(&granted.replicas)),
            Err(why) => {
                assert_eq!(why, Refusal::NO_AVAILABLE_HANDLE);
                break;
            }
        }
    }
    taken
}

#[test]
fn a_kept_range_is_used_again_only_when_it_is_given_back() {
    let mut bench = bench(1);
    let places: Vec<u64> =
        (0..4).map(|n| addresses(&bench.put(&[n], MIB).unwrap().replicas)[0]).collect();
    // Objects 1 and 2 are viewed; 0, 1 and 2 go.
    bench.attend_all(client(1));
    for number in 0..3 {
        bench.remove(&[number]).unwrap();
    }
    let gone = bench.attend(client(1), u64::MAX);
    assert_eq!(gone.events.len(), 3);
    keep(&bench, false, &places[1..3]).unwrap();
    bench.attend(client(1), gone.last);
    for _ in 0..10 {
        bench.pass(10_000);
        bench.attend_all(client(1));
        bench.tick();
    }
    // A lease, so that it is not evicted for the others.
    bench.lookup(&[3]).unwrap();
    assert_eq!(fill(&bench, b'a'), places[..1]);
    // Named twice or not at all there, it stays as it is.
    keep(&bench, false, &[places[2], places[2], 1, u64::MAX]).unwrap();
    bench.tick();
    assert_eq!(fill(&bench, b'b'), places[1..2]);
    keep(&bench, false, &[]).unwrap();
    bench.tick();
    assert_eq!(fill(&bench, b'c'), places[2..3]);
    assert_eq!(bench.state.totals().resting, 0);
}

#[test]
fn a_client_that_comes_back_keeps_what_it_still_reads() {
    let old = bench(1);
    let first = old.put(b"gone", MIB).unwrap();
    let second = old.put(b"alive", MIB).unwrap();
    let places = [addresses(&first.replicas)[0], addresses(&second.replicas)[0]];
    // A master that knows nothing: the client names both ranges, and reports one object.
    let mut bench = Bench::new(Settings { shards: 4, life: 2, ..Settings::default() });
    assert_eq!(bench.attend(client(1), 0).pong.status, ClientStatus::NeedRemount);
    keep(&bench, true, &places).unwrap();
    let object = HeldObject {
        key: b"alive".to_vec(),
        generation: second.generation,
        segment: segment(1, 0).id,
        address: places[1],
        slices: vec![MIB],
        soft_pin: false,
        group: Vec::new(),
    };
    bench.done(Call::Report { client: client(1), objects: vec![object], last: true }).unwrap();
    assert!(bench.exists(b"alive"));
    for _ in 0..10 {
        bench.pass(3000);
        bench.attend_all(client(1));
        bench.tick();
    }
    bench.lookup(b"alive").unwrap();
    let mut taken = fill(&bench, b'a');
    assert_eq!(taken.len(), 2);
    assert!(!taken.iter().any(|place| places.contains(place)));
    // The object goes as well, and its range stays kept.
    bench.pass(6000);
    bench.remove(b"alive").unwrap();
    let news = bench.attend_all(client(1));
    let is_gone = |event: &SegmentEvent| matches!(event, SegmentEvent::Gone { .. });
    assert!(news.iter().any(is_gone), "{news:?}");
    bench.pass(20_000);
    bench.attend_all(client(1));
    bench.tick();
    assert!(fill(&bench, b'b').is_empty());
    keep(&bench, false, &[]).unwrap();
    taken.extend(fill(&bench, b'c'));
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 4);
}

#[test]
fn nobody_keeps_what_is_of_others() {
    let mut bench = bench(1);
    let place = addresses(&bench.put(b"k", MIB).unwrap().replicas)[0];
    let range = KeptRange { segment: segment(1, 0).id, address: place, size: MIB };
    bench.attend_all(client(1));
    let foreign = Call::Keep { client: client(2), segments: vec![], ranges: vec![range] };
    bench.done(foreign).unwrap();
    bench.remove(b"k").unwrap();
    bench.attend_all(client(1));
    bench.pass(20_000);
    bench.attend_all(client(1));
    bench.tick();
    assert_eq!(fill(&bench, b'a').len(), 4);
    let most = crate::limits::STORE_KEPT_RANGES_MAX;
    let many = Call::Keep { client: client(1), segments: vec![], ranges: vec![range; most + 1] };
    assert_eq!(bench.done(many), Err(Refusal::INVALID_PARAMS));
}
