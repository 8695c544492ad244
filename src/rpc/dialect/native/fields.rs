//! Fields of native messages: each a pair of functions, one that appends and one that reads. Pure;
//! reading takes nothing for granted, and a count never allocates more than its bytes could hold.

use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::object::{Generation, Key, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{
    BufferRange, Located, LocatedView, Place, PlaceView, Replica, ReplicaKind, ReplicaStatus,
    ReplicaView,
};
use crate::pool::segment::{ClientStatus, HeldObject, KeptRange, Pong, Segment, SegmentEvent};
use crate::rpc::message::Granted;
use crate::rpc::pack::{Malformed, Reader, Writer};

pub(super) fn put_uuid(w: &mut Writer<'_>, uuid: Uuid) {
    w.u64(uuid.first);
    w.u64(uuid.second);
}

pub(super) fn uuid(r: &mut Reader<'_>) -> Result<Uuid, Malformed> {
    Ok(Uuid { first: r.u64()?, second: r.u64()? })
}

pub(super) fn client(r: &mut Reader<'_>) -> Result<ClientId, Malformed> {
    uuid(r).map(ClientId)
}

pub(super) fn put_client(w: &mut Writer<'_>, client: &Option<ClientId>) {
    w.bool(client.is_some());
    if let Some(client) = client {
        put_uuid(w, client.0);
    }
}

pub(super) fn maybe_client(r: &mut Reader<'_>) -> Result<Option<ClientId>, Malformed> {
    r.flag()?.then(|| client(r)).transpose()
}

pub(super) fn key(r: &mut Reader<'_>) -> Result<Key, Malformed> {
    r.bytes().map(<[u8]>::to_vec)
}

pub(super) fn put_keys(w: &mut Writer<'_>, keys: &[Key]) {
    w.list(keys, |w, key| w.bytes(key));
}

pub(super) fn keys(r: &mut Reader<'_>) -> Result<Vec<Key>, Malformed> {
    r.list(1, 0, key)
}

pub(super) fn put_sizes(w: &mut Writer<'_>, sizes: &[u64]) {
    w.list(sizes, |w, size| w.u64(*size));
}

pub(super) fn sizes(r: &mut Reader<'_>) -> Result<Vec<u64>, Malformed> {
    r.list(0, 8, Reader::u64)
}

pub(super) fn put_item(w: &mut Writer<'_>, item: &PutItem) {
    w.bytes(&item.key);
    put_sizes(w, &item.slices);
}

pub(super) fn item(r: &mut Reader<'_>) -> Result<PutItem, Malformed> {
    Ok(PutItem::new(key(r)?, sizes(r)?))
}

/// One group for each of what went before, behind everything else and only where there is one:
/// peers that do not know the field ignore it, and leave it out.
pub(super) fn put_groups<'a>(w: &mut Writer<'_>, groups: impl Iterator<Item = &'a Key> + Clone) {
    if groups.clone().all(Vec::is_empty) {
        return;
    }
    w.count(groups.clone().count());
    groups.for_each(|group| w.bytes(group));
}

/// The other side of [`put_groups`]: into these places, which are left as they are without them.
pub(super) fn read_groups<'a>(
    r: &mut Reader<'_>,
    places: impl Iterator<Item = &'a mut Key>,
) -> Result<(), Malformed> {
    if r.remaining() == 0 {
        return Ok(());
    }
    let (groups, places) = (keys(r)?, places.collect::<Vec<_>>());
    if groups.len() != places.len() {
        return Err(r.wrong("not one group for each"));
    }
    places.into_iter().zip(groups).for_each(|(place, group)| *place = group);
    Ok(())
}

pub(super) fn put_options(w: &mut Writer<'_>, options: &PutOptions) {
    w.u64(options.replica_num);
    w.bool(options.soft_pin);
    w.bool(options.soft_pin_ttl_ms.is_some());
    w.u64(options.soft_pin_ttl_ms.unwrap_or_default());
    w.bool(options.hard_pin);
    w.list(&options.preferred_segments, |w, name| w.bytes(name.as_bytes()));
    w.bool(options.same_node);
}

pub(super) fn options(r: &mut Reader<'_>) -> Result<PutOptions, Malformed> {
    let (replica_num, soft_pin) = (r.u64()?, r.flag()?);
    let (has_ttl, ttl) = (r.flag()?, r.u64()?);
    Ok(PutOptions {
        replica_num,
        soft_pin,
        soft_pin_ttl_ms: has_ttl.then_some(ttl),
        hard_pin: r.flag()?,
        preferred_segments: r.list(1, 0, Reader::text)?,
        same_node: r.flag()?,
    })
}

