//! Registered memory of which a part cannot be accessed: the request that meets it fails, and
//! nothing else does, wherever in a frame it is and whoever owns the memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use mooncake::engine::{Access, Operation, Request, TaskState};
use mooncake::error::ErrorKind;

use common::engines::{finish, outcome, register, Kind, Pair};
use common::guarded::Guarded;
use common::random::Random;

const PAGE: usize = 4096;

/// Lengths of the blocks of one batch: what comes along with a header, what fills a few segments of
/// the kernel, and what takes several calls.
const SHAPES: [usize; 3] = [100, PAGE, 300_000];
const BLOCKS: usize = 7;

struct Case<'a> {
    pair: &'a Pair,
    local: &'a Guarded,
    remote: &'a Guarded,
    operation: Operation,
    length: usize,
}

impl Case<'_> {
    /// Blocks lie apart, so that a hole in one leaves the others alone.
    fn stride(&self) -> usize {
        self.length.next_multiple_of(PAGE) + 2 * PAGE
    }

    /// Where block `index` starts: not at a page, so that a hole is in the middle of it.
    fn at(&self, memory: &Guarded, index: usize) -> usize {
        let first = memory.address().next_multiple_of(PAGE);
        first - memory.address() + index * self.stride() + PAGE - self.length.min(PAGE) / 2
    }

    fn request(&self, index: usize) -> Request {
        let local = self.local.address() + self.at(self.local, index);
        let remote = self.remote.address() + self.at(self.remote, index);
        match self.operation {
            Operation::Read => self.pair.read(local, remote, self.length),
            Operation::Write => self.pair.write(local, remote, self.length),
        }
    }

    /// All blocks at once, with a hole in block `bad` of `holed`.
    fn run(&self, holed: &Guarded, bad: usize, random: &mut Random) -> Vec<ErrorKind> {
        let (from, to) = match self.operation {
            Operation::Read => (self.remote, self.local),
            Operation::Write => (self.local, self.remote),
        };
        let contents: Vec<_> = (0..BLOCKS).map(|_| random.bytes(self.length)).collect();
        for (index, bytes) in contents.iter().enumerate() {
            from.put(self.at(from, index), bytes);
            to.put(self.at(to, index), &vec![0; self.length]);
        }
        let hole = (holed.address() + self.at(holed, bad)).next_multiple_of(PAGE);
        protect(hole, libc::PROT_NONE);
        let batch = self.pair.batch(&(0..BLOCKS).map(|i| self.request(i)).collect::<Vec<_>>());
        finish(&batch);
        protect(hole, libc::PROT_READ | libc::PROT_WRITE);
        let what = format!("{:?} of {}, hole in {bad}", self.operation, self.length);
        let mut kinds = Vec::new();
        for (index, bytes) in contents.iter().enumerate() {
            let (state, error) = outcome(&batch, index);
            if index == bad {
                assert_eq!(state, TaskState::Failed, "{what}");
                kinds.push(error.unwrap().kind());
                continue;
            }
            assert_eq!(state, TaskState::Completed, "{what}: block {index}: {error:?}");
            assert!(to.get(self.at(to, index), self.length) == *bytes, "{what}: block {index}");
        }
        kinds
    }
}

fn protect(page: usize, how: libc::c_int) {
    // SAFETY: a whole page inside a buffer of the test, which nobody touches meanwhile but engines.
    let result = unsafe { libc::mprotect(page as *mut libc::c_void, PAGE, how) };
    assert_eq!(result, 0);
}

#[test]
fn only_the_request_with_the_hole_fails() {
    let mut random = Random::for_test("only_the_request_with_the_hole_fails");
    let room = BLOCKS * (SHAPES[2] + 4 * PAGE) + 4 * PAGE;
    for kind in [Kind::SameHost, Kind::Native, Kind::V2] {
        let pair = Pair::new(kind);
        let (local, remote) = (pair.local(room), Guarded::new(room));
        register(&pair.target, &remote, Access::ALL);
        pair.own.refresh_segment(pair.segment).unwrap();
        for operation in [Operation::Write, Operation::Read] {
            for length in SHAPES {
                let (local, remote) = (&local, &remote);
                let case = Case { pair: &pair, local, remote, operation, length };
                for bad in [0, BLOCKS / 2, BLOCKS - 1] {
                    assert_eq!(case.run(local, bad, &mut random), [ErrorKind::MemoryFault]);
                    let kinds = case.run(remote, bad, &mut random);
                    if kind == Kind::Native && operation == Operation::Write {
                        assert_eq!(kinds, [ErrorKind::MemoryFault]);
                    }
                }
            }
        }
        local.check_canaries();
        remote.check_canaries();
    }
}
