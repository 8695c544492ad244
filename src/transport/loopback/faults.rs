//! Faults on command, as seeded random choices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};

/// Probabilities are parts of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Slices that fail for good.
    pub fail_ppm: u32,
    /// Slices whose connection "breaks": they come back for recovery.
    pub reset_ppm: u32,
    /// Writes and reads that move only half of their bytes, then break.
    pub half_ppm: u32,
    /// Slices that are never answered: they end only by deadline or cancellation.
    pub drop_ppm: u32,
    /// Every slice takes this long.
    pub delay: Duration,
    /// Registrations fail.
    pub registration: bool,
    /// Registrations panic, as a defect would; shows that nothing worse comes of it.
    pub panic: bool,
    state: u64,
}

/// What happens to one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Move,
    Fail,
    Reset,
    Half,
    Drop,
}

impl Faults {
    /// No faults yet; the same seed makes the same choices.
    pub fn seeded(seed: u64) -> Faults {
        Faults { state: seed, ..Faults::default() }
    }

    /// Reads `fail=1000,reset=500,half=0,drop=0,delay_us=50,registration,panic,seed=7`: counts are
    /// parts of a million. Empty text means no faults.
    pub fn parse(text: &str) -> Result<Faults> {
        let mut faults = Faults::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, "1"));
            let number: u64 = value.parse().map_err(|_| bad(part))?;
            let ppm = u32::try_from(number.min(1_000_000)).unwrap_or(1_000_000);
            match name {
                "fail" => faults.fail_ppm = ppm,
                "reset" => faults.reset_ppm = ppm,
                "half" => faults.half_ppm = ppm,
                "drop" => faults.drop_ppm = ppm,
                "delay_us" => faults.delay = Duration::from_micros(number.min(60_000_000)),
                "registration" => faults.registration = number != 0,
                "panic" => faults.panic = number != 0,
                "seed" => faults.state = number,
                _ => return Err(bad(part)),
            }
        }
        Ok(faults)
    }

    fn any(&self) -> bool {
        self.fail_ppm | self.reset_ppm | self.half_ppm | self.drop_ppm != 0 || !self.delay.is_zero()
    }

    pub(super) fn draw(&mut self) -> Fate {
        if self.fail_ppm | self.reset_ppm | self.half_ppm | self.drop_ppm == 0 {
            return Fate::Move;
        }
        let mut point = self.next() % 1_000_000;
        for (ppm, fate) in [
            (self.fail_ppm, Fate::Fail),
            (self.reset_ppm, Fate::Reset),
            (self.half_ppm, Fate::Half),
            (self.drop_ppm, Fate::Drop),
        ] {
            if point < u64::from(ppm) {
                return fate;
            }
            point -= u64::from(ppm);
        }
        Fate::Move
    }

    /// splitmix64: small, seedable, good enough to choose faults.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The faults of a transport, shared with its routes; without faults a look costs no lock.
#[derive(Debug)]
pub(super) struct SharedFaults {
    any: AtomicBool,
    faults: Mutex<Faults>,
}

impl SharedFaults {
    pub(super) fn new(faults: Faults) -> SharedFaults {
        SharedFaults { any: AtomicBool::new(faults.any()), faults: Mutex::new(faults) }
    }

    pub(super) fn replace(&self, faults: Faults) {
        *self.faults.lock() = faults;
        self.any.store(faults.any(), Ordering::Release);
    }

    pub(super) fn get(&self) -> Faults {
        *self.faults.lock()
    }

    /// True if slices may meet with something.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What happens to the next slice, and how long it takes.
    pub(super) fn draw(&self) -> (Fate, Duration) {
        if !self.any() {
            return (Fate::Move, Duration::ZERO);
        }
        let mut faults = self.faults.lock();
        (faults.draw(), faults.delay)
    }
}

fn bad(part: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "unknown loopback fault").with("fault", part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_and_rates_hold() {
        let parse = || Faults::parse("fail=100000, reset=200000,seed=9").unwrap();
        let run = |mut faults: Faults| (0..10_000).map(|_| faults.draw()).collect::<Vec<_>>();
        let first = run(parse());
        assert_eq!(first, run(parse()));
        let fails = first.iter().filter(|fate| **fate == Fate::Fail).count();
        assert!((800..1200).contains(&fails), "{fails}");
        assert!(Faults::parse("sometimes=1").is_err());
        assert!(Faults::parse("fail=x").is_err());
    }
}
