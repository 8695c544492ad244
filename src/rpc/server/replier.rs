//! Answers: written at once where the call is being served, else handed to the connection's thread.
//!
//! While a thread serves a connection, the bytes to be sent to it lie in a place of the thread. A
//! replier used there and then appends to them; used anywhere else, later or on another thread, it
//! writes its answer into bytes of its own and wakes the thread that owns the connection.

use std::cell::RefCell;
use std::sync::Arc;

use crate::limits;
use crate::rpc::dialect::{self, Dialect};
use crate::rpc::frame::{Fault, ReplyHeader, REPLY_HEADER_BYTES};
use crate::rpc::look::Seen;
use crate::rpc::message::{Method, Reply};

use super::worker::Shared;

/// In one of its forms.
#[derive(Clone, Copy)]
enum Answer<'a> {
    Reply(&'a Reply),
    Seen(&'a Seen<'a>),
    Fault(&'a Fault),
}

/// The one answer to one call. Thread-safe to move; never blocks.
#[must_use = "a dropped replier answers that the call failed"]
pub struct Replier {
    origin: Arc<Shared>,
    connection: u64,
    seq: u32,
    dialect: Dialect,
    method: Method,
    answered: bool,
}

impl std::fmt::Debug for Replier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replier({:?}, {})", self.method, self.dialect)
    }
}

impl Replier {
    pub(super) fn new(
        origin: Arc<Shared>,
        connection: u64,
        seq: u32,
        dialect: Dialect,
        method: Method,
    ) -> Replier {
        Replier { origin, connection, seq, dialect, method, answered: false }
    }

    /// Answers. An answer of another kind than the call becomes a fault; an answer to a caller that
    /// has gone is dropped.
    pub fn answer(mut self, reply: &Reply) {
        self.finish(Answer::Reply(reply));
    }

    /// The same for what a look has seen.
    pub fn show(mut self, seen: &Seen<'_>) {
        self.finish(Answer::Seen(seen));
    }

    /// Answers that the call failed, with a text for the caller.
    pub fn fail(mut self, text: impl Into<std::borrow::Cow<'static, str>>) {
        self.finish(Answer::Fault(&Fault::threw(text)));
    }

    fn finish(&mut self, answer: Answer<'_>) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let write = |out: &mut Vec<u8>| self.write(out, answer);
        if !Desk::write_inline(&self.origin, self.connection, write) {
            let mut bytes = Vec::new();
            self.write(&mut bytes, answer);
            self.origin.hand_over(self.connection, bytes);
        }
    }

    fn write(&self, out: &mut Vec<u8>, answer: Answer<'_>) {
        let (dialect, method) = (self.dialect, self.method);
        let checked = |encoded: Result<(), crate::error::Error>| {
            encoded.map_err(|error| {
                log::error!("rpc: {error}");
                Fault::threw("the master gave an answer of another kind")
            })
        };
        let written = match answer {
            Answer::Reply(reply) => write_frame(out, self.seq, |out| {
                checked(dialect::encode_reply(dialect, method, reply, out))
            }),
            Answer::Seen(seen) => write_frame(out, self.seq, |out| {
                checked(dialect::encode_seen(dialect, method, seen, out))
            }),
            Answer::Fault(fault) => Err(fault.clone()),
        };
        if let Err(fault) = written {
            self.origin.count_fault();
            write_fault(out, self.seq, &fault);
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        self.finish(Answer::Fault(&Fault::threw("unknown rpc function exception")));
    }
}

/// Appends a frame whose body `write` appends; on an error nothing is appended.
fn write_frame(
    out: &mut Vec<u8>,
    seq: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let start = out.len();
    out.extend_from_slice(&[0; REPLY_HEADER_BYTES]);
    let body = out.len();
    let written = write(out);
    let length = out.len() - body;
    let too_long = length > limits::RPC_REPLY_BYTES_MAX;
    if written.is_err() || too_long {
        out.truncate(start);
        written?;
        return Err(Fault::too_large("the answer is too large"));
    }
    let header = ReplyHeader { fault: 0, seq, length: length as u32, attachment: 0 };
    out[start..body].copy_from_slice(&header.encode());
    Ok(())
}

/// Appends the frame of a fault.
pub(super) fn write_fault(out: &mut Vec<u8>, seq: u32, fault: &Fault) {
    let mut body = Vec::new();
    fault.encode(&mut body);
    // A few words.
    let length = body.len() as u32;
    out.extend_from_slice(&ReplyHeader { fault: fault.code, seq, length, attachment: 0 }.encode());
    out.extend_from_slice(&body);
}

/// The connection that the present thread is serving.
pub(super) struct Desk {
    origin: *const Shared,
    connection: u64,
    out: Vec<u8>,
    answers: usize,
}

thread_local! {
    static DESK: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

impl Desk {
    /// Opens it for one call; `out` is what the connection is to be sent.
    pub(super) fn open(origin: &Arc<Shared>, connection: u64, out: Vec<u8>) {
        let desk = Desk { origin: Arc::as_ptr(origin), connection, out, answers: 0 };
        DESK.set(Some(desk));
    }

    /// Closes it and gives the bytes back, with the number of answers that were appended.
    pub(super) fn close() -> (Vec<u8>, usize) {
        DESK.take().map(|desk| (desk.out, desk.answers)).unwrap_or_default()
    }

    /// True if the thread is serving that connection, and `write` has appended to its bytes.
    fn write_inline(
        origin: &Arc<Shared>,
        connection: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        DESK.with_borrow_mut(|desk| match desk {
            Some(desk) if desk.connection == connection && desk.origin == Arc::as_ptr(origin) => {
                write(&mut desk.out);
                desk.answers += 1;
                true
            }
            _ => false,
        })
    }
}
