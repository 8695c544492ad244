//! A peer behind the door that lies, and callers at the door who do not belong there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::link::{Life, Link, Way};
use super::route::ShmRoute;
use super::table::*;
use super::wire::{door_name, proof, Message, Side, Sixteen, MESSAGE_BYTES};
use super::worker::Inner;
use super::Shm;
use crate::config::EngineConfig;
use crate::error::Error;
use crate::limits;
use crate::memory::{Access, Region, SharedFile, SharedWords};
use crate::metrics::Metrics;
use crate::net::door;
use crate::net::ending::Ending;
use crate::transport::{
    Driver, Operation, OwnerId, Rails, Route, Slice, SplitRule, Tasks, Transport, WaitSource,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn instance() -> Sixteen {
    let mut instance = [0; 16];
    crate::net::random::fill(&mut instance).unwrap();
    instance
}

/// The next message at this end, or `None` at the end of the connection.
fn hear(socket: &OwnedFd) -> Option<(Message, Vec<OwnedFd>)> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        match door::receive(socket.as_fd(), &mut bytes) {
            Ok((0, _)) => return None,
            Ok((length, fds)) => return Some((Message::decode(&bytes[..length]).unwrap(), fds)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < until, "nothing to hear");
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(_) => return None,
        }
    }
}

fn say(socket: &OwnedFd, message: Message) {
    door::send(socket.as_fd(), &message.encode(), &[]).unwrap();
}

