//! The contract of transports, kept by each of them and in each dialect: the same suite runs over
//! loopback, shared memory, TCP native, v2 and v1, and the engine's own segment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mooncake::engine::{Access, Operation, Request, TaskState};
use mooncake::error::ErrorKind;

use common::engines::{
    buffer, finish, finish_well, outcome, register, request, Kind, Pair, PATIENCE,
};
use common::guarded::Guarded;
use common::random::Random;

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use super::Kind;

            #[test]
            fn loopback() {
                super::$test(Kind::Loopback);
            }
            #[test]
            fn same_host() {
                super::$test(Kind::SameHost);
            }
            #[test]
            fn native() {
                super::$test(Kind::Native);
            }
            #[test]
            fn v2() {
                super::$test(Kind::V2);
            }
            #[test]
            fn v1() {
                super::$test(Kind::V1);
            }
            #[test]
            fn own() {
                super::$test(Kind::Own);
            }
        })*
    };
}

suite!(
    sizes,
    many_small,
    event_descriptor,
    event_descriptor_after_interleaved_calls,
    cancel_in_flight,
    other_batches_survive_cancels,
    wrong_ranges,
    registered_later_and_again,
    access_flags,
    local_memory_unregistered,
    remote_memory_unregistered,
    own_engine_destroyed,
    peer_engine_destroyed,
    batch_dropped,
    eight_threads,
    a_million_requests,
);

/// Buffers are this large unless a test says otherwise.
const SIZE: usize = 34 << 20;

fn sizes(kind: Kind) {
    let mut random = Random::for_test("sizes");
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(SIZE), pair.remote(SIZE));
    let source = random.bytes(SIZE);
    let around = |n: usize| [n - 1, n, n + 1];
    let mut lengths = vec![0, 1, 2, 3, 7, 8, 63, 100, 333, (33 << 20) + 5];
    for border in [4096, 8192, 16_384, 65_536, 1 << 20, 4 << 20, 16 << 20] {
        lengths.extend(around(border));
    }
    for length in lengths {
        let room = (SIZE - length) as u64;
        let (from, to, back) =
            (random.below(room) as usize, random.below(room) as usize, random.below(room) as usize);
        local.put(0, &source);
        remote.fill(0x11);
        let out = pair.write(local.address() + from, remote.address() + to, length);
        pair.own.transfer(&[out], None).unwrap();
        assert!(remote.get(to, length) == source[from..from + length], "write {length}");
        assert!(remote.get(0, to).iter().all(|byte| *byte == 0x11), "before {length}");
        let after = remote.get(to + length, SIZE - to - length);
        assert!(after.iter().all(|byte| *byte == 0x11), "behind {length}");
        local.fill(0x22);
        let back_request = pair.read(local.address() + back, remote.address() + to, length);
        finish_well(&pair.batch(&[back_request]));
        assert!(local.get(back, length) == source[from..from + length], "read {length}");
        assert!(local.get(0, back).iter().all(|byte| *byte == 0x22), "before {length}");
    }
    local.check_canaries();
    remote.check_canaries();
}

/// Reads and writes in any order, each block once; the buffers end up exchanged.
fn many_small(kind: Kind) {
    let mut random = Random::for_test("many_small");
    let pair = Pair::new(kind);
    let count = if kind == Kind::V1 { 2000 } else { 10_000 };
    let block = 512;
    let (local, remote) = (pair.local(count * block), pair.remote(count * block));
    for round in 0..2 {
        let (ours, theirs) = (random.bytes(count * block), random.bytes(count * block));
        local.put(0, &ours);
        remote.put(0, &theirs);
        let mut lengths = Vec::new();
        let requests: Vec<Request> = (0..count)
            .map(|index| {
                let length = random.below(block as u64 + 1) as usize;
                let at = index * block;
                lengths.push(length);
                match index % 3 == round {
                    true => pair.write(local.address() + at, remote.address() + at, length),
                    false => pair.read(local.address() + at, remote.address() + at, length),
                }
            })
            .collect();
        let batch = pair.batch(&requests);
        finish_well(&batch);
        let bytes: usize = lengths.iter().sum();
        assert_eq!(batch.poll().transferred_bytes, bytes as u64);
        let (mut local_wanted, mut remote_wanted) = (ours.clone(), theirs.clone());
        for (index, length) in lengths.iter().enumerate() {
            let range = index * block..index * block + length;
            match index % 3 == round {
                true => remote_wanted[range.clone()].copy_from_slice(&ours[range]),
                false => local_wanted[range.clone()].copy_from_slice(&theirs[range]),
            }
        }
        assert!(local.all() == local_wanted, "local, round {round}");
        assert!(remote.all() == remote_wanted, "remote, round {round}");
    }
}

