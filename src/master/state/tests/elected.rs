//! What an elected master needs beyond one that stands alone.

use super::{client, item, segment, Bench, MIB};
use crate::master::state::Settings;
use crate::pool::object::PutOptions;
use crate::pool::segment::{HeldObject, SegmentEvent};
use crate::rpc::message::{Call, Reply};

fn bench(life: u64) -> Bench {
    Bench::new(Settings { shards: 8, life, view_version: 41, ..Settings::default() })
}

#[test]
fn every_sign_of_life_tells_the_view() {
    let bench = bench(1);
    let Reply::Pong(Ok(pong)) = bench.call(Call::Ping(client(1))) else { panic!() };
    assert_eq!(pong.view_version, 41);
    assert_eq!(bench.attend(client(1), 0).pong.view_version, 41);
    assert_eq!(bench.state.view_version(), 41);
}

/// A holder mounts again and tells of one object of that generation.
fn told(bench: &Bench, key: &[u8], generation: u64) {
    bench.attend(client(1), u64::MAX);
    bench.done(Call::Remount(vec![segment(1, 16 * MIB)], client(1))).unwrap();
    let held = HeldObject {
        key: key.to_vec(),
        generation,
        segment: segment(1, 1).id,
        address: segment(1, 1).base + 4096,
        slices: vec![100],
        soft_pin: false,
        group: Vec::new(),
    };
    bench.done(Call::Report { client: client(1), objects: vec![held], last: true }).unwrap();
}

#[test]
fn what_a_clock_ahead_has_numbered_is_not_believed() {
    for (ahead, is_believed) in [(false, true), (true, false)] {
        let bench = bench(7);
        let first = bench.state.life();
        told(&bench, b"k", if ahead { first } else { first - 1 });
        assert_eq!(bench.exists(b"k"), is_believed, "{ahead}");
        // The holder is told, so that it forgets it.
        let news = bench.attend_all(client(1));
        let is_gone = news.iter().any(|event| matches!(event, SegmentEvent::Gone { .. }));
        assert_eq!(is_gone, !is_believed);
    }
}

#[test]
fn granted_puts_are_counted_until_they_end() {
    let bench = bench(1);
    bench.mount(1, 16 * MIB).unwrap();
    assert_eq!(bench.state.open_puts(), 0);
    for key in [b"a", b"b", b"c"] {
        bench.start(Some(client(1)), item(key, 100), PutOptions::default()).unwrap();
    }
    assert_eq!(bench.state.open_puts(), 3);
    bench.end(Some(client(1)), b"b").unwrap();
    assert_eq!(bench.state.open_puts(), 2);
    let kind = crate::pool::replica::ReplicaKind::Memory;
    bench.done(Call::PutRevoke(Some(client(1)), b"a".to_vec(), kind, 0)).unwrap();
    assert_eq!(bench.state.open_puts(), 1);
}
