//! Waiting for a batch: the calling thread moves bytes itself, spins for a bounded time, sleeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::wake::{sleep_on, EventFd};
use crate::transport::{Rails, WaitSource};

use super::batch::BatchCore;
use super::segment::Segment;
use super::Shared;

/// Longest sleep in one go. A connection that another thread replaces during the sleep is noticed
/// after this time at the latest.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Each movement begins the spinning anew, up to this many times as long in all: many bytes that
/// come slowly are not worth a core.
const SPINS_MAX: u32 = 4;

impl Shared {
    /// Drives `used` until the batch is done or the deadline passes.
    pub(super) fn wait(&self, core: &BatchCore, used: &[(Arc<Segment>, Rails)], deadline: Instant) {
        let time = Duration::from_micros(self.config.tcp_spin_us.into());
        let mut spin: Option<(Instant, Instant)> = None;
        let mut sources: Vec<WaitSource> = Vec::new();
        loop {
            let mut has_moved = false;
            for (segment, rails) in used {
                let moved = segment.with_state(|state| state.way.route.progress(*rails));
                has_moved |= moved.unwrap_or(false);
            }
            if core.is_done() {
                return;
            }
            let now = Instant::now();
            if now >= deadline {
                return;
            }
            let (until, last) = spin.get_or_insert((now + time, now + time * SPINS_MAX));
            if has_moved {
                // To sleep in the middle of an answer would cost more than the rest of it.
                *until = (now + time).min(*last);
            }
            if now < *until {
                // Yielding lets a peer on the same core answer; without one it costs nothing.
                std::thread::yield_now();
                continue;
            }
            let Ok(waker) = self.borrow_waker() else {
                std::thread::sleep(Duration::from_micros(50));
                continue;
            };
            core.add_sleeper(&waker);
            if !core.is_done() {
                sources.clear();
                for (segment, rails) in used {
                    let _ = segment
                        .with_state(|state| state.way.route.wait_sources(*rails, &mut sources));
                }
                let raw: Vec<_> = sources.iter().map(|s| (s.fd, s.writable)).collect();
                let longest = deadline.saturating_duration_since(now).min(SLEEP_MAX);
                if sleep_on(&waker, &raw, longest) {
                    waker.clear();
                }
            }
            core.remove_sleeper(&waker);
            self.return_waker(waker);
        }
    }

    fn borrow_waker(&self) -> crate::error::Result<Arc<EventFd>> {
        match self.wakers.lock().pop() {
            Some(waker) => Ok(waker),
            None => EventFd::new().map(Arc::new),
        }
    }

    fn return_waker(&self, waker: Arc<EventFd>) {
        let mut wakers = self.wakers.lock();
        if !self.is_closed() {
            wakers.push(waker);
        }
    }
}
