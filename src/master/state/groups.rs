//! Groups: objects that their writers want to live and die together.
//!
//! A group is the set of the objects that named it, no more: nobody knows how many are meant to be
//! in it, and an object stays in the group that it was put into. Who looks at one member leases
//! all, and who evicts one member evicts the others with it, as far as they may be evicted. What
//! is removed is removed alone.
//!
//! Owns: the table of groups. Threads: any. Its locks are taken under that of an index shard, and
//! none is taken under them; so the shards of members are visited after they were let go.

use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::shard::Object;
use super::State;
use crate::limits;
use crate::pool::lease::Micros;
use crate::pool::object::{Generation, Key};

/// Tables of names, so that puts into different groups rarely meet.
const TABLES: usize = 64;

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) shard: u32,
    pub(super) slot: u32,
    pub(super) generation: Generation,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Key,
    /// When a reader was last told of a member; 0 for never.
    used: AtomicU64,
    /// Shard and slot by generation.
    members: Mutex<HashMap<Generation, (u32, u32)>>,
}

impl Group {
    /// Whether any member was leased by a reader who still may be at it.
    fn is_leased(&self, now: Micros, lease: Micros) -> bool {
        let used = self.used_at();
        used > 0 && used.saturating_add(lease) > now
    }

    /// The same, by a reader that came after that moment.
    fn is_leased_since(&self, now: Micros, lease: Micros, since: Micros) -> bool {
        self.used_at() >= since && self.is_leased(now, lease)
    }

    /// Notes a use.
    pub(super) fn grant(&self, now: Micros) {
        self.used.fetch_max(now, Ordering::AcqRel);
    }

    /// When a reader was last told of a member.
    pub(super) fn used_at(&self) -> Micros {
        self.used.load(Ordering::Acquire)
    }

    fn members(&self) -> Vec<Member> {
        let members = self.members.lock();
        let member = |(generation, (shard, slot)): (&Generation, &(u32, u32))| Member {
            shard: *shard,
            slot: *slot,
            generation: *generation,
        };
        let mut members: Vec<Member> = members.iter().map(member).collect();
        // In the order of their puts, so that runs of one seed are equal.
        members.sort_unstable_by_key(|member| member.generation);
        members
    }
}

type ByName = Mutex<HashMap<Key, Arc<Group>>>;

/// All groups by name.
#[derive(Debug)]
pub(super) struct Groups(Box<[ByName]>);

impl Default for Groups {
    fn default() -> Groups {
        Groups((0..TABLES).map(|_| Mutex::default()).collect())
    }
}

#[cfg(test)]
impl Groups {
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|table| table.lock().len()).sum()
    }
}

impl State {
    fn groups_of(&self, name: &[u8]) -> &ByName {
        &self.groups.0[self.hash(name) as usize % TABLES]
    }

    /// Adds a new object to the group of that name. `None` without a name, and where the group has
    /// as many members as it may: such an object stands alone.
    pub(super) fn join_group(&self, name: &[u8], member: Member) -> Option<Arc<Group>> {
        if name.is_empty() {
            return None;
        }
        let mut groups = self.groups_of(name).lock();
        let group = match groups.entry(name.to_vec()) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => Arc::clone(entry.insert(Arc::new(Group {
                name: name.to_vec(),
                used: AtomicU64::new(0),
                members: Mutex::default(),
            }))),
        };
        let mut members = group.members.lock();
        if members.len() >= limits::GROUP_MEMBERS_MAX {
            return None;
        }
        members.insert(member.generation, (member.shard, member.slot));
        drop(members);
        Some(group)
    }

    /// An object leaves the index, and its group. The last one takes the group with it.
    pub(super) fn leave_group(&self, object: &Object) {
        let Some(group) = object.group() else { return };
        let mut groups = self.groups_of(&group.name).lock();
        let mut members = group.members.lock();
        members.remove(&object.generation);
        if members.is_empty() {
            groups.remove(&group.name);
        }
    }

    /// Whether a reader may be copying the object, or counts on it for another one of its group.
    /// Those who looked at the group before the object was there did not see it.
    pub(super) fn is_leased(&self, now: Micros, object: &Object) -> bool {
        let (last, lease) = (object.last_use(), self.times.lease);
        last.is_leased(now, lease)
            || object.group().is_some_and(|group| group.is_leased_since(now, lease, last.at))
    }

    /// Whether eviction has to leave the object alone for the sake of its group: a single leased
    /// member saves all.
    pub(super) fn is_saved_by_group(&self, now: Micros, object: &Object) -> bool {
        object.group().is_some_and(|group| group.is_leased(now, self.times.lease))
    }

    /// Evicts what is left of a group from memory, as far as it may be, after one of its members
    /// was. Returns the bytes that this took out of one segment, and when the last of them may be
    /// used again. No shard may be locked.
    pub(super) fn evict_group(
        &self,
        now: Micros,
        group: &Group,
        soft_too: bool,
        segment: u32,
    ) -> (u64, Micros) {
        let (mut bytes, mut until) = (0, now);
        for member in group.members() {
            let mut shard = self.shard(member.shard).write();
            let Some(object) = shard.alive(member.slot, member.generation) else { continue };
            let is_here = object.copy_in(segment).is_some();
            if !is_in_memory(object) || !self.is_evictable(now, object, soft_too) {
                continue;
            }
            let (evicted, reusable) = self.evict_from_memory(now, &mut shard, member.slot);
            if is_here {
                bytes += evicted;
                until = until.max(reusable);
            }
        }
        (bytes, until)
    }
}

fn is_in_memory(object: &Object) -> bool {
    object.copies.iter().any(|copy| copy.segment != super::shard::FILES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group { name: b"g".to_vec(), used: AtomicU64::new(0), members: Mutex::default() }
    }

    #[test]
    fn a_use_leases_those_who_were_there() {
        let group = group();
        assert!(!group.is_leased(10, 100));
        group.grant(1000);
        assert!(group.is_leased(1099, 100) && !group.is_leased(1100, 100));
        assert!(group.is_leased_since(1050, 100, 1000));
        assert!(!group.is_leased_since(1050, 100, 1001));
        // A clock that is read earlier and comes later takes nothing back.
        group.grant(990);
        assert!(group.is_leased(1099, 100));
    }
}
