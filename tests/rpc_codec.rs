//! The codecs of the store's calls on random and on damaged bytes: what is written is read as the
//! same; what is damaged never panics, and costs no more memory than its length allows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[path = "common/calls.rs"]
mod calls;
#[path = "common/peak_alloc.rs"]
mod peak_alloc;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;

use std::fs;
use std::path::PathBuf;

use calls::Maker;
use mooncake::pool::identity::{ClientId, SegmentId, Uuid};
use mooncake::pool::object::{PutItem, PutOptions};
use mooncake::pool::outcome::Outcome;
use mooncake::pool::replica::{Located, LocatedView};
use mooncake::pool::segment::{ClientStatus, HeldObject, Pong, SegmentEvent};
use mooncake::rpc::dialect::{self, Asked, Dialect};
use mooncake::rpc::frame::{
    Fault, ReplyHeader, RequestHeader, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES,
};
use mooncake::rpc::look::{is_look, Seen, Sights};
use mooncake::rpc::message::{Call, Events, Method, Reply};
use peak_alloc::peak_of;
use random::Random;

const DIALECTS: [Dialect; 2] = [Dialect::Native, Dialect::Upstream0_3_7];
/// The smallest element is one byte on the wire and a few dozen in memory; lists grow by doubling.
const GROWTH_MAX: usize = 200;
const PEAK_BYTES_FREE: usize = 4096;

#[test]
fn random_calls_and_answers_survive_both_dialects() {
    let mut random = Random::for_test("random_calls_and_answers_survive_both_dialects");
    for dialect in DIALECTS {
        let mut maker = Maker { random: &mut random, dialect };
        for _ in 0..200 {
            for method in maker.methods() {
                let call = maker.call(method);
                let mut body = Vec::new();
                let function = dialect::encode_request(dialect, &call, &mut body).unwrap();
                let read = dialect::decode_request(function, &body, Dialect::Upstream0_3_7);
                let read = read.unwrap_or_else(|fault| panic!("{call:?}: {fault:?}"));
                assert_eq!((read.dialect, &read.call), (dialect, &call));

                let reply = maker.reply(&call);
                assert!(reply.fits(&call));
                let mut body = b"before".to_vec();
                dialect::encode_reply(dialect, method, &reply, &mut body).unwrap();
                assert_eq!(dialect::decode_reply(dialect, method, &body[6..]), Ok(reply));
            }
        }
    }
}

/// Answers as an index would tell them.
struct Told(Vec<Outcome<Located>>);

impl Sights for Told {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn sight(&self, at: usize) -> Outcome<LocatedView<'_>> {
        self.0[at].as_ref().map(LocatedView::from).map_err(|refusal| *refusal)
    }
}

#[test]
fn what_a_look_has_seen_is_written_like_the_answer() {
    let mut random = Random::for_test("what_a_look_has_seen_is_written_like_the_answer");
    for dialect in DIALECTS {
        let write = |method, reply: &Reply, seen: &Seen<'_>| {
            let (mut answered, mut shown) = (b"kept".to_vec(), b"kept".to_vec());
            dialect::encode_reply(dialect, method, reply, &mut answered).unwrap();
            dialect::encode_seen(dialect, method, seen, &mut shown).unwrap();
            assert_eq!(shown, answered, "{dialect} {method:?} {}", seen.count());
        };
        for count in [0, 1, 2, 64, 255, 256, 300] {
            let found: Vec<bool> = (0..count).map(|_| random.chance(50)).collect();
            let reply = Reply::BatchExists(found.iter().copied().map(Ok).collect());
            write(Method::BatchExists, &reply, &Seen::Exists(&found));
            let keys = vec![b"key".to_vec(); count];
            let mut maker = Maker { random: &mut random, dialect };
            let Reply::BatchLocated(all) = maker.reply(&Call::BatchLookup(keys)) else { panic!() };
            let told = Told(all.clone());
            write(Method::BatchLookup, &Reply::BatchLocated(all.clone()), &Seen::Located(&told));
            let Some(one) = all.into_iter().next() else { continue };
            write(Method::Exists, &Reply::Exists(Ok(found[0])), &Seen::Exists(&found[..1]));
            let told = Told(vec![one.clone()]);
            write(Method::Lookup, &Reply::Located(one), &Seen::Located(&told));
        }
        // What does not fit the call is a defect of the service; nothing of it is written.
        let mut out = b"kept".to_vec();
        for (method, found) in [(Method::Exists, 2), (Method::Lookup, 1), (Method::BatchLookup, 1)]
        {
            let found = vec![true; found];
            let seen = Seen::Exists(&found);
            assert!(dialect::encode_seen(dialect, method, &seen, &mut out).is_err());
        }
        assert_eq!(out, b"kept");
    }
}

