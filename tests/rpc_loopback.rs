//! Server and client of the store's calls against each other over loopback: every call in both
//! dialects, answers at once and later, failures of either side, deadlines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[path = "common/calls.rs"]
mod calls;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;
#[path = "common/rpc_service.rs"]
mod rpc_service;
#[path = "common/skip.rs"]
mod skip;

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calls::Maker;
use mooncake::error::ErrorKind;
use mooncake::net::port::PortRule;
use mooncake::pool::outcome::Refusal;
use mooncake::rpc::client::{ClientOptions, MasterClient};
use mooncake::rpc::dialect::{self, Dialect};
use mooncake::rpc::frame::Fault;
use mooncake::rpc::look::{Look, Seen};
use mooncake::rpc::message::{Call, Reply};
use mooncake::rpc::server::{Caller, Port, Replier, Server, ServerOptions, Service};
use random::Random;
use rpc_service::*;

fn yes() -> Reply {
    Reply::Exists(Ok(true))
}

#[test]
fn every_call_in_both_dialects_answered_at_once_and_later() {
    let mut random = Random::for_test("every_call_in_both_dialects_answered_at_once_and_later");
    let service = Arc::new(Scripted { life: 7, ..Scripted::default() });
    let (_server, address) = start(ServerOptions { threads: 2, ..Default::default() }, &service);
    for dialect in [Dialect::Native, D7] {
        let mut options = ClientOptions::new(address.to_string());
        options.dialect = (dialect != Dialect::Native).then_some(dialect);
        let client = MasterClient::new(options).unwrap();
        assert_eq!(client.call(&exists(b"first"), within(LONG)).unwrap(), yes());
        assert_eq!(client.dialect(), Some(dialect));
        let life = client.greeting().map(|greeting| greeting.master_life);
        assert_eq!(life, (dialect == Dialect::Native).then_some(7));
        let mut maker = Maker { random: &mut random, dialect };
        for round in 0..20 {
            for method in maker.methods() {
                let call = maker.call(method);
                let reply = maker.reply(&call);
                let script = (call.clone(), reply.clone(), round % 2 == 1);
                *service.script.lock().unwrap() = Some(script);
                assert_eq!(client.call(&call, within(LONG)).unwrap(), reply, "{call:?}");
                assert!(service.script.lock().unwrap().is_none());
            }
        }
    }
}

/// Answers looks as an index does, without a call of its own.
struct Looking;

impl Service for Looking {
    fn serve(&self, call: Call, _: Caller, replier: Replier) {
        replier.answer(&call.refuse(Refusal::NOT_SUPPORTED));
    }

    fn look(&self, look: Look<'_>, _: Caller, replier: Replier) {
        let found: Vec<bool> = look.keys.iter().map(|key| key.starts_with(b"y")).collect();
        match look.keys.first() {
            Some(&b"panic") => panic!("as the test asked"),
            Some(&b"later") => {
                std::thread::spawn(move || replier.show(&Seen::Exists(&found)));
            }
            _ => replier.show(&Seen::Exists(&found)),
        }
    }
}

#[test]
fn looks_are_answered_where_they_lie() {
    let port = Port { bind: Some(LOCAL), rule: PortRule::Fixed(0), dialect: D7 };
    let options = ServerOptions { threads: 1, ..Default::default() };
    let server = Server::start(options, &[port], Arc::new(Looking)).unwrap();
    let mut raw = Raw::connect(server.addresses()[0]);
    let mut ask = |dialect, call: &Call| {
        assert!(raw.send(&frame(3, dialect, call)));
        let (header, body) = raw.reply();
        assert_eq!(header.seq, 3);
        match header.fault {
            0 => Ok(dialect::decode_reply(dialect, call.method(), &body).unwrap()),
            fault => Err(fault),
        }
    };
    for dialect in [Dialect::Native, D7] {
        for keys in [vec![], vec![&b"yes"[..]], vec![b"no", b"y", b""], vec![b"later", b"y"]] {
            let call = Call::BatchExists(keys.iter().map(|key| key.to_vec()).collect());
            let expected = keys.iter().map(|key| Ok(key.starts_with(b"y"))).collect();
            assert_eq!(ask(dialect, &call), Ok(Reply::BatchExists(expected)));
        }
        assert_eq!(ask(dialect, &exists(b"yes")), Ok(yes()));
        assert_eq!(ask(dialect, &exists(b"panic")), Err(Fault::THREW));
        // An answer of another kind.
        assert_eq!(ask(dialect, &Call::Lookup(b"yes".to_vec())), Err(Fault::THREW));
        assert_eq!(ask(dialect, &exists(b"no")), Ok(Reply::Exists(Ok(false))));
    }
}

