//! Our own calls: everything that [`Call`] and [`Reply`] can say. Pure.
//!
//! The layout is in `docs/store.md`. A body begins with the number of its version; fields follow in
//! a fixed order, without types, with lengths of four bytes. A later version only appends fields to
//! a call, an answer or a record, and uses no number of an enumeration for anything else. A client
//! writes the version that `Greet` settled, a master answers in the version of the request, and
//! `Greet` itself is read in any version.

use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::object::{Generation, Key, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{
    BufferRange, Located, LocatedView, Place, PlaceView, Replica, ReplicaKind, ReplicaStatus,
    ReplicaView,
};
use crate::pool::segment::{ClientStatus, HeldObject, KeptRange, Pong, Segment, SegmentEvent};

use crate::rpc::look::{is_batched, Keys, Look, Seen};
use crate::rpc::message::{Call, Events, Granted, Greeting, Method, Reply};
use crate::rpc::pack::{self, Malformed, Reader, Writer};

/// The version that this build writes; it reads this one and all before it.
pub const VERSION: u16 = 1;

/// Reads the arguments of a call that only looks keys up.
pub fn decode_look(method: Method, body: &[u8]) -> Result<Look<'_>, Malformed> {
    let mut reader = pack::decode_plain(body);
    head(&mut reader, false)?;
    let keys = match is_batched(method) {
        true => reader.strings()?,
        false => Keys::from_iter([reader.bytes()?]),
    };
    Ok(Look { method, keys })
}

/// Reads the arguments.
pub fn decode_request(method: Method, body: &[u8]) -> Result<Call, Malformed> {
    let mut reader = pack::decode_plain(body);
    let r = &mut reader;
    head(r, method == Method::Greet)?;
    Ok(match method {
        Method::ServiceReady => Call::ServiceReady,
        Method::StorageDirectory => Call::StorageDirectory,
        Method::Ping => Call::Ping(client(r)?),
        Method::Exists | Method::BatchExists | Method::Lookup | Method::BatchLookup => {
            decode_look(method, body)?.to_call()
        }
        Method::LookupByPattern => Call::LookupByPattern(key(r)?),
        Method::PutStart => {
            let (client, mut item, options) = (maybe_client(r)?, item(r)?, options(r)?);
            read_groups(r, std::slice::from_mut(&mut item))?;
            Call::PutStart(client, item, options)
        }
        Method::BatchPutStart => {
            let (client, mut items) = (maybe_client(r)?, r.list(2, 0, item)?);
            let options = options(r)?;
            read_groups(r, &mut items)?;
            Call::BatchPutStart(client, items, options)
        }
        Method::PutEnd => Call::PutEnd(maybe_client(r)?, key(r)?, kind(r)?, maybe_put(r)?),
        Method::BatchPutEnd => {
            let (client, keys, kind) = (maybe_client(r)?, keys(r)?, kind(r)?);
            let puts = maybe_puts(r, keys.len())?;
            Call::BatchPutEnd(client, keys, kind, puts)
        }
        Method::PutRevoke => Call::PutRevoke(maybe_client(r)?, key(r)?, kind(r)?, maybe_put(r)?),
        Method::BatchPutRevoke => {
            let (client, keys, kind) = (maybe_client(r)?, keys(r)?, kind(r)?);
            let puts = maybe_puts(r, keys.len())?;
            Call::BatchPutRevoke(client, keys, kind, puts)
        }
        Method::Remove => Call::Remove { key: key(r)?, force: r.flag()? },
        Method::BatchRemove => Call::BatchRemove { keys: keys(r)?, force: r.flag()? },
        Method::RemoveByPattern => Call::RemoveByPattern { pattern: key(r)?, force: r.flag()? },
        Method::RemoveAll => Call::RemoveAll { force: r.flag()? },
        Method::Mount => Call::Mount(segment(r)?, client(r)?),
        Method::Remount => Call::Remount(r.list(3, 32, segment)?, client(r)?),
        Method::Unmount => Call::Unmount(SegmentId(uuid(r)?), client(r)?),
        Method::Greet => Call::Greet { version: r.u32()? },
        Method::Attend => {
            Call::Attend { client: client(r)?, acknowledged: r.u64()?, wait_ms: r.u32()? }
        }
        Method::Report => {
            let client = client(r)?;
            Call::Report { client, objects: r.list(2, 33, held)?, last: r.flag()? }
        }
        Method::Suspect => Call::Suspect { client: client(r)?, endpoint: r.text()? },
        Method::Keep => {
            let (client, segments) = (client(r)?, r.list(3, 32, segment)?);
            Call::Keep { client, segments, ranges: r.list(0, 32, kept)? }
        }
        Method::Unfinished => {
            Call::Unfinished { client: client(r)?, puts: sizes(r)?, age_ms: r.u32()? }
        }
    })
}

