//! The codecs against bytes captured from upstream engines of both versions
//! (`tests/vectors/te/README.md`): each is read, and written again to the same bytes.

// A test that cannot read its own material ends; the exemption for tests covers no helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use mooncake::descriptor::{Dialect, SegmentDescriptor};
use mooncake::metadata::document::{ram_key, rpc_meta_key, RpcMeta};
use mooncake::net::handshake::{
    check_json, encode_frame, encode_reply, ConnectionMessage, Frame, FrameDecoder, Framing,
    MessageType, NotifyMessage, ProbeReply, NULL_LINE, PROBE_REQUEST_LINE,
};
use mooncake::transport::tcp::wire::v1v2::{
    decode_status, encode_status, Framing as DataFraming, Header, Opcode, HEADER_BYTES,
    STATUS_BYTES, STATUS_OK, STATUS_REJECTED,
};

const OLD: (&str, Dialect) = ("v0.3.7.post2", Dialect::V0_3_7);
const NEW: (&str, Dialect) = ("v0.3.13.post1", Dialect::V0_3_13);
const VERSIONS: [(&str, Dialect); 2] = [OLD, NEW];
const PAYLOAD_BYTES: usize = 300;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/te")
}

fn read(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn payload() -> Vec<u8> {
    (0..PAYLOAD_BYTES).map(|i| (7 * i + 3) as u8).collect()
}

fn decode_frame(bytes: &[u8]) -> Frame {
    FrameDecoder::new(1 << 20).feed(bytes).unwrap().expect("a whole frame")
}

/// Splits a captured HTTP request into its first line and its body.
fn http_parts(request: &[u8]) -> (String, Vec<u8>) {
    let end = request.windows(4).position(|w| w == b"\r\n\r\n").expect("end of the headers");
    let head = String::from_utf8(request[..end].to_vec()).unwrap();
    (head.lines().next().unwrap().to_owned(), request[end + 4..].to_vec())
}

/// The key of a request line, percent-decoded.
fn http_key(line: &str) -> String {
    let start = line.find("?key=").unwrap() + 5;
    let end = start + line[start..].find(' ').unwrap();
    line[start..end].replace("%2F", "/").replace("%3A", ":")
}

#[test]
fn segment_documents() {
    for (version, dialect) in VERSIONS {
        let body = read(&format!("segment-{version}-tcp.json"));
        let descriptor = SegmentDescriptor::decode(&body).unwrap();
        assert_eq!(descriptor.encode(dialect), body, "{version}");
        assert_eq!(descriptor.name, "nodeA:12345");
        assert!(descriptor.protocol.contains("tcp"));
        assert_eq!(descriptor.native, None);
        let is_new = dialect == Dialect::V0_3_13;
        assert_eq!(descriptor.tcp_proto_version, if is_new { 2 } else { 1 });
        assert_eq!(descriptor.tcp_data_host.as_deref(), is_new.then_some("127.0.0.1"));
        assert_eq!(descriptor.tcp_data_port, if is_new { 15402 } else { 16922 });
        let last = descriptor.buffers.last().unwrap();
        assert_eq!((last.name.as_str(), last.length), ("nodeA:12345", 8192));

        let request = read(&format!("http-{version}-put-ram.request"));
        let (line, http_body) = http_parts(&request);
        assert_eq!(http_body, body);
        assert_eq!(http_key(&line), ram_key("", &descriptor.name));
    }
}

#[test]
fn rpc_meta_documents() {
    for (version, _) in VERSIONS {
        let body = read(&format!("rpc_meta-{version}.json"));
        let meta = RpcMeta::decode(&body).unwrap();
        assert_eq!(meta.encode(), body);
        assert_eq!(meta.ip_or_host_name, "127.0.0.1");
        assert_ne!(meta.rpc_port, 0);

        let request = read(&format!("http-{version}-put-rpc_meta.request"));
        let (line, http_body) = http_parts(&request);
        assert_eq!(http_body, body);
        assert_eq!(http_key(&line), rpc_meta_key("", "nodeA:12345"));
    }
}

#[test]
fn http_keys_of_a_whole_life() {
    let keys = BTreeSet::from([ram_key("", "nodeA:12345"), rpc_meta_key("", "nodeA:12345")]);
    for (version, _) in VERSIONS {
        let deletes = read(&format!("http-{version}-shutdown-deletes.request"));
        let deletes = String::from_utf8(deletes).unwrap();
        let deleted: Vec<_> =
            deletes.lines().filter(|line| line.starts_with("DELETE")).map(http_key).collect();
        assert_eq!(deleted, [rpc_meta_key("", "nodeA:12345"), ram_key("", "nodeA:12345")]);

        let sequence = read(&format!("http-{version}-request-sequence.txt"));
        let sequence = String::from_utf8(sequence).unwrap();
        let used = sequence.lines().map(|line| {
            let (_, rest) = line.split_once("key=").unwrap();
            rest.split_once(" ->").unwrap().0.to_owned()
        });
        assert_eq!(used.collect::<BTreeSet<_>>(), keys);
    }
}

#[test]
fn etcd_values_and_keys() {
    for (version, dialect) in VERSIONS {
        let value = read(&format!("etcd-{version}-ram.json"));
        let descriptor = SegmentDescriptor::decode(&value).unwrap();
        assert_eq!(descriptor.encode_line(dialect), value, "{version}");

        let value = read(&format!("etcd-{version}-rpc_meta.json"));
        assert_eq!(RpcMeta::decode(&value).unwrap().encode_line(), value, "{version}");

        let keys = String::from_utf8(read(&format!("etcd-{version}-keys.txt"))).unwrap();
        let keys: Vec<_> = keys.lines().collect();
        assert_eq!(
            keys,
            [ram_key("clusterX", &descriptor.name), rpc_meta_key("clusterX", &descriptor.name)]
        );
    }
}

#[test]
fn handshake_metadata() {
    for (version, dialect) in VERSIONS {
        for side in ["request", "reply"] {
            let bytes = read(&format!("handshake-{version}-metadata-{side}.bin"));
            let frame = decode_frame(&bytes);
            assert_eq!(frame.framing, Framing::Typed(MessageType::Metadata));
            check_json(&frame.payload).unwrap();
            let descriptor = SegmentDescriptor::decode(&frame.payload).unwrap();
            let line = descriptor.encode_line(dialect);
            assert_eq!(encode_frame(MessageType::Metadata, &line), bytes, "{version} {side}");
        }
    }
}

#[test]
fn handshake_notify() {
    for (version, _) in VERSIONS {
        let sent = NotifyMessage { name: b"kv-done".to_vec(), notify_msg: b"req-42".to_vec() };
        for (side, expected) in [("request", sent), ("reply", NotifyMessage::accepted())] {
            let bytes = read(&format!("handshake-{version}-notify-{side}.bin"));
            let frame = decode_frame(&bytes);
            assert_eq!(frame.framing, Framing::Typed(MessageType::Notify));
            let message = NotifyMessage::decode(&frame.payload).unwrap();
            assert_eq!(message, expected);
            let line = message.encode_line().unwrap();
            assert_eq!(encode_frame(MessageType::Notify, &line), bytes, "{version} {side}");
        }
    }
}

#[test]
fn handshake_probe() {
    let request = read("handshake-v0.3.13.post1-probe-request.bin");
    assert_eq!(encode_frame(MessageType::Probe, PROBE_REQUEST_LINE), request);
    assert_eq!(decode_frame(&request).framing, Framing::Typed(MessageType::Probe));

    let reply = read("handshake-v0.3.13.post1-probe-reply.bin");
    let message = ProbeReply::decode(&decode_frame(&reply).payload).unwrap();
    assert_eq!(message, ProbeReply::success());
    assert_eq!(encode_frame(MessageType::Probe, &message.encode_line()), reply);
}

#[test]
fn handshake_connection_in_both_framings() {
    let framings =
        [("raw", Framing::Typed(MessageType::Connection)), ("oldframing-raw", Framing::Old)];
    for (version, dialect) in VERSIONS {
        for (file, framing) in framings {
            let bytes = read(&format!("handshake-{version}-connection-{file}-request.bin"));
            let frame = decode_frame(&bytes);
            assert_eq!(frame.framing, framing);
            let message = ConnectionMessage::decode(&frame.payload).unwrap().expect("a message");
            assert_eq!(message.local_nic_path, "x@mlx5_0");
            assert_eq!(message.peer_nic_path, "y@mlx5_0");
            assert_eq!(message.qp_num, [1, 2]);
            assert_eq!(message.local_gid, None);
            // The hand-written client of the capture left out the newline.
            let line = message.encode_line();
            assert_eq!(encode_reply(framing, line.strip_suffix(b"\n").unwrap()), bytes);

            let bytes = read(&format!("handshake-{version}-connection-{file}-reply.bin"));
            let frame = decode_frame(&bytes);
            assert_eq!(frame.framing, framing);
            let line = match ConnectionMessage::decode(&frame.payload).unwrap() {
                None => NULL_LINE.to_vec(),
                Some(message) => {
                    assert_eq!(message.local_gid.as_deref(), Some(""));
                    message.encode_line()
                }
            };
            assert_eq!(line == NULL_LINE, dialect == Dialect::V0_3_7);
            assert_eq!(encode_reply(framing, &line), bytes, "{version} {file}");
        }
    }
}

/// Takes the next header off a stream and checks that writing it again differs in the padding
/// at most.
fn next_header(stream: &mut &[u8]) -> Header {
    let (head, rest) = stream.split_first_chunk::<HEADER_BYTES>().expect("a whole header");
    *stream = rest;
    let header = Header::decode(head).unwrap();
    assert_eq!(header.encode()[..17], head[..17]);
    header
}

fn next_status(stream: &mut &[u8]) -> u32 {
    let (frame, rest) = stream.split_first_chunk::<STATUS_BYTES>().expect("a whole status");
    *stream = rest;
    let code = decode_status(frame).expect("the magic");
    assert_eq!(&encode_status(code), frame);
    code
}

fn next_payload(stream: &mut &[u8], length: u64) {
    let (bytes, rest) = stream.split_at(length as usize);
    *stream = rest;
    assert_eq!(bytes, &payload()[..bytes.len()]);
}

/// One capture of the data plane: a WRITE, then a READ of the same range.
struct Capture {
    pair: &'static str,
    framing: DataFraming,
    /// Bytes of each connection exist in these files: (connection, direction).
    files: &'static [(usize, &'static str)],
    /// False where the target had closed before the READ.
    is_read_answered: bool,
}

