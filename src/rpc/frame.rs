//! Frames: what surrounds every request and reply on a connection. Pure.
//!
//! All integers are little-endian. A frame is a header, a body, and an attachment, which nobody
//! sends and everybody must skip. How long a body may be is the business of the caller, which
//! knows what it can hold; nothing here allocates by a length that a peer claims.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::pack::{self, Malformed, Typed};
use super::shape::Shape;

/// Bytes of a request's header.
pub const REQUEST_HEADER_BYTES: usize = 20;
/// Bytes of a reply's header.
pub const REPLY_HEADER_BYTES: usize = 16;
/// First byte of every frame.
pub const MAGIC: u8 = 0x15;

/// Head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Chosen by the caller and given back in the reply.
    pub seq: u32,
    /// Which function; see [`super::dialect::function_id`].
    pub function: u32,
    /// Bytes of the body.
    pub length: u32,
    /// Bytes behind the body, to be skipped.
    pub attachment: u32,
}

/// Head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// 0, or the number of a [`Fault`], whose text is the body then.
    pub fault: u8,
    /// That of the request.
    pub seq: u32,
    /// Bytes of the body.
    pub length: u32,
    /// Bytes behind the body, to be skipped.
    pub attachment: u32,
}

impl RequestHeader {
    /// To bytes.
    pub fn encode(&self) -> [u8; REQUEST_HEADER_BYTES] {
        let mut bytes = [0; REQUEST_HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[4..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.function.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.attachment.to_le_bytes());
        bytes
    }

    /// From bytes. After an error nothing on the connection can be trusted.
    pub fn decode(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Result<RequestHeader, Malformed> {
        check_start(bytes)?;
        // Another serialisation is another meaning of the body.
        if bytes[2] != 0 {
            return Err(Malformed { what: "unknown serialisation", at: 2 });
        }
        Ok(RequestHeader {
            seq: u32_at(bytes, 4),
            function: u32_at(bytes, 8),
            length: u32_at(bytes, 12),
            attachment: u32_at(bytes, 16),
        })
    }
}

impl ReplyHeader {
    /// To bytes.
    pub fn encode(&self) -> [u8; REPLY_HEADER_BYTES] {
        let mut bytes = [0; REPLY_HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[2] = self.fault;
        bytes[4..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.attachment.to_le_bytes());
        bytes
    }

    /// From bytes. After an error nothing on the connection can be trusted.
    pub fn decode(bytes: &[u8; REPLY_HEADER_BYTES]) -> Result<ReplyHeader, Malformed> {
        check_start(bytes)?;
        Ok(ReplyHeader {
            fault: bytes[2],
            seq: u32_at(bytes, 4),
            length: u32_at(bytes, 8),
            attachment: u32_at(bytes, 12),
        })
    }
}

fn check_start(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes[0] != MAGIC {
        return Err(Malformed { what: "not a frame", at: 0 });
    }
    if bytes[1] != 0 {
        return Err(Malformed { what: "unknown version of frames", at: 1 });
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Why a request was not served at all. What a function itself refuses is part of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number in the reply's header; not 0.
    pub code: u8,
    /// For people.
    pub text: Cow<'static, str>,
}

impl Fault {
    /// The arguments are not those of the function.
    pub const INVALID_ARGUMENTS: u8 = 4;
    /// The function failed without an answer.
    pub const THREW: u8 = 10;
    /// There is no such function.
    pub const NOT_REGISTERED: u8 = 11;
    /// The request or its answer is too large.
    pub const TOO_LARGE: u8 = 14;

    /// See [`Fault::INVALID_ARGUMENTS`].
    pub fn invalid_arguments() -> Fault {
        Fault { code: Fault::INVALID_ARGUMENTS, text: Cow::Borrowed("invalid rpc arg") }
    }

    /// See [`Fault::THREW`].
    pub fn threw(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { code: Fault::THREW, text: text.into() }
    }

    /// See [`Fault::NOT_REGISTERED`].
    pub fn not_registered() -> Fault {
        let text = Cow::Borrowed("the rpc function not registered");
        Fault { code: Fault::NOT_REGISTERED, text }
    }

    /// See [`Fault::TOO_LARGE`].
    pub fn too_large(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { code: Fault::TOO_LARGE, text: text.into() }
    }

    /// Appends the body that carries the text.
    pub fn encode(&self, out: &mut Vec<u8>) {
        pack::encode(&TEXT, out, |writer| writer.bytes(self.text.as_bytes()));
    }

    /// From a reply whose header has `code`. The text is cut, for it ends up in messages.
    pub fn decode(code: u8, body: &[u8]) -> Fault {
        const SHOWN: usize = crate::limits::REPLY_BYTES_SHOWN;
        let text = pack::decode(&TEXT, body).and_then(|mut reader| reader.bytes());
        let text = text.unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned();
        Fault { code, text: Cow::Owned(text) }
    }
}

static TEXT: LazyLock<Typed> = LazyLock::new(|| Typed::of(&Shape::Text));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_seen_on_the_wire() {
        let bytes: [u8; 20] =
            [0x15, 0, 0, 0, 1, 0, 0, 0, 0x56, 0xbb, 0x81, 0x7b, 2, 0, 0, 0, 3, 0, 0, 0];
        let header = RequestHeader::decode(&bytes).unwrap();
        let expected = RequestHeader { seq: 1, function: 0x7b81_bb56, length: 2, attachment: 3 };
        assert_eq!(header, expected);
        assert_eq!(header.encode(), bytes);
        let reply = ReplyHeader { fault: 11, seq: 9, length: 8, attachment: 7 };
        assert_eq!(ReplyHeader::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let good = RequestHeader { seq: 0, function: 0, length: 0, attachment: 0 }.encode();
        for (at, value) in [(0, 0x16), (1, 1), (2, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(RequestHeader::decode(&bad).unwrap_err().at, at);
        }
        let mut other_kind = good;
        other_kind[3] = 9;
        assert!(RequestHeader::decode(&other_kind).is_ok(), "receivers ignore the kind");
    }

    #[test]
    fn faults_carry_their_text() {
        let mut body = Vec::new();
        Fault::invalid_arguments().encode(&mut body);
        assert_eq!(body[..8], [0x77, 0xfa, 0xcf, 0x9d, 0x04, 0x80, 0x0c, 0]);
        assert_eq!(Fault::decode(4, &body), Fault::invalid_arguments());
        assert_eq!(Fault::decode(4, b"rubbish").text, "");
    }
}
