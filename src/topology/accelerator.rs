//! Accelerators: GPUs and NPUs, found on the bus by who made them and what class they are.
//!
//! Numbers matter, because locations carry them. NVIDIA's runtime numbers the devices of one kind
//! in the order of the bus (always with `CUDA_DEVICE_ORDER=PCI_BUS_ID`). Ascend's driver has an
//! order of its own and shows it in a table; only without it the order of the bus is taken.

use std::collections::BTreeMap;

use super::pci::{PciAddress, PciPlace};
use super::sysfs::Sysfs;
use crate::limits;

const FOLDER: &str = "bus/pci/devices";
/// Ascend's driver puts the same table of address and number beside each of its devices.
const ASCEND_TABLE: &str = "devdrv_sysfs_bdf_to_devid";

/// Location prefix, vendor, and the classes (without the programming interface) to look for.
const KINDS: &[Kind] = &[
    Kind { prefix: "cuda", vendor: 0x10de, classes: &[0x0300, 0x0302] },
    Kind { prefix: "npu", vendor: 0x19e5, classes: &[0x1200] },
];

/// Drivers that hand a device on to a virtual machine; no runtime on this host sees it then.
const PASSED_ON: &[&str] = &["vfio-pci", "pci-stub", "xen-pciback"];

struct Kind {
    prefix: &'static str,
    vendor: i64,
    classes: &'static [i64],
}

/// One GPU or NPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// What its memory is called: `cuda:0`, `npu:3`.
    pub location: String,
    /// Device identifier of the vendor.
    pub device: u32,
    pub(super) place: PciPlace,
}

impl Accelerator {
    /// The NUMA node it is attached to.
    pub fn node(&self) -> Option<u32> {
        self.place.node
    }

    /// Its address on the bus.
    pub fn pci(&self) -> PciAddress {
        self.place.address
    }
}

/// The accelerators, by kind and number.
pub(super) fn read(sysfs: &Sysfs, notes: &mut Vec<String>) -> Vec<Accelerator> {
    let functions = sysfs.list(FOLDER, limits::PCI_FUNCTIONS_MAX);
    if functions.left_out > 0 {
        notes.push(format!("{} PCI functions are left out", functions.left_out));
    }
    let mut found: Vec<Vec<(u32, PciPlace)>> = KINDS.iter().map(|_| Vec::new()).collect();
    for name in &functions.names {
        let file = |what: &str| format!("{FOLDER}/{name}/{what}");
        // One file decides about almost all functions.
        let Some(class) = sysfs.number(&file("class")).map(|class| class >> 8) else { continue };
        if !KINDS.iter().any(|kind| kind.classes.contains(&class)) {
            continue;
        }
        let vendor = sysfs.number(&file("vendor"));
        let is_of = |kind: &Kind| Some(kind.vendor) == vendor && kind.classes.contains(&class);
        let Some(kind) = KINDS.iter().position(is_of) else { continue };
        let word = KINDS[kind].prefix;
        if sysfs.exists(&file("physfn")) {
            notes.push(format!("{word} device {name} is left out: it is a virtual function"));
            continue;
        }
        let driver = sysfs.link_name(&file("driver")).unwrap_or_default();
        if PASSED_ON.contains(&driver.as_str()) {
            notes.push(format!("{word} device {name} is left out: the driver {driver} has it"));
            continue;
        }
        let place = sysfs.real(&format!("{FOLDER}/{name}"));
        let Some(place) = place.and_then(|real| PciPlace::of(sysfs, &real)) else { continue };
        if found[kind].len() == limits::ACCELERATORS_MAX {
            notes.push(format!("{word} device {name} is left out: there are too many"));
            continue;
        }
        let device = sysfs.number(&file("device")).and_then(|device| u32::try_from(device).ok());
        found[kind].push((device.unwrap_or(0), place));
    }
    let mut accelerators = Vec::new();
    for (kind, mut devices) in KINDS.iter().zip(found) {
        devices.sort_by_key(|(_, place)| place.address);
        let table = devices.first().and_then(|(_, place)| {
            let path = format!("{}/{ASCEND_TABLE}", place.path);
            let text = sysfs.long_text(&path, limits::DEVICE_TABLE_BYTES_MAX)?;
            Some(parse_table(&text)).filter(|table| !table.is_empty())
        });
        if kind.prefix == "npu" && table.is_none() && !devices.is_empty() {
            notes.push(
                "the driver does not number the npu devices: they are in the order of the bus"
                    .to_owned(),
            );
        }
        accelerators.extend(number(kind, devices, table, notes));
    }
    accelerators
}

/// Gives the devices of one kind, which come in the order of the bus, their numbers.
fn number(
    kind: &Kind,
    devices: Vec<(u32, PciPlace)>,
    table: Option<BTreeMap<u32, PciAddress>>,
    notes: &mut Vec<String>,
) -> Vec<Accelerator> {
    let accelerator = |number: u32, (device, place): (u32, PciPlace)| Accelerator {
        location: format!("{}:{number}", kind.prefix),
        device,
        place,
    };
    let Some(table) = table else {
        return (0..).zip(devices).map(|(index, device)| accelerator(index, device)).collect();
    };
    let listed = table.iter().filter_map(|(number, address)| {
        let device = devices.iter().find(|(_, place)| place.address == *address)?;
        Some(accelerator(*number, device.clone()))
    });
    let listed: Vec<Accelerator> = listed.take(limits::ACCELERATORS_MAX).collect();
    for (_, place) in &devices {
        if !listed.iter().any(|accelerator| accelerator.place.address == place.address) {
            let text = "is left out: its driver gives it no number";
            notes.push(format!("{} device {} {text}", kind.prefix, place.address));
        }
    }
    listed
}

/// Lines such as `0000:c1:00.0 ---> 0`; others are skipped. By number, because one function can
/// hold two devices.
fn parse_table(text: &str) -> BTreeMap<u32, PciAddress> {
    let row = |line: &str| {
        let (address, number) = line.split_once('>')?;
        let address = PciAddress::parse(address.trim_end_matches(['-', '=']).trim())?;
        Some((number.trim().parse().ok()?, address))
    };
    text.lines().filter_map(row).take(limits::ACCELERATORS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_driver() {
        let text = "0000:c1:00.0 ---> 0\n0000:C2:00.0 --> 1\nheading\n00000000:81:00.0 ---> 2\n";
        let table: Vec<String> =
            parse_table(text).iter().map(|(number, pci)| format!("{number} {pci}")).collect();
        assert_eq!(table, ["0 0000:c1:00.0", "1 0000:c2:00.0", "2 0000:81:00.0"]);
        for odd in ["", "---> 0", "0000:c1:00.0 ---> -1", "0000:c1:00.0 0", "0000:c1:00.0 ---> x"] {
            assert!(parse_table(odd).is_empty(), "{odd:?}");
        }
        let both = parse_table("0000:c1:00.0 ---> 1\n0000:c1:00.0 ---> 0");
        assert_eq!(both.len(), 2);
    }
}
