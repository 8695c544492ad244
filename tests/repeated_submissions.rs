//! A batch that is used again and again keeps what it found: segments, local regions, and what a
//! route reached. Whatever is closed, registered anew or given away between two submissions must
//! be seen by the next one all the same, by any number of threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mooncake::engine::{
    Access, Batch, BufferSpec, Engine, Notification, Operation, Request, TaskState,
};
use mooncake::error::ErrorKind;

use common::engines::{
    buffer, engine_with, finish, finish_well, outcome, register, request, Kind, Pair, PATIENCE,
};
use common::guarded::Guarded;
use common::random::Random;

macro_rules! suite {
    ($($test:ident: $($name:ident $kind:ident),*;)*) => {
        $(mod $test {
            use super::Kind;
            $(#[test]
            fn $name() {
                super::$test(Kind::$kind);
            })*
        })*
    };
}

suite!(
    memory_that_comes_and_goes: loopback Loopback, same_host SameHost, native Native, own Own;
    a_range_that_became_smaller: loopback Loopback, native Native, own Own;
    a_handle_and_its_successor: loopback Loopback, same_host SameHost, native Native;
    two_peers_with_one_range: loopback Loopback, same_host SameHost, native Native;
    several_buffers_at_once: loopback Loopback, same_host SameHost, native Native, own Own;
    reads_and_writes_at_once: loopback Loopback, same_host SameHost, native Native, own Own;
    a_notification_after_small_requests: loopback Loopback, native Native;
    a_renewed_buffer: loopback Loopback, same_host SameHost, native Native;
    threads_and_memory_that_comes_and_goes: loopback Loopback, native Native, own Own;
    one_batch_and_many_threads: loopback Loopback, native Native, own Own;
);

const LENGTH: usize = 4096;

/// Submits to a batch that is empty or done, and waits; the kind of what went wrong, if anything.
fn again(batch: &Batch, requests: &[Request]) -> Result<(), ErrorKind> {
    batch.reset().unwrap();
    batch.submit(requests).map_err(|error| error.kind())?;
    match finish(batch).failed {
        0 => Ok(()),
        _ => Err(batch.first_error().unwrap().kind()),
    }
}

/// The submission itself is refused: no task begins, which would find out as well.
fn is_refused(batch: &Batch, requests: &[Request], kind: ErrorKind) {
    batch.reset().unwrap();
    assert_eq!(batch.submit(requests).unwrap_err().kind(), kind);
    assert_eq!(batch.poll().submitted, 0);
}

fn is_filled(memory: &Guarded, value: u8) -> bool {
    memory.all().iter().all(|byte| *byte == value)
}

fn memory_that_comes_and_goes(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let write = pair.write(local.address(), remote.address(), LENGTH);
    let read = Request { operation: Operation::Read, ..write };
    let batch = pair.own.create_batch(2).unwrap();
    for round in 1..=10u8 {
        local.fill(round);
        assert_eq!(again(&batch, &[write]), Ok(()), "round {round}");
        assert!(is_filled(&remote, round));

        pair.own.unregister(&[local.address()]).unwrap();
        local.fill(0xEE);
        assert_eq!(again(&batch, &[write]), Err(ErrorKind::NotRegistered), "round {round}");
        assert!(is_filled(&remote, round), "read after it was unregistered");
        register(&pair.own, &local, Access::LOCAL);
        assert_eq!(again(&batch, &[write]), Ok(()), "round {round}");
        assert!(is_filled(&remote, 0xEE));

        pair.target.unregister(&[remote.address()]).unwrap();
        local.fill(0xDD);
        assert_eq!(again(&batch, &[write]), Err(ErrorKind::RemoteRange), "round {round}");
        assert!(is_filled(&remote, 0xEE), "written after it was unregistered");
        // The same range, but not to be written any more.
        register(&pair.target, &remote, Access::REMOTE_READ);
        assert_eq!(again(&batch, &[write]), Err(ErrorKind::RemoteRange), "round {round}");
        assert_eq!(again(&batch, &[read]), Ok(()), "round {round}");
        assert!(is_filled(&local, 0xEE) && is_filled(&remote, 0xEE));
        pair.target.unregister(&[remote.address()]).unwrap();
        register(&pair.target, &remote, Access::ALL);
    }
}

