//! The codec of the store's calls against bytes captured from upstream's client and master
//! (`tests/vectors/store/README.md`): each frame is read, means what the index says, and is
//! written again to the same bytes; every type literal and code of both versions follows from its
//! shape.

// A test that cannot read its own material ends; the exemption for tests covers no helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use mooncake::pool::identity::Uuid;
use mooncake::pool::outcome::Outcome;
use mooncake::pool::replica::{Place, Replica, ReplicaKind, ReplicaStatus};
use mooncake::pool::segment::{ClientStatus, Segment};
use mooncake::rpc::dialect::{self, function_id, upstream_0_3_7, upstream_name, Dialect};
use mooncake::rpc::frame::{
    Fault, ReplyHeader, RequestHeader, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES,
};
use mooncake::rpc::message::{Call, Granted, Method, Reply};
use mooncake::rpc::shape::Shape;
use serde_json::{json, Map, Value};

const D7: Dialect = Dialect::Upstream0_3_7;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store")
}

fn read_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder().join(name)).unwrap()).unwrap()
}

/// The frames of the index in pairs: request, its entry, reply, its entry.
fn conversations() -> Vec<[(Vec<u8>, Value); 2]> {
    let index = read_json("index.json");
    let entries = index["entries"].as_array().unwrap();
    let load = |entry: &Value| {
        let bytes = fs::read(folder().join(entry["file"].as_str().unwrap())).unwrap();
        assert_eq!(bytes.len() as u64, entry["bytes"].as_u64().unwrap());
        (bytes, entry.clone())
    };
    let pairs: Vec<_> = entries.chunks(2).map(|pair| [load(&pair[0]), load(&pair[1])]).collect();
    assert_eq!(pairs.len(), 46);
    for [(_, request), (_, reply)] in &pairs {
        assert_eq!(
            (&request["direction"], &reply["direction"]),
            (&json!("request"), &json!("response"))
        );
    }
    pairs
}

/// Bytes as the index shows them.
fn text(bytes: &[u8]) -> Value {
    let first = bytes.first().copied().unwrap_or_default();
    if bytes.len() > 400 && bytes.iter().all(|byte| *byte == first) {
        return json!({ "repeat": (first as char).to_string(), "count": bytes.len() });
    }
    json!(std::str::from_utf8(bytes).unwrap())
}

fn texts(keys: &[Vec<u8>]) -> Value {
    keys.iter().map(|key| text(key)).collect()
}

fn uuid(uuid: Uuid) -> Value {
    json!([uuid.first, uuid.second])
}

fn segment(segment: &Segment) -> Value {
    assert_eq!(segment.protocol, "");
    json!({
        "id": uuid(segment.id.0), "name": segment.name, "base": segment.base,
        "size": segment.size, "te_endpoint": segment.endpoint,
    })
}

fn kind(kind: ReplicaKind) -> Value {
    json!(match kind {
        ReplicaKind::Memory => 0,
        ReplicaKind::Disk => 1,
        other => panic!("{other:?}"),
    })
}

fn config(options: &mooncake::pool::object::PutOptions) -> Value {
    assert!(!options.hard_pin && options.soft_pin_ttl_ms.is_none());
    assert!(options.preferred_segments.len() <= 1);
    json!({
        "replica_num": options.replica_num, "with_soft_pin": options.soft_pin,
        "preferred_segment": options.preferred_segments.first().cloned().unwrap_or_default(),
        "prefer_alloc_in_same_node": options.same_node,
    })
}

/// A request as the index shows it.
fn request_meaning(call: &Call) -> Value {
    match call {
        Call::ServiceReady | Call::StorageDirectory | Call::RemoveAll { force: false } => json!({}),
        Call::Ping(client) => json!({ "client_id": uuid(client.0) }),
        Call::Exists(key) | Call::Lookup(key) | Call::Remove { key, force: false } => {
            json!({ "key": text(key) })
        }
        Call::BatchExists(keys)
        | Call::BatchLookup(keys)
        | Call::BatchPutEnd(None, keys, ReplicaKind::Memory, _)
        | Call::BatchPutRevoke(None, keys, ReplicaKind::Memory, _) => {
            json!({ "keys": texts(keys) })
        }
        Call::LookupByPattern(pattern) | Call::RemoveByPattern { pattern, force: false } => {
            json!({ "regex": text(pattern) })
        }
        Call::PutStart(None, item, options) => json!({
            "key": text(&item.key), "slice_lengths": item.slices, "config": config(options),
        }),
        Call::BatchPutStart(None, items, options) => json!({
            "keys": items.iter().map(|item| text(&item.key)).collect::<Value>(),
            "slice_lengths": items.iter().map(|item| json!(item.slices)).collect::<Value>(),
            "config": config(options),
        }),
        Call::PutEnd(None, key, of, 0) | Call::PutRevoke(None, key, of, 0) => {
            json!({ "key": text(key), "replica_type": kind(*of) })
        }
        Call::Mount(mounted, client) => {
            json!({ "segment": segment(mounted), "client_id": uuid(client.0) })
        }
        Call::Remount(segments, client) => json!({
            "segments": segments.iter().map(segment).collect::<Value>(),
            "client_id": uuid(client.0),
        }),
        Call::Unmount(id, client) => {
            json!({ "segment_id": uuid(id.0), "client_id": uuid(client.0) })
        }
        other => panic!("not of this dialect: {other:?}"),
    }
}

