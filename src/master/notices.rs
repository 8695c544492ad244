//! Lines about refusals: at most one a second for each kind, with the number that was left out.
//!
//! What a caller does wrong is told to the caller; the log says that it happens.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::pool::outcome::Refusal;
use crate::rpc::message::{Method, Reply};

const PAUSE: Duration = Duration::from_secs(1);

/// Refusals that tell of trouble. A key that is missing, or there already, is everyday life.
const TROUBLE: &[Refusal] = &[
    Refusal::NO_AVAILABLE_HANDLE,
    Refusal::INVALID_PARAMS,
    Refusal::INVALID_KEY,
    Refusal::ILLEGAL_CLIENT,
    Refusal::INTERNAL_ERROR,
    Refusal::SEGMENT_ALREADY_EXISTS,
];

#[derive(Clone, Copy, Default)]
struct Kind {
    last: Option<Instant>,
    left_out: u64,
}

/// When which kind was last logged.
#[derive(Default)]
pub(super) struct Notices([Mutex<Kind>; TROUBLE.len()]);

impl Notices {
    /// Logs an answer that refuses, unless that was done a moment ago.
    pub(super) fn look_at(&self, method: Method, reply: &Reply) {
        let Some(why) = first_refusal(reply) else { return };
        if let Some(left_out) = self.is_due(why, Instant::now()) {
            match left_out {
                0 => log::warn!("{method:?} refused: {why}"),
                more => log::warn!("{method:?} refused: {why}; {more} more since the last line"),
            }
        }
    }

    /// How many were left out, if it is time for a line.
    fn is_due(&self, why: Refusal, now: Instant) -> Option<u64> {
        let at = TROUBLE.iter().position(|known| *known == why)?;
        // Whoever holds it is about to log.
        let mut kind = self.0.get(at)?.try_lock()?;
        if kind.last.is_some_and(|last| now < last + PAUSE) {
            kind.left_out += 1;
            return None;
        }
        kind.last = Some(now);
        Some(std::mem::take(&mut kind.left_out))
    }
}

fn first_refusal(reply: &Reply) -> Option<Refusal> {
    fn first<T>(outcomes: &[Result<T, Refusal>]) -> Option<Refusal> {
        outcomes.iter().find_map(|outcome| outcome.as_ref().err().copied())
    }
    match reply {
        Reply::Granted(outcome) => outcome.as_ref().err().copied(),
        Reply::Located(outcome) => outcome.as_ref().err().copied(),
        Reply::Done(outcome) => outcome.as_ref().err().copied(),
        Reply::Removed(outcome) => outcome.as_ref().err().copied(),
        Reply::BatchGranted(outcomes) => first(outcomes),
        Reply::BatchDone(outcomes) => first(outcomes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_for_each_kind() {
        let notices = Notices::default();
        let (start, full) = (Instant::now(), Refusal::NO_AVAILABLE_HANDLE);
        assert_eq!(notices.is_due(full, start), Some(0));
        assert_eq!(notices.is_due(full, start + PAUSE / 2), None);
        assert_eq!(notices.is_due(Refusal::INVALID_KEY, start + PAUSE / 2), Some(0));
        assert_eq!(notices.is_due(full, start + PAUSE * 3 / 4), None);
        assert_eq!(notices.is_due(full, start + PAUSE), Some(2));
        assert_eq!(notices.is_due(Refusal::OBJECT_NOT_FOUND, start), None);
    }

    #[test]
    fn batches_are_looked_through() {
        let batch = Reply::BatchDone(vec![Ok(()), Err(Refusal::ILLEGAL_CLIENT)]);
        assert_eq!(first_refusal(&batch), Some(Refusal::ILLEGAL_CLIENT));
        assert_eq!(first_refusal(&Reply::RemovedAll(5)), None);
    }
}
