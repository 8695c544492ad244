//! What to do with a slice that failed: pure, the clock is a parameter.

use std::time::Instant;

use crate::error::ErrorKind;
use crate::transport::Scope;

/// What is known about the failed slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// Kind of the failure.
    pub kind: ErrorKind,
    /// How much was lost.
    pub scope: Scope,
    /// Attempts that failed, this one included.
    pub attempts: u32,
    /// The owner's deadline.
    pub deadline: Instant,
    /// The owner cancelled.
    pub cancelled: bool,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Hand the slice to the present route again.
    Retry,
    /// Fetch the descriptor again, then retry.
    Refresh,
    /// Fail the task with the error at hand.
    Fail,
    /// Fail the task because its deadline passed.
    FailTimeout,
    /// Fail the task because it was cancelled.
    FailCancelled,
}

/// Decides. Reads and writes of a task that has not ended can be repeated safely: both sides hold
/// the memory for it until the task ends.
pub(super) fn decide(failure: Failure, retries_max: u32, now: Instant) -> Decision {
    if failure.cancelled {
        return Decision::FailCancelled;
    }
    if now >= failure.deadline {
        return Decision::FailTimeout;
    }
    if failure.attempts > retries_max {
        return Decision::Fail;
    }
    match failure.scope {
        // A broken connection says little: idle connections die quietly in middleboxes. The second
        // break in a row says that the peer may live elsewhere now.
        Scope::Endpoint if failure.attempts == 1 => Decision::Retry,
        Scope::Endpoint | Scope::Route => Decision::Refresh,
        // The peer's answer is final unless our picture of its memory is old; one look tells.
        Scope::Slice if failure.kind == ErrorKind::RemoteRange && failure.attempts == 1 => {
            Decision::Refresh
        }
        Scope::Slice => Decision::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn table() {
        let now = Instant::now();
        let base = Failure {
            kind: ErrorKind::ConnectionLost,
            scope: Scope::Endpoint,
            attempts: 1,
            deadline: now + Duration::from_secs(1),
            cancelled: false,
        };
        let range = Failure { kind: ErrorKind::RemoteRange, scope: Scope::Slice, ..base };
        let cases = [
            (base, Decision::Retry),
            (Failure { attempts: 2, ..base }, Decision::Refresh),
            (Failure { attempts: 4, ..base }, Decision::Fail),
            (Failure { scope: Scope::Route, ..base }, Decision::Refresh),
            (Failure { scope: Scope::Route, attempts: 4, ..base }, Decision::Fail),
            (range, Decision::Refresh),
            (Failure { attempts: 2, ..range }, Decision::Fail),
            (Failure { kind: ErrorKind::MemoryFault, ..range }, Decision::Fail),
            (Failure { cancelled: true, ..base }, Decision::FailCancelled),
            (Failure { deadline: now, ..base }, Decision::FailTimeout),
        ];
        for (failure, expected) in cases {
            assert_eq!(decide(failure, 3, now), expected, "{failure:?}");
        }
    }
}
