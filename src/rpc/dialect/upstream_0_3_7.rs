//! The calls of upstream 0.3.7 (seen with 0.3.7.post2): twenty functions. Pure.
//!
//! What this version does not say is read as: no client, generation 0, replica id 0, no protocol,
//! no force; batched ends and revokes mean memory. One preferred segment is the first of the list.
//! What it cannot say is refused where it would be a broken promise (`force`, a hard pin, other
//! kinds of replicas) and left out where it is a wish (further preferred segments, the length of a
//! pin, who calls).

use std::sync::LazyLock;

use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::object::{Key, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{
    BufferRange, Located, LocatedView, Place, PlaceView, Replica, ReplicaKind, ReplicaStatus,
    ReplicaView,
};
use crate::pool::segment::{ClientStatus, Pong, Segment};

use crate::rpc::look::{is_batched, Keys, Look, Seen};
use crate::rpc::message::{Call, Granted, Method, Reply};
use crate::rpc::pack::{self, Malformed, Reader, Typed, Writer};
use crate::rpc::shape::Shape;

const UUID: Shape = Shape::Aligned(&[Shape::U64, Shape::U64], 8);
const BUFFER: Shape = Shape::Struct(&[Shape::U64, Shape::U64, Shape::Text]);
const MEMORY: Shape = Shape::Struct(&[Shape::List(&BUFFER)]);
const DISK: Shape = Shape::Struct(&[Shape::Text, Shape::U64]);
const REPLICA: Shape = Shape::Struct(&[Shape::Variant(&[MEMORY, DISK]), Shape::I32]);
const REPLICAS: Shape = Shape::List(&REPLICA);
const CONFIG: Shape = Shape::Struct(&[Shape::U64, Shape::Bool, Shape::Text, Shape::Bool]);
const LOCATED: Shape = Shape::Struct(&[REPLICAS, Shape::U64]);
const SEGMENT: Shape = Shape::Struct(&[UUID, Shape::Text, Shape::U64, Shape::U64, Shape::Text]);
const PONG: Shape = Shape::Struct(&[Shape::I64, Shape::I32]);
const KEYS: Shape = Shape::List(&Shape::Text);
const SIZES: Shape = Shape::List(&Shape::U64);
const DONE: Shape = Shape::Expected(&Shape::Void, &Shape::I32);
const EXISTS: Shape = Shape::Expected(&Shape::Bool, &Shape::I32);
const MAYBE_LOCATED: Shape = Shape::Expected(&LOCATED, &Shape::I32);
const MAYBE_REPLICAS: Shape = Shape::Expected(&REPLICAS, &Shape::I32);

/// The shapes of a function: its arguments (`None`: it has none, and its body is empty) and its
/// result. `None` for methods that this version does not have.
pub fn shapes(method: Method) -> Option<(Option<Shape>, Shape)> {
    Some(match method {
        Method::ServiceReady => (None, DONE),
        Method::StorageDirectory => (None, Shape::Expected(&Shape::Text, &Shape::I32)),
        Method::Ping => (Some(UUID), Shape::Expected(&PONG, &Shape::I32)),
        Method::Exists => (Some(Shape::Text), EXISTS),
        Method::BatchExists => (Some(KEYS), Shape::List(&EXISTS)),
        Method::Lookup => (Some(Shape::Text), MAYBE_LOCATED),
        Method::BatchLookup => (Some(KEYS), Shape::List(&MAYBE_LOCATED)),
        Method::LookupByPattern => {
            const FOUND: Shape = Shape::Map(&Shape::Text, &REPLICAS);
            (Some(Shape::Text), Shape::Expected(&FOUND, &Shape::I32))
        }
        Method::PutStart => (Some(Shape::Struct(&[Shape::Text, SIZES, CONFIG])), MAYBE_REPLICAS),
        Method::BatchPutStart => (
            Some(Shape::Struct(&[KEYS, Shape::List(&SIZES), CONFIG])),
            Shape::List(&MAYBE_REPLICAS),
        ),
        Method::PutEnd | Method::PutRevoke => {
            (Some(Shape::Struct(&[Shape::Text, Shape::I32])), DONE)
        }
        Method::BatchPutEnd | Method::BatchPutRevoke => (Some(KEYS), Shape::List(&DONE)),
        Method::Remove => (Some(Shape::Text), DONE),
        Method::RemoveByPattern => (Some(Shape::Text), Shape::Expected(&Shape::I64, &Shape::I32)),
        Method::RemoveAll => (None, Shape::I64),
        Method::Mount => (Some(Shape::Struct(&[SEGMENT, UUID])), DONE),
        Method::Remount => (Some(Shape::Struct(&[Shape::List(&SEGMENT), UUID])), DONE),
        Method::Unmount => (Some(Shape::Struct(&[UUID, UUID])), DONE),
        Method::BatchRemove
        | Method::Greet
        | Method::Attend
        | Method::Report
        | Method::Suspect
        | Method::Keep
        | Method::Unfinished => return None,
    })
}

const ABSENT: Malformed = Malformed { what: "no such call in this version", at: 0 };

struct Row {
    arguments: Option<Typed>,
    result: Typed,
}

static ROWS: LazyLock<[Option<Row>; Method::ALL.len()]> = LazyLock::new(|| {
    Method::ALL.map(|method| {
        let (arguments, result) = shapes(method)?;
        Some(Row { arguments: arguments.as_ref().map(Typed::of), result: Typed::of(&result) })
    })
});

fn row(method: Method) -> Option<&'static Row> {
    ROWS[method as usize].as_ref()
}

