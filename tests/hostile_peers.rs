//! Our initiator against peers that do not keep the protocol: every wrong answer is a status with
//! peer and cause within the deadline, other tasks keep their memory, and good peers stay good.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::engine::{Access, Batch, Engine, Operation, Request, SegmentId, TaskState};
use mooncake::error::{Error, ErrorKind};
use mooncake::transport::tcp::wire::native::{
    Block, Hello, Kind as FrameKind, ReplyHeader, RequestHeader, HEADER_BYTES, VERSION,
};
use mooncake::transport::tcp::wire::v1v2::{
    encode_status, Header, Opcode, HEADER_BYTES as UPSTREAM_HEADER_BYTES, STATUS_OK,
    STATUS_REJECTED,
};

use common::engines::{buffer, engine, engine_with, request, Kind, PATIENCE};
use common::fake_peer::{silence, FakePeer, ADDRESS, INSTANCE};
use common::guarded::Guarded;
use common::raw::read_hello;

/// Of tasks that can only end by it.
const DEADLINE: Duration = Duration::from_secs(3);
const SIZE: usize = 1 << 20;

/// An initiator with a good peer next to the one under test.
struct Stage {
    own: Engine,
    good: Engine,
    good_segment: SegmentId,
    good_memory: Guarded,
    bystander: Guarded,
    local: Guarded,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut mooncake::config::EngineConfig)) -> Stage {
        let own = engine_with(change);
        let good = engine();
        let good_memory = buffer(&good, SIZE, Access::ALL);
        let good_segment = own.open_segment(good.local_name()).unwrap();
        let bystander = buffer(&own, SIZE, Access::LOCAL);
        let local = buffer(&own, SIZE, Access::LOCAL);
        Stage { own, good, good_segment, good_memory, bystander, local }
    }

    /// The good peer is reached as if nothing had happened, and no other memory was touched.
    fn check(&self) {
        self.bystander.check_canaries();
        self.local.check_canaries();
        self.bystander.fill(0x3c);
        let (from, to) = (self.bystander.address(), self.good_memory.address());
        let out = request(Operation::Write, from, self.good_segment, to, SIZE);
        self.own.transfer(&[out], None).unwrap();
        assert!(self.good_memory.all().iter().all(|byte| *byte == 0x3c));
        self.good_memory.check_canaries();
        let _ = &self.good;
    }

    /// Four reads or writes of a quarter each.
    fn submit(&self, peer: &FakePeer, operation: Operation) -> Batch {
        let segment = self.own.open_segment(&peer.name).unwrap();
        let requests: Vec<Request> = (0..4)
            .map(|part| {
                let at = part * SIZE / 4;
                let from = self.local.address() + at;
                request(operation, from, segment, ADDRESS as usize + at, SIZE / 4)
            })
            .collect();
        let batch = self.own.create_batch(4).unwrap();
        batch.submit_with(&requests, Some(DEADLINE), None).unwrap();
        batch
    }
}

/// All tasks end by their deadline; returns the errors of those that failed.
fn ends(batch: &Batch) -> Vec<Error> {
    let began = Instant::now();
    let progress = batch.wait(PATIENCE).unwrap();
    assert!(progress.is_done());
    // Generous: the machine may be busy. A hang would be minutes.
    assert!(began.elapsed() < DEADLINE + Duration::from_secs(20), "{:?}", began.elapsed());
    (0..progress.submitted)
        .filter_map(|index| {
            let status = batch.task(index).unwrap();
            match status.state {
                TaskState::Completed => None,
                TaskState::Failed => Some(status.error.unwrap()),
                other => panic!("{other:?}"),
            }
        })
        .collect()
}

/// Every task failed, and every error names the peer.
fn all_fail(name: &str, stage: &Stage, peer: &FakePeer, operation: Operation) -> Vec<Error> {
    stage.bystander.fill(0x99);
    let batch = stage.submit(peer, operation);
    let errors = ends(&batch);
    assert_eq!(errors.len(), 4, "{name} {operation:?}: some completed: {errors:?}");
    for error in &errors {
        let text = error.to_string();
        assert!(text.contains(&peer.name), "{name} {operation:?}: no peer in: {text}");
    }
    assert!(stage.bystander.all().iter().all(|byte| *byte == 0x99), "{name}");
    stage.check();
    errors
}