/// Appends the arguments.
pub fn encode_request(call: &Call, out: &mut Vec<u8>) {
    pack::encode_plain(out, |w| {
        put_head(w);
        match call {
            Call::ServiceReady | Call::StorageDirectory => {}
            Call::Ping(client) => put_uuid(w, client.0),
            Call::Exists(key) | Call::Lookup(key) | Call::LookupByPattern(key) => w.bytes(key),
            Call::BatchExists(keys) | Call::BatchLookup(keys) => put_keys(w, keys),
            Call::PutStart(client, item, options) => {
                put_client(w, client);
                put_item(w, item);
                put_options(w, options);
                put_groups(w, std::slice::from_ref(item));
            }
            Call::BatchPutStart(client, items, options) => {
                put_client(w, client);
                w.list(items, put_item);
                put_options(w, options);
                put_groups(w, items);
            }
            Call::PutEnd(client, key, kind, put) | Call::PutRevoke(client, key, kind, put) => {
                put_client(w, client);
                w.bytes(key);
                put_kind(w, *kind);
                // Masters from before these fields pass over them.
                if *put != 0 {
                    w.u64(*put);
                }
            }
            Call::BatchPutEnd(client, keys, kind, puts)
            | Call::BatchPutRevoke(client, keys, kind, puts) => {
                put_client(w, client);
                put_keys(w, keys);
                put_kind(w, *kind);
                if !puts.is_empty() {
                    put_sizes(w, puts);
                }
            }
            Call::Remove { key, force } | Call::RemoveByPattern { pattern: key, force } => {
                w.bytes(key);
                w.bool(*force);
            }
            Call::BatchRemove { keys, force } => {
                put_keys(w, keys);
                w.bool(*force);
            }
            Call::RemoveAll { force } => w.bool(*force),
            Call::Mount(segment, client) => {
                put_segment(w, segment);
                put_uuid(w, client.0);
            }
            Call::Remount(segments, client) => {
                w.list(segments, put_segment);
                put_uuid(w, client.0);
            }
            Call::Unmount(segment, client) => {
                put_uuid(w, segment.0);
                put_uuid(w, client.0);
            }
            Call::Greet { version } => w.u32(*version),
            Call::Attend { client, acknowledged, wait_ms } => {
                put_uuid(w, client.0);
                w.u64(*acknowledged);
                w.u32(*wait_ms);
            }
            Call::Report { client, objects, last } => {
                put_uuid(w, client.0);
                w.list(objects, put_held);
                w.bool(*last);
            }
            Call::Suspect { client, endpoint } => {
                put_uuid(w, client.0);
                w.bytes(endpoint.as_bytes());
            }
            Call::Keep { client, segments, ranges } => {
                put_uuid(w, client.0);
                w.list(segments, put_segment);
                w.list(ranges, put_kept);
            }
            Call::Unfinished { client, puts, age_ms } => {
                put_uuid(w, client.0);
                put_sizes(w, puts);
                w.u32(*age_ms);
            }
        }
    });
}

