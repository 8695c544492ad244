//! Eviction: the order, how full the pool stays, what one key costs.

use super::{client, item, Bench, MIB};
use crate::master::state::Settings;
use crate::pool::object::PutOptions;
use crate::pool::outcome::Refusal;
use crate::rpc::message::{Call, Reply};

fn name(number: usize) -> Vec<u8> {
    format!("k{number:02}").into_bytes()
}

fn missing(bench: &Bench, count: usize) -> Vec<usize> {
    let mut keys = std::collections::HashSet::new();
    bench.state.each_key(|key| {
        keys.insert(key.to_vec());
    });
    (0..count).filter(|number| !keys.contains(&name(*number))).collect()
}

/// 56 equal objects in a segment of 64, above the watermark.
fn equal_objects(shards: usize) -> Bench {
    let settings = Settings {
        shards,
        eviction_high_watermark: 0.85,
        eviction_ratio: 0.05,
        ..Settings::default()
    };
    let mut bench = Bench::new(settings);
    bench.mount(1, 64 * MIB).unwrap();
    for number in 0..56 {
        bench.put(&name(number), MIB).unwrap();
        bench.pass(1);
    }
    bench
}

#[test]
fn exactly_the_oldest_of_equal_objects_are_evicted() {
    for shards in [1, 4, 64, 1024] {
        let bench = equal_objects(shards);
        bench.tick();
        // 54.4 are the watermark; 1.6 above it and 3.2 beyond it must go, in bytes.
        assert_eq!(missing(&bench, 56), [0, 1, 2, 3, 4], "{shards} shards");
        let totals = bench.state.totals();
        assert_eq!((totals.evicted_keys, totals.evicted_bytes), (5, 5 * MIB));
        assert_eq!((totals.attempted_evictions, totals.successful_evictions), (1, 1));
        bench.tick();
        assert_eq!(missing(&bench, 56).len(), 5);
    }
}

