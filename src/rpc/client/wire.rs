//! One connection to a master: one exchange at a time, on the thread of the caller.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::outcome::Outcome;
use crate::rpc::dialect::{self, native, Dialect};
use crate::rpc::frame::{
    Fault, ReplyHeader, RequestHeader, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES,
};
use crate::rpc::lookout::Lookout;
use crate::rpc::message::{Call, Greeting, Method, Reply};
use crate::time::Deadline;

/// Space for replies at first, and the most that is kept.
const INPUT_BYTES: usize = 16 << 10;
const KEPT_BYTES: usize = 1 << 20;

/// Why an exchange failed, and what may have become of the call.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) error: Error,
    /// No byte of the request has left, so the master cannot have acted on it.
    pub(super) unsent: bool,
    /// The connection ended before a byte of the reply came.
    pub(super) unanswered: bool,
    /// The connection can be used again.
    pub(super) intact: bool,
}

impl Broken {
    fn intact(error: Error) -> Broken {
        Broken { error, unsent: true, unanswered: true, intact: true }
    }
}

/// What answered, after the first words.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub(super) dialect: Dialect,
    pub(super) greeting: Option<Greeting>,
}

pub(super) struct Connection {
    stream: Arc<TcpStream>,
    dialect: Dialect,
    next_seq: u32,
    output: Vec<u8>,
    /// Its length is space; the first `filled` bytes have arrived.
    input: Vec<u8>,
    filled: usize,
    lookout: Lookout,
    pub(super) last_used: Instant,
}

impl Connection {
    /// What this host has not sent yet of a call that was given up must not arrive later, when
    /// nobody waits for what it brings about.
    pub(super) fn abandon(&self) {
        // Not vital: without it the kernel goes on sending for a while.
        let _ = socket2::SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Connects to the first address that answers.
    pub(super) fn open(
        addresses: &[SocketAddr],
        nodelay: bool,
        spin: Duration,
        deadline: Deadline,
    ) -> Result<Connection> {
        let mut failure = None;
        for (index, address) in addresses.iter().enumerate() {
            let now = Instant::now();
            // Each gets its share, so that one that is silent does not use up all time.
            let share = deadline.remaining(now) / (addresses.len() - index) as u32;
            if share.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => {
                    // Not vital.
                    let _ = stream.set_nodelay(nodelay);
                    stream.set_nonblocking(true).map_err(|error| {
                        Error::io(ErrorKind::Resource, "cannot set a socket non-blocking", error)
                    })?;
                    return Ok(Connection {
                        stream: Arc::new(stream),
                        dialect: Dialect::Upstream0_3_7,
                        next_seq: 0,
                        output: Vec::new(),
                        input: Vec::new(),
                        filled: 0,
                        lookout: Lookout::new(spin),
                        last_used: now,
                    });
                }
                Err(error) => {
                    let text = "cannot connect to the master";
                    failure = Some(
                        Error::io(ErrorKind::Unreachable, text, error).with("address", address),
                    );
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::new(ErrorKind::Timeout, "no time was left to connect to the master")
        }))
    }