fn a_range_that_became_smaller(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let half = |memory: &Guarded| BufferSpec {
        address: memory.address(),
        length: LENGTH / 2,
        location: "*".into(),
        access: Access::ALL,
    };
    let write = |length| pair.write(local.address(), remote.address(), length);
    let batch = pair.own.create_batch(1).unwrap();
    assert_eq!(again(&batch, &[write(LENGTH)]), Ok(()));
    pair.own.unregister(&[local.address()]).unwrap();
    pair.own.register(&[half(&local)]).unwrap();
    is_refused(&batch, &[write(LENGTH)], ErrorKind::NotRegistered);
    assert_eq!(again(&batch, &[write(LENGTH / 2)]), Ok(()));
    // What was found last is open, and not large enough.
    is_refused(&batch, &[write(LENGTH)], ErrorKind::NotRegistered);
    pair.own.unregister(&[local.address()]).unwrap();
    register(&pair.own, &local, Access::LOCAL);
    pair.target.unregister(&[remote.address()]).unwrap();
    pair.target.register(&[half(&remote)]).unwrap();
    assert_eq!(again(&batch, &[write(LENGTH)]), Err(ErrorKind::RemoteRange));
    assert_eq!(again(&batch, &[write(LENGTH / 2)]), Ok(()));
}

fn a_handle_and_its_successor(kind: Kind) {
    let pair = Pair::new(kind);
    let other = engine_with(|config| kind.apply(config));
    let local = pair.local(LENGTH);
    // The same addresses with both peers would hide whose they are: these are two buffers.
    let (first, second) = (pair.remote(LENGTH), buffer(&other, LENGTH, Access::ALL));
    let batch = pair.own.create_batch(2).unwrap();
    let old = pair.write(local.address(), first.address(), LENGTH);
    local.fill(1);
    assert_eq!(again(&batch, &[old]), Ok(()));
    pair.own.close_segment(pair.segment).unwrap();
    is_refused(&batch, &[old], ErrorKind::InvalidHandle);
    let segment = pair.own.open_segment(other.local_name()).unwrap();
    assert_eq!(segment.0 as u32, pair.segment.0 as u32, "the place is used again");
    local.fill(2);
    assert_eq!(again(&batch, &[old]), Err(ErrorKind::InvalidHandle));
    let new = request(Operation::Write, local.address(), segment, second.address(), LENGTH);
    assert_eq!(again(&batch, &[new, old]), Err(ErrorKind::InvalidHandle));
    assert!(is_filled(&first, 1) && is_filled(&second, 0), "a refused submission moved bytes");
    assert_eq!(again(&batch, &[new]), Ok(()));
    assert!(is_filled(&first, 1) && is_filled(&second, 2));
    // What belongs to the first peer is not reached through the second.
    let astray = Request { segment, ..old };
    assert_eq!(again(&batch, &[astray]), Err(ErrorKind::RemoteRange));
    assert!(is_filled(&first, 1));
}

/// What one peer grants says nothing about another that has the same addresses.
fn two_peers_with_one_range(kind: Kind) {
    let pair = Pair::new(kind);
    let other = engine_with(|config| kind.apply(config));
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    register(&other, &remote, Access::REMOTE_READ);
    let segment = pair.own.open_segment(other.local_name()).unwrap();
    let granted = pair.write(local.address(), remote.address(), LENGTH);
    let denied = Request { segment, ..granted };
    let batch = pair.own.create_batch(3).unwrap();
    for round in 1..=10u8 {
        local.fill(round);
        assert_eq!(again(&batch, &[granted]), Ok(()));
        local.fill(0xEE);
        assert_eq!(again(&batch, &[denied]), Err(ErrorKind::RemoteRange));
        assert!(is_filled(&remote, round));
        local.fill(round);
        assert_eq!(again(&batch, &[granted, denied, granted]), Err(ErrorKind::RemoteRange));
        assert_eq!(outcome(&batch, 0).0, TaskState::Completed);
        assert_eq!(outcome(&batch, 1).0, TaskState::Failed);
        assert_eq!(outcome(&batch, 2).0, TaskState::Completed);
    }
}

