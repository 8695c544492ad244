//! Addresses of PCI functions and how far apart two of them are. Pure: works on the paths that
//! sysfs gives to devices.

use std::fmt;

use super::sysfs::Sysfs;

/// Address of one function: `0000:18:00.0`. Sorts by domain, bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Reads an address, in either case. The domain has four digits or more, as the kernel writes
    /// it; some tools write eight.
    pub fn parse(text: &str) -> Option<PciAddress> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let is_sound = (4..=8).contains(&domain.len())
            && (bus.len(), device.len(), function.len()) == (2, 2, 1)
            && [domain, bus, device, function]
                .iter()
                .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_sound {
            return None;
        }
        let address = PciAddress {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            device: u8::from_str_radix(device, 16).ok()?,
            function: u8::from_str_radix(function, 16).ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// Where a device sits on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PciPlace {
    pub(super) address: PciAddress,
    /// Path from the root of sysfs, without links: `devices/pci0000:15/0000:15:01.0/...`.
    pub(super) path: String,
    /// Its NUMA node; `None` where the firmware does not say.
    pub(super) node: Option<u32>,
}

impl PciPlace {
    /// The function that a device belongs to: the last part of the device's real path that is an
    /// address. Devices of the software kind (`devices/virtual`) have none.
    pub(super) fn of(sysfs: &Sysfs, real_path: &str) -> Option<PciPlace> {
        let mut path = real_path;
        loop {
            let name = path.rsplit('/').next()?;
            if let Some(address) = PciAddress::parse(name) {
                let node = sysfs.number(&format!("{path}/numa_node"));
                let node = node.and_then(super::numa::node_number);
                return Some(PciPlace { address, path: path.to_owned(), node });
            }
            path = &path[..path.rfind('/')?];
        }
    }
}

/// Steps from one device up to the first bridge that both are below, and down to the other: the
/// parts of their paths that are not shared. Upstream orders by the same number.
pub(super) fn distance(one: &str, other: &str) -> usize {
    let shared = one.split('/').zip(other.split('/')).take_while(|(a, b)| a == b).count();
    one.split('/').count() + other.split('/').count() - 2 * shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("0000:18:00.0", "0000:18:00.0"),
            ("0000:C1:1f.7", "0000:c1:1f.7"),
            ("00000000:C1:00.0", "0000:c1:00.0"),
            ("10000:01:00.0", "10000:01:00.0"),
        ] {
            assert_eq!(PciAddress::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "18:00.0",
            "pci0000:15",
            "0000:18:00",
            "0000:18:20.0",
            "0000:18:00.8",
            "0000:+1:00.0",
            "000:18:00.0",
            "000000000:18:00.0",
            "0000:18:00.0 ",
            "mlx5_core.sf.4",
            "virtio2",
        ] {
            assert_eq!(PciAddress::parse(text), None, "{text:?}");
        }
        let sorted = ["0000:02:00.0", "0000:10:00.0", "0000:10:01.0", "0001:00:00.0"];
        let parsed: Vec<_> = sorted.iter().map(|text| PciAddress::parse(text)).collect();
        assert!(parsed.is_sorted(), "{parsed:?}");
    }

    #[test]
    fn distances_count_bridges() {
        let switch = "devices/pci0000:15/0000:15:01.0/0000:16:00.0";
        let gpu = format!("{switch}/0000:17:02.0/0000:1b:00.0");
        let near = format!("{switch}/0000:17:00.0/0000:18:00.0");
        let far = "devices/pci0000:97/0000:97:01.0/0000:98:00.0/0000:99:00.0/0000:9a:00.0";
        assert_eq!(distance(&gpu, &gpu), 0);
        assert_eq!(distance(&gpu, &near), 4);
        assert_eq!(distance(&near, &gpu), 4);
        assert_eq!(distance(&gpu, far), 10);
        assert_eq!(distance(&gpu, "devices/pci0000:97/0000:97:01.0"), 7);
    }
}
