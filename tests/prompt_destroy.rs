//! Destroying an engine while its threads are stuck in the network: nothing waits for what nobody
//! needs any more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mooncake::config::EngineConfig;
use mooncake::descriptor::Dialect;
use mooncake::engine::{Engine, Notification, Operation};
use mooncake::error::ErrorKind;
use mooncake::net::handshake::MessageType;

use common::engines::{engine_with, request, Kind};
use common::fake_peer::{answer_handshake, descriptor, ADDRESS};
use common::process::eventually;

/// Every time limit is far away, so that only the destruction can end a wait.
const FAR: Duration = Duration::from_secs(600);
/// Slack for a busy machine.
const SLACK: Duration = Duration::from_secs(30);

fn patient() -> Engine {
    engine_with(|config: &mut EngineConfig| {
        config.transfer_timeout_ms = FAR.as_millis() as u32;
        config.handshake_connect_timeout_ms = 60_000;
    })
}

/// A handshake port that takes no connection any more: its queue is full, and what comes meets
/// silence.
struct Silent {
    name: String,
    address: SocketAddr,
    _listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl Silent {
    /// Answers one request for its descriptor, and is silent after [`Silent::fall_silent`].
    fn after_one() -> Silent {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let name = address.to_string();
        let line = descriptor(Kind::V2, &name, 1).encode_line(Dialect::V0_3_13);
        let answering = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = answering.accept().unwrap();
            answer_handshake(&mut stream, MessageType::Metadata, &line);
        });
        Silent { name, address, _listener: listener, queued: Vec::new() }
    }

    fn fall_silent(&mut self) {
        let short = Duration::from_millis(500);
        while let Ok(stream) = TcpStream::connect_timeout(&self.address, short) {
            self.queued.push(stream);
        }
        assert!(!self.queued.is_empty());
    }

    /// Connections of this process that wait for an answer of the port.
    fn waiting(&self) -> usize {
        const SYN_SENT: &str = "02";
        let port = format!(":{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words[2].ends_with(&port) && words[3] == SYN_SENT)
            .count()
    }
}

/// Neither a caller that opens a segment nor a control thread that sends a notification holds up
/// the end, though both are in the middle of a connect.
#[test]
fn connects_end_with_the_engine() {
    let mut silent = Silent::after_one();
    let own = patient();
    let segment = own.open_segment(&silent.name).unwrap();
    silent.fall_silent();
    std::thread::scope(|scope| {
        let other = format!("localhost:{}", silent.address.port());
        let engine = own.clone();
        let opening = scope.spawn(move || engine.open_segment(&other));
        // An empty request is complete at once; its notification is a job of a control thread.
        let batch = own.create_batch(1).unwrap();
        let nothing = request(Operation::Write, 0, segment, ADDRESS as usize, 0);
        let notification = Notification { name: b"n".into(), message: b"m".into() };
        batch.submit_with(&[nothing], Some(FAR), Some(notification)).unwrap();
        assert!(batch.poll().is_done());
        eventually("both connect", || silent.waiting() >= 2);
        let began = Instant::now();
        own.shutdown();
        assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
        assert_eq!(opening.join().unwrap().unwrap_err().kind(), ErrorKind::Shutdown);
        eventually("no connect is left", || silent.waiting() == 0);
    });
}