/// Blocks of several buffers on both sides, in an order in which none follows another of the same.
fn several_buffers_at_once(kind: Kind) {
    const BUFFERS: usize = 3;
    const BLOCK: usize = 64;
    let pair = Pair::new(kind);
    let locals: Vec<Guarded> = (0..BUFFERS).map(|_| pair.local(LENGTH)).collect();
    let remotes: Vec<Guarded> = (0..BUFFERS).map(|_| pair.remote(LENGTH)).collect();
    let batch = pair.own.create_batch(LENGTH / BLOCK).unwrap();
    let mut random = Random::for_test("several_buffers_at_once");
    for round in 1..=20u8 {
        let contents: Vec<_> = locals.iter().map(|_| random.bytes(LENGTH)).collect();
        locals.iter().zip(&contents).for_each(|(local, bytes)| local.put(0, bytes));
        let ways: Vec<(usize, usize)> =
            (0..LENGTH / BLOCK).map(|index| (index % BUFFERS, index / 2 % BUFFERS)).collect();
        let requests: Vec<Request> = ways
            .iter()
            .enumerate()
            .map(|(index, (from, to))| {
                let at = index * BLOCK;
                pair.write(locals[*from].address() + at, remotes[*to].address() + at, BLOCK)
            })
            .collect();
        assert_eq!(again(&batch, &requests), Ok(()), "round {round}");
        let bytes = batch.poll().transferred_bytes;
        assert_eq!(bytes, LENGTH as u64, "round {round}");
        for (index, (from, to)) in ways.iter().enumerate() {
            let at = index * BLOCK;
            let is_there = remotes[*to].get(at, BLOCK) == contents[*from][at..at + BLOCK];
            assert!(is_there, "round {round}, block {index}");
            assert_eq!(batch.task(index).unwrap().transferred_bytes, BLOCK as u64);
        }
    }
    [locals, remotes].iter().flatten().for_each(Guarded::check_canaries);
}

/// Neighbours of different directions, each of which must keep its own.
fn reads_and_writes_at_once(kind: Kind) {
    const BLOCK: usize = 64;
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let batch = pair.own.create_batch(LENGTH / BLOCK).unwrap();
    for round in 1..=10u8 {
        local.fill(round);
        remote.fill(round + 100);
        let is_write = |index: usize| (index + usize::from(round)) % 3 == 0;
        let requests: Vec<Request> = (0..LENGTH / BLOCK)
            .map(|index| {
                let (here, there) =
                    (local.address() + index * BLOCK, remote.address() + index * BLOCK);
                match is_write(index) {
                    true => pair.write(here, there, BLOCK),
                    false => pair.read(here, there, BLOCK),
                }
            })
            .collect();
        assert_eq!(again(&batch, &requests), Ok(()), "round {round}");
        for index in 0..requests.len() {
            let wanted = [if is_write(index) { round } else { round + 100 }; BLOCK];
            assert_eq!(local.get(index * BLOCK, BLOCK), wanted, "round {round}, block {index}");
            assert_eq!(remote.get(index * BLOCK, BLOCK), wanted, "round {round}, block {index}");
        }
    }
}

/// Requests that could be moved at once are followed by their notification like others.
fn a_notification_after_small_requests(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let write = pair.write(local.address(), remote.address(), 64);
    let batch = pair.own.create_batch(2).unwrap();
    for round in 1..=5u8 {
        local.fill(round);
        batch.reset().unwrap();
        let message = Notification { name: "round".into(), message: vec![round] };
        batch.submit_with(&[write, write], None, Some(message)).unwrap();
        finish_well(&batch);
        let end = Instant::now() + PATIENCE;
        let mut told = pair.target.take_notifications();
        while told.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
            told = pair.target.take_notifications();
        }
        assert_eq!(told.len(), 1, "round {round}");
        assert_eq!(told[0].message, [round]);
        assert_eq!(remote.get(0, 64), [round; 64]);
    }
}

/// A submission that is cancelled in its middle ends what is left as cancelled.
#[test]
fn what_is_left_of_a_cancelled_submission() {
    const BLOCKS: usize = 16 << 10;
    let pair = Pair::new(Kind::Loopback);
    let (local, remote) = (pair.local(64), pair.remote(64));
    let requests = vec![pair.write(local.address(), remote.address(), 64); BLOCKS];
    let end = Instant::now() + PATIENCE;
    let is_cut = || {
        let batch = pair.own.create_batch(BLOCKS).unwrap();
        std::thread::scope(|scope| {
            let submitter = scope.spawn(|| batch.submit(&requests));
            while batch.poll().completed == 0 && !submitter.is_finished() {}
            batch.cancel();
            submitter.join().unwrap().unwrap();
        });
        let progress = finish(&batch);
        assert_eq!(progress.submitted, BLOCKS);
        assert_eq!(progress.transferred_bytes, progress.completed as u64 * 64);
        if progress.failed > 0 {
            let (state, _) = outcome(&batch, BLOCKS - 1);
            assert_eq!(state, TaskState::Cancelled);
        }
        progress.failed > 0
    };
    // A submission may be over before it is noticed; not every one is.
    while !is_cut() {
        assert!(Instant::now() < end, "no submission was cut short");
    }
}

