//! Serving v1 and v2: a header per request, served strictly in order, on a connection that stays
//! open. A 0.3.13 peer pools connections and cannot tell a v1 request that met a closed one from a
//! stored one, so an idle connection is never closed from this side.

use std::sync::Arc;

use crate::limits;
use crate::memory::Region;
use crate::transport::Operation;

use super::super::stream::{Incoming, Outgoing, Target};
use super::super::wire::native::BlockStatus;
use super::super::wire::v1v2::{
    encode_status, Framing, Header, Opcode, HEADER_BYTES, STATUS_OK, STATUS_REJECTED,
};
use super::{log_refusal, ServeContext, Step};

/// Where the connection is in the present request.
#[derive(Default)]
pub(super) struct State {
    storing: Option<(Framing, u64)>,
    proven: bool,
}

impl State {
    pub(super) fn in_request(&self) -> bool {
        self.storing.is_some()
    }

    pub(super) fn proven(&self) -> bool {
        self.proven
    }

    pub(super) fn step(
        &mut self,
        context: &ServeContext,
        input: &mut Incoming,
        output: &mut Outgoing,
    ) -> Step {
        if let Some((framing, size)) = self.storing {
            if !input.is_complete() {
                return Step::Payload;
            }
            self.storing = None;
            return stored(context, framing, size, input, output);
        }
        let Some(bytes) = input.bytes().first_chunk::<HEADER_BYTES>() else { return Step::Header };
        let header = match Header::decode(bytes) {
            Ok(header) if header.size <= limits::UPSTREAM_SIZE_MAX => header,
            _ => return Step::Reset,
        };
        input.skip(HEADER_BYTES);
        let operation = match header.opcode {
            Opcode::Read => Operation::Read,
            Opcode::Write => Operation::Write,
        };
        let region = match find(context, &header, operation) {
            Some(region) => region,
            None => return refuse(context, header.framing, output),
        };
        self.proven = true;
        match operation {
            Operation::Write => {
                let targets = input.targets_mut();
                targets.clear();
                targets.push(Target::into_region(region, header.addr, header.size));
                input.begin();
                self.storing = Some((header.framing, header.size));
            }
            Operation::Read => {
                if header.framing == Framing::V2 {
                    output.push_bytes(|b| b.extend_from_slice(&encode_status(STATUS_OK)));
                }
                output.push_memory(region, header.addr, header.size);
                context.metrics.bytes_served.inc_by(header.size);
            }
        }
        Step::Again
    }
}

fn find(context: &ServeContext, header: &Header, operation: Operation) -> Option<Arc<Region>> {
    if header.size == 0 {
        return None;
    }
    match context.table.find_remote(header.addr, header.size, operation, None) {
        Ok(region) => Some(region),
        Err(error) => {
            log_refusal(&error);
            None
        }
    }
}

fn refuse(context: &ServeContext, framing: Framing, output: &mut Outgoing) -> Step {
    context.metrics.remote_requests_refused.inc();
    match framing {
        Framing::V2 => {
            output.push_bytes(|bytes| bytes.extend_from_slice(&encode_status(STATUS_REJECTED)));
            Step::Finish
        }
        // v1 has no word for it; an orderly end would read as success of a WRITE.
        Framing::V1 => Step::Reset,
    }
}

fn stored(
    context: &ServeContext,
    framing: Framing,
    size: u64,
    input: &Incoming,
    output: &mut Outgoing,
) -> Step {
    if input.targets().iter().any(|target| target.status != BlockStatus::Ok) {
        return refuse(context, framing, output);
    }
    context.metrics.bytes_received.inc_by(size);
    if framing == Framing::V2 {
        output.push_bytes(|bytes| bytes.extend_from_slice(&encode_status(STATUS_OK)));
    }
    Step::Again
}
