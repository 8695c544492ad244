//! Counts of calls: how many, how they ended, how long they took.
//!
//! Entered by every thread that serves calls; atomics only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rpc::message::{Call, Method, Reply};

/// Upper ends of the size classes of objects, upstream's.
pub const SIZES: [u64; 7] = [4096, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];

/// Upper ends of the classes of latency, in microseconds.
pub const LATENCIES_US: [u64; 10] = [5, 10, 25, 50, 100, 250, 1000, 10_000, 100_000, 1_000_000];

/// How many values fell into each class, how many there were, and their sum.
#[derive(Debug)]
pub struct Histogram<const CLASSES: usize> {
    limits: [u64; CLASSES],
    classes: [AtomicU64; CLASSES],
    count: AtomicU64,
    sum: AtomicU64,
}

impl<const CLASSES: usize> Histogram<CLASSES> {
    fn new(limits: [u64; CLASSES]) -> Self {
        let classes = std::array::from_fn(|_| AtomicU64::new(0));
        Histogram { limits, classes, count: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        let class = self.limits.partition_point(|limit| *limit < value);
        if let Some(class) = self.classes.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Sum and number of all values, and for each class its upper end and its number.
    pub fn read(&self) -> (u64, u64, Vec<(u64, u64)>) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let classes = self.limits.iter().copied().zip(self.classes.iter().map(load)).collect();
        (load(&self.sum), load(&self.count), classes)
    }
}

/// Numbers of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls.
    pub requests: u64,
    /// Calls of which nothing succeeded.
    pub failures: u64,
    /// Batches of which a part succeeded.
    pub partial: u64,
    /// Entries of batches.
    pub items: u64,
    /// Those that failed.
    pub failed_items: u64,
}

impl Counts {
    /// Calls that succeeded as a whole.
    pub fn successes(&self) -> u64 {
        self.requests.saturating_sub(self.failures).saturating_sub(self.partial)
    }
}

#[derive(Debug)]
struct OfMethod {
    requests: AtomicU64,
    failures: AtomicU64,
    partial: AtomicU64,
    items: AtomicU64,
    failed_items: AtomicU64,
    latency_us: Histogram<{ LATENCIES_US.len() }>,
}

/// Counts of every method.
#[derive(Debug)]
pub struct Counters {
    methods: [OfMethod; Method::ALL.len()],
    sizes: Histogram<{ SIZES.len() }>,
}

impl Default for Counters {
    fn default() -> Counters {
        let of_method = |_| OfMethod {
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            partial: AtomicU64::new(0),
            items: AtomicU64::new(0),
            failed_items: AtomicU64::new(0),
            latency_us: Histogram::new(LATENCIES_US),
        };
        Counters { methods: std::array::from_fn(of_method), sizes: Histogram::new(SIZES) }
    }
}

impl Counters {
    /// A call has arrived.
    pub fn began(&self, call: &Call) {
        let items = match call {
            Call::PutStart(_, item, _) => std::slice::from_ref(item),
            Call::BatchPutStart(_, items, _) => items,
            _ => return,
        };
        for item in items {
            self.sizes.observe(item.slices.iter().fold(0, |sum, slice| sum.saturating_add(*slice)));
        }
    }

    /// It has been answered.
    pub fn ended(&self, method: Method, reply: &Reply, took: Duration) {
        let Some(of) = self.of(method) else { return };
        let add = |number: &AtomicU64, by: u64| {
            if by > 0 {
                number.fetch_add(by, Ordering::Relaxed);
            }
        };
        add(&of.requests, 1);
        of.latency_us.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let (items, failed) = tally(reply);
        if items == 0 {
            return;
        }
        add(&of.items, items);
        add(&of.failed_items, failed);
        if failed == items {
            add(&of.failures, 1);
        } else if failed > 0 {
            add(&of.partial, 1);
        }
    }