fn a_renewed_buffer(kind: Kind) {
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let write = pair.write(local.address(), remote.address(), LENGTH);
    let batch = pair.own.create_batch(1).unwrap();
    let pinned = || {
        batch.reset().unwrap();
        batch.submit_pinned(&[write], None).unwrap();
        finish(&batch).failed
    };
    for round in 1..=10u8 {
        local.fill(round);
        assert_eq!(pinned(), 0, "round {round}: {:?}", batch.first_error());
        assert!(is_filled(&remote, round));
        pair.target.renew(remote.address()).unwrap();
        local.fill(0xEE);
        assert_eq!(pinned(), 1, "round {round}");
        assert_eq!(batch.first_error().unwrap().kind(), ErrorKind::RemoteRange);
        assert!(is_filled(&remote, round), "a pinned write followed to a new key");
        // What is not pinned finds the new key by itself.
        pair.target.renew(remote.address()).unwrap();
        assert_eq!(again(&batch, &[write]), Ok(()));
        assert!(is_filled(&remote, 0xEE));
    }
}

/// Threads with a batch each, while the memory of both sides is taken away and given back. What
/// completed has arrived, and nothing arrives in memory that is not registered.
fn threads_and_memory_that_comes_and_goes(kind: Kind) {
    const THREADS: usize = 3;
    const BLOCKS: usize = 12;
    const AREA: usize = 160 << 10;
    let pair = Pair::new(kind);
    let (locals, remote) = (pair.local(THREADS * AREA), pair.remote(THREADS * AREA));
    let is_over = AtomicBool::new(false);
    let (moved, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pair, locals, remote) = (&pair, &locals, &remote);
            let (is_over, moved, refused) = (&is_over, &moved, &refused);
            scope.spawn(move || {
                let mut random = Random::for_test("threads_and_memory_that_comes_and_goes");
                let base = thread * AREA;
                let batch = pair.own.create_batch(BLOCKS).unwrap();
                let mut round = 0u8;
                while !is_over.load(Ordering::Relaxed) {
                    round = round.wrapping_add(1);
                    // Small blocks, and now and then one that is not small.
                    let large = if round % 16 == 0 { 100 << 10 } else { 0 };
                    let lengths: Vec<usize> = (0..BLOCKS)
                        .map(|index| match index {
                            0 if large > 0 => large,
                            _ => random.below(4096) as usize,
                        })
                        .collect();
                    let mut at = base;
                    let requests: Vec<Request> = lengths
                        .iter()
                        .map(|length| {
                            locals.put(at, &vec![round; *length]);
                            let (from, to) = (locals.address() + at, remote.address() + at);
                            at += length;
                            pair.write(from, to, *length)
                        })
                        .collect();
                    batch.reset().unwrap();
                    if let Err(error) = batch.submit(&requests) {
                        assert_eq!(error.kind(), ErrorKind::NotRegistered, "{error}");
                        refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    // Everybody has a way of his own to see the end.
                    match (thread + usize::from(round)) % 3 {
                        0 => while !batch.poll().is_done() {},
                        1 => while batch.task(BLOCKS - 1).unwrap().state == TaskState::InFlight {},
                        _ => {}
                    }
                    finish(&batch);
                    let mut at = base;
                    for (index, length) in lengths.iter().enumerate() {
                        match outcome(&batch, index) {
                            (TaskState::Completed, None) => {
                                let arrived = remote.get(at, *length);
                                assert!(arrived.iter().all(|byte| *byte == round), "{index}");
                                moved.fetch_add(1, Ordering::Relaxed);
                            }
                            (TaskState::Failed, Some(error)) => {
                                let wanted = [
                                    ErrorKind::RemoteRange,
                                    ErrorKind::Unregistered,
                                    ErrorKind::NotRegistered,
                                ];
                                assert!(wanted.contains(&error.kind()), "{error}");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            other => panic!("{other:?}"),
                        }
                        at += length;
                    }
                }
            });
        }
        // Until enough of both was seen; each round also gives the workers time with all of it.
        let end = Instant::now() + PATIENCE;
        let seen = || (moved.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        let mut round = 0;
        while round < 60 || (seen().0 < 500 || seen().1 < 50) && Instant::now() < end {
            round += 1;
            pair.target.unregister(&[remote.address()]).unwrap();
            let left = remote.all();
            std::thread::sleep(Duration::from_micros(300));
            assert!(remote.all() == left, "round {round}: written after it was unregistered");
            register(&pair.target, &remote, Access::ALL);
            std::thread::sleep(Duration::from_millis(1));
            pair.own.unregister(&[locals.address()]).unwrap();
            std::thread::sleep(Duration::from_micros(100));
            register(&pair.own, &locals, Access::LOCAL);
            std::thread::sleep(Duration::from_millis(1));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(seen().0 >= 500 && seen().1 >= 50, "too little was seen: {:?}", seen());
    });
    remote.check_canaries();
}

/// One batch that several threads fill, watch, cancel and empty at the same time.
fn one_batch_and_many_threads(kind: Kind) {
    const CAPACITY: usize = 16;
    const ROUNDS: usize = 1500;
    let pair = Pair::new(kind);
    let (local, remote) = (pair.local(CAPACITY * 64), pair.remote(CAPACITY * 64));
    local.fill(0xAB);
    let batch = pair.own.create_batch(CAPACITY).unwrap();
    let (submitted, emptied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3usize {
            let (pair, local, remote, batch) = (&pair, &local, &remote, &batch);
            let (submitted, emptied) = (&submitted, &emptied);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let count = 1 + (round + thread) % 3;
                    let requests: Vec<Request> = (0..count)
                        .map(|index| {
                            let at = (thread * 3 + index) * 64;
                            pair.write(local.address() + at, remote.address() + at, 64)
                        })
                        .collect();
                    match batch.submit(&requests) {
                        Ok(()) => {
                            submitted.fetch_add(count, Ordering::Relaxed);
                        }
                        Err(error) => {
                            let full = [ErrorKind::TooManyRequests, ErrorKind::InvalidState];
                            assert!(full.contains(&error.kind()), "{error}");
                        }
                    }
                    let progress = batch.poll();
                    assert!(progress.completed + progress.failed <= progress.submitted);
                    assert!(progress.submitted <= CAPACITY);
                    match (round + thread) % 50 {
                        0 => batch.cancel(),
                        1..=9 => {
                            let _ = batch.wait(Duration::from_millis(1));
                        }
                        _ => {}
                    }
                    match batch.reset() {
                        Ok(()) => {
                            emptied.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                    }
                }
            });
        }
    });
    assert!(submitted.load(Ordering::Relaxed) > ROUNDS / 10, "{submitted:?}");
    assert!(emptied.load(Ordering::Relaxed) > ROUNDS / 10, "{emptied:?}");
    finish(&batch);
    batch.reset().unwrap();
    let all = pair.write(local.address(), remote.address(), CAPACITY * 64);
    batch.submit(&[all]).unwrap();
    finish_well(&batch);
    assert!(is_filled(&remote, 0xAB));
}

