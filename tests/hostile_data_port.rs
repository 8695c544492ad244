//! Strangers at the data port. Whatever they say, in whatever protocol: no byte outside registered
//! memory is read or written, nobody else is disturbed, and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mooncake::engine::{Access, Engine, Request};
use mooncake::error::ErrorKind;
use mooncake::limits;
use mooncake::transport::tcp::wire::native::{
    Block, Hello, Kind, LaneMark, ReplyHeader, RequestHeader, CAPABILITY_FENCE, HEADER_BYTES,
    MAGIC, REFUSED_INSTANCE, REFUSED_STALE, REFUSED_VERSION, VERSION,
};
use mooncake::transport::tcp::wire::v1v2::{decode_status, Framing, Opcode, STATUS_REJECTED};

use common::engines::{self, buffer, engine_with, register, Pair};
use common::guarded::Guarded;
use common::process::{activity, descriptors, eventually, own_threads, resident_kib};
use common::random::Random;
use common::raw::{
    descriptor_of, dial, frame, greeted, hello, hello_of, is_silence, read_exactly, read_hello,
    read_to_end, upstream,
};

/// The tests look at the resources of the whole process, so they run one by one.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An engine with one buffer of each access between canaries, and what their contents must be.
struct Fortress {
    engine: Engine,
    instance: [u8; 16],
    open: Guarded,
    key: u64,
    read_only: Guarded,
    read_only_key: u64,
    private: Guarded,
    contents: Vec<u8>,
}

const LENGTH: usize = 40_000;

impl Fortress {
    fn new() -> Fortress {
        Fortress::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut mooncake::config::EngineConfig)) -> Fortress {
        let engine = engine_with(change);
        let open = buffer(&engine, LENGTH, Access::ALL);
        let read_only = buffer(&engine, LENGTH, Access::REMOTE_READ);
        let private = buffer(&engine, LENGTH, Access::LOCAL);
        let contents = Random::seeded(7).bytes(LENGTH);
        for memory in [&open, &read_only, &private] {
            memory.put(0, &contents);
        }
        let descriptor = descriptor_of(&engine);
        let native = descriptor.native.unwrap();
        let key = |memory: &Guarded| {
            let at = descriptor.buffers.iter().position(|b| b.addr == memory.address() as u64);
            native.buffers[at.unwrap()].key
        };
        let (key, read_only_key) = (key(&open), key(&read_only));
        let instance = native.instance;
        Fortress { engine, instance, open, key, read_only, read_only_key, private, contents }
    }

    fn check(&self) {
        for memory in [&self.open, &self.read_only, &self.private] {
            assert!(memory.all() == self.contents, "the contents changed");
            memory.check_canaries();
        }
    }

    fn dial(&self) -> TcpStream {
        dial(self.engine.data_port())
    }

    /// Ranges that touch something that is not granted; the flag says that reading is.
    fn wrong_ranges(&self) -> Vec<(u64, u64, bool)> {
        let (a, n) = (self.open.address() as u64, LENGTH as u64);
        let r = self.read_only.address() as u64;
        let p = self.private.address() as u64;
        vec![
            (a - 1, 1, false),
            (a - 1, 2, false),
            (a - 1, n + 2, false),
            (a + n, 1, false),
            (a + n - 1, 2, false),
            (a, n + 1, false),
            (a - 4096, 4096, false),
            (a, 0, false),
            (a, 1 << 40, false),
            (a, limits::UPSTREAM_SIZE_MAX, false),
            (u64::MAX, 1, false),
            (u64::MAX - 10, 11, false),
            (u64::MAX - 10, 100, false),
            (0, 1, false),
            (0, 1 << 46, false),
            (p, 1, false),
            (p, n, false),
            (r, 10, true),
            (r + n - 1, 1, true),
            (r + n - 1, 2, false),
        ]
    }
}

