//! The route of the loopback transport: copies, and slices that wait because a fault says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::net::thread::spawn;

use super::super::{
    Driver, Operation, OwnerId, Piece, Rails, Reached, Recovery, RegionTable, Route, Scope, Slice,
    SplitRule, WaitSource,
};
use super::faults::{Fate, SharedFaults};

const RULE: SplitRule =
    SplitRule { slice_bytes_max: 64 << 20, stripe_bytes_min: u64::MAX, rails: 1 };

/// Requests up to this length are copied without becoming slices; longer ones do not notice.
const AT_ONCE_BYTES_MAX: u64 = 64 << 10;

/// How often the thread that serves delayed slices looks at them.
const TICK: Duration = Duration::from_micros(200);

struct Waiting {
    slice: Slice,
    // `None`: never answered.
    due: Option<Instant>,
    fate: Fate,
}

struct State {
    table: Weak<dyn RegionTable>,
    recovery: Arc<dyn Recovery>,
    waiting: Mutex<Vec<Waiting>>,
    closed: OnceLock<Error>,
    retired: AtomicBool,
}

pub(super) struct LoopbackRoute {
    state: Arc<State>,
    faults: Arc<SharedFaults>,
}

impl LoopbackRoute {
    pub(super) fn new(
        table: Weak<dyn RegionTable>,
        faults: Arc<SharedFaults>,
        recovery: Arc<dyn Recovery>,
    ) -> LoopbackRoute {
        let state = State {
            table,
            recovery,
            waiting: Mutex::new(Vec::new()),
            closed: OnceLock::new(),
            retired: AtomicBool::new(false),
        };
        LoopbackRoute { state: Arc::new(state), faults }
    }

    fn take(&self, slice: Slice) {
        let (fate, delay) = self.faults.draw();
        if fate != Fate::Drop && delay.is_zero() {
            self.state.serve(slice, fate);
            return;
        }
        let due = (fate != Fate::Drop).then(|| Instant::now() + delay);
        let mut waiting = self.state.waiting.lock();
        waiting.push(Waiting { slice, due, fate });
        if waiting.len() == 1 {
            drop(waiting);
            self.start_thread();
        }
    }

    /// One thread lives while slices wait; it ends with the last of them.
    fn start_thread(&self) {
        let state = Arc::clone(&self.state);
        if spawn("mc-loopback", move || state.serve_waiting()).is_err() {
            self.state.fail_waiting(|_| true, &lost("no thread for delayed slices"));
        }
    }
}

/// True if the region has the whole range, with that key, for this direction.
fn grants(region: &Region, piece: &Piece) -> bool {
    region.contains(piece.remote_address, piece.length)
        && (piece.remote_key == 0 || piece.remote_key == region.key())
        && region.access().allows(piece.operation.remote_access())
}

fn lost(why: &'static str) -> Error {
    Error::new(ErrorKind::ConnectionLost, why).with("transport", "loopback")
}

impl State {
    fn serve(&self, slice: Slice, fate: Fate) {
        match fate {
            Fate::Move => match self.copy(&slice, slice.length) {
                Ok(()) => slice.complete(),
                Err(error) if error.kind() == ErrorKind::RemoteRange => {
                    self.recovery.recover(slice, error, Scope::Slice);
                }
                Err(error) => slice.fail(error),
            },
            Fate::Fail => slice.fail(lost("failed on command")),
            Fate::Reset => {
                self.recovery.recover(slice, lost("reset on command"), Scope::Endpoint);
            }
            Fate::Half => {
                let half = slice.length / 2;
                let error = match self.copy(&slice, half) {
                    Ok(()) => lost("broken half-way on command"),
                    Err(error) => error,
                };
                self.recovery.recover(slice, error, Scope::Endpoint);
            }
            Fate::Drop => {}
        }
    }

