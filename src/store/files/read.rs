//! Reading one file: by a thread of [`Readers`], piece by piece into buffers of its own, from which
//! the caller copies. Bytes are good only when the end has been reached and what stands behind the
//! object is right.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender};

use super::readers::{does_not_answer, Pace, Readers};
use super::CHUNK_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::check_mapped;
use crate::pool::file::{generation_of, old_seal, Sealed};
use crate::pool::object::Generation;
use crate::store::buffers::{copy, zeroed};
use crate::store::plan::Range;
use crate::time::Deadline;

/// What comes from the thread: bytes in their order, then how it ended.
enum Piece {
    Bytes(Vec<u8>),
    End(Result<()>),
}

/// Which file, and what it must hold.
pub(super) struct Wanted {
    pub(super) key: Vec<u8>,
    pub(super) path: String,
    pub(super) size: u64,
}

/// Reads a file into `target`; `open` is called on another thread.
pub(super) fn read(
    readers: &Readers,
    wanted: Wanted,
    target: &[Range],
    deadline: Deadline,
    open: impl FnOnce(&str) -> Result<File> + Send + 'static,
) -> Result<()> {
    let path = wanted.path.clone();
    let of_path = |error: Error| error.with("path", &path);
    let mut place = Place::new(target, wanted.size)?;
    let (send, receive) = bounded(1);
    // Buffers go back and forth, so that a large file costs two of them.
    let (give_back, spare) = bounded(2);
    let _waiting = readers
        .begin(move |pace| {
            let end = stream(&wanted, pace, open, &send, &spare);
            // Nobody may be there any more.
            let _ = send.send(Piece::End(end));
        })
        .map_err(of_path)?;
    loop {
        match receive.recv_timeout(deadline.remaining(Instant::now())) {
            Ok(Piece::Bytes(bytes)) => {
                place.put(&bytes)?;
                // The thread has what it needs already.
                let _ = give_back.try_send(bytes);
            }
            Ok(Piece::End(end)) => return end,
            Err(RecvTimeoutError::Timeout) => return Err(of_path(does_not_answer())),
            Err(RecvTimeoutError::Disconnected) => {
                let error = Error::new(ErrorKind::Shutdown, "the store client is closed");
                return Err(of_path(error));
            }
        }
    }
}

/// The ranges of the caller, and how far they are filled.
struct Place<'a> {
    target: &'a [Range],
    done: usize,
}

impl Place<'_> {
    fn new(target: &[Range], size: u64) -> Result<Place<'_>> {
        let mut rest = size;
        for range in target {
            let length = rest.min(range.length as u64);
            if length > 0 {
                check_mapped(range.address, length as usize)?;
            }
            rest -= length;
        }
        match rest {
            0 => Ok(Place { target, done: 0 }),
            _ => Err(Error::new(ErrorKind::BufferTooSmall, "the object is larger")),
        }
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some((range, after)) = self.target.split_first() else {
                return Err(Error::new(ErrorKind::Internal, "more bytes than the object has"));
            };
            let count = bytes.len().min(range.length - self.done);
            let (part, rest) = bytes.split_at(count);
            if count > 0 {
                let place = Range { address: range.address + self.done, length: count };
                copy(Range::of(part), place)?;
            }
            self.done += count;
            bytes = rest;
            if self.done == range.length {
                (self.target, self.done) = (after, 0);
            }
        }
        Ok(())
    }
}

/// The part of the thread.
fn stream(
    wanted: &Wanted,
    pace: &Pace<'_>,
    open: impl FnOnce(&str) -> Result<File>,
    send: &Sender<Piece>,
    spare: &Receiver<Vec<u8>>,
) -> Result<()> {
    let given_up = || Error::new(ErrorKind::Cancelled, "nobody waits for the file any more");
    pace.step().then_some(()).ok_or_else(given_up)?;
    let mut reader =
        Reader { file: open(&wanted.path)?, path: &wanted.path, sum: crc32fast::Hasher::new() };
    let mut rest = wanted.size;
    while rest > 0 {
        let length = CHUNK_BYTES.min(usize::try_from(rest).unwrap_or(CHUNK_BYTES));
        let mut bytes = match spare.try_recv() {
            Ok(bytes) => bytes,
            Err(_) => zeroed(length)?,
        };
        // All are of the largest size but the last one.
        bytes.truncate(length);
        pace.step().then_some(()).ok_or_else(given_up)?;
        reader.fill(&mut bytes)?;
        send.send(Piece::Bytes(bytes)).map_err(|_| given_up())?;
        rest -= length as u64;
    }
    pace.step().then_some(()).ok_or_else(given_up)?;
    reader.check(&wanted.key, wanted.size)
}

struct Reader<'a> {
    file: File,
    path: &'a str,
    sum: crc32fast::Hasher,
}

impl Reader<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.wrong("the file is too short"),
            _ => Error::io(ErrorKind::Resource, "a file cannot be read", error)
                .with("path", self.path),
        })?;
        self.sum.update(bytes);
        Ok(())
    }

    /// Looks at what stands behind the object: key and seal, a seal of an earlier form, or nothing
    /// in a file of upstream's.
    fn check(mut self, key: &[u8], size: u64) -> Result<()> {
        let sum = self.sum.clone().finalize();
        let generation = generation_in(self.path);
        let expected = Sealed { key: key.to_vec(), generation, size, sum }.tail();
        let mut tail = Vec::with_capacity(expected.len() + 1);
        let limit = expected.len() as u64 + 1;
        let read = Read::by_ref(&mut self.file).take(limit).read_to_end(&mut tail);
        read.map_err(|error| {
            Error::io(ErrorKind::Resource, "a file cannot be read", error).with("path", self.path)
        })?;
        match tail.is_empty() || tail == expected || tail == old_seal(key, size, sum) {
            true => Ok(()),
            false => Err(self.wrong("the file holds something else")),
        }
    }

    fn wrong(&self, text: &'static str) -> Error {
        Error::new(ErrorKind::ChecksumMismatch, text).with("path", self.path)
    }
}

/// Which put a file is of, as its name says; 0 where it does not.
pub(super) fn generation_in(path: &str) -> Generation {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.and_then(generation_of).unwrap_or(0)
}

/// A regular file; nothing else is waited for or followed.
pub(super) fn open(path: &str) -> Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    });
    file.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::ObjectNotFound,
            _ => ErrorKind::Resource,
        };
        Error::io(kind, "the file of the object cannot be opened", error).with("path", path)
    })
}
