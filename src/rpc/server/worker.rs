//! The threads, `mc-rpc-N`: each owns connections; the first one also accepts them.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};

use crate::error::Result;
use crate::limits;
use crate::net::epoll::{Epoll, Event, Interest};
use crate::net::thread::spawn;
use crate::net::wake::EventFd;
use crate::rpc::dialect::Dialect;
use crate::rpc::lookout::Lookout;

use super::connection::{Connection, Verdict};
use super::{add, Context};

/// How often times are looked at while any is running.
const TICK: Duration = Duration::from_millis(100);
/// A pause after which the end of a drain is looked at again.
const DRAIN_TICK: Duration = Duration::from_millis(10);
/// Connections taken in one turn, so that a flood of strangers cannot starve those being served.
const ACCEPTS_PER_TURN: usize = 64;
/// Space for one receive.
const SCRATCH_BYTES: usize = 128 << 10;
/// A dead caller is noticed by probes after this much silence.
const KEEPALIVE: Duration = Duration::from_secs(60);

const WAKE: u64 = u64::MAX;
/// Listener N has this token less N.
const LISTENER: u64 = u64::MAX - 1;
const LISTENERS_MAX: u64 = 1024;

type Arrival = (TcpStream, SocketAddr, Dialect);

/// What other threads see of a thread.
pub(super) struct Shared {
    epoll: Epoll,
    wake: EventFd,
    /// True from a signal until the thread looks.
    signalled: AtomicBool,
    arrivals: Mutex<Vec<Arrival>>,
    /// Answers that came later: the connection and the frame.
    answers: Mutex<Vec<(u64, Vec<u8>)>>,
    faults: AtomicU64,
    stop_by: Mutex<Option<Instant>>,
    stopping: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Result<Arc<Shared>> {
        let shared = Shared {
            epoll: Epoll::new()?,
            wake: EventFd::new()?,
            signalled: AtomicBool::new(false),
            arrivals: Mutex::default(),
            answers: Mutex::default(),
            faults: AtomicU64::new(0),
            stop_by: Mutex::new(None),
            stopping: AtomicBool::new(false),
        };
        shared.epoll.add(shared.wake.as_fd(), WAKE, Interest::READ)?;
        Ok(Arc::new(shared))
    }

    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Gives the thread an answer to send. A connection is owed a bounded number of them.
    pub(super) fn hand_over(&self, connection: u64, frame: Vec<u8>) {
        self.answers.lock().push((connection, frame));
        self.signal();
    }

    pub(super) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// No further requests; all is given up at that time.
    pub(super) fn stop(&self, by: Instant) {
        *self.stop_by.lock() = Some(by);
        self.stopping.store(true, Ordering::Release);
        self.wake.signal();
    }

    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            self.wake.signal();
        }
    }
}

/// What accepts connections.
pub(super) struct Acceptor {
    /// Empty for all threads but the first.
    pub(super) listeners: Vec<(TcpListener, Dialect)>,
    /// All threads, to spread connections over.
    pub(super) workers: Vec<Arc<Shared>>,
}

/// Starts a thread.
pub(super) fn start(
    index: usize,
    shared: &Arc<Shared>,
    context: &Arc<Context>,
    acceptor: Acceptor,
) -> Result<JoinHandle<()>> {
    for (number, (listener, _)) in acceptor.listeners.iter().enumerate() {
        shared.epoll.add(listener.as_fd(), LISTENER - number as u64, Interest::READ)?;
    }
    let mut worker = Worker {
        shared: Arc::clone(shared),
        context: Arc::clone(context),
        acceptor,
        next_worker: 0,
        next_id: 0,
        connections: HashMap::new(),
        owing: 0,
        again: Vec::new(),
        scratch: vec![0; SCRATCH_BYTES],
        last_warning: None,
    };
    spawn(&format!("mc-rpc-{index}"), move || worker.run())
}