fn outcome<T>(outcome: &Outcome<T>, ok: impl Fn(&T) -> Value) -> Value {
    match outcome {
        Ok(value) => json!({ "ok": ok(value) }),
        Err(refusal) => json!({ "err": refusal.number() }),
    }
}

fn replica(replica: &Replica) -> Value {
    assert_eq!(replica.id, 0);
    let (index, value) = match &replica.place {
        Place::Memory(ranges) => {
            let buffers = ranges.iter().map(|range| {
                json!({
                    "size": range.size, "buffer_address": range.address,
                    "transport_endpoint": range.endpoint,
                })
            });
            (0, json!({ "buffer_descriptors": buffers.collect::<Value>() }))
        }
        Place::Disk { path, size } => {
            // The path ends in the key.
            let path = match path.split_once("xxxxxxxxxx") {
                Some((start, _)) => json!(format!("{start}...")),
                None => json!(path),
            };
            (1, json!({ "file_path": path, "object_size": size }))
        }
    };
    let status = match replica.status {
        ReplicaStatus::Undefined => 0,
        ReplicaStatus::Initialized => 1,
        ReplicaStatus::Processing => 2,
        ReplicaStatus::Complete => 3,
        ReplicaStatus::Removed => 4,
        ReplicaStatus::Failed => 5,
    };
    json!({ "descriptor": { "index": index, "value": value }, "status": status })
}

fn replicas(all: &[Replica]) -> Value {
    all.iter().map(replica).collect()
}

