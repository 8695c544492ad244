//! The serving side: one connection of a peer, whatever it speaks.
//!
//! The first eight bytes tell the protocols apart. Nothing a peer sends is used before it was
//! checked against the registered regions, and a connection costs a bounded amount of memory and,
//! while it owes bytes, of time. Entered by the I/O thread that owns the connection, only.

mod native;
mod upstream;

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::limits;
use crate::metrics::Metrics;
use crate::net::epoll::{Epoll, Interest};
use crate::transport::RegionTable;

use super::fence::{Fences, Gate, Passage};
use super::places::{Places, Seat};
use super::settings::Settings;
use super::socket;
use super::stream::{Broken, Incoming, Outgoing, Received};
use super::wire::native::MAGIC;
use super::worker::Place;

/// Replies that may wait for a peer that does not read; then its requests are not read either.
const BACKLOG_BYTES: u64 = 8 << 20;
/// Rounds of one call, so that one busy peer cannot starve the others of its thread.
const ROUNDS: usize = 64;
/// How long a closing connection is kept so that the peer can read the last reply.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Payload that is thrown away while closing.
const CLOSING_BYTES_MAX: u64 = 64 << 20;

/// What all served connections share.
pub(super) struct ServeContext {
    pub(super) settings: Arc<Settings>,
    pub(super) table: Arc<dyn RegionTable>,
    pub(super) metrics: Arc<Metrics>,
    /// For how many connections there is room.
    pub(super) places: Arc<Places>,
    /// Keeps connections that were given up from storing.
    pub(super) fences: Arc<Fences>,
}

/// What becomes of a connection after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait for an event.
    Keep,
    /// Call again soon; there is work that needs no event.
    Again,
    /// Drop it.
    Close,
}

/// What a protocol needs next.
enum Step {
    /// Something was done; call again.
    Again,
    /// At least one more header byte.
    Header,
    /// Payload for the present targets.
    Payload,
    /// Too many replies wait.
    Backlogged,
    /// Nothing more will come; send what is queued.
    Drain,
    /// Send what is queued, then end in an orderly way.
    Finish,
    /// End at once, with a reset, so that the peer cannot take it for success.
    Reset,
}

enum Phase {
    Sniffing,
    Upstream(upstream::State),
    Native(native::State),
    Closing {
        until: Instant,
        thrown_away: u64,
    },
    /// The peer has closed its side and may still read what is queued for it.
    Draining,
}

/// One connection of a peer.
pub(super) struct Served {
    stream: Option<TcpStream>,
    peer: SocketAddr,
    place: Place,
    phase: Phase,
    input: Incoming,
    output: Outgoing,
    seat: Seat,
    since: Instant,
    last_progress: Instant,
    interest: Interest,
}

