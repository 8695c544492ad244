//! Everything found on one host.

use std::path::Path;

use serde_json::{json, Value};

use super::accelerator::{self, Accelerator};
use super::adapter::{self, Adapter};
use super::interface::{self, NetInterface};
use super::numa::{self, Node};
use super::pci;
use super::sysfs::Sysfs;

/// What the host is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// NUMA nodes by number; at least one.
    pub nodes: Vec<Node>,
    /// RDMA adapters by name.
    pub adapters: Vec<Adapter>,
    /// Network interfaces by name.
    pub interfaces: Vec<NetInterface>,
    /// GPUs and NPUs by kind and number.
    pub accelerators: Vec<Accelerator>,
}

/// Reads the tree, with notes about what was left out.
pub(super) fn read(root: &Path) -> (Host, Vec<String>) {
    let sysfs = Sysfs::new(root);
    let mut notes = Vec::new();
    let host = Host {
        nodes: numa::read(&sysfs, &mut notes),
        adapters: adapter::read(&sysfs, &mut notes),
        interfaces: interface::read(&sysfs, &mut notes),
        accelerators: accelerator::read(&sysfs, &mut notes),
    };
    (host, notes)
}

impl Host {
    /// Steps on the bus between an accelerator and an adapter; `None` for one that is not on it.
    pub fn distance(&self, accelerator: &Accelerator, adapter: &Adapter) -> Option<usize> {
        let place = adapter.place.as_ref()?;
        Some(pci::distance(&accelerator.place.path, &place.path))
    }

    pub(super) fn dump_accelerator(&self, accelerator: &Accelerator) -> Value {
        let distances: serde_json::Map<String, Value> = self
            .adapters
            .iter()
            .map(|adapter| (adapter.name.clone(), json!(self.distance(accelerator, adapter))))
            .collect();
        json!({
            "location": accelerator.location,
            "pci": accelerator.pci().to_string(),
            "node": accelerator.node(),
            "device": format!("{:#06x}", accelerator.device),
            "steps_to_adapters": distances,
        })
    }
}
