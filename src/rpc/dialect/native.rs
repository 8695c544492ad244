//! Our own calls: everything that [`Call`] and [`Reply`] can say. Pure.
//!
//! The layout is in `docs/store.md`. A body begins with the number of its version; fields follow in
//! a fixed order, without types, with lengths of four bytes. A later version only appends fields to
//! a call, an answer or a record, and uses no number of an enumeration for anything else. A client
//! writes the version that `Greet` settled, a master answers in the version of the request, and
//! `Greet` itself is read in any version.

mod fields;

use crate::pool::identity::SegmentId;
use crate::rpc::look::{is_batched, Keys, Look, Seen};
use crate::rpc::message::{Call, Events, Greeting, Method, Reply};
use crate::rpc::pack::{self, Malformed, Reader, Writer};

use fields::*;

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
            read_groups(r, std::iter::once(&mut item.group))?;
            Call::PutStart(client, item, options)
        }
        Method::BatchPutStart => {
            let (client, mut items) = (maybe_client(r)?, r.list(2, 0, item)?);
            let options = options(r)?;
            read_groups(r, items.iter_mut().map(|item| &mut item.group))?;
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
            let (client, mut objects, last) = (client(r)?, r.list(2, 33, held)?, r.flag()?);
            read_groups(r, objects.iter_mut().map(|held| &mut held.group))?;
            Call::Report { client, objects, last }
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
                put_groups(w, std::iter::once(&item.group));
            }
            Call::BatchPutStart(client, items, options) => {
                put_client(w, client);
                w.list(items, put_item);
                put_options(w, options);
                put_groups(w, items.iter().map(|item| &item.group));
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
                put_groups(w, objects.iter().map(|held| &held.group));
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
                let completed = events.events.iter().filter_map(completed);
                put_groups(w, completed.map(|held| &held.group));
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
            let mut events = r.list(0, 33, event)?;
            read_groups(r, events.iter_mut().filter_map(completed_group))?;
            Ok(Events { pong, master_life, last, events })
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
