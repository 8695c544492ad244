//! What an engine knows of its host, and the transport that follows from it.
//!
//! The host is looked at when somebody asks: the choice of a transport, where that depends on
//! adapters, the dump, or the caller. Enters from threads of the caller; blocks for some
//! milliseconds the first time. The decision itself is pure.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Engine;
use crate::config::EngineConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::topology::{discover, with_matrix, Request, Topology};

/// The topology of the host, found on first use.
pub(super) struct HostTopology {
    root: PathBuf,
    request: Request,
    found: Mutex<Option<Arc<Topology>>>,
}

impl HostTopology {
    pub(super) fn new(config: &EngineConfig) -> HostTopology {
        HostTopology {
            root: PathBuf::from(&config.sysfs_path),
            request: Request {
                custom: config.custom_topology_path.clone(),
                filters: config.device_filters.clone(),
            },
            found: Mutex::new(None),
        }
    }

    pub(super) fn get(&self) -> Arc<Topology> {
        let mut found = self.found.lock();
        Arc::clone(found.get_or_insert_with(|| self.discover()))
    }

    /// Looks again. A matrix that [`HostTopology::set_matrix`] set is forgotten.
    fn refresh(&self) {
        let fresh = self.discover();
        *self.found.lock() = Some(fresh);
    }

    fn set_matrix(&self, text: &str) -> Result<()> {
        let topology = with_matrix(&self.root, text, &self.request.filters)?;
        *self.found.lock() = Some(Arc::new(topology));
        Ok(())
    }

    fn discover(&self) -> Arc<Topology> {
        let topology = discover(&self.root, &self.request);
        for note in &topology.notes {
            log::info!("topology: {note}");
        }
        Arc::new(topology)
    }
}

impl Engine {
    /// What the host is made of and which adapters are near which memory. The first call looks at
    /// the host, which takes some milliseconds; later ones return the same.
    pub fn topology(&self) -> Arc<Topology> {
        self.0 .0.topology.get()
    }

    /// Looks at the host again, as after a change of its devices. Never fails; what could not be
    /// read is among the notes. Transports that are installed keep what they have.
    pub fn discover_topology(&self) {
        self.0 .0.topology.refresh();
    }

    /// Uses this preference matrix, a JSON object, instead of the host's own. Fails for text that
    /// is none, and then changes nothing.
    pub fn set_preference_matrix(&self, text: &str) -> Result<()> {
        self.0 .0.topology.set_matrix(text)
    }
}

/// Transports that can be built here, in the words of settings.
const AVAILABLE: &[&str] = &["tcp", "loopback"];

/// What a choice of transports depends on.
#[derive(Clone, Copy, Debug, Default)]
struct Wish<'a> {
    protocol: &'a str,
    force_tcp: bool,
    force_rdma: bool,
    auto_discovery: i32,
    has_filters: bool,
}

/// The transports an engine starts with, and why.
pub(super) fn choose_protocols(
    config: &EngineConfig,
    topology: &HostTopology,
) -> Result<(Vec<&'static str>, String)> {
    let wish = Wish {
        protocol: &config.protocol,
        force_tcp: config.force_tcp,
        force_rdma: config.force_rdma,
        auto_discovery: config.auto_discovery,
        has_filters: !config.device_filters.is_empty(),
    };
    let (protocol, why) = choose(wish, || topology.get().adapter_names().len())?;
    let name = protocol.unwrap_or("none");
    Ok((protocol.into_iter().collect(), format!("transport {name}: {why}")))
}

