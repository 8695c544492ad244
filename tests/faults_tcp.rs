//! TCP while connections break, freeze and peers die: no wrong byte, no hang, and the way back
//! without help.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mooncake::config::EngineConfig;
use mooncake::engine::{Access, BufferSpec, Engine, Operation, Request, SegmentId, TaskState};
use mooncake::error::ErrorKind;

use common::engines::{buffer, engine_with, request, Kind, PATIENCE};
use common::guarded::Guarded;
use common::ports::free_port;
use common::process::eventually;
use common::random::Random;
use common::relay::{Faults, Relay};

/// Slack for a busy machine; a hang is longer.
const SLACK: Duration = Duration::from_secs(30);
const KINDS: [Kind; 3] = [Kind::Native, Kind::V2, Kind::V1];

fn impatient(kind: Kind) -> impl FnOnce(&mut EngineConfig) {
    move |config| {
        kind.apply(config);
        config.tcp_progress_timeout_s = 1;
        config.peer_cooldown_ms = 50;
    }
}

/// An initiator, a relay and a target behind it.
struct Stage {
    own: Engine,
    target: Engine,
    relay: Relay,
    segment: SegmentId,
    local: Guarded,
    remote: Guarded,
}

const SIZE: usize = 4 << 20;

impl Stage {
    fn new(kind: Kind, random: &mut Random) -> Stage {
        Stage::with(kind, 1, random)
    }

    /// `io_threads` are the target's.
    fn with(kind: Kind, io_threads: u32, random: &mut Random) -> Stage {
        let target = engine_with(|config| config.tcp_io_threads = io_threads);
        let remote = buffer(&target, SIZE, Access::ALL);
        let relay = Relay::new(target.rpc_port(), Random::seeded(random.next()));
        let own = engine_with(impatient(kind));
        let local = buffer(&own, SIZE, Access::LOCAL);
        let segment = own.open_segment(&relay.name).unwrap();
        Stage { own, target, relay, segment, local, remote }
    }

    fn one(&self, operation: Operation, at: usize, length: usize) -> Request {
        let (from, to) = (self.local.address() + at, self.remote.address() + at);
        request(operation, from, self.segment, to, length)
    }

    /// A write and a read of random bytes somewhere; true if both completed. What completed is
    /// right, whatever happened on the way.
    fn round(&self, random: &mut Random, timeout: Duration) -> bool {
        let length = match random.below(3) {
            0 => 1 + random.below(200) as usize,
            1 => 1 + random.below(20_000) as usize,
            _ => 1 + random.below(600_000) as usize,
        };
        let at = random.below((SIZE - length) as u64) as usize;
        let source = random.bytes(length);
        self.local.put(at, &source);
        let began = Instant::now();
        let out = self.own.transfer(&[self.one(Operation::Write, at, length)], Some(timeout));
        assert!(began.elapsed() < timeout + SLACK, "{:?}", began.elapsed());
        if let Err(error) = out {
            assert!(error.to_string().contains("127.0.0.1:"), "no peer in: {error}");
            return false;
        }
        assert!(self.remote.get(at, length) == source, "a write that completed is not there");
        self.local.put(at, &vec![0; length]);
        let began = Instant::now();
        let back = self.own.transfer(&[self.one(Operation::Read, at, length)], Some(timeout));
        assert!(began.elapsed() < timeout + SLACK, "{:?}", began.elapsed());
        if back.is_err() {
            return false;
        }
        assert!(self.local.get(at, length) == source, "a read that completed is wrong");
        true
    }

    fn check(&self) {
        self.local.check_canaries();
        self.remote.check_canaries();
        let _ = &self.target;
    }
}