impl Served {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, place: Place, seat: Seat) -> Served {
        let now = Instant::now();
        Served {
            stream: Some(stream),
            peer,
            place,
            phase: Phase::Sniffing,
            input: Incoming::default(),
            output: Outgoing::default(),
            seat,
            since: now,
            last_progress: now,
            interest: Interest::READ,
        }
    }

    /// True while the peer owes bytes, or takes none, so that time counts against it.
    pub(super) fn owes(&self) -> bool {
        let in_request = match &self.phase {
            Phase::Sniffing | Phase::Closing { .. } | Phase::Draining => true,
            Phase::Upstream(state) => state.in_request() || !self.input.bytes().is_empty(),
            Phase::Native(state) => state.in_request() || !self.input.bytes().is_empty(),
        };
        in_request || self.seat.is_stranger() || self.output.pending() > 0
    }

    /// True once the peer has used up its time.
    pub(super) fn is_late(&self, context: &ServeContext, now: Instant) -> bool {
        match self.phase {
            Phase::Closing { until, .. } => now >= until,
            _ if self.seat.is_stranger() => now >= self.since + context.settings.header_timeout,
            _ => self.owes() && now >= self.last_progress + context.settings.progress_timeout,
        }
    }

    /// Serves what can be served now.
    pub(super) fn advance(&mut self, context: &ServeContext, epoll: &Epoll, token: u64) -> Verdict {
        match self.serve(context) {
            Ok(verdict) => {
                if verdict != Verdict::Close && !self.watch(epoll, token) {
                    return Verdict::Close;
                }
                verdict
            }
            Err(Broken::Closed) => {
                let is_between_requests = self.input.bytes().is_empty();
                self.phase = Phase::Draining;
                match self.flush() {
                    Ok(false) if is_between_requests && self.watch(epoll, token) => Verdict::Keep,
                    _ => Verdict::Close,
                }
            }
            Err(Broken::Connection(error)) => {
                log::debug!("tcp: connection of {} broke: {error}", self.peer);
                Verdict::Close
            }
            Err(Broken::Memory { error, .. }) => {
                // A promised payload cannot be sent: only the end of the connection says so.
                log::debug!("tcp: reply to {} given up: {error}", self.peer);
                self.break_off(epoll, token)
            }
        }
    }

    fn serve(&mut self, context: &ServeContext) -> Result<Verdict, Broken> {
        let mut drained = false;
        for _ in 0..ROUNDS {
            match self.step(context) {
                Step::Again => {}
                Step::Finish => self.finish(),
                Step::Reset => {
                    context.metrics.connections_refused.inc();
                    self.reset();
                    return Ok(Verdict::Close);
                }
                Step::Backlogged => {
                    self.flush()?;
                    // Requests may sit in the buffer already; no event would tell of them.
                    if self.output.pending() > BACKLOG_BYTES {
                        return Ok(Verdict::Keep);
                    }
                }
                Step::Drain => {
                    let is_empty = self.flush()?;
                    return Ok(if is_empty { Verdict::Close } else { Verdict::Keep });
                }
                step @ (Step::Header | Step::Payload) => {
                    if drained || !self.receive(&step, &mut drained)? {
                        return self.settle();
                    }
                }
            }
        }
        self.flush()?;
        Ok(Verdict::Again)
    }

    /// Receives once; false if there was nothing.
    fn receive(&mut self, step: &Step, drained: &mut bool) -> Result<bool, Broken> {
        let Some(stream) = &self.stream else { return Err(Broken::Closed) };
        let received = match step {
            Step::Payload => {
                let gate = match &self.phase {
                    Phase::Native(state) => state.gate(),
                    _ => None,
                };
                let _passage = pass(gate)?;
                self.input.receive(stream.as_fd())?
            }
            _ => {
                let present = self.input.bytes().len();
                let longest = match &self.phase {
                    Phase::Native(state) => state.head_missing(present),
                    _ => usize::MAX,
                };
                self.input.fill(stream.as_fd(), longest)?
            }
        };
        *drained = received == Received::Last;
        if received == Received::Nothing {
            return Ok(false);
        }
        self.last_progress = Instant::now();
        if let Phase::Closing { thrown_away, .. } = &mut self.phase {
            *thrown_away += self.input.bytes().len() as u64;
            let count = self.input.bytes().len();
            self.input.skip(count);
        }
        Ok(true)
    }

    /// Nothing to receive at present: sends what is queued.
    fn settle(&mut self) -> Result<Verdict, Broken> {
        let flushed = self.flush()?;
        if let (true, Phase::Closing { .. }, Some(stream)) = (flushed, &self.phase, &self.stream) {
            // Repeating it does no harm; an error means that the peer is gone, which is as good.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(Verdict::Keep)
    }

    fn step(&mut self, context: &ServeContext) -> Step {
        match &mut self.phase {
            Phase::Sniffing => self.sniff(),
            Phase::Draining => Step::Drain,
            Phase::Closing { thrown_away, .. } => {
                if *thrown_away > CLOSING_BYTES_MAX {
                    Step::Reset
                } else {
                    Step::Header
                }
            }
            _ if self.output.pending() > BACKLOG_BYTES => Step::Backlogged,
            Phase::Upstream(state) => {
                let step = state.step(context, &mut self.input, &mut self.output);
                let is_proven = state.proven();
                self.judge(step, is_proven)
            }
            Phase::Native(state) => {
                let step = state.step(context, &self.place, &mut self.input, &mut self.output);
                let is_proven = state.proven();
                self.judge(step, is_proven)
            }
        }
    }

    /// A first valid request that comes too late is not answered: its seat is taken.
    fn judge(&mut self, step: Step, is_proven: bool) -> Step {
        match !is_proven || self.seat.prove() {
            true => step,
            false => Step::Reset,
        }
    }

    fn sniff(&mut self) -> Step {
        let Some(first) = self.input.bytes().first_chunk::<8>() else { return Step::Header };
        if *first == MAGIC {
            self.phase = Phase::Native(native::State::default());
        } else if u64::from_le_bytes(*first) <= limits::UPSTREAM_SIZE_MAX {
            self.phase = Phase::Upstream(upstream::State::default());
        } else {
            return Step::Reset;
        }
        Step::Again
    }

    fn finish(&mut self) {
        self.phase = Phase::Closing { until: Instant::now() + CLOSING_TIME, thrown_away: 0 };
        let count = self.input.bytes().len();
        self.input.skip(count);
    }

    /// True when everything is sent.
    fn flush(&mut self) -> Result<bool, Broken> {
        let Some(stream) = &self.stream else { return Ok(true) };
        let before = self.output.sent();
        let done = self.output.flush(stream.as_fd())?;
        if self.output.sent() > before {
            self.last_progress = Instant::now();
        }
        Ok(done)
    }

    /// Ends the connection in the middle of a reply. A native peer knows by its length that it was
    /// cut, and charges the request at fault alone, if all replies before it arrive; a reset would
    /// throw those away. Upstream's peers might take an orderly end for success.
    fn break_off(&mut self, epoll: &Epoll, token: u64) -> Verdict {
        if !matches!(self.phase, Phase::Native(_)) {
            self.reset();
            return Verdict::Close;
        }
        self.output.clear();
        self.finish();
        let Some(stream) = &self.stream else { return Verdict::Close };
        let is_ended = stream.shutdown(Shutdown::Write).is_ok();
        if is_ended && self.watch(epoll, token) {
            Verdict::Keep
        } else {
            Verdict::Close
        }
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            socket::reset(stream);
        }
    }

    /// Asks for the events that matter now; false if that failed.
    fn watch(&mut self, epoll: &Epoll, token: u64) -> bool {
        let pending = self.output.pending();
        // The end of a stream stays readable: watching it would never let the thread sleep.
        let read = pending <= BACKLOG_BYTES && !matches!(self.phase, Phase::Draining);
        let interest = Interest { read, write: pending > 0, end: read, once: false };
        if interest == self.interest {
            return true;
        }
        let Some(stream) = &self.stream else { return false };
        self.interest = interest;
        epoll.modify(stream.as_fd(), token, interest).is_ok()
    }
}

/// The right to store once, which a connection without a lane's mark always has.
fn pass(gate: Option<&Gate>) -> Result<Option<Passage<'_>>, Broken> {
    let Some(gate) = gate else { return Ok(None) };
    match gate.enter() {
        Some(passage) => Ok(Some(passage)),
        None => Err(Broken::Connection(std::io::ErrorKind::ConnectionAborted.into())),
    }
}

/// Logs a refusal at a level that does not let strangers fill logs.
fn log_refusal(error: &Error) {
    log::debug!("tcp: request refused: {error}");
}
