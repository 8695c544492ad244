//! A short, bounded form of the fuzz targets for every test run: captured bytes are damaged at
//! random and given to the same functions that `cargo fuzz` drives.
//!
//! Each run has a new seed and prints it on failure. `MOONCAKE_FUZZ_SEED` repeats a run,
//! `MOONCAKE_FUZZ_ROUNDS` makes it longer.

// A test that cannot read its own material ends; the exemption for tests covers no helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub)]
mod entry;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

const ROUNDS_DEFAULT: u64 = 20_000;
/// Inputs do not grow beyond this, so that a round stays short.
const INPUT_BYTES_MAX: usize = 4096;

/// Pieces of the formats, which single damaged bytes would hardly ever produce.
const TOKENS: [&[u8]; 30] = [
    b"{}",
    b"[]",
    b"[{},{}]",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e9",
    b"65536",
    b"18446744073709551615",
    b"18446744073709551616",
    br#""""#,
    br#""\ud800""#,
    br#""\u0000""#,
    br#""addr":"#,
    br#""length":"#,
    br#""name":"n""#,
    br#""protocol":"rdma""#,
    br#""protocol":["tcp","rdma"]"#,
    br#""rkey":[1]"#,
    br#""lkey":[1]"#,
    br#""devices":[{"name":"a","gid":"1"}]"#,
    br#""mooncake_native":{"instance":"000102030405060708090a0b0c0d0e0f","version":1}"#,
    br#""qp_num":[1,2]"#,
    br#""ready_ack":true"#,
    b"VTCM",
    b"\xff",
    b"\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\0\0\0\0\0\0\0",
];

/// A small generator (splitmix64): the run must be the same for the same seed on every platform.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 when `bound` is 0.
    fn below(&mut self, bound: usize) -> usize {
        self.next().checked_rem(bound as u64).unwrap_or_default() as usize
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The captured bytes whose path in the folder of vectors starts with `prefix`; never empty.
fn corpus(prefixes: &[&str]) -> Vec<Vec<u8>> {
    let is_of_the_store = prefixes[0].starts_with("store/");
    let folder = if is_of_the_store { "store/0.3.7.post2" } else { "te" };
    let prefixes: Vec<&str> =
        prefixes.iter().map(|prefix| prefix.trim_start_matches("store/")).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            prefixes.iter().any(|prefix| name.starts_with(*prefix))
        })
        .collect();
    // The order of a folder is not the same everywhere.
    paths.sort();
    assert!(!paths.is_empty(), "no vectors {prefixes:?} in {}", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below((bytes.len() - at).min(64) + 1);
    match random.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.insert(at, random.next() as u8),
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        4 => {
            let token = TOKENS[random.below(TOKENS.len())];
            bytes.splice(at..at, token.iter().copied());
        }
        5 => {
            let token = TOKENS[random.below(TOKENS.len())];
            bytes.splice(at..end, token.iter().copied());
        }
        6 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            let other = &corpus[random.below(corpus.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len())..]);
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
}

/// Prints how to repeat the run if it ends in a panic.
struct SeedOnPanic {
    seed: u64,
    round: u64,
    input: Vec<u8>,
}

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, round) = (self.seed, self.round);
            let input = self.input.escape_ascii();
            eprintln!("round {round}; repeat with MOONCAKE_FUZZ_SEED={seed}; input: {input}");
        }
    }
}

fn run(prefixes: &[&str], target: impl Fn(&[u8])) {
    let seed =
        number("MOONCAKE_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(prefixes));
    let rounds = number("MOONCAKE_FUZZ_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    println!("MOONCAKE_FUZZ_SEED={seed} MOONCAKE_FUZZ_ROUNDS={rounds}");
    let corpus = corpus(prefixes);
    let mut random = Random(seed);
    let mut state = SeedOnPanic { seed, round: 0, input: Vec::new() };
    for round in 0..rounds {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..random.below(6) {
            damage(&mut random, &mut input, &corpus);
        }
        (state.round, state.input) = (round, input);
        target(&state.input);
    }
}

#[test]
fn handshake() {
    run(&["handshake-"], |bytes| {
        // The target's first byte is the size of the pieces; captured frames have none.
        let piece_bytes = bytes.last().copied().unwrap_or_default();
        let input = [&[piece_bytes][..], bytes].concat();
        entry::handshake(&input);
    });
}

#[test]
fn descriptor() {
    run(&["segment-", "etcd-", "rpc_meta-"], entry::descriptor);
}

#[test]
fn data_stream() {
    run(&["tcp-"], entry::data_stream);
}

#[test]
fn store_call() {
    run(&["store/"], entry::store_call);
}
