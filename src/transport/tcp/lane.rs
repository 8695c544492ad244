//! One connection to a peer and the slices on it: the initiator's endpoint.
//!
//! A lane is driven by whoever has a reason to: the submitting thread, a waiting thread, or the
//! I/O thread it belongs to, one at a time under its lock. All calls are non-blocking. The I/O
//! thread is only armed when nobody attends the lane, so that it is not woken for work that a
//! waiting caller does itself.
//!
//! The connection comes and goes as needed; slices that were on a broken one go back to the engine
//! through `Recovery`, which decides whether and where to try again.

mod failure;
mod native;
mod onlookers;
mod v1;
mod v2;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};
use crate::metrics::Metrics;
use crate::net::epoll::Interest;
use crate::net::vectored;
use crate::transport::{Operation, OwnerId, Recovery, Scope, Slice, WaitSource};

use failure::Failure;

use super::identity::Identities;
use super::settings::Settings;
use super::socket;
use super::stream::{Incoming, Outgoing, Received, STRAIGHT_BYTES_MIN};
use super::wire::native::LaneMark;
use super::worker::WorkerShared;

/// Bytes framed ahead of what the socket has taken.
const FRAME_AHEAD_BYTES: u64 = 1 << 20;
/// Frames or requests sent and not answered; bounds what a broken connection can cost.
const EXPECTED_MAX: usize = 1024;
/// A connection that was silent for this long is looked at before it is used again.
const IDLE_CHECK: Duration = Duration::from_millis(20);
/// A connection on which nothing moved for this long is not worth keeping once a request on it has
/// run out of time: what was sent waits for retransmissions that back off for minutes.
const STALLED: Duration = Duration::from_millis(500);
/// Only the end of the connection is of interest.
const QUIET: Interest = Interest { read: false, write: false, end: true, once: true };

/// What a lane speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Upstream's first framing: one connection for each request. A peer that could speak v2 keeps
    /// the connection open until our side is shut down.
    V1 { half_close: bool },
    /// Upstream's second framing.
    V2,
    /// Ours.
    Native,
}

/// What all lanes of a route share.
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) wire: Wire,
    pub(super) instance: [u8; 16],
    pub(super) settings: Arc<Settings>,
    /// What its lanes are called; empty where the wire has no word for it.
    pub(super) identities: Arc<Identities>,
    pub(super) recovery: Arc<dyn Recovery>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: super::health::Health,
}

impl Peer {
    fn error(&self, kind: ErrorKind, text: impl Into<String>) -> Error {
        Error::new(kind, text).with("peer", &self.name)
    }

    fn count_and_complete(&self, slice: Slice) {
        match slice.operation {
            Operation::Read => self.metrics.bytes_read.inc_by(slice.length),
            Operation::Write => self.metrics.bytes_written.inc_by(slice.length),
        };
        slice.complete();
    }

    fn one_per_connection(&self) -> bool {
        matches!(self.wire, Wire::V1 { .. }) || !self.settings.pooled
    }
}

#[derive(Clone, Copy)]
enum State {
    Idle,
    Connecting { until: Instant },
    Greeting { until: Instant },
    Ready,
}

/// A slice that was framed. Its place stays when the slice is cancelled: the reply still comes.
struct Flight {
    slice: Option<Slice>,
    length: u64,
}

/// A frame or request whose reply is awaited.
struct Expected {
    operation: Operation,
    sequence: u32,
    count: usize,
    /// Bytes that its answer brings, if all is well.
    payload: u64,
    /// Position in the outgoing stream behind its last byte.
    end: u64,
}

/// The present connection in the peer's eyes.
#[derive(Clone, Copy)]
struct Marked {
    mark: LaneMark,
    /// The peer keeps to it.
    is_fenced: bool,
    /// Version of the doubts that the peer knows of.
    told: u64,
}

/// What later slices meet.
enum Gate {
    Open,
    Retired,
    Closed(Error),
}

