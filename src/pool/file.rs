//! Files of the disk tier: how they are called, and the seal behind their bytes. Pure.
//!
//! A file is called `<x>/<y>/<name>.<generation>` below the folder that the master names. The two
//! folders are upstream's: letters from `a` to `p` for the low eight bits of the key's hash. The
//! name is the start of the key with everything that a path could mistake replaced; the generation
//! makes it unique, so no two objects share a file, and a file is never written twice.
//!
//! Behind the object's bytes stand its key and a seal of [`SEAL_BYTES`], by which a reader knows
//! that the file is whole and of that put, and a master that has lost its memory what it holds.
//! Upstream's readers do not look there, and its writers write none. The first files of this
//! library had a seal without the key; they are read as well.

use super::object::{Generation, Key};
use crate::limits;

/// Bytes of the key that are shown in a name.
const NAME_BYTES_MAX: usize = 120;
/// Digits of the generation at the end of a name.
const GENERATION_DIGITS: usize = 16;
/// Length of a seal; the key stands before it.
pub const SEAL_BYTES: usize = 40;
const MAGIC: [u8; 8] = *b"MCSEAL\0\x02";
/// Length of a seal without the key.
pub const OLD_SEAL_BYTES: usize = 32;
const OLD_MAGIC: [u8; 8] = *b"MCSEAL\0\x01";
/// What an unfinished file is called, behind its later name.
pub const UNFINISHED: &str = ".part";