/// True if the arguments are of this version's type. Functions without arguments ignore theirs.
pub fn accepts(method: Method, body: &[u8]) -> bool {
    row(method).is_some_and(|row| match &row.arguments {
        Some(typed) => pack::code_of(body) == Some(typed.code()),
        None => true,
    })
}

/// Reads the arguments of a call that only looks keys up.
pub fn decode_look(method: Method, body: &[u8]) -> Result<Look<'_>, Malformed> {
    let typed = row(method).and_then(|row| row.arguments.as_ref()).ok_or(ABSENT)?;
    let mut reader = pack::decode(typed, body)?;
    let keys = match is_batched(method) {
        true => reader.strings()?,
        false => Keys::from_iter([reader.bytes()?]),
    };
    Ok(Look { method, keys })
}

/// Reads the arguments.
pub fn decode_request(method: Method, body: &[u8]) -> Result<Call, Malformed> {
    let row = row(method).ok_or(ABSENT)?;
    let Some(typed) = &row.arguments else {
        return match method {
            Method::ServiceReady => Ok(Call::ServiceReady),
            Method::StorageDirectory => Ok(Call::StorageDirectory),
            Method::RemoveAll => Ok(Call::RemoveAll { force: false }),
            _ => Err(ABSENT),
        };
    };
    let mut reader = pack::decode(typed, body)?;
    let r = &mut reader;
    Ok(match method {
        Method::Ping => Call::Ping(ClientId(uuid(r)?)),
        Method::Exists | Method::BatchExists | Method::Lookup | Method::BatchLookup => {
            decode_look(method, body)?.to_call()
        }
        Method::LookupByPattern => Call::LookupByPattern(key(r)?),
        Method::PutStart => {
            let item = PutItem::new(key(r)?, sizes(r)?);
            Call::PutStart(None, item, config(r)?)
        }
        Method::BatchPutStart => {
            let keys = keys(r)?;
            let slices = r.list(1, 0, sizes)?;
            if keys.len() != slices.len() {
                return Err(Malformed { what: "not one size list for each key", at: 0 });
            }
            let pairs = keys.into_iter().zip(slices);
            let items = pairs.map(|(key, slices)| PutItem::new(key, slices)).collect();
            Call::BatchPutStart(None, items, config(r)?)
        }
        Method::PutEnd => Call::PutEnd(None, key(r)?, kind(r)?, 0),
        Method::PutRevoke => Call::PutRevoke(None, key(r)?, kind(r)?, 0),
        Method::BatchPutEnd => Call::BatchPutEnd(None, keys(r)?, ReplicaKind::Memory, Vec::new()),
        Method::BatchPutRevoke => {
            Call::BatchPutRevoke(None, keys(r)?, ReplicaKind::Memory, Vec::new())
        }
        Method::Remove => Call::Remove { key: key(r)?, force: false },
        Method::RemoveByPattern => Call::RemoveByPattern { pattern: key(r)?, force: false },
        Method::Mount => Call::Mount(segment(r)?, ClientId(uuid(r)?)),
        Method::Remount => {
            let segments = r.list(2, 32, segment)?;
            Call::Remount(segments, ClientId(uuid(r)?))
        }
        Method::Unmount => Call::Unmount(SegmentId(uuid(r)?), ClientId(uuid(r)?)),
        _ => return Err(ABSENT),
    })
}

