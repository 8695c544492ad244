//! The thread `mc-shm`: opens the door to peers, notices when they go, and moves what nobody else
//! moves. Sleeps without a time limit while there is nothing to do.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Result;
use crate::limits;
use crate::metrics::Metrics;
use crate::net::door;
use crate::net::ending::Ending;
use crate::net::epoll::{Epoll, Event, Interest};
use crate::net::wake::EventFd;

use super::link::Life;
use super::route::ShmRoute;
use super::table::{Guest, Table};
use super::wire::{proof, Message, Side, Sixteen, MESSAGE_BYTES};

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST: u64 = 2;

/// Told about the end of a connection, once.
const END: Interest = Interest { read: false, write: false, end: true, once: true };

/// What the transport, its routes and its thread share.
pub(super) struct Inner {
    pub(super) instance: Sixteen,
    pub(super) table: Table,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ending: Ending,
    pub(super) wake: EventFd,
    /// Always signalled: for those who must not sleep.
    pub(super) ready: EventFd,
    pub(super) queue_max: usize,
    epoll: Epoll,
    next: std::sync::atomic::AtomicU64,
    /// Routes, by the token of their connection.
    routes: Mutex<HashMap<u64, Weak<ShmRoute>>>,
    lives: Mutex<HashMap<Sixteen, Arc<Life>>>,
    /// Read by peers as a proof that they can; never changes.
    secret: Box<Sixteen>,
}

impl Inner {
    pub(super) fn new(instance: Sixteen, queue_max: usize, metrics: Arc<Metrics>) -> Result<Inner> {
        let mut secret = Box::new([0; 16]);
        crate::net::random::fill(&mut *secret)?;
        let ready = EventFd::new()?;
        ready.signal();
        Ok(Inner {
            instance,
            table: Table::new(limits::SHM_PIN_TIMEOUT)?,
            metrics,
            ending: Ending::new()?,
            wake: EventFd::new()?,
            ready,
            queue_max,
            epoll: Epoll::new()?,
            next: std::sync::atomic::AtomicU64::new(FIRST),
            routes: Mutex::default(),
            lives: Mutex::default(),
            secret,
        })
    }

    /// What is remembered of that life of a peer.
    pub(super) fn life(&self, instance: &Sixteen) -> Arc<Life> {
        let mut lives = self.lives.lock();
        if lives.len() >= limits::SHM_LIVES_MAX && !lives.contains_key(instance) {
            lives.retain(|_, life| Arc::strong_count(life) > 1);
        }
        Arc::clone(lives.entry(*instance).or_default())
    }

    fn token(&self) -> u64 {
        self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Watches the connection of a route and drives what waits on it.
    pub(super) fn adopt(&self, route: &Arc<ShmRoute>) -> Result<()> {
        let token = self.token();
        let mut routes = self.routes.lock();
        routes.retain(|_, route| route.strong_count() > 0);
        routes.insert(token, Arc::downgrade(route));
        drop(routes);
        self.epoll.add(route.link().socket().as_fd(), token, END)
    }

    /// Every route that is in use.
    pub(super) fn routes(&self) -> Vec<Arc<ShmRoute>> {
        self.routes.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn route(&self, token: u64) -> Option<Arc<ShmRoute>> {
        self.routes.lock().get(&token)?.upgrade()
    }
}

/// How far a caller at the door is.
enum Stage {
    Fresh,
    Challenged { initiator: Sixteen, target: Sixteen },
    In(Arc<Guest>),
}

struct Visitor {
    socket: Arc<OwnedFd>,
    caller: door::Caller,
    stage: Stage,
    since: Instant,
}

impl Visitor {
    fn is_stranger(&self) -> bool {
        !matches!(self.stage, Stage::In(_))
    }
}

/// The door and whoever is at it or behind it.
pub(super) struct Worker {
    inner: Arc<Inner>,
    listener: OwnedFd,
    visitors: HashMap<u64, Visitor>,
}

impl Worker {
    pub(super) fn new(inner: Arc<Inner>, listener: OwnedFd) -> Result<Worker> {
        inner.epoll.add(listener.as_fd(), LISTENER, Interest::READ)?;
        inner.epoll.add(inner.wake.as_fd(), WAKE, Interest::READ)?;
        Ok(Worker { inner, listener, visitors: HashMap::new() })
    }

    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::new();
        while !self.inner.ending.has_begun() {
            let busy: Vec<Arc<ShmRoute>> =
                self.inner.routes().into_iter().filter(|route| route.has_work()).collect();
            for route in &busy {
                route.drive(limits::SHM_SUBMIT_BYTES_MAX);
            }
            let has_strangers = self.visitors.values().any(Visitor::is_stranger);
            let time = match (busy.is_empty(), has_strangers) {
                (false, _) => Some(Duration::ZERO),
                (true, true) => Some(limits::SHM_STRANGER_TIMEOUT / 10),
                (true, false) => None,
            };
            if self.inner.epoll.wait(&mut events, time).is_err() {
                log::error!("shm: the door is closed, since waiting at it failed");
                break;
            }
            for event in &events {
                self.serve(event.token);
            }
            self.send_strangers_away();
        }
        for (_, visitor) in self.visitors.drain() {
            if let Stage::In(guest) = &visitor.stage {
                self.inner.table.turn_out(guest);
            }
        }
    }

    fn serve(&mut self, token: u64) {
        match token {
            LISTENER => self.greet(),
            WAKE => self.inner.wake.clear(),
            token if self.visitors.contains_key(&token) => {
                if !self.listen_to(token) {
                    self.send_away(token);
                }
            }
            token => {
                if let Some(route) = self.inner.route(token) {
                    route.lose("the peer is gone or has closed its door");
                }
            }
        }
    }

    fn greet(&mut self) {
        while let Ok(socket) = door::accept(self.listener.as_fd()) {
            let Ok(caller) = door::caller(socket.as_fd()) else { continue };
            if caller.uid != door::own_uid() {
                log::debug!("shm: user {} is not let in", caller.uid);
                self.inner.metrics.connections_refused.inc();
                continue;
            }
            self.make_room();
            if self.visitors.len() >= limits::SHM_GUESTS_MAX {
                self.inner.metrics.connections_refused.inc();
                continue;
            }
            let token = self.inner.token();
            if self.inner.epoll.add(socket.as_fd(), token, Interest::READ).is_err() {
                continue;
            }
            let visitor = Visitor {
                socket: Arc::new(socket),
                caller,
                stage: Stage::Fresh,
                since: Instant::now(),
            };
            self.visitors.insert(token, visitor);
        }
    }

    /// Sends the oldest stranger away where there are too many.
    fn make_room(&mut self) {
        let strangers = self.visitors.iter().filter(|(_, visitor)| visitor.is_stranger());
        let mut oldest: Vec<(Instant, u64)> =
            strangers.map(|(token, visitor)| (visitor.since, *token)).collect();
        oldest.sort_unstable();
        let more = (oldest.len() + 1).saturating_sub(limits::SHM_STRANGERS_MAX);
        for (_, token) in oldest.into_iter().take(more) {
            self.send_away(token);
        }
    }

    fn send_strangers_away(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .visitors
            .iter()
            .filter(|(_, visitor)| {
                visitor.is_stranger() && now - visitor.since >= limits::SHM_STRANGER_TIMEOUT
            })
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.send_away(token);
        }
    }