/// A small answer is left to whoever looks. If nobody does, it is received all the same; and a
/// descriptor that is asked for later tells of it.
#[test]
fn answers_arrive_without_onlookers() {
    let pair = Pair::new(Kind::Native);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let read = pair.read(local.address(), remote.address(), LENGTH);
    // The first one connects.
    pair.own.transfer(&[read], None).unwrap();
    for round in 1..=5u8 {
        remote.fill(round);
        let batch = pair.own.create_batch(1).unwrap();
        batch.submit(&[read]).unwrap();
        let end = Instant::now() + PATIENCE;
        while !is_filled(&local, round) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(is_filled(&local, round), "round {round}: nobody received the answer");
        finish_well(&batch);

        remote.fill(round + 100);
        batch.reset().unwrap();
        batch.submit(&[read]).unwrap();
        let fd = batch.event_fd().unwrap();
        assert!(readable(fd), "round {round}: the descriptor does not tell of the end");
        assert!(batch.poll().is_done() && is_filled(&local, round + 100));
    }
}

fn readable(fd: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one initialised element.
    unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32) == 1 }
}

/// An engine that is gone takes its memory out of everybody's reach, whatever a batch remembers.
#[test]
fn a_peer_that_was_destroyed_is_not_written_to() {
    let pair = Pair::new(Kind::Loopback);
    let (local, remote) = (pair.local(LENGTH), pair.remote(LENGTH));
    let write = pair.write(local.address(), remote.address(), LENGTH);
    let batch = pair.own.create_batch(1).unwrap();
    local.fill(1);
    assert_eq!(again(&batch, &[write]), Ok(()));
    Engine::shutdown(&pair.target);
    local.fill(2);
    assert!(again(&batch, &[write]).is_err());
    assert!(is_filled(&remote, 1), "written after its engine was destroyed");
}
