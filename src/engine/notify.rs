//! Notifications: small messages between engines over the handshake plane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::metadata::p2p::HandshakeClient;
use crate::net::handshake::{MessageType, NotifyMessage, ProbeReply, PROBE_REQUEST_LINE};
use crate::time::Deadline;
use crate::transport::{OwnerId, Tasks};

use super::batch::BatchCore;
use super::control::Job;
use super::segment::{Posted, SegmentId, LOCAL_SEGMENT};
use super::Shared;

/// A named message. Bytes, but the upstream wire carries UTF-8 only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// What it is about.
    pub name: Vec<u8>,
    /// Its content.
    pub message: Vec<u8>,
}

impl Notification {
    /// Refuses what no peer would accept.
    pub(super) fn check(&self) -> Result<()> {
        self.as_message().encode_line().map(|_| ())
    }

    fn as_message(&self) -> NotifyMessage {
        NotifyMessage { name: self.name.clone(), notify_msg: self.message.clone() }
    }
}

/// Notifications that arrived and were not fetched yet; bounded in number and bytes.
#[derive(Default)]
pub(super) struct Inbox {
    inner: Mutex<(VecDeque<Notification>, usize)>,
}

impl Inbox {
    /// Adds one; false if there is no room.
    pub(super) fn push(&self, notification: Notification) -> bool {
        let bytes = notification.name.len() + notification.message.len();
        let (queue, total) = &mut *self.inner.lock();
        if queue.len() >= limits::NOTIFICATIONS_MAX
            || *total + bytes > limits::NOTIFICATION_QUEUE_BYTES_MAX
        {
            return false;
        }
        *total += bytes;
        queue.push_back(notification);
        true
    }

    /// Takes all, oldest first.
    pub(super) fn take(&self) -> Vec<Notification> {
        let (queue, total) = &mut *self.inner.lock();
        *total = 0;
        std::mem::take(queue).into()
    }
}

impl Shared {
    fn handshake_client(&self) -> HandshakeClient {
        super::create::handshake_client(&self.config, &self.closed)
    }

    /// Sends one notification and waits for the acknowledgement.
    pub(super) fn notify(
        &self,
        id: SegmentId,
        notification: &Notification,
        timeout: Duration,
    ) -> Result<()> {
        let line = notification.as_message().encode_line()?;
        if id == LOCAL_SEGMENT {
            return match self.notifications.push(notification.clone()) {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::LimitReached, "too many notifications wait")),
            };
        }
        let reply = self.exchange(id, MessageType::Notify, &line, timeout)?;
        if NotifyMessage::decode(&reply)?.is_accepted() {
            return Ok(());
        }
        let segment = self.segments.get(id)?;
        Err(Error::new(ErrorKind::Rejected, "the peer did not take the notification")
            .with("segment", &segment.name)
            .with("operation", "notify"))
    }

    /// Asks whether the owner of a segment is alive.
    pub(super) fn probe(&self, id: SegmentId, timeout: Duration) -> Result<()> {
        self.ensure_open()?;
        if id == LOCAL_SEGMENT {
            return Ok(());
        }
        let reply = self.exchange(id, MessageType::Probe, PROBE_REQUEST_LINE, timeout)?;
        ProbeReply::decode(&reply).map(|_| ())
    }

    fn exchange(
        &self,
        id: SegmentId,
        message_type: MessageType,
        line: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>> {
        let segment = self.segments.get(id)?;
        let deadline = Deadline::within(timeout);
        let add = |error: Error| error.with("segment", &segment.name);
        let location = self.directory.locate(&segment.name, deadline).map_err(add)?;
        self.handshake_client().exchange(&location, message_type, line, deadline).map_err(add)
    }
}

/// Stands between slices and their batch, and queues the notification when all of them ended well.
pub(super) struct NotifyAfter {
    core: Arc<BatchCore>,
    shared: Weak<Shared>,
    segment: SegmentId,
    notification: Mutex<Option<Notification>>,
    timeout: Duration,
    // Slices that have not ended, and one for the submission itself.
    left: AtomicUsize,
    failed: AtomicBool,
}

impl NotifyAfter {
    pub(super) fn new(
        shared: &Arc<Shared>,
        core: &Arc<BatchCore>,
        segment: SegmentId,
        notification: Notification,
        timeout: Duration,
    ) -> Arc<NotifyAfter> {
        Arc::new(NotifyAfter {
            core: Arc::clone(core),
            shared: Arc::downgrade(shared),
            segment,
            notification: Mutex::new(Some(notification)),
            timeout,
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
        })
    }

    /// That many slices more will end.
    pub(super) fn expect(&self, slices: u32) {
        self.left.fetch_add(slices as usize, Ordering::AcqRel);
    }

    /// No further slices will be expected.
    pub(super) fn all_started(&self) {
        self.one_ended();
    }

    fn one_ended(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 || self.failed.load(Ordering::Acquire) {
            return;
        }
        let (Some(shared), Some(notification)) =
            (self.shared.upgrade(), self.notification.lock().take())
        else {
            return;
        };
        let Ok(segment) = shared.segments.get(self.segment) else {
            log::warn!("the notification after a batch was dropped: its segment is closed");
            return;
        };
        let dropped = match segment.post(notification, Deadline::within(self.timeout)) {
            Posted::Behind => 0,
            Posted::Full => 1,
            Posted::First => match shared.control.queue(Job::Notify(Arc::clone(&segment))) {
                Ok(()) => 0,
                Err(_) => segment.drop_posted(),
            },
        };
        if dropped > 0 {
            log::warn!("{dropped} notifications after batches were dropped: too many wait");
        }
    }
}

impl Tasks for NotifyAfter {
    fn owner(&self) -> OwnerId {
        self.core.owner()
    }

    fn slice_completed(&self, task: u32, bytes: u64) {
        self.core.slice_completed(task, bytes);
        self.one_ended();
    }

    fn slice_failed(&self, task: u32, error: Error) {
        self.failed.store(true, Ordering::Release);
        self.core.slice_failed(task, error);
        self.one_ended();
    }

    fn slice_cut(&self, task: u32) {
        self.expect(1);
        self.core.slice_cut(task);
    }

    fn is_cancelled(&self) -> bool {
        self.core.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inbox_is_bounded_in_bytes() {
        let inbox = Inbox::default();
        let large =
            Notification { name: Vec::new(), message: vec![b'x'; limits::NOTIFICATION_BYTES_MAX] };
        let fit = limits::NOTIFICATION_QUEUE_BYTES_MAX / limits::NOTIFICATION_BYTES_MAX;
        for _ in 0..fit {
            assert!(inbox.push(large.clone()));
        }
        assert!(!inbox.push(large.clone()));
        assert_eq!(inbox.take().len(), fit);
        assert!(inbox.push(large));
    }
}
