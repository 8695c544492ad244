//! How a lane loses its connection, and what becomes of the slices on it. Everything that did not
//! cause the loss is tried again without being charged with it.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::memory::Region;
use crate::transport::{Operation, Scope, Slice};

use super::super::socket;
use super::super::stream::Broken;
use super::{Core, Lane, Marked, State};

/// Why a lane cannot go on.
pub(super) enum Failure {
    Broken(Broken),
    Lost(Error, Scope),
    /// The request at fault has been dealt with; the others need another connection.
    Restart,
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Failure::Broken(broken)
    }
}

impl Lane {
    /// The connection is about to be given up with a WRITE under way: until the peer has fenced it
    /// off, its bytes may arrive late. False where the peer cannot do that.
    pub(super) fn doubt(&self, marked: Option<Marked>) -> bool {
        let Some(marked) = marked.filter(|marked| marked.is_fenced) else { return false };
        self.peer.identities.doubt(self.index, marked.mark);
        true
    }

    /// The peer has answered the hello: the lane's earlier connections are over.
    pub(super) fn settle(&self, core: &Core) {
        if let Some(marked) = core.mark.filter(|marked| marked.is_fenced) {
            self.peer.identities.settle(self.index, marked.mark);
        }
    }

    /// Closes the socket. If something is under way, nothing that waits in this host is sent any
    /// more, and what has arrived meets a reset.
    pub(super) fn drop_stream(&self, core: &mut Core) {
        let marked = core.mark.take();
        if core.expected.iter().any(|expected| expected.operation == Operation::Write) {
            self.doubt(marked);
        }
        match core.stream.take() {
            Some(stream) if !core.expected.is_empty() => socket::reset(stream),
            stream => drop(stream),
        }
    }

    /// Closes a connection that was given up with slices that have ended. The others say nothing
    /// against the peer and wait for the next connection.
    pub(super) fn restart(&self, core: &mut Core) {
        self.disconnect(core);
        core.expected.clear();
        while let Some(flight) = core.flights.pop_back() {
            if let Some(slice) = flight.slice {
                core.queue.push_front(slice);
            }
        }
    }

    /// The peer or the network ended the connection. What it was at may be the reason and goes
    /// back; what stood behind that is not charged with the failure.
    pub(super) fn lose(&self, core: &mut Core, error: &Error) {
        self.peer.health.lost(Instant::now());
        let Some(first) = core.expected.front() else {
            return self.abandon(core, error, Scope::Endpoint);
        };
        let count = first.count.min(core.flights.len());
        let suspects: Vec<Slice> =
            core.flights.drain(..count).filter_map(|flight| flight.slice).collect();
        self.restart(core);
        for slice in suspects {
            self.peer.recovery.recover(slice, error.clone(), Scope::Endpoint);
        }
    }

    /// Closes the connection and gives all slices back: the peer cannot be worked with.
    pub(super) fn abandon(&self, core: &mut Core, error: &Error, scope: Scope) {
        self.disconnect(core);
        for slice in core.take_slices() {
            self.peer.recovery.recover(slice, error.clone(), scope);
        }
    }

    pub(super) fn fail(&self, core: &mut Core, failure: Failure) {
        let (error, scope) = match failure {
            Failure::Lost(error, scope) => (error, scope),
            Failure::Restart => return self.restart(core),
            Failure::Broken(Broken::Closed) => {
                let text = match core.state {
                    State::Greeting { .. } => "the peer closed the connection during the hello",
                    _ => "the peer closed the connection",
                };
                (self.peer.error(ErrorKind::ConnectionLost, text), Scope::Endpoint)
            }
            Failure::Broken(Broken::Connection(error)) => {
                let error = Error::io(ErrorKind::ConnectionLost, "the connection broke", error);
                (error.with("peer", &self.peer.name), Scope::Endpoint)
            }
            Failure::Broken(Broken::Memory { error, region, address }) => {
                return self.lose_memory(core, &error, &region, address);
            }
        };
        match (core.state, scope) {
            (State::Ready, Scope::Endpoint) => self.lose(core, &error),
            (State::Greeting { .. }, Scope::Endpoint) => self.abandon(core, &error, Scope::Route),
            _ => self.abandon(core, &error, scope),
        }
    }

    /// The slices whose memory is gone fail; the others lose only the connection.
    fn lose_memory(&self, core: &mut Core, error: &Error, region: &Arc<Region>, address: u64) {
        let mut is_explained = false;
        for flight in &mut core.flights {
            let is_cause = flight.slice.as_ref().is_some_and(|slice| {
                Arc::ptr_eq(&slice.region, region)
                    && slice.operation == Operation::Write
                    && (slice.region.is_closed()
                        || address.wrapping_sub(slice.local_address) < slice.length)
            });
            if is_cause {
                if let Some(slice) = flight.slice.take() {
                    slice.fail(error.clone().with("peer", &self.peer.name));
                    is_explained = true;
                }
            }
        }
        if is_explained {
            return self.restart(core);
        }
        // The memory of a request that has ended already.
        self.lose(core, &error.clone().with("peer", &self.peer.name));
    }
}
