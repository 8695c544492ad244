//! Registered buffers as an interval map. Buffers never overlap, so a range has one owner.
//!
//! Look-ups share a read lock; registering takes the write lock for the time of a map insert.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::{Access, Region};
use crate::transport::{Operation, RegionKeys, RegionTable};

/// A registered buffer with what each transport made of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The range.
    pub region: Arc<Region>,
    /// Keys, one element per installed transport, in their order.
    pub keys: Vec<RegionKeys>,
    /// How often exactly this range was registered.
    pub count: u32,
}

/// What registering a range would mean.
#[derive(Debug)]
pub(super) enum Placement {
    /// The range is free.
    New,
    /// Exactly this range is registered already, with the same access and location.
    Repeat,
}

/// The map.
#[derive(Default)]
pub(super) struct Registry {
    entries: RwLock<BTreeMap<usize, Entry>>,
}

impl Registry {
    /// Checks a range against the registered ones.
    pub(super) fn place(
        &self,
        address: usize,
        length: usize,
        location: &str,
        access: Access,
    ) -> Result<Placement> {
        let entries = self.entries.read();
        if let Some(entry) = entries.get(&address) {
            if entry.region.length() == length {
                if entry.region.access() == access && entry.region.location() == location {
                    return Ok(Placement::Repeat);
                }
                return Err(overlap(
                    "the buffer is registered already with another access or location",
                    address,
                    length,
                    &entry.region,
                ));
            }
        }
        let end = address.saturating_add(length);
        if let Some((_, entry)) = entries.range(..end).next_back() {
            if entry.region.end() > address {
                return Err(overlap(
                    "the range overlaps a registered buffer",
                    address,
                    length,
                    &entry.region,
                ));
            }
        }
        if entries.len() >= limits::BUFFERS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, "too many registered buffers")
                .with("limit", limits::BUFFERS_MAX));
        }
        Ok(Placement::New)
    }

    /// Counts one more registration of the range that starts at `address`.
    pub(super) fn repeat(&self, address: usize) {
        if let Some(entry) = self.entries.write().get_mut(&address) {
            entry.count = entry.count.saturating_add(1);
        }
    }

    /// Adds a range that [`Registry::place`] found to be new.
    pub(super) fn insert(&self, region: Arc<Region>, keys: Vec<RegionKeys>) {
        self.entries.write().insert(region.address(), Entry { region, keys, count: 1 });
    }

    /// Adds the keys of a transport that was installed later.
    pub(super) fn add_keys(&self, address: usize, keys: RegionKeys) {
        if let Some(entry) = self.entries.write().get_mut(&address) {
            entry.keys.push(keys);
        }
    }

    /// Replaces a buffer by the same range with other keys, without a moment in which it is absent;
    /// returns the one before, which is not closed yet.
    pub(super) fn replace(
        &self,
        region: Arc<Region>,
        keys: Vec<RegionKeys>,
    ) -> Option<Arc<Region>> {
        let mut entries = self.entries.write();
        let entry = entries.get_mut(&region.address())?;
        entry.keys = keys;
        Some(std::mem::replace(&mut entry.region, region))
    }

    /// The buffer that starts at `address`.
    pub(super) fn at(&self, address: usize) -> Option<Arc<Region>> {
        self.entries.read().get(&address).map(|entry| Arc::clone(&entry.region))
    }

    /// Number of registrations of the buffer that starts at `address`.
    pub(super) fn count(&self, address: usize) -> Option<u32> {
        self.entries.read().get(&address).map(|entry| entry.count)
    }

    /// Takes back one registration; returns the region when it was the last one. The region is out
    /// of the map then, but not closed yet.
    pub(super) fn release(&self, address: usize) -> Option<Arc<Region>> {
        let mut entries = self.entries.write();
        let entry = entries.get_mut(&address)?;
        if entry.count > 1 {
            entry.count -= 1;
            return None;
        }
        entries.remove(&address).map(|entry| entry.region)
    }

    /// The region that contains the whole local range.
    pub(super) fn find(&self, address: u64, length: u64) -> Result<Arc<Region>> {
        let entries = self.entries.read();
        let region = nearest(&entries, address);
        match region {
            Some(region) if region.contains(address, length) => Ok(Arc::clone(region)),
            _ => {
                let mut error =
                    Error::new(ErrorKind::NotRegistered, "the local range is not registered")
                        .with("address", format_args!("{address:#x}"))
                        .with("length_bytes", length);
                if let Some(region) = region {
                    error = error.with("nearest_buffer", describe(region));
                }
                Err(error)
            }
        }
    }

    /// True if one region contains the whole local range.
    pub(super) fn covers(&self, address: usize, length: usize) -> bool {
        let entries = self.entries.read();
        let region = nearest(&entries, address as u64);
        region.is_some_and(|region| region.contains(address as u64, length as u64))
    }

    /// All entries in address order.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.read().values().cloned().collect()
    }

    /// Empties the map; the regions still have to be closed.
    pub(super) fn take_all(&self) -> Vec<Arc<Region>> {
        std::mem::take(&mut *self.entries.write()).into_values().map(|e| e.region).collect()
    }
}

