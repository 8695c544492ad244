//! Upstream's v1 at the initiator: a connection for each request.
//!
//! A 0.3.7 target closes right after it has stored the last byte of a WRITE, which is the only
//! sign there is; so a WRITE is complete when the end of the stream arrives, not when the bytes
//! are gone.

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::ErrorKind;
use crate::net::vectored;
use crate::transport::{Operation, Scope};

use super::super::stream::{Broken, Received};
use super::super::wire::v1v2::Framing;
use super::v2::{finish, frame_request, prepare};
use super::{Core, Failure, Lane};

pub(super) fn advance(lane: &Lane, core: &mut Core, half_close: bool) -> Result<(), Failure> {
    core.send(|core| core.expected.is_empty() && frame_request(core, Framing::V1))?;
    let Some(operation) = core.expected.front().map(|expected| expected.operation) else {
        return Ok(());
    };
    if !core.receiving {
        prepare(core, operation);
    }
    match operation {
        Operation::Read => {
            if core.have_payload(&mut false)? {
                finish(lane, core);
            }
        }
        Operation::Write if core.output.pending() == 0 => {
            let Some(stream) = &core.stream else { return Ok(()) };
            if half_close {
                // This peer would otherwise wait for another request; repeating it is harmless.
                let _ = stream.shutdown(Shutdown::Write);
            }
            match core.input.fill(stream.as_fd(), usize::MAX) {
                Ok(Received::Nothing) => {}
                // What the peer's kernel never acknowledged the peer cannot have stored: it ended
                // the connection, or was ended, before it had everything.
                Err(Broken::Closed) if is_unacknowledged(stream.as_fd()) => {
                    return Err(Broken::Closed.into());
                }
                Err(Broken::Closed) => finish(lane, core),
                Ok(_) => {
                    let text = "the peer answered a v1 write with bytes";
                    let error = lane.peer.error(ErrorKind::Protocol, text);
                    return Err(Failure::Lost(error, Scope::Endpoint));
                }
                Err(broken) => return Err(broken.into()),
            }
        }
        Operation::Write => {}
    }
    Ok(())
}

fn is_unacknowledged(socket: BorrowedFd<'_>) -> bool {
    // A connection that cannot even be asked is not one to trust.
    vectored::unacknowledged(socket).is_none_or(|bytes| bytes > 0)
}
