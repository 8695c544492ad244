//! TCP: one data port, three protocols.
//!
//! Towards native peers: persistent lanes, many requests in flight, vectored I/O straight between
//! socket and registered memory, large requests spread over lanes, small ones gathered into
//! frames, a status for each, a key for each registration. Towards upstream 0.3.13 (v2): pooled
//! and pipelined. Towards 0.3.7 (v1): one connection for each request, whose end is waited for.
//! The serving side tells the three apart by their first eight bytes.
//!
//! Threads: `mc-tcp-N` (see `worker.rs`), and whatever thread submits or waits.

mod fence;
mod health;
mod identity;
mod lane;
mod places;
mod route;
mod serve;
mod settings;
mod socket;
mod stream;
pub mod wire;
mod worker;

use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::config::Dialect;
use crate::descriptor::{PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::metrics::Metrics;
use crate::net::ending::Ending;

use super::{Capabilities, Recovery, RegionKeys, RegionTable, Route, Transport};

pub use settings::Settings;
pub use wire::native::VERSION as NATIVE_VERSION;

use fence::Fences;
use identity::{Identities, IdentityBook};
use lane::Wire;
use places::Places;
use route::TcpRoute;
use serve::ServeContext;
use worker::{Acceptor, WorkerShared};

/// What upstream's `tcp_proto_version` is for a server that understands v2.
const UPSTREAM_V2: u32 = 2;

/// The TCP transport of one engine.
pub struct Tcp {
    settings: Arc<Settings>,
    port: u16,
    workers: Vec<Arc<WorkerShared>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    recovery: Arc<dyn Recovery>,
    metrics: Arc<Metrics>,
    routes: Mutex<Vec<Weak<TcpRoute>>>,
    identities: IdentityBook,
    ending: Ending,
}

impl Tcp {
    /// Serves on `listener`, which must be non-blocking, and starts the I/O threads.
    pub fn start(
        settings: Settings,
        listener: TcpListener,
        table: Arc<dyn RegionTable>,
        recovery: Arc<dyn Recovery>,
        metrics: Arc<Metrics>,
    ) -> Result<Tcp> {
        let port = listener
            .local_addr()
            .map_err(|error| Error::io(ErrorKind::Resource, "the data port has no address", error))?
            .port();
        let settings = Arc::new(settings);
        let context = Arc::new(ServeContext {
            settings: Arc::clone(&settings),
            table,
            metrics: Arc::clone(&metrics),
            places: Places::new(settings.connections_max, Arc::clone(&metrics)),
            fences: Arc::new(Fences::default()),
        });
        let workers =
            (0..settings.threads).map(|_| WorkerShared::new()).collect::<Result<Vec<_>>>()?;
        let tcp = Tcp {
            settings,
            port,
            workers,
            threads: Mutex::default(),
            recovery,
            metrics,
            routes: Mutex::default(),
            identities: IdentityBook::default(),
            ending: Ending::new()?,
        };
        let mut acceptor = Some(Acceptor { listener, workers: tcp.workers.clone() });
        for (index, shared) in tcp.workers.iter().enumerate() {
            match worker::start(index, shared, &context, acceptor.take()) {
                Ok(thread) => tcp.threads.lock().push(thread),
                Err(error) => {
                    tcp.shutdown();
                    return Err(error);
                }
            }
        }
        Ok(tcp)
    }

    /// The best protocol that both sides have, under the setting's cap.
    fn wire(&self, descriptor: &SegmentDescriptor) -> Wire {
        let v2 = descriptor.tcp_proto_version >= UPSTREAM_V2;
        let native = descriptor.native.is_some();
        match self.settings.dialect {
            Dialect::Auto | Dialect::Native if native => Wire::Native,
            Dialect::V1 => Wire::V1 { half_close: v2 },
            _ if v2 => Wire::V2,
            _ => Wire::V1 { half_close: false },
        }
    }
}

impl Transport for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::HOST
    }

    fn data_port(&self) -> u16 {
        self.port
    }

    fn register(&self, _: &Arc<Region>) -> Result<RegionKeys> {
        // The sockets use any memory; the key of the region itself is all that peers need.
        Ok(RegionKeys::default())
    }

    fn unregister(&self, _: &Arc<Region>) -> Result<()> {
        Ok(())
    }

    fn publish(&self, descriptor: &mut SegmentDescriptor) {
        descriptor.protocol = "tcp".into();
        descriptor.tcp_data_port = self.port;
        descriptor.tcp_data_host = Some(self.settings.host.clone());
        descriptor.tcp_proto_version = UPSTREAM_V2;
        descriptor.rdma_server_name = Some(String::new());
    }

    fn route(&self, peer: &PeerAddress) -> Option<Result<Arc<dyn Route>>> {
        let descriptor = &peer.descriptor;
        if !descriptor.protocol.contains("tcp") || descriptor.tcp_data_port == 0 {
            return None;
        }
        let wire = self.wire(descriptor);
        let instance = descriptor.native.as_ref().map_or([0; 16], |native| native.instance);
        let identities = match wire {
            Wire::Native => self.identities.of(&peer.name, instance, self.settings.lanes),
            Wire::V1 { .. } | Wire::V2 => Identities::new(0).map(Arc::new),
        };
        let route = identities.and_then(|identities| TcpRoute::new(peer, wire, identities, self));
        Some(route.map(|route| {
            let mut routes = self.routes.lock();
            routes.retain(|route| route.strong_count() > 0);
            routes.push(Arc::downgrade(&route));
            route as Arc<dyn Route>
        }))
    }

    fn shutdown(&self) {
        self.ending.begin();
        for worker in &self.workers {
            worker.stop();
        }
        let own = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
        let error = Error::new(ErrorKind::Shutdown, "the engine is being destroyed");
        let routes = std::mem::take(&mut *self.routes.lock());
        for route in routes.iter().filter_map(Weak::upgrade) {
            route.close(&error);
        }
    }

    fn dump(&self) -> serde_json::Value {
        serde_json::json!({
            "port": self.port,
            "io_threads": self.settings.threads,
            "lanes_per_peer": self.settings.lanes,
            "dialect": self.settings.dialect.word(),
            "local_congestion": self.settings.local_congestion,
        })
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.shutdown();
    }
}