impl RegionTable for Registry {
    fn find_remote(
        &self,
        address: u64,
        length: u64,
        operation: Operation,
        key: Option<u64>,
    ) -> Result<Arc<Region>> {
        let refuse = |why: &'static str| {
            Error::new(ErrorKind::RemoteRange, why)
                .with("operation", operation.name())
                .with("address", format_args!("{address:#x}"))
                .with("length_bytes", length)
        };
        let entries = self.entries.read();
        let region = nearest(&entries, address)
            .filter(|region| region.contains(address, length))
            .ok_or_else(|| refuse("the range is not inside a registered buffer"))?;
        if key.is_some_and(|key| key != region.key()) {
            return Err(refuse("the key belongs to an earlier registration"));
        }
        let wanted = operation.remote_access();
        if !region.access().allows(wanted) {
            return Err(refuse("the buffer is not registered for this access"));
        }
        Ok(Arc::clone(region))
    }
}

fn nearest(entries: &BTreeMap<usize, Entry>, address: u64) -> Option<&Arc<Region>> {
    let address = usize::try_from(address).ok()?;
    entries.range(..=address).next_back().map(|(_, entry)| &entry.region)
}

fn describe(region: &Region) -> String {
    format!("{:#x}+{}", region.address(), region.length())
}

fn overlap(why: &'static str, address: usize, length: usize, other: &Region) -> Error {
    Error::new(ErrorKind::Overlap, why)
        .with("address", format_args!("{address:#x}"))
        .with("length_bytes", length)
        .with("registered_buffer", describe(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(registry: &Registry, address: usize, length: usize, access: Access) -> Arc<Region> {
        let region = Arc::new(Region::new(address, length, "*", access, 7).unwrap());
        registry.insert(Arc::clone(&region), Vec::new());
        region
    }

    #[test]
    fn overlap_is_told_from_repeat() {
        let registry = Registry::default();
        add(&registry, 0x1000, 0x1000, Access::ALL);
        let place = |address, length| registry.place(address, length, "*", Access::ALL);
        assert!(matches!(place(0x1000, 0x1000), Ok(Placement::Repeat)));
        assert!(matches!(place(0x2000, 0x1000), Ok(Placement::New)));
        assert!(matches!(place(0x800, 0x800), Ok(Placement::New)));
        for (address, length) in
            [(0x1000, 0x800), (0x1800, 0x10), (0x800, 0x801), (0x800, 0x4000), (0x1fff, 1)]
        {
            assert_eq!(place(address, length).unwrap_err().kind(), ErrorKind::Overlap);
        }
        assert_eq!(
            registry.place(0x1000, 0x1000, "*", Access::LOCAL).unwrap_err().kind(),
            ErrorKind::Overlap
        );
    }

    #[test]
    fn peers_reach_only_what_is_granted() {
        let registry = Registry::default();
        add(&registry, 0x1000, 0x1000, Access::REMOTE_READ);
        add(&registry, 0x2000, 0x1000, Access::ALL);
        let find = |address, length, operation, key| {
            registry.find_remote(address, length, operation, key).map(|_| ())
        };
        assert!(find(0x1000, 0x1000, Operation::Read, None).is_ok());
        assert!(find(0x1000, 0x1000, Operation::Read, Some(7)).is_ok());
        for refused in [
            find(0x1000, 0x1000, Operation::Write, None),
            find(0x1000, 0x1000, Operation::Read, Some(8)),
            find(0x1fff, 2, Operation::Read, None),
            find(0xfff, 2, Operation::Read, None),
            find(0x3000, 1, Operation::Read, None),
            find(u64::MAX, 2, Operation::Read, None),
            find(0x2000, u64::MAX, Operation::Read, None),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::RemoteRange);
        }
    }

    #[test]
    fn a_renewed_buffer_is_reached_by_its_new_key_only() {
        let registry = Registry::default();
        let before = add(&registry, 0x1000, 0x1000, Access::ALL);
        let after = Arc::new(Region::new(0x1000, 0x1000, "*", Access::ALL, 8).unwrap());
        let old = registry.replace(Arc::clone(&after), Vec::new()).unwrap();
        assert!(Arc::ptr_eq(&old, &before));
        let find = |key| registry.find_remote(0x1000, 8, Operation::Write, Some(key));
        assert_eq!(find(7).unwrap_err().kind(), ErrorKind::RemoteRange);
        assert!(Arc::ptr_eq(&find(8).unwrap(), &after));
        assert!(Arc::ptr_eq(&registry.at(0x1000).unwrap(), &after));
        let elsewhere = Arc::new(Region::new(0x3000, 0x1000, "*", Access::ALL, 9).unwrap());
        assert!(registry.replace(elsewhere, Vec::new()).is_none());
    }

    #[test]
    fn counts_repeats() {
        let registry = Registry::default();
        add(&registry, 0x1000, 0x1000, Access::ALL);
        registry.repeat(0x1000);
        assert!(registry.release(0x1000).is_none());
        assert!(registry.release(0x1000).is_some());
        assert!(registry.release(0x1000).is_none());
        assert!(registry.count(0x1000).is_none());
    }
}
