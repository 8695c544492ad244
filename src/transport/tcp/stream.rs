//! Both directions of a byte stream between a socket and registered memory, without a protocol.
//!
//! [`Outgoing`] is a queue of own bytes and memory ranges to send; [`Incoming`] receives either
//! into a small buffer of its own, for headers, or straight into memory ranges. Both hold a lease
//! on memory only during a system call. Used by the thread that holds the connection.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::memory::Region;
use crate::net::vectored::{self, Pieces};

use super::wire::native::{BlockStatus, HEAD_BYTES_MAX};

/// Buffer for headers; also what a receive may take beyond the memory it is for. One native head
/// fits, and a small request with its payload comes in one call.
const BUFFER_BYTES: usize = 16 * 1024;

const _: () = assert!(HEAD_BYTES_MAX <= BUFFER_BYTES);

/// A payload of at least this many bytes is worth a call of its own that receives it where it
/// belongs; less comes along with its header and is copied on.
pub(super) const STRAIGHT_BYTES_MIN: u64 = 2048;

/// Own bytes beyond this are given back to the allocator once sent.
const ARENA_KEPT_BYTES: usize = 64 * 1024;

/// Why a stream cannot go on.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection failed or was closed.
    Connection(io::Error),
    /// The peer closed its side in an orderly way.
    Closed,
    /// The memory at the head of the queue is gone or not mapped.
    Memory { error: Error, region: Arc<Region>, address: u64 },
}

enum Item {
    Bytes { start: usize, end: usize },
    Memory { region: Arc<Region>, address: u64, length: u64 },
}

/// What is to be sent, in stream order.
#[derive(Default)]
pub(super) struct Outgoing {
    arena: Vec<u8>,
    items: VecDeque<Item>,
    pieces: Pieces,
    pending: u64,
    sent: u64,
    /// Some memory of the queue is bad: one piece a call, until it is found.
    careful: bool,
}

impl Outgoing {
    /// Appends bytes that `write` puts at the end of the vector.
    pub(super) fn push_bytes(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        let end = self.arena.len();
        if start == end {
            return;
        }
        self.pending += (end - start) as u64;
        match self.items.back_mut() {
            Some(Item::Bytes { end: last, .. }) if *last == start => *last = end,
            _ => self.items.push_back(Item::Bytes { start, end }),
        }
    }

    /// Appends a memory range.
    pub(super) fn push_memory(&mut self, region: Arc<Region>, address: u64, length: u64) {
        if length > 0 {
            self.pending += length;
            self.items.push_back(Item::Memory { region, address, length });
        }
    }

    /// Bytes not yet taken by the kernel.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// Bytes taken by the kernel in all.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Position in the stream behind everything pushed so far.
    pub(super) fn end(&self) -> u64 {
        self.sent + self.pending
    }

    /// Forgets everything, for a new connection.
    pub(super) fn clear(&mut self) {
        self.arena.clear();
        self.items.clear();
        self.pending = 0;
        self.sent = 0;
        self.careful = false;
    }

    /// Sends as much as the socket takes; true when nothing is left.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Broken> {
        while !self.items.is_empty() {
            let gathered = self.gather();
            if let Err((error, region, address)) = gathered {
                if self.pieces.is_empty() {
                    self.pieces.clear();
                    return Err(Broken::Memory { error, region, address });
                }
                // What stands before the lost memory is still good.
            }
            let wanted = self.pieces.bytes();
            let result = self.pieces.send(socket, &self.arena);
            self.pieces.clear();
            match result {
                Ok(sent) => {
                    self.consume(sent as u64);
                    if sent < wanted {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel copies several pieces at once and does not say which one is bad.
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                    if self.careful {
                        return Err(self.fault(error));
                    }
                    self.careful = true;
                }
                Err(error) => return Err(Broken::Connection(error)),
            }
        }
        self.careful = false;
        self.arena.clear();
        self.arena.shrink_to(ARENA_KEPT_BYTES);
        Ok(true)
    }

