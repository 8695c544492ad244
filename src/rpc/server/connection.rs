//! One connection of a caller: bytes in, requests out, answers back. Entered by the thread that
//! owns it, only.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits;
use crate::net::epoll::{Epoll, Interest};
use crate::rpc::dialect::{self, Asked, Dialect};
use crate::rpc::frame::{Fault, RequestHeader, MAGIC, REQUEST_HEADER_BYTES};

use super::replier::{write_fault, Desk, Replier};
use super::worker::Shared;
use super::{add, Caller, Context};

/// Requests of one turn, so that one busy caller cannot starve the others of its thread.
const REQUESTS_PER_TURN: usize = 256;
/// Receives of one turn, for the same reason.
const RECEIVES_PER_TURN: usize = 16;
/// Output space beyond this is given back once it is empty.
const KEPT_BYTES: usize = 64 << 10;
/// Longest time for one request, however large.
const FRAME_TIME_MAX: Duration = Duration::from_secs(300);

/// What becomes of a connection after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait for an event.
    Keep,
    /// Another turn soon; there is work that needs no event.
    Again,
    /// Close it; its caller is gone.
    Close,
    /// Close it; its caller does not keep to the rules.
    Refuse,
}

pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// That of its port.
    dialect: Dialect,
    id: u64,
    /// The start of a request that has not arrived whole.
    input: Vec<u8>,
    /// Bytes to be thrown away.
    skip: u64,
    output: Vec<u8>,
    /// Of these, how many the kernel has taken.
    sent: usize,
    /// Calls without an answer yet.
    pending: usize,
    /// It has sent a request.
    proven: bool,
    /// The peer has ended its side.
    ended: bool,
    opened: Instant,
    last_active: Instant,
    /// Whole requests lie in `input`: they were not looked at for the sake of others.
    stalled: bool,
    /// Since when a request has been arriving, and how many bytes it has.
    arriving: Option<(Instant, u64)>,
    /// By when some of the output must be taken.
    taken_by: Option<Instant>,
    interest: Interest,
}

impl Connection {
    pub(super) fn new(
        id: u64,
        stream: TcpStream,
        peer: SocketAddr,
        dialect: Dialect,
        now: Instant,
    ) -> Connection {
        Connection {
            stream,
            peer,
            dialect,
            id,
            input: Vec::new(),
            skip: 0,
            output: Vec::new(),
            sent: 0,
            pending: 0,
            proven: false,
            ended: false,
            opened: now,
            last_active: now,
            stalled: false,
            arriving: None,
            taken_by: None,
            interest: Interest::READ,
        }
    }

    /// True until its first request.
    pub(super) fn is_stranger(&self) -> bool {
        !self.proven
    }

    /// True while time counts against it.
    pub(super) fn owes(&self) -> bool {
        !self.proven || self.arriving.is_some() || self.taken_by.is_some()
    }

    /// True while there is something that it should be sent.
    pub(super) fn is_owed(&self) -> bool {
        self.pending > 0 || !self.output.is_empty()
    }

    /// True once its time is over.
    pub(super) fn is_late(&self, context: &Context, now: Instant) -> bool {
        let options = &context.options;
        let arrives_late = |(since, bytes)| now >= since + time_for(bytes, context);
        let is_idle = |idle| !self.is_owed() && now >= self.last_active + idle;
        (!self.proven && now >= self.opened + options.stranger_timeout)
            || (!self.is_blocked() && self.arriving.is_some_and(arrives_late))
            || self.taken_by.is_some_and(|by| now >= by)
            || options.idle_timeout.is_some_and(is_idle)
    }

    /// Takes an answer that came later.
    pub(super) fn take_answer(&mut self, bytes: &[u8]) {
        self.pending = self.pending.saturating_sub(1);
        self.output.extend_from_slice(bytes);
    }

    /// Serves and sends what can be served and sent now. `draining`: no further requests.
    pub(super) fn turn(
        &mut self,
        context: &Context,
        shared: &Arc<Shared>,
        scratch: &mut [u8],
        draining: bool,
        now: Instant,
    ) -> Verdict {
        let verdict = self.work(context, shared, scratch, draining, now);
        if matches!(verdict, Verdict::Keep | Verdict::Again)
            && !self.watch(shared.epoll(), draining)
        {
            return Verdict::Close;
        }
        verdict
    }