#[test]
fn upstream_ranges() {
    let _alone = alone();
    let fortress = Fortress::new();
    for framing in [Framing::V1, Framing::V2] {
        for (addr, size, is_readable) in fortress.wrong_ranges() {
            for opcode in [Opcode::Read, Opcode::Write] {
                let mut stream = fortress.dial();
                let mut bytes = upstream(opcode, framing, addr, size);
                if opcode == Opcode::Write {
                    bytes.extend_from_slice(&[0xEE; 4096]);
                }
                // The refusal may come before everything is taken.
                let _ = stream.write_all(&bytes);
                if opcode == Opcode::Read && is_readable {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                let answer = read_to_end(&mut stream);
                let what = format!("{framing:?} {opcode:?} {addr:#x}+{size}");
                match (framing, opcode == Opcode::Read && is_readable) {
                    (Framing::V1, false) => assert_eq!(answer, b"", "{what}"),
                    (Framing::V2, false) => {
                        // A reset may overtake the status; anything else is a leak.
                        let status = answer.first_chunk().map(decode_status);
                        assert!(
                            answer.is_empty() || status == Some(Some(STATUS_REJECTED)),
                            "{what}: {answer:?}"
                        );
                        assert!(answer.len() <= 8, "{what}");
                    }
                    (_, true) => {
                        let head = if framing == Framing::V2 { 8 } else { 0 };
                        assert_eq!(answer.len(), head + size as usize, "{what}");
                    }
                }
                fortress.check();
            }
        }
    }
    assert!(fortress.engine.metrics().remote_requests_refused.get() > 0);
}

/// What stands before a bad request is served, what stands after it is not.
#[test]
fn upstream_pipelines_end_at_the_first_bad_request() {
    let _alone = alone();
    let fortress = Fortress::new();
    let a = fortress.open.address() as u64;
    let mut stream = fortress.dial();
    let mut bytes = Vec::new();
    for index in 0..10u64 {
        bytes.extend(upstream(Opcode::Read, Framing::V2, a + index, 100));
    }
    bytes.extend(upstream(Opcode::Read, Framing::V2, a - 1, 100));
    bytes.extend(upstream(Opcode::Write, Framing::V2, a, 8));
    bytes.extend_from_slice(&[0; 8]);
    stream.write_all(&bytes).unwrap();
    let answer = read_to_end(&mut stream);
    assert_eq!(answer.len(), 10 * 108 + 8);
    for index in 0..10 {
        let reply = &answer[index * 108..][..108];
        assert_eq!(decode_status(reply.first_chunk().unwrap()), Some(0));
        assert!(reply[8..] == fortress.contents[index..index + 100]);
    }
    let last = answer[1080..].first_chunk().unwrap();
    assert_eq!(decode_status(last), Some(STATUS_REJECTED));
    fortress.check();
}

#[test]
fn unknown_opcodes_and_foreign_protocols() {
    let _alone = alone();
    let fortress = Fortress::new();
    let a = fortress.open.address() as u64;
    let mut speeches: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0x5a; 512]].concat(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 24],
        vec![0xff; 4096],
        b"MCNATIVf".to_vec(),
        b"\0\0\0\0\0\0\0\x80".to_vec(),
    ];
    for opcode in [2, 3, 0x7f, 0x82, 0xff] {
        let mut bytes = upstream(Opcode::Read, Framing::V1, a, 100);
        bytes[16] = opcode;
        speeches.push(bytes);
    }
    for speech in speeches {
        let mut stream = fortress.dial();
        stream.write_all(&speech).unwrap();
        assert_eq!(read_to_end(&mut stream), b"", "{:?}", &speech[..8]);
    }
    fortress.check();
}

/// Reads the reply to a frame: header, statuses, payload.
fn reply(stream: &mut TcpStream) -> (ReplyHeader, Vec<u8>, Vec<u8>) {
    let head = read_exactly(stream, HEADER_BYTES);
    let header = ReplyHeader::decode(head.first_chunk().unwrap()).unwrap();
    let statuses = read_exactly(stream, if header.statuses { header.blocks.into() } else { 0 });
    let payload = read_exactly(stream, header.payload as usize);
    (header, statuses, payload)
}

#[test]
fn native_ranges_and_keys() {
    let _alone = alone();
    let fortress = Fortress::new();
    let mut stream = greeted(&fortress.engine, fortress.instance);
    let a = fortress.open.address() as u64;
    let good = Block { address: a, key: fortress.key, length: 64 };
    let mut bad: Vec<Block> = Vec::new();
    for (address, size, is_readable) in fortress.wrong_ranges() {
        if size == 0 || size > limits::NATIVE_FRAME_BYTES_MAX / 2 || is_readable {
            continue;
        }
        for key in [fortress.key, fortress.read_only_key, 0, u64::MAX] {
            bad.push(Block { address, key, length: size as u32 });
        }
    }
    let r = fortress.read_only.address() as u64;
    for key in [0, 1, fortress.key + 1, fortress.key ^ (1 << 63), fortress.read_only_key] {
        bad.push(Block { key, ..good });
    }
    bad.push(Block { address: r, key: fortress.key, length: 1 });
    for (sequence, block) in bad.iter().enumerate() {
        for kind in [Kind::Read, Kind::Write] {
            let blocks = [good, *block, good];
            let mut bytes = frame(kind, sequence as u32, &blocks);
            if kind == Kind::Write {
                bytes.extend_from_slice(&fortress.contents[..64]);
                bytes.extend(vec![0xEE; block.length as usize]);
                bytes.extend_from_slice(&fortress.contents[..64]);
            }
            stream.write_all(&bytes).unwrap();
            let (header, statuses, payload) = reply(&mut stream);
            assert_eq!((header.sequence, header.blocks), (sequence as u32, 3));
            assert_eq!(statuses, [0, 1, 0], "{kind:?} {block:?}");
            if kind == Kind::Read {
                let first = &fortress.contents[..64];
                assert!(payload == [first, first].concat(), "{block:?}");
            }
        }
    }
    // Read-only memory: read with its key, never written.
    let block = Block { address: r, key: fortress.read_only_key, length: 64 };
    stream.write_all(&frame(Kind::Read, 1, &[block])).unwrap();
    assert!(reply(&mut stream).2 == fortress.contents[..64]);
    stream.write_all(&[&frame(Kind::Write, 2, &[block])[..], &[0xEE; 64]].concat()).unwrap();
    assert_eq!(reply(&mut stream).1, [1]);
    fortress.check();
    // The key dies with the registration, also on a connection that has used it.
    fortress.engine.unregister(&[fortress.open.address()]).unwrap();
    register(&fortress.engine, &fortress.open, Access::ALL);
    for kind in [Kind::Read, Kind::Write] {
        let mut bytes = frame(kind, 3, &[good]);
        if kind == Kind::Write {
            bytes.extend_from_slice(&[0xEE; 64]);
        }
        stream.write_all(&bytes).unwrap();
        assert_eq!(reply(&mut stream).1, [1], "{kind:?} with an old key");
    }
    fortress.check();
}

