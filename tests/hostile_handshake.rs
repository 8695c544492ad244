//! The handshake plane against clients and servers that do not keep to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mooncake::descriptor::Dialect;
use mooncake::engine::{Access, Engine, Notification, Operation};
use mooncake::error::{Error, ErrorKind};
use mooncake::limits;
use mooncake::net::handshake::{encode_frame, FrameDecoder, MessageType, NotifyMessage};

use common::engines::{buffer, engine, engine_with, request, Kind};
use common::fake_peer::{answer_handshake, descriptor};
use common::process::{descriptors, eventually, own_threads, resident_kib};
use common::random::Random;
use common::raw::{descriptor_of, dial, handshake, read_to_end};

/// The tests look at the resources of the whole process, so they run one by one.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The plane answers as if nothing had happened.
fn answers(engine: &Engine) {
    assert_eq!(descriptor_of(engine).name, engine.local_name());
}

#[test]
fn three_hundred_silent_clients_block_nobody() {
    let _alone = alone();
    let target = engine();
    let memory = buffer(&target, 4096, Access::ALL);
    let before = descriptors();
    let mut crowd: Vec<TcpStream> = (0..300).map(|_| dial(target.rpc_port())).collect();
    for (index, stream) in crowd.iter_mut().enumerate() {
        let half = &encode_frame(MessageType::Metadata, b"{}\n")[..index % 11];
        let _ = stream.write_all(half);
    }
    for _ in 0..5 {
        let own = engine();
        let local = buffer(&own, 4096, Access::LOCAL);
        let segment = own.open_segment(target.local_name()).unwrap();
        own.probe_segment(segment, Duration::from_secs(20)).unwrap();
        let (from, to) = (local.address(), memory.address());
        own.transfer(&[request(Operation::Write, from, segment, to, 4096)], None).unwrap();
    }
    // Their time is over at some point, without anybody's help.
    for stream in &mut crowd {
        read_to_end(stream);
    }
    drop(crowd);
    eventually("all descriptors are back", || descriptors() <= before + 2);
}