struct Core {
    state: State,
    gate: Gate,
    stream: Option<TcpStream>,
    /// Which connection of the lane this is, and what the peer was told of others.
    mark: Option<Marked>,
    address: usize,
    queue: VecDeque<Slice>,
    flights: VecDeque<Flight>,
    expected: VecDeque<Expected>,
    output: Outgoing,
    input: Incoming,
    /// The payload of the first expected reply is being received.
    receiving: bool,
    /// Status bytes of the reply being received; empty if all blocks are fine.
    statuses: Vec<u8>,
    sequence: u32,
    /// The socket did not take everything.
    blocked: bool,
    last_progress: Instant,
    /// When the peer last said something on this connection.
    heard: Instant,
    was_busy: bool,
}

/// One lane.
pub(super) struct Lane {
    pub(super) token: u64,
    /// Its place in the route. The first one tries for all whether a silent peer is back.
    index: usize,
    peer: Arc<Peer>,
    worker: Arc<WorkerShared>,
    core: Mutex<Core>,
    fd: AtomicI32,
    blocked: AtomicBool,
    busy: AtomicBool,
    attended: AtomicU32,
    armed: AtomicBool,
}

impl Lane {
    pub(super) fn new(peer: &Arc<Peer>, worker: &Arc<WorkerShared>, index: usize) -> Arc<Lane> {
        let lane = Arc::new(Lane {
            index,
            token: worker.new_token(),
            peer: Arc::clone(peer),
            worker: Arc::clone(worker),
            core: Mutex::new(Core {
                state: State::Idle,
                gate: Gate::Open,
                stream: None,
                mark: None,
                address: 0,
                queue: VecDeque::new(),
                flights: VecDeque::new(),
                expected: VecDeque::new(),
                output: Outgoing::default(),
                input: Incoming::default(),
                receiving: false,
                statuses: Vec::new(),
                sequence: 0,
                blocked: false,
                last_progress: Instant::now(),
                heard: Instant::now(),
                was_busy: false,
            }),
            fd: AtomicI32::new(-1),
            blocked: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            attended: AtomicU32::new(0),
            armed: AtomicBool::new(false),
        });
        worker.adopt_lane(&lane);
        lane
    }

    fn is_prober(&self) -> bool {
        self.index == 0
    }

    /// Queues slices; `more` hands them over one at a time until it has none for this lane.
    pub(super) fn submit(&self, mut more: impl FnMut() -> Option<Slice>) {
        let mut core = self.core.lock();
        self.refresh_idle(&mut core);
        let mut taken = 0u32;
        while let Some(slice) = more() {
            self.take(&mut core, slice);
            taken += 1;
            // The first ones travel while the rest is planned.
            if taken % 512 == 0 {
                self.drive(&mut core);
            }
        }
        self.drive(&mut core);
    }

    fn take(&self, core: &mut Core, slice: Slice) {
        match &core.gate {
            Gate::Open if core.queue.len() >= self.peer.settings.queue_max => {
                let text = "too many requests wait for this peer";
                slice.fail(self.peer.error(ErrorKind::LimitReached, text));
            }
            Gate::Open if self.peer.health.is_down() => {
                self.peer.health.refused(Instant::now());
                let text = "the peer did not answer lately; it is being probed";
                slice.fail(self.peer.error(ErrorKind::PeerDown, text));
            }
            Gate::Open => core.queue.push_back(slice),
            Gate::Retired => {
                let error = self.peer.error(ErrorKind::ConnectionLost, "the peer moved");
                self.peer.recovery.recover(slice, error, Scope::Endpoint);
            }
            Gate::Closed(error) => slice.fail(error.clone()),
        }
    }

    /// Moves what can be moved, unless another thread is at it already. True if something moved.
    pub(super) fn progress(&self) -> bool {
        if !self.busy.load(Ordering::Acquire) {
            return false;
        }
        let Some(mut core) = self.core.try_lock() else { return false };
        let before = core.last_progress;
        self.drive(&mut core);
        core.last_progress != before
    }

