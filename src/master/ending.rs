//! Tells threads that work from time to time that it is over.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A word that is said once, and heard by all who sleep.
#[derive(Default)]
pub(super) struct Ending {
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl Ending {
    /// It is over.
    pub(super) fn end(&self) {
        *self.is_over.lock() = true;
        self.changed.notify_all();
    }

    /// Sleeps until then, less when it is over. True when it is.
    pub(super) fn sleep_until(&self, until: Instant) -> bool {
        let mut is_over = self.is_over.lock();
        while !*is_over && !self.changed.wait_until(&mut is_over, until).timed_out() {}
        *is_over
    }

    /// Does something now and after each pause, until it is over.
    pub(super) fn every(&self, pause: Duration, mut work: impl FnMut()) {
        loop {
            work();
            if self.sleep_until(Instant::now() + pause) {
                return;
            }
        }
    }
}