fn readable(fd: i32, timeout: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one initialised element.
    unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as i32) == 1 }
}

/// Nobody polls or waits: the transport's own threads do all the work.
fn event_descriptor(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(8 << 20), pair.remote(8 << 20));
    let batch = pair.own.create_batch(100).unwrap();
    let fd = batch.event_fd().unwrap();
    assert!(!readable(fd, Duration::ZERO));
    for round in 0..20u8 {
        local.fill(round);
        let large = pair.write(local.address(), remote.address(), local.len());
        batch.submit(&[large]).unwrap();
        assert!(readable(fd, PATIENCE), "round {round}");
        assert!(batch.poll().is_done());
        let small: Vec<Request> = (0..3)
            .map(|i| pair.read(local.address() + i * 100, remote.address() + i * 100, 50))
            .collect();
        batch.submit(&small).unwrap();
        assert!(readable(fd, PATIENCE), "round {round}");
        // Readable until something new is submitted or the batch is reset.
        assert!(readable(fd, Duration::ZERO));
        let progress = batch.poll();
        assert_eq!((progress.completed, progress.failed), (4, 0), "{:?}", batch.first_error());
        batch.reset().unwrap();
        assert!(!readable(fd, Duration::ZERO));
        assert!(remote.all().iter().all(|byte| *byte == round));
    }
}

/// Callers that did the work themselves, for several segments in turn, leave nothing behind that
/// keeps the transport's threads from working later.
fn event_descriptor_after_interleaved_calls(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(1 << 20), pair.remote(1 << 20));
    let other = Pair::new(kind);
    let (segment, elsewhere) = match kind {
        Kind::Own => (pair.segment, buffer(&pair.own, 1 << 20, Access::ALL)),
        _ => {
            let memory = buffer(&other.target, 1 << 20, Access::ALL);
            (pair.own.open_segment(other.target.local_name()).unwrap(), memory)
        }
    };
    for _ in 0..5 {
        let mixed: Vec<Request> = (0..8)
            .map(|index| {
                let at = index * 1000;
                let (to, memory) = match index % 2 {
                    0 => (pair.segment, &remote),
                    _ => (segment, &elsewhere),
                };
                request(Operation::Write, local.address() + at, to, memory.address() + at, 1000)
            })
            .collect();
        pair.own.transfer(&mixed, None).unwrap();
    }
    let batch = pair.own.create_batch(2).unwrap();
    let fd = batch.event_fd().unwrap();
    let large = pair.write(local.address(), remote.address(), 1 << 20);
    let large_elsewhere = Request { segment, remote_address: elsewhere.address() as u64, ..large };
    batch.submit(&[large, large_elsewhere]).unwrap();
    assert!(readable(fd, Duration::from_secs(30)), "nobody moves the bytes");
    finish_well(&batch);
}

