//! Frames and messages of the handshake plane: one request and one reply per TCP connection.
//!
//! Pure: bytes in, messages out; no socket, no clock, any thread. How long a peer may take, how
//! many peers are served at once and what a message leads to is decided by the callers.
//!
//! A frame is a little-endian u64 `L`, a type byte, and `L - 1` bytes of JSON that end with a
//! newline. Very old peers send no type byte; then the first byte is that of the JSON text, the
//! message is a Connection message, and the reply has no type byte either. "Refused" below means
//! what upstream does: the connection is closed without a reply.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::{json, limits};

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 8;

/// Reply of an upstream engine that has no answer, for example to a Connection message in an
/// engine without RDMA.
pub const NULL_LINE: &[u8] = b"null\n";

/// Request of a probe.
pub const PROBE_REQUEST_LINE: &[u8] = b"{}\n";

/// What a typed frame carries. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// Exchange of RDMA queue pairs.
    Connection = 0,
    /// Exchange of segment descriptors.
    Metadata = 1,
    /// A notification.
    Notify = 2,
    /// Is the peer alive? Unknown to 0.3.7.
    Probe = 3,
}

impl MessageType {
    fn from_byte(byte: u8) -> Option<MessageType> {
        match byte {
            0 => Some(MessageType::Connection),
            1 => Some(MessageType::Metadata),
            2 => Some(MessageType::Notify),
            3 => Some(MessageType::Probe),
            _ => None,
        }
    }
}

/// How a frame was framed, which is how its reply must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// With a type byte.
    Typed(MessageType),
    /// Without one; a Connection message.
    Old,
}

/// One received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// With or without type byte.
    pub framing: Framing,
    /// JSON text, not yet parsed.
    pub payload: Vec<u8>,
}

/// The bytes of a typed frame; `json_line` is the JSON text with its newline.
pub fn encode_frame(message_type: MessageType, json_line: &[u8]) -> Vec<u8> {
    encode_reply(Framing::Typed(message_type), json_line)
}

/// The bytes of a reply to a request that came in `framing`.
pub fn encode_reply(framing: Framing, json_line: &[u8]) -> Vec<u8> {
    let type_byte = match framing {
        Framing::Typed(message_type) => Some(message_type as u8),
        Framing::Old => None,
    };
    let length = json_line.len() + usize::from(type_byte.is_some());
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + length);
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend(type_byte);
    bytes.extend_from_slice(json_line);
    bytes
}

/// Collects one frame from whatever pieces the socket delivers. A connection carries one frame in
/// each direction; bytes after it are not looked at, as upstream never reads them.
///
/// Memory grows with what was received, never with what the length promises.
#[derive(Debug)]
pub struct FrameDecoder {
    max_bytes: usize,
    /// Length bytes received so far.
    prefix: [u8; LENGTH_BYTES],
    prefix_bytes: usize,
    /// What follows the length, with the type byte.
    body: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prefix,
    Body { length: usize },
    Done,
    Refused,
}

impl FrameDecoder {
    /// A decoder for one frame whose length field is at most `max_bytes`.
    pub fn new(max_bytes: usize) -> FrameDecoder {
        FrameDecoder {
            max_bytes: max_bytes.min(limits::HANDSHAKE_BYTES_MAX),
            prefix: [0; LENGTH_BYTES],
            prefix_bytes: 0,
            body: Vec::new(),
            state: State::Prefix,
        }
    }

