//! Which NUMA node memory is on. Asks the kernel where pages are, and moves none.

use std::collections::BTreeMap;

use crate::limits;

/// The node that holds most of the range's pages, judged by up to
/// [`limits::NODE_PROBES_MAX`] of them, the first and the last among them. `None` where no page was
/// touched yet, and where the kernel does not say: device memory, a sandbox that forbids the call.
/// One system call; does not touch the memory.
pub fn node_of(address: usize, length: usize) -> Option<u32> {
    let page = rustix::param::page_size();
    let first = address & !(page - 1);
    let last = address.checked_add(length.checked_sub(1)?)? & !(page - 1);
    let pages = (last - first) / page + 1;
    let probes = pages.min(limits::NODE_PROBES_MAX);
    let mut places: Vec<*mut libc::c_void> = Vec::with_capacity(probes);
    for probe in 0..probes {
        // The ends are probes 0 and `probes - 1`; with one probe there is one page.
        let index = (pages - 1) as u128 * probe as u128 / (probes as u128 - 1).max(1);
        places.push((first + index as usize * page) as *mut libc::c_void);
    }
    let mut nodes: Vec<libc::c_int> = vec![-1; probes];
    // SAFETY: both arrays have `probes` entries and live across the call. Without target nodes the
    // call only reports where the pages of this process (0) are; the addresses are not read through
    // and may be anything.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            probes as libc::c_ulong,
            places.as_ptr(),
            std::ptr::null::<libc::c_int>(),
            nodes.as_mut_ptr(),
            0,
        )
    };
    if result != 0 {
        return None;
    }
    most_common(&nodes)
}

/// The most common of those that are no error numbers, the lowest of equals.
fn most_common(nodes: &[i32]) -> Option<u32> {
    let mut counts = BTreeMap::new();
    for node in nodes.iter().filter_map(|node| u32::try_from(*node).ok()) {
        *counts.entry(node).or_insert(0u32) += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_count_and_the_majority_wins() {
        assert_eq!(most_common(&[]), None);
        assert_eq!(most_common(&[-2, -14, -2]), None);
        assert_eq!(most_common(&[-2, 3, -2, -2]), Some(3));
        assert_eq!(most_common(&[1, 0, 1]), Some(1));
        assert_eq!(most_common(&[1, 0, 1, 0]), Some(0));
    }

    #[test]
    fn touched_memory_is_on_a_node_of_this_host() {
        let nodes = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let bytes = vec![1u8; 3 << 20];
        let address = bytes.as_ptr() as usize;
        // A kernel without nodes, or a sandbox, may not answer; if it does, it names a real node.
        let Some(node) = node_of(address, bytes.len()) else {
            crate::test_skip::skipped("the kernel does not say where pages are");
            return;
        };
        let online = nodes("/sys/devices/system/node/online");
        let is_known =
            std::path::Path::new(&format!("/sys/devices/system/node/node{node}")).exists();
        assert!(is_known || online.is_empty(), "node {node} of {online}");
        assert_eq!(node_of(address, 1), Some(node));
    }

    #[test]
    fn what_is_no_memory_has_no_node() {
        assert_eq!(node_of(4096, 4096), None);
        assert_eq!(node_of(4096, 0), None);
        assert_eq!(node_of(usize::MAX - 10, 100), None);
        assert_eq!(node_of(usize::MAX - 10, 5), None);
        assert_eq!(node_of(0, usize::MAX), None);
    }
}
