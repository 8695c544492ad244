//! The index of the master alone, in process: what a lookup costs as the index grows.
//!
//!     cargo bench --bench index                       100 000, 1 and 10 million keys
//!     cargo bench --bench index -- --keys 100000      only so many; may be given again
//!                                  --shards 64        with so many shards
//!
//! Beside each figure stands the limit of the machine from the same run: a plain map of the
//! standard library from the same keys to a number, looked up in the same order. Keys are of 32
//! bytes and are asked for at random; every object has one copy. Calls are those that the server
//! makes, with keys where they lie in a request; answers are read, not written. Times are of the
//! thread's processor, the best of some rounds, so other work on the machine tells as little as may
//! be. Threads that ask together show what they cost each other.

#![allow(clippy::unwrap_used)] // A measurement that cannot be made ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::master::state::{NoOutlet, Settings, State};
use mooncake::pool::identity::{ClientId, SegmentId, Uuid};
use mooncake::pool::object::{PutItem, PutOptions};
use mooncake::pool::replica::{PlaceView, ReplicaKind};
use mooncake::pool::segment::Segment;
use mooncake::rpc::look::{is_batched, Look, Seen};
use mooncake::rpc::message::{Call, Method};

const KEYS: [usize; 3] = [100_000, 1_000_000, 10_000_000];
const BATCH: usize = 64;
/// Lookups of one round.
const LOOKUPS: usize = 1 << 18;
const ROUNDS: usize = 5;
const THREADS: [usize; 3] = [1, 2, 4];
const PUTS: usize = 1024;
/// Bytes of every object.
const OBJECT: u64 = 4096;