#[test]
fn native_hellos_are_checked() {
    let _alone = alone();
    let fortress = Fortress::new();
    let mut wrong = fortress.instance;
    wrong[3] ^= 1;
    let base = hello_of(fortress.instance);
    let refused = [
        (Hello { expected: wrong, ..base.clone() }, REFUSED_INSTANCE),
        (Hello { expected: [0; 16], ..base.clone() }, REFUSED_INSTANCE),
        (Hello { version: 0, ..base.clone() }, REFUSED_VERSION),
        (Hello { version: 9, second: VERSION + 1, ..base.clone() }, REFUSED_VERSION),
    ];
    let a = fortress.open.address() as u64;
    let block = Block { address: a, key: fortress.key, length: 64 };
    for (hello, code) in refused {
        let mut stream = fortress.dial();
        // Requests that did not wait for the answer are not served either.
        let write = [&frame(Kind::Write, 0, &[block])[..], &[0xEE; 64]].concat();
        stream.write_all(&[hello.encode(), write].concat()).unwrap();
        let answer = read_hello(&mut stream);
        assert_eq!((answer.version, answer.second), (0, code));
        assert_eq!(read_to_end(&mut stream), b"");
    }
    let whole = base.encode();
    for (offset, value) in [(12, 63u32), (12, 0), (12, u32::MAX), (12, 4097), (56, 4000)] {
        let mut bytes = whole.clone();
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        let mut stream = fortress.dial();
        stream.write_all(&bytes).unwrap();
        assert_eq!(read_to_end(&mut stream), b"", "{offset} {value}");
    }
    // Truncated, then half-closed.
    for cut in [1, 7, 8, 9, 16, 63, whole.len() - 1] {
        let mut stream = fortress.dial();
        stream.write_all(&whole[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), b"", "{cut}");
    }
    // A newer peer with more in its hello is welcome.
    let mut longer = Hello { version: 7, ..base }.encode();
    longer.extend_from_slice(b"something new");
    let length = longer.len() as u32;
    longer[12..16].copy_from_slice(&length.to_le_bytes());
    let mut stream = fortress.dial();
    stream.write_all(&longer).unwrap();
    assert_eq!(read_hello(&mut stream).version, VERSION);
    fortress.check();
}

#[test]
fn native_frames_that_do_not_add_up() {
    let _alone = alone();
    let fortress = Fortress::new();
    let a = fortress.open.address() as u64;
    let block = Block { address: a, key: fortress.key, length: 64 };
    let header = RequestHeader { kind: Kind::Write, blocks: 1, sequence: 0, payload: 64 };
    let with = |header: RequestHeader, blocks: &[Block]| {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        blocks.iter().for_each(|block| block.encode(&mut bytes));
        bytes
    };
    let mut kind = with(header, &[block]);
    kind[0] = 3;
    let mut reply_kind = with(header, &[block]);
    reply_kind[0] = 0x81;
    let frames = [
        ("kind", kind),
        ("reply as request", reply_kind),
        ("no block", with(RequestHeader { blocks: 0, ..header }, &[])),
        ("many blocks", with(RequestHeader { blocks: 513, ..header }, &[block; 513])),
        ("most blocks", with(RequestHeader { blocks: u16::MAX, ..header }, &[block])),
        ("sum", with(RequestHeader { payload: 63, ..header }, &[block])),
        ("sum", with(RequestHeader { payload: 65, ..header }, &[block])),
        ("nothing", with(RequestHeader { payload: 0, ..header }, &[block])),
        ("too much", with(RequestHeader { payload: (4 << 20) + 1, ..header }, &[block])),
        ("overflow", with(RequestHeader { payload: u64::MAX, ..header }, &[block])),
        (
            "sum beyond 32 bits",
            with(
                RequestHeader { blocks: 2, payload: 64, ..header },
                &[Block { length: u32::MAX, ..block }, Block { length: 65, ..block }],
            ),
        ),
        (
            "empty block",
            with(RequestHeader { blocks: 2, ..header }, &[block, Block { length: 0, ..block }]),
        ),
    ];
    for (what, bytes) in frames {
        let mut stream = greeted(&fortress.engine, fortress.instance);
        let _ = stream.write_all(&bytes);
        let _ = stream.write_all(&[0xEE; 128]);
        assert_eq!(read_to_end(&mut stream), b"", "{what}");
        fortress.check();
    }
}