pub(super) fn put_kind(w: &mut Writer<'_>, kind: ReplicaKind) {
    w.u8(match kind {
        ReplicaKind::Memory => 0,
        ReplicaKind::Disk => 1,
        ReplicaKind::LocalDisk => 2,
        ReplicaKind::All => 4,
    });
}

pub(super) fn kind(r: &mut Reader<'_>) -> Result<ReplicaKind, Malformed> {
    Ok(match r.u8()? {
        0 => ReplicaKind::Memory,
        1 => ReplicaKind::Disk,
        2 => ReplicaKind::LocalDisk,
        4 => ReplicaKind::All,
        _ => return Err(r.wrong("an unknown kind of replica")),
    })
}

/// Which put a call means; older clients do not say.
pub(super) fn maybe_put(r: &mut Reader<'_>) -> Result<Generation, Malformed> {
    if r.remaining() == 0 {
        Ok(0)
    } else {
        r.u64()
    }
}

/// The same for each of so many keys.
pub(super) fn maybe_puts(r: &mut Reader<'_>, keys: usize) -> Result<Vec<Generation>, Malformed> {
    if r.remaining() == 0 {
        return Ok(Vec::new());
    }
    let puts = sizes(r)?;
    match puts.is_empty() || puts.len() == keys {
        true => Ok(puts),
        false => Err(r.wrong("as many puts as keys are to be named")),
    }
}

pub(super) fn put_segment(w: &mut Writer<'_>, segment: &Segment) {
    put_uuid(w, segment.id.0);
    w.bytes(segment.name.as_bytes());
    w.u64(segment.base);
    w.u64(segment.size);
    w.bytes(segment.endpoint.as_bytes());
    w.bytes(segment.protocol.as_bytes());
}

pub(super) fn segment(r: &mut Reader<'_>) -> Result<Segment, Malformed> {
    Ok(Segment {
        id: SegmentId(uuid(r)?),
        name: r.text()?,
        base: r.u64()?,
        size: r.u64()?,
        endpoint: r.text()?,
        protocol: r.text()?,
    })
}

pub(super) fn put_held(w: &mut Writer<'_>, held: &HeldObject) {
    w.bytes(&held.key);
    w.u64(held.generation);
    put_uuid(w, held.segment.0);
    w.u64(held.address);
    put_sizes(w, &held.slices);
    w.bool(held.soft_pin);
}

pub(super) fn held(r: &mut Reader<'_>) -> Result<HeldObject, Malformed> {
    Ok(HeldObject {
        key: key(r)?,
        generation: r.u64()?,
        segment: SegmentId(uuid(r)?),
        address: r.u64()?,
        slices: sizes(r)?,
        soft_pin: r.flag()?,
        group: Key::new(),
    })
}

/// What is complete among events; their groups stand in this order.
pub(super) fn completed(event: &SegmentEvent) -> Option<&HeldObject> {
    match event {
        SegmentEvent::Completed(held) => Some(held),
        SegmentEvent::Gone { .. } => None,
    }
}

/// The places for the groups of those.
pub(super) fn completed_group(event: &mut SegmentEvent) -> Option<&mut Key> {
    match event {
        SegmentEvent::Completed(held) => Some(&mut held.group),
        SegmentEvent::Gone { .. } => None,
    }
}

pub(super) fn put_kept(w: &mut Writer<'_>, kept: &KeptRange) {
    put_uuid(w, kept.segment.0);
    w.u64(kept.address);
    w.u64(kept.size);
}

pub(super) fn kept(r: &mut Reader<'_>) -> Result<KeptRange, Malformed> {
    Ok(KeptRange { segment: SegmentId(uuid(r)?), address: r.u64()?, size: r.u64()? })
}

pub(super) fn put_event(w: &mut Writer<'_>, event: &SegmentEvent) {
    match event {
        SegmentEvent::Completed(held) => {
            w.u8(1);
            put_held(w, held);
        }
        SegmentEvent::Gone { segment, address, generation } => {
            w.u8(2);
            put_uuid(w, segment.0);
            w.u64(*address);
            w.u64(*generation);
        }
    }
}

pub(super) fn event(r: &mut Reader<'_>) -> Result<SegmentEvent, Malformed> {
    Ok(match r.u8()? {
        1 => SegmentEvent::Completed(held(r)?),
        2 => SegmentEvent::Gone {
            segment: SegmentId(uuid(r)?),
            address: r.u64()?,
            generation: r.u64()?,
        },
        _ => return Err(r.wrong("an unknown kind of event")),
    })
}