/// The hash by which upstream chooses folders: that of the GNU C++ library for strings on 64-bit
/// systems (MurmurHash64A with a seed).
pub fn folder_hash(key: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let mix = |word: u64| word ^ (word >> 47);
    let mut hash = SEED ^ (key.len() as u64).wrapping_mul(MULTIPLIER);
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let word = word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        hash ^= mix(word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

/// The path of an object's file below the folder of the tier.
pub fn relative_path(key: &[u8], generation: Generation) -> String {
    let hash = folder_hash(key);
    let letter = |bits: u64| char::from(b'a' + (bits & 15) as u8);
    let mut path = format!("{}/{}/", letter(hash), letter(hash >> 4));
    let plain = |byte: &u8| match byte {
        b'/' | b'\\' | b':' | b'*' | b'?' | b'"' | b'<' | b'>' | b'|' => '_',
        b'!'..=b'~' => char::from(*byte),
        _ => '_',
    };
    path.extend(key.iter().take(NAME_BYTES_MAX).map(plain));
    path.push_str(&format!(".{generation:016x}"));
    path
}

/// Which put a file is of, by its name without folders; `None` for files of others. Unfinished
/// files count as well.
pub fn generation_of(name: &str) -> Option<Generation> {
    let name = name.split_once(UNFINISHED).map_or(name, |(whole, _)| whole);
    let (_, digits) = name.rsplit_once('.')?;
    let is_ours = digits.len() == GENERATION_DIGITS
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// True if the path lies below the folder and says so without detours.
pub fn is_below(folder: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(folder.trim_end_matches('/')) else { return false };
    let Some(rest) = rest.strip_prefix('/') else { return false };
    folder.starts_with('/')
        && !path.contains('\0')
        && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Whose value it is.
    pub key: Key,
    /// Which put; 0 in files whose names have no number.
    pub generation: Generation,
    /// Bytes of the object.
    pub size: u64,
    /// CRC-32 of the object's bytes.
    pub sum: u32,
}

impl Sealed {
    /// What stands behind the object's bytes: the key and the seal.
    pub fn tail(&self) -> Vec<u8> {
        let mut tail = Vec::with_capacity(self.key.len() + SEAL_BYTES);
        tail.extend_from_slice(&self.key);
        tail.extend_from_slice(&MAGIC);
        tail.extend_from_slice(&self.size.to_le_bytes());
        tail.extend_from_slice(&self.generation.to_le_bytes());
        // Keys are bounded, far below this.
        tail.extend_from_slice(&u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_le_bytes());
        tail.extend_from_slice(&self.sum.to_le_bytes());
        // Room for flags.
        tail.extend_from_slice(&[0; 4]);
        let own = crc32fast::hash(&tail);
        tail.extend_from_slice(&own.to_le_bytes());
        tail
    }

    /// Bytes of the key that stands before a seal, if it is one, in a file of that length.
    pub fn key_bytes(seal: &[u8; SEAL_BYTES], file_bytes: u64) -> Option<usize> {
        let key = u64::from(word(seal, 24));
        let size = double_word(seal, 8);
        let whole = size.checked_add(key)?.checked_add(SEAL_BYTES as u64)?;
        let is_sound = seal[..8] == MAGIC && size > 0 && key > 0 && whole == file_bytes;
        usize::try_from(key).ok().filter(|key| is_sound && *key <= limits::KEY_BYTES_MAX)
    }

    /// Reads the key and the seal, which are one piece.
    pub fn decode(tail: &[u8]) -> Option<Sealed> {
        let (key, seal) = tail.split_last_chunk::<SEAL_BYTES>()?;
        let sealed = Sealed {
            key: key.to_vec(),
            generation: double_word(seal, 16),
            size: double_word(seal, 8),
            sum: word(seal, 28),
        };
        (sealed.tail() == tail).then_some(sealed)
    }
}

fn word(seal: &[u8; SEAL_BYTES], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&seal[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn double_word(seal: &[u8; SEAL_BYTES], at: usize) -> u64 {
    u64::from(word(seal, at)) | u64::from(word(seal, at + 4)) << 32
}

/// The seal without the key, as the first files of this library have it.
pub fn old_seal(key: &[u8], size: u64, sum: u32) -> [u8; OLD_SEAL_BYTES] {
    let mut seal = [0; OLD_SEAL_BYTES];
    seal[..8].copy_from_slice(&OLD_MAGIC);
    seal[8..16].copy_from_slice(&size.to_le_bytes());
    seal[16..24].copy_from_slice(&folder_hash(key).to_le_bytes());
    seal[24..28].copy_from_slice(&sum.to_le_bytes());
    let own = crc32fast::hash(&seal[..28]);
    seal[28..].copy_from_slice(&own.to_le_bytes());
    seal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_those_of_upstream() {
        // Seen on disk, written by 0.3.7.post2.
        assert!(relative_path(b"sys/prompt:1", 1).starts_with("f/m/sys_prompt_1."));
        // From the GNU C++ library itself.
        for (key, hash) in [
            (&b"sys/prompt:1"[..], 0xa9b5_9747_8aab_d9c5),
            (b"k", 0x0727_f77c_02f3_1acd),
            (b"abcdefgh", 0x783d_b3e3_8db8_98bb),
            (b"abcdefghijk", 0x32f6_faa7_d12f_bce5),
            (b"\xff\xfe\x80zzzzzzzz\xff", 0x84bd_036e_4e55_e4cd),
        ] {
            assert_eq!(folder_hash(key), hash, "{key:?}");
        }
    }

    #[test]
    fn no_key_leaves_its_folder_and_no_two_puts_share_a_file() {
        let keys: [&[u8]; 7] =
            [b"..", b".", b"../../etc/passwd", b"a\0b\n", b"\xff\xfe", &[b'/'; 5000], b"a b"];
        for key in keys {
            let path = relative_path(key, u64::MAX);
            assert!(is_below("/tier", &format!("/tier/{path}")), "{path}");
            assert!(path.len() < 160 && path.is_ascii());
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(generation_of(name), Some(u64::MAX));
            assert_eq!(generation_of(&format!("{name}{UNFINISHED}-1")), Some(u64::MAX));
            assert_ne!(path, relative_path(key, 1));
        }
    }

    #[test]
    fn files_of_others_are_known_as_such() {
        for name in ["", "plain", "a.0", "a.00000000000000zz", "a.0000000000000001x", "lock"] {
            assert_eq!(generation_of(name), None, "{name}");
        }
    }

    #[test]
    fn paths_outside_are_seen() {
        assert!(is_below("/a/b", "/a/b/c/d") && is_below("/a/b/", "/a/b/c"));
        let outside =
            ["/a/b", "/a/bc/d", "/a/b/../c", "/a/b/./c", "/a/b//c", "c", "/a/b/c/", "/a/b/x\0"];
        for path in outside {
            assert!(!is_below("/a/b", path), "{path}");
        }
        assert!(!is_below("", "/etc/passwd") && !is_below("a", "a/b"));
    }

    #[test]
    fn seals_differ_by_key_size_and_sum() {
        let one = old_seal(b"k", 5, 7);
        assert_eq!(one, old_seal(b"k", 5, 7));
        for other in [old_seal(b"l", 5, 7), old_seal(b"k", 6, 7), old_seal(b"k", 5, 8)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_seal_tells_the_key_and_every_bit_of_it_counts() {
        for key in [&b"k"[..], b"../a\0b", &[b'x'; limits::KEY_BYTES_MAX]] {
            let sealed = Sealed { key: key.to_vec(), generation: 9, size: 5, sum: 7 };
            let tail = sealed.tail();
            let length = 5 + tail.len() as u64;
            let seal = tail.last_chunk().unwrap();
            assert_eq!(Sealed::key_bytes(seal, length), Some(key.len()));
            assert_eq!(Sealed::decode(&tail), Some(sealed));
            for wrong in [length - 1, length + 1, 0, u64::MAX] {
                assert_eq!(Sealed::key_bytes(seal, wrong), None);
            }
            for at in (0..tail.len()).step_by(1 + tail.len() / 200) {
                let mut changed = tail.clone();
                changed[at] ^= 4;
                assert_eq!(Sealed::decode(&changed), None, "byte {at}");
            }
            assert_eq!(Sealed::decode(&tail[1..]), None);
        }
        assert_eq!(Sealed::decode(&[0; SEAL_BYTES]), None);
        // Longer than any key.
        let key = vec![b'x'; limits::KEY_BYTES_MAX + 1];
        let tail = Sealed { key, generation: 9, size: 5, sum: 7 }.tail();
        assert_eq!(Sealed::key_bytes(tail.last_chunk().unwrap(), 5 + tail.len() as u64), None);
    }
}