/// Headers that never become whole cost a bounded time, in every protocol.
#[test]
fn slow_and_silent_strangers_are_closed() {
    let _alone = alone();
    let fortress = Fortress::with(|config| config.tcp_header_timeout_ms = 300);
    let a = fortress.open.address() as u64;
    let mut streams: Vec<TcpStream> = (0..60).map(|_| fortress.dial()).collect();
    let speeches =
        [hello(fortress.instance), upstream(Opcode::Write, Framing::V2, a, 64), vec![0; 24]];
    // A byte now and then does not buy time.
    for round in 0..20 {
        for (index, stream) in streams.iter_mut().enumerate() {
            if let Some(speech) = speeches.get(index % 4) {
                let _ = stream.write_all(&speech[round..round + 1]);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for stream in &mut streams {
        assert_eq!(read_to_end(stream), b"");
    }
    eventually("all strangers are gone", || {
        fortress.engine.metrics().connections_serving.get() == 0
    });
    fortress.check();
}

/// The same while the thread that serves them never rests.
#[test]
fn silent_strangers_are_closed_under_load() {
    let _alone = alone();
    let pair = Pair::new(engines::Kind::Native);
    let target = engine_with(|config| {
        config.tcp_header_timeout_ms = 300;
        config.tcp_spin_us = 1_000_000;
    });
    let remote = buffer(&target, 1 << 20, Access::ALL);
    let segment = pair.own.open_segment(target.local_name()).unwrap();
    let local = pair.local(1 << 20);
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (pair, local, remote, finished) = (&pair, &local, &remote, &finished);
            scope.spawn(move || {
                let at = thread * 4096;
                let mut one = pair.write(local.address() + at, remote.address() + at, 4096);
                one.segment = segment;
                while !finished.load(Ordering::Acquire) {
                    pair.own.transfer(&[one], None).unwrap();
                }
            });
        }
        let mut silent: Vec<TcpStream> = (0..10).map(|_| dial(target.data_port())).collect();
        for stream in &mut silent {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        let closed = silent.iter_mut().all(|stream| match stream.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !is_silence(&error),
        });
        finished.store(true, Ordering::Release);
        assert!(closed, "a silent stranger stays as long as others are busy");
    });
}