#[test]
fn no_wrong_byte_under_faults() {
    for kind in KINDS {
        let mut random = Random::for_test("no_wrong_byte_under_faults");
        let stage = Stage::new(kind, &mut random);
        let plans = [
            Faults { reset: 20, ..Faults::default() },
            Faults { close: 20, ..Faults::default() },
            Faults { half: 20, ..Faults::default() },
            Faults { delay: 20, ..Faults::default() },
            Faults { reset: 5, close: 5, half: 5, delay: 10, freeze: 0 },
        ];
        let (mut good, mut bad) = (0, 0);
        let rounds = if kind == Kind::V1 { 100 } else { 300 };
        for mut faults in plans {
            if kind == Kind::V1 {
                // An orderly end is all that says success in v1: a relay that makes one lies.
                faults.close = 0;
            }
            stage.relay.set(faults);
            for _ in 0..rounds {
                match stage.round(&mut random, Duration::from_secs(20)) {
                    true => good += 1,
                    false => bad += 1,
                }
            }
        }
        println!("{kind:?}: {good} good, {bad} failed, {} connections", stage.relay.opened());
        assert!(good > bad, "{kind:?}: {good} good, {bad} failed");
        stage.relay.set(Faults::default());
        eventually("it works again", || stage.round(&mut random, Duration::from_secs(20)));
        stage.check();
    }
}

/// Connections that stand still are given up, and what was on them goes another way.
#[test]
fn frozen_connections_are_replaced() {
    for kind in KINDS {
        let mut random = Random::for_test("frozen_connections_are_replaced");
        let stage = Stage::new(kind, &mut random);
        for _ in 0..3 {
            assert!(stage.round(&mut random, PATIENCE));
            // While idle.
            stage.relay.freeze_all();
            assert!(stage.round(&mut random, PATIENCE), "{kind:?}: frozen while idle");
            // While busy.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(2));
                    stage.relay.freeze_all();
                });
                for _ in 0..5 {
                    assert!(stage.round(&mut random, PATIENCE), "{kind:?}: frozen while busy");
                }
            });
        }
        stage.check();
    }
}

/// Short requests that keep coming do not hide that a connection has died.
#[test]
fn a_frozen_connection_is_noticed_under_a_stream_of_requests() {
    let mut random = Random::for_test("a_frozen_connection_is_noticed");
    for kind in [Kind::Native, Kind::V2] {
        let stage = Stage::new(kind, &mut random);
        let small = stage.one(Operation::Write, 0, 64);
        stage.own.transfer(&[small], None).unwrap();
        stage.relay.freeze_all();
        // Each gives up early, so that only the connection's own time limit can help.
        let began = Instant::now();
        let mut failures = 0;
        while stage.own.transfer(&[small], Some(Duration::from_millis(200))).is_err() {
            failures += 1;
            assert!(began.elapsed() < SLACK, "{kind:?}: still on the dead connection");
        }
        println!("{kind:?}: {failures} failures, {:?}", began.elapsed());
        stage.check();
    }
}

#[test]
fn idle_lanes_that_died_are_replaced_unseen() {
    for kind in KINDS {
        let mut random = Random::for_test("idle_lanes_that_died_are_replaced_unseen");
        let stage = Stage::new(kind, &mut random);
        for round in 0..20 {
            assert!(stage.round(&mut random, PATIENCE));
            match round % 2 {
                0 => stage.relay.reset_all(),
                _ => stage.relay.close_all(),
            }
            // Long enough for the news to arrive and to be looked for, or not.
            std::thread::sleep(Duration::from_millis([0, 1, 100][round % 3]));
            assert!(stage.round(&mut random, PATIENCE), "{kind:?}: a dead lane was seen");
        }
        stage.check();
    }
}

/// Byte values at the target that are not `wanted`.
fn others(stage: &Stage, length: usize, wanted: u8) -> usize {
    stage.remote.get(0, length).iter().filter(|byte| **byte != wanted).count()
}