/// Reads what a native initiator says first and answers well.
fn greet(stream: &mut TcpStream) {
    read_hello(stream);
    let _ = stream.write_all(&hello().encode());
}

fn hello() -> Hello {
    Hello {
        version: VERSION,
        second: 0,
        capabilities: 0,
        instance: INSTANCE,
        expected: [0; 16],
        text: String::new(),
        mark: None,
    }
}

/// One request frame with its blocks and payload; `None` at the end of the stream.
fn next_frame(stream: &mut TcpStream) -> Option<(RequestHeader, Vec<Block>)> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = RequestHeader::decode(&head).unwrap();
    let mut entries = vec![0; header.head_bytes() - HEADER_BYTES];
    stream.read_exact(&mut entries).ok()?;
    let mut blocks = Vec::new();
    Block::decode_all(&header, &entries, &mut blocks).unwrap();
    Some((header, blocks))
}

fn take_payload(stream: &mut TcpStream, header: &RequestHeader) -> Option<()> {
    if header.kind == FrameKind::Write {
        stream.read_exact(&mut vec![0; header.payload as usize]).ok()?;
    }
    Some(())
}

/// The right answer to a frame.
fn right(header: &RequestHeader) -> ReplyHeader {
    ReplyHeader {
        kind: header.kind,
        statuses: false,
        blocks: header.blocks,
        sequence: header.sequence,
        payload: if header.kind == FrameKind::Read { header.payload } else { 0 },
    }
}

fn say(stream: &mut TcpStream, reply: ReplyHeader, rest: &[u8]) {
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    bytes.extend_from_slice(rest);
    let _ = stream.write_all(&bytes);
}

/// A native peer that answers each frame with `answer`.
fn native(answer: impl Fn(&mut TcpStream, RequestHeader) + Send + Sync + 'static) -> FakePeer {
    FakePeer::new(Kind::Native, move |mut stream| {
        greet(&mut stream);
        while let Some((header, _)) = next_frame(&mut stream) {
            if take_payload(&mut stream, &header).is_none() {
                return;
            }
            answer(&mut stream, header);
        }
    })
}

#[test]
fn native_replies_that_do_not_belong() {
    let stage = Stage::new();
    type Twist = fn(ReplyHeader) -> ReplyHeader;
    let twists: [(&str, Twist); 8] = [
        ("sequence", |r| ReplyHeader { sequence: r.sequence ^ 1, ..r }),
        ("more blocks", |r| ReplyHeader { blocks: r.blocks + 1, ..r }),
        ("no blocks", |r| ReplyHeader { blocks: 0, ..r }),
        ("most blocks", |r| ReplyHeader { blocks: u16::MAX, statuses: true, ..r }),
        ("other kind", |r| ReplyHeader {
            kind: match r.kind {
                FrameKind::Read => FrameKind::Write,
                _ => FrameKind::Read,
            },
            ..r
        }),
        ("longer", |r| ReplyHeader { payload: r.payload + 1, ..r }),
        ("huge", |r| ReplyHeader { payload: u64::MAX, ..r }),
        ("shorter", |r| ReplyHeader { payload: r.payload.wrapping_sub(1), ..r }),
    ];
    for (name, twist) in twists {
        for operation in [Operation::Read, Operation::Write] {
            let peer = native(move |stream, header| {
                say(stream, twist(right(&header)), &vec![0xAB; header.payload as usize]);
            });
            let errors = all_fail(name, &stage, &peer, operation);
            assert_eq!(errors[0].kind(), ErrorKind::Protocol, "{name}: {}", errors[0]);
        }
    }
}

