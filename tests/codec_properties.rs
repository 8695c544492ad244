//! Properties of the codecs over generated values and damaged bytes: what is written reads back
//! as the same, and no bytes whatever cause a panic or more memory than their number allows.

#[path = "common/peak_alloc.rs"]
mod peak_alloc;

use mooncake::descriptor::{
    BufferDescriptor, DeviceDescriptor, Dialect, NativeBuffer, NativeExtension, Protocols,
    SegmentDescriptor,
};
use mooncake::error::{ErrorKind, Result};
use mooncake::limits;
use mooncake::metadata::document::RpcMeta;
use mooncake::net::handshake::{
    encode_frame, encode_reply, ConnectionMessage, Frame, FrameDecoder, Framing, MessageType,
    NotifyMessage, ProbeReply,
};
use mooncake::transport::tcp::wire::v1v2::{
    decode_status, encode_status, Framing as DataFraming, Header, Opcode,
};
use peak_alloc::peak_of;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Most bytes a codec may hold at one time: a multiple of what came in (the smallest buffer entry,
/// `{},`, becomes a struct of 88 bytes in a vector that doubles; the smallest carried object,
/// `{"":0},`, a tree node of some 600), and a constant for error texts.
fn allowed_bytes(input: &[u8]) -> usize {
    128 * input.len() + (64 << 10)
}

/// Runs a decoder over arbitrary bytes and returns its result.
fn bounded<T>(input: &[u8], decode: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let (result, peak) = peak_of(|| decode(input));
    let allowed = allowed_bytes(input);
    assert!(peak <= allowed, "{peak} bytes held for an input of {}", input.len());
    result
}

/// Every decoder of documents and messages, over the same bytes.
fn decode_all(input: &[u8]) {
    for kind in
        [bounded(input, SegmentDescriptor::decode).err(), bounded(input, RpcMeta::decode).err()]
            .into_iter()
            .flatten()
            .map(|error| error.kind())
    {
        assert_eq!(kind, ErrorKind::MetadataMalformed);
    }
    for kind in [
        bounded(input, NotifyMessage::decode).err(),
        bounded(input, ConnectionMessage::decode).err(),
        bounded(input, ProbeReply::decode).err(),
        bounded(input, |bytes| FrameDecoder::new(usize::MAX).feed(bytes)).err(),
    ]
    .into_iter()
    .flatten()
    .map(|error| error.kind())
    {
        assert_eq!(kind, ErrorKind::Protocol);
    }
}

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let token = prop_oneof![any::<u8>(), proptest::sample::select(b"{}[]\",:\\-0e.n".to_vec())];
    prop_oneof![
        (any::<Index>(), token.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<Index>(), token).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        any::<Index>().prop_map(Damage::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn apply(mut bytes: Vec<u8>, all: &[Damage]) -> Vec<u8> {
    for one in all {
        if bytes.is_empty() {
            break;
        }
        let place = |index: &Index| index.index(bytes.len());
        match one {
            Damage::Set(at, byte) => {
                let at = place(at);
                bytes[at] = *byte;
            }
            Damage::Insert(at, byte) => bytes.insert(place(at), *byte),
            Damage::Remove(at) => {
                bytes.remove(place(at));
            }
            Damage::Truncate(at) => bytes.truncate(place(at)),
            Damage::Repeat(from, to) => {
                let (from, to) = (place(from).min(place(to)), place(from).max(place(to)));
                let part = bytes[from..to].to_vec();
                bytes.splice(from..from, part);
            }
        }
    }
    bytes
}

fn name() -> impl Strategy<Value = String> {
    // Any characters, also those that JSON must escape.
    vec(any::<char>(), 1..20).prop_map(String::from_iter)
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    (1..u64::MAX).prop_flat_map(|addr| (Just(addr), 1..=u64::MAX - addr))
}

fn native(buffers: usize) -> impl Strategy<Value = NativeExtension> {
    let buffer = (any::<u32>(), any::<u64>(), name())
        .prop_map(|(access, key, location)| NativeBuffer { access, key, location });
    (vec(buffer, buffers), any::<u64>(), name(), any::<[u8; 16]>(), 1..=u16::MAX).prop_map(
        |(buffers, capabilities, host_id, instance, version)| NativeExtension {
            buffers,
            capabilities,
            host_id,
            instance,
            version,
        },
    )
}

/// Descriptors an engine may publish: only the members that their protocol has.
fn descriptor() -> impl Strategy<Value = SegmentDescriptor> {
    let protocol = proptest::sample::select(vec!["tcp", "rdma", "ascend", "loopback"]);
    (protocol, vec((name(), range()), 0..6), 0..4_usize).prop_flat_map(
        |(protocol, ranges, device_count)| {
            let is_rdma = protocol == "rdma";
            let key_count = if is_rdma { device_count } else { 0 };
            let keys =
                vec((vec(any::<u32>(), key_count), vec(any::<u32>(), key_count)), ranges.len());
            let has_devices = is_rdma || protocol == "ascend";
            let devices =
                vec((name(), any::<u16>(), name()), if has_devices { device_count } else { 0 });
            let texts = (name(), name(), proptest::option::of(name()));
            let numbers = (any::<u16>(), any::<u32>());
            let native = proptest::option::of(native(ranges.len()));
            (keys, devices, texts, numbers, native).prop_map(
                move |(keys, devices, texts, numbers, native)| SegmentDescriptor {
                    name: texts.0,
                    protocol: Protocols::from(protocol),
                    tcp_data_port: numbers.0,
                    tcp_data_host: texts.2.clone(),
                    tcp_proto_version: numbers.1,
                    timestamp: texts.1,
                    rdma_server_name: texts.2,
                    buffers: ranges
                        .iter()
                        .cloned()
                        .zip(keys)
                        .map(|((name, (addr, length)), (lkey, rkey))| BufferDescriptor {
                            name,
                            addr,
                            length,
                            lkey,
                            rkey,
                        })
                        .collect(),
                    devices: devices
                        .into_iter()
                        .map(|(name, lid, gid)| DeviceDescriptor {
                            name,
                            lid,
                            gid: if is_rdma { gid } else { String::new() },
                        })
                        .collect(),
                    priority_matrix: is_rdma
                        .then(|| serde_json::json!({"*": [["a"], []], "cpu:0": [[], ["a"]]})),
                    rank_info: (protocol == "ascend")
                        .then(|| serde_json::json!({"hostIp": "10.0.0.1", "hostPort": 20013})),
                    native,
                },
            )
        },
    )
}

fn connection() -> impl Strategy<Value = ConnectionMessage> {
    let optional_name = || proptest::option::of(".{0,20}");
    (
        (name(), name(), ".{0,20}"),
        vec(any::<u32>(), 0..4),
        (optional_name(), optional_name(), proptest::option::of(any::<u16>())),
        (proptest::option::of(any::<bool>()), proptest::option::of(any::<u32>())),
    )
        .prop_map(|(paths, qp_num, (local_gid, payload, local_lid), (ready_ack, number))| {
            ConnectionMessage {
                ctrl_channel: number.map(|number| serde_json::json!({ "number": number })),
                local_gid,
                local_lid,
                local_nic_path: paths.0,
                notify_qp_num: number.map(serde_json::Value::from),
                payload,
                peer_nic_path: paths.1,
                qp_num,
                ready_ack,
                reply_msg: paths.2,
            }
        })
}

fn framing() -> impl Strategy<Value = Framing> {
    proptest::sample::select(vec![
        Framing::Old,
        Framing::Typed(MessageType::Connection),
        Framing::Typed(MessageType::Metadata),
        Framing::Typed(MessageType::Notify),
        Framing::Typed(MessageType::Probe),
    ])
}

fn header() -> impl Strategy<Value = Header> {
    (
        any::<u64>(),
        any::<u64>(),
        proptest::sample::select(vec![Opcode::Read, Opcode::Write]),
        proptest::sample::select(vec![DataFraming::V1, DataFraming::V2]),
    )
        .prop_map(|(size, addr, opcode, framing)| Header { size, addr, opcode, framing })
}

/// Feeds `bytes` in pieces that end at `cuts`.
fn feed_in_pieces(bytes: &[u8], cuts: &[Index]) -> Result<Option<Frame>> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut decoder = FrameDecoder::new(limits::HANDSHAKE_BYTES_DEFAULT);
    let (mut start, mut frame) = (0, None);
    for end in ends {
        frame = frame.or(decoder.feed(&bytes[start..end])?);
        start = end;
    }
    Ok(frame)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn descriptors_read_back(original in descriptor()) {
        let bytes = original.encode_line(Dialect::V0_3_13);
        let decoded = bounded(&bytes, SegmentDescriptor::decode).unwrap();
        prop_assert_eq!(&decoded, &original);

        let old = SegmentDescriptor::decode(&original.encode(Dialect::V0_3_7)).unwrap();
        let expected = SegmentDescriptor {
            tcp_data_host: None,
            tcp_proto_version: 1,
            rdma_server_name: None,
            ..original
        };
        prop_assert_eq!(old, expected);
    }

    #[test]
    fn members_are_in_alphabetical_order(original in descriptor()) {
        for dialect in [Dialect::V0_3_7, Dialect::V0_3_13] {
            let bytes = original.encode(dialect);
            // A tree sorts its members, so its compact form is the sorted one.
            let tree: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(tree.to_string().into_bytes(), bytes);
        }
    }

    #[test]
    fn rpc_meta_reads_back(ip_or_host_name in ".{0,40}", rpc_port in any::<u16>()) {
        let original = RpcMeta { ip_or_host_name, rpc_port };
        prop_assert_eq!(RpcMeta::decode(&original.encode_line()).unwrap(), original);
    }

    #[test]
    fn notifications_read_back(name in ".{0,40}", message in ".{0,40}") {
        let original = NotifyMessage { name: name.into(), notify_msg: message.into() };
        let line = original.encode_line().unwrap();
        prop_assert_eq!(NotifyMessage::decode(&line).unwrap(), original);
    }

    #[test]
    fn connection_messages_read_back(original in connection()) {
        let decoded = ConnectionMessage::decode(&original.encode_line()).unwrap();
        prop_assert_eq!(decoded, Some(original));
    }

    #[test]
    fn frames_read_back_in_any_pieces(
        framing in framing(),
        text in "[ -~]{0,60}",
        cuts in vec(any::<Index>(), 0..5),
    ) {
        let payload = format!("{{{text}\n").into_bytes();
        let bytes = encode_reply(framing, &payload);
        let frame = feed_in_pieces(&bytes, &cuts).unwrap();
        prop_assert_eq!(frame, Some(Frame { framing, payload }));
    }

    #[test]
    fn headers_read_back(header in header(), padding in any::<[u8; 7]>()) {
        let mut bytes = header.encode();
        bytes[17..].copy_from_slice(&padding);
        prop_assert_eq!(Header::decode(&bytes).unwrap(), header);
    }

    #[test]
    fn any_header_is_read_or_refused(bytes in any::<[u8; 24]>()) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(&header.encode()[..17], &bytes[..17]);
        }
    }

    #[test]
    fn any_status_is_read_or_refused(bytes in any::<[u8; 8]>(), code in any::<u32>()) {
        prop_assert_eq!(decode_status(&encode_status(code)), Some(code));
        if let Some(code) = decode_status(&bytes) {
            prop_assert_eq!(encode_status(code), bytes);
        }
    }

    #[test]
    fn damaged_descriptors(original in descriptor(), all in vec(damage(), 1..6)) {
        decode_all(&apply(original.encode(Dialect::V0_3_13), &all));
    }

    #[test]
    fn damaged_messages(original in connection(), all in vec(damage(), 1..6)) {
        let line = original.encode_line();
        decode_all(&apply(line.clone(), &all));
        decode_all(&apply(encode_frame(MessageType::Connection, &line), &all));
    }

    #[test]
    fn truncated_documents_are_refused(original in descriptor(), at in any::<Index>()) {
        let mut bytes = original.encode(Dialect::V0_3_13);
        bytes.truncate(at.index(bytes.len()));
        prop_assert!(bounded(&bytes, SegmentDescriptor::decode).is_err());
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }
}

