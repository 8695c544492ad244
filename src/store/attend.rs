//! Signs of life, and what the master answers to them: mount again, or news of the own segments.
//!
//! One thread for each client. It blocks only in calls that end at their deadline or when the
//! client is closed.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, Result};
use crate::limits;
use crate::pool::segment::{ClientStatus, Pong, SegmentEvent};
use crate::rpc::message::Events;
use crate::time::Deadline;

use super::client::Shared;

/// The thread.
pub(super) struct Attendant(JoinHandle<()>);

/// A native master answers at once only with news; one that does so without any is slowed down.
const QUICK: Duration = Duration::from_millis(20);
/// Completed objects are only noted, so they are gathered for this long instead of costing a call
/// each; what is gone is acknowledged at once, because its room is waited for.
const GATHER: Duration = Duration::from_millis(10);
/// More news than this are not gathered any longer.
const GATHERED_MAX: usize = 256;
/// Time for one sign of life.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for mounting all segments again and reporting what they hold.
const REMOUNT_TIMEOUT: Duration = Duration::from_secs(30);

impl Attendant {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Attendant> {
        let shared = Arc::clone(shared);
        crate::net::thread::spawn("mc-store", move || attend(&shared)).map(Attendant)
    }

    /// Waits for the end of the thread; the client is closed already.
    pub(super) fn join(self) {
        // A panic of the thread was reported by the hook; there is nothing to add here.
        let _ = self.0.join();
    }
}

fn attend(shared: &Shared) {
    while !shared.gate.is_closed() {
        let began = Instant::now();
        let outcome = if shared.calls.is_native() { news(shared) } else { ping(shared) };
        if shared.gate.is_closed() {
            return;
        }
        let pause = match outcome {
            Ok(pause) => {
                answered(shared);
                shared.files.hear_master();
                shared.give_up_files();
                pause
            }
            Err(error) => {
                shared.metrics.pings_failed.inc();
                let mut pulse = shared.pulse.lock();
                pulse.failures = pulse.failures.saturating_add(1);
                if pulse.failures == 1 {
                    log::warn!("the master does not answer: {error}");
                }
                pulse.last_error = Some(error);
                limits::STORE_PING_RETRY
            }
        };
        shared.gate.sleep(pause.saturating_sub(began.elapsed().min(pause)));
    }
}

fn answered(shared: &Shared) {
    let mut pulse = shared.pulse.lock();
    if pulse.failures > 0 {
        log::info!("the master answers again after {} signs of life", pulse.failures);
    }
    pulse.failures = 0;
    pulse.answered = Some(Instant::now());
    drop(pulse);
    shared.open_puts.lock().answered(Instant::now());
}

/// Waits for news of a native master. Returns the shortest time until the next call.
fn news(shared: &Shared) -> Result<Duration> {
    if shared.is_fence_due.load(Ordering::Acquire) {
        fence(shared)?;
    }
    tell_lent(shared)?;
    tell_unfinished(shared);
    let acknowledged = shared.held.lock().acknowledged();
    let events = shared.calls.attend(acknowledged, Deadline::within(CALL_TIMEOUT))?;
    if events.pong.status != ClientStatus::NeedRemount && tells_of_unfinished(shared, &events) {
        // What this answer says is taken in only behind the fence: it comes again otherwise.
        fence(shared)?;
    }
    let mut held = shared.held.lock();
    let life_before = held.master_life();
    let is_new_life = life_before != Some(events.master_life);
    let is_untold = is_new_life && life_before.is_some();
    // Also one that knows the client already: a report may have ended half-way, and what was not
    // told is not ours any more. It is told again, so that the master says which of it is gone.
    let is_known = events.pong.status != ClientStatus::NeedRemount && !is_untold;
    if is_untold {
        log::info!("another life of the master; it is told of {} objects", held.len());
    }
    let is_gone = |event: &SegmentEvent| matches!(event, SegmentEvent::Gone { .. });
    let pause = match events.events.len() {
        0 => QUICK,
        count if count > GATHERED_MAX || events.events.iter().any(is_gone) => Duration::ZERO,
        _ => GATHER,
    };
    if is_known {
        held.meet(events.master_life);
        held.take(events.events, events.last);
    }
    drop(held);
    if !is_known {
        remount(shared, Some(events.master_life))?;
    }
    Ok(pause)
}

