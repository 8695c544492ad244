//! The native protocol at the initiator: frames of many blocks, replies in order.

use std::os::fd::AsFd;

use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::transport::{Operation, Scope, Slice};

use super::super::stream::{Received, Target};
use super::super::wire::native::{
    Block, BlockStatus, Hello, Kind, LaneMark, ReplyHeader, RequestHeader, CAPABILITY_FENCE,
    HEADER_BYTES, VERSION,
};
use super::{Core, Expected, Failure, Lane, Peer};

/// A slice that has failed so often has a frame of its own: one of those that fail together may be
/// what breaks the connection, such as a READ of memory that the peer cannot reach.
const ALONE_FROM: u32 = 2;

/// The hello of a new connection.
pub(super) fn hello(peer: &Peer, mark: Option<LaneMark>) -> Hello {
    Hello {
        version: VERSION,
        second: VERSION,
        capabilities: CAPABILITY_FENCE,
        instance: peer.settings.instance,
        expected: peer.instance,
        text: peer.settings.own_name.clone(),
        mark,
    }
}

/// Exchanges hellos; true once the peer has accepted.
pub(super) fn greeting(lane: &Lane, core: &mut Core) -> Result<bool, Failure> {
    let Some(stream) = &core.stream else { return Ok(false) };
    core.blocked = !core.output.flush(stream.as_fd())?;
    loop {
        let refuse =
            |error: Error| Failure::Lost(error.with("peer", &lane.peer.name), Scope::Route);
        if let Some((hello, length)) = Hello::decode(core.input.bytes()).map_err(refuse)? {
            core.input.skip(length);
            if let Some(marked) = &mut core.mark {
                marked.is_fenced = hello.capabilities & CAPABILITY_FENCE != 0;
            }
            return check(lane, &hello).map(|()| true).map_err(refuse);
        }
        if core.input.fill(stream.as_fd(), usize::MAX)? == Received::Nothing {
            return Ok(false);
        }
    }
}

fn check(lane: &Lane, hello: &Hello) -> Result<(), Error> {
    if hello.version == 0 {
        return Err(Error::new(ErrorKind::Rejected, "the peer refused the connection")
            .with("reason", hello.text.escape_debug())
            .with("code", hello.second));
    }
    if hello.version > VERSION {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the peer chose a version that was not offered",
        )
        .with("version", hello.version));
    }
    if hello.instance != lane.peer.instance {
        return Err(Error::new(ErrorKind::Rejected, "another engine lives at the address now"));
    }
    Ok(())
}

/// Moves frames and replies.
pub(super) fn advance(lane: &Lane, core: &mut Core) -> Result<(), Failure> {
    let is_first = core.expected.is_empty();
    core.send(|core| frame(lane, core))?;
    if is_first {
        // Its answer cannot be here yet; whoever drives the lane next, or is woken, looks for it.
        return Ok(());
    }
    let mut drained = false;
    while !core.expected.is_empty() {
        let begun = core.receiving
            || core.have(HEADER_BYTES, &mut drained)? && reply(lane, core, &mut drained)?;
        if !begun {
            break;
        }
        if !core.have_payload(&mut drained)? {
            break;
        }
        finish(lane, core);
        // Replies make room for more frames.
        if !core.queue.is_empty() {
            core.send(|core| frame(lane, core))?;
        }
    }
    Ok(())
}

/// Has the peer fence off what any lane of the route has given up meanwhile, so that nothing that
/// follows can be overwritten by it.
fn tell_doubts(lane: &Lane, core: &mut Core) {
    let identities = &lane.peer.identities;
    let Some(marked) = core.mark.as_mut().filter(|marked| marked.is_fenced) else { return };
    if marked.told == identities.version() {
        return;
    }
    let (version, marks) = identities.doubts();
    marked.told = version;
    core.output.push_bytes(|bytes| LaneMark::encode_fence(&marks, bytes));
}

/// Puts queued slices of one direction into a frame; false if there is none.
fn frame(lane: &Lane, core: &mut Core) -> bool {
    let Some(first) = core.next_slice() else { return false };
    tell_doubts(lane, core);
    let (operation, attempts) = (first.operation, first.attempts);
    let mut count = 0usize;
    let mut payload = 0u64;
    let mut next = Some(first);
    let first_flight = core.flights.len();
    while let Some(slice) = next.take() {
        count += 1;
        payload += slice.length;
        core.launch(slice);
        let fits = |slice: &Slice| {
            slice.operation == operation
                && attempts.max(slice.attempts) < ALONE_FROM
                && count < limits::NATIVE_BLOCKS_MAX
                && payload + slice.length <= limits::NATIVE_FRAME_BYTES_MAX
        };
        if core.queue.front().is_some_and(fits) {
            match core.next_slice() {
                // Cancelled ones in between may have brought up one that does not fit.
                Some(slice) if !fits(&slice) => core.queue.push_front(slice),
                other => next = other,
            }
        }
    }
    let sequence = core.sequence;
    core.sequence = core.sequence.wrapping_add(1);
    let kind = match operation {
        Operation::Write => Kind::Write,
        Operation::Read => Kind::Read,
    };
    let header = RequestHeader { kind, blocks: count as u16, sequence, payload };
    let flights = &core.flights;
    core.output.push_bytes(|bytes| {
        header.encode(bytes);
        for slice in flights.range(first_flight..).filter_map(|flight| flight.slice.as_ref()) {
            let block = Block {
                address: slice.remote_address,
                key: slice.remote_key,
                length: slice.length as u32,
            };
            block.encode(bytes);
        }
    });
    if operation == Operation::Write {
        for slice in core.flights.range(first_flight..).filter_map(|f| f.slice.as_ref()) {
            let region = std::sync::Arc::clone(&slice.region);
            core.output.push_memory(region, slice.local_address, slice.length);
        }
    }
    let end = core.output.end();
    let payload = if operation == Operation::Read { payload } else { 0 };
    core.expected.push_back(Expected { operation, sequence, count, payload, end });
    true
}

