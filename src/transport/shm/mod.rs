//! Same host: peers of one machine move bytes without sockets.
//!
//! An engine has a *door*, an abstract Unix socket whose name follows from its instance. A peer
//! that proves there that it has read the descriptor gets the *table* of registrations, to read,
//! and a page of *pins*, to write. With both it copies by itself: memory that the library made it
//! maps, into and out of the caller's memory the kernel copies (`process_vm_readv`). The engine
//! whose memory it is does nothing meanwhile; that memory is not touched after it was unregistered
//! is the purpose of the pins (`table.rs`).
//!
//! A route of this transport stands in front of another one that reaches the same peer, and hands
//! that one whatever it cannot move (`route.rs`). So there is always a way, and nothing is lost
//! where a sandbox, another user or a namespace forbids this one.
//!
//! Threads: `mc-shm` (see `worker.rs`), and whatever thread submits or waits. Must not block in
//! `Route`, except for the bounded question for a descriptor the first time a peer's memory is
//! used.

mod link;
mod route;
mod table;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::config::{Dialect, EngineConfig};
use crate::descriptor::{PeerAddress, SegmentDescriptor, SAME_HOST};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{location_is_host, Access, Region};
use crate::metrics::Metrics;
use crate::net::door;
use crate::net::thread::spawn;

use super::{Capabilities, Near, RegionKeys, Route, Transport};

use link::Link;
use route::ShmRoute;
use worker::{Inner, Worker};

/// Callers that wait to be let in. Beyond it a caller takes the other way for good, so there is
/// room for all processes of a large host to come at once.
const BACKLOG: i32 = 1024;

/// The transport of one engine.
pub struct Shm {
    inner: Arc<Inner>,
    host_id: String,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why an engine with these settings has no door; `None` if it should have one.
pub fn refusal(config: &EngineConfig, host_id: &str) -> Option<&'static str> {
    if !config.same_host {
        Some("the setting same_host")
    } else if config.force_tcp {
        Some("the setting force_tcp")
    } else if matches!(config.tcp_dialect, Dialect::V1 | Dialect::V2) {
        Some("the setting tcp_dialect")
    } else if host_id.is_empty() {
        Some("the host does not tell its boot id")
    } else {
        None
    }
}

impl Shm {
    /// Opens the door and starts the thread.
    pub fn start(
        config: &EngineConfig,
        instance: [u8; 16],
        host_id: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Shm> {
        let queue_max = config.tcp_queued_requests_max as usize;
        let inner = Arc::new(Inner::new(instance, queue_max, metrics)?);
        let listener = door::listen(&wire::door_name(&instance), BACKLOG)?;
        let worker = Worker::new(Arc::clone(&inner), listener)?;
        let thread = spawn("mc-shm", move || worker.run())?;
        Ok(Shm { inner, host_id: host_id.to_owned(), thread: Mutex::new(Some(thread)) })
    }

    fn open(&self, peer: &PeerAddress) -> std::result::Result<Link, String> {
        let Some(native) = &peer.descriptor.native else {
            return Err("the peer is not of this library".to_owned());
        };
        if native.capabilities & SAME_HOST == 0 {
            return Err("the peer has no door".to_owned());
        }
        if native.host_id != self.host_id {
            return Err("the peer is on another host".to_owned());
        }
        let life = self.inner.life(&native.instance);
        if let Some(why) = life.declined() {
            return Err(why.to_owned());
        }
        Link::open(&native.instance, &life, &self.inner.ending).inspect_err(|why| {
            life.decline(why);
        })
    }
}

impl Transport for Shm {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::HOST
    }

    fn register(&self, region: &Arc<Region>) -> Result<RegionKeys> {
        if region.access() != Access::LOCAL && location_is_host(region.location()) {
            self.inner.table.add(region);
        }
        Ok(RegionKeys::default())
    }

    fn unregister(&self, region: &Arc<Region>) -> Result<()> {
        self.inner.table.remove(region.key())
    }

    fn publish(&self, descriptor: &mut SegmentDescriptor) {
        if let Some(native) = &mut descriptor.native {
            native.capabilities |= SAME_HOST;
        }
    }

    fn route(&self, _: &PeerAddress) -> Option<Result<Arc<dyn Route>>> {
        // Only in front of another one.
        None
    }

    fn near(&self, peer: &PeerAddress, far: &Arc<dyn Route>) -> Near {
        let link = match self.open(peer) {
            Ok(link) => link,
            Err(why) => return Near::No(format!("not by shared memory: {why}")),
        };
        let why = link.story();
        let route = Arc::new(ShmRoute::new(link, Arc::clone(far), Arc::clone(&self.inner)));
        match self.inner.adopt(&route) {
            Ok(()) => Near::Route(route, why),
            Err(error) => Near::No(format!("not by shared memory: {error}")),
        }
    }

    fn shutdown(&self) {
        if !self.inner.ending.begin() {
            return;
        }
        self.inner.wake.signal();
        if let Err(error) = self.inner.table.remove_all() {
            log::error!("shm: {error}");
        }
        let own = std::thread::current().id();
        if let Some(thread) = self.thread.lock().take().filter(|t| t.thread().id() != own) {
            let _ = thread.join();
        }
        let error = Error::new(ErrorKind::Shutdown, "the engine is being destroyed");
        for route in self.inner.routes() {
            route.close(&error);
        }
    }

    fn dump(&self) -> serde_json::Value {
        let (registrations, peers) = self.inner.table.counts();
        serde_json::json!({
            "door": wire::door_name(&self.inner.instance),
            "registrations": registrations,
            "peers_let_in": peers,
        })
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        self.shutdown();
    }
}
