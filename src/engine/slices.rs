//! From the requests for one segment to what its route moves: blocks that are moved on the spot,
//! and slices for the rest. Runs under the batch's lock, on the submitting thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::transport::{Piece, Scope, Slice, SplitRule, Tasks};

use super::batch::BatchCore;
use super::notify::NotifyAfter;
use super::plan::Pieces;
use super::recent::Recent;
use super::remote::Found;
use super::segment::{Parked, Segment, SegmentState};
use super::submit::Request;
use super::Shared;

/// Requests that are offered to a route together, to be moved on the spot: enough that one lease
/// and one count for all of them cost each next to nothing.
const AT_ONCE: usize = 32;

/// Where tasks begin and end: the batch, or what stands in front of it.
#[derive(Clone, Copy)]
pub(super) struct Ledger<'a> {
    pub(super) core: &'a Arc<BatchCore>,
    pub(super) notify: Option<&'a Arc<NotifyAfter>>,
}

impl Ledger<'_> {
    fn start(self, index: usize, slices: u32) {
        if let Some(notify) = self.notify {
            notify.expect(slices);
        }
        self.core.start(index, slices);
    }

    /// Begins a task and ends it with `error`.
    pub(super) fn fail(self, index: usize, error: Error) {
        self.start(index, 1);
        match self.notify {
            Some(notify) => notify.slice_failed(index as u32, error),
            None => self.core.slice_failed(index as u32, error),
        }
    }

    fn tasks(self) -> Arc<dyn Tasks> {
        match self.notify {
            Some(notify) => Arc::clone(notify) as Arc<dyn Tasks>,
            None => Arc::clone(self.core) as Arc<dyn Tasks>,
        }
    }
}

/// When requests end that were handed in together: the clock is read once, if one needs it.
pub(super) struct Ends {
    timeout: Duration,
    now: Option<Instant>,
}

impl Ends {
    pub(super) fn new(shared: &Shared, timeout: Option<Duration>) -> Ends {
        Ends { timeout: timeout.unwrap_or_else(|| shared.default_timeout()), now: None }
    }

    /// After the timeout, and a nanosecond for each byte: no link in use is slower than 1 GB/s for
    /// long.
    pub(super) fn of(&mut self, bytes: u64) -> Instant {
        let now = *self.now.get_or_insert_with(Instant::now);
        let longest = self.timeout.saturating_add(Duration::from_nanos(bytes));
        now + longest.min(limits::TIMEOUT_MAX)
    }
}

struct Current<'a> {
    request: &'a Request,
    task: u32,
    key: u64,
    pieces: Pieces,
    deadline: Instant,
}

/// Turns requests for one segment into slices, as the route asks for them.
pub(super) struct Slices<'a> {
    shared: &'a Arc<Shared>,
    ledger: Ledger<'a>,
    requests: &'a [Request],
    index: usize,
    segment: &'a Arc<Segment>,
    state: &'a SegmentState,
    rule: SplitRule,
    is_pinned: bool,
    ends: &'a mut Ends,
    current: Option<Current<'a>>,
    recent: &'a mut Recent,
}

