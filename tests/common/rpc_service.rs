//! A service for tests, and raw connections to it.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mooncake::net::port::PortRule;
use mooncake::rpc::client::{ClientOptions, MasterClient};
use mooncake::rpc::dialect::{self, Dialect};
use mooncake::rpc::frame::{
    Fault, ReplyHeader, RequestHeader, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES,
};
use mooncake::rpc::message::{Call, Greeting, Reply};
use mooncake::rpc::server::{Caller, Port, Replier, Server, ServerOptions, Service};
use mooncake::time::Deadline;

pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const D7: Dialect = Dialect::Upstream0_3_7;
/// Longer than anything that works takes, so that only what hangs reaches it.
pub const LONG: Duration = Duration::from_secs(20);

/// Keys that make the service behave in a certain way.
pub const PANIC: &[u8] = b"panic";
pub const DROP: &[u8] = b"drop";
pub const LATER: &[u8] = b"later";
pub const HOLD: &[u8] = b"hold";
pub const BIG: &[u8] = b"big";
pub const WRONG: &[u8] = b"wrong";

/// Answers greetings, a scripted call, and otherwise by the key.
#[derive(Default)]
pub struct Scripted {
    /// What is expected next and how it is answered; `true`: from another thread.
    pub script: Mutex<Option<(Call, Reply, bool)>>,
    /// Answers that are held back.
    pub held: Mutex<Vec<Replier>>,
    pub life: u64,
    pub seen: AtomicUsize,
}

impl Service for Scripted {
    fn serve(&self, call: Call, caller: Caller, replier: Replier) {
        let scripted = self.script.lock().unwrap().take();
        if let Some((expected, reply, later)) = scripted {
            if expected == call {
                if later {
                    std::thread::spawn(move || replier.answer(&reply));
                } else {
                    replier.answer(&reply);
                }
                return;
            }
            *self.script.lock().unwrap() = Some((expected, reply, later));
        }
        if matches!(call, Call::Greet { .. }) {
            assert_eq!(caller.dialect, Dialect::Native);
            let greeting = Greeting { version: 1, master_life: self.life };
            return replier.answer(&Reply::Greeted(Ok(greeting)));
        }
        if call == Call::ServiceReady {
            return replier.answer(&Reply::Ready(Ok(String::new())));
        }
        self.seen.fetch_add(1, Ordering::SeqCst);
        let Call::Exists(key) = &call else {
            return replier.answer(&call.refuse(mooncake::pool::outcome::Refusal::NOT_SUPPORTED));
        };
        let yes = Reply::Exists(Ok(true));
        match &key[..] {
            PANIC => panic!("as the test asked"),
            DROP => drop(replier),
            LATER => {
                std::thread::spawn(move || replier.answer(&Reply::Exists(Ok(true))));
            }
            HOLD => self.held.lock().unwrap().push(replier),
            BIG => replier.fail("x".repeat(1 << 20)),
            WRONG => replier.answer(&Reply::RemovedAll(1)),
            _ => replier.answer(&yes),
        }
    }
}

/// A server on a free port of the loopback address.
pub fn start(options: ServerOptions, service: &Arc<Scripted>) -> (Server, SocketAddr) {
    start_at(0, options, service)
}

pub fn start_at(
    port: u16,
    options: ServerOptions,
    service: &Arc<Scripted>,
) -> (Server, SocketAddr) {
    let port = Port { bind: Some(LOCAL), rule: PortRule::Fixed(port), dialect: D7 };
    let service: Arc<dyn Service> = Arc::clone(service) as Arc<dyn Service>;
    let server = Server::start(options, &[port], service).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

pub fn client(address: SocketAddr) -> MasterClient {
    MasterClient::new(ClientOptions::new(address.to_string())).unwrap()
}

pub fn within(time: Duration) -> Deadline {
    Deadline::within(time)
}

pub fn exists(key: &[u8]) -> Call {
    Call::Exists(key.to_vec())
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The frame of a request.
pub fn frame(seq: u32, dialect: Dialect, call: &Call) -> Vec<u8> {
    let mut body = Vec::new();
    let function = dialect::encode_request(dialect, call, &mut body).unwrap();
    let header = RequestHeader { seq, function, length: body.len() as u32, attachment: 0 };
    [&header.encode()[..], &body].concat()
}

/// A connection without a client around it.
pub struct Raw(pub TcpStream);

impl Raw {
    pub fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw(stream)
    }

    /// Sends; what the other side has closed takes no bytes, which is fine.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub fn reply(&mut self) -> (ReplyHeader, Vec<u8>) {
        let mut head = [0; REPLY_HEADER_BYTES];
        self.0.read_exact(&mut head).unwrap();
        let header = ReplyHeader::decode(&head).unwrap();
        let mut body = vec![0; header.length as usize];
        self.0.read_exact(&mut body).unwrap();
        (header, body)
    }

    /// True once the other side has closed; everything sent before is thrown away.
    pub fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return true,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// One call that must succeed.
    pub fn check(&mut self, seq: u32) {
        assert!(self.send(&frame(seq, D7, &exists(b"key"))));
        let (header, body) = self.reply();
        assert_eq!((header.seq, header.fault), (seq, 0));
        let reply = dialect::decode_reply(D7, mooncake::rpc::message::Method::Exists, &body);
        assert_eq!(reply, Ok(Reply::Exists(Ok(true))));
    }
}

/// A master that knows upstream's functions only, with one thread for each connection.
pub fn upstream_like(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut head = [0; REQUEST_HEADER_BYTES];
                while stream.read_exact(&mut head).is_ok() {
                    let header = RequestHeader::decode(&head).unwrap();
                    let mut body = vec![0; header.length as usize];
                    stream.read_exact(&mut body).unwrap();
                    let read = dialect::decode_request(header.function, &body, D7);
                    let mut answer = Vec::new();
                    let fault = match read {
                        Ok(read) if read.dialect == D7 => {
                            let reply = match read.call {
                                Call::ServiceReady => Reply::Ready(Ok(String::new())),
                                Call::Exists(_) => Reply::Exists(Ok(true)),
                                other => panic!("{other:?}"),
                            };
                            let method = match reply {
                                Reply::Ready(_) => mooncake::rpc::message::Method::ServiceReady,
                                _ => mooncake::rpc::message::Method::Exists,
                            };
                            dialect::encode_reply(D7, method, &reply, &mut answer).unwrap();
                            0
                        }
                        _ => {
                            Fault::not_registered().encode(&mut answer);
                            Fault::NOT_REGISTERED
                        }
                    };
                    let length = answer.len() as u32;
                    let seq = header.seq;
                    let header = ReplyHeader { fault, seq, length, attachment: 0 };
                    stream.write_all(&[&header.encode()[..], &answer].concat()).unwrap();
                }
            });
        }
    });
}
