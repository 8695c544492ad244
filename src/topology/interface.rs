//! Network interfaces that are hardware: where they sit and how fast they are. Their addresses, and
//! the choice between those, are in `net`.

use serde_json::{json, Value};

use super::pci::{PciAddress, PciPlace};
use super::sysfs::Sysfs;
use crate::limits;

const FOLDER: &str = "class/net";

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetInterface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// State as the kernel says it, such as `up` or `down`; empty if unknown.
    pub state: String,
    /// Bits per second in millions; `None` without a carrier and for interfaces that do not say.
    pub speed_mbps: Option<u32>,
    pub(super) place: Option<PciPlace>,
}

impl NetInterface {
    /// The NUMA node it is attached to.
    pub fn node(&self) -> Option<u32> {
        self.place.as_ref().and_then(|place| place.node)
    }

    /// Its address on the bus.
    pub fn pci(&self) -> Option<PciAddress> {
        self.place.as_ref().map(|place| place.address)
    }

    pub(super) fn dump(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state,
            "speed_mbps": self.speed_mbps,
            "pci": self.pci().map(|pci| pci.to_string()),
            "node": self.node(),
        })
    }
}

/// The interfaces with a device below them, in the natural order of their names. A container host
/// has hundreds without one, which are only counted.
pub(super) fn read(sysfs: &Sysfs, notes: &mut Vec<String>) -> Vec<NetInterface> {
    let found = sysfs.list(FOLDER, limits::INTERFACES_MAX);
    let mut left_out = found.left_out;
    let mut interfaces = Vec::new();
    let mut virtual_ones = 0;
    for name in found.names {
        // Some kernels put files beside the interfaces, such as `bonding_masters`.
        let Some(real) = sysfs.real(&format!("{FOLDER}/{name}/device")) else {
            virtual_ones += usize::from(sysfs.exists(&format!("{FOLDER}/{name}/operstate")));
            continue;
        };
        if interfaces.len() == limits::ADAPTERS_MAX {
            left_out += 1;
            continue;
        }
        let file = |what: &str| format!("{FOLDER}/{name}/{what}");
        let speed = sysfs.number(&file("speed")).and_then(|speed| u32::try_from(speed).ok());
        interfaces.push(NetInterface {
            state: sysfs.text(&file("operstate")).unwrap_or_default(),
            // The kernel's way to say "unknown" is -1, or the same as an unsigned number.
            speed_mbps: speed.filter(|speed| *speed != 0 && *speed != u32::MAX),
            place: PciPlace::of(sysfs, &real),
            name,
        });
    }
    if left_out > 0 {
        notes.push(format!("{left_out} network interfaces are left out"));
    }
    if virtual_ones > 0 {
        notes.push(format!("{virtual_ones} network interfaces are not hardware"));
    }
    interfaces
}
