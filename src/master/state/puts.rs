//! Puts: ranges for new objects, their end, and their end without success.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Instant;

use smallvec::SmallVec;

use super::evict::Relief;
use super::groups::Member;
use super::reads::is_visible;
use super::removal::End;
use super::segments::{Choices, Table};
use super::shard::{Copy, Extra, Object, Shard, Start};
use super::{counters, Operation, State, Step, Waiting};
use crate::limits;
use crate::master::journal::record::{KeptPin, Record};
use crate::pool::identity::ClientId;
use crate::pool::lease::{LastUse, Micros, Pin};
use crate::pool::object::{Generation, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::placement;
use crate::pool::replica::ReplicaKind;
use crate::pool::segment::SegmentEvent;
use crate::rpc::message::{Granted, Reply};

/// Rounds of eviction and retry within one call.
const RELIEFS: usize = 3;
/// Choices of a segment for one copy; another thread may take the room first.
const CHOICES: usize = 4;

/// A put, some of whose items wait for room.
#[derive(Debug)]
pub struct WaitingPut {
    pub(super) until: Instant,
    owner: Option<ClientId>,
    options: PutOptions,
    items: Vec<PutItem>,
    /// Answers so far; `None` where an item waits.
    outcomes: Vec<Option<Outcome<Granted>>>,
    single: bool,
    /// What was evicted for it is free at that time; before it nothing more is evicted.
    relieved_at: Micros,
}

/// Why one item is not granted.
enum Denied {
    Refused(Refusal),
    NoRoom,
}

impl From<Refusal> for Denied {
    fn from(why: Refusal) -> Denied {
        Denied::Refused(why)
    }
}

/// Bytes of an object whose put is allowed.
fn checked_size(item: &PutItem) -> Outcome<u64> {
    let key_is_sound = !item.key.is_empty() && item.key.len() <= limits::KEY_BYTES_MAX;
    let count_is_sound = !item.slices.is_empty() && item.slices.len() <= limits::OBJECT_SLICES_MAX;
    let group_is_sound = item.group.len() <= limits::KEY_BYTES_MAX;
    if !key_is_sound || !group_is_sound || !count_is_sound || item.slices.contains(&0) {
        return Err(Refusal::INVALID_PARAMS);
    }
    let sum = item.slices.iter().try_fold(0_u64, |sum, slice| sum.checked_add(*slice));
    sum.filter(|sum| *sum <= limits::REQUEST_BYTES_MAX).ok_or(Refusal::INVALID_PARAMS)
}

impl State {
    pub(super) fn put_start(
        &self,
        now: Micros,
        owner: Option<ClientId>,
        items: Vec<PutItem>,
        options: PutOptions,
        single: bool,
    ) -> Step {
        for item in &items {
            self.counters.value_size(item.slices.iter().fold(0, |sum, s| sum.saturating_add(*s)));
        }
        self.resume_put(
            now,
            WaitingPut {
                until: self.instant(now.saturating_add(self.times.room_wait)),
                owner,
                options,
                outcomes: vec![None; items.len()],
                items,
                single,
                relieved_at: 0,
            },
        )
    }

    pub(super) fn resume_put(&self, now: Micros, mut put: WaitingPut) -> Step {
        let fresh = put.relieved_at == 0;
        let mut waits = false;
        for index in 0..put.items.len() {
            if put.outcomes[index].is_some() {
                continue;
            }
            match self.put_item(now, &mut put, index) {
                Ok(granted) => put.outcomes[index] = Some(Ok(granted)),
                Err(Denied::Refused(why)) => put.outcomes[index] = Some(Err(why)),
                Err(Denied::NoRoom) => waits = true,
            }
        }
        if waits && now < self.micros(put.until) {
            if fresh {
                counters::add(&self.counters.waited_puts, 1);
            }
            put.relieved_at = put.relieved_at.max(1);
            return Step::Later(Waiting::Room(Box::new(put)));
        }
        Step::Reply(self.give_up_put(put))
    }

    pub(super) fn give_up_put(&self, put: WaitingPut) -> Reply {
        let no_room = Err(Refusal::NO_AVAILABLE_HANDLE);
        let mut outcomes: Vec<Outcome<Granted>> =
            put.outcomes.into_iter().map(|outcome| outcome.unwrap_or(no_room.clone())).collect();
        let (operation, reply) = match outcomes.pop() {
            Some(only) if put.single => (Operation::PutStart, Reply::Granted(only)),
            last => {
                outcomes.extend(last);
                (Operation::BatchPutStart, Reply::BatchGranted(outcomes))
            }
        };
        self.counted(Some(operation), reply)
    }

    fn put_item(&self, now: Micros, put: &mut WaitingPut, index: usize) -> Result<Granted, Denied> {
        let item = &put.items[index];
        let size = checked_size(item)?;
        if put.options.replica_num == 0 {
            return Err(Refusal::INVALID_PARAMS.into());
        }
        let soft_ttl = put.options.soft_pin_ttl_ms.map(|ms| ms.saturating_mul(1000));
        if soft_ttl.is_some_and(|ttl| ttl > self.times.soft_pin_max) {
            return Err(Refusal::INVALID_PARAMS.into());
        }
        for _ in 0..RELIEFS {
            match self.try_put(now, put.owner, &put.items[index], size, &put.options) {
                Err(Denied::NoRoom) => {}
                Ok((granted, segment)) => {
                    if put.options.same_node && put.options.preferred_segments.is_empty() {
                        put.options.preferred_segments.extend(segment);
                    }
                    return Ok(granted);
                }
                denied => return denied.map(|(granted, _)| granted),
            }
            if put.relieved_at > now {
                return Err(Denied::NoRoom);
            }
            match self.relieve(now, size) {
                Relief::Hopeless => return Err(Refusal::NO_AVAILABLE_HANDLE.into()),
                Relief::Nothing => return Err(Denied::NoRoom),
                // Other copies of the same objects may have given room at once, elsewhere.
                Relief::At(at) => put.relieved_at = at,
            }
        }
        Err(Denied::NoRoom)
    }

    fn try_put(
        &self,
        now: Micros,
        owner: Option<ClientId>,
        item: &PutItem,
        size: u64,
        options: &PutOptions,
    ) -> Result<(Granted, Option<String>), Denied> {
        let serial = self.serial_of(now, owner)?;
        let hash = self.hash(&item.key);
        let number = self.shard_of(hash);
        let mut guard = self.shard(number).write();
        let shard = &mut *guard;
        shard.trim_starts();
        let table = self.table.load();
        self.make_way(now, shard, &table, hash, &item.key, owner)?;
        let slot = shard.vacant().ok_or(Refusal::NO_AVAILABLE_HANDLE)?;
        let tag = self.tag(number, slot);
        let mut copies = self.place(now, &table, &mut shard.rng, size, tag, options);
        let Some(first) = copies.first() else {
            shard.forget(slot);
            return Err(Denied::NoRoom);
        };
        let named = table.cell(first.segment).filter(|_| options.same_node);
        let name = named.map(|cell| cell.segment.name.clone());
        if (copies.len() as u64) < options.replica_num {
            counters::add(&self.counters.partial_allocations, 1);
        }
        copies.extend(self.grant_file(size));
        let generation = self.next_generation();
        let group = self.join_group(&item.group, Member { shard: number, slot, generation });
        let slices = if options.same_node { Vec::new() } else { item.slices.clone() };
        let mut object = Object {
            key: item.key.clone().into_boxed_slice(),
            generation,
            size,
            extra: Extra::of(slices, group),
            copies,
            owner: serial,
            ..Object::default()
        };
        object.set_last_use(LastUse { at: now, granted: false });
        object.set_pin(self.wanted_pin(options));
        self.record_put(now, &table, &object, owner);
        let sight = self.sight(&table, &object);
        shard.insert(slot, hash, object, now);
        drop(guard);
        let replicas = self.replicas(&table, &sight);
        Ok((Granted { replicas, generation: sight.generation }, name))
    }

    /// While the put is unfinished, a soft pin holds its length instead of its end.
    fn wanted_pin(&self, options: &PutOptions) -> Pin {
        match options.soft_pin_ttl_ms {
            _ if options.hard_pin => Pin::Hard,
            Some(ms) if options.soft_pin => Pin::SoftFixed(ms.saturating_mul(1000)),
            None if options.soft_pin => Pin::SoftExtended(self.times.soft_pin),
            _ => Pin::None,
        }
    }

    /// Refuses where the key is in use; gives up a put of it that is too old.
    fn make_way(
        &self,
        now: Micros,
        shard: &mut Shard,
        table: &Table,
        hash: u64,
        key: &[u8],
        owner: Option<ClientId>,
    ) -> Outcome<()> {
        let Some(slot) = shard.find(hash, key) else { return Ok(()) };
        let object = shard.objects.get(slot);
        if !is_visible(table, object) {
            // Nobody has mounted its memory again yet. The new put is the later one.
            self.drop_object(now, shard, slot, End::Superseded);
            return Ok(());
        }
        if object.complete {
            return Err(Refusal::OBJECT_ALREADY_EXISTS);
        }
        let limit = if object.owner == 0 { self.times.discard } else { self.times.release };
        if now >= object.last_use().at.saturating_add(limit) {
            counters::add(&self.counters.abandoned_puts, 1);
            self.drop_object(now, shard, slot, End::Discarded);
            return Ok(());
        }
        // Upstream's dialect has one number for both; it is told what its client understands.
        Err(match owner {
            None => Refusal::OBJECT_ALREADY_EXISTS,
            Some(_) => Refusal::REPLICA_IS_NOT_READY,
        })
    }

    fn place(
        &self,
        now: Micros,
        table: &Table,
        rng: &mut fastrand::Rng,
        bytes: u64,
        tag: u32,
        options: &PutOptions,
    ) -> SmallVec<[Copy; 1]> {
        let mut copies: SmallVec<[Copy; 1]> = SmallVec::new();
        let mut taken: SmallVec<[&str; 4]> = SmallVec::new();
        let wanted = options.replica_num.min(limits::REPLICAS_MAX as u64) as usize;
        let preferred = options.preferred_segments.iter();
        for cell in preferred.filter_map(|name| table.names.get(name)).flatten() {
            if copies.len() == wanted {
                break;
            }
            if taken.contains(&cell.segment.name.as_str()) || cell.largest() < bytes {
                continue;
            }
            if let Some(piece) = cell.allocate(now, bytes, tag) {
                taken.push(&cell.segment.name);
                copies.push(copy_of(cell, piece));
            }
        }
        let mut choices = CHOICES;
        while copies.len() < wanted && choices > 0 {
            let seen = Choices { cells: &table.mounted, taken: &taken };
            let Some(at) = placement::choose(self.settings.policy, &seen, bytes, rng) else {
                break;
            };
            let cell = &table.mounted[at];
            match cell.allocate(now, bytes, tag) {
                Some(piece) => {
                    taken.push(&cell.segment.name);
                    copies.push(copy_of(cell, piece));
                    choices = CHOICES;
                }
                None => choices -= 1,
            }
        }
        copies
    }

    /// Writes an object down as it is.
    pub(super) fn record_put(
        &self,
        now: Micros,
        table: &Table,
        object: &Object,
        owner: Option<ClientId>,
    ) {
        self.outlet.record(&self.put_record(now, table, object, owner));
        if let Some(record) = self.file_record(object) {
            self.outlet.record(&record);
        }
    }

    /// An object as a record.
    pub(super) fn put_record<'a>(
        &self,
        now: Micros,
        table: &Table,
        object: &'a Object,
        owner: Option<ClientId>,
    ) -> Record<'a> {
        let mut copies = Vec::with_capacity(object.copies.len());
        for copy in &object.copies {
            if let Some(cell) = table.cell(copy.segment) {
                copies.push((copy.segment, u64::from(copy.granule) << cell.granule_bits));
            }
        }
        let left = |until: Micros| {
            // Of an unfinished put it is the length itself.
            let length = if object.complete { until.saturating_sub(now) } else { until };
            u32::try_from(length.div_ceil(1_000_000)).unwrap_or(u32::MAX)
        };
        Record::Put {
            generation: object.generation,
            owner,
            complete: object.complete,
            pin: match object.pin() {
                Pin::None => KeptPin::None,
                Pin::SoftExtended(until) => KeptPin::SoftExtended(left(until)),
                Pin::SoftFixed(until) => KeptPin::SoftFixed(left(until)),
                Pin::Hard => KeptPin::Hard,
            },
            key: Cow::Borrowed(&object.key),
            slices: Cow::Borrowed(object.slices()),
            copies: Cow::Owned(copies),
            group: Cow::Borrowed(object.group().map_or(&[], |group| &group.name)),
        }
    }

    pub(super) fn put_end(
        &self,
        now: Micros,
        owner: Option<ClientId>,
        put: (&[u8], Generation),
        kind: ReplicaKind,
    ) -> Outcome<()> {
        let hash = self.hash(put.0);
        let mut shard = self.shard(self.shard_of(hash)).write();
        let table = self.table.load();
        let slot = self.find_own(&shard, &table, hash, (put.0, put.1, kind), owner)?;
        if kind == ReplicaKind::Disk {
            // Clients of ours end memory first: this is the late end of an earlier put of the key
            // by one that does not say which.
            if owner.is_some() && !shard.objects.get(slot).complete {
                return Err(Refusal::REPLICA_IS_NOT_READY);
            }
            return self.end_file(&mut shard, slot);
        }
        let object = shard.objects.get_mut(slot);
        if object.complete || !matches!(kind, ReplicaKind::Memory | ReplicaKind::All) {
            return Ok(());
        }
        object.complete = true;
        object.set_last_use(LastUse { at: now.max(object.last_use().at), granted: false });
        object.set_pin(match object.pin() {
            Pin::SoftExtended(length) => Pin::SoftExtended(now.saturating_add(length)),
            Pin::SoftFixed(length) => Pin::SoftFixed(now.saturating_add(length)),
            other => other,
        });
        let generation = object.generation;
        shard.renew(slot, now);
        self.outlet.record(&Record::End { generation });
        let object = shard.objects.get(slot);
        for copy in &object.copies {
            let Some(cell) = table.cell(copy.segment) else { continue };
            if !cell.holder.is_native() {
                continue;
            }
            let event = || SegmentEvent::Completed(held(now, object, copy, cell));
            if cell.holder.push_completed(event) {
                self.outlet.news(cell.holder.id);
            }
        }
        Ok(())
    }

    pub(super) fn put_revoke(
        &self,
        now: Micros,
        owner: Option<ClientId>,
        put: (&[u8], Generation),
        kind: ReplicaKind,
    ) -> Outcome<()> {
        let hash = self.hash(put.0);
        let mut shard = self.shard(self.shard_of(hash)).write();
        let named = (put.0, put.1, kind);
        let slot = self.find_own(&shard, &self.table.load(), hash, named, owner)?;
        if kind == ReplicaKind::Disk {
            return self.revoke_file(&mut shard, slot);
        }
        if !matches!(kind, ReplicaKind::Memory | ReplicaKind::All) {
            return Ok(());
        }
        if shard.objects.get(slot).complete {
            return Err(Refusal::INVALID_WRITE);
        }
        self.drop_object(now, &mut shard, slot, End::Revoked);
        Ok(())
    }

    /// Drops puts of a client that it says nothing of and that are old enough. It is not believed
    /// more than of one that is gone: somebody in it may have stood still.
    pub(super) fn unfinished(
        &self,
        now: Micros,
        id: ClientId,
        going: Vec<Generation>,
        age_ms: u32,
    ) -> Outcome<()> {
        if going.len() > limits::STORE_OPEN_PUTS_MAX {
            return Err(Refusal::INVALID_PARAMS);
        }
        let client = self.client_of(now, id)?;
        self.hear(now, &client);
        let going: HashSet<Generation> = going.into_iter().collect();
        let until = now.saturating_sub(u64::from(age_ms) * 1000);
        self.drop_puts_of(now, client.serial, |start| {
            start.at <= until && !going.contains(&start.generation)
        });
        Ok(())
    }

    /// Drops unfinished puts of an owner, which is gone or does not know of them.
    pub(super) fn drop_puts_of(&self, now: Micros, owner: u32, which: impl Fn(&Start) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let is_open = |start: &&Start| {
                let object = shard.alive(start.slot, start.generation);
                object.is_some_and(|object| !object.complete && object.owner == owner)
            };
            let starts = shard.starts.iter().filter(is_open).filter(|start| which(start));
            let open: Vec<u32> = starts.map(|start| start.slot).collect();
            for slot in open {
                counters::add(&self.counters.abandoned_puts, 1);
                self.drop_object(now, &mut shard, slot, End::OwnerGone);
            }
        }
    }

    /// The object of a key, if the caller may end its put, and if it is the put that the caller
    /// means. An anonymous one may be ended by all that are anonymous.
    fn find_own(
        &self,
        shard: &Shard,
        table: &Table,
        hash: u64,
        (key, put, kind): (&[u8], Generation, ReplicaKind),
        owner: Option<ClientId>,
    ) -> Outcome<u32> {
        let slot = shard.find(hash, key).ok_or(Refusal::OBJECT_NOT_FOUND)?;
        let object = shard.objects.get(slot);
        // The word about its file may come while its memory is not mounted again, and after its
        // writer was taken for gone. It is no word of another client that is there.
        if kind == ReplicaKind::Disk && put == object.generation && object.complete {
            let is_of_other =
                object.owner != self.known_serial(owner) && self.is_known_serial(object.owner);
            return if is_of_other { Err(Refusal::ILLEGAL_CLIENT) } else { Ok(slot) };
        }
        if !is_visible(table, object) {
            return Err(Refusal::OBJECT_NOT_FOUND);
        }
        if put != 0 && put != object.generation {
            // The put that is meant was given up, and the key has another one by now.
            return Err(Refusal::REPLICA_IS_GONE);
        }
        // Once an object is complete nobody can do harm by ending it; after a restart nobody knows
        // any more who put it.
        let may = match object.owner {
            0 => owner.is_none() || object.complete,
            serial => self.known_serial(owner) == serial,
        };
        if !may {
            return Err(Refusal::ILLEGAL_CLIENT);
        }
        Ok(slot)
    }
}

fn copy_of(cell: &super::cell::Cell, piece: crate::pool::allocator::Piece) -> Copy {
    let granule = (piece.offset >> cell.granule_bits) as u32;
    Copy { segment: cell.slot, piece: piece.id, granule, ..Copy::default() }
}

/// A complete object as its holder keeps it in mind.
pub(super) fn held(
    now: Micros,
    object: &Object,
    copy: &Copy,
    cell: &super::cell::Cell,
) -> crate::pool::segment::HeldObject {
    crate::pool::segment::HeldObject {
        key: object.key.to_vec(),
        generation: object.generation,
        segment: cell.segment.id,
        address: cell.address(copy.granule),
        slices: object.slices().to_vec(),
        soft_pin: object.pin().is_soft(now),
        group: object.group().map(|group| group.name.clone()).unwrap_or_default(),
    }
}