#[test]
fn native_hellos_that_do_not_belong() {
    let stage = Stage::new();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("other instance", Hello { instance: [1; 16], ..hello() }.encode()),
        ("refusal", Hello { version: 0, second: 2, text: "go \n away".into(), ..hello() }.encode()),
        ("version not offered", Hello { version: 9, ..hello() }.encode()),
        ("garbage", vec![0x5a; 200]),
        ("http", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("length", {
            let mut bytes = hello().encode();
            bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
            bytes
        }),
        ("half", hello().encode()[..40].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, bytes) in cases {
        let peer = FakePeer::new(Kind::Native, move |mut stream| {
            read_hello(&mut stream);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            silence(stream);
        });
        for operation in [Operation::Read, Operation::Write] {
            let errors = all_fail(name, &stage, &peer, operation);
            let wanted = [ErrorKind::Rejected, ErrorKind::Protocol, ErrorKind::ConnectionLost];
            assert!(wanted.contains(&errors[0].kind()), "{name}: {:?}", errors[0]);
        }
    }
}

/// Half an answer, then the end.
#[test]
fn answers_that_break_off() {
    let stage = Stage::new();
    for operation in [Operation::Read, Operation::Write] {
        let peer = native(|stream, header| {
            say(stream, right(&header), &vec![1; header.payload as usize / 2]);
            let _ = stream.shutdown(Shutdown::Both);
        });
        let stage_local = &stage.local;
        let batch = stage.submit(&peer, operation);
        let errors = ends(&batch);
        if operation == Operation::Read {
            assert_eq!(errors.len(), 4, "{errors:?}");
        }
        stage_local.check_canaries();
        stage.check();
        for kind in [Kind::V1, Kind::V2] {
            let peer = FakePeer::new(kind, move |mut stream| {
                let Some(header) = upstream_request(&mut stream) else { return };
                if kind == Kind::V2 {
                    let _ = stream.write_all(&encode_status(STATUS_OK)[..5]);
                } else if header.opcode == Opcode::Read {
                    let _ = stream.write_all(&vec![2; header.size as usize / 2]);
                } else {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
            });
            all_fail("broken off", &stage, &peer, operation);
        }
    }
}

/// A header and, for a WRITE, its payload.
fn upstream_request(stream: &mut TcpStream) -> Option<Header> {
    let mut bytes = [0; UPSTREAM_HEADER_BYTES];
    stream.read_exact(&mut bytes).ok()?;
    let header = Header::decode(&bytes).unwrap();
    if header.opcode == Opcode::Write {
        stream.read_exact(&mut vec![0; header.size as usize]).ok()?;
    }
    Some(header)
}

#[test]
fn v2_answers_that_do_not_belong() {
    let stage = Stage::new();
    let cases: Vec<(&str, Vec<u8>, ErrorKind)> = vec![
        ("no magic", vec![0; 8], ErrorKind::Protocol),
        ("payload first", vec![0xAB; 1 << 20], ErrorKind::Protocol),
        ("rejected", encode_status(STATUS_REJECTED).to_vec(), ErrorKind::RemoteRange),
        ("unknown code", encode_status(12_345).to_vec(), ErrorKind::RemoteRange),
    ];
    for (name, bytes, kind) in cases {
        for operation in [Operation::Read, Operation::Write] {
            let bytes = bytes.clone();
            let peer = FakePeer::new(Kind::V2, move |mut stream| {
                while upstream_request(&mut stream).is_some() {
                    let _ = stream.write_all(&bytes);
                }
            });
            let errors = all_fail(name, &stage, &peer, operation);
            assert_eq!(errors[0].kind(), kind, "{name} {operation:?}: {}", errors[0]);
        }
    }
}

/// A v1 peer that says more, or says it is done before it can be.
#[test]
fn v1_answers_that_do_not_belong() {
    let stage = Stage::new();
    // A WRITE is answered by the end of the stream, not by bytes.
    let peer = FakePeer::new(Kind::V1, |mut stream| {
        upstream_request(&mut stream);
        let _ = stream.write_all(b"done");
    });
    all_fail("bytes", &stage, &peer, Operation::Write);
    // The end of the stream while half of the payload is still on its way is no success.
    let peer = FakePeer::new(Kind::V1, |mut stream| {
        let mut bytes = [0; UPSTREAM_HEADER_BYTES];
        let _ = stream.read_exact(&mut bytes);
        let _ = stream.shutdown(Shutdown::Write);
        std::thread::sleep(Duration::from_millis(500));
        drop(stream);
    });
    let large = buffer(&stage.own, 64 << 20, Access::LOCAL);
    let segment = stage.own.open_segment(&peer.name).unwrap();
    let one = request(Operation::Write, large.address(), segment, ADDRESS as usize, large.len());
    let result = stage.own.transfer(&[one], Some(DEADLINE));
    assert!(result.is_err(), "an early end of the stream reads as success");
    stage.check();
}

/// Success that comes before the payload has even left is no success: the caller would use its
/// memory again while we still send from it.
#[test]
fn success_before_the_payload_is_a_lie() {
    let stage = Stage::new();
    let large = buffer(&stage.own, 64 << 20, Access::LOCAL);
    let peer = FakePeer::new(Kind::V2, |mut stream| {
        let mut bytes = [0; UPSTREAM_HEADER_BYTES];
        let _ = stream.read_exact(&mut bytes);
        let _ = stream.write_all(&encode_status(STATUS_OK));
        std::thread::sleep(Duration::from_millis(500));
        silence(stream);
    });
    let segment = stage.own.open_segment(&peer.name).unwrap();
    // More than the kernels of both sides take.
    let one = request(Operation::Write, large.address(), segment, ADDRESS as usize, 64 << 20);
    let error = stage.own.transfer(&[one], Some(DEADLINE)).unwrap_err();
    let wanted = [ErrorKind::Protocol, ErrorKind::ConnectionLost];
    assert!(wanted.contains(&error.kind()), "{error:?}");
    stage.check();
}

#[test]
fn peers_that_never_answer() {
    let stage = Stage::new();
    for kind in [Kind::Native, Kind::V2, Kind::V1] {
        for operation in [Operation::Read, Operation::Write] {
            let peer = FakePeer::new(kind, silence);
            let errors = all_fail("silent", &stage, &peer, operation);
            let wanted = [ErrorKind::Timeout, ErrorKind::Unreachable, ErrorKind::PeerDown];
            assert!(wanted.contains(&errors[0].kind()), "{kind:?}: {:?}", errors[0]);
        }
    }
}

/// Ten bytes now and then keep a connection alive, but not a task.
#[test]
fn peers_that_trickle() {
    let stage = Stage::new();
    let stopping = Arc::new(AtomicBool::new(false));
    for kind in [Kind::Native, Kind::V2, Kind::V1] {
        let stopping = Arc::clone(&stopping);
        let peer = FakePeer::new(kind, move |mut stream| {
            match kind {
                Kind::Native => {
                    greet(&mut stream);
                    let Some((header, _)) = next_frame(&mut stream) else { return };
                    say(&mut stream, right(&header), &[]);
                }
                _ => {
                    if upstream_request(&mut stream).is_none() {
                        return;
                    }
                    if kind == Kind::V2 {
                        let _ = stream.write_all(&encode_status(STATUS_OK));
                    }
                }
            }
            while !stopping.load(Ordering::Acquire) && stream.write_all(&[7; 10]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let errors = all_fail("trickle", &stage, &peer, Operation::Read);
        assert_eq!(errors[0].kind(), ErrorKind::Timeout, "{kind:?}: {}", errors[0]);
        // The buffer is ours again, though bytes keep coming.
        stage.local.fill(0x42);
        std::thread::sleep(Duration::from_millis(100));
        assert!(stage.local.all().iter().all(|byte| *byte == 0x42), "{kind:?}");
    }
    stopping.store(true, Ordering::Release);
}

/// Peers whose handshake plane falls silent cost the tasks of other peers nothing, and their own
/// tasks not more than their deadline.
#[test]
fn peers_that_cannot_be_asked_again() {
    let stage = Stage::new();
    let handshakes = Arc::new(AtomicUsize::new(0));
    // Answers once, then never again; its data port resets everybody.
    let peers: Vec<_> = (0..6).map(|_| half_dead_peer(&handshakes)).collect();
    let requests: Vec<Request> = peers
        .iter()
        .map(|name| {
            let segment = stage.own.open_segment(name).unwrap();
            request(Operation::Write, stage.local.address(), segment, ADDRESS as usize, 1000)
        })
        .collect();
    let patient = stage.own.create_batch(100).unwrap();
    patient.submit_with(&requests, Some(Duration::from_secs(60)), None).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let hasty = stage.own.create_batch(100).unwrap();
    hasty.submit_with(&requests, Some(DEADLINE), None).unwrap();
    let began = Instant::now();
    // The good peer's tasks also pass through a repair.
    let late = buffer(&stage.good, 4096, Access::ALL);
    let (from, to) = (stage.bystander.address(), late.address());
    let out = request(Operation::Write, from, stage.good_segment, to, 4096);
    stage.own.transfer(&[out], Some(Duration::from_secs(20))).unwrap();
    let progress = hasty.wait(PATIENCE).unwrap();
    assert_eq!(progress.failed, requests.len());
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    for index in 0..requests.len() {
        let error = hasty.task(index).unwrap().error.unwrap();
        assert!(error.to_string().contains("127.0.0.1:"), "{error}");
    }
    // What waits for the dead can be taken back at once.
    patient.cancel();
    assert!(patient.poll().is_done());
    // Nor does the engine wait for them.
    let began = Instant::now();
    stage.own.shutdown();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

fn half_dead_peer(handshakes: &Arc<AtomicUsize>) -> String {
    use common::fake_peer::{answer_handshake, descriptor};
    use mooncake::descriptor::Dialect;
    use mooncake::net::handshake::MessageType;
    let data = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = data.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in data.incoming().map_while(Result::ok) {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    let control = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = control.local_addr().unwrap().to_string();
    let line = descriptor(Kind::V2, &name, port).encode_line(Dialect::V0_3_13);
    let handshakes = Arc::clone(handshakes);
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in control.incoming().map_while(Result::ok) {
            handshakes.fetch_add(1, Ordering::Relaxed);
            if kept.is_empty() {
                answer_handshake(&mut stream, MessageType::Metadata, &line);
            }
            kept.push(stream);
        }
    });
    name
}

/// A peer that refuses everything, request by request, does not cost a request that it serves.
#[test]
fn refusals_cost_only_their_own_request() {
    let stage = Stage::with(|config| config.tcp_lanes_per_peer = 1);
    let peer = FakePeer::new(Kind::V2, |mut stream| {
        // Even addresses are refused, as upstream does: status, then the end.
        while let Some(header) = upstream_request(&mut stream) {
            let refuse = (header.addr / 64) % 2 == 0;
            let code = if refuse { STATUS_REJECTED } else { STATUS_OK };
            if stream.write_all(&encode_status(code)).is_err() || refuse {
                return;
            }
        }
    });
    let segment = stage.own.open_segment(&peer.name).unwrap();
    let requests: Vec<Request> = (0..60)
        .map(|index| {
            let at = index * 64;
            let from = stage.local.address() + at;
            request(Operation::Write, from, segment, ADDRESS as usize + at, 64)
        })
        .collect();
    let batch = stage.own.create_batch(60).unwrap();
    batch.submit(&requests).unwrap();
    batch.wait(PATIENCE).unwrap();
    for index in 0..60 {
        let status = batch.task(index).unwrap();
        match (index % 2, status.state) {
            (0, TaskState::Failed) => {
                assert_eq!(status.error.unwrap().kind(), ErrorKind::RemoteRange);
            }
            (1, TaskState::Completed) => {}
            (_, state) => panic!("{index}: {state:?} {:?}", status.error),
        }
    }
    stage.check();
}