/// A peer that does at its door whatever the test wants.
fn behind_a_door(instance: Sixteen, act: impl FnOnce(OwnedFd) + Send + 'static) -> JoinHandle<()> {
    let listener = door::listen(&door_name(&instance), 4).unwrap();
    std::thread::spawn(move || {
        let until = Instant::now() + PATIENCE;
        let socket = loop {
            match door::accept(listener.as_fd()) {
                Ok(socket) => break socket,
                Err(_) => assert!(Instant::now() < until, "nobody came"),
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        act(socket);
    })
}

/// Says what an honest peer says, up to the grant.
fn prove(instance: &Sixteen, socket: &OwnedFd) {
    let Some((Message::Hello { nonce }, _)) = hear(socket) else { panic!("no hello") };
    let own = [5; 16];
    let shown = proof(instance, Side::Target, &nonce, &own);
    say(socket, Message::Challenge { nonce: own, proof: shown });
    let Some((Message::Proof { proof: shown }, _)) = hear(socket) else { panic!("no proof") };
    assert_eq!(shown, proof(instance, Side::Initiator, &nonce, &own));
}

fn grant(socket: &OwnedFd, probe: u64, secret: Sixteen, table: &SharedFile, pins: &SharedFile) {
    let grant = Message::Grant { probe, secret };
    door::send(socket.as_fd(), &grant.encode(), &[table.fd(), pins.fd()]).unwrap();
}

fn open(instance: &Sixteen) -> std::result::Result<Link, String> {
    Link::open(instance, &Arc::new(Life::default()), &Ending::new().unwrap())
}

fn refused(act: impl FnOnce(Sixteen, OwnedFd) + Send + 'static) -> String {
    let instance = instance();
    let peer = behind_a_door(instance, move |socket| act(instance, socket));
    let why = open(&instance).err().expect("the link must not open");
    peer.join().unwrap();
    why
}

fn file(bytes: usize) -> SharedFile {
    SharedFile::new("mc-test", bytes).unwrap()
}

#[test]
fn a_door_that_does_not_keep_the_rules_is_left() {
    assert!(open(&instance()).err().unwrap().contains("no door"));
    let silent = refused(|_, socket| {
        hear(&socket);
    });
    assert!(silent.contains("did not answer"), "{silent}");
    let why = refused(|_, socket| {
        hear(&socket);
        say(&socket, Message::Challenge { nonce: [1; 16], proof: [2; 16] });
        assert!(hear(&socket).is_none(), "it must not prove anything to a stranger");
    });
    assert!(why.contains("not the peer"), "{why}");
    let why = refused(|_, socket| {
        hear(&socket);
        door::send(socket.as_fd(), &[7; 200], &[]).unwrap();
        hear(&socket);
    });
    assert!(why.contains("did not answer"), "{why}");
    let why = refused(|_, socket| {
        hear(&socket);
        say(&socket, Message::Give { key: 1 });
        hear(&socket);
    });
    assert!(why.contains("out of turn"), "{why}");
    let why = refused(|instance, socket| {
        prove(&instance, &socket);
        say(&socket, Message::Grant { probe: 0, secret: [0; 16] });
        hear(&socket);
    });
    assert!(why.contains("no table"), "{why}");
    for (table, pins) in [(4096, PINS_BYTES), (TABLE_BYTES, 4096), (PINS_BYTES, TABLE_BYTES)] {
        let why = refused(move |instance, socket| {
            prove(&instance, &socket);
            grant(&socket, 0, [0; 16], &file(table), &file(pins));
            hear(&socket);
        });
        assert!(why.contains("another size"), "{why}");
    }
    let why = refused(|instance, socket| {
        prove(&instance, &socket);
        let grant = Message::Grant { probe: 0, secret: [0; 16] }.encode();
        let exe = std::fs::File::open("/proc/self/exe").unwrap();
        door::send(socket.as_fd(), &grant, &[exe.as_fd(), exe.as_fd()]).unwrap();
        hear(&socket);
    });
    assert!(why.contains("not shared memory"), "{why}");
}

/// A second way that takes everything and fails it.
#[derive(Default)]
struct Elsewhere(Mutex<usize>);

impl Route for Elsewhere {
    fn split_rule(&self) -> SplitRule {
        SplitRule { slice_bytes_max: 1 << 20, stripe_bytes_min: u64::MAX, rails: 1 }
    }
    fn submit(&self, slices: &mut dyn Iterator<Item = Slice>, _: Driver) -> Rails {
        for slice in slices {
            *self.0.lock() += 1;
            slice.fail(Error::new(crate::error::ErrorKind::RemoteRange, "elsewhere"));
        }
        Rails::default()
    }
    fn attend(&self, _: Rails) {}
    fn progress(&self, _: Rails) -> bool {
        false
    }
    fn wait_sources(&self, _: Rails, _: &mut Vec<WaitSource>) {}
    fn release(&self, _: Rails) {}
    fn cancel(&self, _: OwnerId, _: &Error) {}
    fn close(&self, _: &Error) {}
    fn retire(&self) {}
    fn is_down(&self) -> bool {
        false
    }
    fn dump(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

#[derive(Default)]
struct Ends {
    moved: Mutex<u64>,
    failed: Mutex<usize>,
}

impl Tasks for Ends {
    fn owner(&self) -> OwnerId {
        OwnerId(1)
    }
    fn slice_completed(&self, _: u32, bytes: u64) {
        *self.moved.lock() += bytes;
    }
    fn slice_failed(&self, _: u32, _: Error) {
        *self.failed.lock() += 1;
    }
    fn slice_cut(&self, _: u32) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A route to a peer whose table and pins the test writes.
struct Scribbled {
    route: Arc<ShmRoute>,
    far: Arc<Elsewhere>,
    table: SharedWords,
    pins: SharedWords,
    local: Arc<Region>,
    bytes: Vec<u8>,
    peer: Option<JoinHandle<()>>,
}

impl Scribbled {
    /// `memory` is what the peer gives for every registration it is asked for.
    fn new(probe: Option<&'static Sixteen>, memory: Option<SharedFile>) -> Scribbled {
        Scribbled::with_memory(4096, probe, memory)
    }

    /// As [`Scribbled::new`], with so many bytes of memory here.
    fn with_memory(
        length: usize,
        probe: Option<&'static Sixteen>,
        memory: Option<SharedFile>,
    ) -> Scribbled {
        let instance = instance();
        let (table, pins) = (file(TABLE_BYTES), file(PINS_BYTES));
        let (own_table, own_pins) = (table.map().unwrap(), pins.map().unwrap());
        let peer = behind_a_door(instance, move |socket| {
            prove(&instance, &socket);
            let address = probe.map_or(4096, |secret| secret.as_ptr().expose_provenance() as u64);
            grant(&socket, address, *probe.unwrap_or(&[0; 16]), &table, &pins);
            while let Some((Message::Want { key }, _)) = hear(&socket) {
                let give = Message::Give { key }.encode();
                let fds: Vec<_> = memory.iter().map(|memory| memory.fd()).collect();
                door::send(socket.as_fd(), &give, &fds).unwrap();
            }
        });
        let link = open(&instance).unwrap();
        let inner = Inner::new(instance, 1000, Arc::new(Metrics::default())).unwrap();
        let far = Arc::new(Elsewhere::default());
        let route = ShmRoute::new(link, Arc::clone(&far) as Arc<dyn Route>, Arc::new(inner));
        let mut bytes = vec![0xC7u8; length + 2 * 4096];
        let address = bytes.as_mut_ptr().expose_provenance() + 4096;
        let local = Region::new(address, length, "*", Access::LOCAL, 0).unwrap();
        let (route, local) = (Arc::new(route), Arc::new(local));
        Scribbled { route, far, table: own_table, pins: own_pins, local, bytes, peer: Some(peer) }
    }

    fn slot(&self, slot: u32, members: [u64; 5]) {
        for (member, value) in members.into_iter().enumerate() {
            self.table.word(word_of(slot, member)).unwrap().store(value, Ordering::SeqCst);
        }
        self.table.word(USED).unwrap().store(u64::from(slot) + 1, Ordering::SeqCst);
    }

    fn sliced(
        &self,
        ends: &Arc<Ends>,
        operation: Operation,
        key: u64,
        remote: u64,
        length: u64,
    ) -> Slice {
        Slice::new(
            operation,
            1,
            Arc::clone(&self.local),
            self.local.address() as u64,
            remote,
            key,
            length,
            Instant::now() + PATIENCE,
            Arc::clone(ends) as Arc<dyn Tasks>,
            0,
        )
    }

    /// A slice for the registration with key 7 that begins at 1 MiB.
    fn slice(&self, ends: &Arc<Ends>, operation: Operation, offset: u64, length: u64) -> Slice {
        self.sliced(ends, operation, 7, (1 << 20) + offset, length)
    }

    /// Tries one slice: bytes moved here, and whether it went elsewhere.
    fn try_slice(&self, operation: Operation, key: u64, remote: u64, length: u64) -> (u64, bool) {
        let ends = Arc::new(Ends::default());
        let before = *self.far.0.lock();
        let slice = self.sliced(&ends, operation, key, remote, length);
        self.route.submit(&mut std::iter::once(slice), Driver::Caller);
        let moved = *ends.moved.lock();
        let elsewhere = *self.far.0.lock() > before;
        assert_eq!(elsewhere, *ends.failed.lock() == 1);
        (moved, elsewhere)
    }
}

impl Drop for Scribbled {
    fn drop(&mut self) {
        self.route.close(&Error::new(crate::error::ErrorKind::Cancelled, "over"));
        if let Some(peer) = self.peer.take() {
            peer.join().unwrap();
        }
        let end = self.bytes.len() - 4096;
        let around = self.bytes[..4096].iter().chain(&self.bytes[end..]);
        assert!(around.copied().all(|byte| byte == 0xC7), "bytes beside the region were touched");
    }
}

const ALL: u64 = 3;

#[test]
fn a_table_that_lies_about_mapped_memory_moves_nothing_out_of_bounds() {
    let memory = file(8192);
    let theirs = memory.map().unwrap();
    theirs.word(0).unwrap().store(u64::from_ne_bytes(*b"mooncake"), Ordering::SeqCst);
    let peer = Scribbled::new(None, Some(memory));
    peer.slot(0, [7, 1 << 20, 8192, ALL, 1]);
    assert_eq!(peer.try_slice(Operation::Read, 7, 1 << 20, 8), (8, false));
    assert_eq!(&peer.bytes[4096..4104], b"mooncake");
    assert_eq!(peer.try_slice(Operation::Write, 7, (1 << 20) + 8184, 8), (8, false));
    // The table changes its mind about a registration that is mapped already.
    for lie in [
        [7, 0, u64::MAX, ALL, 1],
        [7, (1u64 << 20).wrapping_sub(1 << 40), u64::MAX, ALL, 1],
        [7, 1, u64::MAX - 1, u64::MAX, u64::MAX],
        [7, u64::MAX, u64::MAX, ALL, 1],
        [7, 1 << 20, 7, ALL, 1],
        [7, 1 << 20, 8192, 0, 1],
        [8, 1 << 20, 8192, ALL, 1],
        [0, 0, 0, 0, 0],
    ] {
        peer.slot(0, lie);
        for remote in [1 << 20, 0, u64::MAX - 7, 1 << 63] {
            for operation in [Operation::Read, Operation::Write] {
                // Whatever it says: inside of the file, or not at all.
                let (moved, elsewhere) = peer.try_slice(operation, 7, remote, 4096);
                assert!(elsewhere != (moved == 4096), "{lie:?} at {remote:#x}");
            }
        }
    }
    // A length that the file does not have: the file is not used, and nothing else is possible.
    peer.slot(5, [9, 1 << 20, 1 << 40, ALL, 1]);
    assert_eq!(peer.try_slice(Operation::Read, 9, 1 << 20, 8), (0, true));
}

#[test]
fn counts_keys_and_pins_that_lie_end_elsewhere() {
    let peer = Scribbled::new(None, None);
    peer.table.word(USED).unwrap().store(u64::MAX, Ordering::SeqCst);
    // Not in the table, and the key that no registration has.
    assert_eq!(peer.try_slice(Operation::Read, 7, 4096, 8), (0, true));
    assert_eq!(peer.try_slice(Operation::Read, 0, 4096, 8), (0, true));
    // The kernel does not copy (the proof was wrong), and there is no file although it says so.
    peer.slot(3, [7, 1 << 20, 8192, ALL, 1]);
    assert_eq!(peer.try_slice(Operation::Write, 7, 1 << 20, 8), (0, true));
    assert!(matches!(peer.route.link().way(7, &Ending::new().unwrap()), Some(Way::Far)));

    let memory = file(8192);
    let peer = Scribbled::new(None, Some(memory));
    peer.slot(0, [7, 1 << 20, 8192, ALL, 1]);
    for pin in 0..limits::SHM_PINS_MAX {
        peer.pins.word(pin * PIN_WORDS).unwrap().store(u64::MAX, Ordering::SeqCst);
    }
    assert_eq!(peer.try_slice(Operation::Read, 7, 1 << 20, 8), (0, true));
    peer.pins.word(9 * PIN_WORDS).unwrap().store(0, Ordering::SeqCst);
    assert_eq!(peer.try_slice(Operation::Read, 7, 1 << 20, 8), (8, false));
    assert_eq!(peer.pins.word(9 * PIN_WORDS).unwrap().load(Ordering::SeqCst), 0);
}

#[test]
fn copies_between_processes_end_where_the_kernel_says() {
    static SECRET: Sixteen = [3; 16];
    let peer = Scribbled::new(Some(&SECRET), None);
    let mut theirs = vec![9u8; 4096];
    let address = theirs.as_mut_ptr().expose_provenance() as u64;
    peer.slot(0, [7, address, 4096, ALL, 0]);
    let (moved, elsewhere) = peer.try_slice(Operation::Read, 7, address, 4096);
    if elsewhere {
        crate::test_skip::skipped(peer.route.link().story());
        return;
    }
    assert_eq!(moved, 4096);
    assert!(peer.bytes[4096..8192].iter().all(|byte| *byte == 9));
    // Page zero is nobody's.
    peer.slot(0, [7, 4096, u64::MAX, ALL, 0]);
    assert_eq!(peer.try_slice(Operation::Read, 7, 4096, 64), (0, true));
    assert_eq!(peer.try_slice(Operation::Write, 7, u64::MAX - 100, 64), (0, true));
    // That was about one slice; the way stays open.
    peer.slot(0, [7, address, 4096, 1, 0]);
    assert_eq!(peer.try_slice(Operation::Read, 7, address, 64), (64, false));
    assert_eq!(peer.try_slice(Operation::Write, 7, address, 64), (0, true));
    drop(theirs);
}

/// A caller that goes on by itself is not sent to sleep while something waits to be moved.
#[test]
fn what_waits_is_moved_by_whoever_waits() {
    let peer = Scribbled::new(None, Some(file(8192)));
    peer.slot(0, [7, 1 << 20, 8192, ALL, 1]);
    let ends = Arc::new(Ends::default());
    let count = 2 * limits::SHM_SUBMIT_BYTES_MAX / 4096;
    let block = |index| peer.slice(&ends, Operation::Write, index % 2 * 4096, 4096);
    let mut sources = Vec::new();
    peer.route.wait_sources(Rails::ALL, &mut sources);
    assert!(sources.is_empty());
    peer.route.submit(&mut (0..count).map(block), Driver::Caller);
    assert!(peer.route.has_work());
    assert_eq!(*ends.moved.lock(), limits::SHM_SUBMIT_BYTES_MAX);
    peer.route.wait_sources(Rails::ALL, &mut sources);
    let asleep = crate::net::wake::EventFd::new().unwrap();
    let raw: Vec<_> = sources.iter().map(|source| (source.fd, source.writable)).collect();
    assert_eq!(raw.len(), 1);
    // Would last until the test is given up if the source were not ready.
    assert!(!crate::net::wake::sleep_on(&asleep, &raw, Duration::from_secs(3600)));
    while peer.route.has_work() {
        peer.route.progress(Rails::ALL);
    }
    assert_eq!(*ends.moved.lock(), count * 4096);
    // What is cancelled while it waits ends there.
    let rest = (0..count).map(|_| peer.slice(&ends, Operation::Read, 0, 4096));
    peer.route.submit(&mut { rest }, Driver::Caller);
    let error = Error::new(crate::error::ErrorKind::Cancelled, "enough");
    peer.route.cancel(OwnerId(1), &error);
    assert!(!peer.route.has_work());
    let before = *ends.moved.lock();
    assert_eq!(*ends.failed.lock() as u64, count - (before - count * 4096) / 4096);
}

/// The transport's thread gets its share of a large request from the first byte on.
#[test]
fn what_is_large_waits_as_a_whole() {
    let piece = limits::SHM_BYTES_PER_CALL;
    let peer = Scribbled::with_memory(piece as usize, None, Some(file(piece as usize)));
    peer.slot(0, [7, 1 << 20, piece, ALL, 1]);
    let ends = Arc::new(Ends::default());
    let whole = limits::SHM_SHARED_BYTES_MIN / piece;
    let pieces = |count| (0..count).map(|_| peer.slice(&ends, Operation::Write, 0, piece));
    peer.route.submit(&mut pieces(whole), Driver::Caller);
    assert!(!peer.route.has_work());
    assert_eq!(*ends.moved.lock(), limits::SHM_SHARED_BYTES_MIN);
    for driver in [Driver::Caller, Driver::Threads] {
        *ends.moved.lock() = 0;
        peer.route.submit(&mut pieces(whole + 1), driver);
        assert_eq!(*ends.moved.lock(), 0);
        assert!(peer.route.has_work());
        peer.route.drive(1);
        assert_eq!(*ends.moved.lock(), piece, "one piece at a time");
        peer.route.drive(u64::MAX);
        assert_eq!(*ends.moved.lock(), (whole + 1) * piece);
    }
}

fn engine_with_door() -> (Shm, Sixteen) {
    let instance = instance();
    let metrics = Arc::new(Metrics::default());
    let shm = Shm::start(&EngineConfig::default(), instance, "here", metrics).unwrap();
    (shm, instance)
}

/// True once the door has ended the connection.
fn is_sent_away(socket: &OwnedFd) -> bool {
    hear(socket).is_none()
}

#[test]
fn strangers_at_the_door_get_nothing() {
    let (shm, instance) = engine_with_door();
    let name = door_name(&instance);
    let come = || door::connect(&name).unwrap();
    for garbage in [&b"x"[..], &[0; 64], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n"] {
        let socket = come();
        door::send(socket.as_fd(), garbage, &[socket.as_fd()]).unwrap();
        assert!(is_sent_away(&socket));
    }
    // Out of turn.
    for message in [
        Message::Proof { proof: [0; 16] },
        Message::Want { key: 7 },
        Message::Grant { probe: 0, secret: [0; 16] },
    ] {
        let socket = come();
        say(&socket, message);
        assert!(is_sent_away(&socket));
    }
    // Who does not know the instance can see that the peer does, and that is all.
    let socket = come();
    say(&socket, Message::Hello { nonce: [1; 16] });
    let Some((Message::Challenge { nonce, proof: shown }, fds)) = hear(&socket) else {
        panic!("no challenge");
    };
    assert_eq!(shown, proof(&instance, Side::Target, &[1; 16], &nonce));
    assert!(fds.is_empty());
    // What it has shown proves nothing of the other side.
    say(&socket, Message::Proof { proof: shown });
    assert!(is_sent_away(&socket));
    // Those who say nothing make room for others, and go after a while.
    let silent: Vec<OwnedFd> = (0..limits::SHM_STRANGERS_MAX + 8).map(|_| come()).collect();
    assert!(open(&instance).is_ok());
    for socket in &silent {
        assert!(is_sent_away(socket));
    }
    assert_eq!(shm.inner.table.counts().1, 0);
    shm.shutdown();
    assert!(door::connect(&name).is_err());
}

#[test]
fn a_guest_that_leaves_or_breaks_a_rule_is_forgotten() {
    let (shm, instance) = engine_with_door();
    let counts = |wanted: usize| {
        let until = Instant::now() + PATIENCE;
        while shm.inner.table.counts().1 != wanted {
            assert!(Instant::now() < until, "{:?}", shm.inner.table.counts());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let link = open(&instance).unwrap();
    counts(1);
    assert!(door::send(link.socket().as_fd(), b"nonsense", &[]).is_ok());
    counts(0);
    assert!(door::has_ended(link.socket().as_fd()));
    let links: Vec<Link> = (0..5).map(|_| open(&instance).unwrap()).collect();
    counts(5);
    drop(links);
    counts(0);
}