#[test]
fn frames_that_cannot_be() {
    let _alone = alone();
    let target = engine();
    let metadata = encode_frame(MessageType::Metadata, b"{}\n");
    let with_length = |length: u64, rest: &[u8]| [&length.to_le_bytes()[..], rest].concat();
    let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
    let deep_objects = "{\"a\":".repeat(100_000).into_bytes();
    let frames: Vec<(&str, Vec<u8>)> = vec![
        ("length 0", with_length(0, b"")),
        ("length 0 and more", with_length(0, &metadata)),
        ("huge length", with_length(u64::MAX, b"\x01{}\n")),
        ("just too long", with_length((1 << 20) + 1, &vec![b' '; (1 << 20) + 1])),
        ("negative", with_length(1 << 63, b"\x01{}\n")),
        ("type 4", with_length(4, b"\x04{}\n")),
        ("type 0x1f", with_length(4, b"\x1f{}\n")),
        ("type 0x80", with_length(4, b"\x80{}\n")),
        ("type 0xff", with_length(4, b"\xff{}\n")),
        ("type alone", with_length(1, b"\x01")),
        ("no json", with_length(5, b"\x01abc\n")),
        ("half json", with_length(4, b"\x01{\"\n")),
        ("two texts", with_length(7, b"\x01{} {}\n")),
        ("nul", with_length(4, b"\x01\0\0\n")),
        ("deep objects", encode_frame(MessageType::Metadata, &deep_objects)),
        ("deep notify", encode_frame(MessageType::Notify, &deep)),
        ("notify of wrong types", encode_frame(MessageType::Notify, b"{\"name\":7}\n")),
        ("notify without object", encode_frame(MessageType::Notify, b"[]\n")),
        ("http", b"GET /metadata?key=x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("tls", [&[0x16, 3, 1, 2, 0, 1][..], &[7; 300]].concat()),
    ];
    for (what, bytes) in &frames {
        let mut stream = dial(target.rpc_port());
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        assert_eq!(read_to_end(&mut stream), b"", "{what}");
    }
    // Well-formed, however deep: answered like any other, and nothing overflows.
    let deep = encode_frame(MessageType::Metadata, &deep);
    let mut stream = dial(target.rpc_port());
    stream.write_all(&deep).unwrap();
    read_to_end(&mut stream);
    // Truncated at each place, with an end and without.
    for cut in 0..metadata.len() {
        let mut stream = dial(target.rpc_port());
        stream.write_all(&metadata[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), b"", "{cut}");
    }
    assert!(target.take_notifications().is_empty());
    answers(&target);
}

#[test]
fn frames_that_are_odd_but_fine() {
    let _alone = alone();
    let target = engine();
    let metadata = encode_frame(MessageType::Metadata, b"{}\n");
    // Byte by byte.
    let mut stream = dial(target.rpc_port());
    for byte in &metadata {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(!read_to_end(&mut stream).is_empty());
    // A whole frame and garbage behind it: one answer.
    let mut stream = dial(target.rpc_port());
    stream.write_all(&[&metadata[..], &[0xA5; 3000], &metadata[..]].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read_to_end(&mut stream);
    let frame = FrameDecoder::new(1 << 20).feed(&answer).unwrap().unwrap();
    assert_eq!(answer.len(), frame.payload.len() + 9, "one answer");
    // The framing without a type byte is a connection message and answered likewise.
    let mut stream = dial(target.rpc_port());
    let line =
        b"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"\",\"qp_num\":[],\"reply_msg\":\"\"}\n";
    stream.write_all(&(line.len() as u64).to_le_bytes()).unwrap();
    stream.write_all(line).unwrap();
    let answer = read_to_end(&mut stream);
    assert_eq!(answer[8], b'{', "no type byte: {answer:?}");
    answers(&target);
}

#[test]
fn random_clients_change_nothing() {
    let _alone = alone();
    let mut random = Random::for_test("random_clients_change_nothing");
    let target = engine();
    buffer(&target, 4096, Access::ALL);
    let visit = |random: &mut Random, count: usize| {
        for _ in 0..count {
            let size = random.below(300) as usize;
            let mut bytes = match random.below(4) {
                0 => random.bytes(size),
                1 => {
                    let kind = [0u8, 1, 2, 3, 4, 9][random.below(6) as usize];
                    let body = random.bytes(size);
                    [&(body.len() as u64 + 1).to_le_bytes()[..], &[kind], &body].concat()
                }
                2 => encode_frame(MessageType::Notify, b"{\"name\":\"a\",\"notify_msg\":\"b\"}\n"),
                _ => encode_frame(MessageType::Metadata, b"{}\n"),
            };
            if random.chance(50) && !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            let mut stream = dial(target.rpc_port());
            let _ = stream.write_all(&bytes);
            if random.chance(50) {
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
                let _ = stream.read(&mut [0; 64]);
            }
        }
    };
    visit(&mut random, 300);
    target.take_notifications();
    eventually("conversations end", || descriptors() < 40);
    let before = (own_threads(), resident_kib());
    visit(&mut random, 2000);
    answers(&target);
    target.take_notifications();
    assert_eq!(own_threads(), before.0);
    let grown = resident_kib().saturating_sub(before.1);
    assert!(grown < 16 << 10, "{grown} KiB more");
}

#[test]
fn notifications_are_bounded() {
    let _alone = alone();
    let target = engine_with(|config| config.handshake_bytes_max = 4 << 20);
    let own = engine_with(|config| config.handshake_bytes_max = 4 << 20);
    let segment = own.open_segment(target.local_name()).unwrap();
    let wait = Duration::from_secs(60);
    // The largest that fits, and one byte more.
    let large = |bytes: usize| Notification { name: b"n".to_vec(), message: vec![b'x'; bytes] };
    own.notify(segment, &large(limits::NOTIFICATION_BYTES_MAX), wait).unwrap();
    assert_eq!(target.take_notifications(), [large(limits::NOTIFICATION_BYTES_MAX)]);
    let error = own.notify(segment, &large(limits::NOTIFICATION_BYTES_MAX + 1), wait).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let raw = NotifyMessage { name: b"n".to_vec(), notify_msg: b"x".to_vec() };
    let raw = String::from_utf8(raw.encode_line().unwrap()).unwrap();
    let long = raw.replace("\"x\"", &format!("\"{}\"", "y".repeat((1 << 20) + 1)));
    assert_eq!(handshake(target.rpc_port(), MessageType::Notify, long.as_bytes()), None);
    assert!(target.take_notifications().is_empty());
    // Nobody takes them: at some point they are refused, and memory does not grow further.
    let before = resident_kib();
    let mut refused = None;
    for index in 0..100 {
        match own.notify(segment, &large(limits::NOTIFICATION_BYTES_MAX), wait) {
            Ok(()) => {}
            Err(error) => {
                refused = Some((index, error));
                break;
            }
        }
    }
    let (taken, error) = refused.unwrap();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    assert!(error.to_string().contains(target.local_name()), "{error}");
    assert!(taken >= 60, "{taken}");
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 160 << 10, "{grown} KiB more");
    assert_eq!(target.metrics().notifications_dropped.get(), 1);
    assert_eq!(target.take_notifications().len(), taken);
    own.notify(segment, &large(10), wait).unwrap();
    // Many small ones are bounded in number. They are poured in directly, for speed.
    let line = raw.as_bytes();
    let mut accepted = 0;
    for _ in 0..200 {
        let reply = handshake(target.rpc_port(), MessageType::Notify, line).unwrap();
        accepted += usize::from(NotifyMessage::decode(&reply).unwrap().is_accepted());
    }
    assert_eq!(accepted, 200);
    assert_eq!(target.take_notifications().len(), 201);
}

/// A handshake server that treats each client with `serve`.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            serve(stream);
        }
    });
    name
}