/// The decision. `adapters` counts those that could be used, and is asked only if that matters.
///
/// As upstream does: discovery decides where it is asked for, whatever the protocol, and without a
/// word about it where `rdma` is asked for without naming adapters; it means RDMA where there is an
/// adapter and TCP elsewhere.
fn choose(wish: Wish, adapters: impl FnOnce() -> usize) -> Result<(Option<&'static str>, String)> {
    if wish.force_tcp {
        return Ok((Some("tcp"), "the setting force_tcp".to_owned()));
    }
    let is_open = ["", "tcp", "rdma"].contains(&wish.protocol);
    let discovers = match wish.auto_discovery {
        0 => false,
        1 => is_open,
        _ => wish.protocol == "rdma" && !wish.has_filters,
    };
    if !discovers {
        return match wish.protocol {
            "none" => Ok((None, "the caller installs transports".to_owned())),
            "" => Ok((Some("tcp"), "the default".to_owned())),
            name => Ok((Some(known_protocol(name)?), "the setting protocol".to_owned())),
        };
    }
    let count = adapters();
    if count == 0 && !wish.force_rdma {
        return Ok((Some("tcp"), "no RDMA adapter that could be used was found".to_owned()));
    }
    if wish.protocol == "rdma" {
        return Err(unavailable("rdma").with("adapters_found", count));
    }
    let why = format!(
        "{count} RDMA adapters could be used, but the rdma transport is not part of this build"
    );
    Ok((Some("tcp"), why))
}

/// The name of a transport that can be made here, as the library spells it.
pub(super) fn known_protocol(protocol: &str) -> Result<&'static str> {
    if let Some(known) = AVAILABLE.iter().find(|known| **known == protocol) {
        return Ok(known);
    }
    match protocol {
        "rdma" | "ascend" | "nvlink" | "cxl" | "nvmeof" => Err(unavailable(protocol)),
        _ => Err(Error::new(ErrorKind::UnknownProtocol, "no such transport")
            .with("protocol", protocol.escape_debug())
            .with("available", AVAILABLE.join(","))),
    }
}

fn unavailable(protocol: &str) -> Error {
    let text = "this transport is known, but not part of this build";
    Error::new(ErrorKind::Unsupported, text).with("protocol", protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wish: Wish, adapters: usize) -> std::result::Result<Option<&'static str>, ErrorKind> {
        choose(wish, || adapters).map(|(name, _)| name).map_err(|error| error.kind())
    }

    #[test]
    fn the_protocol_decides_unless_discovery_does() {
        let wish = |protocol, auto_discovery| Wish { protocol, auto_discovery, ..Wish::default() };
        let none = Err(ErrorKind::Unsupported);
        for (wish, adapters, expected) in [
            (wish("", -1), 8, Ok(Some("tcp"))),
            (wish("tcp", -1), 8, Ok(Some("tcp"))),
            (wish("loopback", -1), 8, Ok(Some("loopback"))),
            (wish("loopback", 1), 8, Ok(Some("loopback"))),
            (wish("none", 1), 8, Ok(None)),
            (wish("none", 0), 8, Ok(None)),
            (wish("rdma", -1), 0, Ok(Some("tcp"))),
            (wish("rdma", -1), 8, none),
            (wish("rdma", 0), 0, none),
            (wish("rdma", 1), 0, Ok(Some("tcp"))),
            (wish("rdma", 1), 8, none),
            (wish("", 1), 0, Ok(Some("tcp"))),
            (wish("tcp", 1), 8, Ok(Some("tcp"))),
            (wish("ascend", -1), 0, none),
            (wish("pigeon", -1), 0, Err(ErrorKind::UnknownProtocol)),
            (wish("pigeon", 1), 0, Err(ErrorKind::UnknownProtocol)),
            (Wish { force_tcp: true, ..wish("rdma", 0) }, 8, Ok(Some("tcp"))),
            (Wish { force_tcp: true, ..wish("none", 0) }, 8, Ok(Some("tcp"))),
            (Wish { force_rdma: true, ..wish("rdma", -1) }, 0, none),
            (Wish { has_filters: true, ..wish("rdma", -1) }, 0, none),
        ] {
            assert_eq!(chosen(wish, adapters), expected, "{wish:?}, {adapters} adapters");
        }
    }

    #[test]
    fn the_host_is_not_looked_at_without_need() {
        let never = || -> usize { panic!("the host was looked at") };
        for (protocol, auto_discovery) in [("", -1), ("tcp", 0), ("none", 0), ("loopback", 1)] {
            choose(Wish { protocol, auto_discovery, ..Wish::default() }, never).unwrap();
        }
    }

    #[test]
    fn the_reason_counts_adapters() {
        let wish = Wish { auto_discovery: 1, ..Wish::default() };
        assert!(choose(wish, || 3).unwrap().1.starts_with("3 RDMA adapters could be used"));
    }
}