    pub(super) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// True if nothing speaks against using it again: no end, and no bytes nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.peek(&mut byte), Err(error) if error.kind() == IoKind::WouldBlock)
    }

    /// Finds out who answers. Both questions go out together: the native one, which upstream does
    /// not know, and upstream's, whose answer tells its versions apart.
    pub(super) fn meet(&mut self, wanted: Option<Dialect>, deadline: Deadline) -> Result<Met> {
        let asks_native = wanted.is_none_or(|dialect| dialect == Dialect::Native);
        let asks_upstream = wanted.is_none_or(|dialect| dialect != Dialect::Native);
        let greet = Call::Greet { version: native::VERSION.into() };
        let mut native_seq = None;
        let mut upstream_seq = None;
        if asks_native {
            native_seq = Some(self.write(Dialect::Native, &greet)?);
        }
        if asks_upstream {
            upstream_seq = Some(self.write(Dialect::Upstream0_3_7, &Call::ServiceReady)?);
        }
        let out = std::mem::take(&mut self.output);
        self.send(&out, deadline).map_err(|broken| broken.error)?;
        let mut met = None;
        if let Some(seq) = native_seq {
            let (header, body) = self.receive(seq, deadline).map_err(|b| b.error)?;
            match header.fault {
                0 => met = Some(greeted(&self.input[body])?),
                Fault::NOT_REGISTERED if asks_upstream => {}
                code => return Err(fault_error(code, &self.input[body])),
            }
        }
        if let Some(seq) = upstream_seq {
            let (header, body) = self.receive(seq, deadline).map_err(|b| b.error)?;
            // A master of ours answers this by the version of its port, which does not matter.
            if met.is_none() {
                met = Some(upstream(header, &self.input[body])?);
            }
        }
        let met = met.ok_or_else(|| Error::new(ErrorKind::Internal, "no question was asked"))?;
        self.dialect = met.dialect;
        Ok(met)
    }

    /// Makes one call.
    pub(super) fn exchange(
        &mut self,
        call: &Call,
        deadline: Deadline,
    ) -> std::result::Result<Reply, Broken> {
        let seq = self.write(self.dialect, call).map_err(Broken::intact)?;
        let out = std::mem::take(&mut self.output);
        let sent = self.send(&out, deadline);
        self.output = out;
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES);
        sent?;
        let (header, body) = self.receive(seq, deadline)?;
        let body = &self.input[body];
        let answered =
            |error: Error, intact| Broken { error, unsent: false, unanswered: false, intact };
        if header.fault != 0 {
            return Err(answered(fault_error(header.fault, body), true));
        }
        let reply =
            dialect::decode_reply(self.dialect, call.method(), body).map_err(|malformed| {
                let text = "the master's answer cannot be read";
                answered(Error::new(ErrorKind::Protocol, text).caused_by(malformed), false)
            })?;
        if !reply.fits(call) {
            let text = "the master's answer has another number of entries than the call";
            return Err(answered(Error::new(ErrorKind::Protocol, text), false));
        }
        if self.input.len() > KEPT_BYTES {
            self.input = Vec::new();
        }
        Ok(reply)
    }

    /// Appends a request to the output; its number.
    fn write(&mut self, dialect: Dialect, call: &Call) -> Result<u32> {
        let start = self.output.len();
        self.output.extend_from_slice(&[0; REQUEST_HEADER_BYTES]);
        let body = self.output.len();
        let function = match dialect::encode_request(dialect, call, &mut self.output) {
            Ok(function) => function,
            Err(error) => {
                self.output.truncate(start);
                return Err(error);
            }
        };
        let length = self.output.len() - body;
        if length > limits::RPC_REQUEST_BYTES_MAX {
            self.output = Vec::new();
            return Err(Error::new(ErrorKind::InvalidArgument, "the call is too large")
                .with("bytes", length)
                .with("most", limits::RPC_REQUEST_BYTES_MAX));
        }
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        let header = RequestHeader { seq, function, length: length as u32, attachment: 0 };
        self.output[start..body].copy_from_slice(&header.encode());
        Ok(seq)
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> std::result::Result<(), Broken> {
        let mut sent = 0;
        while sent < bytes.len() {
            let failed =
                |error, sent| Broken { error, unsent: sent == 0, unanswered: true, intact: false };
            match (&*self.stream).write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) if error.kind() == IoKind::WouldBlock => {
                    if !self.wait(PollFlags::OUT, deadline) {
                        return Err(failed(late("the master does not take the call"), sent));
                    }
                }
                Err(error) => return Err(failed(lost(error), sent)),
            }
        }
        Ok(())
    }

    /// Receives the reply with that number; the range of its body in the input.
    fn receive(
        &mut self,
        seq: u32,
        deadline: Deadline,
    ) -> std::result::Result<(ReplyHeader, std::ops::Range<usize>), Broken> {
        let mut frame: Option<(ReplyHeader, usize)> = None;
        self.lookout.begin(Instant::now());
        loop {
            if frame.is_none() {
                if let Some(head) = self.input[..self.filled].first_chunk::<REPLY_HEADER_BYTES>() {
                    frame = Some(self.head(head, seq)?);
                }
            }
            if let Some((header, whole)) = frame {
                if self.filled >= whole {
                    let body = REPLY_HEADER_BYTES..REPLY_HEADER_BYTES + header.length as usize;
                    return Ok(self.taken(header, body, whole));
                }
            }
            let needed = frame.map_or(REPLY_HEADER_BYTES, |(_, whole)| whole);
            self.make_room(needed);
            match (&*self.stream).read(&mut self.input[self.filled..]) {
                Ok(0) => {
                    let end = std::io::Error::from(IoKind::UnexpectedEof);
                    return Err(self.ended(lost(end)));
                }
                Ok(count) => {
                    self.filled += count;
                    if self.filled < needed {
                        self.lookout.begin(Instant::now());
                    }
                }
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) if error.kind() == IoKind::WouldBlock => {
                    let now = Instant::now();
                    if self.lookout.goes_on(now) && !deadline.passed(now) {
                        // A master on the same core can only answer if it gets to run.
                        std::thread::yield_now();
                    } else if !self.wait(PollFlags::IN, deadline) {
                        let mut broken = self.ended(late("the master did not answer in time"));
                        broken.unanswered = false;
                        return Err(broken);
                    }
                }
                Err(error) => return Err(self.ended(lost(error))),
            }
        }
    }

    /// Reads the head of a reply: it, and the bytes of the whole frame.
    fn head(
        &self,
        head: &[u8; REPLY_HEADER_BYTES],
        seq: u32,
    ) -> std::result::Result<(ReplyHeader, usize), Broken> {
        let wrong = |error| Broken { error, unsent: false, unanswered: false, intact: false };
        let header = ReplyHeader::decode(head).map_err(|malformed| {
            let text = "what answers is no master";
            wrong(Error::new(ErrorKind::Protocol, text).caused_by(malformed))
        })?;
        if header.seq != seq {
            let text = "the answer is to another call";
            return Err(wrong(Error::new(ErrorKind::Protocol, text).with("number", header.seq)));
        }
        let bytes = u64::from(header.length) + u64::from(header.attachment);
        if bytes > limits::RPC_REPLY_BYTES_MAX as u64 {
            let text = "the master's answer is too large";
            return Err(wrong(Error::new(ErrorKind::Protocol, text).with("bytes", bytes)));
        }
        Ok((header, REPLY_HEADER_BYTES + bytes as usize))
    }

    /// Moves what came behind the frame to the front, and the frame behind it.
    fn taken(
        &mut self,
        header: ReplyHeader,
        body: std::ops::Range<usize>,
        whole: usize,
    ) -> (ReplyHeader, std::ops::Range<usize>) {
        let more = self.filled - whole;
        self.input[..self.filled].rotate_left(whole);
        self.filled = more;
        (header, body.start + more..body.end + more)
    }

    /// Space for a frame of that many bytes: as a frame is only believed as far as it has come,
    /// never more than twice what is here.
    fn make_room(&mut self, needed: usize) {
        if self.filled < self.input.len() {
            return;
        }
        let space = needed.min(self.filled * 2).max(self.filled + INPUT_BYTES);
        self.input.resize(space, 0);
    }

    fn ended(&self, error: Error) -> Broken {
        Broken { error, unsent: false, unanswered: self.filled == 0, intact: false }
    }

    /// Sleeps until the socket is ready; false once the time is over.
    fn wait(&self, flags: PollFlags, deadline: Deadline) -> bool {
        let left = deadline.remaining(Instant::now());
        if left.is_zero() {
            return false;
        }
        let time = Timespec {
            tv_sec: left.as_secs().min(3600) as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&*self.stream, flags)];
        // Interrupted, or not ready after all: the caller looks again.
        let _ = poll(&mut fds, Some(&time));
        true
    }
}