/// A peer that closes its sending side still gets its answers, at its own pace.
#[test]
fn half_closed_peers_get_their_answers() {
    let _alone = alone();
    let engine = engine_with(|_| {});
    let length = 24 << 20;
    let memory = buffer(&engine, length, Access::ALL);
    let contents = Random::seeded(3).bytes(length);
    memory.put(0, &contents);
    let a = memory.address() as u64;
    for (framing, parts) in [(Framing::V1, 1), (Framing::V2, 1), (Framing::V2, 6)] {
        let mut stream = dial(engine.data_port());
        let part = length / parts;
        for index in 0..parts {
            let at = a + (index * part) as u64;
            stream.write_all(&upstream(Opcode::Read, framing, at, part as u64)).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let head = if framing == Framing::V2 { 8 } else { 0 };
        for index in 0..parts {
            read_exactly(&mut stream, head);
            let bytes = read_exactly(&mut stream, part);
            assert!(bytes == contents[index * part..][..part], "{framing:?}");
        }
        assert_eq!(read_to_end(&mut stream), b"");
    }
    memory.check_canaries();
}

/// A peer that asks for much and takes nothing is bounded in memory and time.
#[test]
fn peers_that_do_not_read_are_given_up() {
    let _alone = alone();
    let engine = engine_with(|config| config.tcp_progress_timeout_s = 1);
    let memory = buffer(&engine, 4 << 20, Access::ALL);
    let descriptor = descriptor_of(&engine);
    let native = descriptor.native.unwrap();
    let block = Block {
        address: memory.address() as u64,
        key: native.buffers[0].key,
        length: memory.len() as u32,
    };
    let one_byte = Block { length: 1, ..block };
    let before = resident_kib();
    let mut streams = Vec::new();
    for half_close in [false, true] {
        let mut v2 = dial(engine.data_port());
        let mut requests = Vec::new();
        for _ in 0..20_000 {
            requests.extend(upstream(Opcode::Read, Framing::V2, block.address, 4 << 20));
        }
        v2.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let _ = v2.write_all(&requests);
        let mut frames = greeted(&engine, native.instance);
        frames.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut requests = Vec::new();
        for sequence in 0..20_000 {
            requests.extend(frame(Kind::Read, sequence, &[one_byte, block][..1]));
            requests.extend(frame(Kind::Read, sequence, &[Block { length: 1 << 20, ..block }; 3]));
        }
        let _ = frames.write_all(&requests);
        // One whose answer waits, but is small.
        let mut small = dial(engine.data_port());
        small.write_all(&upstream(Opcode::Read, Framing::V2, block.address, 4 << 20)).unwrap();
        let mut v1 = dial(engine.data_port());
        v1.write_all(&upstream(Opcode::Read, Framing::V1, block.address, 4 << 20)).unwrap();
        for stream in [v2, frames, small, v1] {
            // Small windows, so that the answers do not vanish into the kernel.
            if half_close {
                let _ = stream.shutdown(Shutdown::Write);
            }
            streams.push(stream);
        }
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 96 << 10, "{grown} KiB more for 8 peers");
    eventually("peers that do not read are gone", || {
        engine.metrics().connections_serving.get() == 0
    });
    drop(streams);
}

/// A peer that has closed its side and takes nothing costs no processor time until it is given up.
#[test]
fn a_stopped_half_closed_peer_costs_nothing() {
    let _alone = alone();
    let engine = engine_with(|config| config.tcp_progress_timeout_s = 4);
    let memory = buffer(&engine, 64 << 20, Access::ALL);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // The window is small, and the rest of the answer stays below the server's backlog.
    socket.set_recv_buffer_size(4096).unwrap();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], engine.data_port()).into();
    socket.connect(&address.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    let a = memory.address() as u64;
    stream.write_all(&upstream(Opcode::Read, Framing::V1, a, 7 << 20)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let ran = || activity().iter().map(|(_, _, nanos)| nanos).sum::<u64>();
    std::thread::sleep(Duration::from_millis(500));
    let before = ran();
    std::thread::sleep(Duration::from_secs(2));
    let spent = Duration::from_nanos(ran() - before);
    assert!(spent < Duration::from_millis(150), "{spent:?} of two seconds");
    eventually("it is given up", || engine.metrics().connections_serving.get() == 0);
}

#[test]
fn memory_unregistered_under_a_request() {
    let _alone = alone();
    let engine = engine_with(|_| {});
    let length = 32 << 20;
    let memory = Guarded::new(length);
    let half = length / 2;
    for framing in [Framing::V1, Framing::V2] {
        for opcode in [Opcode::Write, Opcode::Read] {
            memory.fill(0x10);
            register(&engine, &memory, Access::ALL);
            let mut stream = dial(engine.data_port());
            let a = memory.address() as u64;
            stream.write_all(&upstream(opcode, framing, a, length as u64)).unwrap();
            if opcode == Opcode::Write {
                stream.write_all(&vec![0x20; half]).unwrap();
            } else {
                read_exactly(&mut stream, 1000);
            }
            engine.unregister(&[memory.address()]).unwrap();
            memory.forbid();
            if opcode == Opcode::Write {
                let _ = stream.write_all(&vec![0x30; half]);
            }
            let answer = read_to_end(&mut stream);
            match (opcode, framing) {
                (Opcode::Read, _) => assert!(answer.len() < length, "it was whole"),
                (Opcode::Write, Framing::V1) => assert_eq!(answer, b""),
                (Opcode::Write, Framing::V2) => {
                    let status = answer.first_chunk().and_then(decode_status);
                    assert!(answer.is_empty() || status == Some(STATUS_REJECTED));
                }
            }
            memory.allow();
            assert!(!memory.all().contains(&0x30), "written after it was unregistered");
            memory.check_canaries();
        }
    }
    memory.fill(0x10);
    register(&engine, &memory, Access::ALL);
    let native = descriptor_of(&engine).native.unwrap();
    let mut stream = greeted(&engine, native.instance);
    let block =
        Block { address: memory.address() as u64, key: native.buffers[0].key, length: 4 << 20 };
    stream.write_all(&frame(Kind::Write, 5, &[block])).unwrap();
    stream.write_all(&vec![0x20; 1 << 20]).unwrap();
    engine.unregister(&[memory.address()]).unwrap();
    memory.forbid();
    stream.write_all(&vec![0x30; 3 << 20]).unwrap();
    let (header, statuses, _) = reply(&mut stream);
    assert_eq!((header.sequence, header.statuses), (5, true));
    assert!(statuses == [2] || statuses == [1], "{statuses:?}");
    memory.allow();
    assert!(!memory.all().contains(&0x30));
}

/// Five hundred strangers of all kinds while real transfers run.
#[test]
fn five_hundred_at_once_disturb_nobody() {
    let _alone = alone();
    let mut random = Random::for_test("five_hundred_at_once_disturb_nobody");
    let fortress = Fortress::new();
    let pair = Pair::new(engines::Kind::Native);
    let remote = buffer(&fortress.engine, 4 << 20, Access::ALL);
    let segment = pair.own.open_segment(fortress.engine.local_name()).unwrap();
    let local = pair.local(4 << 20);
    let finished = AtomicBool::new(false);
    let before = (descriptors(), own_threads());
    std::thread::scope(|scope| {
        let rounds = scope.spawn(|| {
            let mut random = Random::seeded(5);
            let mut rounds = 0;
            while !finished.load(Ordering::Acquire) || rounds < 20 {
                let source = random.bytes(1 << 20);
                local.put(0, &source);
                let (l, r) = (local.address(), remote.address());
                let out = Request { segment, ..pair.write(l, r, 1 << 20) };
                let back = Request { segment, ..pair.read(l + (2 << 20), r, 1 << 20) };
                pair.own.transfer(&[out], None).unwrap();
                pair.own.transfer(&[back], None).unwrap();
                assert!(local.get(2 << 20, 1 << 20) == source);
                rounds += 1;
            }
            rounds
        });
        let mut crowd: Vec<TcpStream> = (0..500).map(|_| fortress.dial()).collect();
        for _ in 0..3 {
            for stream in &mut crowd {
                let speech = speech(&fortress, &mut random);
                let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
                let _ = stream.write_all(&speech);
            }
        }
        finished.store(true, Ordering::Release);
        println!("{} rounds meanwhile", rounds.join().unwrap());
        drop(crowd);
    });
    eventually("the crowd is gone", || {
        // The lanes of the pair stay.
        fortress.engine.metrics().connections_serving.get() <= 4
    });
    fortress.check();
    remote.check_canaries();
    eventually("no descriptor is left", || descriptors() <= before.0 + 8);
    assert_eq!(own_threads(), before.1);
}

/// Something a stranger might say: noise, or a request with one thing wrong with it.
fn speech(fortress: &Fortress, random: &mut Random) -> Vec<u8> {
    let a = fortress.open.address() as u64;
    let ranges = fortress.wrong_ranges();
    let (address, size, _) = ranges[random.below(ranges.len() as u64) as usize];
    let block = Block { address, key: random.next(), length: size as u32 };
    let count = random.below(600) as usize;
    let mut bytes = match random.below(9) {
        0 => random.bytes(count),
        1 => [&MAGIC[..], &random.bytes(count)].concat(),
        2 => upstream(Opcode::Write, Framing::V1, address.min(a - 1), size),
        3 => upstream(Opcode::Write, Framing::V2, address.min(a - 1), size),
        4 => upstream(Opcode::Read, Framing::V2, address, size),
        5 => [hello(fortress.instance), frame(Kind::Write, 0, &[block])].concat(),
        6 => [hello(fortress.instance), frame(Kind::Read, 0, &[block; 7])].concat(),
        7 => [hello(fortress.instance), random.bytes(count)].concat(),
        _ => hello([random.next() as u8; 16]),
    };
    if random.chance(30) {
        let at = random.below(bytes.len().max(1) as u64) as usize;
        bytes.truncate(at);
    }
    bytes.extend(random.bytes(random.clone().below(64) as usize));
    bytes
}

#[test]
fn ten_thousand_random_connections_change_nothing() {
    let _alone = alone();
    let mut random = Random::for_test("ten_thousand_random_connections_change_nothing");
    let fortress = Fortress::new();
    // A first thousand fills caches and pools.
    visit(&fortress, &mut random, 1000);
    eventually("no connection is left", || {
        fortress.engine.metrics().connections_serving.get() == 0
    });
    let before = (descriptors(), own_threads(), resident_kib());
    visit(&fortress, &mut random, 9000);
    fortress.check();
    eventually("no connection is left", || {
        fortress.engine.metrics().connections_serving.get() == 0
    });
    eventually("no descriptor is left", || descriptors() <= before.0);
    assert_eq!(own_threads(), before.1);
    let grown = resident_kib().saturating_sub(before.2);
    assert!(grown < 32 << 10, "{grown} KiB more");
    // And it still serves.
    let mut stream = greeted(&fortress.engine, fortress.instance);
    let block = Block { address: fortress.open.address() as u64, key: fortress.key, length: 1000 };
    stream.write_all(&frame(Kind::Read, 0, &[block])).unwrap();
    assert!(reply(&mut stream).2 == fortress.contents[..1000]);
}

fn visit(fortress: &Fortress, random: &mut Random, count: usize) {
    let seeds: Vec<u64> = (0..8).map(|_| random.next()).collect();
    std::thread::scope(|scope| {
        for seed in seeds {
            scope.spawn(move || {
                let mut random = Random::seeded(seed);
                for _ in 0..count / 8 {
                    let mut stream = fortress.dial();
                    let bytes = speech(fortress, &mut random);
                    let _ = stream.write_all(&bytes);
                    match random.below(4) {
                        0 => {
                            let _ = stream.shutdown(Shutdown::Write);
                        }
                        1 => {
                            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
                            let _ = stream.read(&mut [0; 4096]);
                        }
                        2 => {
                            let socket = socket2::SockRef::from(&stream);
                            let _ = socket.set_linger(Some(Duration::ZERO));
                        }
                        _ => {}
                    }
                }
            });
        }
    });
}

/// The marks of lanes: who is newer stores, who was fenced off does not, and a stranger who does
/// not know a lane's secret cuts off nobody.
#[test]
fn lanes_are_fenced_by_those_who_know_them() {
    let _alone = alone();
    for threads in [1, 3] {
        let fortress = Fortress::with(|config| config.tcp_io_threads = threads);
        let a = fortress.open.address() as u64;
        let block = Block { address: a, key: fortress.key, length: 64 };
        let write = |stream: &mut TcpStream, value: u8| {
            let bytes = [&frame(Kind::Write, 0, &[block])[..], &[value; 64]].concat();
            // Whoever is fenced off may find it out here.
            let _ = stream.write_all(&bytes);
        };
        let stores = |stream: &mut TcpStream, value: u8| {
            write(stream, value);
            assert_eq!(reply(stream).0.kind, Kind::Write);
            assert_eq!(fortress.open.get(0, 64), [value; 64]);
        };
        let refused = |stream: &mut TcpStream, value: u8| {
            let before = fortress.open.get(0, 64);
            write(stream, value);
            assert_eq!(read_to_end(stream), b"", "a fenced connection was answered");
            assert_eq!(fortress.open.get(0, 64), before);
        };
        let dial = |instance: u8, lane: u64, epoch: u64| {
            let mut stream = fortress.dial();
            let hello = Hello {
                capabilities: CAPABILITY_FENCE,
                instance: [instance; 16],
                mark: Some(LaneMark { lane, epoch }),
                ..hello_of(fortress.instance)
            };
            stream.write_all(&hello.encode()).unwrap();
            let answer = read_hello(&mut stream);
            assert_eq!(answer.capabilities & CAPABILITY_FENCE, CAPABILITY_FENCE);
            (stream, answer)
        };
        let fence = |stream: &mut TcpStream, lane: u64, epoch: u64| {
            let mut bytes = Vec::new();
            LaneMark::encode_fence(&[LaneMark { lane, epoch }], &mut bytes);
            stream.write_all(&bytes).unwrap();
        };
        // In the middle of a payload, and served by another thread or the same.
        let (mut old, _) = dial(1, 7, 1);
        stores(&mut old, 1);
        let half = [&frame(Kind::Write, 0, &[block])[..], &[0xEE; 10]].concat();
        old.write_all(&half).unwrap();
        eventually("half of it is there", || fortress.open.get(9, 1) == [0xEE]);
        let (mut new, _) = dial(1, 7, 2);
        stores(&mut new, 2);
        let _ = old.write_all(&[0xEE; 54]);
        assert_eq!(read_to_end(&mut old), b"");
        assert_eq!(fortress.open.get(0, 64), [2; 64]);
        // A hello that the network held back.
        for stale in [0, 1, 2] {
            let (mut late, answer) = dial(1, 7, stale);
            assert_eq!((answer.version, answer.second), (0, REFUSED_STALE), "{stale}");
            refused(&mut late, 0xEE);
        }
        stores(&mut new, 3);
        // Strangers: another instance, another lane, an older epoch.
        let (mut stranger, _) = dial(2, 6, 1);
        fence(&mut stranger, 7, u64::MAX);
        let (mut neighbour, _) = dial(1, 8, 1);
        fence(&mut neighbour, 9, u64::MAX);
        fence(&mut neighbour, 7, 1);
        stores(&mut stranger, 4);
        stores(&mut neighbour, 5);
        stores(&mut new, 6);
        // Without a mark there is no fence, as before.
        let mut plain = greeted(&fortress.engine, fortress.instance);
        stores(&mut plain, 7);
        // What follows the fence on its connection finds it done.
        fence(&mut neighbour, 7, 2);
        stores(&mut neighbour, 8);
        refused(&mut new, 0xEE);
        assert_eq!(dial(1, 7, 2).1.second, REFUSED_STALE);
        let (mut newest, _) = dial(1, 7, 3);
        stores(&mut newest, 9);
        // A fence with a payload, or of nothing, is no fence.
        for offset in [2, 8] {
            let mut bytes = Vec::new();
            LaneMark::encode_fence(&[LaneMark { lane: 1, epoch: 1 }], &mut bytes);
            bytes[offset] ^= 1;
            let mut stream = greeted(&fortress.engine, fortress.instance);
            stream.write_all(&bytes).unwrap();
            assert_eq!(read_to_end(&mut stream), b"");
        }
        fortress.open.put(0, &fortress.contents);
        fortress.check();
    }
}

/// At the limit, strangers make room for newcomers and peers that have proven themselves stay.
#[test]
fn the_connection_limit_costs_strangers_only() {
    let _alone = alone();
    let fortress = Fortress::with(|config| config.tcp_connections_max = 8);
    let pair = Pair::new(engines::Kind::Native);
    let remote = buffer(&fortress.engine, 1 << 20, Access::ALL);
    let segment = pair.own.open_segment(fortress.engine.local_name()).unwrap();
    let local = pair.local(1 << 20);
    let out = Request { segment, ..pair.write(local.address(), remote.address(), 1 << 20) };
    let transfers = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..count {
                        pair.own.transfer(&[out], None).unwrap();
                    }
                });
            }
        });
    };
    transfers(5);
    let opened = pair.own.metrics().connections_opened.get();
    let mut strangers = Vec::new();
    for round in 0..100 {
        strangers.push(fortress.dial());
        if round % 10 == 0 {
            transfers(1);
        }
        let serving = fortress.engine.metrics().connections_serving.get();
        assert!(serving <= 8, "{serving} connections");
    }
    transfers(5);
    let again = pair.own.metrics().connections_opened.get();
    // A lane that was idle until now may be opened late; none was lost.
    assert!(again <= opened.max(4), "{opened} connections became {again}");
    fortress.check();
}