struct Worker {
    shared: Arc<Shared>,
    context: Arc<Context>,
    acceptor: Acceptor,
    next_worker: usize,
    next_id: u64,
    connections: HashMap<u64, Connection>,
    /// Connections against which time counts.
    owing: usize,
    /// Connections with work left that needs no event.
    again: Vec<u64>,
    scratch: Vec<u8>,
    last_warning: Option<Instant>,
}

impl Worker {
    fn run(&mut self) {
        let mut events = Vec::new();
        let mut last_tick = Instant::now();
        let mut lookout = Lookout::new(self.context.options.spin);
        let mut stop_by: Option<Instant> = None;
        loop {
            let timeout = self.timeout(lookout.is_on(), stop_by.is_some());
            if self.shared.epoll.wait(&mut events, timeout).is_err() {
                // Never happens with a valid epoll; a pause keeps a defect from burning a core.
                std::thread::sleep(TICK);
            }
            let now = Instant::now();
            if stop_by.is_none() && self.shared.stopping.load(Ordering::Acquire) {
                stop_by = Some(self.shared.stop_by.lock().unwrap_or(now));
                self.begin_drain(now);
            }
            let mut has_served = false;
            for event in &events {
                has_served |= self.handle(event, stop_by.is_some(), now);
            }
            for id in std::mem::take(&mut self.again) {
                self.turn(id, stop_by.is_some(), now);
                has_served = true;
            }
            if now >= last_tick + TICK {
                last_tick = now;
                self.tick(now);
            }
            if let Some(by) = stop_by {
                self.close_where(|connection| !connection.is_owed(), false);
                if now >= by || self.connections.is_empty() {
                    break;
                }
            }
            if has_served {
                lookout.begin(Instant::now());
            } else if lookout.goes_on(now) {
                // A caller on the same core can only call again if it gets to run.
                std::thread::yield_now();
            }
        }
        self.close_where(|_| true, false);
        self.shared.arrivals.lock().clear();
    }

    fn timeout(&self, spinning: bool, draining: bool) -> Option<Duration> {
        if spinning || !self.again.is_empty() {
            Some(Duration::ZERO)
        } else if draining {
            Some(DRAIN_TICK)
        } else if self.owing > 0 {
            Some(TICK)
        } else if self.connections.is_empty() {
            None
        } else {
            // Idle connections are nobody's hurry.
            self.context.options.idle_timeout.map(|idle| (idle / 4).max(TICK))
        }
    }

    /// True if a connection had work.
    fn handle(&mut self, event: &Event, draining: bool, now: Instant) -> bool {
        match event.token {
            WAKE => {
                self.shared.wake.clear();
                self.shared.signalled.store(false, Ordering::Release);
                self.adopt(draining, now);
                self.take_answers()
            }
            token if token > LISTENER - LISTENERS_MAX => {
                self.accept((LISTENER - token) as usize);
                false
            }
            // Neither read from, which may have requests left, nor written to: closed, since no
            // event mask keeps such a descriptor from waking this thread.
            token
                if event.over
                    && self.connections.get(&token).is_some_and(Connection::is_blocked) =>
            {
                self.close(token, false);
                true
            }
            token => self.turn(token, draining, now),
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some((listener, dialect)) = self.acceptor.listeners.get(index) else { return };
            match listener.accept() {
                Ok((stream, peer)) => {
                    add(&self.context.counters.connections_accepted, 1);
                    let worker = self.next_worker % self.acceptor.workers.len();
                    self.next_worker = self.next_worker.wrapping_add(1);
                    let worker = &self.acceptor.workers[worker];
                    worker.arrivals.lock().push((stream, peer, *dialect));
                    worker.signal();
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory: closing strangers may help, time will.
                    self.warn(format_args!("cannot accept: {error}"));
                    self.evict_stranger();
                    std::thread::sleep(Duration::from_millis(1));
                    return;
                }
            }
        }
    }

