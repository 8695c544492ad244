//! RDMA adapters and their ports. What the kernel shows of them; they are not opened.

use serde_json::{json, Value};

use super::pci::{PciAddress, PciPlace};
use super::sysfs::Sysfs;
use crate::limits;

const FOLDER: &str = "class/infiniband";
/// The state of a port that carries traffic.
const ACTIVE: u32 = 4;

/// One adapter, as verbs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name, such as `mlx5_0`.
    pub name: String,
    /// Its ports in the order of their numbers.
    pub ports: Vec<Port>,
    /// True for a virtual function of another adapter.
    pub is_virtual_function: bool,
    /// Network interfaces on the same function.
    pub interfaces: Vec<String>,
    /// Where it sits; `None` for adapters made of software.
    pub(super) place: Option<PciPlace>,
}

/// One port of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number, from 1.
    pub number: u32,
    /// State as the kernel counts: 1 down, 2 initializing, 3 armed, 4 active; 0 if unknown.
    pub state: u32,
    /// `InfiniBand` or `Ethernet`; empty if unknown.
    pub link_layer: String,
    /// As the kernel says it, such as `400 Gb/sec (4X NDR)`; empty if unknown.
    pub rate: String,
}

impl Adapter {
    /// True if a port carries traffic.
    pub fn is_active(&self) -> bool {
        self.ports.iter().any(|port| port.state == ACTIVE)
    }

    /// The NUMA node it is attached to.
    pub fn node(&self) -> Option<u32> {
        self.place.as_ref().and_then(|place| place.node)
    }

    /// Its address on the bus.
    pub fn pci(&self) -> Option<PciAddress> {
        self.place.as_ref().map(|place| place.address)
    }

    pub(super) fn dump(&self, verdict: &str) -> Value {
        let port = |port: &Port| {
            json!({
                "number": port.number,
                "state": port.state,
                "link_layer": port.link_layer,
                "rate": port.rate,
            })
        };
        json!({
            "name": self.name,
            "pci": self.pci().map(|pci| pci.to_string()),
            "node": self.node(),
            "virtual_function": self.is_virtual_function,
            "interfaces": self.interfaces,
            "ports": self.ports.iter().map(port).collect::<Vec<_>>(),
            "verdict": verdict,
        })
    }
}

/// The adapters, in the natural order of their names.
pub(super) fn read(sysfs: &Sysfs, notes: &mut Vec<String>) -> Vec<Adapter> {
    let found = sysfs.list(FOLDER, limits::ADAPTERS_MAX);
    if found.left_out > 0 {
        notes.push(format!("{} RDMA adapters are left out", found.left_out));
    }
    found.names.into_iter().map(|name| read_one(sysfs, name)).collect()
}

fn read_one(sysfs: &Sysfs, name: String) -> Adapter {
    let folder = format!("{FOLDER}/{name}");
    let place = sysfs.real(&folder).and_then(|real| PciPlace::of(sysfs, &real));
    let on_function = |what: &str| place.as_ref().map(|place| format!("{}/{what}", place.path));
    let is_virtual_function = on_function("physfn").is_some_and(|path| sysfs.exists(&path));
    let interfaces = on_function("net")
        .map(|path| sysfs.list(&path, limits::ADAPTER_PORTS_MAX).names)
        .unwrap_or_default();
    let mut ports: Vec<Port> = sysfs
        .list(&format!("{folder}/ports"), limits::ADAPTER_PORTS_MAX)
        .names
        .iter()
        .filter_map(|number| number.parse().ok())
        .map(|number| read_port(sysfs, &folder, number))
        .collect();
    ports.sort_by_key(|port| port.number);
    Adapter { name, ports, is_virtual_function, interfaces, place }
}

fn read_port(sysfs: &Sysfs, folder: &str, number: u32) -> Port {
    let file = |name: &str| sysfs.text(&format!("{folder}/ports/{number}/{name}"));
    // "4: ACTIVE"
    let state = file("state").unwrap_or_default();
    let state = state.split(':').next().and_then(|digits| digits.trim().parse().ok());
    Port {
        number,
        state: state.unwrap_or(0),
        link_layer: file("link_layer").unwrap_or_default(),
        rate: file("rate").unwrap_or_default(),
    }
}
