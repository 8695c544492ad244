//! Upstream's v2 at the initiator: pipelined requests, a status frame for each, in order.

use std::sync::Arc;

use crate::error::ErrorKind;
use crate::transport::{Operation, Scope};

use super::super::stream::Target;
use super::super::wire::v1v2::{decode_status, Framing, Header, Opcode, STATUS_BYTES, STATUS_OK};
use super::{Core, Expected, Failure, Lane};

pub(super) fn advance(lane: &Lane, core: &mut Core) -> Result<(), Failure> {
    let single = lane.peer.one_per_connection();
    let is_first = core.expected.is_empty();
    core.send(|core| frame(core, single))?;
    if is_first {
        // Its answer cannot be here yet; whoever drives the lane next, or is woken, looks for it.
        return Ok(());
    }
    let mut drained = false;
    while let Some(expected) = core.expected.front() {
        let operation = expected.operation;
        if !core.receiving {
            if !core.have(STATUS_BYTES, &mut drained)? {
                break;
            }
            status(lane, core, operation)?;
        }
        if !core.have_payload(&mut drained)? {
            break;
        }
        finish(lane, core);
        if !core.queue.is_empty() && !single {
            core.send(|core| frame(core, single))?;
        }
    }
    Ok(())
}

fn frame(core: &mut Core, single: bool) -> bool {
    if single && !core.expected.is_empty() {
        return false;
    }
    frame_request(core, Framing::V2)
}

/// Frames one queued slice as one request; false if there is none.
pub(super) fn frame_request(core: &mut Core, framing: Framing) -> bool {
    let Some(slice) = core.next_slice() else { return false };
    let operation = slice.operation;
    let opcode = match operation {
        Operation::Read => Opcode::Read,
        Operation::Write => Opcode::Write,
    };
    let header = Header { size: slice.length, addr: slice.remote_address, opcode, framing };
    core.output.push_bytes(|bytes| bytes.extend_from_slice(&header.encode()));
    if operation == Operation::Write {
        let region = Arc::clone(&slice.region);
        core.output.push_memory(region, slice.local_address, slice.length);
    }
    let payload = if operation == Operation::Read { slice.length } else { 0 };
    core.launch(slice);
    let sequence = core.sequence;
    core.sequence = core.sequence.wrapping_add(1);
    let end = core.output.end();
    core.expected.push_back(Expected { operation, sequence, count: 1, payload, end });
    true
}

/// Reads the status frame of the first request.
fn status(lane: &Lane, core: &mut Core, operation: Operation) -> Result<(), Failure> {
    let Some(bytes) = core.input.bytes().first_chunk::<STATUS_BYTES>() else { return Ok(()) };
    let Some(code) = decode_status(bytes) else {
        let text = "the peer answered without a status frame";
        return Err(Failure::Lost(lane.peer.error(ErrorKind::Protocol, text), Scope::Route));
    };
    core.input.skip(STATUS_BYTES);
    if code != STATUS_OK {
        return Err(refused(lane, core, code));
    }
    if core.expected.front().is_some_and(|expected| core.output.sent() < expected.end) {
        // Only a refusal may come early: this memory is still being sent.
        let text = "the peer answered a request before it had it";
        return Err(Failure::Lost(lane.peer.error(ErrorKind::Protocol, text), Scope::Route));
    }
    prepare(core, operation);
    Ok(())
}

/// The peer refused the first request and will close: that slice fails, the others go elsewhere.
fn refused(lane: &Lane, core: &mut Core, code: u32) -> Failure {
    core.expected.pop_front();
    if let Some(slice) = core.flights.pop_front().and_then(|flight| flight.slice) {
        let error = lane
            .peer
            .error(ErrorKind::RemoteRange, "the peer refused the range")
            .with("operation", slice.operation.name())
            .with("address", format_args!("{:#x}", slice.remote_address))
            .with("length_bytes", slice.length)
            .with("code", code);
        lane.peer.recovery.recover(slice, error, Scope::Slice);
    }
    Failure::Restart
}

/// Points the payload of the first request at its memory.
pub(super) fn prepare(core: &mut Core, operation: Operation) {
    core.statuses.clear();
    let targets = core.input.targets_mut();
    targets.clear();
    if let (Operation::Read, Some(flight)) = (operation, core.flights.front()) {
        targets.push(match &flight.slice {
            Some(slice) => {
                Target::into_region(Arc::clone(&slice.region), slice.local_address, slice.length)
            }
            None => Target::discard(flight.length, super::super::wire::native::BlockStatus::Ok),
        });
    }
    core.receiving = true;
    core.input.begin();
}

/// Ends the first request, whose answer is complete.
pub(super) fn finish(lane: &Lane, core: &mut Core) {
    core.receiving = false;
    core.expected.pop_front();
    let lost = core.input.targets().first().and_then(|target| target.error.clone());
    let Some(slice) = core.flights.pop_front().and_then(|flight| flight.slice) else { return };
    match lost {
        Some(error) if slice.operation == Operation::Read => {
            slice.fail(error.with("peer", &lane.peer.name));
        }
        _ => lane.peer.count_and_complete(slice),
    }
}