/// Appends the arguments; `Err` says what this version cannot say.
pub fn encode_request(call: &Call, out: &mut Vec<u8>) -> Result<(), &'static str> {
    const NO_FORCE: &str = "the master's dialect cannot remove leased objects";
    const NO_HARD_PIN: &str = "the master's dialect has no hard pin";
    const NO_SUCH_CALL: &str = "the master's dialect has no such call";
    match call {
        Call::Remove { force: true, .. }
        | Call::RemoveByPattern { force: true, .. }
        | Call::RemoveAll { force: true } => return Err(NO_FORCE),
        Call::PutStart(_, _, options) | Call::BatchPutStart(_, _, options) if options.hard_pin => {
            return Err(NO_HARD_PIN);
        }
        Call::PutEnd(_, _, kind, _) | Call::PutRevoke(_, _, kind, _) => drop(kind_number(*kind)?),
        Call::BatchPutEnd(_, _, kind, _) | Call::BatchPutRevoke(_, _, kind, _)
            if kind_number(*kind)? != 0 =>
        {
            return Err("the master's dialect has batched ends of memory only");
        }
        _ => {}
    }
    let row = row(call.method()).ok_or(NO_SUCH_CALL)?;
    let Some(typed) = &row.arguments else { return Ok(()) };
    pack::encode(typed, out, |w| match call {
        Call::Ping(client) => put_uuid(w, client.0),
        Call::Exists(key)
        | Call::Lookup(key)
        | Call::LookupByPattern(key)
        | Call::Remove { key, .. }
        | Call::RemoveByPattern { pattern: key, .. } => w.bytes(key),
        Call::BatchExists(keys)
        | Call::BatchLookup(keys)
        | Call::BatchPutEnd(_, keys, ..)
        | Call::BatchPutRevoke(_, keys, ..) => w.list(keys, |w, key| w.bytes(key)),
        Call::PutStart(_, item, options) => {
            w.bytes(&item.key);
            w.list(&item.slices, |w, size| w.u64(*size));
            put_config(w, options);
        }
        Call::BatchPutStart(_, items, options) => {
            w.list(items, |w, item| w.bytes(&item.key));
            w.list(items, |w, item| w.list(&item.slices, |w, size| w.u64(*size)));
            put_config(w, options);
        }
        Call::PutEnd(_, key, kind, _) | Call::PutRevoke(_, key, kind, _) => {
            w.bytes(key);
            // Looked at above.
            w.i32(kind_number(*kind).unwrap_or_default());
        }
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
        // They have no arguments, or no row.
        Call::ServiceReady
        | Call::StorageDirectory
        | Call::RemoveAll { .. }
        | Call::BatchRemove { .. }
        | Call::Greet { .. }
        | Call::Attend { .. }
        | Call::Report { .. }
        | Call::Suspect { .. }
        | Call::Keep { .. }
        | Call::Unfinished { .. } => {}
    });
    Ok(())
}

/// Appends an answer; false if this version has none of that kind.
pub fn encode_reply(method: Method, reply: &Reply, out: &mut Vec<u8>) -> bool {
    let Some(row) = row(method) else { return false };
    if matches!(reply, Reply::Greeted(_) | Reply::Events(_)) {
        return false;
    }
    pack::encode(&row.result, out, |w| match reply {
        Reply::Ready(outcome) => put_outcome(w, outcome, |_, _| {}),
        Reply::Directory(outcome) => put_outcome(w, outcome, |w, path| w.bytes(path.as_bytes())),
        Reply::Pong(outcome) => put_outcome(w, outcome, |w, pong| {
            w.i64(pong.view_version);
            w.i32(match pong.status {
                ClientStatus::Undefined => 0,
                ClientStatus::Ok => 1,
                ClientStatus::NeedRemount => 2,
            });
        }),
        Reply::Exists(outcome) => put_outcome(w, outcome, |w, exists| w.bool(*exists)),
        Reply::BatchExists(all) => {
            w.list(all, |w, one| put_outcome(w, one, |w, exists| w.bool(*exists)));
        }
        Reply::Located(outcome) => put_outcome(w, outcome, |w, one| put_located(w, &one.into())),
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
        // Turned away above.
        Reply::Greeted(_) | Reply::Events(_) => {}
    });
    true
}

