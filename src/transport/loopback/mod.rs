//! Moves bytes between regions of this process by copying them: the reference for the transport
//! contract, the way an engine reaches its own segment, and, with faults on command, the backend
//! with which an integration can be tested on a laptop.
//!
//! Copies happen inside `submit` on the calling thread. Faults that need time (delays) are served
//! by one thread, `mc-loopback`, which exists only while faults ask for it.

mod faults;
mod route;

pub use faults::Faults;
use faults::SharedFaults;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};

use crate::descriptor::{PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Region;

use super::{Capabilities, Recovery, RegionKeys, RegionTable, Route, Transport};

type Tables = RwLock<HashMap<[u8; 16], Weak<dyn RegionTable>>>;

/// The engines of this process that can be reached by copying, by instance.
fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(RwLock::default)
}

/// The transport.
pub struct Loopback {
    instance: [u8; 16],
    faults: Arc<SharedFaults>,
    recovery: Arc<dyn Recovery>,
    routes: Mutex<Vec<Weak<route::LoopbackRoute>>>,
}

impl Loopback {
    /// Makes `table` reachable for the engines of this process.
    pub fn new(
        instance: [u8; 16],
        table: &Arc<dyn RegionTable>,
        recovery: Arc<dyn Recovery>,
        faults: Faults,
    ) -> Loopback {
        tables().write().insert(instance, Arc::downgrade(table));
        Loopback {
            instance,
            faults: Arc::new(SharedFaults::new(faults)),
            recovery,
            routes: Mutex::new(Vec::new()),
        }
    }

    /// Replaces the faults; what is delayed already keeps its delay.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.replace(faults);
    }
}

/// The route to memory of this process: no descriptor, no connection.
pub fn local_route(table: Arc<dyn RegionTable>, recovery: Arc<dyn Recovery>) -> Arc<dyn Route> {
    let table = Arc::downgrade(&table);
    let faults = Arc::new(SharedFaults::new(Faults::default()));
    Arc::new(route::LoopbackRoute::new(table, faults, recovery))
}

impl Transport for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::HOST
    }

    fn register(&self, _: &Arc<Region>) -> Result<RegionKeys> {
        let faults = self.faults.get();
        if faults.panic {
            panic!("registration panics on command");
        }
        if faults.registration {
            return Err(Error::new(ErrorKind::Resource, "registration failed on command"));
        }
        Ok(RegionKeys::default())
    }

    fn unregister(&self, _: &Arc<Region>) -> Result<()> {
        Ok(())
    }

    fn publish(&self, descriptor: &mut SegmentDescriptor) {
        descriptor.protocol = "loopback".into();
    }

    fn route(&self, peer: &PeerAddress) -> Option<Result<Arc<dyn Route>>> {
        if !peer.descriptor.protocol.contains("loopback") {
            return None;
        }
        let table = peer
            .descriptor
            .native
            .as_ref()
            .and_then(|native| tables().read().get(&native.instance).cloned());
        Some(match table {
            Some(table) => {
                let faults = Arc::clone(&self.faults);
                let recovery = Arc::clone(&self.recovery);
                let route = Arc::new(route::LoopbackRoute::new(table, faults, recovery));
                let mut routes = self.routes.lock();
                routes.retain(|route| route.strong_count() > 0);
                routes.push(Arc::downgrade(&route));
                Ok(route as Arc<dyn Route>)
            }
            None => Err(Error::new(
                ErrorKind::Unreachable,
                "the segment lives in another process; loopback reaches only this one",
            )
            .with("segment", &peer.descriptor.name)),
        })
    }

    fn shutdown(&self) {
        tables().write().remove(&self.instance);
        let routes = std::mem::take(&mut *self.routes.lock());
        let error = Error::new(ErrorKind::Shutdown, "the engine is being destroyed");
        for route in routes.iter().filter_map(Weak::upgrade) {
            route.close(&error);
        }
    }

    fn dump(&self) -> serde_json::Value {
        serde_json::json!({ "faults": format!("{:?}", self.faults.get()) })
    }
}
