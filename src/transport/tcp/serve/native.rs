//! Serving native peers: hello, then frames of blocks, each answered in order with a status for
//! every block. A block that is refused costs only itself.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::memory::Region;
use crate::transport::Operation;

use super::super::fence::{Admission, Gate};
use super::super::stream::{Incoming, Outgoing, Target, STRAIGHT_BYTES_MIN};
use super::super::wire::native::{
    Block, BlockStatus, Hello, Kind, LaneMark, ReplyHeader, RequestHeader, CAPABILITY_FENCE,
    HEADER_BYTES, REFUSED_INSTANCE, REFUSED_STALE, REFUSED_VERSION, VERSION,
};
use super::super::worker::Place;
use super::{log_refusal, pass, ServeContext, Step};

/// Where the connection is.
#[derive(Default)]
pub(super) struct State {
    greeted: bool,
    /// The initiator.
    instance: [u8; 16],
    /// The lane's place among its connections, if the hello had its mark.
    admission: Option<Admission>,
    storing: Option<RequestHeader>,
    blocks: Vec<Block>,
    statuses: Vec<u8>,
    /// Bytes of the last head, if much payload followed it.
    last_head: Option<usize>,
    /// The region of the last block: blocks of one frame mostly share it.
    recent: Option<Arc<Region>>,
}

impl State {
    pub(super) fn in_request(&self) -> bool {
        self.storing.is_some() || !self.greeted
    }

    pub(super) fn proven(&self) -> bool {
        self.greeted
    }

    /// What payload is stored through.
    pub(super) fn gate(&self) -> Option<&Gate> {
        self.admission.as_ref().map(Admission::gate)
    }

    /// How much of the next head is missing if it is as long as the last one: with more, payload
    /// would come along that has to be copied on.
    pub(super) fn head_missing(&self, present: usize) -> usize {
        let missing = self.last_head.and_then(|head| head.checked_sub(present));
        missing.filter(|missing| *missing > 0).unwrap_or(usize::MAX)
    }

    pub(super) fn step(
        &mut self,
        context: &ServeContext,
        place: &Place,
        input: &mut Incoming,
        output: &mut Outgoing,
    ) -> Step {
        if !self.greeted {
            return self.greet(context, place, input, output);
        }
        if let Some(header) = self.storing {
            if !input.is_complete() {
                return Step::Payload;
            }
            self.storing = None;
            self.reply_to_write(context, &header, input, output);
            return Step::Again;
        }
        let Some(bytes) = input.bytes().first_chunk::<HEADER_BYTES>() else { return Step::Header };
        let Ok(header) = RequestHeader::decode(bytes) else { return Step::Reset };
        let Some(head) = input.bytes().get(..header.head_bytes()) else { return Step::Header };
        if header.kind == Kind::Fence {
            for mark in LaneMark::decode_all(&head[HEADER_BYTES..]) {
                context.fences.fence(self.instance, mark);
            }
            input.skip(header.head_bytes());
            return Step::Again;
        }
        if Block::decode_all(&header, &head[HEADER_BYTES..], &mut self.blocks).is_err() {
            return Step::Reset;
        }
        input.skip(header.head_bytes());
        let is_followed = header.kind == Kind::Write && header.payload >= STRAIGHT_BYTES_MIN;
        self.last_head = is_followed.then_some(header.head_bytes());
        match header.kind {
            Kind::Read => self.reply_to_read(context, &header, output),
            Kind::Write | Kind::Fence => {
                if !self.aim(context, input) {
                    return Step::Reset;
                }
                self.storing = Some(header);
            }
        }
        Step::Again
    }