/// Appends an answer.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    pack::encode_plain(out, |w| {
        put_head(w);
        match reply {
            Reply::Ready(outcome) | Reply::Directory(outcome) => {
                put_outcome(w, outcome, |w, text| w.bytes(text.as_bytes()));
            }
            Reply::Pong(outcome) => put_outcome(w, outcome, put_pong),
            Reply::Exists(outcome) => put_outcome(w, outcome, |w, exists| w.bool(*exists)),
            Reply::BatchExists(all) => {
                w.list(all, |w, one| put_outcome(w, one, |w, exists| w.bool(*exists)));
            }
            Reply::Located(outcome) => {
                put_outcome(w, outcome, |w, one| put_located(w, &one.into()));
            }
            Reply::BatchLocated(all) => w.list(all, |w, one| {
                put_outcome(w, one, |w, one| put_located(w, &one.into()));
            }),
            Reply::Found(outcome) => put_outcome(w, outcome, |w, found| {
                w.list(found, |w, (key, replicas)| {
                    w.bytes(key);
                    w.list(replicas, |w, replica| put_replica(w, &replica.into()));
                });
            }),
            Reply::Granted(outcome) => put_outcome(w, outcome, put_granted),
            Reply::BatchGranted(all) => w.list(all, |w, one| put_outcome(w, one, put_granted)),
            Reply::Done(outcome) => put_outcome(w, outcome, |_, ()| {}),
            Reply::BatchDone(all) => w.list(all, |w, one| put_outcome(w, one, |_, ()| {})),
            Reply::Removed(outcome) => put_outcome(w, outcome, |w, count| w.i64(*count)),
            Reply::RemovedAll(count) => w.i64(*count),
            Reply::Greeted(outcome) => put_outcome(w, outcome, |w, greeting| {
                w.u32(greeting.version);
                w.u64(greeting.master_life);
            }),
            Reply::Events(outcome) => put_outcome(w, outcome, |w, events| {
                put_pong(w, &events.pong);
                w.u64(events.master_life);
                w.u64(events.last);
                w.list(&events.events, put_event);
            }),
        }
    });
}

/// Appends what a look has seen.
pub fn encode_seen(method: Method, seen: &Seen<'_>, out: &mut Vec<u8>) {
    pack::encode_plain(out, |w| {
        put_head(w);
        if is_batched(method) {
            w.count(seen.count());
        }
        match seen {
            Seen::Exists(found) => {
                found.iter().for_each(|found| w.fixed([0, 0, 0, 0, u8::from(*found)]));
            }
            Seen::Located(sights) => {
                (0..sights.count()).for_each(|at| put_outcome(w, &sights.sight(at), put_located));
            }
        }
    });
}

/// Reads the answer to a call of that method.
pub fn decode_reply(method: Method, body: &[u8]) -> Result<Reply, Malformed> {
    let mut reader = pack::decode_plain(body);
    let r = &mut reader;
    head(r, method == Method::Greet)?;
    Ok(match method {
        Method::ServiceReady => Reply::Ready(outcome(r, Reader::text)?),
        Method::StorageDirectory => Reply::Directory(outcome(r, Reader::text)?),
        Method::Ping => Reply::Pong(outcome(r, pong)?),
        Method::Exists => Reply::Exists(outcome(r, Reader::flag)?),
        Method::BatchExists => Reply::BatchExists(r.list(0, 4, |r| outcome(r, Reader::flag))?),
        Method::Lookup => Reply::Located(outcome(r, located)?),
        Method::BatchLookup => Reply::BatchLocated(r.list(0, 4, |r| outcome(r, located))?),
        Method::LookupByPattern => {
            Reply::Found(outcome(r, |r| r.list(2, 0, |r| Ok((key(r)?, replicas(r)?))))?)
        }
        Method::PutStart => Reply::Granted(outcome(r, granted)?),
        Method::BatchPutStart => Reply::BatchGranted(r.list(0, 4, |r| outcome(r, granted))?),
        Method::BatchPutEnd | Method::BatchPutRevoke | Method::BatchRemove => {
            Reply::BatchDone(r.list(0, 4, |r| outcome(r, |_| Ok(())))?)
        }
        Method::RemoveByPattern => Reply::Removed(outcome(r, Reader::i64)?),
        Method::RemoveAll => Reply::RemovedAll(r.i64()?),
        Method::Greet => Reply::Greeted(outcome(r, |r| {
            Ok(Greeting { version: r.u32()?, master_life: r.u64()? })
        })?),
        Method::Attend => Reply::Events(outcome(r, |r| {
            let (pong, master_life, last) = (pong(r)?, r.u64()?, r.u64()?);
            Ok(Events { pong, master_life, last, events: r.list(0, 33, event)? })
        })?),
        Method::PutEnd
        | Method::PutRevoke
        | Method::Remove
        | Method::Mount
        | Method::Remount
        | Method::Unmount
        | Method::Report
        | Method::Suspect
        | Method::Keep
        | Method::Unfinished => Reply::Done(outcome(r, |_| Ok(()))?),
    })
}

fn put_head(w: &mut Writer<'_>) {
    w.u16(VERSION);
    // Room for flags.
    w.u16(0);
}