    /// Takes the next bytes and returns the frame once it is whole; after that it returns `None`.
    /// An error means: close without a reply. It is final.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Frame>> {
        let result = self.advance(bytes);
        if result.is_err() {
            self.state = State::Refused;
            self.body = Vec::new();
        }
        result
    }

    /// Bytes of the frame received so far; 0 tells a peer that never spoke from one that stopped.
    pub fn received_bytes(&self) -> usize {
        self.prefix_bytes + self.body.len()
    }

    fn advance(&mut self, mut bytes: &[u8]) -> Result<Option<Frame>> {
        if self.state == State::Prefix {
            let taken = bytes.len().min(LENGTH_BYTES - self.prefix_bytes);
            let end = self.prefix_bytes + taken;
            self.prefix[self.prefix_bytes..end].copy_from_slice(&bytes[..taken]);
            self.prefix_bytes = end;
            bytes = &bytes[taken..];
            if end < LENGTH_BYTES {
                return Ok(None);
            }
            let length = self.checked_length(u64::from_le_bytes(self.prefix))?;
            self.state = State::Body { length };
        }
        match self.state {
            State::Body { length } => self.collect(bytes, length),
            State::Refused => Err(malformed("bytes after a refused handshake frame")),
            State::Prefix | State::Done => Ok(None),
        }
    }

    fn checked_length(&self, length: u64) -> Result<usize> {
        let max_bytes = self.max_bytes;
        match usize::try_from(length) {
            Ok(0) => Err(malformed("handshake frame of length 0")),
            Ok(length) if length <= max_bytes => Ok(length),
            _ => Err(malformed(format!(
                "handshake frame of {length} bytes; at most {max_bytes} are accepted"
            ))),
        }
    }

    fn collect(&mut self, bytes: &[u8], length: usize) -> Result<Option<Frame>> {
        // A peer that cannot be understood is refused at its first byte, not after a megabyte.
        if let (true, Some(first)) = (self.body.is_empty(), bytes.first()) {
            framing_of(*first)?;
        }
        let taken = bytes.len().min(length - self.body.len());
        self.body.extend_from_slice(&bytes[..taken]);
        if self.body.len() < length {
            return Ok(None);
        }
        let mut payload = std::mem::take(&mut self.body);
        self.state = State::Done;
        let framing = framing_of(payload[0])?;
        if framing != Framing::Old {
            payload.remove(0);
        }
        Ok(Some(Frame { framing, payload }))
    }
}

/// Framing by the first byte after the length. From 0x80 on upstream refuses outright; a small
/// byte that is no known type is the start of a JSON text to it, and what cannot start one is
/// refused when the text is parsed, which comes to the same.
fn framing_of(first: u8) -> Result<Framing> {
    match first {
        0..=3 => MessageType::from_byte(first).map(Framing::Typed),
        b'\t' | b'\n' | b'\r' | b' '..=0x7F => Some(Framing::Old),
        _ => None,
    }
    .ok_or_else(|| malformed(format!("unknown handshake message type {first:#04x}")))
}

fn malformed(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, text)
}

/// Checks that a payload is one JSON text. For requests whose content does not matter (Metadata,
/// Probe): upstream answers any well-formed one and closes on others.
pub fn check_json(payload: &[u8]) -> Result<()> {
    json::check(payload, ErrorKind::Protocol, "handshake message")
}

/// Request and reply of type Notify.
///
/// Both members are JSON strings on the wire, so they can only be sent if they are UTF-8: a byte
/// string that is not cannot be said in this dialect, and [`NotifyMessage::encode_line`] refuses
/// it instead of sending something else. Receiving is lenient: bytes that are not UTF-8, which a
/// C++ writer may put into the string unescaped, are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyMessage {
    /// First string; empty in replies.
    pub name: Vec<u8>,
    /// Second string; in replies `success`, or empty for a refusal.
    pub notify_msg: Vec<u8>,
}

const NOTIFY_SUCCESS: &[u8] = b"success";

impl NotifyMessage {
    /// The reply that accepts a notification.
    pub fn accepted() -> NotifyMessage {
        NotifyMessage { name: Vec::new(), notify_msg: NOTIFY_SUCCESS.to_vec() }
    }

    /// True if this message, as a reply, accepts: upstream takes any text for it.
    pub fn is_accepted(&self) -> bool {
        !self.notify_msg.is_empty()
    }

    /// The message with its newline.
    pub fn encode_line(&self) -> Result<Vec<u8>> {
        Ok(json::encode_line(&NotifyOut {
            name: utf8(&self.name, "name")?,
            notify_msg: utf8(&self.notify_msg, "notify_msg")?,
        }))
    }

    /// Reads a message; missing members are empty.
    pub fn decode(payload: &[u8]) -> Result<NotifyMessage> {
        let message: NotifyIn =
            json::decode_object(payload, ErrorKind::Protocol, "notify message")?;
        Ok(NotifyMessage { name: message.name.0, notify_msg: message.notify_msg.0 })
    }
}

