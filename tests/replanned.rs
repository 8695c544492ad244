//! Slices that were cut for another route than the one that moves them, or for none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::net::{Shutdown, TcpStream};

use mooncake::engine::{Access, Notification, Operation, Request, SegmentId};

use common::engines::{buffer, engine, engine_with, finish_well, request, Kind, PATIENCE};
use common::fake_peer::FakePeer;
use common::guarded::Guarded;
use common::process::eventually;
use common::random::Random;
use common::raw::descriptor_of;

/// More than two v2 slices, and no multiple of any limit.
const LENGTH: usize = (37 << 20) + 3;

fn requests(
    segment: SegmentId,
    operation: Operation,
    local: &Guarded,
    remote: &Guarded,
) -> Vec<Request> {
    // A large one between small ones.
    [(0, 100), (100, LENGTH - 5000), (LENGTH - 4900, 4900)]
        .map(|(at, length)| {
            request(operation, local.address() + at, segment, remote.address() + at, length)
        })
        .to_vec()
}

/// The way to the peer leads over v2, where connections break, and then over the native protocol.
#[test]
fn slices_of_v2_on_a_native_route() {
    let mut random = Random::for_test("slices_of_v2_on_a_native_route");
    let target = engine();
    let remote = buffer(&target, LENGTH, Access::ALL);
    for operation in [Operation::Write, Operation::Read] {
        let broken = |stream: TcpStream| drop(stream.shutdown(Shutdown::Both));
        let peer = FakePeer::new(Kind::V2, broken);
        let mut descriptor = descriptor_of(&target);
        let good = descriptor.clone();
        descriptor.tcp_data_port = peer.data_port;
        descriptor.native = None;
        peer.publish(&descriptor);
        let own = engine_with(|config| config.tcp_io_threads = 1);
        let local = buffer(&own, LENGTH, Access::LOCAL);
        let segment = own.open_segment(&peer.name).unwrap();
        assert_eq!(own.dump()["segments"]["first"][1]["route"]["wire"], "v2", "{}", own.dump());
        peer.publish(&good);
        let source = random.bytes(LENGTH);
        let (from, to) = match operation {
            Operation::Write => (&local, &remote),
            Operation::Read => (&remote, &local),
        };
        from.put(0, &source);
        to.fill(0);
        let notification = Notification { name: b"all".into(), message: b"there".into() };
        // The notification would go to the fake peer, so it is sent to the own segment.
        let mut all = vec![request(
            Operation::Write,
            local.address(),
            mooncake::engine::LOCAL_SEGMENT,
            local.address(),
            0,
        )];
        all.extend(requests(segment, operation, &local, &remote));
        let batch = own.create_batch(4).unwrap();
        batch.submit_with(&all, Some(PATIENCE), Some(notification.clone())).unwrap();
        finish_well(&batch);
        assert_eq!(own.dump()["segments"]["first"][1]["route"]["wire"], "native", "{}", own.dump());
        let bytes = |index: usize| batch.task(index).unwrap().transferred_bytes;
        assert_eq!([bytes(1), bytes(2), bytes(3)], [100, LENGTH as u64 - 5000, 4900]);
        assert!(to.get(0, 100) == source[..100]);
        assert!(to.get(100, LENGTH - 5000) == source[100..LENGTH - 4900]);
        assert!(to.get(LENGTH - 4900, 4900) == source[LENGTH - 4900..]);
        let mut seen = Vec::new();
        eventually("the notification is there", || {
            seen.extend(own.take_notifications());
            !seen.is_empty()
        });
        assert_eq!(seen, [notification]);
        local.check_canaries();
        remote.check_canaries();
    }
}

/// A range that was registered after the descriptor was fetched is not cut until it is found.
#[test]
fn large_requests_to_memory_that_was_not_known() {
    for kind in [Kind::Native, Kind::V2, Kind::V1] {
        let target = engine();
        let own = engine_with(|config| kind.apply(config));
        let segment = own.open_segment(target.local_name()).unwrap();
        let local = buffer(&own, LENGTH, Access::LOCAL);
        let remote = buffer(&target, LENGTH, Access::ALL);
        local.fill(0x5a);
        own.transfer(&requests(segment, Operation::Write, &local, &remote), None).unwrap();
        assert!(remote.get(0, LENGTH - 5000).iter().all(|byte| *byte == 0x5a), "{kind:?}");
    }
}