const CAPTURES: [Capture; 5] = [
    Capture {
        pair: "v0.3.7.post2-to-v0.3.7.post2",
        framing: DataFraming::V1,
        files: &[(0, "c2s"), (1, "c2s"), (1, "s2c")],
        is_read_answered: true,
    },
    Capture {
        pair: "v0.3.7.post2-to-v0.3.13.post1",
        framing: DataFraming::V1,
        files: &[(0, "c2s"), (1, "c2s"), (1, "s2c")],
        is_read_answered: true,
    },
    Capture {
        pair: "v0.3.13.post1-to-v0.3.7.post2",
        framing: DataFraming::V1,
        files: &[(0, "c2s")],
        is_read_answered: false,
    },
    Capture {
        pair: "v0.3.13.post1-proto1-to-v0.3.13.post1",
        framing: DataFraming::V1,
        files: &[(0, "c2s"), (0, "s2c")],
        is_read_answered: true,
    },
    Capture {
        pair: "v0.3.13.post1-to-v0.3.13.post1",
        framing: DataFraming::V2,
        files: &[(0, "c2s"), (0, "s2c")],
        is_read_answered: true,
    },
];

impl Capture {
    fn file(&self, connection: usize, direction: &str) -> String {
        format!("tcp-{}-conn{connection}-{direction}.bin", self.pair)
    }