    fn gather(&mut self) -> Result<(), (Error, Arc<Region>, u64)> {
        self.pieces.clear();
        for item in &self.items {
            if self.pieces.is_full() || self.careful && !self.pieces.is_empty() {
                break;
            }
            match item {
                Item::Bytes { start, end } => self.pieces.push_arena(*start, end - start),
                Item::Memory { region, address, length } => self
                    .pieces
                    .push_region(region, *address, *length as usize)
                    .map_err(|error| (error, Arc::clone(region), *address))?,
            }
        }
        Ok(())
    }

    /// The kernel could not read the first piece.
    fn fault(&mut self, error: io::Error) -> Broken {
        let Some(Item::Memory { region, address, .. }) = self.items.front() else {
            // Own bytes are always readable.
            return Broken::Connection(error);
        };
        let error = Error::io(ErrorKind::MemoryFault, "registered memory is not mapped", error)
            .with("address", format_args!("{address:#x}"));
        Broken::Memory { error, region: Arc::clone(region), address: *address }
    }

    fn consume(&mut self, mut count: u64) {
        self.sent += count;
        self.pending -= count;
        while count > 0 {
            let Some(item) = self.items.front_mut() else { return };
            let left = match item {
                Item::Bytes { start, end } => {
                    let step = count.min((*end - *start) as u64);
                    *start += step as usize;
                    count -= step;
                    *end - *start
                }
                Item::Memory { address, length, .. } => {
                    let step = count.min(*length);
                    *address += step;
                    *length -= step;
                    count -= step;
                    *length as usize
                }
            };
            if left > 0 {
                return;
            }
            self.items.pop_front();
        }
    }
}

/// A memory range that is being received.
pub(super) struct Target {
    /// `None`: the bytes are thrown away.
    pub(super) region: Option<Arc<Region>>,
    pub(super) address: u64,
    pub(super) left: u64,
    pub(super) status: BlockStatus,
    /// Why, where the status is not `Ok` and the cause is here.
    pub(super) error: Option<Error>,
}

impl Target {
    /// Stores into a region.
    pub(super) fn into_region(region: Arc<Region>, address: u64, length: u64) -> Target {
        Target { region: Some(region), address, left: length, status: BlockStatus::Ok, error: None }
    }

    /// Throws away.
    pub(super) fn discard(length: u64, status: BlockStatus) -> Target {
        Target { region: None, address: 0, left: length, status, error: None }
    }

    fn lose(&mut self, error: Error) {
        self.status = match error.kind() {
            ErrorKind::Unregistered => BlockStatus::Unregistered,
            _ => BlockStatus::Fault,
        };
        self.error = Some(error);
        self.region = None;
    }
}

/// The receiving side.
#[derive(Default)]
pub(super) struct Incoming {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    pieces: Pieces,
    targets: Vec<Target>,
    next: usize,
    /// Some memory of the payload is bad: one piece a call, until the payload is complete.
    careful: bool,
}

/// What one call achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes arrived, and more may be waiting.
    More,
    /// Bytes arrived, and the socket is empty now.
    Last,
    /// Nothing to receive at present.
    Nothing,
}

impl Incoming {
    /// Header bytes that are here.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Marks header bytes as read.
    pub(super) fn skip(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Forgets everything, for a new connection.
    pub(super) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.targets.clear();
        self.next = 0;
    }

