//! The I/O threads, `mc-tcp-N`: each owns the connections of peers that it serves, and drives
//! lanes that nobody attends.
//!
//! A thread sleeps without a time limit while nothing is under way. While lanes are busy or served
//! peers owe bytes it wakes every [`TICK`] to look at deadlines.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Result;
use crate::net::epoll::{Epoll, Event, Interest};
use crate::net::thread::spawn;
use crate::net::wake::EventFd;

use super::lane::Lane;
use super::serve::{ServeContext, Served, Verdict};
use super::socket;

/// How often deadlines are looked at while something is under way.
const TICK: Duration = Duration::from_millis(50);
/// Ticking goes on this long after the last activity, so that back-to-back requests do not have to
/// wake the thread each time.
const LINGER: Duration = Duration::from_millis(500);

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// What other threads see of an I/O thread.
pub(super) struct WorkerShared {
    epoll: Epoll,
    wake: EventFd,
    arrivals: Mutex<Vec<(TcpStream, SocketAddr)>>,
    /// Served connections that other threads want to be closed.
    dismissed: Mutex<Vec<u64>>,
    lanes: Mutex<HashMap<u64, Weak<Lane>>>,
    next_token: AtomicU64,
    busy_lanes: AtomicUsize,
    ticking: AtomicBool,
    stopping: AtomicBool,
}

impl WorkerShared {
    pub(super) fn new() -> Result<Arc<WorkerShared>> {
        let shared = WorkerShared {
            epoll: Epoll::new()?,
            wake: EventFd::new()?,
            arrivals: Mutex::default(),
            dismissed: Mutex::default(),
            lanes: Mutex::default(),
            next_token: AtomicU64::new(0),
            busy_lanes: AtomicUsize::new(0),
            ticking: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        };
        shared.epoll.add(shared.wake.as_fd(), WAKE, Interest::READ)?;
        Ok(Arc::new(shared))
    }

    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    pub(super) fn new_token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives the thread a lane to look after.
    pub(super) fn adopt_lane(&self, lane: &Arc<Lane>) {
        self.lanes.lock().insert(lane.token, Arc::downgrade(lane));
    }

    /// Counts lanes that have something under way; the first one starts the ticking.
    pub(super) fn lane_is_busy(&self, busy: bool) {
        if !busy {
            self.busy_lanes.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        self.busy_lanes.fetch_add(1, Ordering::SeqCst);
        if !self.ticking.load(Ordering::SeqCst) {
            self.wake.signal();
        }
    }

    /// Gives the thread a connection to serve.
    pub(super) fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        self.arrivals.lock().push((stream, peer));
        self.wake.signal();
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.signal();
    }
}

/// Where a connection is served.
#[derive(Clone)]
pub(super) struct Place {
    worker: Arc<WorkerShared>,
    token: u64,
}

impl Place {
    /// A new one with that thread.
    pub(super) fn new(worker: &Arc<WorkerShared>) -> Place {
        Place { token: worker.new_token(), worker: Arc::clone(worker) }
    }

    /// Asks the thread to close the connection soon, if it is still there.
    pub(super) fn dismiss(&self) {
        self.worker.dismissed.lock().push(self.token);
        self.worker.wake.signal();
    }
}

/// What accepts connections; owned by the first thread.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    /// All threads, to spread connections over.
    pub(super) workers: Vec<Arc<WorkerShared>>,
}

/// Starts an I/O thread.
pub(super) fn start(
    index: usize,
    shared: &Arc<WorkerShared>,
    context: &Arc<ServeContext>,
    acceptor: Option<Acceptor>,
) -> Result<JoinHandle<()>> {
    if let Some(acceptor) = &acceptor {
        shared.epoll.add(acceptor.listener.as_fd(), LISTENER, Interest::READ)?;
    }
    let mut worker = Worker {
        shared: Arc::clone(shared),
        context: Arc::clone(context),
        acceptor,
        next_worker: 0,
        served: HashMap::new(),
        again: Vec::new(),
    };
    spawn(&format!("mc-tcp-{index}"), move || worker.run())
}

struct Worker {
    shared: Arc<WorkerShared>,
    context: Arc<ServeContext>,
    acceptor: Option<Acceptor>,
    next_worker: usize,
    served: HashMap<u64, Served>,
    /// Served connections with work left that needs no event.
    again: Vec<u64>,
}

