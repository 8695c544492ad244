//! Answers that are left to whoever looks at their batch. A batch that is submitted and then waited
//! for would otherwise have the I/O thread armed, and disarmed a moment later: two system calls,
//! and at times a thread that wakes for nothing.
//!
//! Nothing is lost if nobody looks: the I/O thread arms busy lanes with every tick.

use std::sync::atomic::Ordering;

use super::{Core, Lane, State};

/// Answers up to this many payload bytes, and in this many frames, wait in the socket for whoever
/// looks at their batch; to receive them then takes no longer than to notice them takes otherwise.
const LEFT_BYTES_MAX: u64 = 256 << 10;
const LEFT_FRAMES_MAX: usize = 8;

impl Lane {
    /// Lets the I/O thread drive the lane if nobody attends it and more is left than a few answers.
    pub(in crate::transport::tcp) fn leave_to_onlookers(&self) {
        if !self.busy.load(Ordering::Acquire) {
            return;
        }
        let core = self.core.lock();
        if self.peer.one_per_connection() || !core.only_awaits_answers() {
            self.arm(&core);
        }
    }
}

impl Core {
    /// True if all has been sent, and what is still to come is little.
    fn only_awaits_answers(&self) -> bool {
        let is_sent = matches!(self.state, State::Ready)
            && !self.blocked
            && self.queue.is_empty()
            && self.output.pending() == 0;
        if !is_sent || self.expected.len() > LEFT_FRAMES_MAX {
            return false;
        }
        self.expected.iter().map(|expected| expected.payload).sum::<u64>() <= LEFT_BYTES_MAX
    }
}