    /// Receives header bytes, at most `longest` (and at least one).
    pub(super) fn fill(
        &mut self,
        socket: BorrowedFd<'_>,
        longest: usize,
    ) -> Result<Received, Broken> {
        self.make_room();
        let room = &mut self.buffer[self.end..];
        if room.is_empty() {
            return Err(Broken::Connection(io::ErrorKind::InvalidData.into()));
        }
        let wanted = room.len().min(longest.max(1));
        match vectored::receive(socket, &mut room[..wanted]) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                self.end += count;
                Ok(if count < wanted { Received::Last } else { Received::More })
            }
            Err(error) if is_transient(&error) => Ok(Received::Nothing),
            Err(error) => Err(Broken::Connection(error)),
        }
    }

    fn make_room(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// The list to fill for the next payload; `begin` starts it.
    pub(super) fn targets_mut(&mut self) -> &mut Vec<Target> {
        &mut self.targets
    }

    /// The targets of the payload that was received last.
    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Starts receiving into the targets, with the payload bytes that came along with headers.
    pub(super) fn begin(&mut self) {
        self.next = 0;
        self.careful = false;
        while self.start < self.end && !self.is_complete() {
            let available = self.end - self.start;
            self.gather(available);
            let memory = self.pieces.bytes();
            let count = if memory == 0 {
                // The head of the queue is thrown away.
                let left = self.targets.get(self.next).map_or(0, |target| target.left);
                left.min(available as u64) as usize
            } else {
                let bytes = &self.buffer[self.start..self.start + memory];
                match self.pieces.scatter(bytes) {
                    Ok(copied) => copied,
                    Err(error) => {
                        self.lose_head(error);
                        0
                    }
                }
            };
            self.pieces.clear();
            self.start += count;
            self.advance(count as u64);
        }
        self.skip(0);
    }

    fn lose_head(&mut self, error: io::Error) {
        if let Some(target) = self.targets.get_mut(self.next) {
            let text = "registered memory is not mapped or not writable";
            let address = target.address;
            let lost = Error::io(ErrorKind::MemoryFault, text, error);
            target.lose(lost.with("address", format_args!("{address:#x}")));
        }
    }

    /// True when every target has its bytes.
    pub(super) fn is_complete(&mut self) -> bool {
        while self.targets.get(self.next).is_some_and(|target| target.left == 0) {
            self.next += 1;
        }
        self.next >= self.targets.len()
    }

    /// Makes a target throw away what is still to come.
    pub(super) fn orphan(&mut self, index: usize) {
        if let Some(target) = self.targets.get_mut(index) {
            target.region = None;
        }
    }

    /// Receives payload; what comes after it lands in the header buffer.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Received, Broken> {
        if self.is_complete() {
            return Ok(Received::More);
        }
        self.make_room();
        self.gather(usize::MAX);
        let memory = self.pieces.bytes();
        let wanted;
        let result = if memory == 0 {
            // The head of the queue is thrown away.
            let left = self.targets.get(self.next).map_or(0, |target| target.left);
            wanted = left.min(self.buffer.len() as u64) as usize;
            vectored::receive(socket, &mut self.buffer[..wanted])
        } else {
            let all = self.pieces_reach_the_end();
            if all && !self.pieces.is_full() && !self.careful {
                self.pieces.push_arena(0, self.buffer.len());
            }
            wanted = self.pieces.bytes();
            self.pieces.receive(socket, &mut self.buffer)
        };
        self.pieces.clear();
        match result {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                let payload = if memory == 0 { count } else { count.min(memory) };
                self.advance(payload as u64);
                self.end = count - payload;
                Ok(if count < wanted { Received::Last } else { Received::More })
            }
            Err(error) if is_transient(&error) => Ok(Received::Nothing),
            // The kernel copies into several pieces at once and does not say which one is bad.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                if self.careful {
                    self.lose_head(error);
                }
                self.careful = true;
                Ok(Received::More)
            }
            Err(error) => Err(Broken::Connection(error)),
        }
    }

    /// Collects at most `limit` bytes of memory, up to the first target that is thrown away.
    fn gather(&mut self, limit: usize) {
        let Incoming { pieces, targets, next, careful, .. } = self;
        pieces.clear();
        for target in &mut targets[*next..] {
            let room = limit - pieces.bytes();
            if target.left == 0 {
                continue;
            }
            // One place stays free for the header buffer.
            if room == 0 || pieces.is_nearly_full() || *careful && !pieces.is_empty() {
                return;
            }
            let Some(region) = &target.region else { return };
            let length = (target.left as usize).min(room);
            if let Err(error) = pieces.push_region(region, target.address, length) {
                target.lose(error);
                return;
            }
        }
    }

    fn pieces_reach_the_end(&self) -> bool {
        let left: u64 = self.targets[self.next..].iter().map(|target| target.left).sum();
        left == self.pieces.bytes() as u64
    }

    fn advance(&mut self, mut count: u64) {
        while count > 0 && self.next < self.targets.len() {
            let target = &mut self.targets[self.next];
            let step = count.min(target.left);
            target.left -= step;
            target.address += step;
            count -= step;
            if target.left == 0 {
                self.next += 1;
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
