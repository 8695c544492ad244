//! Headers and status frames of upstream's TCP data plane, framings v1 and v2.
//!
//! Pure bytes: no socket, no memory, any thread. Which range a header may touch is decided by the
//! registry, which framing towards a peer by its descriptor; neither is known here.
//!
//! A request is a 24-byte header: `size` and `addr` as little-endian u64, the opcode, and seven
//! bytes of padding that receivers ignore (0.3.7 sends whatever was in its memory there). WRITE is
//! followed by `size` bytes; READ is answered by them. v2 sets bit 7 of the opcode and answers
//! every request with an 8-byte status frame: after the last stored byte of a WRITE, before the
//! first byte of a READ.

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a request header.
pub const HEADER_BYTES: usize = 24;
/// Bytes of a v2 status frame.
pub const STATUS_BYTES: usize = 8;

/// The request was served.
pub const STATUS_OK: u32 = 0;
/// The range is not inside one registered buffer, is empty, or overflows. The sender of this
/// status closes without reading the payload.
pub const STATUS_REJECTED: u32 = 1;

/// Upper half of a status frame; reads `VTCM` on the wire.
const STATUS_MAGIC: u32 = 0x4D43_5456;
const OPCODE_WRITE: u8 = 1;
const OPCODE_V2_BIT: u8 = 0x80;
const OPCODE_OFFSET: usize = 16;

/// Direction of a request, seen from the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// The target sends `size` bytes.
    Read,
    /// The initiator sends `size` bytes.
    Write,
}

/// The two framings share the header and differ in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// No status; the only framing of 0.3.7.
    V1,
    /// A status frame per request; 0.3.13 towards targets that publish `tcp_proto_version` 2.
    V2,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Payload bytes. Not checked here: what is too large depends on the registered range.
    pub size: u64,
    /// Virtual address in the target process.
    pub addr: u64,
    /// Direction.
    pub opcode: Opcode,
    /// Framing of this request and of its answer.
    pub framing: Framing,
}

impl Header {
    /// The header's bytes, padding zero.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.addr.to_le_bytes());
        bytes[OPCODE_OFFSET] = match self.opcode {
            Opcode::Read => 0,
            Opcode::Write => OPCODE_WRITE,
        } | match self.framing {
            Framing::V1 => 0,
            Framing::V2 => OPCODE_V2_BIT,
        };
        bytes
    }

    /// Reads a header; the caller closes the connection on an error.
    ///
    /// Upstream serves every opcode other than WRITE as READ. No version sends such an opcode, so
    /// it comes from a stranger or from a stream out of step, and answering it with memory
    /// contents would be the worst choice: only the four opcodes that exist are accepted.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header> {
        let (opcode, framing) = match bytes[OPCODE_OFFSET] {
            0x00 => (Opcode::Read, Framing::V1),
            0x01 => (Opcode::Write, Framing::V1),
            0x80 => (Opcode::Read, Framing::V2),
            0x81 => (Opcode::Write, Framing::V2),
            other => {
                let text = format!("unknown opcode {other:#04x} in a data request");
                return Err(Error::new(ErrorKind::Protocol, text));
            }
        };
        Ok(Header { size: u64_at(bytes, 0), addr: u64_at(bytes, 8), opcode, framing })
    }
}

/// The status frame that carries `code`.
pub fn encode_status(code: u32) -> [u8; STATUS_BYTES] {
    (u64::from(STATUS_MAGIC) << 32 | u64::from(code)).to_le_bytes()
}

/// The code of a status frame; `None` without the magic, which means the stream is out of step.
pub fn decode_status(bytes: &[u8; STATUS_BYTES]) -> Option<u32> {
    let frame = u64::from_le_bytes(*bytes);
    ((frame >> 32) as u32 == STATUS_MAGIC).then_some(frame as u32)
}

/// The little-endian u64 at `offset`, which the callers above keep inside the header.
fn u64_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_opcodes_round_trip() {
        for (byte, opcode, framing) in [
            (0x00, Opcode::Read, Framing::V1),
            (0x01, Opcode::Write, Framing::V1),
            (0x80, Opcode::Read, Framing::V2),
            (0x81, Opcode::Write, Framing::V2),
        ] {
            let header = Header { size: 300, addr: u64::MAX, opcode, framing };
            let bytes = header.encode();
            assert_eq!(bytes[OPCODE_OFFSET], byte);
            assert_eq!(Header::decode(&bytes).unwrap(), header);
        }
    }

    #[test]
    fn padding_is_ignored_and_never_sent() {
        let header = Header { size: 1, addr: 2, opcode: Opcode::Write, framing: Framing::V1 };
        let mut bytes = header.encode();
        assert_eq!(bytes[17..], [0; 7]);
        bytes[17..].copy_from_slice(b":1\",\"pr");
        assert_eq!(Header::decode(&bytes).unwrap(), header);
    }

    #[test]
    fn every_other_opcode_is_refused() {
        let mut bytes = [0; HEADER_BYTES];
        for opcode in 0..=u8::MAX {
            bytes[OPCODE_OFFSET] = opcode;
            let known = matches!(opcode, 0x00 | 0x01 | 0x80 | 0x81);
            match Header::decode(&bytes) {
                Ok(_) => assert!(known, "{opcode:#04x}"),
                Err(error) => {
                    assert!(!known, "{opcode:#04x}");
                    assert_eq!(error.kind(), ErrorKind::Protocol);
                }
            }
        }
    }

    #[test]
    fn status_frames() {
        assert_eq!(encode_status(STATUS_REJECTED), *b"\x01\0\0\0VTCM");
        for code in [STATUS_OK, STATUS_REJECTED, 77, u32::MAX] {
            assert_eq!(decode_status(&encode_status(code)), Some(code));
        }
        assert_eq!(decode_status(&[0; 8]), None);
        assert_eq!(decode_status(b"\0\0\0\0VTCN"), None);
    }
}