fn head(r: &mut Reader<'_>, any_version: bool) -> Result<(), Malformed> {
    let (version, flags) = (r.u16()?, r.u16()?);
    if any_version {
        return Ok(());
    }
    if version == 0 || version > VERSION {
        return Err(r.wrong("a version that was not agreed"));
    }
    match flags {
        0 => Ok(()),
        _ => Err(r.wrong("unknown flags")),
    }
}

fn put_uuid(w: &mut Writer<'_>, uuid: Uuid) {
    w.u64(uuid.first);
    w.u64(uuid.second);
}

fn uuid(r: &mut Reader<'_>) -> Result<Uuid, Malformed> {
    Ok(Uuid { first: r.u64()?, second: r.u64()? })
}

fn client(r: &mut Reader<'_>) -> Result<ClientId, Malformed> {
    uuid(r).map(ClientId)
}

fn put_client(w: &mut Writer<'_>, client: &Option<ClientId>) {
    w.bool(client.is_some());
    if let Some(client) = client {
        put_uuid(w, client.0);
    }
}

fn maybe_client(r: &mut Reader<'_>) -> Result<Option<ClientId>, Malformed> {
    r.flag()?.then(|| client(r)).transpose()
}

fn key(r: &mut Reader<'_>) -> Result<Key, Malformed> {
    r.bytes().map(<[u8]>::to_vec)
}

fn put_keys(w: &mut Writer<'_>, keys: &[Key]) {
    w.list(keys, |w, key| w.bytes(key));
}

fn keys(r: &mut Reader<'_>) -> Result<Vec<Key>, Malformed> {
    r.list(1, 0, key)
}

fn put_sizes(w: &mut Writer<'_>, sizes: &[u64]) {
    w.list(sizes, |w, size| w.u64(*size));
}

fn sizes(r: &mut Reader<'_>) -> Result<Vec<u64>, Malformed> {
    r.list(0, 8, Reader::u64)
}

fn put_item(w: &mut Writer<'_>, item: &PutItem) {
    w.bytes(&item.key);
    put_sizes(w, &item.slices);
}

fn item(r: &mut Reader<'_>) -> Result<PutItem, Malformed> {
    Ok(PutItem::new(key(r)?, sizes(r)?))
}

/// The groups of all items, behind everything else and only where there is one: masters that do not
/// know the field ignore it, and clients that do not know it leave it out.
fn put_groups(w: &mut Writer<'_>, items: &[PutItem]) {
    if items.iter().any(|item| !item.group.is_empty()) {
        w.list(items, |w, item| w.bytes(&item.group));
    }
}

fn read_groups(r: &mut Reader<'_>, items: &mut [PutItem]) -> Result<(), Malformed> {
    if r.remaining() == 0 {
        return Ok(());
    }
    let groups = keys(r)?;
    if groups.len() != items.len() {
        return Err(r.wrong("not one group for each item"));
    }
    for (item, group) in items.iter_mut().zip(groups) {
        item.group = group;
    }
    Ok(())
}

fn put_options(w: &mut Writer<'_>, options: &PutOptions) {
    w.u64(options.replica_num);
    w.bool(options.soft_pin);
    w.bool(options.soft_pin_ttl_ms.is_some());
    w.u64(options.soft_pin_ttl_ms.unwrap_or_default());
    w.bool(options.hard_pin);
    w.list(&options.preferred_segments, |w, name| w.bytes(name.as_bytes()));
    w.bool(options.same_node);
}

