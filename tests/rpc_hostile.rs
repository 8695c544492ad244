//! The port of the store's calls against callers that do not keep to the rules: garbage, claims,
//! halves, slowness, floods. After each, a proper caller is served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;
#[path = "common/rpc_service.rs"]
mod rpc_service;

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::rpc::frame::{Fault, RequestHeader};
use mooncake::rpc::message::Call;
use mooncake::rpc::server::ServerOptions;
use random::Random;
use rpc_service::*;

fn one_thread() -> ServerOptions {
    ServerOptions { threads: 1, ..ServerOptions::default() }
}

#[test]
fn garbage_is_closed_and_harms_nobody() {
    let mut random = Random::for_test("garbage_is_closed_and_harms_nobody");
    let service = Arc::new(Scripted::default());
    let (server, address) = start(one_thread(), &service);
    let mut good = Raw::connect(address);
    let proper = frame(5, D7, &exists(b"key"));
    let mut opened = 1;
    let mut raw = Raw::connect(address);
    for round in 0..10_000 {
        // Most go to one connection after the other until it is closed.
        let bytes = match random.below(3) {
            0 => {
                let count = random.below(200) as usize + 1;
                random.bytes(count)
            }
            1 => {
                let mut bytes = proper.clone();
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
                bytes
            }
            _ => proper[..random.below(proper.len() as u64) as usize].to_vec(),
        };
        let sent = raw.send(&bytes);
        if !sent || random.chance(10) {
            opened += 1;
            raw = Raw::connect(address);
        }
        if round % 1000 == 0 {
            good.check(round);
        }
    }
    good.check(1);
    println!("{opened} connections");
    drop(raw);
    until("the end of the others", || {
        server.counters().connections_open.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn a_wrong_first_byte_version_or_serialisation_is_closed_without_a_word() {
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(one_thread(), &service);
    let proper = frame(5, D7, &exists(b"key"));
    for (at, value) in [(0, 0x16), (0, b'G'), (1, 1), (2, 1)] {
        let mut bytes = proper.clone();
        bytes[at] = value;
        // Of a first byte that is wrong, one is enough.
        let bytes = if at == 0 { &bytes[..1] } else { &bytes[..] };
        let mut raw = Raw::connect(address);
        raw.send(bytes);
        assert!(raw.is_closed());
    }
}

#[test]
fn refusals_keep_the_connection() {
    let service = Arc::new(Scripted::default());
    let mut options = one_thread();
    options.request_bytes_max = 1 << 20;
    let (server, address) = start(options, &service);
    let mut raw = Raw::connect(address);
    let proper = frame(5, D7, &exists(b"key"));
    let header = RequestHeader::decode(proper.first_chunk().unwrap()).unwrap();
    let mut refused = |header: RequestHeader, body: &[u8]| {
        raw.send(&header.encode());
        raw.send(body);
        let (reply, body) = raw.reply();
        assert_eq!(reply.seq, header.seq);
        raw.check(6);
        Fault::decode(reply.fault, &body)
    };
    let body = &proper[20..];
    assert_eq!(refused(RequestHeader { function: 1, ..header }, body), Fault::not_registered());
    let empty = RequestHeader { length: 0, ..header };
    assert_eq!(refused(empty, b""), Fault::invalid_arguments());
    let cut = RequestHeader { length: header.length - 1, ..header };
    let short = &body[..body.len() - 1];
    assert_eq!(refused(cut, short), Fault::invalid_arguments());
    // Too large: it is thrown away as it comes, and what follows is served.
    let large = RequestHeader { length: (1 << 20) + 1, attachment: 3, ..header };
    assert_eq!(refused(large, &[0x15; (1 << 20) + 4]).code, Fault::TOO_LARGE);
    assert_eq!(server.counters().faults.load(Ordering::SeqCst), 4);
    // An attachment is skipped.
    let attached = RequestHeader { attachment: 100_000, ..header };
    raw.send(&attached.encode());
    raw.send(body);
    assert_eq!(raw.reply().0.fault, 0);
    raw.send(&[0; 100_000]);
    raw.check(7);
}

#[test]
fn pieces_and_pipelines_of_any_size() {
    let mut random = Random::for_test("pieces_and_pipelines_of_any_size");
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(one_thread(), &service);
    let mut raw = Raw::connect(address);
    let mut stream = Vec::new();
    const COUNT: u32 = 5000;
    for seq in 0..COUNT {
        let length = if random.chance(1) { 300_000 } else { random.below(200) };
        let key = vec![b'k'; length as usize];
        stream.extend(frame(seq, D7, &exists(if random.chance(10) { LATER } else { &key })));
    }
    let mut sender = raw.0.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let most = if random.chance(50) { 50 } else { 400_000 };
            let count = (random.below(most) as usize + 1).min(rest.len());
            sender.write_all(&rest[..count]).unwrap();
            rest = &rest[count..];
        }
    });
    let mut missing: std::collections::BTreeSet<u32> = (0..COUNT).collect();
    for _ in 0..COUNT {
        let (header, _) = raw.reply();
        assert_eq!(header.fault, 0);
        assert!(missing.remove(&header.seq));
    }
    sending.join().unwrap();
    raw.check(1);
}