    /// The I/O thread found the connection ready.
    pub(super) fn on_ready(&self) {
        self.armed.store(false, Ordering::Release);
        if self.attended.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut core = self.core.lock();
        self.drive(&mut core);
        if core.is_busy() {
            self.arm(&core);
        } else {
            self.drop_if_dead(&mut core);
            self.set_interest(&core, QUIET);
        }
    }

    /// The calling thread will drive the lane.
    pub(super) fn attend(&self) {
        self.attended.fetch_add(1, Ordering::AcqRel);
    }

    /// Nobody needs to wake the I/O thread for this lane.
    pub(super) fn disarm(&self) {
        if self.armed.swap(false, Ordering::AcqRel) {
            let core = self.core.lock();
            self.set_interest(&core, QUIET);
        }
    }

    fn set_interest(&self, core: &Core, interest: Interest) -> bool {
        let stream = core.stream.as_ref();
        stream.is_some_and(|stream| {
            self.worker.epoll().modify(stream.as_fd(), self.token, interest).is_ok()
        })
    }

    /// Ends `attend`; the I/O thread takes over what is left.
    pub(super) fn release(&self) {
        let left = self
            .attended
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1));
        if left.is_ok_and(|before| before > 1) {
            return;
        }
        self.hand_over();
    }

    /// Lets the I/O thread drive the lane if nobody attends it.
    pub(super) fn hand_over(&self) {
        if self.busy.load(Ordering::Acquire) {
            let core = self.core.lock();
            self.arm(&core);
        }
    }

    fn arm(&self, core: &Core) {
        if !core.is_busy() || self.attended.load(Ordering::Acquire) > 0 {
            return;
        }
        let write = core.blocked || matches!(core.state, State::Connecting { .. });
        if self.set_interest(core, Interest { read: true, write, end: true, once: true }) {
            self.armed.store(true, Ordering::Release);
        }
    }

    /// What a waiting thread sleeps on.
    pub(super) fn wait_source(&self) -> Option<WaitSource> {
        let fd = self.fd.load(Ordering::Acquire);
        (fd >= 0 && self.busy.load(Ordering::Acquire))
            .then(|| WaitSource { fd, writable: self.blocked.load(Ordering::Acquire) })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.fd.load(Ordering::Acquire) >= 0
    }

    /// Ends slices whose time is over, and a connection on which nothing moves.
    pub(super) fn tick(&self, now: Instant) {
        if !self.busy.load(Ordering::Acquire) {
            return;
        }
        let mut core = self.core.lock();
        let expired = |slice: &Slice| now >= slice.deadline;
        let peer = &self.peer;
        let late = peer.error(ErrorKind::Timeout, "the deadline passed before the peer answered");
        self.end(&mut core, expired, &late);
        let stuck = match core.state {
            State::Connecting { until } | State::Greeting { until } => now >= until,
            State::Ready => {
                core.is_busy() && now >= core.last_progress + peer.settings.progress_timeout
            }
            State::Idle => false,
        };
        if stuck && matches!(core.state, State::Ready) {
            let text = "the connection made no progress";
            self.lose(&mut core, &peer.error(ErrorKind::ConnectionLost, text));
        } else if stuck {
            peer.health.silent(now);
            let text = "no connection within the time limit";
            let error = peer.error(ErrorKind::Unreachable, text);
            self.abandon(&mut core, &error, Scope::Route);
        }
        if self.is_prober() && matches!(core.state, State::Idle) && peer.health.wants_probe(now) {
            if let Err(failure) = self.start(&mut core) {
                self.fail(&mut core, failure);
                peer.health.silent(now);
            }
        }
        self.resume(&mut core);
        self.arm(&core);
    }

    /// Ends the slices of one batch.
    pub(super) fn cancel(&self, owner: OwnerId, error: &Error) {
        let mut core = self.core.lock();
        self.end(&mut core, |slice| slice.belongs_to(owner), error);
        self.resume(&mut core);
        self.arm(&core);
    }

    /// Begins the next connection if slices wait for it.
    fn resume(&self, core: &mut Core) {
        if matches!(core.state, State::Idle) && !core.queue.is_empty() {
            self.drive(core);
        } else {
            self.note(core);
        }
    }

    /// Ends everything, now and later.
    pub(super) fn close(&self, error: &Error) {
        let mut core = self.core.lock();
        core.gate = Gate::Closed(error.clone());
        self.disconnect(&mut core);
        for slice in core.take_slices() {
            slice.fail(error.clone());
        }
        self.note(&mut core);
    }

    /// Gives everything back, now and later.
    pub(super) fn retire(&self) {
        let mut core = self.core.lock();
        core.gate = Gate::Retired;
        let error = self.peer.error(ErrorKind::ConnectionLost, "the peer moved");
        self.abandon(&mut core, &error, Scope::Endpoint);
        self.note(&mut core);
    }

    /// Ends chosen slices with `error`. A slice whose bytes are still being sent takes the
    /// connection with it: the stream cannot go on without them.
    fn end(&self, core: &mut Core, chosen: impl Fn(&Slice) -> bool, error: &Error) {
        let mut kept = VecDeque::with_capacity(core.queue.len().min(1024));
        for slice in std::mem::take(&mut core.queue) {
            if chosen(&slice) {
                slice.fail(error.clone());
            } else {
                kept.push_back(slice);
            }
        }
        core.queue = kept;
        let mut index = 0;
        let mut broken = false;
        let stalled = core.last_progress.elapsed() > STALLED;
        let sent = core.output.sent();
        for (position, expected) in core.expected.iter().enumerate() {
            let is_sent = sent >= expected.end;
            for block in 0..expected.count {
                let Some(flight) = core.flights.get_mut(index + block) else { continue };
                if !flight.slice.as_ref().is_some_and(&chosen) {
                    continue;
                }
                if position == 0 && core.receiving {
                    if let Some(target) = target_of(&core.statuses, block) {
                        core.input.orphan(target);
                    }
                }
                broken |= !is_sent || stalled || self.peer.one_per_connection();
                if expected.operation == Operation::Write {
                    // Known before its owner, and whatever that does next, learns of the end.
                    broken |= self.doubt(core.mark);
                }
                if let Some(slice) = flight.slice.take() {
                    slice.fail(error.clone());
                }
            }
            index += expected.count;
        }
        if broken {
            if stalled {
                self.peer.health.lost(Instant::now());
            }
            self.restart(core);
        }
    }

    /// Ends the connection. What was under way on it stays in `expected` until this is done.
    fn disconnect(&self, core: &mut Core) {
        self.fd.store(-1, Ordering::Release);
        self.armed.store(false, Ordering::Release);
        self.drop_stream(core);
        core.state = State::Idle;
        core.output.clear();
        core.input.clear();
        core.receiving = false;
        core.blocked = false;
    }

    /// Publishes what other threads look at without the lock.
    fn note(&self, core: &mut Core) {
        let open = matches!(core.gate, Gate::Open);
        let busy = core.is_busy() || (self.is_prober() && open && self.peer.health.is_down());
        let waits_for_connect = matches!(core.state, State::Connecting { .. });
        self.blocked.store(core.blocked || waits_for_connect, Ordering::Release);
        self.busy.store(busy, Ordering::Release);
        if busy != core.was_busy {
            core.was_busy = busy;
            self.worker.lane_is_busy(busy);
        }
    }

    fn drive(&self, core: &mut Core) {
        // Every failure takes at least one slice off the lane, so this comes to an end.
        while let Err(failure) = self.advance(core) {
            self.fail(core, failure);
        }
        self.note(core);
    }

    fn advance(&self, core: &mut Core) -> Result<(), Failure> {
        loop {
            match core.state {
                State::Idle if core.queue.is_empty() => return Ok(()),
                State::Idle => self.start(core)?,
                State::Connecting { until } => {
                    let Some(stream) = &core.stream else { return Ok(()) };
                    match socket::connected(stream) {
                        Ok(false) => return Ok(()),
                        Ok(true) => self.greet(core, until),
                        Err(error) => self.try_next_address(core, error)?,
                    }
                }
                State::Greeting { .. } => {
                    if !native::greeting(self, core)? {
                        return Ok(());
                    }
                    self.settle(core);
                    core.state = State::Ready;
                }
                State::Ready => {
                    match self.peer.wire {
                        Wire::V1 { half_close } => v1::advance(self, core, half_close)?,
                        Wire::V2 => v2::advance(self, core)?,
                        Wire::Native => native::advance(self, core)?,
                    }
                    if !core.expected.is_empty() || !self.peer.one_per_connection() {
                        return Ok(());
                    }
                    self.disconnect(core);
                }
            }
        }
    }

    /// A connection that was silent for a while may have died unseen: it is replaced before
    /// anything is put on it.
    fn refresh_idle(&self, core: &mut Core) {
        if core.is_busy() {
            return;
        }
        let now = Instant::now();
        if matches!(core.state, State::Ready) && self.peer.health.is_doubtful(core.heard) {
            self.disconnect(core);
        } else if now > core.last_progress + IDLE_CHECK {
            self.drop_if_dead(core);
        }
        core.last_progress = now;
    }

    /// Closes an idle connection whose peer has ended it.
    fn drop_if_dead(&self, core: &mut Core) {
        if !matches!(core.state, State::Ready) || core.is_busy() {
            return;
        }
        let alive = core.stream.as_ref().is_some_and(|stream| {
            // An idle connection has nothing to say: bytes, an end or an error end its use.
            let mut byte = [0];
            vectored::receive(stream.as_fd(), &mut byte)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
        if !alive {
            self.disconnect(core);
        }
    }

    fn start(&self, core: &mut Core) -> Result<(), Failure> {
        let settings = &self.peer.settings;
        let Some(address) = self.peer.addresses.get(core.address).copied() else {
            core.address = 0;
            let text = "the name of the peer has no address";
            return Err(Failure::Lost(self.peer.error(ErrorKind::Unreachable, text), Scope::Route));
        };
        let stream = match socket::connect(address, settings) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                return self.give_up_address(core, error)
            }
            Err(error) => {
                let error = error.with("peer", &self.peer.name);
                return Err(Failure::Lost(error, Scope::Endpoint));
            }
        };
        if let Err(error) = self.worker.epoll().add(stream.as_fd(), self.token, QUIET) {
            return Err(Failure::Lost(error, Scope::Endpoint));
        }
        self.fd.store(stream.as_raw_fd(), Ordering::Release);
        core.stream = Some(stream);
        core.state = State::Connecting { until: Instant::now() + settings.connect_timeout };
        Ok(())
    }

    fn greet(&self, core: &mut Core, until: Instant) {
        self.peer.metrics.connections_opened.inc();
        self.peer.health.worked();
        core.address = 0;
        core.last_progress = Instant::now();
        core.heard = core.last_progress;
        core.state = match self.peer.wire {
            Wire::Native => {
                let mark = self.peer.identities.next(self.index);
                core.mark = mark.map(|mark| Marked { mark, is_fenced: false, told: 0 });
                let hello = native::hello(&self.peer, mark);
                core.output.push_bytes(|bytes| bytes.extend_from_slice(&hello.encode()));
                State::Greeting { until }
            }
            Wire::V1 { .. } | Wire::V2 => State::Ready,
        };
    }

    fn try_next_address(&self, core: &mut Core, error: std::io::Error) -> Result<(), Failure> {
        let mut failed =
            Error::io(ErrorKind::Unreachable, "cannot connect to the data port", error);
        if let Some(address) = self.peer.addresses.get(core.address) {
            failed = failed.with("address", address);
        }
        self.give_up_address(core, failed)
    }

    fn give_up_address(&self, core: &mut Core, error: Error) -> Result<(), Failure> {
        self.disconnect(core);
        core.address += 1;
        if core.address < self.peer.addresses.len() {
            return Ok(());
        }
        core.address = 0;
        // A refusal is a fast answer: the host is up, and trying again costs nothing.
        Err(Failure::Lost(error.with("peer", &self.peer.name), Scope::Route))
    }
}