    /// Numbers of one method.
    pub fn read(&self, method: Method) -> Counts {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        self.of(method).map_or_else(Counts::default, |of| Counts {
            requests: load(&of.requests),
            failures: load(&of.failures),
            partial: load(&of.partial),
            items: load(&of.items),
            failed_items: load(&of.failed_items),
        })
    }

    /// Latencies of one method, in microseconds.
    pub fn latency_us(&self, method: Method) -> (u64, u64, Vec<(u64, u64)>) {
        self.of(method).map(|of| of.latency_us.read()).unwrap_or_default()
    }

    /// Sizes of objects for which room was asked.
    pub fn sizes(&self) -> (u64, u64, Vec<(u64, u64)>) {
        self.sizes.read()
    }

    fn of(&self, method: Method) -> Option<&OfMethod> {
        self.methods.get(method as usize)
    }
}

/// Entries of an answer, and how many of them refuse.
fn tally(reply: &Reply) -> (u64, u64) {
    fn many<T, E>(outcomes: &[Result<T, E>]) -> (u64, u64) {
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        (outcomes.len() as u64, failed as u64)
    }
    fn one<T, E>(outcome: &Result<T, E>) -> (u64, u64) {
        (1, outcome.is_err().into())
    }
    match reply {
        Reply::Ready(outcome) | Reply::Directory(outcome) => one(outcome),
        Reply::Pong(outcome) => one(outcome),
        Reply::Exists(outcome) => one(outcome),
        Reply::BatchExists(outcomes) => many(outcomes),
        Reply::Located(outcome) => one(outcome),
        Reply::BatchLocated(outcomes) => many(outcomes),
        Reply::Found(outcome) => one(outcome),
        Reply::Granted(outcome) => one(outcome),
        Reply::BatchGranted(outcomes) => many(outcomes),
        Reply::Done(outcome) => one(outcome),
        Reply::BatchDone(outcomes) => many(outcomes),
        Reply::Removed(outcome) => one(outcome),
        Reply::RemovedAll(_) => (1, 0),
        Reply::Greeted(outcome) => one(outcome),
        Reply::Events(outcome) => one(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::object::{PutItem, PutOptions};
    use crate::pool::outcome::Refusal;

    #[test]
    fn batches_succeed_as_a_whole_in_part_or_not_at_all() {
        let counters = Counters::default();
        let refused = Err(Refusal::OBJECT_NOT_FOUND);
        for reply in [vec![Ok(()), Ok(())], vec![Ok(()), refused], vec![refused; 3], vec![]] {
            counters.ended(Method::BatchPutEnd, &Reply::BatchDone(reply), Duration::ZERO);
        }
        let counts = counters.read(Method::BatchPutEnd);
        let expected = Counts { requests: 4, failures: 1, partial: 1, items: 7, failed_items: 4 };
        assert_eq!(counts, expected);
        assert_eq!(counts.successes(), 2);
        assert_eq!(counters.read(Method::PutEnd), Counts::default());
    }

    #[test]
    fn values_fall_into_the_class_of_the_next_limit() {
        let counters = Counters::default();
        let item = |slices: &[u64]| PutItem { key: b"k".to_vec(), slices: slices.to_vec() };
        let options = PutOptions::default();
        let items = vec![item(&[4096]), item(&[4096, 1]), item(&[u64::MAX, 5]), item(&[])];
        counters.began(&Call::BatchPutStart(None, items, options));
        let (_, count, classes) = counters.sizes();
        assert_eq!(count, 4);
        assert_eq!(classes[..2], [(4096, 2), (65_536, 1)]);
        let reply = Reply::Done(Ok(()));
        counters.ended(Method::PutEnd, &reply, Duration::from_micros(11));
        assert_eq!(counters.latency_us(Method::PutEnd).2[2], (25, 1));
    }

    #[test]
    fn every_method_has_its_place() {
        for (at, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, at);
        }
    }
}
