//! What is said at the door of a peer on the same host: messages of 64 bytes, pure.
//!
//! The initiator greets, the target challenges, the initiator proves that it has read the target's
//! descriptor, the target grants. Both proofs are keyed with the target's instance, which only its
//! descriptor tells. After the grant the initiator asks for the memory behind registrations.
//! All numbers are little-endian.

use siphasher::sip128::{Hasher128, SipHasher24};

use std::hash::Hasher;

/// Length of every message.
pub(super) const MESSAGE_BYTES: usize = 64;
/// Version of everything two sides share: messages, table, pins.
pub(super) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MCDOOR\r\n";

/// Sixteen bytes: nonces, proofs, instances.
pub(super) type Sixteen = [u8; 16];

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Initiator: here I am, and I want to see that you are whom I mean.
    Hello { nonce: Sixteen },
    /// Target: I am; and who are you?
    Challenge { nonce: Sixteen, proof: Sixteen },
    /// Initiator: one who has read your descriptor.
    Proof { proof: Sixteen },
    /// Target: come in. With the descriptors of table and pins; `secret` is what can be read at
    /// `probe` of the target's memory by whoever may.
    Grant { probe: u64, secret: Sixteen },
    /// Initiator: the memory behind this registration, please.
    Want { key: u64 },
    /// Target: here is its descriptor; or, without one, there is none.
    Give { key: u64 },
}

impl Message {
    /// The bytes.
    pub(super) fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let nothing = [0; 16];
        let (kind, number, first, second) = match *self {
            Message::Hello { nonce } => (1u32, 0, nonce, nothing),
            Message::Challenge { nonce, proof } => (2, 0, nonce, proof),
            Message::Proof { proof } => (3, 0, nothing, proof),
            Message::Grant { probe, secret } => (4, probe, secret, nothing),
            Message::Want { key } => (5, key, nothing, nothing),
            Message::Give { key } => (6, key, nothing, nothing),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&kind.to_le_bytes());
        bytes[16..24].copy_from_slice(&number.to_le_bytes());
        bytes[24..40].copy_from_slice(&first);
        bytes[40..56].copy_from_slice(&second);
        bytes
    }

    /// Reads a message of this version; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
        if bytes.len() != MESSAGE_BYTES || bytes[..8] != MAGIC {
            return None;
        }
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four));
        let sixteen = |at: usize| bytes.get(at..)?.first_chunk::<16>().copied();
        let number = bytes.get(16..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))?;
        if word(8)? != VERSION {
            return None;
        }
        let (first, second) = (sixteen(24)?, sixteen(40)?);
        Some(match word(12)? {
            1 => Message::Hello { nonce: first },
            2 => Message::Challenge { nonce: first, proof: second },
            3 => Message::Proof { proof: second },
            4 => Message::Grant { probe: number, secret: first },
            5 => Message::Want { key: number },
            6 => Message::Give { key: number },
            _ => return None,
        })
    }
}

/// Who proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one who came to the door.
    Initiator,
    /// The one behind it.
    Target,
}

/// Shows that `side` knows the target's instance, for this pair of nonces only.
pub(super) fn proof(
    instance: &Sixteen,
    side: Side,
    initiator: &Sixteen,
    target: &Sixteen,
) -> Sixteen {
    let mut hasher = SipHasher24::new_with_key(instance);
    hasher.write(match side {
        Side::Initiator => b"initiator",
        Side::Target => b"target---",
    });
    hasher.write(initiator);
    hasher.write(target);
    hasher.finish128().as_bytes()
}

/// The name of an engine's door. It does not give the instance away.
pub(super) fn door_name(instance: &Sixteen) -> String {
    let mut hasher = SipHasher24::new_with_key(instance);
    hasher.write(b"the name of the door");
    format!("mooncake-door-{:032x}", hasher.finish128().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let (a, b) = ([1; 16], [2; 16]);
        for message in [
            Message::Hello { nonce: a },
            Message::Challenge { nonce: a, proof: b },
            Message::Proof { proof: b },
            Message::Grant { probe: u64::MAX, secret: a },
            Message::Want { key: 7 },
            Message::Give { key: 7 },
        ] {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Some(message));
            assert_eq!(Message::decode(&bytes[..63]), None);
            for at in [0, 7, 8, 11, 13] {
                let mut wrong = bytes;
                wrong[at] ^= 0x40;
                assert_eq!(Message::decode(&wrong), None, "{message:?}, byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Message::decode(&bytes);
        }
    }

    #[test]
    fn a_proof_is_for_one_side_one_instance_and_one_pair_of_nonces() {
        let (i, a, b) = ([1; 16], [2; 16], [3; 16]);
        let all = [
            proof(&i, Side::Initiator, &a, &b),
            proof(&i, Side::Target, &a, &b),
            proof(&i, Side::Target, &b, &a),
            proof(&a, Side::Target, &a, &b),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one));
        }
        assert_ne!(door_name(&a), door_name(&b));
        assert!(!door_name(&a).contains("02020202"));
    }
}
