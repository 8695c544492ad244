//! A look at all open segments, for callers who want to know what their peers have published since.
//!
//! Programs written against upstream's API make it after every batch (`syncSegmentCache`), although
//! a request that meets old knowledge renews it by itself. So it must not become the slowest part
//! of a transfer: a peer that is silent holds it up once in a while, and briefly. Called by any
//! thread. Whoever asks for one segment by name gets the full time for it, elsewhere.

use std::time::Instant;

use crate::error::{ErrorKind, Result};
use crate::limits;
use crate::time::Deadline;

use super::Engine;

impl Engine {
    /// Fetches the descriptors of all open segments again; returns the first failure after having
    /// tried all. One that does not answer within [`limits::SYNC_ANSWER_TIMEOUT`] stays as it was
    /// known, and is passed over for [`limits::SYNC_PAUSE`]. Blocks at most the transfer timeout;
    /// what was not reached by then also stays as it was known.
    pub fn refresh_all_segments(&self) -> Result<()> {
        let shared = &self.0 .0;
        shared.ensure_open()?;
        let last = shared.default_deadline();
        let mut first = Ok(());
        for segment in shared.segments.all() {
            let now = Instant::now();
            if last.passed(now) {
                break;
            }
            if segment.is_passed_over(now) {
                continue;
            }
            let answer = Deadline::after(now, limits::SYNC_ANSWER_TIMEOUT);
            let result = shared.refresh(&segment, answer.min(last));
            let is_silent = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout);
            segment.pass_over(is_silent.then(|| Instant::now() + limits::SYNC_PAUSE));
            first = first.and(result);
        }
        first
    }
}
