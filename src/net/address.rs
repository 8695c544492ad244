//! Host names, addresses and connection strings as peers and deployments write them.
//!
//! Everything here is pure except [`resolve`], which asks the system's resolver and may block as
//! long as that one waits for its name servers: it belongs on a thread that may wait.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// A host and the port to reach it at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address without brackets; a scope id (`%eth0`) stays. May be empty.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where the port came from.
    pub port_source: PortSource,
}

/// How a port got into a [`HostPort`]. Everything but `Given` deserves a warning, since the port
/// is then a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSource {
    /// The text has it.
    Given,
    /// The text has none.
    Missing,
    /// The text has something that is not a port.
    Malformed,
}

impl HostPort {
    /// True when the port is the default because the text has no usable one.
    pub fn is_port_assumed(&self) -> bool {
        self.port_source != PortSource::Given
    }
}

/// Reads `host[:port]`: `[v6]:port`, `[v6]`, a bare IPv6 address, else what stands before and after
/// the last colon. Several colons without brackets that do not form an address are a host and a
/// port, as upstream has it.
pub fn parse_host_port(text: &str, port_default: u16) -> Result<HostPort> {
    check_name(text)?;
    let (host, port) = split_host_port(text)?;
    let (port, port_source) = match port {
        None => (port_default, PortSource::Missing),
        Some(digits) => match parse_port(digits) {
            Some(port) => (port, PortSource::Given),
            None => (port_default, PortSource::Malformed),
        },
    };
    Ok(HostPort { host: host.to_owned(), port, port_source })
}

/// `host:port` with brackets where the host is an IPv6 address.
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The address that `host` spells, with or without brackets and scope id; none for a name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let host = without_brackets(host);
    match host.split_once('%') {
        Some((address, _)) => address.parse().ok().filter(IpAddr::is_ipv6),
        None => host.parse().ok(),
    }
}

/// Which addresses a caller can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// All, in the resolver's order.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    fn admits(self, address: &SocketAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Family::Any => "any",
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// Every address of `host` in `family`, at least one, without repetitions. Blocks in the system's
/// resolver unless `host` is an address.
pub fn resolve(host: &str, port: u16, family: Family) -> Result<Vec<SocketAddr>> {
    check_name(host)?;
    let bare = without_brackets(host);
    if bare.is_empty() {
        return Err(Error::new(ErrorKind::InvalidAddress, "host name is empty").with("port", port));
    }
    let place = |error: Error| error.with("host", host).with("family", family.text());
    let found = (bare, port).to_socket_addrs().map_err(|error| {
        place(Error::io(ErrorKind::Unreachable, "host name cannot be resolved", error))
    })?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found.filter(|address| family.admits(address)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        let text = "host has no address of this family";
        return Err(place(Error::new(ErrorKind::Unreachable, text)));
    }
    Ok(addresses)
}

/// A metadata connection string, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataAddress {
    /// No service: peers ask each other.
    P2pHandshake,
    /// The whole string is the base URL, to which a query is appended.
    Http(String),
    /// The endpoints of an etcd cluster, without scheme.
    Etcd(Vec<String>),
    /// The whole `redis://` or `rediss://` URL.
    Redis(String),
    /// A store inside this process, by its name; for tests.
    Memory(String),
}

