//! What this host is made of and what is near what: NUMA nodes, RDMA adapters, network interfaces
//! and accelerators, read from sysfs, and the matrix of preferred adapters that follows.
//!
//! Owns nothing and keeps nothing open. Any thread may enter; a discovery reads some hundred small
//! files and may block for as long as the kernel takes to answer them, so it is made when somebody
//! asks, not on a data thread. It opens no device and no socket, and reads below the given root
//! only: everything in here can be tried on a tree that was captured on another host. What cannot
//! be read is a note, never a failure.

mod accelerator;
mod adapter;
mod cpulist;
mod custom;
mod filter;
mod host;
mod interface;
mod matrix;
mod numa;
mod pci;
mod sysfs;

use std::path::Path;

use serde_json::{json, Value};

pub use accelerator::Accelerator;
pub use adapter::{Adapter, Port};
pub use cpulist::CpuList;
pub use host::Host;
pub use interface::NetInterface;
pub use matrix::{Matrix, Preference};
pub use numa::Node;
pub use pci::PciAddress;

use crate::error::Result;
use crate::limits;

/// Where the kernel shows its devices.
pub const SYSFS_ROOT: &str = "/sys";

/// What is wanted of a discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A matrix to use instead of the one that follows from the host: the path of a file, or the
    /// JSON object itself.
    pub custom: Option<String>,
    /// The adapters that may be used, by name; empty is all.
    pub filters: Vec<String>,
}

/// Where the matrix came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It follows from the host.
    Host,
    /// The named file.
    File(String),
    /// The caller gave it as text.
    Text,
}

/// The result of a discovery.
#[derive(Clone, Debug)]
pub struct Topology {
    /// What was found.
    pub host: Host,
    /// Which adapters are near which memory.
    pub matrix: Matrix,
    /// Where the matrix came from.
    pub origin: Origin,
    /// The filters that were applied to the host's adapters.
    pub filters: Vec<String>,
    /// What was left out or could not be read, and why; sentences without a full stop.
    pub notes: Vec<String>,
}

/// Looks at the host below `root`, which is [`SYSFS_ROOT`] except in tests. Never fails: what is
/// missing is missing in the result too. Blocks for some milliseconds.
pub fn discover(root: &Path, request: &Request) -> Topology {
    let (host, mut notes) = host::read(root);
    let filters = filter::clean(&request.filters);
    notes.extend(filter::notes(&host.adapters, &filters));
    let (matrix, origin) = match request.custom.as_deref().map(custom::load) {
        Some(Ok((matrix, origin))) => {
            notes.extend(matrix.strangers(&host.adapters));
            (matrix, origin)
        }
        Some(Err(error)) => {
            // First, because the caller asked for it.
            notes.insert(0, format!("the custom matrix is not used: {error}"));
            (Matrix::of_host(&host, &filters), Origin::Host)
        }
        None => (Matrix::of_host(&host, &filters), Origin::Host),
    };
    shorten(&mut notes);
    Topology { host, matrix, origin, filters, notes }
}

/// Every device can be worth a note, and a reader has patience for some.
fn shorten(notes: &mut Vec<String>) {
    if notes.len() > limits::TOPOLOGY_NOTES_MAX {
        let more = notes.len() - limits::TOPOLOGY_NOTES_MAX;
        notes.truncate(limits::TOPOLOGY_NOTES_MAX);
        notes.push(format!("{more} further notes are left out"));
    }
}

/// As [`discover`], with a matrix that the caller has as text already.
pub fn with_matrix(root: &Path, text: &str, filters: &[String]) -> Result<Topology> {
    let matrix = custom::parse(text)?;
    let request = Request { custom: None, filters: filters.to_vec() };
    let mut topology = discover(root, &request);
    topology.notes.extend(matrix.strangers(&topology.host.adapters));
    shorten(&mut topology.notes);
    topology.matrix = matrix;
    topology.origin = Origin::Text;
    Ok(topology)
}

impl Topology {
    /// The adapters that the matrix names, in the order of its locations, preferred ones first.
    /// Each is named once. This is the order in which an RDMA transport publishes its devices.
    pub fn adapter_names(&self) -> Vec<&str> {
        self.matrix.adapter_names()
    }

    /// Everything found and chosen, and why, for the dump of an engine.
    pub fn dump(&self) -> Value {
        let origin = match &self.origin {
            Origin::Host => "host".to_owned(),
            Origin::File(path) => format!("file {path}"),
            Origin::Text => "text".to_owned(),
        };
        json!({
            "origin": origin,
            "matrix": self.matrix.to_json(),
            "filters": self.filters,
            "nodes": self.host.nodes.iter().map(Node::dump).collect::<Vec<_>>(),
            "adapters": self
                .host
                .adapters
                .iter()
                .map(|adapter| adapter.dump(filter::verdict(adapter, &self.filters)))
                .collect::<Vec<_>>(),
            "interfaces": self.host.interfaces.iter().map(NetInterface::dump).collect::<Vec<_>>(),
            "accelerators": self
                .host
                .accelerators
                .iter()
                .map(|accelerator| self.host.dump_accelerator(accelerator))
                .collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