#[test]
fn who_answers_is_found_out_and_found_out_again() {
    // First a master that is like upstream's, on a port that a native one takes over.
    let listener = TcpListener::bind((LOCAL, 0)).unwrap();
    let upstream = listener.local_addr().unwrap();
    upstream_like(listener);
    let client = client(upstream);
    assert_eq!(client.dialect(), None);
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
    assert_eq!(client.dialect(), Some(D7));
    let error = client.call(&Call::Greet { version: 1 }, within(LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context("dialect"), Some("0.3.7"));
    assert_eq!(error.context("call"), Some("Greet"));
    // A call that cannot be said costs nothing: the connection goes on.
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());

    let service = Arc::new(Scripted { life: 3, ..Scripted::default() });
    let (_server, native) = start(ServerOptions::default(), &service);
    client.redirect(&native.to_string()).unwrap();
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
    assert_eq!(client.dialect(), Some(Dialect::Native));
    assert_eq!(client.greeting().unwrap().master_life, 3);
    client.redirect(&upstream.to_string()).unwrap();
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
    assert_eq!((client.dialect(), client.greeting()), (Some(D7), None));
}

#[test]
fn a_failed_call_is_an_answer_and_the_connection_goes_on() {
    let service = Arc::new(Scripted::default());
    let (server, address) = start(ServerOptions { threads: 1, ..Default::default() }, &service);
    let client = client(address);
    for (key, text) in [
        (PANIC, "unknown rpc function exception"),
        (DROP, "unknown rpc function exception"),
        (WRONG, "the master gave an answer of another kind"),
    ] {
        let error = client.call(&exists(key), within(LONG)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert_eq!(error.context("number"), Some("10"));
        assert_eq!(error.context("text"), Some(text));
        assert_eq!(error.context("call"), Some("Exists"));
        assert_eq!(error.context("master"), Some(address.to_string().as_str()));
        assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
    }
    let counters = server.counters();
    assert_eq!(counters.connections_accepted.load(Ordering::SeqCst), 1);
    assert_eq!(counters.panics.load(Ordering::SeqCst), 1);
}

#[test]
fn many_threads_share_few_connections() {
    let service = Arc::new(Scripted::default());
    let (server, address) = start(ServerOptions { threads: 2, ..Default::default() }, &service);
    let mut options = ClientOptions::new(address.to_string());
    options.connections_max = 3;
    let client = MasterClient::new(options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let client = &client;
            scope.spawn(move || {
                for call in 0..100 {
                    let key = if (thread + call) % 5 == 0 { LATER } else { b"key" };
                    assert_eq!(client.call(&exists(key), within(LONG)).unwrap(), yes());
                }
            });
        }
    });
    assert_eq!(service.seen.load(Ordering::SeqCst), 1200);
    assert!(server.counters().connections_accepted.load(Ordering::SeqCst) <= 3);
}

#[test]
fn a_master_that_is_gone_is_refused_fast_and_found_again() {
    let service = Arc::new(Scripted::default());
    let (server, address) = start(ServerOptions::default(), &service);
    let client = client(address);
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
    drop(server);
    // The first call may still see the end of its connection; then nobody listens.
    let error = client.call(&exists(b"key"), within(LONG)).unwrap_err();
    assert!(error.kind() == ErrorKind::Unreachable, "{error:?}");
    let start = Instant::now();
    let mut refused = 0;
    for _ in 0..1000 {
        let error = client.call(&exists(b"key"), within(LONG)).unwrap_err();
        refused += usize::from(error.kind() == ErrorKind::PeerDown);
        assert_eq!(error.context("call"), Some("Exists"));
    }
    assert!(refused > 900, "{refused}");
    assert!(start.elapsed() < LONG);
    assert!(client.is_down());

    let (_server, _) = start_at(address.port(), ServerOptions::default(), &service);
    until("the master", || client.call(&exists(b"key"), within(LONG)).is_ok());
    assert!(!client.is_down());
}

#[test]
fn a_restart_between_two_calls_is_not_noticed() {
    let service = Arc::new(Scripted::default());
    let (mut server, address) = start(ServerOptions::default(), &service);
    let client = client(address);
    // One that must not be made twice, and one that may.
    let remove = Call::Remove { key: b"key".to_vec(), force: false };
    for call in [remove, exists(b"key")] {
        for _ in 0..5 {
            client.call(&call, within(LONG)).unwrap();
            server.stop(within(Duration::ZERO));
            drop(server);
            server = start_at(address.port(), ServerOptions::default(), &service).0;
            // The connection counts as fresh for a moment, and then its end is seen in time.
            std::thread::sleep(Duration::from_millis(25));
            client.call(&call, within(LONG)).unwrap();
        }
    }
}

