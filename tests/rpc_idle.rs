//! Threads of a server of the store's calls cost nothing while their callers are silent, however
//! the silence came about. One test, because it looks at all threads of its process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[path = "common/rpc_service.rs"]
mod rpc_service;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mooncake::rpc::dialect::Dialect;
use mooncake::rpc::message::Reply;
use mooncake::rpc::server::ServerOptions;
use rpc_service::*;
use socket2::SockRef;

const SILENCE: Duration = Duration::from_millis(400);
/// A thread that never sleeps runs, or waits for a core, all the time; one that sleeps does
/// neither.
const AWAKE_MAX: Duration = Duration::from_millis(40);

/// How long the server's threads have run or have waited for a core so far.
fn awake() -> Duration {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let place = task.unwrap().path();
        let read = |name| std::fs::read_to_string(place.join(name)).unwrap_or_default();
        if read("comm").starts_with("mc-rpc-") {
            let fields = read("schedstat");
            sum +=
                fields.split_whitespace().take(2).map(|ns| ns.parse::<u64>().unwrap()).sum::<u64>();
        }
    }
    Duration::from_nanos(sum)
}

fn is_at_rest(after: &str) {
    // What was to be done is done by then, and the time in which it spins for more is over.
    std::thread::sleep(Duration::from_millis(100));
    let before = awake();
    std::thread::sleep(SILENCE);
    let spent = awake() - before;
    assert!(spent <= AWAKE_MAX, "{after}: awake for {spent:?} of {SILENCE:?}");
}

/// Calls of one caller, sent as bytes.
fn raw_calls(stream: &mut TcpStream, key: &[u8], count: u32) {
    let frames: Vec<u8> =
        (0..count).flat_map(|seq| frame(seq, Dialect::Native, &exists(key))).collect();
    stream.write_all(&frames).unwrap();
}

#[test]
fn silent_callers_cost_no_processor_time() {
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(ServerOptions::default(), &service);
    let client = client(address);
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), Reply::Exists(Ok(true)));
    is_at_rest("an answer at once");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.call(&exists(HOLD), within(LONG)));
        until("the call", || !service.held.lock().unwrap().is_empty());
        is_at_rest("a call that waits");
        service.held.lock().unwrap().pop().unwrap().answer(&Reply::Exists(Ok(true)));
        call.join().unwrap().unwrap();
    });
    is_at_rest("an answer that came later");
    let mut half = TcpStream::connect(address).unwrap();
    raw_calls(&mut half, HOLD, 1);
    until("the call", || !service.held.lock().unwrap().is_empty());
    half.shutdown(Shutdown::Write).unwrap();
    is_at_rest("a caller that ended its side");
    service.held.lock().unwrap().clear();
    let mut gone = TcpStream::connect(address).unwrap();
    let most = mooncake::limits::RPC_PENDING_MAX;
    raw_calls(&mut gone, HOLD, most as u32);
    until("the calls", || service.held.lock().unwrap().len() == most);
    // It is not read from any more, so that this end, a reset, is only seen.
    SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    is_at_rest("a caller that is gone, with as many calls as it may have");
    service.held.lock().unwrap().clear();
}