#[test]
fn what_was_used_lately_and_what_is_leased_stays() {
    let mut bench = equal_objects(16);
    for number in [0, 2, 4] {
        assert!(bench.exists(&name(number)));
    }
    bench.tick();
    assert_eq!(missing(&bench, 56), [1, 3, 5, 6, 7]);
    // Everything leased: nothing goes.
    for number in 0..56 {
        bench.exists(&name(number));
    }
    for number in 56..61 {
        bench.start(None, item(&name(number), MIB), PutOptions::default()).unwrap();
    }
    bench.tick();
    assert_eq!(missing(&bench, 56), [1, 3, 5, 6, 7]);
    bench.pass(5_000);
    bench.ping(client(1));
    bench.tick();
    // In the order in which they were asked for last.
    assert_eq!(missing(&bench, 56), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

/// Reads leave objects where they are filed; the order of eviction is that of the reads all the
/// same, also where there are more of them than are filed anew at a time.
#[test]
fn the_order_is_that_of_the_last_uses() {
    const COUNT: usize = 400;
    const AGE: u64 = 1_000;
    for shards in [1, 16] {
        let settings = Settings { shards, eviction_high_watermark: 1.0, ..Settings::default() };
        let mut bench = Bench::new(settings);
        bench.mount(1, COUNT as u64 * MIB).unwrap();
        for number in 0..COUNT {
            bench.put(format!("o{number}").as_bytes(), MIB).unwrap();
        }
        // Thrice, each time in another order; only the last one counts.
        let mut order: Vec<usize> = (0..COUNT).collect();
        let mut rng = fastrand::Rng::with_seed(shards as u64);
        for _ in 0..3 {
            rng.shuffle(&mut order);
            for group in order.chunks(50) {
                bench.pass(AGE);
                bench.ping(client(1));
                for number in group {
                    assert!(bench.exists(format!("o{number}").as_bytes()));
                }
            }
        }
        // Leases end, and the rest after them.
        for _ in 0..10 {
            bench.pass(AGE);
            bench.ping(client(1));
        }
        for round in 0..COUNT / 50 {
            for number in 0..50 {
                bench.put_patiently(format!("n{round}-{number}").as_bytes(), MIB).unwrap();
            }
            // Those that were asked for in one age before those of the next.
            let mut keys = std::collections::HashSet::new();
            bench.state.each_key(|key| {
                keys.insert(key.to_vec());
            });
            let is_there = |number: &usize| keys.contains(format!("o{number}").as_bytes());
            let gone = (round + 1) * 50;
            assert!(!order[..gone].iter().any(is_there), "{shards} shards, round {round}");
            assert!(order[gone..].iter().all(is_there), "{shards} shards, round {round}");
        }
    }
}

/// What would have to be filed anew when room is needed is filed before.
#[test]
fn eviction_is_prepared() {
    let settings = Settings { shards: 1, eviction_high_watermark: 1.0, ..Settings::default() };
    let mut bench = Bench::new(settings);
    bench.mount(1, 1000 * MIB).unwrap();
    let name = |number: usize| format!("o{number}").into_bytes();
    for number in 0..900 {
        bench.put(&name(number), MIB).unwrap();
    }
    bench.pass(2_000);
    for number in 0..899 {
        bench.exists(&name(number));
    }
    let oldest = |bench: &Bench| {
        let shard = bench.state.shard(0).read();
        let slot = shard.oldest(0, crate::master::state::shard::PLAIN);
        shard.objects.get(slot).key.to_vec()
    };
    assert_eq!(oldest(&bench), name(0));
    for _ in 0..899 / 64 + 1 {
        bench.pass(10);
        bench.tick();
    }
    assert_eq!(oldest(&bench), name(899), "the only one that was not asked for");
}

#[test]
fn soft_pins_go_last_and_only_if_allowed_hard_pins_never() {
    for allowed in [false, true] {
        let settings = Settings { shards: 8, evict_soft_pinned: allowed, ..Settings::default() };
        let mut bench = Bench::new(settings);
        bench.mount(1, 64 * MIB).unwrap();
        for number in 0..64 {
            let options = PutOptions {
                soft_pin: (10..30).contains(&number),
                hard_pin: number < 10,
                ..PutOptions::default()
            };
            bench.start(None, item(&name(number), MIB), options).unwrap();
            bench.end(None, &name(number)).unwrap();
            bench.pass(1);
        }
        assert_eq!(bench.state.totals().soft_pinned, 20);
        for number in 64..98 {
            bench.put_patiently(&name(number), MIB).unwrap();
            bench.pass(1);
        }
        // 34 plain ones are gone, in their order.
        assert_eq!(missing(&bench, 98), (30..64).collect::<Vec<_>>());
        let more = bench.put_patiently(b"large", 40 * MIB);
        if allowed {
            more.unwrap();
            assert!((0..10).all(|number| bench.exists(&name(number))));
        } else {
            assert_eq!(more.unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
            assert!((0..30).all(|number| bench.exists(&name(number))));
        }
    }
}

#[test]
fn a_soft_pin_ends() {
    let mut bench = Bench::new(Settings { shards: 2, ..Settings::default() });
    bench.mount(1, 4 * MIB).unwrap();
    let fixed =
        PutOptions { soft_pin: true, soft_pin_ttl_ms: Some(2_000), ..PutOptions::default() };
    bench.start(None, item(b"k00", MIB), fixed.clone()).unwrap();
    bench.end(None, b"k00").unwrap();
    for number in 1..4 {
        bench.put(&name(number), MIB).unwrap();
        bench.pass(1);
    }
    bench.put_patiently(&name(4), MIB).unwrap();
    assert_eq!(missing(&bench, 5), [1]);
    bench.pass(2_000);
    bench.put_patiently(&name(5), MIB).unwrap();
    assert_eq!(missing(&bench, 6), [0, 1]);
    let too_long = PutOptions { soft_pin_ttl_ms: Some(u64::MAX), ..fixed };
    let refused = bench.start(None, item(b"x", 1), too_long);
    assert_eq!(refused.unwrap_err(), Refusal::INVALID_PARAMS);
}

#[test]
fn the_full_segment_is_relieved_not_the_empty_ones() {
    let mut bench = Bench::new(Settings { shards: 8, ..Settings::default() });
    bench.mount(1, 16 * MIB).unwrap();
    for number in 0..16 {
        bench.put(&name(number), MIB).unwrap();
        bench.pass(1);
    }
    for other in 2..10 {
        bench.mount(other, 256 * MIB).unwrap();
    }
    bench.tick();
    let totals = bench.state.totals();
    assert!(totals.used < 16 * MIB, "{totals:?}");
    let segments = bench.state.segments();
    assert!(segments[0].used as f64 <= 0.95 * 16.0 * MIB as f64);
    assert_eq!(missing(&bench, 16), [0, 1]);
}

#[test]
fn a_put_waits_for_the_lease_that_is_in_its_way() {
    let mut bench = Bench::new(Settings {
        shards: 2,
        lease_ttl: std::time::Duration::from_millis(100),
        ..Settings::default()
    });
    bench.mount(1, MIB).unwrap();
    bench.put(b"k", MIB).unwrap();
    bench.lookup(b"k").unwrap();
    let before = bench.now;
    bench.put_patiently(b"l", MIB).unwrap();
    let waited = bench.now - before;
    // One lease to its end and one of rest.
    assert_eq!(waited.as_millis(), 200);
    assert_eq!(bench.state.totals().waited_puts, 1);
    bench.lookup(b"l").unwrap();
    // What can never be there is refused at once.
    let call = Call::PutStart(None, item(b"m", MIB + 1), PutOptions::default());
    let Reply::Granted(outcome) = bench.call(call) else { panic!() };
    assert_eq!(outcome.unwrap_err(), Refusal::NO_AVAILABLE_HANDLE);
}

/// Puts of 4 KiB to 16 MiB into a pool that is full, with readers: share that succeeded, and mean
/// share of the bytes in use.
fn occupancy(seed: u64, segments: u64, puts: usize, reads: bool) -> (f64, f64) {
    let mut bench = Bench::new(Settings {
        seed: u128::from(seed),
        shards: 64,
        eviction_high_watermark: 0.99,
        eviction_ratio: 0.002,
        ..Settings::default()
    });
    let size = 1 << 30;
    for number in 0..segments {
        bench.mount(number, size).unwrap();
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut failed, mut sum, mut samples, mut put_bytes) = (0, 0.0, 0, 0);
    for number in 0..puts {
        // Every order of magnitude alike.
        let bytes = (4096.0 * 4096_f64.powf(rng.f64())) as u64;
        let outcome = bench.put_patiently(&number.to_le_bytes(), bytes);
        put_bytes += bytes;
        failed += usize::from(outcome.is_err());
        if reads && number > 100 {
            let old = rng.usize(number - 100..number);
            bench.exists(&old.to_le_bytes());
        }
        // About 2 GB/s.
        bench.now += std::time::Duration::from_nanos(bytes / 2);
        if number % 10 == 0 {
            bench.tick();
            for number in 0..segments {
                bench.ping(client(number));
            }
        }
        if put_bytes > 2 * segments * size {
            sum += bench.state.totals().used as f64 / (segments * size) as f64;
            samples += 1;
        }
    }
    assert!(samples > puts / 4, "the pool was not full long enough");
    (1.0 - failed as f64 / puts as f64, sum / f64::from(samples as u32))
}

#[test]
fn puts_succeed_at_full_occupancy() {
    for seed in 0..2 {
        let (succeeded, used) = occupancy(seed, 2, 10_000, false);
        println!("seed {seed}: {:.3} % of puts, {:.2} % of bytes", succeeded * 100.0, used * 100.0);
        assert!(succeeded >= 0.999, "{succeeded}");
        assert!(used >= 0.95, "{used}");
    }
}

/// Bytes of this process that are backed by memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Bytes per key and seconds for puts, ends and lookups of `count` keys of 32 bytes.
fn cost(count: u64) -> (f64, f64, f64) {
    let settings = Settings { shards: 256, eviction_high_watermark: 1.0, ..Settings::default() };
    let mut bench = Bench::new(settings);
    // Without a recorder: the image would be counted as well.
    bench.state = crate::master::state::State::new(
        Settings { shards: 256, eviction_high_watermark: 1.0, ..Settings::default() },
        bench.now,
        std::sync::Arc::new(crate::master::state::NoOutlet),
    );
    for number in 0..8 {
        bench.mount(number, 1 << 38).unwrap();
    }
    let key = |number: u64| {
        let mut key = vec![b'k'; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    };
    let before = resident();
    let start = std::time::Instant::now();
    for number in 0..count {
        bench.put(&key(number), 4096).unwrap();
    }
    let puts = start.elapsed().as_secs_f64();
    let bytes = (resident() - before) as f64 / count as f64;
    let start = std::time::Instant::now();
    for number in 0..1_000_000 {
        bench.lookup(&key(number * 7919 % count)).unwrap();
    }
    (bytes, count as f64 / puts, 1e6 / start.elapsed().as_secs_f64())
}

#[test]
fn a_key_costs_little() {
    // MOONCAKE_MASTER_KEYS=10000000 is the long form.
    let count = std::env::var("MOONCAKE_MASTER_KEYS").ok().and_then(|text| text.parse().ok());
    // So many that what other tests use meanwhile does not matter.
    let count = count.unwrap_or(200_000);
    let (bytes, puts, lookups) = cost(count);
    println!("{count} keys: {bytes:.0} B per key, {puts:.0} puts/s, {lookups:.0} lookups/s");
    assert!(bytes < 260.0, "{bytes}");
}