/// A range that is given to others, and was never said to be complete: whoever was to write there
/// may still be at it.
fn tells_of_unfinished(shared: &Shared, events: &Events) -> bool {
    let held = shared.held.lock();
    let mut told = HashSet::new();
    events.events.iter().any(|event| match event {
        SegmentEvent::Completed(object) => {
            told.insert(object.generation);
            false
        }
        SegmentEvent::Gone { segment, address, generation } => {
            !told.contains(generation) && !held.knows(*segment, *address, *generation)
        }
    })
}

/// Keeps everybody from writing into the own memory by what the master has granted so far. What
/// is granted later is found by the new keys.
fn fence(shared: &Shared) -> Result<()> {
    shared.is_fence_due.store(true, Ordering::Release);
    shared.metrics.fences.inc();
    shared.own.renew();
    for piece in &shared.own.pieces {
        shared.mover.renew(piece.segment.base as usize)?;
    }
    shared.is_fence_due.store(false, Ordering::Release);
    Ok(())
}

/// Names the lent ranges whose objects are gone, before their end is acknowledged.
fn tell_lent(shared: &Shared) -> Result<()> {
    let Some(ranges) = shared.held.lock().untold() else { return Ok(()) };
    let told = shared.calls.keep(Vec::new(), ranges, Deadline::within(CALL_TIMEOUT));
    if told.is_err() {
        shared.held.lock().stay_untold();
    }
    told
}

/// Says which puts go on, some time after a word about one was lost.
fn tell_unfinished(shared: &Shared) {
    let Some(puts) = shared.open_puts.lock().due(Instant::now()) else { return };
    let told = tolerate(shared.calls.unfinished(puts, Deadline::within(CALL_TIMEOUT)));
    match told {
        Ok(()) => {
            shared.metrics.unfinished_told.inc();
        }
        Err(_) => shared.open_puts.lock().doubt(),
    }
}

/// A sign of life as upstream gives it.
fn ping(shared: &Shared) -> Result<Duration> {
    let Pong { status, .. } = shared.calls.ping(Deadline::within(CALL_TIMEOUT))?;
    if !shared.calls.is_native() {
        // A master of upstream takes the memory for empty and gives it to others; what was in it
        // must not be told to a native one that may come later.
        shared.held.lock().leave();
    }
    if status == ClientStatus::NeedRemount {
        remount(shared, None)?;
    }
    Ok(limits::STORE_PING_INTERVAL)
}

/// Mounts all segments again. A native master in another life is told what they hold; in the same
/// life it has dropped that on purpose.
fn remount(shared: &Shared, master_life: Option<u64>) -> Result<()> {
    let _mounting = shared.mounting.lock();
    if shared.gate.is_closed() {
        return Ok(());
    }
    // The master does not know what it has granted before, or has given that up.
    fence(shared)?;
    let deadline = Deadline::within(REMOUNT_TIMEOUT);
    shared.metrics.remounts.inc();
    if master_life.is_none() {
        shared.held.lock().leave();
    }
    let lent = shared.held.lock().lent(true);
    if lent.is_empty() {
        shared.calls.remount(shared.own.segments(), deadline)?;
    } else {
        shared.calls.keep(shared.own.segments(), lent, deadline)?;
    }
    let Some(master_life) = master_life else { return Ok(()) };
    let parts = {
        let mut held = shared.held.lock();
        if held.master_life() == Some(master_life) {
            held.forget();
        }
        held.report()
    };
    report(shared, parts, deadline)?;
    let mut held = shared.held.lock();
    match shared.calls.is_native() {
        true => held.meet(master_life),
        // Replaced by one of upstream's between two calls.
        false => held.leave(),
    }
    Ok(())
}

fn report(
    shared: &Shared,
    parts: Vec<Vec<crate::pool::segment::HeldObject>>,
    deadline: Deadline,
) -> Result<()> {
    let count = parts.len();
    if count == 0 {
        return tolerate(shared.calls.report(Vec::new(), true, deadline));
    }
    for (index, part) in parts.into_iter().enumerate() {
        let objects = part.len() as u64;
        tolerate(shared.calls.report(part, index + 1 == count, deadline))?;
        shared.metrics.objects_reported.inc_by(objects);
    }
    Ok(())
}

/// A master without reports loses what it has lost; that is no reason not to be mounted.
pub(super) fn tolerate(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}