fn out_of_step(lane: &Lane, text: &'static str) -> Failure {
    Failure::Lost(lane.peer.error(ErrorKind::Protocol, text), Scope::Route)
}

/// Reads the reply header and prepares for its payload; false while status bytes are missing.
fn reply(lane: &Lane, core: &mut Core, drained: &mut bool) -> Result<bool, Failure> {
    let Some(head) = core.input.bytes().first_chunk::<HEADER_BYTES>() else { return Ok(false) };
    let header = ReplyHeader::decode(head)
        .map_err(|error| Failure::Lost(error.with("peer", &lane.peer.name), Scope::Route))?;
    let Some(expected) = core.expected.front() else { return Ok(false) };
    let (operation, count) = (expected.operation, expected.count);
    if core.output.sent() < expected.end {
        // Its memory is still being sent: to call that done would give it back too early.
        return Err(out_of_step(lane, "the peer answered a request before it had it"));
    }
    let kind = match operation {
        Operation::Write => Kind::Write,
        Operation::Read => Kind::Read,
    };
    if header.kind != kind
        || header.sequence != expected.sequence
        || usize::from(header.blocks) != count
    {
        return Err(out_of_step(lane, "the reply does not belong to the request"));
    }
    let status_bytes = if header.statuses { count } else { 0 };
    if !core.have(HEADER_BYTES + status_bytes, drained)? {
        return Ok(false);
    }
    core.statuses.clear();
    let bytes = core.input.bytes();
    core.statuses.extend_from_slice(&bytes[HEADER_BYTES..HEADER_BYTES + status_bytes]);
    core.input.skip(HEADER_BYTES + status_bytes);
    let targets = core.input.targets_mut();
    targets.clear();
    let mut payload = 0;
    if operation == Operation::Read {
        for (block, flight) in core.flights.iter().take(count).enumerate() {
            if core.statuses.get(block).is_some_and(|status| *status != 0) {
                continue;
            }
            payload += flight.length;
            targets.push(match &flight.slice {
                Some(slice) => {
                    let region = std::sync::Arc::clone(&slice.region);
                    Target::into_region(region, slice.local_address, slice.length)
                }
                None => Target::discard(flight.length, BlockStatus::Ok),
            });
        }
    }
    if payload != header.payload {
        return Err(out_of_step(lane, "the reply has another length than the request"));
    }
    core.receiving = true;
    core.input.begin();
    Ok(true)
}

/// Ends the slices of the first frame, whose reply is complete.
fn finish(lane: &Lane, core: &mut Core) {
    core.receiving = false;
    let Some(expected) = core.expected.pop_front() else { return };
    let mut target = 0;
    for block in 0..expected.count {
        let Some(flight) = core.flights.pop_front() else { return };
        let status = BlockStatus::from_byte(core.statuses.get(block).copied().unwrap_or(0));
        let received = if status == BlockStatus::Ok && expected.operation == Operation::Read {
            target += 1;
            core.input.targets().get(target - 1)
        } else {
            None
        };
        let Some(slice) = flight.slice else { continue };
        match received.and_then(|target| target.error.clone()) {
            Some(error) => slice.fail(error.with("peer", &lane.peer.name)),
            None => end_slice(&lane.peer, slice, status),
        }
    }
}

/// Ends one slice with what the peer says of it.
fn end_slice(peer: &Peer, slice: Slice, status: BlockStatus) {
    let refused = |text: &'static str| {
        peer.error(ErrorKind::RemoteRange, text)
            .with("operation", slice.operation.name())
            .with("address", format_args!("{:#x}", slice.remote_address))
            .with("length_bytes", slice.length)
    };
    match status {
        BlockStatus::Ok => peer.count_and_complete(slice),
        BlockStatus::Refused => {
            let error = refused("the peer refused the range, its key or the access");
            peer.recovery.recover(slice, error, Scope::Slice);
        }
        BlockStatus::Unregistered => {
            let error = refused("the peer unregistered the buffer during the transfer");
            peer.recovery.recover(slice, error, Scope::Slice);
        }
        BlockStatus::Fault => {
            let text = "the peer's registered memory is not mapped";
            let error = peer.error(ErrorKind::MemoryFault, text);
            slice.fail(error);
        }
    }
}