impl Worker {
    fn run(&mut self) {
        let mut events = Vec::new();
        let mut last_activity = Instant::now();
        let mut last_tick = last_activity;
        let mut spin_until: Option<Instant> = None;
        while !self.shared.stopping.load(Ordering::Acquire) {
            let timeout = self.timeout(spin_until.is_some(), last_activity);
            if self.shared.epoll.wait(&mut events, timeout).is_err() {
                // Never happens with a valid epoll; a pause keeps a defect from burning a core.
                std::thread::sleep(TICK);
            }
            let mut has_served = false;
            for event in &events {
                has_served |= self.handle(event);
            }
            for token in std::mem::take(&mut self.again) {
                self.advance(token);
                has_served = true;
            }
            let spin = self.context.settings.spin;
            let now = Instant::now();
            if has_served || !events.is_empty() {
                last_activity = now;
            }
            // Before anything that goes on without a pause: a thread that is never idle has
            // deadlines to look at too.
            if now >= last_tick + TICK {
                last_tick = now;
                self.tick(now);
            }
            if has_served && !spin.is_zero() {
                spin_until = Some(now + spin);
            } else if spin_until.is_some_and(|until| now < until) {
                // A peer on the same core can only answer if it gets to run.
                std::thread::yield_now();
            } else {
                spin_until = None;
            }
        }
    }

    fn timeout(&self, spinning: bool, last_activity: Instant) -> Option<Duration> {
        if spinning || !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let shared = &self.shared;
        // First the flag, then the count: whoever makes a lane busy counts first, then looks at
        // the flag, so one of the two sees the other.
        shared.ticking.store(false, Ordering::SeqCst);
        let ticks = shared.busy_lanes.load(Ordering::SeqCst) > 0
            || self.served.values().any(Served::owes)
            || last_activity.elapsed() < LINGER;
        if ticks {
            shared.ticking.store(true, Ordering::SeqCst);
        }
        ticks.then_some(TICK)
    }

    /// True if a served connection had work.
    fn handle(&mut self, event: &Event) -> bool {
        match event.token {
            LISTENER => self.accept(),
            WAKE => {
                self.shared.wake.clear();
                self.adopt();
                let dismissed = std::mem::take(&mut *self.shared.dismissed.lock());
                for token in dismissed {
                    self.served.remove(&token);
                }
            }
            token if self.served.contains_key(&token) => {
                self.advance(token);
                return true;
            }
            token => {
                let lane = self.shared.lanes.lock().get(&token).and_then(Weak::upgrade);
                if let Some(lane) = lane {
                    lane.on_ready();
                }
            }
        }
        false
    }

    fn accept(&mut self) {
        let Some(acceptor) = &self.acceptor else { return };
        // Bounded, so that a flood of strangers cannot starve the connections being served.
        for _ in 0..64 {
            match acceptor.listener.accept() {
                Ok((stream, peer)) => {
                    self.context.metrics.connections_accepted.inc();
                    let index = self.next_worker % acceptor.workers.len();
                    self.next_worker = self.next_worker.wrapping_add(1);
                    acceptor.workers[index].serve(stream, peer);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory: closing strangers may help, time will.
                    log::warn!("tcp: cannot accept: {error}");
                    std::thread::sleep(Duration::from_millis(5));
                    return;
                }
            }
        }
    }

    /// Takes over connections that were given to this thread.
    fn adopt(&mut self) {
        let arrivals = std::mem::take(&mut *self.shared.arrivals.lock());
        for (stream, peer) in arrivals {
            let place = Place::new(&self.shared);
            let Some(seat) = self.context.places.take(&place) else {
                let limit = self.context.settings.connections_max;
                log::warn!("tcp: {peer} refused: {limit} connections are open already");
                continue;
            };
            if socket::accepted(&stream, peer, &self.context.settings).is_err() {
                continue;
            }
            let token = place.token;
            if self.shared.epoll.add(stream.as_fd(), token, Interest::READ).is_err() {
                continue;
            }
            self.served.insert(token, Served::new(stream, peer, place, seat));
        }
    }

    fn advance(&mut self, token: u64) {
        let Some(served) = self.served.get_mut(&token) else { return };
        match served.advance(&self.context, &self.shared.epoll, token) {
            Verdict::Keep => {}
            Verdict::Again => self.again.push(token),
            Verdict::Close => {
                self.served.remove(&token);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        let late: Vec<u64> = self
            .served
            .iter()
            .filter(|(_, served)| served.is_late(&self.context, now))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.context.metrics.connections_refused.inc();
            self.served.remove(&token);
        }
        let lanes: Vec<Arc<Lane>> = {
            let mut lanes = self.shared.lanes.lock();
            lanes.retain(|_, lane| lane.strong_count() > 0);
            lanes.values().filter_map(Weak::upgrade).collect()
        };
        for lane in lanes {
            lane.tick(now);
        }
    }
}