/// Appends what a look has seen; false if this version has no such call.
pub fn encode_seen(method: Method, seen: &Seen<'_>, out: &mut Vec<u8>) -> bool {
    let Some(row) = row(method) else { return false };
    let is_batched = is_batched(method);
    let count = if is_batched { seen.count() } else { 0 };
    pack::encode_from(&row.result, count, out, |w| {
        if is_batched {
            w.count(count);
        }
        match seen {
            Seen::Exists(found) => found.iter().for_each(|found| w.fixed([1, u8::from(*found)])),
            Seen::Located(sights) => {
                (0..sights.count()).for_each(|at| put_outcome(w, &sights.sight(at), put_located));
            }
        }
    });
    true
}

/// Reads the answer to a call of that method.
pub fn decode_reply(method: Method, body: &[u8]) -> Result<Reply, Malformed> {
    let row = row(method).ok_or(ABSENT)?;
    let mut reader = pack::decode(&row.result, body)?;
    let r = &mut reader;
    Ok(match method {
        Method::ServiceReady => Reply::Ready(outcome(r, |_| Ok(String::new()))?),
        Method::StorageDirectory => Reply::Directory(outcome(r, Reader::text)?),
        Method::Ping => Reply::Pong(outcome(r, pong)?),
        Method::Exists => Reply::Exists(outcome(r, Reader::bool)?),
        Method::BatchExists => Reply::BatchExists(r.list(0, 2, |r| outcome(r, Reader::bool))?),
        Method::Lookup => Reply::Located(outcome(r, located)?),
        Method::BatchLookup => Reply::BatchLocated(r.list(0, 5, |r| outcome(r, located))?),
        Method::LookupByPattern => {
            Reply::Found(outcome(r, |r| r.list(2, 0, |r| Ok((key(r)?, replicas(r)?))))?)
        }
        Method::PutStart => Reply::Granted(outcome(r, granted)?),
        Method::BatchPutStart => Reply::BatchGranted(r.list(0, 2, |r| outcome(r, granted))?),
        Method::PutEnd
        | Method::PutRevoke
        | Method::Remove
        | Method::Mount
        | Method::Remount
        | Method::Unmount => Reply::Done(outcome(r, |_| Ok(()))?),
        Method::BatchPutEnd | Method::BatchPutRevoke => {
            Reply::BatchDone(r.list(0, 1, |r| outcome(r, |_| Ok(())))?)
        }
        Method::RemoveByPattern => Reply::Removed(outcome(r, Reader::i64)?),
        Method::RemoveAll => Reply::RemovedAll(r.i64()?),
        _ => return Err(ABSENT),
    })
}

fn put_uuid(w: &mut Writer<'_>, uuid: Uuid) {
    w.u64(uuid.first);
    w.u64(uuid.second);
}

fn uuid(r: &mut Reader<'_>) -> Result<Uuid, Malformed> {
    Ok(Uuid { first: r.u64()?, second: r.u64()? })
}

fn key(r: &mut Reader<'_>) -> Result<Key, Malformed> {
    r.bytes().map(<[u8]>::to_vec)
}

fn keys(r: &mut Reader<'_>) -> Result<Vec<Key>, Malformed> {
    r.list(1, 0, key)
}

fn sizes(r: &mut Reader<'_>) -> Result<Vec<u64>, Malformed> {
    r.list(0, 8, Reader::u64)
}

/// A number that this version does not know means no kind that it has, so that such a call finds
/// nothing to do. It is what upstream's master makes of it.
fn kind(r: &mut Reader<'_>) -> Result<ReplicaKind, Malformed> {
    Ok(match r.i32()? {
        0 => ReplicaKind::Memory,
        1 => ReplicaKind::Disk,
        _ => ReplicaKind::LocalDisk,
    })
}

/// All that a client of this version fills itself is memory.
fn kind_number(kind: ReplicaKind) -> Result<i32, &'static str> {
    match kind {
        ReplicaKind::Memory | ReplicaKind::All => Ok(0),
        ReplicaKind::Disk => Ok(1),
        ReplicaKind::LocalDisk => Err("the master's dialect has no replicas on local disks"),
    }
}

fn put_config(w: &mut Writer<'_>, options: &PutOptions) {
    w.u64(options.replica_num);
    w.bool(options.soft_pin);
    w.bytes(options.preferred_segments.first().map_or(&[], |name| name.as_bytes()));
    w.bool(options.same_node);
}

fn config(r: &mut Reader<'_>) -> Result<PutOptions, Malformed> {
    let (replica_num, soft_pin, preferred) = (r.u64()?, r.bool()?, r.text()?);
    let preferred_segments = if preferred.is_empty() { Vec::new() } else { vec![preferred] };
    let same_node = r.bool()?;
    Ok(PutOptions { replica_num, soft_pin, preferred_segments, same_node, ..PutOptions::default() })
}

