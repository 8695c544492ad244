//! Serving native peers: hello, then frames of blocks, each answered in order with a status for
//! every block. A block that is refused costs only itself.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::memory::{Access, Region};
use crate::transport::Operation;

use super::super::stream::{Incoming, Outgoing, Target};
use super::super::wire::native::{
    Block, BlockStatus, Hello, Kind, ReplyHeader, RequestHeader, HEADER_BYTES, REFUSED_INSTANCE,
    REFUSED_VERSION, VERSION,
};
use super::{log_refusal, ServeContext, Step};

/// Where the connection is.
#[derive(Default)]
pub(super) struct State {
    greeted: bool,
    storing: Option<RequestHeader>,
    blocks: Vec<Block>,
    statuses: Vec<u8>,
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

    pub(super) fn step(
        &mut self,
        context: &ServeContext,
        input: &mut Incoming,
        output: &mut Outgoing,
    ) -> Step {
        if !self.greeted {
            return self.greet(context, input, output);
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
        if Block::decode_all(&header, &head[HEADER_BYTES..], &mut self.blocks).is_err() {
            return Step::Reset;
        }
        input.skip(header.head_bytes());
        match header.kind {
            Kind::Write => {
                self.aim(context, input);
                self.storing = Some(header);
            }
            Kind::Read => self.reply_to_read(context, &header, output),
        }
        Step::Again
    }

    fn greet(
        &mut self,
        context: &ServeContext,
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
            capabilities: 0,
            instance: settings.instance,
            expected: [0; 16],
            text,
        };
        output.push_bytes(|bytes| bytes.extend_from_slice(&reply.encode()));
        if refusal.is_some() {
            context.metrics.connections_refused.inc();
            return Step::Finish;
        }
        self.greeted = true;
        Step::Again
    }

    fn find(
        &mut self,
        context: &ServeContext,
        block: Block,
        operation: Operation,
    ) -> Option<Arc<Region>> {
        let length = u64::from(block.length);
        let wanted = match operation {
            Operation::Read => Access::REMOTE_READ,
            Operation::Write => Access::REMOTE_WRITE,
        };
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

    /// Points the payload of a WRITE at its memory.
    fn aim(&mut self, context: &ServeContext, input: &mut Incoming) {
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
        input.begin();
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