fn utf8<'a>(bytes: &'a [u8], member: &'static str) -> Result<&'a str> {
    if bytes.len() > limits::NOTIFICATION_BYTES_MAX {
        let text = format!(
            "notification of {} bytes; at most {} are accepted",
            bytes.len(),
            limits::NOTIFICATION_BYTES_MAX
        );
        return Err(Error::new(ErrorKind::InvalidArgument, text).with("member", member));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let text = "the upstream handshake carries notifications as UTF-8 text only";
        Error::new(ErrorKind::Unsupported, text).with("member", member).caused_by(error)
    })
}

type NotifyBytes = json::StringBytes<{ limits::NOTIFICATION_BYTES_MAX }>;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct NotifyIn {
    #[serde(deserialize_with = "json::or_default")]
    name: NotifyBytes,
    #[serde(deserialize_with = "json::or_default")]
    notify_msg: NotifyBytes,
}

// Members of this and the following structs are in byte-wise alphabetical order, as on the wire.
#[derive(Serialize)]
struct NotifyOut<'a> {
    name: &'a str,
    notify_msg: &'a str,
}

/// Reply of type Probe. Any well-formed one means that the peer is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeReply {
    /// `success`.
    #[serde(deserialize_with = "json::name")]
    pub status: String,
}

impl ProbeReply {
    /// The reply of a living engine.
    pub fn success() -> ProbeReply {
        ProbeReply { status: "success".to_owned() }
    }

    /// The message with its newline.
    pub fn encode_line(&self) -> Vec<u8> {
        json::encode_line(self)
    }

    /// Reads a reply.
    pub fn decode(payload: &[u8]) -> Result<ProbeReply> {
        json::decode_object(payload, ErrorKind::Protocol, "probe reply")
    }
}

/// Request and reply of type Connection. Members that only 0.3.13 has are optional, and their
/// presence means something; they are written exactly when they are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionMessage {
    /// Optional RDMA control channel; carried, meaning not established.
    #[serde(deserialize_with = "json::opaque", skip_serializing_if = "Option::is_none")]
    pub ctrl_channel: Option<Value>,
    /// Sender's GID; when empty or absent it is taken from the sender's descriptor.
    #[serde(deserialize_with = "present_name", skip_serializing_if = "Option::is_none")]
    pub local_gid: Option<String>,
    /// Sender's LID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_lid: Option<u16>,
    /// Sender's NIC path, `server@nic`.
    #[serde(deserialize_with = "json::name")]
    pub local_nic_path: String,
    /// Queue pair for RDMA notifications; carried, meaning not established.
    #[serde(deserialize_with = "json::opaque", skip_serializing_if = "Option::is_none")]
    pub notify_qp_num: Option<Value>,
    /// Opaque text, empty in everything seen.
    #[serde(deserialize_with = "present_text", skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Receiver's NIC path.
    #[serde(deserialize_with = "json::name")]
    pub peer_nic_path: String,
    /// Queue pair numbers; entry *i* pairs with the peer's entry *i*.
    #[serde(deserialize_with = "qp_numbers")]
    pub qp_num: Vec<u32>,
    /// Presence: the sender knows the ready acknowledgement. True: this message is it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_ack: Option<bool>,
    /// Why the request was rejected; empty otherwise.
    #[serde(deserialize_with = "reply_text")]
    pub reply_msg: String,
}

impl ConnectionMessage {
    /// The message with its newline.
    pub fn encode_line(&self) -> Vec<u8> {
        json::encode_line(self)
    }

    /// Reads a message. `None` is JSON `null`, with which 0.3.7 answers every failure: a
    /// rejection without a reason.
    pub fn decode(payload: &[u8]) -> Result<Option<ConnectionMessage>> {
        json::decode_optional_object(payload, ErrorKind::Protocol, "connection message")
    }
}

fn qp_numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<u32>, D::Error> {
    json::list::<_, _, { limits::CONNECTION_QPS_MAX }>(deserializer)
}

fn reply_text<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    json::text::<_, { limits::ERROR_TEXT_BYTES_MAX }>(deserializer)
}

/// Text whose presence is kept even when it is empty.
fn present_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<String>, D::Error> {
    json::name(deserializer).map(Some)
}