    fn work(
        &mut self,
        context: &Context,
        shared: &Arc<Shared>,
        scratch: &mut [u8],
        draining: bool,
        now: Instant,
    ) -> Verdict {
        let mut served = 0;
        let mut drained = draining;
        for _ in 0..RECEIVES_PER_TURN {
            // What is here already comes first: no event would tell of it.
            if !self.input.is_empty() && !draining && !self.is_blocked() {
                let input = std::mem::take(&mut self.input);
                let used = self.consume(&input, context, shared, &mut served, now);
                self.keep(input, used.unwrap_or(0), context);
                if used.is_none() {
                    return Verdict::Refuse;
                }
            }
            if !self.flush(context, now) {
                return Verdict::Close;
            }
            if self.stalled || drained || self.ended || self.is_blocked() {
                break;
            }
            let received = match self.stream.read(scratch) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(received) => received,
                Err(error) if error.kind() == IoKind::WouldBlock => {
                    drained = true;
                    break;
                }
                Err(error) if error.kind() == IoKind::Interrupted => continue,
                Err(_) => return Verdict::Close,
            };
            drained = received < scratch.len();
            self.last_active = now;
            add(&context.counters.bytes_received, received as u64);
            let bytes = &scratch[..received];
            let used = match self.input.is_empty() {
                true => self.consume(bytes, context, shared, &mut served, now),
                false => Some(0),
            };
            let Some(used) = used else { return Verdict::Refuse };
            if !self.hold(&bytes[used..], context) {
                return Verdict::Refuse;
            }
        }
        if !self.flush(context, now) {
            return Verdict::Close;
        }
        if self.output.len() - self.sent > limits::RPC_BACKLOG_BYTES_MAX {
            return Verdict::Refuse;
        }
        if draining {
            return Verdict::Keep;
        }
        // Nobody who closes its side waits for answers that come later.
        if self.ended && self.output.is_empty() && !self.stalled {
            return Verdict::Close;
        }
        let has_more = self.stalled || !drained && !self.ended;
        if has_more && !self.is_blocked() {
            return Verdict::Again;
        }
        Verdict::Keep
    }

    /// True while its requests are not to be looked at.
    pub(super) fn is_blocked(&self) -> bool {
        self.output.len() - self.sent > limits::RPC_BACKLOG_BYTES
            || self.pending >= limits::RPC_PENDING_MAX
    }

    /// Serves the whole requests in `bytes`; how many bytes they are, or `None` if these are no
    /// requests.
    fn consume(
        &mut self,
        bytes: &[u8],
        context: &Context,
        shared: &Arc<Shared>,
        served: &mut usize,
        now: Instant,
    ) -> Option<usize> {
        let mut at = 0;
        let before = self.arriving.take();
        // What was arriving already does not get its time anew.
        let arriving = |at: usize, bytes: u64| match before {
            Some((since, whole)) if at == 0 => Some((since, bytes.max(whole))),
            _ => Some((now, bytes)),
        };
        self.stalled = false;
        while at < bytes.len() && !self.is_blocked() && *served < REQUESTS_PER_TURN {
            let rest = &bytes[at..];
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len() as u64);
                self.skip -= skipped;
                if self.skip > 0 {
                    self.arriving = arriving(at, self.skip);
                    return Some(bytes.len());
                }
                at += skipped as usize;
                continue;
            }
            if rest[0] != MAGIC {
                return None;
            }
            let Some(head) = rest.first_chunk::<REQUEST_HEADER_BYTES>() else {
                self.arriving = arriving(at, 0);
                return Some(at);
            };
            let header = RequestHeader::decode(head).ok()?;
            let length = header.length as usize;
            if length > context.options.request_bytes_max {
                // Thrown away as it arrives, so that the caller can read why.
                self.skip = u64::from(header.length) + u64::from(header.attachment);
                at += REQUEST_HEADER_BYTES;
                self.refuse(header.seq, &Fault::too_large("the request is too large"), context);
                *served += 1;
                continue;
            }
            let Some(body) = rest.get(REQUEST_HEADER_BYTES..REQUEST_HEADER_BYTES + length) else {
                self.arriving = arriving(at, length as u64);
                return Some(at);
            };
            at += REQUEST_HEADER_BYTES + length;
            self.skip = header.attachment.into();
            *served += 1;
            self.serve(header, body, context, shared);
        }
        self.stalled = at < bytes.len();
        if self.skip > 0 && !self.stalled {
            self.arriving = Some((now, self.skip));
        }
        Some(at)
    }

    fn serve(
        &mut self,
        header: RequestHeader,
        body: &[u8],
        context: &Context,
        shared: &Arc<Shared>,
    ) {
        let (dialect, asked) = match dialect::decode_asked(header.function, body, self.dialect) {
            Ok(asked) => asked,
            Err(fault) => return self.refuse(header.seq, &fault, context),
        };
        self.proven = true;
        let method = asked.method();
        let replier = Replier::new(Arc::clone(shared), self.id, header.seq, dialect, method);
        let caller = Caller { address: self.peer, dialect };
        add(&context.counters.calls, 1);
        Desk::open(shared, self.id, std::mem::take(&mut self.output));
        // The call is moved in and the service must keep its own state whole; the replier answers
        // while the panic unwinds.
        let panic = catch_unwind(AssertUnwindSafe(|| match asked {
            Asked::Look(look) => context.service.look(look, caller, replier),
            Asked::Call(call) => context.service.serve(call, caller, replier),
        }));
        let (output, answers) = Desk::close();
        self.output = output;
        // Answers to earlier calls of this connection may be among them.
        self.pending = (self.pending + 1).saturating_sub(answers);
        if panic.is_err() {
            add(&context.counters.panics, 1);
            log::error!("rpc: a call of {} panicked: {method:?}", self.peer);
        }
    }

    fn refuse(&mut self, seq: u32, fault: &Fault, context: &Context) {
        add(&context.counters.faults, 1);
        log::debug!("rpc: request of {} refused: {}", self.peer, fault.text);
        write_fault(&mut self.output, seq, fault);
    }

    /// Keeps what of `input` was not used.
    fn keep(&mut self, mut input: Vec<u8>, used: usize, context: &Context) {
        input.drain(..used);
        context.input_bytes.fetch_sub(used, Ordering::Relaxed);
        if input.is_empty() && input.capacity() > KEPT_BYTES {
            input = Vec::new();
        }
        self.input = input;
    }

    /// Keeps the start of a request; false if too much is kept already.
    fn hold(&mut self, bytes: &[u8], context: &Context) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let held = context.input_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        self.input.extend_from_slice(bytes);
        held + bytes.len() <= limits::RPC_INPUT_BYTES_MAX
    }

    /// Sends; false if the caller is gone.
    fn flush(&mut self, context: &Context, now: Instant) -> bool {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return false,
                Ok(sent) => {
                    self.sent += sent;
                    self.taken_by = None;
                    self.last_active = now;
                    add(&context.counters.bytes_sent, sent as u64);
                }
                Err(error) if error.kind() == IoKind::WouldBlock => {
                    let by = now + context.options.frame_timeout;
                    self.taken_by.get_or_insert(by);
                    // Taken bytes are dropped once they are the larger part.
                    if self.sent > KEPT_BYTES && self.sent > self.output.len() / 2 {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return true;
                }
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES);
        self.sent = 0;
        self.taken_by = None;
        true
    }

    /// Asks for the events that matter now; false if that failed.
    fn watch(&mut self, epoll: &Epoll, draining: bool) -> bool {
        // The end of a stream stays readable: watching it would never let the thread sleep.
        let read = !self.is_blocked() && !self.ended && !draining;
        let write = self.sent < self.output.len();
        let interest = Interest { read, write, end: read, once: false };
        if interest == self.interest {
            return true;
        }
        self.interest = interest;
        epoll.modify(self.stream.as_fd(), self.id, interest).is_ok()
    }

    /// Gives back what it counted for.
    pub(super) fn close(self, context: &Context) {
        context.input_bytes.fetch_sub(self.input.len(), Ordering::Relaxed);
    }
}

fn time_for(bytes: u64, context: &Context) -> Duration {
    let more = Duration::from_secs(bytes / limits::RPC_FRAME_BYTES_PER_SECOND);
    (context.options.frame_timeout + more).min(FRAME_TIME_MAX)
}
