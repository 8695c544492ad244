//! A look at all segments, as programs of upstream's API take one after every batch: what peers
//! have published since is known, and a peer that is silent does not hold up the others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::net::TcpListener;

use mooncake::descriptor::Dialect;
use mooncake::engine::Access;
use mooncake::error::ErrorKind;
use mooncake::net::handshake::MessageType;

use common::engines::{buffer, engine, engine_with, Kind};
use common::fake_peer::{answer_handshake, descriptor};

/// Answers once with a descriptor; what comes later is taken and never answered.
fn silent_after_one() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let line = descriptor(Kind::V2, &name, 1).encode_line(Dialect::V0_3_13);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        answer_handshake(&mut stream, MessageType::Metadata, &line);
        // Kept open, so that nothing but a deadline ends a wait.
        let _kept: Vec<_> = listener.incoming().collect();
    });
    name
}

/// The transfer timeout is far away: without a bound of its own the look would not end in time.
#[test]
fn a_silent_peer_is_waited_for_once_and_then_passed_over() {
    let own = engine_with(|config| config.transfer_timeout_ms = 600_000);
    let good = engine();
    let _first = buffer(&good, 4096, Access::ALL);
    // The silent one is asked before the good one.
    own.open_segment(&silent_after_one()).unwrap();
    let segment = own.open_segment(good.local_name()).unwrap();
    let looks = || own.metrics().refreshes.get();
    let buffers = || own.segment_buffers(segment).unwrap().len();
    assert_eq!(buffers(), 1);

    let _second = buffer(&good, 4096, Access::ALL);
    let before = looks();
    let error = own.refresh_all_segments().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!((looks() - before, buffers()), (2, 2), "both were asked");

    let _third = buffer(&good, 4096, Access::ALL);
    let before = looks();
    own.refresh_all_segments().unwrap();
    assert_eq!((looks() - before, buffers()), (1, 3), "only the good one was asked");
}

/// One that is gone for certain costs nothing to ask, and is found again at once.
#[test]
fn a_peer_that_refuses_is_asked_again_every_time() {
    let own = engine();
    let gone = engine();
    let segment = own.open_segment(gone.local_name()).unwrap();
    gone.shutdown();
    for _ in 0..3 {
        let before = own.metrics().refreshes.get();
        let error = own.refresh_all_segments().unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_eq!(own.metrics().refreshes.get() - before, 1);
    }
    own.close_segment(segment).unwrap();
}