impl<'a> Slices<'a> {
    /// The slices of `requests`, the first of which is task `index`.
    #[allow(clippy::too_many_arguments)] // It mirrors the fields.
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        ledger: Ledger<'a>,
        requests: &'a [Request],
        index: usize,
        segment: &'a Arc<Segment>,
        state: &'a SegmentState,
        is_pinned: bool,
        ends: &'a mut Ends,
        recent: &'a mut Recent,
    ) -> Slices<'a> {
        let rule = state.way.route.split_rule();
        let current = None;
        Slices {
            shared,
            ledger,
            requests,
            index,
            segment,
            state,
            rule,
            is_pinned,
            ends,
            current,
            recent,
        }
    }

    /// Has the route move what it moves on the spot: those requests never become slices. True if
    /// none is left.
    pub(super) fn move_at_once(&mut self) -> bool {
        let longest = self.state.way.route.at_once_bytes_max();
        if longest > 0 && self.ledger.notify.is_none() {
            // A batch that is cancelled meanwhile gets the rest as slices, which end as cancelled.
            while !self.ledger.core.is_cancelled() && self.move_some(longest) {}
        }
        self.requests.is_empty()
    }

    /// Moves the next requests of one local region; false if there are none left, or some that
    /// cannot be moved so. Those fail, or are repaired, as slices.
    fn move_some(&mut self, longest: u64) -> bool {
        let Some(first) = self.requests.first() else { return false };
        let (address, length) = (first.local as u64, first.length);
        let registry = &self.shared.registry;
        let Ok((local, reached)) = self.recent.local_and_reached(registry, address, length) else {
            return false;
        };
        let mut pieces = SmallVec::<[Piece; AT_ONCE]>::new();
        for request in self.requests.iter().take(AT_ONCE) {
            let Request { operation, remote_address, length, .. } = *request;
            let local_address = request.local as u64;
            if !(1..=longest).contains(&length) || !local.contains(local_address, length) {
                break;
            }
            let found = self.state.find(remote_address, length, operation);
            let Found::Key(remote_key) = found else { break };
            pieces.push(Piece { operation, local_address, remote_address, remote_key, length });
        }
        let moved = self.state.way.route.move_at_once(local, &pieces, reached).min(pieces.len());
        let lengths = pieces[..moved].iter().map(|piece| piece.length);
        self.ledger.core.complete(self.index, lengths);
        self.index += moved;
        self.requests = &self.requests[moved..];
        moved > 0 && moved == pieces.len()
    }

    /// A slice of the current request, whose region is the most recent one.
    fn make(&self, current: &Current<'_>, offset: u64, length: u64) -> Option<Slice> {
        let region = Arc::clone(self.recent.last_local()?);
        let mut slice = Slice::new(
            current.request.operation,
            current.request.segment.0,
            region,
            current.request.local as u64 + offset,
            current.request.remote_address + offset,
            current.key,
            length,
            current.deadline,
            self.ledger.tasks(),
            current.task,
        );
        slice.is_pinned = self.is_pinned;
        Some(slice)
    }

    /// Starts the next request; true if it has slices for the route.
    fn begin(&mut self) -> Option<bool> {
        let (request, others) = self.requests.split_first()?;
        self.requests = others;
        let index = self.index;
        self.index += 1;
        if request.length == 0 {
            self.ledger.start(index, 0);
            return Some(false);
        }
        let (local, length) = (request.local as u64, request.length);
        if let Err(error) = self.recent.local(&self.shared.registry, local, length) {
            self.ledger.fail(index, error);
            return Some(false);
        }
        let deadline = self.ends.of(length);
        let found = self.state.find(request.remote_address, length, request.operation);
        let (key, miss) = match found {
            Found::Key(key) => (key, None),
            Found::Missing => (0, Some("the range is in no buffer that the peer published")),
            Found::Denied => (0, Some("the peer does not grant this access to the buffer")),
        };
        let pieces = Pieces::new(length, self.rule);
        let current = Current { request, task: index as u32, key, pieces, deadline };
        if let Some(why) = miss {
            self.ledger.start(index, 1);
            let slice = self.make(&current, 0, length)?;
            let error = Error::new(ErrorKind::RemoteRange, why)
                .with("segment", &self.segment.name)
                .with("operation", request.operation.name())
                .with("address", format_args!("{:#x}", request.remote_address))
                .with("length_bytes", length);
            // The peer may have registered the range since its descriptor was fetched.
            self.shared.park(self.segment, Parked { slice, error, scope: Scope::Slice });
            return Some(false);
        }
        self.ledger.start(index, current.pieces.left());
        self.current = Some(current);
        Some(true)
    }
}

impl Iterator for Slices<'_> {
    type Item = Slice;

    fn next(&mut self) -> Option<Slice> {
        loop {
            if let Some(mut current) = self.current.take() {
                if let Some((offset, length)) = current.pieces.next() {
                    let slice = self.make(&current, offset, length);
                    self.current = Some(current);
                    return slice;
                }
            }
            self.begin()?;
        }
    }
}