fn options(r: &mut Reader<'_>) -> Result<PutOptions, Malformed> {
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

fn put_kind(w: &mut Writer<'_>, kind: ReplicaKind) {
    w.u8(match kind {
        ReplicaKind::Memory => 0,
        ReplicaKind::Disk => 1,
        ReplicaKind::LocalDisk => 2,
        ReplicaKind::All => 4,
    });
}

fn kind(r: &mut Reader<'_>) -> Result<ReplicaKind, Malformed> {
    Ok(match r.u8()? {
        0 => ReplicaKind::Memory,
        1 => ReplicaKind::Disk,
        2 => ReplicaKind::LocalDisk,
        4 => ReplicaKind::All,
        _ => return Err(r.wrong("an unknown kind of replica")),
    })
}

/// Which put a call means; older clients do not say.
fn maybe_put(r: &mut Reader<'_>) -> Result<Generation, Malformed> {
    if r.remaining() == 0 {
        Ok(0)
    } else {
        r.u64()
    }
}

/// The same for each of so many keys.
fn maybe_puts(r: &mut Reader<'_>, keys: usize) -> Result<Vec<Generation>, Malformed> {
    if r.remaining() == 0 {
        return Ok(Vec::new());
    }
    let puts = sizes(r)?;
    match puts.is_empty() || puts.len() == keys {
        true => Ok(puts),
        false => Err(r.wrong("as many puts as keys are to be named")),
    }
}

fn put_segment(w: &mut Writer<'_>, segment: &Segment) {
    put_uuid(w, segment.id.0);
    w.bytes(segment.name.as_bytes());
    w.u64(segment.base);
    w.u64(segment.size);
    w.bytes(segment.endpoint.as_bytes());
    w.bytes(segment.protocol.as_bytes());
}

fn segment(r: &mut Reader<'_>) -> Result<Segment, Malformed> {
    Ok(Segment {
        id: SegmentId(uuid(r)?),
        name: r.text()?,
        base: r.u64()?,
        size: r.u64()?,
        endpoint: r.text()?,
        protocol: r.text()?,
    })
}

fn put_held(w: &mut Writer<'_>, held: &HeldObject) {
    w.bytes(&held.key);
    w.u64(held.generation);
    put_uuid(w, held.segment.0);
    w.u64(held.address);
    put_sizes(w, &held.slices);
    w.bool(held.soft_pin);
}

fn held(r: &mut Reader<'_>) -> Result<HeldObject, Malformed> {
    Ok(HeldObject {
        key: key(r)?,
        generation: r.u64()?,
        segment: SegmentId(uuid(r)?),
        address: r.u64()?,
        slices: sizes(r)?,
        soft_pin: r.flag()?,
    })
}

fn put_kept(w: &mut Writer<'_>, kept: &KeptRange) {
    put_uuid(w, kept.segment.0);
    w.u64(kept.address);
    w.u64(kept.size);
}

fn kept(r: &mut Reader<'_>) -> Result<KeptRange, Malformed> {
    Ok(KeptRange { segment: SegmentId(uuid(r)?), address: r.u64()?, size: r.u64()? })
}

fn put_event(w: &mut Writer<'_>, event: &SegmentEvent) {
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

fn event(r: &mut Reader<'_>) -> Result<SegmentEvent, Malformed> {
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

fn put_pong(w: &mut Writer<'_>, pong: &Pong) {
    w.i64(pong.view_version);
    w.u8(match pong.status {
        ClientStatus::Undefined => 0,
        ClientStatus::Ok => 1,
        ClientStatus::NeedRemount => 2,
    });
}

fn pong(r: &mut Reader<'_>) -> Result<Pong, Malformed> {
    let view_version = r.i64()?;
    let status = match r.u8()? {
        0 => ClientStatus::Undefined,
        1 => ClientStatus::Ok,
        2 => ClientStatus::NeedRemount,
        _ => return Err(r.wrong("an unknown status of a client")),
    };
    Ok(Pong { view_version, status })
}

fn put_replica(w: &mut Writer<'_>, replica: &ReplicaView<'_>) {
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

fn replica(r: &mut Reader<'_>) -> Result<Replica, Malformed> {
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

fn replicas(r: &mut Reader<'_>) -> Result<Vec<Replica>, Malformed> {
    r.list(1, 10, replica)
}

fn put_located(w: &mut Writer<'_>, located: &LocatedView<'_>) {
    w.count(located.copies.count());
    located.copies.each(|copy| put_replica(w, copy));
    w.u64(located.lease_ttl_ms);
    w.u64(located.generation);
}

fn located(r: &mut Reader<'_>) -> Result<Located, Malformed> {
    Ok(Located { replicas: replicas(r)?, lease_ttl_ms: r.u64()?, generation: r.u64()? })
}

fn put_granted(w: &mut Writer<'_>, granted: &Granted) {
    w.list(&granted.replicas, |w, replica| put_replica(w, &replica.into()));
    w.u64(granted.generation);
}

fn granted(r: &mut Reader<'_>) -> Result<Granted, Malformed> {
    Ok(Granted { replicas: replicas(r)?, generation: r.u64()? })
}

/// The number of the refusal, or 0 and the value.
fn put_outcome<T>(w: &mut Writer<'_>, outcome: &Outcome<T>, ok: impl Fn(&mut Writer<'_>, &T)) {
    match outcome {
        Ok(value) => {
            w.i32(0);
            ok(w, value);
        }
        Err(refusal) => w.i32(refusal.number()),
    }
}

fn outcome<'a, T>(
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