    fn send_away(&mut self, token: u64) {
        let Some(visitor) = self.visitors.remove(&token) else { return };
        self.inner.epoll.remove(visitor.socket.as_fd());
        match &visitor.stage {
            Stage::In(guest) => self.inner.table.turn_out(guest),
            Stage::Fresh | Stage::Challenged { .. } => {
                self.inner.metrics.connections_refused.inc();
                door::end(&visitor.socket);
            }
        }
    }

    /// Serves one message of a visitor; false sends it away.
    fn listen_to(&mut self, token: u64) -> bool {
        let Some(visitor) = self.visitors.get_mut(&token) else { return true };
        let mut bytes = [0; MESSAGE_BYTES];
        let length = match door::receive(visitor.socket.as_fd(), &mut bytes) {
            Ok((0, _)) => return false,
            // Nobody has a reason to send descriptors here; they are closed.
            Ok((length, _)) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        };
        let Some(message) = Message::decode(&bytes[..length]) else { return false };
        let inner = &self.inner;
        match (&visitor.stage, message) {
            (Stage::Fresh, Message::Hello { nonce: initiator }) => {
                let mut target = [0; 16];
                if crate::net::random::fill(&mut target).is_err() {
                    return false;
                }
                visitor.stage = Stage::Challenged { initiator, target };
                let proof = proof(&inner.instance, Side::Target, &initiator, &target);
                let answer = Message::Challenge { nonce: target, proof };
                door::send(visitor.socket.as_fd(), &answer.encode(), &[]).is_ok()
            }
            (Stage::Challenged { initiator, target }, Message::Proof { proof: shown }) => {
                if shown != proof(&inner.instance, Side::Initiator, initiator, target) {
                    log::debug!("shm: a caller has not read this engine's descriptor");
                    return false;
                }
                let admitted = inner.table.admit(&visitor.socket, visitor.caller.pid);
                let Ok((guest, pins)) = admitted else { return false };
                visitor.stage = Stage::In(guest);
                let probe = std::ptr::from_ref::<Sixteen>(&inner.secret).expose_provenance();
                let grant = Message::Grant { probe: probe as u64, secret: *inner.secret };
                let fds = [inner.table.reader().as_fd(), pins.fd()];
                door::send(visitor.socket.as_fd(), &grant.encode(), &fds).is_ok()
            }
            (Stage::In(_), Message::Want { key }) => {
                let answer = Message::Give { key }.encode();
                let sent = match inner.table.backing(key) {
                    Some(backing) => door::send(visitor.socket.as_fd(), &answer, &[backing.fd()]),
                    None => door::send(visitor.socket.as_fd(), &answer, &[]),
                };
                sent.is_ok()
            }
            _ => false,
        }
    }
}