    fn copy(&self, slice: &Slice, length: u64) -> Result<()> {
        if slice.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled by its owner"));
        }
        let Some(table) = self.table.upgrade() else {
            return Err(lost("the peer engine is gone"));
        };
        let key = (slice.remote_key != 0).then_some(slice.remote_key);
        let remote = table.find_remote(slice.remote_address, length, slice.operation, key)?;
        let (local, length) = (slice.local_address, length as usize);
        match slice.operation {
            Operation::Write => {
                Region::copy_between(&slice.region, local, &remote, slice.remote_address, length)
            }
            Operation::Read => {
                Region::copy_between(&remote, slice.remote_address, &slice.region, local, length)
            }
        }
    }

    /// The region that a piece is for: the one that was reached last, or one that is found now.
    fn reach<'a>(
        &self,
        piece: &Piece,
        reached: &'a mut Option<Reached>,
    ) -> Option<&'a Arc<Region>> {
        // A region that left its table is closed before its owner is told so, and the lease of a
        // copy is refused then. So one that grants the piece and is open may be used, whatever
        // happened since it was found.
        let again = reached.take().filter(|reached| {
            Weak::ptr_eq(&reached.table, &self.table)
                && !reached.region.is_closed()
                && grants(&reached.region, piece)
        });
        let fresh = match again {
            Some(again) => again,
            None => {
                let key = (piece.remote_key != 0).then_some(piece.remote_key);
                let table = self.table.upgrade()?;
                let (address, length) = (piece.remote_address, piece.length);
                let region = table.find_remote(address, length, piece.operation, key).ok()?;
                Reached { table: Weak::clone(&self.table), region }
            }
        };
        Some(&reached.insert(fresh).region)
    }

    fn serve_waiting(&self) {
        loop {
            let now = Instant::now();
            let mut ready = Vec::new();
            {
                let mut waiting = self.waiting.lock();
                let mut index = 0;
                while index < waiting.len() {
                    let entry = &waiting[index];
                    let expired = now >= entry.slice.deadline;
                    if expired || entry.due.is_some_and(|due| now >= due) {
                        ready.push((waiting.swap_remove(index), expired));
                    } else {
                        index += 1;
                    }
                }
            }
            for (entry, expired) in ready {
                if expired {
                    entry.slice.fail(
                        Error::new(ErrorKind::Timeout, "the peer did not answer in time")
                            .with("transport", "loopback"),
                    );
                } else {
                    self.serve(entry.slice, entry.fate);
                }
            }
            if self.waiting.lock().is_empty() {
                return;
            }
            std::thread::sleep(TICK);
        }
    }

    fn fail_waiting(&self, belongs: impl Fn(&Slice) -> bool, error: &Error) {
        // In one go: the serving thread ends when it finds the list empty.
        let ended: Vec<Waiting> = {
            let mut waiting = self.waiting.lock();
            let (ended, kept) =
                std::mem::take(&mut *waiting).into_iter().partition(|entry| belongs(&entry.slice));
            *waiting = kept;
            ended
        };
        for Waiting { slice, .. } in ended {
            slice.fail(error.clone());
        }
    }
}

impl Route for LoopbackRoute {
    fn split_rule(&self) -> SplitRule {
        RULE
    }

    fn submit(&self, slices: &mut dyn Iterator<Item = Slice>, _: Driver) -> Rails {
        for slice in slices {
            match self.state.closed.get() {
                Some(error) => slice.fail(error.clone()),
                None if self.state.retired.load(Ordering::Acquire) => {
                    let error = lost("the route is retired");
                    self.state.recovery.recover(slice, error, Scope::Endpoint);
                }
                None => self.take(slice),
            }
        }
        Rails::one(0)
    }

    fn at_once_bytes_max(&self) -> u64 {
        AT_ONCE_BYTES_MAX
    }

    fn move_at_once(
        &self,
        local: &Arc<Region>,
        pieces: &[Piece],
        reached: &mut Option<Reached>,
    ) -> usize {
        let state = &*self.state;
        let is_over = state.closed.get().is_some() || state.retired.load(Ordering::Acquire);
        // What is to meet with faults, or to fail, does so as a slice.
        if is_over || self.faults.any() {
            return 0;
        }
        let mut moved = 0;
        while let Some(first) = pieces.get(moved) {
            let Some(remote) = state.reach(first, reached) else { break };
            let run = pieces[moved..]
                .iter()
                .take_while(|piece| piece.operation == first.operation && grants(remote, piece));
            let (here, there) = (|p: &Piece| p.local_address, |p: &Piece| p.remote_address);
            let copied = match first.operation {
                Operation::Write => Region::copy_blocks(
                    local,
                    remote,
                    run.map(|piece| (here(piece), there(piece), piece.length as usize)),
                ),
                Operation::Read => Region::copy_blocks(
                    remote,
                    local,
                    run.map(|piece| (there(piece), here(piece), piece.length as usize)),
                ),
            };
            match copied {
                Ok(0) | Err(_) => break,
                Ok(count) => moved += count,
            }
        }
        moved
    }

    fn attend(&self, _: Rails) {}

    fn progress(&self, _: Rails) -> bool {
        false
    }

    fn wait_sources(&self, _: Rails, _: &mut Vec<WaitSource>) {}

    fn release(&self, _: Rails) {}

    fn cancel(&self, owner: OwnerId, error: &Error) {
        self.state.fail_waiting(|slice| slice.belongs_to(owner), error);
    }

    fn close(&self, error: &Error) {
        let _ = self.state.closed.set(error.clone());
        self.state.fail_waiting(|_| true, error);
    }

    fn retire(&self) {
        self.state.retired.store(true, Ordering::Release);
        for entry in std::mem::take(&mut *self.state.waiting.lock()) {
            self.state.recovery.recover(entry.slice, lost("the route is retired"), Scope::Endpoint);
        }
    }

    fn is_down(&self) -> bool {
        false
    }

    fn dump(&self) -> serde_json::Value {
        serde_json::json!({ "waiting": self.state.waiting.lock().len() })
    }
}
