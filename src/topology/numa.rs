//! NUMA nodes.

use serde_json::{json, Value};

use super::cpulist::CpuList;
use super::sysfs::Sysfs;
use crate::limits;

const FOLDER: &str = "devices/system/node";

/// One node: processors, memory, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number; numbers need not be without gaps.
    pub number: u32,
    /// Its processors; none on a node that is only memory. `None` where they cannot be read.
    pub cpus: Option<CpuList>,
    /// Distances to all nodes, in the order of their numbers, 10 for itself; empty if unknown.
    pub distances: Vec<u32>,
}

impl Node {
    /// The name of its memory as a location.
    pub fn location(&self) -> String {
        format!("cpu:{}", self.number)
    }

    pub(super) fn dump(&self) -> Value {
        json!({
            "location": self.location(),
            "cpus": self.cpus.as_ref().map(CpuList::to_string),
            "cpu_count": self.cpus.as_ref().map(CpuList::count),
            "distances": self.distances,
        })
    }
}

/// What a `numa_node` file says; -1 is "not known", and nothing has a node beyond the kernel's own
/// limit.
pub(super) fn node_number(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number < limits::NUMA_NODES_MAX)
}

/// The nodes in the order of their numbers.
pub(super) fn read(sysfs: &Sysfs, notes: &mut Vec<String>) -> Vec<Node> {
    let names = sysfs.list(FOLDER, limits::SYSFS_ENTRIES_MAX).names;
    let numbers = names.iter().filter_map(|name| {
        let number: i64 = name.strip_prefix("node")?.parse().ok()?;
        // Its files are looked for under the same name.
        Some(number).filter(|number| *number >= 0 && format!("node{number}") == *name)
    });
    let mut nodes = Vec::new();
    for number in numbers {
        let Some(number) = node_number(number) else {
            notes.push(format!("node{number} is left out: no kernel has so many nodes"));
            continue;
        };
        let file = |name: &str| sysfs.text(&format!("{FOLDER}/node{number}/{name}"));
        let cpus = file("cpulist").and_then(|text| CpuList::parse(&text));
        if cpus.is_none() {
            notes.push(format!("node{number}: its processors cannot be read"));
        }
        let distances = file("distance").unwrap_or_default();
        let distances = distances.split_whitespace().map(|word| word.parse().ok()).collect();
        let distances: Option<Vec<u32>> = distances;
        nodes.push(Node { number, cpus, distances: distances.unwrap_or_default() });
    }
    nodes.sort_by_key(|node| node.number);
    nodes.dedup_by_key(|node| node.number);
    if nodes.is_empty() {
        notes.push("the kernel shows no NUMA nodes: all memory is taken for cpu:0".to_owned());
        let cpus = sysfs.text("devices/system/cpu/online").and_then(|text| CpuList::parse(&text));
        nodes.push(Node { number: 0, cpus, distances: Vec::new() });
    }
    nodes
}