    fn bytes(&self, connection: usize, direction: &str) -> Vec<u8> {
        if self.files.contains(&(connection, direction)) {
            read(&self.file(connection, direction))
        } else {
            Vec::new()
        }
    }

    /// Parses all connections to the last byte and returns the requests in order.
    fn requests(&self) -> Vec<Header> {
        let mut headers = Vec::new();
        for connection in 0..2 {
            let (sent, answered) = (self.bytes(connection, "c2s"), self.bytes(connection, "s2c"));
            let (mut sent, mut answered) = (&sent[..], &answered[..]);
            while !sent.is_empty() {
                let header = next_header(&mut sent);
                if header.opcode == Opcode::Write {
                    next_payload(&mut sent, header.size);
                }
                if header.framing == DataFraming::V2 {
                    assert_eq!(next_status(&mut answered), STATUS_OK);
                }
                if header.opcode == Opcode::Read && self.is_read_answered {
                    next_payload(&mut answered, header.size);
                }
                headers.push(header);
            }
            assert_eq!(answered, b"", "{}: bytes after the last answer", self.pair);
        }
        headers
    }
}

#[test]
fn data_streams() {
    for capture in &CAPTURES {
        let pair = capture.pair;
        let timeline = String::from_utf8(read(&format!("tcp-{pair}-timeline.txt"))).unwrap();
        let (_, addr) = timeline.lines().next().unwrap().split_once("used=0x").unwrap();
        let addr = u64::from_str_radix(addr.trim(), 16).unwrap();
        let size = PAYLOAD_BYTES as u64;
        let request = |opcode| Header { size, addr, opcode, framing: capture.framing };
        assert_eq!(capture.requests(), [request(Opcode::Write), request(Opcode::Read)], "{pair}");
    }
}