/// A newcomer finds room whichever thread it comes to and whichever serves the strangers.
#[test]
fn strangers_of_all_threads_make_room() {
    let _alone = alone();
    let fortress = Fortress::with(|config| {
        config.tcp_io_threads = 2;
        config.tcp_connections_max = 8;
        config.tcp_header_timeout_ms = 60_000;
    });
    let serving = || fortress.engine.metrics().connections_serving.get();
    // Connections go to the threads in turn: peers to one, strangers to the other.
    let mut peers = Vec::new();
    let mut strangers = Vec::new();
    for _ in 0..4 {
        peers.push(greeted(&fortress.engine, fortress.instance));
        strangers.push(fortress.dial());
    }
    eventually("all are served", || serving() == 8);
    for _ in 0..4 {
        peers.push(greeted(&fortress.engine, fortress.instance));
        assert!(serving() <= 8);
    }
    for stranger in &mut strangers {
        assert_eq!(read_to_end(stranger), b"");
    }
    let block = Block { address: fortress.open.address() as u64, key: fortress.key, length: 64 };
    for _ in 0..4 {
        // Eight proven peers: neither thread lets another one in, or a peer go.
        assert_eq!(read_to_end(&mut fortress.dial()), b"");
        for peer in &mut peers {
            peer.write_all(&frame(Kind::Read, 0, &[block])).unwrap();
            assert_eq!(reply(peer).2, fortress.contents[..64]);
        }
    }
    drop(peers);
    eventually("all are gone", || serving() == 0);
    fortress.check();
}