impl Core {
    fn is_busy(&self) -> bool {
        !self.queue.is_empty()
            || !self.expected.is_empty()
            || matches!(self.state, State::Connecting { .. } | State::Greeting { .. })
    }

    fn take_slices(&mut self) -> Vec<Slice> {
        self.expected.clear();
        let flying = self.flights.drain(..).filter_map(|flight| flight.slice);
        flying.chain(self.queue.drain(..)).collect()
    }

    /// The next slice that is worth framing.
    fn next_slice(&mut self) -> Option<Slice> {
        while let Some(slice) = self.queue.pop_front() {
            if slice.is_cancelled() {
                slice.fail(Error::new(ErrorKind::Cancelled, "cancelled by its owner"));
            } else if slice.region.is_closed() {
                let text = "the memory was unregistered before the transfer";
                slice.fail(Error::new(ErrorKind::Unregistered, text));
            } else {
                return Some(slice);
            }
        }
        None
    }

    /// Notes that a slice was framed.
    fn launch(&mut self, slice: Slice) {
        let length = slice.length;
        self.flights.push_back(Flight { slice: Some(slice), length });
    }

    /// Frames and sends until the socket is full or nothing is left.
    fn send(&mut self, mut frame: impl FnMut(&mut Core) -> bool) -> Result<(), Failure> {
        loop {
            while self.output.pending() < FRAME_AHEAD_BYTES
                && self.expected.len() < EXPECTED_MAX
                && frame(self)
            {}
            let Some(stream) = &self.stream else { return Ok(()) };
            if self.output.pending() == 0 {
                self.blocked = false;
                return Ok(());
            }
            let before = self.output.sent();
            let done = self.output.flush(stream.as_fd())?;
            // Bytes of later requests that the kernel takes say nothing about the peer: what
            // counts is the one whose answer is next.
            let next = self.expected.front().map_or(u64::MAX, |expected| expected.end);
            if self.output.sent() > before && before < next {
                self.last_progress = Instant::now();
            }
            self.blocked = !done;
            if !done {
                return Ok(());
            }
        }
    }