#[test]
fn a_rejected_write() {
    let name = |side| format!("tcp-v0.3.13.post1-to-v0.3.13.post1-rejected-write-{side}.bin");
    let (sent, answered) = (read(&name("c2s")), read(&name("s2c")));
    let (mut sent, mut answered) = (&sent[..], &answered[..]);
    let header = next_header(&mut sent);
    assert_eq!((header.opcode, header.framing), (Opcode::Write, DataFraming::V2));
    next_payload(&mut sent, header.size);
    assert_eq!(next_status(&mut answered), STATUS_REJECTED);
    assert_eq!((sent, answered), (&b""[..], &b""[..]));
}

/// A vector that no test reads proves nothing: the folder holds what is named above, no more.
#[test]
fn every_file_is_read_by_a_test() {
    let mut expected = BTreeSet::from(["README.md".to_owned()]);
    for (version, _) in VERSIONS {
        expected.insert(format!("segment-{version}-tcp.json"));
        expected.insert(format!("rpc_meta-{version}.json"));
        for file in ["ram.json", "rpc_meta.json", "keys.txt"] {
            expected.insert(format!("etcd-{version}-{file}"));
        }
        for file in [
            "put-ram.request",
            "put-rpc_meta.request",
            "shutdown-deletes.request",
            "request-sequence.txt",
        ] {
            expected.insert(format!("http-{version}-{file}"));
        }
        for message in ["metadata", "notify", "connection-raw", "connection-oldframing-raw"] {
            for side in ["request", "reply"] {
                expected.insert(format!("handshake-{version}-{message}-{side}.bin"));
            }
        }
    }
    for side in ["request", "reply"] {
        expected.insert(format!("handshake-v0.3.13.post1-probe-{side}.bin"));
    }
    for capture in &CAPTURES {
        expected.insert(format!("tcp-{}-timeline.txt", capture.pair));
        for (connection, direction) in capture.files {
            expected.insert(capture.file(*connection, direction));
        }
    }
    for side in ["c2s", "s2c"] {
        expected.insert(format!("tcp-v0.3.13.post1-to-v0.3.13.post1-rejected-write-{side}.bin"));
    }
    let found: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}
