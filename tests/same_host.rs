//! Engines in processes of one host: bytes without sockets, another way where that is forbidden,
//! and no harm when either side dies or stands still in the middle.
//!
//! The other process is this program again, in the role that `MC_TEST_ROLE` names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;
#[path = "common/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mooncake::engine::{Access, BufferSpec, Engine, Operation, SegmentId};
use mooncake::memory::{Mapping, Pages};

use common::engines::{
    buffer, engine_with, finish_well, register, request, transport, Kind, Pair, PATIENCE,
};
use common::guarded::Guarded;
use common::random::Random;

const SIZE: usize = 8 << 20;

fn engine_here() -> Engine {
    engine_with(|config| config.same_host = true)
}

/// A process with an engine, killed with its test.
struct Other {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(role: &str, arguments: &str) -> Other {
        Other::start_with(Command::new(std::env::current_exe().unwrap()), role, arguments)
    }

    fn start_with(mut command: Command, role: &str, arguments: &str) -> Other {
        command.args(["in_another_role", "--exact", "--nocapture"]);
        command.env("MC_TEST_ROLE", role).env("MC_TEST_ARGUMENTS", arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take();
        Other { child, input, lines }
    }

    /// The rest of the next line that begins with `SAYS`.
    fn says(&mut self) -> Option<String> {
        for line in self.lines.by_ref() {
            if let Some((_, text)) = line.ok()?.split_once("SAYS ") {
                return Some(text.to_owned());
            }
        }
        None
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: a process of this test that was not waited for yet.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(result, 0);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.input.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(text: &str) {
    // After a newline: the harness may have begun a line of its own.
    println!("\nSAYS {text}");
    std::io::stdout().flush().unwrap();
}

/// Does nothing as a test; what the other process does, if it is one.
#[test]
fn in_another_role() {
    let Ok(role) = std::env::var("MC_TEST_ROLE") else { return };
    let arguments = std::env::var("MC_TEST_ARGUMENTS").unwrap();
    match role.as_str() {
        "target" => be_target(arguments.parse().unwrap()),
        "initiator" => be_initiator(&arguments, true),
        "once" => be_initiator(&arguments, false),
        role => panic!("no role {role}"),
    }
}

/// Offers a buffer until its input ends, and then says whether all is well.
fn be_target(port: u16) {
    let engine = engine_with(|config| {
        config.same_host = true;
        config.rpc_port = port;
    });
    let memory = buffer(&engine, SIZE, Access::ALL);
    memory.fill(0x5a);
    say(&format!("{} {}", engine.local_name(), memory.address()));
    let mut rest = String::new();
    let _ = std::io::stdin().read_line(&mut rest);
    memory.check_canaries();
    let bytes = memory.all();
    say(&format!("{} {}", bytes[0], bytes[SIZE - 1]));
}

/// Writes to a target, for ever or once.
fn be_initiator(target: &str, for_ever: bool) {
    let (name, address) = target.split_once(' ').unwrap();
    let address: usize = address.parse().unwrap();
    let engine = engine_with(|config| {
        config.same_host = true;
        config.transfer_timeout_ms = 5000;
    });
    let segment = engine.open_segment(name).unwrap();
    let memory = buffer(&engine, SIZE, Access::LOCAL);
    memory.fill(0x77);
    let all = request(Operation::Write, memory.address(), segment, address, SIZE);
    engine.transfer(&[all], None).unwrap();
    let dump = engine.dump();
    let why = dump["segments"]["first"][1]["why"].as_str().unwrap().to_owned();
    say(&format!("{} {why}", transport(&engine, 1)));
    while for_ever && engine.transfer(&[all], None).is_ok() {}
    say("end");
}

fn target_of(other: &mut Other) -> (String, usize) {
    let line = other.says().expect("the target ended");
    let (name, address) = line.split_once(' ').unwrap();
    (name.to_owned(), address.parse().unwrap())
}

fn same_host_bytes(engine: &Engine) -> u64 {
    engine.metrics().same_host_bytes.get()
}

#[test]
fn bytes_of_another_process_move_without_sockets() {
    let mut other = Other::start("target", "0");
    let (name, address) = target_of(&mut other);
    let own = engine_here();
    let segment = own.open_segment(&name).unwrap();
    assert_eq!(transport(&own, 1), "shm", "{}", own.dump());
    let local = buffer(&own, SIZE, Access::LOCAL);
    own.transfer(&[request(Operation::Read, local.address(), segment, address, SIZE)], None)
        .unwrap();
    assert!(local.all().iter().all(|byte| *byte == 0x5a));
    local.fill(0x21);
    let blocks: Vec<_> = (0..SIZE / 4096)
        .map(|index| {
            let at = index * 4096;
            request(Operation::Write, local.address() + at, segment, address + at, 4096)
        })
        .collect();
    let batch = own.create_batch(blocks.len()).unwrap();
    batch.submit(&blocks).unwrap();
    finish_well(&batch);
    assert_eq!(own.metrics().connections_opened.get(), 0, "{}", own.dump());
    assert_eq!(same_host_bytes(&own), 2 * SIZE as u64);
    local.check_canaries();
    other.input.take();
    assert_eq!(other.says().unwrap(), "33 33");
}

#[test]
fn memory_of_the_library_is_mapped() {
    let pair = Pair::new(Kind::SameHost);
    let mut random = Random::for_test("memory_of_the_library_is_mapped");
    for round in 0..3 {
        let mapping = Mapping::new(20 << 20, Pages::Shared).unwrap();
        let spec = BufferSpec {
            address: mapping.address(),
            length: mapping.length(),
            location: "cpu".into(),
            access: Access::ALL,
        };
        pair.target.register(&[spec]).unwrap();
        pair.own.refresh_segment(pair.segment).unwrap();
        let local = pair.local(SIZE);
        let bytes = random.bytes(SIZE);
        local.put(0, &bytes);
        let remote = mapping.address() + random.below((12 << 20) as u64) as usize;
        pair.own.transfer(&[pair.write(local.address(), remote, SIZE)], None).unwrap();
        local.fill(0);
        pair.own.transfer(&[pair.read(local.address(), remote, SIZE)], None).unwrap();
        assert!(local.all() == bytes, "round {round}");
        local.check_canaries();
        let dump = pair.own.dump();
        let known = &dump["segments"]["first"][1]["route"]["same_host"]["registrations"];
        assert_eq!((&known["mapped"], &known["copied"]), (&1.into(), &0.into()), "{dump}");
        // Its owner takes it back: the old address reaches nothing any more.
        pair.target.unregister(&[mapping.address()]).unwrap();
        let late = pair.own.transfer(&[pair.read(local.address(), remote, 64)], None);
        assert_eq!(late.unwrap_err().kind(), mooncake::error::ErrorKind::RemoteRange);
    }
    assert_eq!(same_host_bytes(&pair.own), 6 * SIZE as u64);
}

/// Transfers until one fails; then the segment is found again under its name.
#[test]
fn a_killed_target_is_an_error_and_its_successor_is_found() {
    let mut random = Random::for_test("a_killed_target_is_an_error_and_its_successor_is_found");
    let own = engine_with(|config| {
        config.same_host = true;
        config.transfer_timeout_ms = 5000;
        config.peer_cooldown_ms = 10;
    });
    let local = buffer(&own, SIZE, Access::LOCAL);
    let mut other = Other::start("target", "0");
    let (name, mut address) = target_of(&mut other);
    let port = name.rsplit_once(':').unwrap().1.to_owned();
    let segment: SegmentId = own.open_segment(&name).unwrap();
    for round in 0..4 {
        let copy = |operation| request(operation, local.address(), segment, address, SIZE);
        own.transfer(&[copy(Operation::Read)], None).unwrap();
        let time = Duration::from_micros(random.below(20_000));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(time);
            other.kill();
        });
        let until = Instant::now() + PATIENCE;
        let operation = if round % 2 == 0 { Operation::Read } else { Operation::Write };
        // The last ones may still have met the memory of the dead.
        while own.transfer(&[copy(operation)], None).is_ok() {
            assert!(Instant::now() < until, "the target's death goes unnoticed");
        }
        killer.join().unwrap();
        local.check_canaries();
        other = Other::start("target", &port);
        let (again, place) = target_of(&mut other);
        assert_eq!(again, name);
        address = place;
        own.refresh_segment(segment).unwrap();
        let bytes = same_host_bytes(&own);
        own.transfer(&[request(Operation::Write, local.address(), segment, address, SIZE)], None)
            .unwrap();
        assert_eq!(transport(&own, 1), "shm", "{}", own.dump());
        assert_eq!(same_host_bytes(&own) - bytes, SIZE as u64, "round {round}");
    }
}

/// A buffer that another process writes to, and the line by which it finds it.
fn written_to(target: &Engine) -> (Guarded, String) {
    let memory = Guarded::new(SIZE);
    register(target, &memory, Access::ALL);
    let line = format!("{} {}", target.local_name(), memory.address());
    (memory, line)
}

/// The same with the process that has been at it for a random time of at most `longest_us`.
fn being_written(target: &Engine, random: &mut Random, longest_us: u64) -> (Guarded, Other) {
    let (memory, line) = written_to(target);
    let mut other = Other::start("initiator", &line);
    assert!(other.says().unwrap().starts_with("shm "));
    std::thread::sleep(Duration::from_micros(random.below(longest_us)));
    (memory, other)
}

fn is_untouched(memory: &Guarded) {
    memory.fill(0x44);
    std::thread::sleep(Duration::from_millis(30));
    assert!(memory.all().iter().all(|byte| *byte == 0x44), "touched after unregistering");
    memory.check_canaries();
}

#[test]
fn a_killed_writer_holds_nothing() {
    let mut random = Random::for_test("a_killed_writer_holds_nothing");
    let target = engine_here();
    for _ in 0..6 {
        let (memory, mut other) = being_written(&target, &mut random, 20_000);
        other.kill();
        target.unregister(&[memory.address()]).unwrap();
        is_untouched(&memory);
    }
}

#[test]
fn memory_is_let_go_while_another_process_writes() {
    let mut random = Random::for_test("memory_is_let_go_while_another_process_writes");
    let target = engine_here();
    for _ in 0..6 {
        let (memory, mut other) = being_written(&target, &mut random, 20_000);
        target.unregister(&[memory.address()]).unwrap();
        is_untouched(&memory);
        assert_eq!(other.says().unwrap(), "end");
    }
}

/// A writer that is stopped may hold a pin, or not; the owner is told which.
#[test]
fn a_writer_that_stands_still_does_not_stop_the_owner() {
    let mut random = Random::for_test("a_writer_that_stands_still_does_not_stop_the_owner");
    let target = engine_here();
    for _ in 0..4 {
        let (memory, mut other) = being_written(&target, &mut random, 5000);
        other.signal(libc::SIGSTOP);
        match target.unregister(&[memory.address()]) {
            Ok(()) => {
                memory.fill(0x44);
                other.signal(libc::SIGCONT);
                assert_eq!(other.says().unwrap(), "end");
                is_untouched(&memory);
            }
            Err(error) => {
                assert_eq!(error.kind(), mooncake::error::ErrorKind::Timeout, "{error}");
                assert!(error.to_string().contains(&other.child.id().to_string()), "{error}");
                other.kill();
                is_untouched(&memory);
            }
        }
    }
}

/// Another user is not let in, and does not ask to be.
#[test]
fn a_peer_of_another_user_takes_the_other_way() {
    // SAFETY: no arguments, no effect.
    if unsafe { libc::geteuid() } != 0 {
        skip::skipped("only root can become another user");
        return;
    }
    use std::os::unix::process::CommandExt;
    let target = engine_here();
    let (memory, line) = written_to(&target);
    // The other user may not be allowed to reach this program where it is.
    let copy = std::env::temp_dir().join(format!("mc-same-host-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.uid(65_534).gid(65_534).current_dir("/");
    let mut other = Other::start_with(command, "once", &line);
    let said = other.says().unwrap();
    std::fs::remove_file(&copy).unwrap();
    assert!(said.starts_with("tcp ") && said.contains("user"), "{said}");
    assert!(memory.all().iter().all(|byte| *byte == 0x77));
    assert_eq!(other.says().unwrap(), "end");
}

/// Runs the initiator under `unshare` with these flags; `None` where that is not allowed.
fn apart(flags: &[&str], line: &str) -> Option<String> {
    let allowed = Command::new("unshare").args(flags).arg("true").status();
    if !allowed.is_ok_and(|status| status.success()) {
        skip::skipped(format_args!("unshare {flags:?} is not allowed here"));
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(flags).arg(std::env::current_exe().unwrap());
    let mut other = Other::start_with(command, "once", line);
    let said = other.says().unwrap();
    assert_eq!(other.says().unwrap(), "end");
    Some(said)
}

#[test]
fn a_peer_in_another_pid_namespace_moves_what_cannot_be_mapped_by_tcp() {
    let target = engine_here();
    let (memory, line) = written_to(&target);
    let Some(said) = apart(&["--pid", "--fork", "--kill-child"], &line) else { return };
    // Its process sees no number for this one, so the kernel cannot be asked to copy.
    assert!(said.starts_with("shm ") && said.contains("only memory that it shares"), "{said}");
    assert!(memory.all().iter().all(|byte| *byte == 0x77));
    assert!(target.metrics().bytes_received.get() >= SIZE as u64, "by TCP");
    memory.check_canaries();
}

#[test]
fn the_settings_turn_it_off_and_the_dump_says_so() {
    for (own, target, word) in [(true, false, "no door"), (false, true, "first installed")] {
        let own = engine_with(|config| config.same_host = own);
        let target = engine_with(|config| config.same_host = target);
        let segment = own.open_segment(target.local_name()).unwrap();
        let (local, remote) =
            (buffer(&own, 4096, Access::LOCAL), buffer(&target, 4096, Access::ALL));
        own.transfer(
            &[request(Operation::Write, local.address(), segment, remote.address(), 4096)],
            None,
        )
        .unwrap();
        assert_eq!(transport(&own, 1), "tcp");
        let dump = own.dump();
        let why = dump["segments"]["first"][1]["why"].to_string();
        assert!(why.contains(word), "{why}");
        assert_eq!(same_host_bytes(&own), 0);
        let reasons = dump["engine"]["reasons"].to_string();
        assert_eq!(reasons.contains("the setting same_host"), word == "first installed");
    }
}
