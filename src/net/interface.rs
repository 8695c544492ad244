//! The addresses of this host, which of them to publish, and where to listen.
//!
//! [`enumerate`] asks the kernel; the choices are pure and return their reasons, which the dump
//! shows. Enters from the thread that creates an engine.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// One address of one network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, such as `eth0`.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// Administratively up.
    pub is_up: bool,
    /// Has a carrier.
    pub is_running: bool,
    /// Reaches only this host.
    pub is_loopback: bool,
}

/// What an address must be like to be published.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChoiceRules {
    /// IPv6 instead of IPv4.
    pub use_ipv6: bool,
}

/// Names of interfaces that container and virtual machine managers make. Their addresses are the
/// same on every host, so a peer that is told one reaches itself.
const BRIDGE_PREFIXES: &[&str] = &[
    "docker", "br-", "veth", "cni", "flannel", "virbr", "podman", "lxcbr", "lxdbr", "nerdctl",
    "cali", "cilium", "kube-",
];

/// How well an address serves, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ordinary,
    Bridge,
    LinkLocal,
    Loopback,
}

/// Every address of the host, in the kernel's order.
pub fn enumerate() -> Result<Vec<Interface>> {
    let mut head: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `head` is a valid place for one pointer.
    if unsafe { libc::getifaddrs(&mut head) } != 0 {
        let error = io::Error::last_os_error();
        return Err(Error::io(ErrorKind::Resource, "cannot list network interfaces", error));
    }
    let list = InterfaceList(head);
    let mut interfaces = Vec::new();
    let mut next = list.0;
    while !next.is_null() && interfaces.len() < limits::INTERFACES_MAX {
        // SAFETY: `next` is an entry of the list, which lives until `list` is dropped.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if let Some(interface) = read_entry(entry) {
            interfaces.push(interface);
        }
    }
    Ok(interfaces)
}

/// The address to publish, with one sentence for each address looked at. Ordinary addresses come
/// first; bridges, link-local addresses and the loopback, in this order, only when there is nothing
/// better. None when the host has no address of the family at all.
pub fn choose(interfaces: &[Interface], rules: ChoiceRules) -> (Option<IpAddr>, Vec<String>) {
    let ranks: Vec<std::result::Result<Rank, &'static str>> =
        interfaces.iter().map(|interface| rank(interface, rules)).collect();
    // Of equal ranks the kernel's first wins.
    let best = ranks
        .iter()
        .enumerate()
        .filter_map(|(index, rank)| rank.ok().map(|rank| (rank, index)))
        .min();
    let mut reasons: Vec<String> = interfaces
        .iter()
        .zip(&ranks)
        .enumerate()
        .map(|(index, (interface, rank))| {
            let why = match (rank, best) {
                (Err(why), _) => format!("skipped, {why}"),
                (Ok(rank), Some((_, chosen))) if chosen == index => {
                    format!("chosen{}", chosen_although(*rank))
                }
                (Ok(rank), _) => format!("skipped, {}", passed_over(*rank)),
            };
            format!("{} {}: {why}", interface.name, interface.address)
        })
        .collect();
    if best.is_none() {
        let family = if rules.use_ipv6 { "IPv6" } else { "IPv4" };
        reasons.push(format!("no interface that is up has an {family} address"));
    }
    (best.map(|(_, index)| interfaces[index].address), reasons)
}

/// Where to listen, and why: `bind` if the caller gave one, else the published address if it is one
/// of this host, else (none) everywhere. A published address of another host is that of a
/// translating router.
pub fn listen_address(
    bind: Option<IpAddr>,
    publish: Option<IpAddr>,
    interfaces: &[Interface],
) -> (Option<IpAddr>, String) {
    if let Some(address) = bind {
        return (Some(address), format!("listens on {address}: asked for"));
    }
    let Some(address) = publish else {
        return (None, "listens everywhere: no address asked for".to_owned());
    };
    let is_here =
        address.is_loopback() || interfaces.iter().any(|interface| interface.address == address);
    if is_here {
        (Some(address), format!("listens on {address}: the published address, of this host"))
    } else {
        (None, format!("listens everywhere: the published address {address} is not of this host"))
    }
}

