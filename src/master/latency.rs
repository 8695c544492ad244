//! How long calls take, by method. Entered by every thread that answers calls; atomics only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rpc::message::Method;

/// Upper ends of the classes, in microseconds.
pub const BOUNDS_US: [u64; 10] = [5, 10, 25, 50, 100, 250, 1000, 10_000, 100_000, 1_000_000];

#[derive(Debug, Default)]
struct OfMethod {
    classes: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Times of every method.
#[derive(Debug)]
pub struct Latencies([OfMethod; Method::ALL.len()]);

/// Times of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Calls in each class, not added up; the last one is without bound.
    pub classes: [u64; BOUNDS_US.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(std::array::from_fn(|_| OfMethod::default()))
    }
}

impl Latencies {
    /// A call has been answered.
    pub fn observe(&self, method: Method, took: Duration) {
        let Some(of) = self.0.get(method as usize) else { return };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS_US.partition_point(|bound| *bound < us);
        of.classes[class].fetch_add(1, Ordering::Relaxed);
        of.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Times of one method.
    pub fn read(&self, method: Method) -> Times {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        self.0.get(method as usize).map_or_else(Times::default, |of| Times {
            classes: std::array::from_fn(|at| load(&of.classes[at])),
            sum_us: load(&of.sum_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_class_of_the_next_bound() {
        let latencies = Latencies::default();
        for us in [0, 5, 6, 11, 2_000_000] {
            latencies.observe(Method::Suspect, Duration::from_micros(us));
        }
        let times = latencies.read(Method::Suspect);
        assert_eq!(times.classes[..3], [2, 1, 1]);
        assert_eq!(times.classes[BOUNDS_US.len()], 1);
        assert_eq!(times.sum_us, 2_000_022);
        assert_eq!(latencies.read(Method::Ping), Times::default());
    }

    #[test]
    fn every_method_has_its_place() {
        for (at, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, at);
        }
    }
}
