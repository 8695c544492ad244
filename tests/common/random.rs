//! Seeded choices. The seed is printed, and `MC_TEST_SEED` repeats a run.

/// splitmix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A fresh seed, or the one from the environment; printed with the name of the test.
    pub fn for_test(name: &str) -> Random {
        let seed = match std::env::var("MC_TEST_SEED").ok().and_then(|text| text.parse().ok()) {
            Some(seed) => seed,
            None => mooncake::net::random::u64().unwrap(),
        };
        println!("{name}: MC_TEST_SEED={seed}");
        eprintln!("{name}: MC_TEST_SEED={seed}");
        Random(seed)
    }

    /// With a given seed.
    pub fn seeded(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