/// How well an address serves, or why it cannot.
fn rank(interface: &Interface, rules: ChoiceRules) -> std::result::Result<Rank, &'static str> {
    if interface.address.is_ipv6() != rules.use_ipv6 {
        return Err(if rules.use_ipv6 { "IPv6 is asked for" } else { "IPv6 is not asked for" });
    }
    if interface.address.is_unspecified() || interface.address.is_multicast() {
        return Err("not an address of one host");
    }
    if !interface.is_up {
        return Err("down");
    }
    if interface.is_loopback || interface.address.is_loopback() {
        return Ok(Rank::Loopback);
    }
    if !interface.is_running {
        return Err("no carrier");
    }
    if is_link_local(interface.address) {
        return Ok(Rank::LinkLocal);
    }
    if BRIDGE_PREFIXES.iter().any(|prefix| interface.name.starts_with(prefix)) {
        return Ok(Rank::Bridge);
    }
    Ok(Rank::Ordinary)
}

fn chosen_although(rank: Rank) -> &'static str {
    match rank {
        Rank::Ordinary => "",
        Rank::Bridge => ", a container bridge: there is nothing better",
        Rank::LinkLocal => ", link-local: there is nothing better",
        Rank::Loopback => ", loopback: there is nothing better, peers must be on this host",
    }
}