pub(super) fn put_pong(w: &mut Writer<'_>, pong: &Pong) {
    w.i64(pong.view_version);
    w.u8(match pong.status {
        ClientStatus::Undefined => 0,
        ClientStatus::Ok => 1,
        ClientStatus::NeedRemount => 2,
    });
}

pub(super) fn pong(r: &mut Reader<'_>) -> Result<Pong, Malformed> {
    let view_version = r.i64()?;
    let status = match r.u8()? {
        0 => ClientStatus::Undefined,
        1 => ClientStatus::Ok,
        2 => ClientStatus::NeedRemount,
        _ => return Err(r.wrong("an unknown status of a client")),
    };
    Ok(Pong { view_version, status })
}

pub(super) fn put_replica(w: &mut Writer<'_>, replica: &ReplicaView<'_>) {
    w.u64(replica.id);
    w.u8(match replica.status {
        ReplicaStatus::Undefined => 0,
        ReplicaStatus::Initialized => 1,
        ReplicaStatus::Processing => 2,
        ReplicaStatus::Complete => 3,
        ReplicaStatus::Removed => 4,
        ReplicaStatus::Failed => 5,
    });
    match replica.place {
        PlaceView::Memory(ranges) => {
            w.u8(0);
            w.count(ranges.count());
            ranges.each(|size, address, protocol, endpoint| {
                w.u64(size);
                w.u64(address);
                w.bytes(protocol.as_bytes());
                w.bytes(endpoint.as_bytes());
            });
        }
        PlaceView::Disk { path, size } => {
            w.u8(1);
            w.bytes(path.as_bytes());
            w.u64(size);
        }
    }
}

pub(super) fn replica(r: &mut Reader<'_>) -> Result<Replica, Malformed> {
    let id = r.u64()?;
    let status = match r.u8()? {
        0 => ReplicaStatus::Undefined,
        1 => ReplicaStatus::Initialized,
        2 => ReplicaStatus::Processing,
        3 => ReplicaStatus::Complete,
        4 => ReplicaStatus::Removed,
        5 => ReplicaStatus::Failed,
        _ => return Err(r.wrong("an unknown status of a replica")),
    };
    let place = match r.u8()? {
        0 => Place::Memory(r.list(2, 16, |r| {
            let (size, address) = (r.u64()?, r.u64()?);
            Ok(BufferRange { size, address, protocol: r.text()?, endpoint: r.text()? })
        })?),
        1 => Place::Disk { path: r.text()?, size: r.u64()? },
        _ => return Err(r.wrong("an unknown kind of replica")),
    };
    Ok(Replica { id, place, status })
}

pub(super) fn replicas(r: &mut Reader<'_>) -> Result<Vec<Replica>, Malformed> {
    r.list(1, 10, replica)
}

pub(super) fn put_located(w: &mut Writer<'_>, located: &LocatedView<'_>) {
    w.count(located.copies.count());
    located.copies.each(|copy| put_replica(w, copy));
    w.u64(located.lease_ttl_ms);
    w.u64(located.generation);
}

pub(super) fn located(r: &mut Reader<'_>) -> Result<Located, Malformed> {
    Ok(Located { replicas: replicas(r)?, lease_ttl_ms: r.u64()?, generation: r.u64()? })
}

pub(super) fn put_granted(w: &mut Writer<'_>, granted: &Granted) {
    w.list(&granted.replicas, |w, replica| put_replica(w, &replica.into()));
    w.u64(granted.generation);
}

pub(super) fn granted(r: &mut Reader<'_>) -> Result<Granted, Malformed> {
    Ok(Granted { replicas: replicas(r)?, generation: r.u64()? })
}

/// The number of the refusal, or 0 and the value.
pub(super) fn put_outcome<T>(
    w: &mut Writer<'_>,
    outcome: &Outcome<T>,
    ok: impl Fn(&mut Writer<'_>, &T),
) {
    match outcome {
        Ok(value) => {
            w.i32(0);
            ok(w, value);
        }
        Err(refusal) => w.i32(refusal.number()),
    }
}

pub(super) fn outcome<'a, T>(
    r: &mut Reader<'a>,
    ok: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Outcome<T>, Malformed> {
    match r.i32()? {
        0 => ok(r).map(Ok),
        number => match Refusal::from_number(number) {
            Some(refusal) => Ok(Err(refusal)),
            None => Err(r.wrong("a refusal has a positive number")),
        },
    }
}