fn put_segment(w: &mut Writer<'_>, segment: &Segment) {
    put_uuid(w, segment.id.0);
    w.bytes(segment.name.as_bytes());
    w.u64(segment.base);
    w.u64(segment.size);
    w.bytes(segment.endpoint.as_bytes());
}

fn segment(r: &mut Reader<'_>) -> Result<Segment, Malformed> {
    Ok(Segment {
        id: SegmentId(uuid(r)?),
        name: r.text()?,
        base: r.u64()?,
        size: r.u64()?,
        endpoint: r.text()?,
        protocol: String::new(),
    })
}

fn pong(r: &mut Reader<'_>) -> Result<Pong, Malformed> {
    let view_version = r.i64()?;
    let status = match r.i32()? {
        1 => ClientStatus::Ok,
        2 => ClientStatus::NeedRemount,
        _ => ClientStatus::Undefined,
    };
    Ok(Pong { view_version, status })
}

fn put_replica(w: &mut Writer<'_>, replica: &ReplicaView<'_>) {
    match replica.place {
        PlaceView::Memory(ranges) => {
            w.u8(0);
            w.count(ranges.count());
            ranges.each(|size, address, _, endpoint| {
                w.u64(size);
                w.u64(address);
                w.bytes(endpoint.as_bytes());
            });
        }
        PlaceView::Disk { path, size } => {
            w.u8(1);
            w.bytes(path.as_bytes());
            w.u64(size);
        }
    }
    w.i32(match replica.status {
        ReplicaStatus::Undefined => 0,
        ReplicaStatus::Initialized => 1,
        ReplicaStatus::Processing => 2,
        ReplicaStatus::Complete => 3,
        ReplicaStatus::Removed => 4,
        ReplicaStatus::Failed => 5,
    });
}

fn replica(r: &mut Reader<'_>) -> Result<Replica, Malformed> {
    let place = match r.u8()? {
        0 => Place::Memory(r.list(1, 16, |r| {
            let (size, address, endpoint) = (r.u64()?, r.u64()?, r.text()?);
            Ok(BufferRange { size, address, protocol: String::new(), endpoint })
        })?),
        1 => Place::Disk { path: r.text()?, size: r.u64()? },
        _ => return Err(Malformed { what: "an unknown kind of replica", at: 0 }),
    };
    let status = match r.i32()? {
        1 => ReplicaStatus::Initialized,
        2 => ReplicaStatus::Processing,
        3 => ReplicaStatus::Complete,
        4 => ReplicaStatus::Removed,
        5 => ReplicaStatus::Failed,
        _ => ReplicaStatus::Undefined,
    };
    Ok(Replica { id: 0, place, status })
}

fn replicas(r: &mut Reader<'_>) -> Result<Vec<Replica>, Malformed> {
    r.list(1, 5, replica)
}

fn put_located(w: &mut Writer<'_>, located: &LocatedView<'_>) {
    w.count(located.copies.count());
    located.copies.each(|copy| put_replica(w, copy));
    w.u64(located.lease_ttl_ms);
}

fn located(r: &mut Reader<'_>) -> Result<Located, Malformed> {
    Ok(Located { replicas: replicas(r)?, lease_ttl_ms: r.u64()?, generation: 0 })
}

fn put_granted(w: &mut Writer<'_>, granted: &Granted) {
    w.list(&granted.replicas, |w, replica| put_replica(w, &replica.into()));
}

fn granted(r: &mut Reader<'_>) -> Result<Granted, Malformed> {
    Ok(Granted { replicas: replicas(r)?, generation: 0 })
}

fn put_outcome<T>(w: &mut Writer<'_>, outcome: &Outcome<T>, ok: impl Fn(&mut Writer<'_>, &T)) {
    w.bool(outcome.is_ok());
    match outcome {
        Ok(value) => ok(w, value),
        Err(refusal) => w.i32(refusal.number()),
    }
}

fn outcome<'a, T>(
    r: &mut Reader<'a>,
    ok: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Outcome<T>, Malformed> {
    if r.flag()? {
        return ok(r).map(Ok);
    }
    // An error that is none is a defect of the other side.
    Ok(Err(Refusal::from_number(r.i32()?).unwrap_or(Refusal::INTERNAL_ERROR)))
}