fn passed_over(rank: Rank) -> &'static str {
    match rank {
        Rank::Ordinary => "another comes first",
        Rank::Bridge => "a container bridge",
        Rank::LinkLocal => "link-local",
        Rank::Loopback => "loopback",
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// The list that `getifaddrs` allocated.
struct InterfaceList(*mut libc::ifaddrs);

impl Drop for InterfaceList {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `getifaddrs` and is freed once, here.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

fn read_entry(entry: &libc::ifaddrs) -> Option<Interface> {
    let address = read_address(entry.ifa_addr)?;
    if entry.ifa_name.is_null() {
        return None;
    }
    // SAFETY: the kernel's name is NUL-terminated and lives as long as the entry.
    let name = unsafe { CStr::from_ptr(entry.ifa_name) };
    let has = |flag: libc::c_int| entry.ifa_flags & flag as libc::c_uint != 0;
    Some(Interface {
        name: name.to_string_lossy().into_owned(),
        address,
        is_up: has(libc::IFF_UP),
        is_running: has(libc::IFF_RUNNING),
        is_loopback: has(libc::IFF_LOOPBACK),
    })
}

/// None for addresses that are neither IPv4 nor IPv6, and for interfaces without one.
fn read_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family.
    let family = libc::c_int::from(unsafe { (*address).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that this is an IPv4 socket address.
            let v4 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is an IPv6 socket address.
            let v6 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name address flags`, where the flags are u(p), r(unning) and l(oopback).
    fn interface(text: &str) -> Interface {
        let fields: Vec<&str> = text.split(' ').collect();
        Interface {
            name: fields[0].to_owned(),
            address: fields[1].parse().unwrap(),
            is_up: fields[2].contains('u'),
            is_running: fields[2].contains('r'),
            is_loopback: fields[2].contains('l'),
        }
    }

    const LO: &str = "lo 127.0.0.1 url";
    const LO6: &str = "lo ::1 url";

    #[test]
    fn choices() {
        let cases: &[(&[&str], bool, Option<&str>)] = &[
            (&[LO, "eth0 10.0.0.5 ur", "eth1 10.1.0.5 ur"], false, Some("10.0.0.5")),
            (&[LO, "docker0 172.17.0.1 ur", "eth0 10.0.0.5 ur"], false, Some("10.0.0.5")),
            (&[LO, "docker0 172.17.0.1 ur"], false, Some("172.17.0.1")),
            (&[LO, "br-12ab 172.18.0.1 ur", "br0 10.0.0.5 ur"], false, Some("10.0.0.5")),
            (&["eth1 169.254.3.4 ur", "eth0 10.0.0.5 ur"], false, Some("10.0.0.5")),
            (&[LO, "eth1 169.254.3.4 ur"], false, Some("169.254.3.4")),
            (&["eth1 169.254.3.4 ur", "virbr0 192.168.122.1 ur"], false, Some("192.168.122.1")),
            (&[LO, "eth0 10.0.0.5 u", "eth1 10.1.0.5 r"], false, Some("127.0.0.1")),
            (&[LO, "eth0 fd00::5 ur"], false, Some("127.0.0.1")),
            (&[LO, LO6], false, Some("127.0.0.1")),
            (&[LO, LO6], true, Some("::1")),
            (
                &[LO, LO6, "eth0 10.0.0.5 ur", "eth0 fe80::1 ur", "eth0 fd00::5 ur"],
                true,
                Some("fd00::5"),
            ),
            (&[LO6, "eth0 fe80::1 ur"], true, Some("fe80::1")),
            (&[LO, "eth0 10.0.0.5 ur"], true, None),
            (&["lo 127.0.0.1 l"], false, None),
            (&["eth0 0.0.0.0 ur"], false, None),
            (&[], false, None),
        ];
        for (texts, use_ipv6, expected) in cases {
            let interfaces: Vec<Interface> = texts.iter().map(|text| interface(text)).collect();
            let (address, reasons) = choose(&interfaces, ChoiceRules { use_ipv6: *use_ipv6 });
            assert_eq!(address, expected.map(|a| a.parse().unwrap()), "{texts:?} {reasons:?}");
            let chosen = reasons.iter().filter(|reason| reason.contains("chosen")).count();
            assert_eq!(chosen, usize::from(expected.is_some()), "{reasons:?}");
            assert_eq!(reasons.len(), texts.len() + usize::from(expected.is_none()));
        }
    }

    #[test]
    fn reasons_name_each_address() {
        let texts = [LO, "docker0 172.17.0.1 ur", "eth0 10.0.0.5 ur", "eth1 10.1.0.5 u", LO6];
        let interfaces: Vec<Interface> = texts.iter().map(|text| interface(text)).collect();
        let (_, reasons) = choose(&interfaces, ChoiceRules::default());
        let expected = [
            "lo 127.0.0.1: skipped, loopback",
            "docker0 172.17.0.1: skipped, a container bridge",
            "eth0 10.0.0.5: chosen",
            "eth1 10.1.0.5: skipped, no carrier",
            "lo ::1: skipped, IPv6 is not asked for",
        ];
        assert_eq!(reasons, expected);
        let (_, reasons) = choose(&interfaces[..1], ChoiceRules::default());
        assert!(reasons[0].contains("nothing better"), "{reasons:?}");
    }

    #[test]
    fn listening_follows_the_published_address_of_this_host() {
        let interfaces = [interface(LO), interface("eth0 10.0.0.5 ur")];
        let ip = |text: &str| -> Option<IpAddr> { Some(text.parse().unwrap()) };
        let cases = [
            (None, None, None),
            (ip("0.0.0.0"), ip("10.0.0.5"), ip("0.0.0.0")),
            (None, ip("10.0.0.5"), ip("10.0.0.5")),
            (None, ip("127.0.0.9"), ip("127.0.0.9")),
            (None, ip("203.0.113.9"), None),
        ];
        for (bind, publish, expected) in cases {
            let (address, why) = listen_address(bind, publish, &interfaces);
            assert_eq!(address, expected, "{why}");
        }
    }

    #[test]
    fn this_host_has_a_loopback() {
        // A network namespace of its own may have nothing up; then nothing is claimed.
        let interfaces = enumerate().unwrap();
        for interface in &interfaces {
            assert!(!interface.name.is_empty());
            assert!(!interface.address.is_loopback() || interface.is_loopback, "{interface:?}");
        }
        let (address, reasons) = choose(&interfaces, ChoiceRules::default());
        assert_eq!(address.is_some(), interfaces.iter().any(|i| i.is_up && i.address.is_ipv4()));
        assert!(!reasons.is_empty());
    }
}