fn greeted(body: &[u8]) -> Result<Met> {
    let reply = dialect::decode_reply(Dialect::Native, Method::Greet, body).map_err(unreadable)?;
    let Reply::Greeted(outcome) = reply else {
        return Err(Error::new(ErrorKind::Protocol, "the master's greeting cannot be read"));
    };
    let greeting = accepted(outcome)?;
    if greeting.version == 0 || greeting.version > native::VERSION.into() {
        let text = "the master speaks a version that this client does not";
        return Err(Error::new(ErrorKind::Unsupported, text)
            .with("master", greeting.version)
            .with("client", native::VERSION));
    }
    Ok(Met { dialect: Dialect::Native, greeting: Some(greeting) })
}

fn upstream(header: ReplyHeader, body: &[u8]) -> Result<Met> {
    if header.fault != 0 {
        return Err(fault_error(header.fault, body));
    }
    let dialect = Dialect::Upstream0_3_7;
    match dialect::decode_reply(dialect, Method::ServiceReady, body) {
        Ok(Reply::Ready(outcome)) => {
            accepted(outcome)?;
            Ok(Met { dialect, greeting: None })
        }
        _ => {
            let text = "the master is of a version of upstream that this client does not speak";
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }
}

fn accepted<T>(outcome: Outcome<T>) -> Result<T> {
    outcome.map_err(|refusal| {
        Error::new(ErrorKind::Rejected, "the master refuses clients").with("reason", refusal)
    })
}

fn unreadable(malformed: crate::rpc::pack::Malformed) -> Error {
    Error::new(ErrorKind::Protocol, "the master's answer cannot be read").caused_by(malformed)
}

fn fault_error(code: u8, body: &[u8]) -> Error {
    let fault = Fault::decode(code, body);
    let kind = match code {
        Fault::NOT_REGISTERED => ErrorKind::Unsupported,
        _ => ErrorKind::Rejected,
    };
    Error::new(kind, "the master did not serve the call")
        .with("number", code)
        .with("text", fault.text.escape_debug())
}

fn lost(error: std::io::Error) -> Error {
    Error::io(ErrorKind::ConnectionLost, "the connection to the master ended", error)
}

fn late(text: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, text)
}