/// Without a free descriptor nobody is served, but nothing breaks, and it passes.
#[test]
fn a_peer_gone_in_the_middle_costs_only_its_request() {
    let _alone = alone();
    let fortress = Fortress::new();
    let a = fortress.private.address() as u64;
    let open = fortress.open.address() as u64;
    let before = descriptors();
    for framing in [Framing::V1, Framing::V2] {
        for _ in 0..50 {
            let mut stream = fortress.dial();
            let mut bytes = upstream(Opcode::Write, framing, open, 1000);
            bytes.extend_from_slice(&fortress.contents[..500]);
            stream.write_all(&bytes).unwrap();
            drop(stream);
            let mut stream = fortress.dial();
            let _ = stream.write_all(&upstream(Opcode::Read, framing, a, 1000));
        }
    }
    for _ in 0..50 {
        let mut stream = greeted(&fortress.engine, fortress.instance);
        let block = Block { address: open, key: fortress.key, length: 1000 };
        let mut bytes = frame(Kind::Write, 0, &[block]);
        bytes.extend_from_slice(&fortress.contents[..500]);
        stream.write_all(&bytes).unwrap();
    }
    eventually("all are gone", || fortress.engine.metrics().connections_serving.get() == 0);
    eventually("no descriptor is left", || descriptors() <= before);
    fortress.check();
    let gone = fortress.engine.open_segment("127.0.0.1:1").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Unreachable);
}