    /// Takes over connections that were given to this thread.
    fn adopt(&mut self, draining: bool, now: Instant) {
        let arrivals = std::mem::take(&mut *self.shared.arrivals.lock());
        for (stream, peer, dialect) in arrivals {
            let limit = self.context.options.connections_max;
            let open = self.context.counters.connections_open.load(Ordering::Acquire);
            if draining {
                continue;
            }
            if open >= limit && !self.evict_stranger() {
                add(&self.context.counters.connections_refused, 1);
                self.warn(format_args!("{peer} refused: {limit} connections are open already"));
                continue;
            }
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            tune(&stream, self.context.options.tcp_nodelay);
            let id = self.next_id;
            self.next_id += 1;
            if self.shared.epoll.add(stream.as_fd(), id, Interest::READ).is_err() {
                continue;
            }
            self.context.counters.connections_open.fetch_add(1, Ordering::AcqRel);
            self.owing += 1;
            self.connections.insert(id, Connection::new(id, stream, peer, dialect, now));
        }
    }

    /// Closes the oldest connection that has not sent a request yet.
    fn evict_stranger(&mut self) -> bool {
        let strangers = self.connections.iter().filter(|(_, one)| one.is_stranger());
        let oldest = strangers.map(|(id, _)| *id).min();
        if let Some(id) = oldest {
            self.close(id, true);
        }
        oldest.is_some()
    }

    /// Puts answers that came later behind what their connections are sent; true if there were any.
    fn take_answers(&mut self) -> bool {
        let faults = self.shared.faults.swap(0, Ordering::Relaxed);
        add(&self.context.counters.faults, faults);
        let answers = std::mem::take(&mut *self.shared.answers.lock());
        for (id, frame) in &answers {
            // Its caller may be gone.
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.take_answer(frame);
            if self.again.last() != Some(id) {
                self.again.push(*id);
            }
        }
        !answers.is_empty()
    }

    /// True if there is such a connection.
    fn turn(&mut self, id: u64, draining: bool, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let owed = usize::from(connection.owes());
        let scratch = &mut self.scratch;
        let verdict = connection.turn(&self.context, &self.shared, scratch, draining, now);
        self.owing = self.owing - owed + usize::from(connection.owes());
        match verdict {
            Verdict::Keep => {}
            Verdict::Again => self.again.push(id),
            Verdict::Close => self.close(id, false),
            Verdict::Refuse => self.close(id, true),
        }
        true
    }

    fn close(&mut self, id: u64, refused: bool) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.owing -= usize::from(connection.owes());
        connection.close(&self.context);
        let counters = &self.context.counters;
        counters.connections_open.fetch_sub(1, Ordering::AcqRel);
        add(&counters.connections_refused, refused.into());
    }

    fn close_where(&mut self, condition: impl Fn(&Connection) -> bool, refused: bool) {
        let found = self.connections.iter().filter(|(_, connection)| condition(connection));
        let ids: Vec<u64> = found.map(|(id, _)| *id).collect();
        for id in ids {
            self.close(id, refused);
        }
    }

    fn tick(&mut self, now: Instant) {
        let faults = self.shared.faults.swap(0, Ordering::Relaxed);
        add(&self.context.counters.faults, faults);
        if self.owing > 0 || self.context.options.idle_timeout.is_some() {
            let context = Arc::clone(&self.context);
            self.close_where(|connection| connection.is_late(&context, now), true);
        }
    }

    fn begin_drain(&mut self, now: Instant) {
        // Closed, so that callers see at once that nobody listens.
        self.acceptor.listeners.clear();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.turn(id, true, now);
        }
    }

    /// At most one line a second.
    fn warn(&mut self, text: std::fmt::Arguments<'_>) {
        let now = Instant::now();
        if self.last_warning.is_none_or(|last| now >= last + Duration::from_secs(1)) {
            self.last_warning = Some(now);
            log::warn!("rpc: {text}");
        }
    }
}

/// None of the options is vital, so a kernel that refuses one is not an error.
fn tune(stream: &TcpStream, nodelay: bool) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(nodelay);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(limits::RPC_PROGRESS_TIMEOUT));
}