    fn greet(
        &mut self,
        context: &ServeContext,
        place: &Place,
        input: &mut Incoming,
        output: &mut Outgoing,
    ) -> Step {
        let (hello, length) = match Hello::decode(input.bytes()) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => return Step::Header,
            Err(_) => return Step::Reset,
        };
        input.skip(length);
        let settings = &context.settings;
        let refusal = if hello.version == 0 || hello.second > VERSION {
            let text = format!(
                "this engine speaks version {VERSION}, the peer {} to {}",
                hello.second, hello.version
            );
            Some((REFUSED_VERSION, text))
        } else if hello.expected != settings.instance {
            // Also keeps out whoever has not read the descriptor.
            Some((REFUSED_INSTANCE, "another engine lives here".to_owned()))
        } else if !self.admit(context, place, &hello) {
            Some((REFUSED_STALE, "a newer connection of this lane was here before".to_owned()))
        } else {
            None
        };
        let (version, second, text) = match &refusal {
            None => (hello.version.min(VERSION), 0, String::new()),
            Some((code, text)) => (0, *code, text.clone()),
        };
        let reply = Hello {
            version,
            second,
            capabilities: CAPABILITY_FENCE,
            instance: settings.instance,
            expected: [0; 16],
            text,
            mark: None,
        };
        output.push_bytes(|bytes| bytes.extend_from_slice(&reply.encode()));
        if refusal.is_some() {
            context.metrics.connections_refused.inc();
            return Step::Finish;
        }
        self.greeted = true;
        Step::Again
    }

    /// False for a connection that came too late. Else none that the lane had before stores
    /// anything more.
    fn admit(&mut self, context: &ServeContext, place: &Place, hello: &Hello) -> bool {
        self.instance = hello.instance;
        let Some(mark) = hello.mark else { return true };
        self.admission = context.fences.admit(hello.instance, mark, place);
        self.admission.is_some()
    }

    fn find(
        &mut self,
        context: &ServeContext,
        block: Block,
        operation: Operation,
    ) -> Option<Arc<Region>> {
        let length = u64::from(block.length);
        let wanted = operation.remote_access();
        if let Some(recent) = &self.recent {
            if recent.key() == block.key
                && recent.contains(block.address, length)
                && recent.access().allows(wanted)
                && !recent.is_closed()
            {
                return Some(Arc::clone(recent));
            }
        }
        // Never without a key: 0 is no registration's key, and the look-up compares it.
        match context.table.find_remote(block.address, length, operation, Some(block.key)) {
            Ok(region) => {
                self.recent = Some(Arc::clone(&region));
                Some(region)
            }
            Err(error) => {
                context.metrics.remote_requests_refused.inc();
                log_refusal(&error);
                None
            }
        }
    }

    /// Points the payload of a WRITE at its memory, and stores what has come along. False once the
    /// connection must not store any more.
    fn aim(&mut self, context: &ServeContext, input: &mut Incoming) -> bool {
        input.targets_mut().clear();
        for index in 0..self.blocks.len() {
            let block = self.blocks[index];
            let length = block.length.into();
            let target = match self.find(context, block, Operation::Write) {
                Some(region) => Target::into_region(region, block.address, length),
                None => Target::discard(length, BlockStatus::Refused),
            };
            input.targets_mut().push(target);
        }
        let Ok(_passage) = pass(self.gate()) else { return false };
        input.begin();
        true
    }

    fn reply_to_write(
        &mut self,
        context: &ServeContext,
        header: &RequestHeader,
        input: &Incoming,
        output: &mut Outgoing,
    ) {
        self.statuses.clear();
        self.statuses.extend(input.targets().iter().map(|target| target.status as u8));
        for error in input.targets().iter().filter_map(|target| target.error.as_ref()) {
            log_fault(error);
        }
        self.reply(header, 0, output);
        context.metrics.bytes_received.inc_by(header.payload);
    }

    fn reply_to_read(
        &mut self,
        context: &ServeContext,
        header: &RequestHeader,
        output: &mut Outgoing,
    ) {
        self.statuses.clear();
        let mut regions: Vec<Option<Arc<Region>>> = Vec::with_capacity(self.blocks.len());
        let mut payload = 0;
        for index in 0..self.blocks.len() {
            let block = self.blocks[index];
            let region = self.find(context, block, Operation::Read);
            let status = match &region {
                Some(_) => BlockStatus::Ok,
                None => BlockStatus::Refused,
            };
            if region.is_some() {
                payload += u64::from(block.length);
            }
            self.statuses.push(status as u8);
            regions.push(region);
        }
        self.reply(header, payload, output);
        for (block, region) in self.blocks.iter().zip(regions) {
            if let Some(region) = region {
                output.push_memory(region, block.address, block.length.into());
            }
        }
        context.metrics.bytes_served.inc_by(payload);
    }

    fn reply(&self, header: &RequestHeader, payload: u64, output: &mut Outgoing) {
        let fine = self.statuses.iter().all(|status| *status == BlockStatus::Ok as u8);
        let reply = ReplyHeader {
            kind: header.kind,
            statuses: !fine,
            blocks: header.blocks,
            sequence: header.sequence,
            payload,
        };
        output.push_bytes(|bytes| {
            reply.encode(bytes);
            if !fine {
                bytes.extend_from_slice(&self.statuses);
            }
        });
    }
}

fn log_fault(error: &Error) {
    if error.kind() == ErrorKind::MemoryFault {
        log::warn!("tcp: a peer's write failed: {error}");
    }
}
