//! Ends parked slices whose time is over, whatever the repair they wait for is stuck in, and asks
//! for refreshes at intervals.
//!
//! One thread, `mc-watch`. It blocks on nothing but its own bell, and sleeps without a time limit
//! while nothing is parked.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::net::thread::spawn;

use super::control::{timed_out, Job};
use super::segment::Parked;
use super::Shared;

/// When to look next.
#[derive(Default)]
struct Plan {
    next: Option<Instant>,
    is_over: bool,
}

/// The thread and its bell.
#[derive(Default)]
pub(super) struct Watch {
    bell: Arc<(Mutex<Plan>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watch {
    pub(super) fn start(&self, shared: &Arc<Shared>) -> Result<()> {
        let (shared, bell) = (Arc::downgrade(shared), Arc::clone(&self.bell));
        *self.thread.lock() = Some(spawn("mc-watch", move || run(&shared, &bell))?);
        Ok(())
    }

    /// Something is parked that ends at `deadline`.
    pub(super) fn before(&self, deadline: Instant) {
        let (plan, rung) = &*self.bell;
        let mut plan = plan.lock();
        if plan.next.is_none_or(|next| deadline < next) {
            plan.next = Some(deadline);
            rung.notify_one();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let (plan, rung) = &*self.bell;
        plan.lock().is_over = true;
        rung.notify_one();
        let thread = self.thread.lock().take();
        // The last handle of an engine may be dropped by one of its own threads.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Weak<Shared>, bell: &(Mutex<Plan>, Condvar)) {
    let interval = match shared.upgrade() {
        Some(shared) => shared.config.metadata_refresh_interval_s,
        None => return,
    };
    let interval = (interval > 0).then(|| Duration::from_secs(interval.into()));
    let mut refresh_at = interval.map(|interval| Instant::now() + interval);
    while wait(bell, refresh_at) {
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        if refresh_at.is_some_and(|at| now >= at) {
            refresh_at = interval.map(|interval| now + interval);
            if shared.control.queue(Job::RefreshAll).is_err() {
                log::debug!("a background refresh was left out: too many jobs wait");
            }
        }
        if let Some(next) = expire(&shared, now) {
            shared.watch.before(next);
        }
    }
}

/// Sleeps until it is time to look; false at the end.
fn wait((plan, rung): &(Mutex<Plan>, Condvar), refresh_at: Option<Instant>) -> bool {
    let mut plan = plan.lock();
    loop {
        if plan.is_over {
            return false;
        }
        let next = plan.next.into_iter().chain(refresh_at).min();
        match next {
            None => rung.wait(&mut plan),
            Some(next) if Instant::now() >= next => {
                plan.next = None;
                return true;
            }
            Some(next) => {
                rung.wait_until(&mut plan, next);
            }
        }
    }
}

/// Fails what is over; returns when the next slice will be.
fn expire(shared: &Shared, now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    for segment in shared.segments.all() {
        for Parked { slice, error, .. } in segment.unpark(|slice| now >= slice.deadline) {
            slice.fail(timed_out(&error).with("segment", &segment.name));
        }
        next = next.into_iter().chain(segment.next_deadline()).min();
    }
    next
}