    /// Receives header bytes until `wanted` are here, and no more where much payload follows; false
    /// if they are not.
    fn have(&mut self, wanted: usize, drained: &mut bool) -> Result<bool, Failure> {
        let payload = self.expected.front().map_or(0, |expected| expected.payload);
        while self.input.bytes().len() < wanted {
            if *drained {
                return Ok(false);
            }
            let Some(stream) = &self.stream else { return Ok(false) };
            let longest = match payload >= STRAIGHT_BYTES_MIN {
                true => wanted - self.input.bytes().len(),
                false => usize::MAX,
            };
            *drained = match self.input.fill(stream.as_fd(), longest)? {
                Received::More => false,
                Received::Last => true,
                Received::Nothing => return Ok(false),
            };
            self.last_progress = Instant::now();
            self.heard = self.last_progress;
        }
        Ok(true)
    }

    /// Receives payload into the targets; false if some is missing.
    fn have_payload(&mut self, drained: &mut bool) -> Result<bool, Failure> {
        while !self.input.is_complete() {
            if *drained {
                return Ok(false);
            }
            let Some(stream) = &self.stream else { return Ok(false) };
            *drained = match self.input.receive(stream.as_fd())? {
                Received::More => false,
                Received::Last => true,
                Received::Nothing => return Ok(false),
            };
            self.last_progress = Instant::now();
            self.heard = self.last_progress;
        }
        Ok(true)
    }
}

/// Which target of the payload block `block` goes to, if it has one.
fn target_of(statuses: &[u8], block: usize) -> Option<usize> {
    if statuses.is_empty() {
        return Some(block);
    }
    if statuses.get(block) != Some(&0) {
        return None;
    }
    Some(statuses.iter().take(block).filter(|status| **status == 0).count())
}