#[test]
fn answers_that_wait_stop_the_requests_of_their_connection_only() {
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(one_thread(), &service);
    let mut raw = Raw::connect(address);
    let mut other = Raw::connect(address);
    let most = mooncake::limits::RPC_PENDING_MAX;
    for seq in 0..most as u32 + 100 {
        raw.send(&frame(seq, D7, &exists(HOLD)));
    }
    until("the calls", || service.held.lock().unwrap().len() == most);
    for seq in 0..100 {
        other.check(seq);
    }
    assert_eq!(service.held.lock().unwrap().len(), most, "no more are taken");
    let yes = mooncake::rpc::message::Reply::Exists(Ok(true));
    let mut answered = 0;
    while answered < most + 100 {
        for replier in std::mem::take(&mut *service.held.lock().unwrap()) {
            replier.answer(&yes);
            answered += 1;
        }
    }
    let mut seqs: Vec<u32> = (0..answered).map(|_| raw.reply().0.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..answered as u32).collect::<Vec<_>>());
}

#[test]
fn whoever_sends_slowly_or_never_is_closed() {
    let service = Arc::new(Scripted::default());
    let options = ServerOptions {
        frame_timeout: Duration::from_millis(300),
        stranger_timeout: Duration::from_millis(300),
        ..one_thread()
    };
    let (server, address) = start(options, &service);
    let mut proper = Raw::connect(address);
    proper.check(0);
    let mut silent = Raw::connect(address);
    assert!(silent.is_closed());
    // A request that goes on and on does not get its time anew.
    for _ in 0..2 {
        let mut drip = Raw::connect(address);
        drip.check(1);
        let bytes = frame(2, D7, &exists(&[b'k'; 5000]));
        let start = Instant::now();
        let mut sent = bytes.iter();
        while drip.send(&[*sent.next().expect("closed before all was sent")]) {
            assert!(start.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Between requests there is no hurry.
    proper.check(3);
    assert!(server.counters().connections_refused.load(Ordering::SeqCst) >= 3);
}

#[test]
fn whoever_does_not_read_is_closed_and_costs_little() {
    let service = Arc::new(Scripted::default());
    let options = ServerOptions { frame_timeout: Duration::from_millis(500), ..one_thread() };
    let (server, address) = start(options, &service);
    let mut greedy = Raw::connect(address);
    greedy.0.set_nonblocking(true).unwrap();
    // Each is answered with a megabyte.
    let request = frame(1, D7, &exists(BIG));
    let mut other = Raw::connect(address);
    let start = Instant::now();
    let mut seq = 0;
    loop {
        match greedy.0.write(&request) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        other.check(seq);
        seq += 1;
        assert!(start.elapsed() < LONG, "it is still open");
    }
    // Far fewer than it asked for, since its requests were not looked at any more.
    let served = server.counters().faults.load(Ordering::SeqCst);
    assert!(served < 50, "{served} answers of a megabyte");
}

#[test]
fn strangers_make_room_and_callers_stay() {
    let service = Arc::new(Scripted::default());
    let options = ServerOptions { connections_max: 8, ..one_thread() };
    let (server, address) = start(options, &service);
    let mut callers: Vec<Raw> = (0..4).map(|_| Raw::connect(address)).collect();
    callers.iter_mut().for_each(|caller| caller.check(0));
    let _flood: Vec<Raw> = (0..500).map(|_| Raw::connect(address)).collect();
    let mut late = Raw::connect(address);
    late.check(1);
    callers.iter_mut().for_each(|caller| caller.check(2));
    assert!(server.counters().connections_open.load(Ordering::SeqCst) <= 8);
    // When all are callers, another one is refused.
    let mut more: Vec<Raw> = (0..3).map(|_| Raw::connect(address)).collect();
    more.iter_mut().for_each(|caller| caller.check(3));
    let mut refused = Raw::connect(address);
    refused.send(&frame(0, D7, &exists(b"key")));
    assert!(refused.is_closed());
    callers.iter_mut().for_each(|caller| caller.check(4));
}

#[test]
fn idle_connections_end_if_so_wished() {
    let service = Arc::new(Scripted::default());
    let idle_timeout = Some(Duration::from_millis(200));
    let (_server, address) = start(ServerOptions { idle_timeout, ..one_thread() }, &service);
    let mut waiting = Raw::connect(address);
    waiting.send(&frame(1, D7, &exists(HOLD)));
    let mut idle = Raw::connect(address);
    idle.check(0);
    assert!(idle.is_closed());
    // One that is owed an answer is not idle.
    service
        .held
        .lock()
        .unwrap()
        .pop()
        .unwrap()
        .answer(&Call::Exists(Vec::new()).refuse(mooncake::pool::outcome::Refusal::INTERNAL_ERROR));
    assert_eq!(waiting.reply().0.seq, 1);
}

#[test]
fn a_caller_that_ends_its_side_still_gets_what_was_served() {
    let service = Arc::new(Scripted::default());
    let (server, address) = start(one_thread(), &service);
    let mut raw = Raw::connect(address);
    let mut all = Vec::new();
    for seq in 0..1000 {
        all.extend(frame(seq, D7, &exists(b"key")));
    }
    raw.send(&all);
    raw.0.shutdown(Shutdown::Write).unwrap();
    for seq in 0..1000 {
        assert_eq!(raw.reply().0.seq, seq);
    }
    assert!(raw.is_closed());
    // A caller that goes while its answer is on the way costs nothing.
    let mut raw = Raw::connect(address);
    raw.send(&frame(0, D7, &exists(HOLD)));
    until("the call", || !service.held.lock().unwrap().is_empty());
    drop(raw);
    until("its end", || server.counters().connections_open.load(Ordering::SeqCst) == 0);
    drop(service.held.lock().unwrap().pop());
    Raw::connect(address).check(0);
}

/// Of the threads of the server: how often each gave up the processor, which it does once for every
/// wake-up, and the ticks of processor time of all.
fn activity() -> (Vec<u64>, u64) {
    let (mut counts, mut ticks) = (Vec::new(), 0);
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let (status, stat) = (read("status"), read("stat"));
        let value = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
                .map(str::to_owned)
        };
        if value("Name:").is_some_and(|name| name.starts_with("mc-rpc-")) {
            counts.push(value("voluntary_ctxt_switches:").unwrap().parse().unwrap());
            let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
            ticks += fields.map(|field| field.parse::<u64>().unwrap()).sum::<u64>();
        }
    }
    (counts, ticks)
}

#[test]
fn without_requests_the_threads_sleep() {
    // Threads of the other tests of this process would be counted too.
    if std::env::var_os("MC_RPC_ALONE").is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let alone = alone.args(["--exact", "without_requests_the_threads_sleep", "--nocapture"]);
        let output = alone.env("MC_RPC_ALONE", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(ServerOptions { threads: 2, ..Default::default() }, &service);
    let mut callers: Vec<Raw> = (0..6).map(|_| Raw::connect(address)).collect();
    callers.iter_mut().for_each(|caller| caller.check(0));
    // One of them has had an answer that came later, and says nothing since.
    assert!(callers[0].send(&frame(9, D7, &exists(LATER))));
    assert_eq!(callers[0].reply().0.seq, 9);
    // The time to look out passes, then nothing happens any more.
    std::thread::sleep(Duration::from_millis(300));
    let (before, ticks_before) = activity();
    assert_eq!(before.len(), 2);
    std::thread::sleep(Duration::from_millis(700));
    let (after, ticks) = activity();
    assert_eq!(after, before);
    // A thread that goes round without sleeping uses a hundred in a second, or its share.
    assert!(ticks - ticks_before < 5, "{} ticks", ticks - ticks_before);
    callers.iter_mut().for_each(|caller| caller.check(1));
    until("a wake-up", || activity().0 != before);
}