/// A reply as the index shows it.
fn reply_meaning(reply: &Reply) -> Value {
    let granted = |granted: &Granted| replicas(&granted.replicas);
    let located = |located: &mooncake::pool::replica::Located| {
        assert_eq!(located.generation, 0);
        json!({ "replicas": replicas(&located.replicas), "lease_ttl_ms": located.lease_ttl_ms })
    };
    match reply {
        Reply::Ready(ready) => outcome(ready, |_| Value::Null),
        Reply::Directory(directory) => outcome(directory, |path| json!(path)),
        Reply::Pong(pong) => outcome(pong, |pong| {
            let status = match pong.status {
                ClientStatus::Undefined => 0,
                ClientStatus::Ok => 1,
                ClientStatus::NeedRemount => 2,
            };
            json!({ "view_version_id": pong.view_version, "client_status": status })
        }),
        Reply::Exists(exists) => outcome(exists, |exists| json!(exists)),
        Reply::BatchExists(all) => {
            all.iter().map(|one| outcome(one, |exists| json!(exists))).collect()
        }
        Reply::Located(one) => outcome(one, located),
        Reply::BatchLocated(all) => all.iter().map(|one| outcome(one, located)).collect(),
        Reply::Found(found) => outcome(found, |found| {
            let pairs = found
                .iter()
                .map(|(key, of)| (String::from_utf8(key.clone()).unwrap(), replicas(of)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }),
        Reply::Granted(one) => outcome(one, granted),
        Reply::BatchGranted(all) => all.iter().map(|one| outcome(one, granted)).collect(),
        Reply::Done(done) => outcome(done, |()| Value::Null),
        Reply::BatchDone(all) => all.iter().map(|one| outcome(one, |()| Value::Null)).collect(),
        Reply::Removed(count) => outcome(count, |count| json!(count)),
        Reply::RemovedAll(count) => json!(count),
        other => panic!("not of this dialect: {other:?}"),
    }
}

/// The index cuts the path that ends in a long key.
fn cut_paths(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if let ("file_path", Value::Object(path)) = (name.as_str(), &*member) {
                    panic!("a path in another form: {path:?}");
                }
                if let (true, Some(path)) = (name == "file_path", member.as_str()) {
                    if let Some((start, _)) = path.split_once("xxxxxxxxxx") {
                        *member = json!(format!("{start}..."));
                        continue;
                    }
                }
                cut_paths(member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(cut_paths),
        _ => {}
    }
}

#[test]
fn every_frame_is_read_understood_and_written_again() {
    let mut methods = std::collections::BTreeSet::new();
    let mut faults = Vec::new();
    for [(request, asked), (reply, answered)] in conversations() {
        let name = asked["file"].as_str().unwrap();
        let (head, body) = request.split_first_chunk::<REQUEST_HEADER_BYTES>().unwrap();
        let header = RequestHeader::decode(head).unwrap();
        assert_eq!(u64::from(header.seq), asked["seq"].as_u64().unwrap(), "{name}");
        assert_eq!((header.length as usize, header.attachment), (body.len(), 0), "{name}");

        let (reply_head, reply_body) = reply.split_first_chunk::<REPLY_HEADER_BYTES>().unwrap();
        let reply_header = ReplyHeader::decode(reply_head).unwrap();
        assert_eq!(reply_header.encode(), *reply_head, "{name}");
        assert_eq!(reply_header.seq, header.seq, "{name}");
        assert_eq!(reply_header.length as usize, reply_body.len(), "{name}");
        assert_eq!(u64::from(reply_header.fault), answered["err_code"].as_u64().unwrap(), "{name}");

        let read = match dialect::decode_request(header.function, body, D7) {
            Ok(read) => read,
            Err(fault) => {
                // Upstream's master refused these too, with these very bytes.
                let mut bytes = Vec::new();
                fault.encode(&mut bytes);
                assert_eq!((fault.code, &bytes[..]), (reply_header.fault, reply_body), "{name}");
                assert_eq!(Fault::decode(fault.code, reply_body), fault);
                faults.push(fault.code);
                continue;
            }
        };
        assert_eq!(read.dialect, D7);
        let method = read.call.method();
        methods.insert(method);
        assert_eq!(upstream_name(method), asked["rpc"].as_str(), "{name}");
        assert_eq!(request_meaning(&read.call), asked["decoded"], "{name}");
        let mut again = Vec::new();
        let function = dialect::encode_request(D7, &read.call, &mut again).unwrap();
        if name.contains("-plain") {
            // The script left the literal out; we do not.
            let literal = again.iter().skip(5).position(|byte| *byte == 0).unwrap();
            again.drain(4..5 + literal + 1);
            again[0] &= !1;
        }
        assert_eq!((function, &again[..]), (header.function, body), "{name}");
        let header = RequestHeader { function, ..header };
        assert_eq!(header.encode(), *head, "{name}");

        let answer = dialect::decode_reply(D7, method, reply_body).unwrap();
        assert!(answer.fits(&read.call), "{name}");
        let mut expected = answered["decoded"].clone();
        cut_paths(&mut expected);
        assert_eq!(reply_meaning(&answer), expected, "{name}");
        let mut again = Vec::new();
        dialect::encode_reply(D7, method, &answer, &mut again).unwrap();
        assert_eq!(again, reply_body, "{name}");
    }
    faults.sort_unstable();
    assert_eq!(faults, [Fault::INVALID_ARGUMENTS, Fault::NOT_REGISTERED]);
    assert_eq!(methods.len(), 20, "every function was seen");
}

/// A shape from a type as `types.json` writes it, such as `vector<expected<bool, ErrorCode>>`.
fn shape(text: &str, types: &Value) -> Shape {
    let text = text.trim();
    let scalar = match text {
        "void" => Some(Shape::Void),
        "bool" => Some(Shape::Bool),
        "string" => Some(Shape::Text),
        "i32" => Some(Shape::I32),
        "u32" => Some(Shape::U32),
        "i64" => Some(Shape::I64),
        "u64" => Some(Shape::U64),
        "u8" => Some(Shape::U8),
        // Enumerations, by what they are made of.
        "SoftPinAction" | "ObjectDataType" => Some(Shape::U8),
        "ErrorCode" | "ReplicaType" | "ReplicaStatus" | "ClientStatus" | "SegmentStatus"
        | "TaskType" | "TaskStatus" => Some(Shape::I32),
        "UUID" => Some(Shape::Aligned(&[Shape::U64, Shape::U64], 8)),
        _ => None,
    };
    if let Some(scalar) = scalar {
        return scalar;
    }
    if let Some((outer, inner)) = text.split_once('<') {
        let inner: &'static [Shape] = arguments(inner.strip_suffix('>').unwrap(), types).leak();
        return match (outer, inner) {
            ("vector", [item]) => Shape::List(item),
            ("optional", [item]) => Shape::Optional(item),
            ("map", [key, value]) => Shape::Map(key, value),
            ("expected", [value, error]) => Shape::Expected(value, error),
            ("variant", items) => Shape::Variant(items),
            _ => panic!("unknown type {text}"),
        };
    }
    let fields = types[text]["fields"].as_array().unwrap_or_else(|| panic!("unknown type {text}"));
    struct_of(fields, types)
}

/// Splits at the commas that are not inside brackets.
fn arguments(text: &str, types: &Value) -> Vec<Shape> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for letter in text.chars() {
        depth += i32::from(letter == '<') - i32::from(letter == '>');
        match letter {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(letter),
        }
    }
    parts.iter().map(|part| shape(part, types)).collect()
}

fn struct_of(fields: &[Value], types: &Value) -> Shape {
    let shapes: Vec<Shape> =
        fields.iter().map(|field| shape(field[1].as_str().unwrap(), types)).collect();
    Shape::Struct(shapes.leak())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(number: u32) -> String {
    format!("{number:#010x}")
}

#[test]
fn literals_and_codes_of_both_versions_follow_from_their_shapes() {
    let versions = read_json("types.json");
    let (mut types_seen, mut functions_seen) = (0, 0);
    for (version, of) in versions.as_object().unwrap() {
        let types = &of["types"];
        for (name, row) in types.as_object().unwrap() {
            let shape = shape(name, types);
            assert_eq!(hex(&shape.literal()), row["literal"], "{version} {name}");
            assert_eq!(number(shape.code()), row["type_code"], "{version} {name}");
            types_seen += 1;
        }
        for (name, row) in of["rpcs"].as_object().unwrap() {
            let id = function_id(&format!("mooncake::WrappedMasterService::{name}"));
            assert_eq!(number(id), row["function_id"], "{version} {name}");
            let arguments = row["args"].as_array().unwrap();
            let arguments = match &arguments[..] {
                [] => None,
                [one] => Some(shape(one[1].as_str().unwrap(), types)),
                several => Some(struct_of(several, types)),
            };
            if let Some(arguments) = arguments {
                assert_eq!(hex(&arguments.literal()), row["args_literal"], "{version} {name}");
                assert_eq!(number(arguments.code()), row["args_type_code"], "{version} {name}");
            }
            let result = shape(row["result"].as_str().unwrap(), types);
            assert_eq!(hex(&result.literal()), row["result_literal"], "{version} {name}");
            assert_eq!(number(result.code()), row["result_type_code"], "{version} {name}");
            functions_seen += 1;
        }
    }
    assert_eq!((types_seen, functions_seen), (32, 84));
}

#[test]
fn the_dialect_has_the_shapes_of_its_version() {
    let versions = read_json("types.json");
    let of = &versions["0.3.7.post2"];
    let mut seen = 0;
    for method in Method::ALL {
        let Some((arguments, result)) = upstream_0_3_7::shapes(method) else {
            assert_eq!(upstream_name(method), None);
            continue;
        };
        let row = &of["rpcs"][upstream_name(method).unwrap()];
        assert_eq!(hex(&result.literal()), row["result_literal"], "{method:?}");
        match arguments {
            Some(arguments) => {
                assert_eq!(hex(&arguments.literal()), row["args_literal"], "{method:?}");
            }
            None => assert_eq!(row["args"], json!([]), "{method:?}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[test]
fn bodies_without_literal_wider_and_with_more_behind_mean_the_same() {
    let mut tried = 0;
    for [(request, asked), (reply, answered)] in conversations() {
        let function = u32::from_le_bytes(request[8..12].try_into().unwrap());
        let Ok(read) = dialect::decode_request(function, &request[REQUEST_HEADER_BYTES..], D7)
        else {
            continue;
        };
        let method = read.call.method();
        let literal =
            |entry: &Value| entry["body"]["type_literal"].as_str().map_or(0, str::len) / 2;
        let bare = |body: &[u8], entry: &Value| {
            let mut bytes = body.to_vec();
            bytes[4] &= !4;
            bytes.drain(5..5 + literal(entry) + 1);
            bytes.extend(b"and more");
            bytes
        };
        let body = &request[REQUEST_HEADER_BYTES..];
        if body.first().is_some_and(|head| head & 1 == 1) {
            let again = dialect::decode_request(function, &bare(body, &asked), D7).unwrap();
            assert_eq!(again, read);
            tried += 1;
        }
        let body = &reply[REPLY_HEADER_BYTES..];
        let expected = dialect::decode_reply(D7, method, body);
        let again = dialect::decode_reply(D7, method, &bare(body, &answered));
        assert_eq!(again, expected);
    }
    assert!(tried > 30);
}