#[test]
fn a_look_has_the_keys_of_the_call() {
    let mut random = Random::for_test("a_look_has_the_keys_of_the_call");
    for dialect in DIALECTS {
        let mut maker = Maker { random: &mut random, dialect };
        for method in Method::ALL.into_iter().cycle().take(2000) {
            if !maker.methods().contains(&method) {
                continue;
            }
            let call = maker.call(method);
            let mut body = Vec::new();
            let function = dialect::encode_request(dialect, &call, &mut body).unwrap();
            let (of, asked) =
                dialect::decode_asked(function, &body, Dialect::Upstream0_3_7).unwrap();
            match asked {
                Asked::Look(look) => {
                    assert!(is_look(method));
                    assert_eq!((of, look.method, look.to_call()), (dialect, method, call));
                    let range = body.as_ptr_range();
                    let mut keys = look.keys.iter().filter(|key| !key.is_empty());
                    assert!(keys.all(|key| range.contains(&key.as_ptr())));
                }
                Asked::Call(other) => {
                    assert!(!is_look(method));
                    assert_eq!((of, other), (dialect, call));
                }
            }
        }
    }
}

#[test]
fn what_a_dialect_cannot_say_is_refused_and_named() {
    let refused = [
        Call::Greet { version: 1 },
        Call::BatchRemove { keys: vec![b"a".to_vec()], force: false },
        Call::Remove { key: b"a".to_vec(), force: true },
        Call::RemoveAll { force: true },
    ];
    for call in refused {
        let mut out = b"kept".to_vec();
        let error = dialect::encode_request(Dialect::Upstream0_3_7, &call, &mut out).unwrap_err();
        assert_eq!(error.kind(), mooncake::error::ErrorKind::Unsupported);
        assert_eq!(error.context("dialect"), Some("0.3.7"));
        assert_eq!(out, b"kept");
        assert!(dialect::encode_request(Dialect::Native, &call, &mut out).is_ok());
    }
    // An answer of another kind is a defect of the service, not of the wire.
    let reply = Reply::RemovedAll(1);
    let mut out = Vec::new();
    assert!(dialect::encode_reply(Dialect::Native, Method::Exists, &reply, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn groups_stand_behind_what_earlier_versions_read() {
    let mut item = PutItem::new(b"a".to_vec(), vec![1, 2]);
    let other = PutItem::new(b"b".to_vec(), vec![3]);
    let call = |items: &[PutItem]| {
        Call::BatchPutStart(
            None,
            items.to_vec(),
            PutOptions { soft_pin: true, ..Default::default() },
        )
    };
    let plain = call(&[item.clone(), other.clone()]);
    item.group = b"page".to_vec();
    let grouped = call(&[item, other]);
    let body_of = |dialect, call: &Call| {
        let mut body = Vec::new();
        let function = dialect::encode_request(dialect, call, &mut body).unwrap();
        (function, body)
    };
    // An earlier master ignores what it does not know; an earlier client ends before it.
    let ((function, before), (_, after)) =
        (body_of(Dialect::Native, &plain), body_of(Dialect::Native, &grouped));
    assert_eq!(after.strip_prefix(before.as_slice()).unwrap(), b"\x02\0\0\0\x04\0\0\0page\0\0\0\0");
    let read = |body: &[u8]| dialect::decode_request(function, body, Dialect::Upstream0_3_7);
    assert_eq!(
        (read(&before).unwrap().call, read(&after).unwrap().call),
        (plain.clone(), grouped.clone())
    );
    // One group for two items.
    let one = [&before[..], b"\x01\0\0\0\x04\0\0\0page"].concat();
    assert_eq!(read(&one), Err(Fault::invalid_arguments()));
    let upstream = |call| body_of(Dialect::Upstream0_3_7, call);
    assert_eq!(upstream(&grouped), upstream(&plain));
}

#[test]
fn groups_of_what_is_held_stand_behind_what_earlier_versions_read() {
    let held = |number: u64, group: &[u8]| HeldObject {
        key: format!("k{number}").into_bytes(),
        generation: number,
        segment: SegmentId(Uuid { first: 1, second: 2 }),
        address: 64 * number,
        slices: vec![64],
        soft_pin: false,
        group: group.to_vec(),
    };
    let client = ClientId(Uuid { first: 3, second: 4 });
    let report = |group: &[u8]| {
        let objects = vec![held(1, group), held(2, b"")];
        let mut body = Vec::new();
        let call = Call::Report { client, objects, last: true };
        let function = dialect::encode_request(Dialect::Native, &call, &mut body).unwrap();
        (function, body, call)
    };
    let ((function, before, plain), (_, after, grouped)) = (report(b""), report(b"page"));
    let groups: &[u8] = b"\x02\0\0\0\x04\0\0\0page\0\0\0\0";
    // Who does not know the field ends before it, whoever writes or reads.
    assert_eq!(after.strip_prefix(before.as_slice()).unwrap(), groups);
    let read = |body: &[u8]| dialect::decode_request(function, body, Dialect::Upstream0_3_7);
    assert_eq!((read(&before).unwrap().call, read(&after).unwrap().call), (plain, grouped));
    let fault = || Err(Fault::invalid_arguments());
    assert_eq!(read(&[&before[..], b"\x01\0\0\0\x04\0\0\0page"].concat()), fault());
    assert_eq!(read(&after[..after.len() - 1]), fault());
    // What is gone has no group: two names for three events.
    let news = |group: &[u8]| {
        let segment = SegmentId(Uuid { first: 1, second: 2 });
        let gone = SegmentEvent::Gone { segment, address: 64, generation: 9 };
        let completed = SegmentEvent::Completed;
        let pong = Pong { view_version: 0, status: ClientStatus::Ok };
        let events = vec![completed(held(1, group)), gone, completed(held(2, b""))];
        let reply = Reply::Events(Ok(Events { pong, master_life: 1, last: 3, events }));
        let mut body = Vec::new();
        dialect::encode_reply(Dialect::Native, Method::Attend, &reply, &mut body).unwrap();
        (body, reply)
    };
    let ((before, plain), (after, grouped)) = (news(b""), news(b"page"));
    assert_eq!(after.strip_prefix(before.as_slice()).unwrap(), groups);
    let read = |body: &[u8]| dialect::decode_reply(Dialect::Native, Method::Attend, body);
    assert_eq!((read(&before).unwrap(), read(&after).unwrap()), (plain, grouped));
    let three = b"\x03\0\0\0\x04\0\0\0page\0\0\0\0\0\0\0\0";
    assert!(read(&[&before[..], three].concat()).is_err());
}

#[test]
fn what_a_put_is_called_is_a_field_behind_all_others() {
    use mooncake::pool::replica::ReplicaKind;
    let (key, keys) = (b"k".to_vec(), vec![b"k".to_vec(), b"l".to_vec()]);
    let kind = ReplicaKind::Memory;
    let pairs = [
        (Call::PutEnd(None, key.clone(), kind, 0), Call::PutEnd(None, key.clone(), kind, 7)),
        (Call::PutRevoke(None, key.clone(), kind, 0), Call::PutRevoke(None, key, kind, 7)),
        (
            Call::BatchPutEnd(None, keys.clone(), kind, vec![]),
            Call::BatchPutEnd(None, keys.clone(), kind, vec![7, 8]),
        ),
        (
            Call::BatchPutRevoke(None, keys.clone(), kind, vec![]),
            Call::BatchPutRevoke(None, keys.clone(), kind, vec![7, 8]),
        ),
    ];
    let encode = |call: &Call| {
        let mut body = Vec::new();
        let function = dialect::encode_request(Dialect::Native, call, &mut body).unwrap();
        (function, body)
    };
    for (old, new) in pairs {
        // A master from before the field reads the same call and passes over the rest; a client
        // from before it is read as one that does not say.
        let ((function, before), (_, after)) = (encode(&old), encode(&new));
        assert!(after.starts_with(&before) && after.len() > before.len());
        for (body, call) in [(&before, &old), (&after, &new)] {
            let read = dialect::decode_request(function, body, Dialect::Upstream0_3_7).unwrap();
            assert_eq!(&read.call, call);
        }
        let cut = &after[..after.len() - 1];
        assert!(dialect::decode_request(function, cut, Dialect::Upstream0_3_7).is_err());
    }
    // Not one for each key.
    let (function, body) = encode(&Call::BatchPutEnd(None, keys, kind, vec![7]));
    assert!(dialect::decode_request(function, &body, Dialect::Upstream0_3_7).is_err());
}

/// Every captured frame, and one native frame of each kind.
fn frames(random: &mut Random) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store/0.3.7.post2");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut frames: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(frames.len(), 92);
    // The two of 70 kB would take most of the time.
    frames.retain(|frame| frame.len() < 10_000);
    let mut maker = Maker { random, dialect: Dialect::Native };
    for method in Method::ALL {
        let call = maker.call(method);
        let mut body = Vec::new();
        let function = dialect::encode_request(Dialect::Native, &call, &mut body).unwrap();
        let length = body.len() as u32;
        let header = RequestHeader { seq: 1, function, length, attachment: 0 };
        frames.push([&header.encode()[..], &body].concat());
        let mut body = Vec::new();
        dialect::encode_reply(Dialect::Native, method, &maker.reply(&call), &mut body).unwrap();
        let header = ReplyHeader { fault: 0, seq: 1, length: body.len() as u32, attachment: 0 };
        frames.push([&header.encode()[..], &body].concat());
    }
    frames
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() as u64 + 1) as usize;
    match random.below(6) {
        0 => bytes.truncate(at),
        1 | 2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 => {
            let count = random.below(9) as usize;
            let extra = random.bytes(count);
            bytes.splice(at..at, extra);
        }
        4 => {
            // A large length, wherever it may be one.
            let end = bytes.len().min(at + 8);
            bytes[at..end].fill(0xff);
        }
        _ => {
            let end = bytes.len().min(at + random.below(20) as usize);
            bytes.drain(at..end);
        }
    }
}

/// Reads bytes as everything that they could be.
fn read_as_anything(bytes: &[u8]) {
    if let Some((head, body)) = bytes.split_first_chunk::<REQUEST_HEADER_BYTES>() {
        if let Ok(header) = RequestHeader::decode(head) {
            let read = dialect::decode_request(header.function, body, Dialect::Upstream0_3_7);
            if let Ok(read) = read {
                let mut again = Vec::new();
                let function = dialect::encode_request(read.dialect, &read.call, &mut again);
                // Kinds of replicas that a version does not know are read as one that it has not.
                if let Ok(function) = function {
                    let second = dialect::decode_request(function, &again, Dialect::Upstream0_3_7);
                    assert_eq!(second, Ok(read));
                }
            }
        }
    }
    if let Some((head, body)) = bytes.split_first_chunk::<REPLY_HEADER_BYTES>() {
        if let Ok(header) = ReplyHeader::decode(head) {
            let _ = Fault::decode(header.fault, body);
        }
    }
}

fn read_as_reply(body: &[u8], dialect: Dialect, method: Method) {
    if let Ok(reply) = dialect::decode_reply(dialect, method, body) {
        let mut again = Vec::new();
        dialect::encode_reply(dialect, method, &reply, &mut again).unwrap();
        assert_eq!(dialect::decode_reply(dialect, method, &again), Ok(reply));
    }
}

#[test]
fn damaged_frames_never_panic_and_cost_bounded_memory() {
    let mut random = Random::for_test("damaged_frames_never_panic_and_cost_bounded_memory");
    let frames = frames(&mut random);
    // The tables of the codec are made once.
    frames.iter().for_each(|frame| read_as_anything(frame));
    for method in Method::ALL {
        for dialect in DIALECTS {
            read_as_reply(&[], dialect, method);
        }
    }
    for _ in 0..600 {
        for frame in &frames {
            let mut bytes = frame.clone();
            for _ in 0..random.below(4) + 1 {
                damage(&mut random, &mut bytes);
            }
            let bound = bytes.len() * GROWTH_MAX + PEAK_BYTES_FREE;
            let ((), peak) = peak_of(|| read_as_anything(&bytes));
            assert!(peak <= bound, "{peak} bytes for {}", bytes.escape_ascii());
            let method = Method::ALL[random.below(Method::ALL.len() as u64) as usize];
            let dialect = DIALECTS[random.below(2) as usize];
            let body = bytes.get(REPLY_HEADER_BYTES..).unwrap_or_default();
            let ((), peak) = peak_of(|| read_as_reply(body, dialect, method));
            assert!(peak <= bound, "{peak} bytes for {}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_claimed_count_reserves_nothing() {
    // A list of 2^31 keys, in a body of a few bytes.
    let mut body = Vec::new();
    let call = Call::BatchExists(Vec::new());
    let function = dialect::encode_request(Dialect::Upstream0_3_7, &call, &mut body).unwrap();
    body[4] |= 3 << 3;
    let length = body.len();
    body.splice(length - 1.., (1u64 << 31).to_le_bytes());
    let read = || dialect::decode_request(function, &body, Dialect::Upstream0_3_7);
    let (result, peak) = peak_of(read);
    assert_eq!(result, Err(Fault::invalid_arguments()));
    assert!(peak < 1024, "{peak}");
}