/// Reads a metadata connection string. A string without a scheme names an etcd cluster.
pub fn parse_metadata(text: &str) -> Result<MetadataAddress> {
    const P2P: &str = "P2PHANDSHAKE";
    // The string may hold a password, so no error repeats it.
    let invalid = |why: &str| Error::new(ErrorKind::InvalidAddress, format!("metadata {why}"));
    if text.len() > limits::CONNECTION_STRING_BYTES_MAX {
        return Err(invalid("connection string is too long").with("bytes", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("connection string contains control characters"));
    }
    let text = text.trim();
    if text == P2P {
        return Ok(MetadataAddress::P2pHandshake);
    }
    if text.is_empty() || text.eq_ignore_ascii_case(P2P) {
        return Err(invalid("connection string is none; it may be P2PHANDSHAKE, in capitals"));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("etcd", text));
    let is_empty = rest.trim_matches('/').is_empty();
    match scheme.to_ascii_lowercase().as_str() {
        "etcd" => parse_endpoints(rest).map(MetadataAddress::Etcd),
        "memory" => Ok(MetadataAddress::Memory(rest.to_owned())),
        "http" | "https" | "redis" | "rediss" if is_empty => {
            Err(invalid("connection string names no host").with("scheme", scheme))
        }
        "http" | "https" => Ok(MetadataAddress::Http(text.to_owned())),
        "redis" | "rediss" => Ok(MetadataAddress::Redis(text.to_owned())),
        _ => {
            let scheme: String = scheme.chars().take(limits::CONFIG_KEY_CHARS_SHOWN).collect();
            Err(Error::new(ErrorKind::UnknownProtocol, "no such metadata service")
                .with("scheme", scheme))
        }
    }
}

fn parse_endpoints(list: &str) -> Result<Vec<String>> {
    let endpoints: Vec<String> = list
        .split([';', ','])
        .map(|endpoint| endpoint.trim().trim_end_matches('/'))
        .filter(|endpoint| !endpoint.is_empty())
        .take(limits::METADATA_ENDPOINTS_MAX + 1)
        .map(str::to_owned)
        .collect();
    let problem = if endpoints.is_empty() {
        "metadata connection string names no host"
    } else if endpoints.len() > limits::METADATA_ENDPOINTS_MAX {
        "metadata connection string names too many hosts"
    } else {
        return Ok(endpoints);
    };
    Err(Error::new(ErrorKind::InvalidAddress, problem).with("scheme", "etcd"))
}

/// The host and, where the text has a colon for it, what stands in place of the port.
fn split_host_port(text: &str) -> Result<(&str, Option<&str>)> {
    let invalid = |why: &str| Error::new(ErrorKind::InvalidAddress, why).with("address", text);
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) =
            inner.split_once(']').ok_or_else(|| invalid("address has no closing bracket"))?;
        if !is_ipv6(host) {
            return Err(invalid("address in brackets is not IPv6"));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(invalid("address goes on after its closing bracket")),
        };
    }
    if is_ipv6(text) {
        return Ok((text, None));
    }
    Ok(match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

/// True for an IPv6 address, with a scope id or without.
fn is_ipv6(text: &str) -> bool {
    literal(text).is_some_and(|address| address.is_ipv6()) && !text.ends_with('%')
}

/// A port that can be connected to: decimal digits only, not 0.
fn parse_port(digits: &str) -> Option<u16> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|port| *port != 0)
}

/// The host as it stands in documents: without the brackets that a URL needs around IPv6.
pub fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
}