/// The error of opening `name`, which comes in time and tells the place.
fn refused(what: &str, own: &Engine, name: &str) -> Error {
    let began = Instant::now();
    let error = match own.open_segment(name) {
        Ok(id) => panic!("{what}: opened {id:?}"),
        Err(error) => error,
    };
    assert!(began.elapsed() < Duration::from_secs(25), "{what}: {:?}", began.elapsed());
    let text = error.to_string();
    assert!(text.contains(name), "{what}: no peer in: {text}");
    error
}

#[test]
fn hostile_servers() {
    let _alone = alone();
    let own = engine_with(|config| config.transfer_timeout_ms = 2000);
    let take_request = |stream: &mut TcpStream| {
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk);
    };
    let answers: Vec<(&str, Vec<u8>, &[ErrorKind])> = vec![
        ("garbage", vec![0xC3; 500], &[ErrorKind::Protocol]),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), &[ErrorKind::Protocol]),
        ("length 0", vec![0; 8], &[ErrorKind::Protocol]),
        ("huge", u64::MAX.to_le_bytes().to_vec(), &[ErrorKind::Protocol]),
        ("1 GiB", (1u64 << 30).to_le_bytes().to_vec(), &[ErrorKind::Protocol]),
        ("nothing", Vec::new(), &[ErrorKind::Rejected, ErrorKind::ConnectionLost]),
        (
            "half",
            encode_frame(MessageType::Metadata, b"{\"name\":\"a\"}\n")[..12].to_vec(),
            &[ErrorKind::Rejected, ErrorKind::ConnectionLost],
        ),
        ("other type", encode_frame(MessageType::Notify, b"{}\n"), &[ErrorKind::Protocol]),
        ("null", encode_frame(MessageType::Metadata, b"null\n"), &[ErrorKind::SegmentNotFound]),
        ("empty", encode_frame(MessageType::Metadata, b"{}\n"), &[ErrorKind::MetadataMalformed]),
        ("list", encode_frame(MessageType::Metadata, b"[]\n"), &[ErrorKind::MetadataMalformed]),
        ("not json", encode_frame(MessageType::Metadata, b"}{\n"), &[ErrorKind::MetadataMalformed]),
        (
            "deep",
            encode_frame(MessageType::Metadata, &[b'['; 500_000]),
            &[ErrorKind::MetadataMalformed],
        ),
    ];
    for (what, answer, kinds) in answers {
        let name = server(move |mut stream| {
            take_request(&mut stream);
            let _ = stream.write_all(&answer);
        });
        let error = refused(what, &own, &name);
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
    }
    // Never a word, and a word now and then.
    let name = server(|stream| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(40));
            drop(stream);
        });
    });
    assert_eq!(refused("silent", &own, &name).kind(), ErrorKind::Timeout);
    let name = server(|mut stream| {
        std::thread::spawn(move || {
            let bytes = encode_frame(MessageType::Metadata, &[b' '; 100_000]);
            for byte in bytes {
                std::thread::sleep(Duration::from_millis(50));
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
    });
    assert_eq!(refused("trickle", &own, &name).kind(), ErrorKind::Timeout);
    // Nobody there.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert_eq!(refused("gone", &own, &gone).kind(), ErrorKind::Unreachable);
}

#[test]
fn forged_descriptors() {
    let _alone = alone();
    let own = engine_with(|config| config.transfer_timeout_ms = 3000);
    let local = buffer(&own, 4096, Access::LOCAL);
    let publish = |change: fn(&mut mooncake::descriptor::SegmentDescriptor)| {
        server(move |mut stream| {
            let mut descriptor = descriptor(Kind::Native, "somebody else", 9);
            change(&mut descriptor);
            let line = descriptor.encode_line(Dialect::V0_3_13);
            answer_handshake(&mut stream, MessageType::Metadata, &line);
        })
    };
    let name = publish(|d| d.tcp_data_port = 0);
    assert_eq!(refused("port 0", &own, &name).kind(), ErrorKind::Unsupported);
    let name = publish(|d| d.protocol = "rdma".into());
    assert_eq!(refused("rdma", &own, &name).kind(), ErrorKind::Unsupported);
    let name = publish(|d| d.protocol = "carrier pigeon".into());
    assert_eq!(refused("pigeon", &own, &name).kind(), ErrorKind::MetadataMalformed);
    let name = publish(|d| {
        d.buffers[0].addr = u64::MAX - 10;
        d.buffers[0].length = 100;
    });
    assert_eq!(refused("overflow", &own, &name).kind(), ErrorKind::MetadataMalformed);
    let name = publish(|d| d.buffers[0].length = u64::MAX);
    assert_eq!(refused("overflow", &own, &name).kind(), ErrorKind::MetadataMalformed);
    // Another host in the descriptor: we go to the one that answered us.
    let name = publish(|d| {
        d.tcp_data_host = Some("192.0.2.1".into());
        d.native = None;
    });
    let segment = own.open_segment(&name).unwrap();
    let to = common::fake_peer::ADDRESS as usize;
    let out = request(Operation::Write, local.address(), segment, to, 100);
    let error = own.transfer(&[out], Some(Duration::from_secs(20))).unwrap_err();
    assert!(!error.to_string().contains("192.0.2.1"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    // Its own ports, a buffer as large as can be, a name that wants to be another line.
    let name = publish(|d| {
        d.name = "evil\n[2026-01-01] ERROR root logged in".into();
        d.buffers[0].addr = 1;
        d.buffers[0].length = u64::MAX - 1;
    });
    let segment = own.open_segment(&name).unwrap();
    for (address, length) in [(1usize, 100u64), (usize::MAX - 200, 100), (1, 1 << 40)] {
        let mut out = request(Operation::Read, local.address(), segment, address, 100);
        out.length = length;
        let error = own.transfer(&[out], Some(Duration::from_secs(20))).unwrap_err();
        assert!(!error.to_string().contains('\n'), "a forged line: {error}");
    }
    // A descriptor that claims our own identity does not reach our memory.
    local.check_canaries();
}
