//! The measuring part of `mc_store`: one line of JSON for each size and batch.

use std::time::{Duration, Instant};

use clap::Args;
use mooncake::error::{Error, ErrorKind, Result};
use mooncake::store::{Object, PutOptions, Range, Store};
use serde_json::{json, Value};

const SIZES: [usize; 4] = [4096, 65_536, 1 << 20, 16 << 20];

/// What to measure.
#[derive(Args)]
pub(crate) struct Plan {
    /// Bytes of an object; repeat for more
    #[arg(long = "size", value_name = "BYTES", default_values_t = SIZES)]
    sizes: Vec<usize>,
    /// Objects of a call; repeat for more
    #[arg(long = "batch", value_name = "COUNT", default_values_t = [1, 32])]
    batches: Vec<usize>,
    /// Least time of one measurement, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    time_ms: u64,
    /// Bytes that may be in the pool at once
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20)]
    pool: usize,
}

/// Measures everything, smallest first.
pub(crate) fn run(store: &Store, plan: &Plan) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for size in &plan.sizes {
        for batch in &plan.batches {
            if *size == 0 || *batch == 0 || size.saturating_mul(*batch) > plan.pool {
                continue;
            }
            lines.extend(measure(store, plan, *size, *batch)?);
        }
    }
    Ok(lines)
}

#[derive(Default)]
struct Count {
    objects: u64,
    calls: Vec<Duration>,
    spent: Duration,
}

impl Count {
    fn add(&mut self, objects: usize, took: Duration) {
        self.objects += objects as u64;
        self.calls.push(took);
        self.spent += took;
    }

    fn line(mut self, what: &str, size: usize, batch: usize) -> Value {
        self.calls.sort_unstable();
        let median = self.calls.get(self.calls.len() / 2).copied().unwrap_or_default();
        let rate = self.objects as f64 / self.spent.as_secs_f64().max(1e-9);
        json!({
            "operation": what,
            "size_bytes": size,
            "batch": batch,
            "objects_per_s": rate,
            "bytes_per_s": rate * size as f64,
            "call_p50_us": median.as_secs_f64() * 1e6,
            "objects": self.objects,
        })
    }
}

fn measure(store: &Store, plan: &Plan, size: usize, batch: usize) -> Result<Vec<Value>> {
    let rounds = (plan.pool / (size * batch)).clamp(1, 64);
    let mut source = vec![0u8; size * batch];
    let mut target = vec![0u8; size * batch];
    for (index, byte) in source.iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    let places = |memory: Range| -> Vec<[Range; 1]> {
        let part = |index| [Range { address: memory.address + index * size, length: size }];
        (0..batch).map(part).collect()
    };
    let (from, to) = (Range::of(&source), Range::of_mut(&mut target));
    store.register_buffer(from.address, from.length)?;
    store.register_buffer(to.address, to.length)?;
    let (from_parts, to_parts) = (places(from), places(to));
    let (mut puts, mut exists, mut gets) = (Count::default(), Count::default(), Count::default());
    let end = Instant::now() + Duration::from_millis(plan.time_ms.saturating_mul(3));
    let mut name = 0u64;
    while puts.calls.is_empty() || Instant::now() < end {
        let keys: Vec<Vec<u8>> = (0..rounds * batch)
            .map(|_| {
                name += 1;
                format!("bench/{}/{size}/{batch}/{name}", std::process::id()).into_bytes()
            })
            .collect();
        for keys in keys.chunks(batch) {
            let objects = objects(keys, &from_parts);
            let began = Instant::now();
            let results = store.put_batch(&objects, &PutOptions::default(), None)?;
            puts.add(batch, began.elapsed());
            all(results)?;
        }
        for keys in keys.chunks(batch) {
            let names: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let began = Instant::now();
            let results = store.exists(&names, None)?;
            exists.add(batch, began.elapsed());
            all(results)?;
        }
        for keys in keys.chunks(batch) {
            let objects = objects(keys, &to_parts);
            let began = Instant::now();
            let results = store.get_batch(&objects, None)?;
            gets.add(batch, began.elapsed());
            all(results)?;
        }
        free(store, keys.len())?;
    }
    store.unregister_buffer(from.address)?;
    store.unregister_buffer(to.address)?;
    if source != target {
        return Err(Error::new(ErrorKind::ChecksumMismatch, "other bytes came back"));
    }
    Ok(vec![
        puts.line("put", size, batch),
        exists.line("exists", size, batch),
        gets.line("get", size, batch),
    ])
}

fn objects<'a>(keys: &'a [Vec<u8>], parts: &'a [[Range; 1]]) -> Vec<Object<'a>> {
    let object = |(key, ranges): (&'a Vec<u8>, &'a [Range; 1])| Object { key, ranges };
    keys.iter().zip(parts).map(object).collect()
}

/// Removes what was put as soon as its leases are over; masters are run with short ones for this.
fn free(store: &Store, count: usize) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    let mut left = count as u64;
    while left > 0 && Instant::now() < end {
        left = left.saturating_sub(store.remove_by_pattern(b"^bench/", false)?);
        if left > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn all<T>(results: Vec<Result<T>>) -> Result<()> {
    results.into_iter().try_for_each(|result| result.map(|_| ()))
}