#[test]
fn a_frozen_master_costs_one_deadline() {
    // Connects by the kernel's hand and never answers.
    let listener = TcpListener::bind((LOCAL, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut options = ClientOptions::new(address.to_string());
    options.connect_timeout = Duration::from_millis(300);
    options.pause_min = LONG;
    options.pause_max = LONG;
    let client = MasterClient::new(options).unwrap();
    let error = client.call(&exists(b"key"), within(LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let start = Instant::now();
    let error = client.call(&exists(b"key"), within(LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDown);
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert!(start.elapsed() < LONG);
}

#[test]
fn a_call_that_is_not_answered_keeps_its_deadline() {
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(ServerOptions::default(), &service);
    let mut options = ClientOptions::new(address.to_string());
    options.stall_timeout = Duration::from_millis(200);
    options.pause_min = LONG;
    options.pause_max = LONG;
    let client = MasterClient::new(options).unwrap();
    // Shorter than what counts as a stall: the caller was in a hurry, the master is not to blame.
    let error = client.call(&exists(HOLD), within(Duration::from_millis(50))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
    // Others are answered meanwhile: that one call is slow, the master is not.
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| client.call(&exists(HOLD), within(Duration::from_millis(400))));
        while !slow.is_finished() {
            assert_eq!(client.call(&exists(b"key"), within(LONG)).unwrap(), yes());
        }
        assert_eq!(slow.join().unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    });
    assert!(!client.is_down());
    // Nobody is answered for so long: the master has failed.
    let error = client.call(&exists(HOLD), within(Duration::from_millis(400))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(client.is_down());
    let error = client.call(&exists(b"key"), within(LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDown);
    assert_eq!(service.held.lock().unwrap().len(), 3);
}

#[test]
fn closing_ends_calls_under_way() {
    let service = Arc::new(Scripted::default());
    let (_server, address) = start(ServerOptions::default(), &service);
    let client = client(address);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.call(&exists(HOLD), within(LONG)));
        until("the call", || !service.held.lock().unwrap().is_empty());
        client.close();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Shutdown);
    });
    let error = client.call(&exists(b"key"), within(LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
}

#[test]
fn stopping_sends_what_is_owed_until_the_deadline() {
    let service = Arc::new(Scripted::default());
    let (mut server, address) = start(ServerOptions::default(), &service);
    let one = client(address);
    let other = client(address);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.call(&exists(HOLD), within(LONG)));
        until("the call", || !service.held.lock().unwrap().is_empty());
        let stopping = scope.spawn(|| server.stop(within(LONG)));
        until("the end of the port", || other.call(&exists(b"key"), within(LONG)).is_err());
        let replier = service.held.lock().unwrap().pop().unwrap();
        replier.answer(&yes());
        assert_eq!(waiting.join().unwrap().unwrap(), yes());
        stopping.join().unwrap();
    });
    // What is never answered does not hold the end up.
    let (mut server, address) = start(ServerOptions::default(), &service);
    let client = client(address);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.call(&exists(HOLD), within(LONG)));
        until("the call", || !service.held.lock().unwrap().is_empty());
        server.stop(within(Duration::from_millis(50)));
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost);
    });
    // An answer after the end goes nowhere.
    service.held.lock().unwrap().pop().unwrap().answer(&yes());
}

#[test]
fn several_ports_and_both_families() {
    let service = Arc::new(Scripted::default());
    let v6 = "::1".parse().unwrap();
    let port = |bind| Port { bind, rule: PortRule::Fixed(0), dialect: D7 };
    let ports = [port(Some(LOCAL)), port(Some(v6))];
    let dynamic: Arc<dyn Service> = service.clone();
    let server = match Server::start(ServerOptions::default(), &ports, Arc::clone(&dynamic)) {
        Ok(server) => server,
        Err(error) if error.context("address") == Some("::1") => {
            skip::skipped(format_args!("no IPv6 on this host: {error}"));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for address in server.addresses() {
        assert_eq!(client(*address).call(&exists(b"key"), within(LONG)).unwrap(), yes());
    }
    // A taken port fails the start and says which.
    let taken = server.addresses()[0].port();
    let port = Port { bind: Some(LOCAL), rule: PortRule::Fixed(taken), dialect: D7 };
    let error = Server::start(ServerOptions::default(), &[port], dynamic).unwrap_err();
    assert_eq!(error.context("port"), Some(taken.to_string().as_str()));
}

#[test]
fn options_out_of_bounds_are_refused() {
    let service: Arc<dyn Service> = Arc::new(Scripted::default());
    let port = Port { bind: Some(LOCAL), rule: PortRule::Fixed(0), dialect: D7 };
    for options in [
        ServerOptions { threads: 1000, ..Default::default() },
        ServerOptions { connections_max: 0, ..Default::default() },
        ServerOptions { request_bytes_max: 0, ..Default::default() },
        ServerOptions { spin: LONG, ..Default::default() },
    ] {
        let error = Server::start(options, &[port], Arc::clone(&service)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert!(Server::start(ServerOptions::default(), &[], service).is_err());
    assert!(MasterClient::new(ClientOptions::new("")).is_err());
}