fn check_name(text: &str) -> Result<()> {
    if text.len() > limits::NAME_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidAddress, "host name is too long")
            .with("bytes", text.len()));
    }
    if text.chars().any(char::is_control) {
        let text = "host name contains control characters";
        return Err(Error::new(ErrorKind::InvalidAddress, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use PortSource::{Given, Malformed, Missing};

    #[test]
    fn hosts_with_and_without_ports() {
        let cases = [
            ("node1", "node1", 12_001, Missing),
            ("node1:15000", "node1", 15_000, Given),
            ("10.0.0.1:80", "10.0.0.1", 80, Given),
            ("10.0.0.1", "10.0.0.1", 12_001, Missing),
            ("[::1]:5555", "::1", 5555, Given),
            ("[::1]", "::1", 12_001, Missing),
            ("[::1]:", "::1", 12_001, Malformed),
            ("::1", "::1", 12_001, Missing),
            ("fd00::2:1234", "fd00::2:1234", 12_001, Missing),
            // Five digits are no group of an address, so this can only be a port.
            ("fd00::2:12345", "fd00::2", 12_345, Given),
            ("fe80::1%eth0", "fe80::1%eth0", 12_001, Missing),
            ("[fe80::1%eth0]:7", "fe80::1%eth0", 7, Given),
            ("::1:99999", "::1", 12_001, Malformed),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", 12_001, Missing),
            ("host:", "host", 12_001, Malformed),
            ("host:http", "host", 12_001, Malformed),
            ("host:+80", "host", 12_001, Malformed),
            ("host:0", "host", 12_001, Malformed),
            ("host:65536", "host", 12_001, Malformed),
            ("host:-1", "host", 12_001, Malformed),
            ("a:b:80", "a:b", 80, Given),
            ("", "", 12_001, Missing),
            (":80", "", 80, Given),
        ];
        for (text, host, port, port_source) in cases {
            let parsed = parse_host_port(text, 12_001).unwrap();
            let expected = HostPort { host: host.to_owned(), port, port_source };
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.is_port_assumed(), port_source != Given);
        }
    }

    #[test]
    fn malformed_hosts() {
        let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
        let cases = ["[::1", "[::1]80", "[::1]x:80", "[host]:80", "[]:80", "[::1%]", "a\0b", &long];
        for text in cases {
            let error = parse_host_port(text, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidAddress, "{text:?}");
        }
    }

    #[test]
    fn join_and_parse_are_inverse() {
        for (host, joined) in [
            ("node1", "node1:9"),
            ("10.0.0.1", "10.0.0.1:9"),
            ("::1", "[::1]:9"),
            ("fe80::1%eth0", "[fe80::1%eth0]:9"),
        ] {
            assert_eq!(join_host_port(host, 9), joined);
            assert_eq!(parse_host_port(joined, 1).unwrap().host, host);
        }
        assert_eq!(join_host_port("[::1]", 9), "[::1]:9");
    }

    #[test]
    fn literals() {
        let v6 = Some("fe80::1".parse().unwrap());
        assert_eq!(literal("127.0.0.1"), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(literal("[fe80::1]"), v6);
        assert_eq!(literal("fe80::1%eth0"), v6);
        for text in ["node1", "", "127.0.0.1%lo", "127.0.0.1:80", "[127.0.0.1"] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn resolving_literals_and_refusals() {
        let v4: SocketAddr = "127.0.0.1:5".parse().unwrap();
        let v6: SocketAddr = "[::1]:5".parse().unwrap();
        assert_eq!(resolve("127.0.0.1", 5, Family::Any).unwrap(), [v4]);
        assert_eq!(resolve("127.0.0.1", 5, Family::V4).unwrap(), [v4]);
        assert_eq!(resolve("[::1]", 5, Family::V6).unwrap(), [v6]);
        assert_eq!(resolve("::1", 5, Family::Any).unwrap(), [v6]);
        let cases = [
            ("127.0.0.1", Family::V6, ErrorKind::Unreachable),
            ("::1", Family::V4, ErrorKind::Unreachable),
            ("", Family::Any, ErrorKind::InvalidAddress),
            ("a\nb", Family::Any, ErrorKind::InvalidAddress),
        ];
        for (host, family, kind) in cases {
            assert_eq!(resolve(host, 5, family).unwrap_err().kind(), kind, "{host}");
        }
    }

    #[test]
    fn metadata_strings() {
        let etcd = |list: &[&str]| {
            MetadataAddress::Etcd(list.iter().map(|endpoint| endpoint.to_string()).collect())
        };
        let url = "http://h:8080/metadata";
        let cases = [
            ("P2PHANDSHAKE", MetadataAddress::P2pHandshake),
            (url, MetadataAddress::Http(url.to_owned())),
            ("https://h", MetadataAddress::Http("https://h".to_owned())),
            ("etcd://a:2379", etcd(&["a:2379"])),
            ("a:2379", etcd(&["a:2379"])),
            ("etcd://a:2379; b:2379,[::1]:2379;", etcd(&["a:2379", "b:2379", "[::1]:2379"])),
            ("redis://h:6379", MetadataAddress::Redis("redis://h:6379".to_owned())),
            ("memory://one", MetadataAddress::Memory("one".to_owned())),
            ("memory://", MetadataAddress::Memory(String::new())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_metadata(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn malformed_metadata_strings() {
        use ErrorKind::{InvalidAddress, UnknownProtocol};
        let long = "a".repeat(limits::CONNECTION_STRING_BYTES_MAX + 1);
        let many = "a:1;".repeat(limits::METADATA_ENDPOINTS_MAX + 1);
        let cases = [
            ("", InvalidAddress),
            ("p2phandshake", InvalidAddress),
            ("http://", InvalidAddress),
            ("redis:///", InvalidAddress),
            ("etcd://", InvalidAddress),
            (" ; ,", InvalidAddress),
            ("a\0b", InvalidAddress),
            (&long, InvalidAddress),
            (&many, InvalidAddress),
            ("foo://x", UnknownProtocol),
            ("://x", UnknownProtocol),
        ];
        for (text, kind) in cases {
            assert_eq!(parse_metadata(text).unwrap_err().kind(), kind, "{text}");
        }
        let error = parse_metadata("foo://me:secret@x").unwrap_err();
        assert_eq!(error.context("scheme"), Some("foo"));
        assert!(!error.to_string().contains("secret"));
    }
}