/// What was given up on one connection and done again on another must not arrive late and undo
/// what came after it.
#[test]
fn a_late_duplicate_changes_nothing() {
    let mut random = Random::for_test("a_late_duplicate_changes_nothing");
    for threads in [1, 4] {
        let stage = Stage::with(Kind::Native, threads, &mut random);
        let length = 256 << 10;
        let write = stage.one(Operation::Write, 0, length);
        let read = stage.one(Operation::Read, length, length);
        for pattern in [[write, write], [read, write], [write, read]] {
            stage.own.transfer(&pattern, None).unwrap();
            let held = stage.relay.hold_all();
            stage.local.put(0, &vec![1; length]);
            stage.own.transfer(&pattern, None).unwrap();
            stage.local.put(0, &vec![2; length]);
            stage.own.transfer(&pattern, None).unwrap();
            assert_eq!(others(&stage, length, 2), 0);
            held.release();
            let late = others(&stage, length, 2);
            assert_eq!(late, 0, "bytes of an earlier request over those of a later one");
        }
        stage.check();
    }
}

/// A write that failed for its owner must not be done after all once something else was written,
/// by another thread and so on another lane, or after the segment was closed and opened again.
#[test]
fn a_write_that_failed_stays_away() {
    let mut random = Random::for_test("a_write_that_failed_stays_away");
    let length = 256 << 10;
    for threads in [1, 4] {
        for reopen in [false, true] {
            let mut stage = Stage::with(Kind::Native, threads, &mut random);
            let write = stage.one(Operation::Write, 0, length);
            stage.own.transfer(&[write], None).unwrap();
            let held = stage.relay.hold_all();
            stage.local.put(0, &vec![1; length]);
            let failed = stage.own.transfer(&[write], Some(Duration::from_millis(100)));
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Timeout);
            if reopen {
                stage.own.close_segment(stage.segment).unwrap();
                stage.segment = stage.own.open_segment(&stage.relay.name).unwrap();
            }
            stage.local.put(0, &vec![2; length]);
            let write = stage.one(Operation::Write, 0, length);
            // No lane but the first knows of the connection that was given up.
            let stage = &stage;
            let elsewhere = move || stage.own.transfer(&[write], None).unwrap();
            std::thread::scope(|scope| scope.spawn(elsewhere).join()).unwrap();
            assert_eq!(others(stage, length, 2), 0);
            held.release();
            assert_eq!(others(stage, length, 2), 0, "threads {threads}, reopened {reopen}");
            stage.check();
        }
    }
}

/// Eight threads write and read while connections stop, are replaced, and deliver late what they
/// held. Whatever a thread has written last is what stays there.
#[test]
fn late_bytes_of_many_threads_change_nothing() {
    let mut random = Random::for_test("late_bytes_of_many_threads_change_nothing");
    for io_threads in [1, 4] {
        let stage = Stage::with(Kind::Native, io_threads, &mut random);
        let part = SIZE / 16;
        let is_over = AtomicBool::new(false);
        let rounds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (stage, is_over, rounds) = (&stage, &is_over, &rounds);
                let mut random = Random::seeded(random.next());
                scope.spawn(move || {
                    let (source, back) = (thread * part, SIZE / 2 + thread * part);
                    let mut expected = vec![0; part];
                    while !is_over.load(Ordering::Acquire) {
                        assert!(stage.remote.get(source, part) == expected, "late bytes");
                        expected = random.bytes(part);
                        stage.local.put(source, &expected);
                        let blocks: Vec<Request> = (0..part)
                            .step_by(32 << 10)
                            .map(|at| stage.one(Operation::Write, source + at, 32 << 10))
                            .collect();
                        stage.own.transfer(&blocks, Some(PATIENCE)).unwrap();
                        let mut read = stage.one(Operation::Read, source, part);
                        read.local = stage.local.address() + back;
                        stage.own.transfer(&[read], Some(PATIENCE)).unwrap();
                        assert!(stage.local.get(back, part) == expected, "late bytes");
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(stage.remote.get(source, part) == expected, "late bytes");
                });
            }
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(50 + random.below(100)));
                let held = stage.relay.hold_all();
                let before = rounds.load(Ordering::Relaxed);
                // Each thread has gone on, most of them on other connections.
                eventually("they go on", || rounds.load(Ordering::Relaxed) >= before + 32);
                held.release();
            }
            is_over.store(true, Ordering::Release);
        });
        println!("{io_threads} I/O threads: {} rounds", rounds.load(Ordering::Relaxed));
        stage.check();
    }
}