fn cancel_in_flight(kind: Kind) {
    let mut random = Random::for_test("cancel_in_flight");
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(SIZE), pair.remote(SIZE));
    for round in 0..20 {
        let operation = if round % 2 == 0 { Operation::Read } else { Operation::Write };
        let requests: Vec<Request> = (0..68)
            .map(|i| {
                let at = i * (512 << 10);
                request(
                    operation,
                    local.address() + at,
                    pair.segment,
                    remote.address() + at,
                    512 << 10,
                )
            })
            .collect();
        remote.fill(0x33);
        let batch = pair.batch(&requests);
        std::thread::sleep(Duration::from_micros(random.below(5000)));
        batch.cancel();
        assert!(batch.poll().is_done(), "cancelled tasks have ended");
        // From here on the memory is ours again.
        local.fill(0x44);
        let wrong = batch.submit(&requests[..1]).unwrap_err();
        assert!(matches!(wrong.kind(), ErrorKind::InvalidState | ErrorKind::TooManyRequests));
        for index in 0..requests.len() {
            match outcome(&batch, index) {
                (TaskState::Completed, None) => {}
                (TaskState::Cancelled, Some(error)) => {
                    assert_eq!(error.kind(), ErrorKind::Cancelled);
                }
                other => panic!("{other:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
        assert!(local.all().iter().all(|byte| *byte == 0x44), "touched after cancel");
        batch.reset().unwrap();
        batch.submit(&requests[..1]).unwrap();
        finish_well(&batch);
    }
}

/// Batches that share lanes with cancelled ones lose nothing.
fn other_batches_survive_cancels(kind: Kind) {
    let mut random = Random::for_test("other_batches_survive_cancels");
    // One lane, so that everything is in everybody's way.
    let pair = Pair::with(kind, |config| config.tcp_lanes_per_peer = 1);
    let (local, remote) = (pair.local(SIZE), pair.remote(SIZE));
    let (waste, waste_remote) = (pair.local(4 << 20), pair.remote(4 << 20));
    let source = random.bytes(SIZE);
    local.put(0, &source);
    for round in 0..3 {
        remote.fill(0);
        let requests: Vec<Request> = (0..136)
            .map(|i| {
                let at = i * (256 << 10);
                pair.write(local.address() + at, remote.address() + at, 256 << 10)
            })
            .collect();
        let batch = pair.batch(&requests);
        for _ in 0..30 {
            let doomed: Vec<Request> = (0..4)
                .map(|i| {
                    let at = i << 20;
                    pair.write(waste.address() + at, waste_remote.address() + at, 1 << 20)
                })
                .collect();
            let doomed = pair.batch(&doomed);
            std::thread::sleep(Duration::from_micros(random.below(2000)));
            doomed.cancel();
        }
        let progress = finish(&batch);
        assert_eq!(progress.failed, 0, "round {round}: {:?}", batch.first_error());
        assert!(remote.all() == source, "round {round}");
    }
}

fn wrong_ranges(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(16_384), pair.remote(8192));
    let (l, r) = (local.address(), remote.address());
    local.fill(0x55);
    // The own side is checked before anything starts.
    let good = pair.write(l, r, 100);
    for (address, length) in [(l - 1, 10), (l + 16_382, 3), (l + 16_384, 1), (l, 16_385), (0x10, 1)]
    {
        let batch = pair.own.create_batch(4).unwrap();
        let error = batch.submit(&[good, pair.write(address, r, length)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotRegistered, "{error}");
        assert_eq!(error.context("request"), Some("1"), "{error}");
        assert_eq!(batch.poll().submitted, 0);
    }
    for length in [u64::MAX, 1 << 63, 1 << 47] {
        let huge = Request { length, ..good };
        let error = pair.own.transfer(&[huge], None).unwrap_err();
        let wanted = [ErrorKind::InvalidArgument, ErrorKind::NotRegistered];
        assert!(wanted.contains(&error.kind()), "{error:?}");
    }
    assert!(remote.all().iter().all(|byte| *byte == 0), "a refused submission moved bytes");
    // The peer's side fails task by task; the good ones next to them complete.
    let wrong: [(usize, usize); 7] = [
        (r - 1, 10),
        (r + 8190, 3),
        (r + 8192, 1),
        (r.wrapping_sub(8192), 8192),
        (0, 1),
        (usize::MAX, 1),
        (usize::MAX - 4, 100),
    ];
    for operation in [Operation::Write, Operation::Read] {
        remote.fill(0x66);
        let mut requests = Vec::new();
        for (index, (address, length)) in wrong.iter().enumerate() {
            let at = index * 64;
            requests.push(request(operation, l + 4096, pair.segment, *address, *length));
            requests.push(request(operation, l + at, pair.segment, r + at, 64));
        }
        let batch = pair.batch(&requests);
        let progress = finish(&batch);
        assert_eq!((progress.completed, progress.failed), (7, 7), "{:?}", batch.first_error());
        for index in 0..requests.len() {
            match (index % 2, outcome(&batch, index)) {
                (0, (TaskState::Failed, Some(error))) => {
                    assert_eq!(error.kind(), ErrorKind::RemoteRange, "{error}");
                    for key in ["operation", "address", "length_bytes"] {
                        assert!(error.context(key).is_some(), "{key} is missing: {error}");
                    }
                }
                (1, (TaskState::Completed, None)) => {}
                other => panic!("{index}: {other:?}"),
            }
        }
    }
    local.check_canaries();
    remote.check_canaries();
}

fn registered_later_and_again(kind: Kind) {
    let pair = Pair::new(kind);
    let local = pair.local(1 << 20);
    // After the segment was opened, without a refresh by the caller.
    let remote = buffer(&pair.target, 1 << 20, Access::ALL);
    for round in 0..5u8 {
        local.fill(round + 1);
        let out = pair.write(local.address(), remote.address(), 1 << 20);
        pair.own.transfer(&[out], None).unwrap();
        assert!(remote.all().iter().all(|byte| *byte == round + 1));
        pair.target.unregister(&[remote.address()]).unwrap();
        if round == 2 {
            let error = pair.own.transfer(&[out], None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::RemoteRange, "{error}");
        }
        // The same range has another key now.
        register(&pair.target, &remote, Access::ALL);
    }
}

fn access_flags(kind: Kind) {
    let pair = Pair::new(kind);
    let local = pair.local(4096);
    local.fill(0x77);
    let (l, operations) = (local.address(), [Operation::Read, Operation::Write]);
    for (access, granted) in [
        (Access::REMOTE_READ, [true, false]),
        (Access::REMOTE_WRITE, [false, true]),
        (Access::ALL, [true, true]),
        (Access::LOCAL, [false, false]),
    ] {
        let remote = buffer(&pair.target, 4096, access);
        remote.fill(0x12);
        for (operation, granted) in operations.into_iter().zip(granted) {
            let one = request(operation, l, pair.segment, remote.address(), 4096);
            let result = pair.own.transfer(&[one], None);
            match (granted, result) {
                (true, Ok(())) => {}
                (false, Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::RemoteRange, "{access:?} {error}");
                }
                (_, result) => panic!("{access:?} {operation:?}: {result:?}"),
            }
        }
        let is_written = remote.all().iter().all(|byte| *byte == 0x12);
        let _ = is_written;
        if !granted[1] {
            assert!(is_written, "{access:?} was written");
        }
        pair.own.refresh_segment(pair.segment).unwrap();
        let listed = pair.own.segment_buffers(pair.segment).unwrap();
        let is_listed = listed.iter().any(|buffer| buffer.address == remote.address() as u64);
        assert_eq!(is_listed, access != Access::LOCAL, "{access:?}");
        // A local buffer of any access is good as the local side.
        if kind != Kind::Own {
            let back = buffer(&pair.own, 4096, access);
            let target = pair.remote(4096);
            let out = pair.write(back.address(), target.address(), 4096);
            pair.own.transfer(&[out], None).unwrap();
            pair.own.unregister(&[back.address()]).unwrap();
            pair.target.unregister(&[target.address()]).unwrap();
        }
        pair.target.unregister(&[remote.address()]).unwrap();
    }
}

/// Several buffers of the own side go away one after the other, in the middle of transfers, and
/// their pages with them.
fn local_memory_unregistered(kind: Kind) {
    let mut random = Random::for_test("local_memory_unregistered");
    for operation in [Operation::Write, Operation::Read] {
        let pair = Pair::with(kind, |config| config.tcp_lanes_per_peer = 1);
        const PART: usize = 4 << 20;
        let doomed: Vec<Guarded> = (0..6).map(|_| pair.local(PART)).collect();
        let kept = pair.local(PART);
        let remote = pair.remote(7 * PART);
        let source = random.bytes(PART);
        kept.put(0, &source);
        remote.put(6 * PART, &source);
        let block = 64 << 10;
        let mut requests = Vec::new();
        for at in (0..PART).step_by(block) {
            for (index, memory) in doomed.iter().chain([&kept]).enumerate() {
                let to = remote.address() + index * PART + at;
                requests.push(request(operation, memory.address() + at, pair.segment, to, block));
            }
        }
        if operation == Operation::Read {
            kept.fill(0);
        } else {
            remote.fill(0);
        }
        let batch = pair.batch(&requests);
        for memory in &doomed {
            std::thread::sleep(Duration::from_micros(random.below(1500)));
            pair.own.unregister(&[memory.address()]).unwrap();
            memory.forbid();
        }
        finish(&batch);
        for index in 0..requests.len() {
            match (index % 7, outcome(&batch, index)) {
                (_, (TaskState::Completed, None)) => {}
                (0..=5, (TaskState::Failed, Some(error))) => {
                    assert_eq!(error.kind(), ErrorKind::Unregistered, "{error}");
                }
                (part, other) => panic!("{operation:?} of buffer {part}: {other:?}"),
            }
        }
        match operation {
            Operation::Write => assert!(remote.get(6 * PART, PART) == source),
            Operation::Read => assert!(kept.all() == source),
        }
        kept.check_canaries();
        remote.check_canaries();
    }
}

/// The same at the other side.
fn remote_memory_unregistered(kind: Kind) {
    let mut random = Random::for_test("remote_memory_unregistered");
    for operation in [Operation::Write, Operation::Read] {
        let pair = Pair::with(kind, |config| config.tcp_lanes_per_peer = 1);
        const PART: usize = 4 << 20;
        let local = pair.local(7 * PART);
        let doomed: Vec<Guarded> = (0..6).map(|_| pair.remote(PART)).collect();
        let kept = pair.remote(PART);
        let source = random.bytes(PART);
        local.put(6 * PART, &source);
        kept.put(0, &source);
        let block = 64 << 10;
        let mut requests = Vec::new();
        for at in (0..PART).step_by(block) {
            for (index, memory) in doomed.iter().chain([&kept]).enumerate() {
                let from = local.address() + index * PART + at;
                requests.push(request(operation, from, pair.segment, memory.address() + at, block));
            }
        }
        if operation == Operation::Read {
            local.fill(0);
        } else {
            kept.fill(0);
        }
        let batch = pair.batch(&requests);
        for memory in &doomed {
            std::thread::sleep(Duration::from_micros(random.below(1500)));
            pair.target.unregister(&[memory.address()]).unwrap();
            memory.forbid();
        }
        finish(&batch);
        for index in 0..requests.len() {
            match (index % 7, outcome(&batch, index)) {
                (_, (TaskState::Completed, None)) => {}
                (0..=5, (TaskState::Failed, Some(error))) => {
                    let wanted = [ErrorKind::RemoteRange, ErrorKind::Unregistered];
                    assert!(wanted.contains(&error.kind()), "{error:?}");
                }
                (part, other) => panic!("{operation:?} of buffer {part}: {other:?}"),
            }
        }
        match operation {
            Operation::Write => assert!(kept.all() == source),
            Operation::Read => assert!(local.get(6 * PART, PART) == source),
        }
        local.check_canaries();
        kept.check_canaries();
    }
}

fn own_engine_destroyed(kind: Kind) {
    let mut random = Random::for_test("own_engine_destroyed");
    for round in 0..6 {
        let pair = Pair::new(kind);
        let (local, remote) = (pair.local(SIZE), pair.remote(SIZE));
        let requests: Vec<Request> = (0..34)
            .map(|i| {
                let at = i << 20;
                match round % 2 {
                    0 => pair.write(local.address() + at, remote.address() + at, 1 << 20),
                    _ => pair.read(local.address() + at, remote.address() + at, 1 << 20),
                }
            })
            .collect();
        let batch = pair.batch(&requests);
        std::thread::sleep(Duration::from_micros(random.below(4000)));
        pair.own.shutdown();
        assert!(batch.poll().is_done(), "tasks outlive their engine");
        local.forbid();
        for index in 0..requests.len() {
            match outcome(&batch, index) {
                (TaskState::Completed, None) => {}
                (TaskState::Failed | TaskState::Cancelled, Some(error)) => {
                    let wanted = [ErrorKind::Shutdown, ErrorKind::Unregistered];
                    assert!(wanted.contains(&error.kind()), "{error:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(batch.submit(&requests).unwrap_err().kind(), ErrorKind::Shutdown);
        let late = pair.own.open_segment("127.0.0.1:1").unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Shutdown);
    }
}

fn peer_engine_destroyed(kind: Kind) {
    let mut random = Random::for_test("peer_engine_destroyed");
    if kind == Kind::Own {
        return; // The peer is the engine itself: the test above.
    }
    for round in 0..4 {
        let pair = Pair::new(kind);
        let (local, remote) = (pair.local(SIZE), pair.remote(SIZE));
        let requests: Vec<Request> = (0..34)
            .map(|i| {
                let at = i << 20;
                match round % 2 {
                    0 => pair.write(local.address() + at, remote.address() + at, 1 << 20),
                    _ => pair.read(local.address() + at, remote.address() + at, 1 << 20),
                }
            })
            .collect();
        let batch = pair.batch(&requests);
        std::thread::sleep(Duration::from_micros(random.below(4000)));
        pair.target.shutdown();
        remote.forbid();
        finish(&batch);
        let after = pair.own.transfer(&requests[..1], Some(Duration::from_secs(20))).unwrap_err();
        let text = after.to_string();
        assert!(after.context("peer").is_some() || after.context("segment").is_some(), "{text}");
    }
}

fn batch_dropped(kind: Kind) {
    let mut random = Random::for_test("batch_dropped");
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(SIZE), pair.remote(SIZE));
    for _ in 0..20 {
        let doomed = pair.local(8 << 20);
        let requests: Vec<Request> = (0..32)
            .map(|i| {
                let at = i * (256 << 10);
                pair.read(doomed.address() + at, remote.address() + at, 256 << 10)
            })
            .collect();
        let batch = pair.batch(&requests);
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        drop(batch);
        doomed.fill(0x21);
        std::thread::sleep(Duration::from_millis(1));
        assert!(doomed.all().iter().all(|byte| *byte == 0x21), "touched after the drop");
        pair.own.unregister(&[doomed.address()]).unwrap();
    }
    let again = pair.write(local.address(), remote.address(), SIZE);
    pair.own.transfer(&[again], None).unwrap();
}

fn eight_threads(kind: Kind) {
    let mut seeds = Random::for_test("eight_threads");
    let pair = Pair::new(kind);
    const PART: usize = 2 << 20;
    let (local, remote) = (pair.local(8 * PART), pair.remote(8 * PART));
    let rounds = if kind == Kind::V1 { 40 } else { 150 };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (pair, local, remote) = (&pair, &local, &remote);
            let mut random = Random::seeded(seeds.next());
            scope.spawn(move || {
                let base = thread * PART;
                let (l, r) = (local.address() + base, remote.address() + base);
                for _ in 0..rounds {
                    let half = PART / 2;
                    let length = match random.below(3) {
                        0 => random.below(half as u64) as usize,
                        1 => random.below(70_000) as usize,
                        _ => random.below(600) as usize,
                    };
                    let at = random.below((half - length + 1) as u64) as usize;
                    let source = random.bytes(length);
                    local.put(base + at, &source);
                    let out = pair.write(l + at, r + at, length);
                    let back = pair.read(l + half + at, r + at, length);
                    if random.chance(50) {
                        pair.own.transfer(&[out], None).unwrap();
                        pair.own.transfer(&[back], None).unwrap();
                    } else {
                        finish_well(&pair.batch(&[out]));
                        finish_well(&pair.batch(&[back]));
                    }
                    assert!(local.get(base + half + at, length) == source, "{length}");
                }
            });
        }
    });
    remote.check_canaries();
}