fn present_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<String>, D::Error> {
    json::text::<_, { limits::HANDSHAKE_BYTES_DEFAULT }>(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    fn frame_bytes(length: u64, body: &[u8]) -> Vec<u8> {
        [&length.to_le_bytes()[..], body].concat()
    }

    fn feed_all(bytes: &[u8]) -> Result<Option<Frame>> {
        FrameDecoder::new(MAX).feed(bytes)
    }

    #[test]
    fn every_type_round_trips_in_one_piece_and_byte_by_byte() {
        for message_type in [
            MessageType::Connection,
            MessageType::Metadata,
            MessageType::Notify,
            MessageType::Probe,
        ] {
            let bytes = encode_frame(message_type, b"{}\n");
            assert_eq!(bytes, frame_bytes(4, &[message_type as u8, b'{', b'}', b'\n']));
            let expected =
                Frame { framing: Framing::Typed(message_type), payload: b"{}\n".to_vec() };
            assert_eq!(feed_all(&bytes).unwrap(), Some(expected.clone()));

            let mut decoder = FrameDecoder::new(MAX);
            let (last, others) = bytes.split_last().unwrap();
            for (index, byte) in others.iter().enumerate() {
                assert_eq!(decoder.received_bytes(), index);
                assert_eq!(decoder.feed(&[*byte]).unwrap(), None);
            }
            assert_eq!(decoder.feed(&[]).unwrap(), None);
            assert_eq!(decoder.feed(&[*last]).unwrap(), Some(expected));
        }
    }

    #[test]
    fn the_old_framing_is_recognised_and_answered_alike() {
        let bytes = frame_bytes(3, b"{}\n");
        let frame = feed_all(&bytes).unwrap().unwrap();
        assert_eq!(frame, Frame { framing: Framing::Old, payload: b"{}\n".to_vec() });
        assert_eq!(encode_reply(frame.framing, b"{}\n"), bytes);
    }

    #[test]
    fn bytes_after_the_frame_are_not_looked_at() {
        let mut bytes = encode_frame(MessageType::Probe, b"{}\n");
        bytes.extend_from_slice(&[0xFF; 100]);
        let mut decoder = FrameDecoder::new(MAX);
        assert!(decoder.feed(&bytes).unwrap().is_some());
        assert_eq!(decoder.feed(&[0xFF; 8]).unwrap(), None);
    }

    #[test]
    fn lengths_are_refused_before_the_body() {
        let most = frame_bytes(MAX as u64, &[0; MAX]);
        assert!(feed_all(&most).unwrap().is_some());
        for length in [0, MAX as u64 + 1, 1 << 40, u64::MAX] {
            let mut decoder = FrameDecoder::new(MAX);
            let error = decoder.feed(&length.to_le_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{length}");
            assert!(decoder.feed(b"{}").is_err(), "a refusal is final");
        }
        let mut decoder = FrameDecoder::new(usize::MAX);
        let beyond = limits::HANDSHAKE_BYTES_MAX as u64 + 1;
        assert!(decoder.feed(&beyond.to_le_bytes()).is_err());
    }

    #[test]
    fn first_bytes_that_start_no_message_are_refused_at_once() {
        for first in 0..=u8::MAX {
            let result = FrameDecoder::new(MAX).feed(&frame_bytes(MAX as u64, &[first]));
            let is_possible = matches!(first, 0..=3 | b'\t' | b'\n' | b'\r' | 0x20..=0x7F);
            match result {
                Ok(None) => assert!(is_possible, "{first:#04x}"),
                Ok(Some(_)) => panic!("the frame is not whole"),
                Err(error) => {
                    assert!(!is_possible, "{first:#04x}");
                    assert_eq!(error.kind(), ErrorKind::Protocol);
                }
            }
        }
    }

    #[test]
    fn a_promised_length_allocates_nothing() {
        let mut decoder = FrameDecoder::new(limits::HANDSHAKE_BYTES_MAX);
        let promise = frame_bytes(limits::HANDSHAKE_BYTES_MAX as u64, b"{");
        assert_eq!(decoder.feed(&promise).unwrap(), None);
        assert!(decoder.body.capacity() <= 64, "{}", decoder.body.capacity());
    }

    #[test]
    fn an_empty_typed_message_is_a_frame_but_no_json() {
        let frame = feed_all(&frame_bytes(1, &[1])).unwrap().unwrap();
        assert_eq!(frame.payload, b"");
        assert_eq!(check_json(&frame.payload).unwrap_err().kind(), ErrorKind::Protocol);
        check_json(b"[]\n").unwrap();
        check_json(b"{\"a\":[1,{}]}\n").unwrap();
        assert!(check_json(b"{").is_err());
    }

    #[test]
    fn notify_members_may_be_missing() {
        assert_eq!(NotifyMessage::decode(b"{}").unwrap(), NotifyMessage::default());
        let message = NotifyMessage::decode(br#"{"notify_msg":"m","name":null}"#).unwrap();
        assert_eq!(message, NotifyMessage { name: vec![], notify_msg: b"m".to_vec() });
        assert!(NotifyMessage::accepted().is_accepted());
        assert!(!NotifyMessage::default().is_accepted());
        for text in ["null", "[]", r#"["a","b"]"#, r#"{"name":1}"#, r#"{"name":[97]}"#] {
            assert!(NotifyMessage::decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn notify_bytes_that_are_not_text() {
        let message = NotifyMessage::decode(b"{\"name\":\"a\xFF\\u0000b\"}").unwrap();
        assert_eq!(message.name, b"a\xFF\0b");
        let error = message.encode_line().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.context("member"), Some("name"));

        let text = NotifyMessage { name: "\u{e9}\0\"".into(), notify_msg: vec![] };
        let line = text.encode_line().unwrap();
        assert_eq!(NotifyMessage::decode(&line).unwrap(), text);
    }

    #[test]
    fn notify_lengths_are_bounded_both_ways() {
        let longest = vec![b'x'; limits::NOTIFICATION_BYTES_MAX];
        let mut message = NotifyMessage { name: vec![], notify_msg: longest };
        let line = message.encode_line().unwrap();
        assert_eq!(NotifyMessage::decode(&line).unwrap(), message);

        message.notify_msg.push(b'x');
        let error = message.encode_line().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let long = "x".repeat(limits::NOTIFICATION_BYTES_MAX + 1);
        let error = NotifyMessage::decode(format!(r#"{{"name":"{long}"}}"#).as_bytes());
        assert_eq!(error.unwrap_err().context("member"), Some("name"));
    }

    #[test]
    fn connection_members_are_kept_by_presence() {
        for text in [
            r#"{"local_nic_path":"a@x","peer_nic_path":"b@y","qp_num":[1,2],"reply_msg":""}"#,
            concat!(
                r#"{"ctrl_channel":{"a":1},"local_gid":"","local_lid":0,"local_nic_path":"","#,
                r#""notify_qp_num":3,"payload":"","peer_nic_path":"","qp_num":[],"#,
                r#""ready_ack":false,"reply_msg":"no"}"#
            ),
        ] {
            let message = ConnectionMessage::decode(text.as_bytes()).unwrap().unwrap();
            assert_eq!(message.encode_line(), format!("{text}\n").into_bytes());
        }
        assert_eq!(ConnectionMessage::decode(NULL_LINE).unwrap(), None);
        let empty = ConnectionMessage::decode(b"{}").unwrap();
        assert_eq!(empty, Some(ConnectionMessage::default()));
    }

    #[test]
    fn connection_messages_are_refused_by_member() {
        let qp_num = format!(r#"{{"qp_num":[{}0]}}"#, "0,".repeat(limits::CONNECTION_QPS_MAX));
        for (text, member) in [
            (qp_num.as_str(), "qp_num"),
            (r#"{"qp_num":[-1]}"#, "qp_num[0]"),
            (r#"{"local_lid":65536}"#, "local_lid"),
            (r#"{"ready_ack":1}"#, "ready_ack"),
            (r#"{"local_nic_path":{}}"#, "local_nic_path"),
        ] {
            let error = ConnectionMessage::decode(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert_eq!(error.context("member"), Some(member), "{text}");
        }
    }

    #[test]
    fn any_well_formed_probe_reply_is_a_sign_of_life() {
        assert_eq!(ProbeReply::success().encode_line(), b"{\"status\":\"success\"}\n");
        assert_eq!(ProbeReply::decode(b"{}").unwrap(), ProbeReply::default());
        assert!(ProbeReply::decode(b"success").is_err());
        check_json(PROBE_REQUEST_LINE).unwrap();
    }
}