/// The texts that cost most memory for their length.
#[test]
fn hostile_documents_are_bounded_by_their_length() {
    let count = 200_000;
    let list = |entry: &str| vec![entry; count].join(",");
    for document in [
        format!(r#"{{"protocol":"cxl","buffers":[{}]}}"#, list("{}")),
        format!(r#"{{"protocol":"tcp","buffers":[{}]}}"#, list("{}")),
        format!(r#"{{"protocol":"tcp","devices":[{}]}}"#, list("{}")),
        format!(r#"{{"protocol":[{}]}}"#, list(r#""tcp""#)),
        format!(r#"{{"protocol":"rdma","buffers":[{{"rkey":[{}]}}]}}"#, list("0")),
        format!(r#"{{"protocol":"tcp","priority_matrix":[{}]}}"#, list("0")),
        format!(r#"{{"protocol":"tcp","later":[{}]}}"#, list(r#"{"":0}"#)),
        format!(r#"{{"protocol":"tcp","name":"{}"}}"#, "n".repeat(count)),
        format!(r#"{{"protocol":"tcp","tcp_data_port":"{}"}}"#, "n".repeat(count)),
        format!(r#"{{"protocol":"tcp","name":{}"#, "[".repeat(count)),
        format!(r#"{{"mooncake_native":{{"buffers":[{}]}}}}"#, list("{}")),
        format!(r#"{{"qp_num":[{}]}}"#, list("0")),
        format!(r#"{{"ctrl_channel":[{}]}}"#, list("0")),
    ] {
        decode_all(document.as_bytes());
    }
    // Small enough to be carried: the dearest tree.
    for member in ["priority_matrix", "rank_info", "ctrl_channel", "notify_qp_num"] {
        let list = vec![r#"{"":0}"#; 30_000].join(",");
        let document = format!(r#"{{"protocol":"rdma","{member}":[{list}]}}"#);
        assert!(list.len() < limits::OPAQUE_MEMBER_BYTES_MAX);
        decode_all(document.as_bytes());
    }
}

#[test]
fn the_memory_meter_measures() {
    let ((), peak) = peak_of(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20))));
    assert!((1 << 20..2 << 20).contains(&peak), "{peak}");
    let ((), peak) = peak_of(|| {
        let mut bytes = std::hint::black_box(Vec::<u8>::with_capacity(1 << 20));
        bytes.reserve_exact(1 << 21);
        drop(std::hint::black_box(bytes));
    });
    assert!(peak >= 3 << 20, "{peak}");
}