fn a_million_requests(kind: Kind) {
    let pair = Pair::new(kind);
    // A v1 request is a connection: ports and time would run out.
    let count = if kind == Kind::V1 { 3000 } else { 1_000_000 };
    let (local, remote) = (pair.local(count * 4), pair.remote(count * 4));
    let source = Random::for_test("a_million_requests").bytes(count * 4);
    local.put(0, &source);
    let requests: Vec<Request> = (0..count)
        .map(|i| pair.write(local.address() + i * 4, remote.address() + i * 4, 4))
        .collect();
    let finished = AtomicBool::new(false);
    let polls = AtomicUsize::new(0);
    let batch = pair.own.create_batch(count).unwrap();
    std::thread::scope(|scope| {
        // Somebody looks on meanwhile.
        scope.spawn(|| {
            while !finished.load(Ordering::Acquire) {
                let progress = batch.poll();
                assert!(progress.completed + progress.failed <= progress.submitted);
                polls.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let submitted = batch.submit(&requests);
        let waited = batch.wait(PATIENCE);
        finished.store(true, Ordering::Release);
        submitted.unwrap();
        waited.unwrap();
    });
    let progress = batch.poll();
    assert_eq!((progress.completed, progress.failed), (count, 0), "{:?}", batch.first_error());
    assert!(remote.all() == source);
    let one_more = batch.submit(&requests[..1]).unwrap_err();
    assert_eq!(one_more.kind(), ErrorKind::TooManyRequests);
}
