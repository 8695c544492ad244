//! Calls to the master as functions: chunks of bounded size, answers of the right kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::identity::{ClientId, SegmentId};
use crate::pool::object::{Generation, Key, PutItem, PutOptions};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Located, Replica, ReplicaKind};
use crate::pool::segment::{HeldObject, KeptRange, Pong, Segment};
use crate::rpc::message::{Call, Events, Granted, Reply};
use crate::time::Deadline;

use super::failure::{no_answer, plain};
use super::master::{Dialect, Master};

/// A master, the client that speaks, and how long one call may take.
pub(super) struct Calls {
    master: Arc<dyn Master>,
    client: ClientId,
    timeout: Duration,
}

/// One put of a key.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) key: Key,
    /// Which; 0 where the master does not say.
    pub(super) generation: Generation,
}

/// Takes the answer of the expected kind out of a reply.
macro_rules! answer {
    ($self:ident, $call:expr, $deadline:expr, $kind:path) => {
        match $self.call($call, $deadline)? {
            $kind(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    };
}

impl Calls {
    pub(super) fn new(master: Arc<dyn Master>, client: ClientId, timeout: Duration) -> Calls {
        Calls { master, client, timeout }
    }

    pub(super) fn client(&self) -> ClientId {
        self.client
    }

    pub(super) fn is_native(&self) -> bool {
        self.master.dialect() == Dialect::Native
    }

    pub(super) fn close(&self) {
        self.master.close();
    }

    fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply> {
        let now = Instant::now();
        let deadline = deadline.min(Deadline::after(now, self.timeout));
        if deadline.passed(now) {
            return Err(Error::new(ErrorKind::Timeout, "the deadline passed before the call"));
        }
        self.master.call(call, deadline).map_err(no_answer)
    }

    /// A master that is being elected is waited for longer than for an answer.
    pub(super) fn find_master(&self, deadline: Deadline) -> Result<()> {
        self.master.find(deadline).map_err(no_answer)
    }

    pub(super) fn ready(&self, deadline: Deadline) -> Result<()> {
        let answer = answer!(self, &Call::ServiceReady, deadline, Reply::Ready)?;
        answer.map(|_| ()).map_err(plain)
    }

    /// This life of a native master.
    pub(super) fn greet(&self, deadline: Deadline) -> Result<u64> {
        let call = Call::Greet { version: 1 };
        let answer = answer!(self, &call, deadline, Reply::Greeted)?;
        answer.map(|greeting| greeting.master_life).map_err(plain)
    }

    pub(super) fn ping(&self, deadline: Deadline) -> Result<Pong> {
        answer!(self, &Call::Ping(self.client), deadline, Reply::Pong)?.map_err(plain)
    }

    pub(super) fn attend(&self, acknowledged: u64, deadline: Deadline) -> Result<Events> {
        // The answer must be there before the call times out.
        let wait = limits::STORE_ATTEND_WAIT.min(self.timeout / 2);
        let wait_ms = wait.as_millis() as u32;
        let call = Call::Attend { client: self.client, acknowledged, wait_ms };
        answer!(self, &call, deadline, Reply::Events)?.map_err(plain)
    }

    pub(super) fn report(
        &self,
        objects: Vec<HeldObject>,
        last: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let call = Call::Report { client: self.client, objects, last };
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    /// Names all ranges of the own segments that are still read, and mounts `segments` again in
    /// the same step.
    pub(super) fn keep(
        &self,
        segments: Vec<Segment>,
        ranges: Vec<KeptRange>,
        deadline: Deadline,
    ) -> Result<()> {
        let call = Call::Keep { client: self.client, segments, ranges };
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    /// Names all puts that go on; the master drops older ones of this client.
    pub(super) fn unfinished(&self, puts: Vec<Generation>, deadline: Deadline) -> Result<()> {
        let age_ms = limits::STORE_DOUBT_AGE.as_millis() as u32;
        let call = Call::Unfinished { client: self.client, puts, age_ms };
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    pub(super) fn suspect(&self, endpoint: &str, deadline: Deadline) -> Result<()> {
        let call = Call::Suspect { client: self.client, endpoint: endpoint.to_owned() };
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    pub(super) fn mount(&self, segment: &Segment, deadline: Deadline) -> Result<()> {
        let call = Call::Mount(segment.clone(), self.client);
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    pub(super) fn remount(&self, segments: Vec<Segment>, deadline: Deadline) -> Result<()> {
        let call = Call::Remount(segments, self.client);
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    pub(super) fn unmount(&self, segment: SegmentId, deadline: Deadline) -> Result<()> {
        let call = Call::Unmount(segment, self.client);
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    pub(super) fn exists<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        deadline: Deadline,
    ) -> Result<Vec<Outcome<bool>>> {
        self.each(keys, |part| {
            answer!(self, &Call::BatchExists(part), deadline, Reply::BatchExists)
        })
    }

    pub(super) fn lookup<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        deadline: Deadline,
    ) -> Result<Vec<Outcome<Located>>> {
        self.each(keys, |part| {
            answer!(self, &Call::BatchLookup(part), deadline, Reply::BatchLocated)
        })
    }

    pub(super) fn find(
        &self,
        pattern: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<(Key, Vec<Replica>)>> {
        let call = Call::LookupByPattern(pattern.to_vec());
        answer!(self, &call, deadline, Reply::Found)?.map_err(plain)
    }

    /// Not made in parts: the caller hands in no more than one call can carry.
    pub(super) fn put_start(
        &self,
        items: Vec<PutItem>,
        options: &PutOptions,
        deadline: Deadline,
    ) -> Result<Vec<Outcome<Granted>>> {
        let call = Call::BatchPutStart(Some(self.client), items, options.clone());
        answer!(self, &call, deadline, Reply::BatchGranted)
    }

    pub(super) fn put_end(&self, puts: &[Put], deadline: Deadline) -> Result<Vec<Outcome<()>>> {
        self.each_put(puts, |keys, which| {
            let call = Call::BatchPutEnd(Some(self.client), keys, ReplicaKind::Memory, which);
            answer!(self, &call, deadline, Reply::BatchDone)
        })
    }

    /// Takes back copies that will not be written.
    pub(super) fn put_revoke(
        &self,
        puts: &[Put],
        kind: ReplicaKind,
        deadline: Deadline,
    ) -> Result<Vec<Outcome<()>>> {
        self.each_put(puts, |keys, which| {
            let call = Call::BatchPutRevoke(Some(self.client), keys, kind, which);
            answer!(self, &call, deadline, Reply::BatchDone)
        })
    }

    /// The folder of the shared file tier; empty without one.
    pub(super) fn storage_directory(&self, deadline: Deadline) -> Result<String> {
        answer!(self, &Call::StorageDirectory, deadline, Reply::Directory)?.map_err(plain)
    }

    /// The copy in a file is written.
    pub(super) fn put_end_file(&self, put: &Put, deadline: Deadline) -> Result<()> {
        let (key, which) = (put.key.clone(), put.generation);
        let call = Call::PutEnd(Some(self.client), key, ReplicaKind::Disk, which);
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    /// Copies in files are written; only for masters of ours.
    pub(super) fn end_files(&self, puts: &[Put], deadline: Deadline) -> Result<Vec<Outcome<()>>> {
        self.each_put(puts, |keys, which| {
            let call = Call::BatchPutEnd(Some(self.client), keys, ReplicaKind::Disk, which);
            answer!(self, &call, deadline, Reply::BatchDone)
        })
    }

    /// Takes back copies in files that this client does not write, in one call where the dialect
    /// has it.
    pub(super) fn revoke_files(&self, puts: &[Put], deadline: Deadline) -> Result<()> {
        if self.is_native() {
            return self.put_revoke(puts, ReplicaKind::Disk, deadline).map(drop);
        }
        puts.iter().try_for_each(|put| self.revoke_file(put, deadline))
    }

    /// Takes back the copy in a file.
    pub(super) fn revoke_file(&self, put: &Put, deadline: Deadline) -> Result<()> {
        let (key, which) = (put.key.clone(), put.generation);
        let call = Call::PutRevoke(Some(self.client), key, ReplicaKind::Disk, which);
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    pub(super) fn remove(&self, key: &[u8], force: bool, deadline: Deadline) -> Result<()> {
        let call = Call::Remove { key: key.to_vec(), force };
        answer!(self, &call, deadline, Reply::Done)?.map_err(plain)
    }

    /// In one call where the dialect has it, else one after the other.
    pub(super) fn remove_each<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        force: bool,
        deadline: Deadline,
    ) -> Result<Vec<Outcome<()>>> {
        if self.is_native() {
            return self.each(keys, |keys| {
                let call = Call::BatchRemove { keys, force };
                answer!(self, &call, deadline, Reply::BatchDone)
            });
        }
        let one = |key: &K| {
            let call = Call::Remove { key: key.as_ref().to_vec(), force };
            answer!(self, &call, deadline, Reply::Done)
        };
        keys.iter().map(one).collect()
    }

    pub(super) fn remove_by_pattern(
        &self,
        pattern: &[u8],
        force: bool,
        deadline: Deadline,
    ) -> Result<u64> {
        let call = Call::RemoveByPattern { pattern: pattern.to_vec(), force };
        count(answer!(self, &call, deadline, Reply::Removed)?.map_err(plain)?)
    }

    pub(super) fn remove_all(&self, force: bool, deadline: Deadline) -> Result<u64> {
        count(answer!(self, &Call::RemoveAll { force }, deadline, Reply::RemovedAll)?)
    }

    /// Makes a batched call in parts of bounded size and joins the answers. The keys are copied
    /// once, into the calls.
    fn each<K: AsRef<[u8]>, T>(
        &self,
        keys: &[K],
        call: impl Fn(Vec<Key>) -> Result<Vec<Outcome<T>>>,
    ) -> Result<Vec<Outcome<T>>> {
        let mut answers = Vec::new();
        for part in parts(keys, |key| key.as_ref().len()) {
            let copies = part.iter().map(|key| key.as_ref().to_vec()).collect();
            let got = for_all(part.len(), call(copies)?)?;
            match answers.is_empty() {
                true => answers = got,
                false => answers.extend(got),
            }
        }
        Ok(answers)
    }

    /// The same for puts; a master that numbers none is not told which.
    fn each_put<T>(
        &self,
        puts: &[Put],
        call: impl Fn(Vec<Key>, Vec<Generation>) -> Result<Vec<Outcome<T>>>,
    ) -> Result<Vec<Outcome<T>>> {
        let mut answers = Vec::with_capacity(puts.len());
        for part in parts(puts, |put| put.key.len()) {
            let keys = part.iter().map(|put| put.key.clone()).collect();
            let which = match part.iter().any(|put| put.generation != 0) {
                true => part.iter().map(|put| put.generation).collect(),
                false => Vec::new(),
            };
            answers.extend(for_all(part.len(), call(keys, which)?)?);
        }
        Ok(answers)
    }
}

/// The answers, if there is one for each.
fn for_all<T>(asked: usize, answers: Vec<Outcome<T>>) -> Result<Vec<Outcome<T>>> {
    if answers.len() == asked {
        return Ok(answers);
    }
    Err(Error::new(ErrorKind::Protocol, "the master answered for another number of keys")
        .with("asked", asked)
        .with("answered", answers.len()))
}

/// Cuts a batch into parts that one call can carry.
pub(super) fn parts<T>(items: &[T], key_bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, item) in items.iter().enumerate() {
        let size = key_bytes(item);
        let is_full = index - first >= limits::STORE_KEYS_PER_CALL_MAX
            || bytes + size > limits::STORE_KEY_BYTES_PER_CALL_MAX;
        if is_full && index > first {
            parts.push(&items[first..index]);
            (first, bytes) = (index, 0);
        }
        bytes += size;
    }
    if first < items.len() {
        parts.push(&items[first..]);
    }
    parts
}

fn count(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| {
        match i32::try_from(number).ok().and_then(Refusal::from_number) {
            Some(refusal) => plain(refusal),
            None => Error::new(ErrorKind::Protocol, "the master counted less than nothing"),
        }
    })
}

fn unexpected(reply: &Reply) -> Error {
    let text = format!("{reply:?}");
    let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    Error::new(ErrorKind::Protocol, "the master answered another question").with("answer", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_whole() {
        let keys: Vec<usize> = vec![1; limits::STORE_KEYS_PER_CALL_MAX * 2 + 1];
        let lengths: Vec<usize> = parts(&keys, |k| *k).iter().map(|part| part.len()).collect();
        let most = limits::STORE_KEYS_PER_CALL_MAX;
        assert_eq!(lengths, [most, most, 1]);
        let keys = vec![limits::STORE_KEY_BYTES_PER_CALL_MAX - 1, 2, 1, usize::MAX / 4, 5];
        let lengths: Vec<usize> = parts(&keys, |k| *k).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [1, 2, 1, 1]);
        assert!(parts(&[0usize; 0], |k| *k).is_empty());
    }
}