fn key(number: usize) -> Vec<u8> {
    let mut key = vec![b'k'; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    key
}

/// Processor time of this thread.
fn clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Bytes of memory that the process has in use.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

fn filled(count: usize, settings: Settings) -> (State, f64, f64) {
    let before = resident();
    let now = Instant::now();
    let state = State::new(settings, now, Arc::new(NoOutlet));
    for number in 0..8_u64 {
        let segment = Segment {
            id: SegmentId(Uuid { first: number, second: 99 }),
            name: format!("host{number}"),
            base: (number + 1) << 42,
            size: 1 << 38,
            endpoint: format!("host{number}:1"),
            protocol: "tcp".to_owned(),
        };
        state.apply(now, Call::Mount(segment, ClientId(Uuid { first: number, second: 77 })));
    }
    let mut spent = Duration::ZERO;
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(PUTS) {
        let items = chunk.iter().map(|n| PutItem::new(key(*n), vec![OBJECT])).collect();
        let start = Call::BatchPutStart(None, items, PutOptions::default());
        let keys = chunk.iter().map(|n| key(*n)).collect();
        let end = Call::BatchPutEnd(None, keys, ReplicaKind::Memory, Vec::new());
        let before = clock();
        let _ = state.apply(now, start);
        let _ = state.apply(now, end);
        spent += clock() - before;
    }
    let bytes = (resident() - before - 8.0 * count as f64) / count as f64;
    (state, bytes, count as f64 / spent.as_secs_f64())
}

/// Whether all keys are there. Goes over all copies, as whoever writes an answer does.
fn all_found(seen: &Seen<'_>) -> bool {
    match seen {
        Seen::Exists(found) => found.iter().all(|found| *found),
        Seen::Located(sights) => (0..sights.count()).all(|at| {
            let mut size = 0;
            if let Ok(located) = sights.sight(at) {
                located.copies.each(|copy| {
                    if let PlaceView::Memory(ranges) = copy.place {
                        ranges.each(|bytes, _, _, _| size += bytes);
                    }
                });
            }
            size == OBJECT
        }),
    }
}

/// Nanoseconds for each key of calls that one thread makes.
fn time(state: &State, looks: &[Look<'_>]) -> f64 {
    let (now, before) = (Instant::now(), clock());
    let mut fine = true;
    for look in looks {
        fine &= state.look(now, look, all_found);
    }
    let spent = clock() - before;
    assert!(fine, "a key was not found");
    spent.as_secs_f64() * 1e9 / LOOKUPS as f64
}

/// Keys of a round, chosen at random.
fn asked(rng: &mut fastrand::Rng, count: usize) -> Vec<Vec<u8>> {
    (0..LOOKUPS).map(|_| key(rng.usize(..count))).collect()
}

/// Calls of that method for the keys, as many for each as it takes.
fn looks(keys: &[Vec<u8>], method: Method) -> Vec<Look<'_>> {
    let batch = if is_batched(method) { BATCH } else { 1 };
    let chunks = keys.chunks(batch);
    chunks.map(|chunk| Look { method, keys: chunk.iter().map(Vec::as_slice).collect() }).collect()
}

fn best(mut round: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds for each key of `threads` threads that ask for batches at the same time, and million
/// keys per second of all of them.
fn together(state: &State, threads: usize, count: usize) -> (f64, f64) {
    let keys = |seed| asked(&mut fastrand::Rng::with_seed(seed), count);
    let work: Vec<_> = (0..threads).map(|thread| keys(thread as u64)).collect();
    let work: Vec<_> = work.iter().map(|keys| looks(keys, Method::BatchExists)).collect();
    let start = Instant::now();
    let sum: f64 = std::thread::scope(|scope| {
        let spawn = |looks| scope.spawn(move || time(state, looks));
        let running: Vec<_> = work.iter().map(|looks| spawn(looks.as_slice())).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let rate = (threads * LOOKUPS) as f64 / start.elapsed().as_secs_f64() / 1e6;
    (sum / threads as f64, rate)
}

fn measure(count: usize, settings: Settings) {
    let (state, bytes, puts) = filled(count, settings);
    let mut rng = fastrand::Rng::with_seed(count as u64);
    let mut measured = |method| {
        best(|| {
            let keys = asked(&mut rng, count);
            let looks = looks(&keys, method);
            time(&state, &looks)
        })
    };
    let exists = measured(Method::Exists);
    let lookup = measured(Method::Lookup);
    let batch_exists = measured(Method::BatchExists);
    let batch_lookup = measured(Method::BatchLookup);
    let threads = THREADS.map(|threads| together(&state, threads, count));
    drop(state);
    let map: HashMap<Box<[u8]>, u64> =
        (0..count).map(|n| (key(n).into_boxed_slice(), n as u64)).collect();
    let plain = best(|| {
        let keys = asked(&mut rng, count);
        let before = clock();
        let sum = keys.iter().fold(0_u64, |sum, key| sum.wrapping_add(map[key.as_slice()]));
        let spent = clock() - before;
        std::hint::black_box(sum);
        spent.as_secs_f64() * 1e9 / LOOKUPS as f64
    });
    let [one, two, four] = threads.map(|(nanos, rate)| format!("{nanos:.0} ({rate:.1} M/s)"));
    println!(
        "{count:9} keys: {bytes:4.0} B/key, {:4.0} thousand puts/s; ns per key: map {plain:4.0}, \
         exists {exists:4.0}, lookup {lookup:4.0}, in batches of {BATCH}: {batch_exists:4.0}, \
         {batch_lookup:4.0}; exists of 1, 2, 4 threads: {one}, {two}, {four}",
        puts / 1e3,
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str| -> Vec<usize> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == name);
        pairs.filter_map(|pair| pair[1].parse().ok()).collect()
    };
    let asked = given("--keys");
    let counts = if asked.is_empty() { KEYS.to_vec() } else { asked };
    for count in counts {
        let mut settings =
            Settings { seed: 7, eviction_high_watermark: 1.0, ..Settings::default() };
        if let Some(shards) = given("--shards").first() {
            settings.shards = *shards;
        }
        measure(count, settings);
    }
}