/// Eight threads share lanes that break all the time; nobody gets anybody else's bytes.
#[test]
fn threads_under_faults() {
    let mut random = Random::for_test("threads_under_faults");
    for kind in [Kind::Native, Kind::V2] {
        let stage = Stage::new(kind, &mut random);
        stage.relay.set(Faults { reset: 4, close: 2, half: 4, delay: 10, freeze: 0 });
        let good = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (stage, good) = (&stage, &good);
                let mut random = Random::seeded(random.next());
                scope.spawn(move || {
                    let part = SIZE / 8;
                    for _ in 0..60 {
                        let length = 1 + random.below(100_000) as usize;
                        let at = thread * part + random.below((part - length) as u64) as usize;
                        let source = random.bytes(length);
                        stage.local.put(at, &source);
                        let blocks: Vec<Request> = (0..length)
                            .step_by(4096)
                            .map(|from| {
                                let block = (length - from).min(4096);
                                stage.one(Operation::Write, at + from, block)
                            })
                            .collect();
                        if stage.own.transfer(&blocks, Some(SLACK)).is_err() {
                            continue;
                        }
                        assert!(stage.remote.get(at, length) == source);
                        stage.local.put(at, &vec![0; length]);
                        let back = stage.one(Operation::Read, at, length);
                        if stage.own.transfer(&[back], Some(SLACK)).is_ok() {
                            assert!(stage.local.get(at, length) == source);
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        println!("{kind:?}: {} of 480 good", good.load(Ordering::Relaxed));
        assert!(good.load(Ordering::Relaxed) > 100);
        stage.check();
    }
}

// --- peers in processes of their own ---------------------------------------------------------

/// Where a child's buffer is, in every life of it.
const CHILD_ADDRESS: usize = 0x6100_0000_0000;
const CHILD_BYTES: usize = 16 << 20;
const CHILD_PORT: &str = "MC_TEST_CHILD_PORT";

/// Not a test of its own: the target of the tests below, when they start it.
#[test]
fn child_target() {
    let Ok(port) = std::env::var(CHILD_PORT) else { return };
    // SAFETY: a new mapping at an address that nothing in this process uses.
    let mapping = unsafe {
        libc::mmap(
            CHILD_ADDRESS as *mut libc::c_void,
            CHILD_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(mapping as usize, CHILD_ADDRESS);
    let target = engine_with(|config| config.rpc_port = port.parse().unwrap());
    target
        .register(&[BufferSpec {
            address: CHILD_ADDRESS,
            length: CHILD_BYTES,
            location: "cpu:0".into(),
            access: Access::ALL,
        }])
        .unwrap();
    println!("\nREADY");
    // Until the parent closes the pipe, or is gone.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// A target process; killed when dropped.
struct Target {
    child: Child,
    port: u16,
}

impl Target {
    fn start(port: u16) -> Target {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_target", "--nocapture"])
            .env(CHILD_PORT, port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let ready = output.lines().map_while(Result::ok).any(|line| line == "READY");
        assert!(ready, "the target did not start");
        Target { child, port }
    }

    fn fresh() -> Target {
        Target::start(free_port())
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: signals a child that this value owns and has not reaped.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parts(memory: &Guarded, segment: SegmentId, operation: Operation) -> Vec<Request> {
    (0..64)
        .map(|part| {
            let at = part * (CHILD_BYTES / 64);
            let (from, to) = (memory.address() + at, CHILD_ADDRESS + at);
            request(operation, from, segment, to, CHILD_BYTES / 64)
        })
        .collect()
}

/// Killed in the middle: tasks end within their deadline. Back under the same name: the next
/// request works without help.
#[test]
fn a_killed_peer_and_its_successor() {
    let mut random = Random::for_test("a_killed_peer_and_its_successor");
    for kind in KINDS {
        let mut target = Target::fresh();
        let own = engine_with(impatient(kind));
        let memory = buffer(&own, CHILD_BYTES, Access::LOCAL);
        let segment = own.open_segment(&target.name()).unwrap();
        for operation in [Operation::Write, Operation::Read, Operation::Write] {
            let requests = parts(&memory, segment, operation);
            let deadline = Duration::from_secs(5);
            let batch = own.create_batch(64 * 40).unwrap();
            // Enough of them that some are under way when it dies.
            let many: Vec<Request> = std::iter::repeat_n(requests, 40).flatten().collect();
            batch.submit_with(&many, Some(deadline), None).unwrap();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            target.kill();
            let began = Instant::now();
            let progress = batch.wait(PATIENCE).unwrap();
            assert!(began.elapsed() < deadline + SLACK, "{kind:?}: {:?}", began.elapsed());
            println!("{kind:?} {operation:?}: {progress:?}");
            for index in 0..many.len() {
                let status = batch.task(index).unwrap();
                if status.state == TaskState::Failed {
                    let error = status.error.unwrap();
                    assert!(error.to_string().contains(&target.name()), "no peer in: {error}");
                }
            }
            target = Target::start(target.port);
            let source = random.bytes(100_000);
            memory.put(0, &source);
            let (from, to) = (memory.address(), CHILD_ADDRESS + 5);
            let out = request(Operation::Write, from, segment, to, 100_000);
            own.transfer(&[out], Some(SLACK)).unwrap();
            let back = request(Operation::Read, from + 200_000, segment, to, 100_000);
            own.transfer(&[back], Some(SLACK)).unwrap();
            assert!(memory.get(200_000, 100_000) == source);
        }
    }
}

/// Killed while nothing is under way, and back before anybody asks.
#[test]
fn a_restart_between_requests_is_unseen() {
    for kind in KINDS {
        let mut target = Target::fresh();
        let own = engine_with(impatient(kind));
        let memory = buffer(&own, 4096, Access::LOCAL);
        let segment = own.open_segment(&target.name()).unwrap();
        let one = request(Operation::Write, memory.address(), segment, CHILD_ADDRESS, 4096);
        for _ in 0..3 {
            own.transfer(&[one], Some(SLACK)).unwrap();
            target.kill();
            target = Target::start(target.port);
        }
        own.transfer(&[one], Some(SLACK)).unwrap();
    }
}

/// A stopped peer costs its requests their deadline, and is there again when it goes on.
#[test]
fn a_stopped_peer() {
    let mut random = Random::for_test("a_stopped_peer");
    for kind in KINDS {
        let target = Target::fresh();
        let own = engine_with(impatient(kind));
        let memory = buffer(&own, CHILD_BYTES, Access::LOCAL);
        let segment = own.open_segment(&target.name()).unwrap();
        let requests = parts(&memory, segment, Operation::Write);
        own.transfer(&requests, Some(SLACK)).unwrap();
        for _ in 0..2 {
            target.signal(libc::SIGSTOP);
            for _ in 0..2 {
                let began = Instant::now();
                let error = own.transfer(&requests, Some(Duration::from_secs(2))).unwrap_err();
                assert!(began.elapsed() < Duration::from_secs(2) + SLACK);
                let wanted = [
                    ErrorKind::Timeout,
                    ErrorKind::PeerDown,
                    ErrorKind::Unreachable,
                    ErrorKind::ConnectionLost,
                ];
                assert!(wanted.contains(&error.kind()), "{kind:?}: {error:?}");
                // From here on the memory is ours.
                memory.fill(0);
            }
            target.signal(libc::SIGCONT);
            let source = random.bytes(CHILD_BYTES);
            memory.put(0, &source);
            eventually("it is there again", || {
                own.transfer(&requests, Some(Duration::from_secs(20))).is_ok()
            });
            memory.fill(0);
            let back = parts(&memory, segment, Operation::Read);
            own.transfer(&back, Some(SLACK)).unwrap();
            assert!(memory.all() == source, "{kind:?}");
        }
    }
}
