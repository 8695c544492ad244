//! An elected master: campaigns in etcd, serves while it leads, and gives way.
//!
//! One thread, `mc-elector`, does what [`Election`] says, one call to etcd at a time, each with a
//! deadline. It owns the term of serving. What other threads see are the fence, beyond which nobody
//! is answered, and the seat, of which the pages are made.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cleanup::Cleanup;
use super::config::{Candidacy, MasterConfig};
use super::election::{Act, Election, Seen, Timing};
use super::ending::Ending;
use super::fence::Fence;
use super::process::Alarm;
use super::seat::Seat;
use super::term::{wall_clock, Mandate, Term};
use super::view::Standing;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::metadata::etcd::{Board, Claim, Leadership, Life, Settings};
use crate::net::thread;
use crate::net::tls::TlsFiles;
use crate::time::Deadline;

/// Calls under way are given so long when this master is told to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The lease is given back within this when the process ends.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks at the puts that are waited for.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two lines about the same trouble.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// See the module. Dropping it ends it.
pub(super) struct Elector {
    ending: Arc<Ending>,
    failure: Arc<Mutex<Option<Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl Elector {
    /// Begins to campaign.
    pub(super) fn start(
        config: &MasterConfig,
        candidacy: &Candidacy,
        seat: &Arc<Seat>,
        fence: &Arc<Fence>,
        cleanup: Option<Cleanup>,
        alarm: Alarm,
    ) -> Result<Elector> {
        let settings = Settings {
            endpoints: &candidacy.endpoints,
            tls: false,
            username: "",
            password: "",
            files: TlsFiles::default(),
            lease: None,
        };
        let place = Leadership::new(&settings, &candidacy.cluster)?;
        let timing = Timing::of(candidacy.lease);
        let (ending, failure) = (Arc::<Ending>::default(), Arc::default());
        let mut candidate = Candidate {
            config: config.clone(),
            address: candidacy.address.clone(),
            place,
            timing,
            election: Election::new(timing, Instant::now()),
            life: Life::default(),
            mandate: 0,
            term: None,
            seat: Arc::clone(seat),
            fence: Arc::clone(fence),
            cleanup,
            ending: Arc::clone(&ending),
            complained: None,
        };
        let distress = Distress { failure: Arc::clone(&failure), alarm };
        let thread = thread::spawn("mc-elector", move || {
            // Raises the alarm where this thread ends otherwise than by order.
            let mut distress = Some(distress);
            match candidate.run() {
                Ok(()) => {
                    if let Some(distress) = distress.take() {
                        distress.forget();
                    }
                }
                Err(error) => {
                    candidate.leave();
                    if let Some(distress) = &distress {
                        *distress.failure.lock() = Some(error);
                    }
                }
            }
        })?;
        Ok(Elector { ending, failure, thread: Some(thread) })
    }

    /// Why this master cannot go on.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().take()
    }

    /// Ends a term that is under way, gives the lease back, and waits for that: at most for
    /// [`limits::MASTER_DRAIN_PUTS`] and a few calls to etcd.
    pub(super) fn stop(&mut self) {
        self.ending.end();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Elector {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Calls for help when it is dropped.
struct Distress {
    failure: Arc<Mutex<Option<Error>>>,
    alarm: Alarm,
}

impl Distress {
    fn forget(mut self) {
        self.alarm = Arc::new(|| {});
    }
}

impl Drop for Distress {
    fn drop(&mut self) {
        let lost = || Error::new(ErrorKind::Internal, "the thread of the election has ended");
        self.failure.lock().get_or_insert_with(lost);
        (self.alarm)();
    }
}

/// What the thread owns.
struct Candidate {
    config: MasterConfig,
    address: String,
    place: Leadership,
    timing: Timing,
    election: Election,
    /// The number that lay in the cluster at the last look.
    life: Life,
    /// The number of the own mandate.
    mandate: u64,
    term: Option<Term>,
    seat: Arc<Seat>,
    fence: Arc<Fence>,
    cleanup: Option<Cleanup>,
    ending: Arc<Ending>,
    complained: Option<Instant>,
}

impl Candidate {
    /// Campaigns and leads until it is over. An error means that this master cannot serve.
    fn run(&mut self) -> Result<()> {
        let place = self.place.key();
        log::info!("high availability: {} is a candidate for {place}", self.address);
        loop {
            let act = self.election.next(Instant::now());
            let is_over = match act {
                Act::Sleep(until) => self.ending.sleep_until(until),
                act => {
                    self.carry_out(act)?;
                    self.ending.sleep_until(Instant::now())
                }
            };
            self.publish();
            if is_over {
                self.retire();
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, act: Act) -> Result<()> {
        let asked = Instant::now();
        let within = |time| Deadline::after(asked, time);
        let patience = self.timing.ttl / 2;
        match act {
            Act::Sleep(_) => {}
            Act::Look => {
                let board = self.place.board(within(patience));
                let found = self.told("nobody knows who leads", board).map(|board| {
                    let Board { leader, life } = board;
                    self.life = life;
                    (leader.map(seen), life.number)
                });
                self.note_change(found.as_ref().and_then(|(seen, _)| seen.as_ref()));
                self.election.looked(asked, Instant::now(), found);
            }
            Act::Grant => {
                let granted = self.place.grant(self.timing.ttl, within(patience));
                let granted = self.told("no lease", granted);
                self.election.granted(asked, Instant::now(), granted);
            }
            Act::Claim { lease, number_after } => {
                self.mandate = wall_clock().max(number_after).min(limits::MASTER_LIFE_MAX);
                let claimed = self.place.claim(
                    &self.address,
                    &lease,
                    self.life,
                    self.mandate,
                    within(patience),
                );
                let outcome = self.told("no claim", claimed).map(|claim| match claim {
                    Claim::Won { revision } => Some(revision),
                    Claim::Lost => None,
                });
                self.election.claimed(Instant::now(), outcome);
                if let Some(Some(revision)) = outcome {
                    log::info!("this master is elected, as view {revision}");
                }
            }
            Act::Keep { lease, until } => {
                let rest = until.saturating_duration_since(asked).min(self.timing.ttl * 3 / 10);
                let kept = self.place.keep(&lease, within(rest));
                let kept = self.told("the lease is not renewed", kept);
                self.election.kept(asked, Instant::now(), kept);
            }
            Act::Serve { revision } => self.serve(revision)?,
            Act::Stop => {
                self.fence.set(None);
                log::error!("the lease is lost: this master stops serving, and forgets all");
                self.end_term(Duration::ZERO);
                self.election.stopped(Instant::now());
            }
            Act::Resign { lease } => {
                let resigned = self.place.resign(&lease, within(patience));
                let done = self.told("the lease is not given back", resigned).is_some();
                self.election.resigned(Instant::now(), done);
            }
        }
        // The fence follows at once, not with the next round.
        self.fence.set(self.election.serves_until());
        Ok(())
    }

    fn serve(&mut self, revision: i64) -> Result<()> {
        let fence = Arc::clone(&self.fence);
        let mandate = Mandate { fence, revision, life: self.mandate };
        let term = Term::start(&self.config, None, Some(mandate), self.cleanup.clone())?;
        self.seat.take(term.master(), term.counters());
        self.term = Some(term);
        self.election.serves();
        log::info!("this master leads and serves at {}", self.address);
        Ok(())
    }

    fn end_term(&mut self, patience: Duration) {
        self.seat.leave();
        if let Some(mut term) = self.term.take() {
            term.stop(Deadline::within(patience));
        }
    }

    /// The process ends: puts that were granted may end, then the calls, then the lease, so that
    /// the next leader finds nobody serving.
    fn retire(&mut self) {
        if let Some(term) = &self.term {
            term.master().drain();
        }
        let end = Instant::now() + limits::MASTER_DRAIN_PUTS;
        while self.term.as_ref().is_some_and(|term| term.master().state().open_puts() > 0) {
            let now = Instant::now();
            if now >= end {
                log::warn!("ending although puts are under way");
                break;
            }
            match self.election.next(now) {
                // Only a leader is here, and it only renews, or has lost.
                act @ (Act::Keep { .. } | Act::Stop) => {
                    if let Err(error) = self.carry_out(act) {
                        log::error!("{error}");
                    }
                }
                _ => std::thread::sleep(DRAIN_PAUSE),
            }
        }
        self.end_term(STOP_TIMEOUT);
        self.leave();
    }

    /// Gives back what is held, without campaigning again.
    fn leave(&mut self) {
        self.end_term(Duration::ZERO);
        self.fence.set(None);
        if let Some(lease) = self.election.lease() {
            match self.place.resign(lease, Deadline::within(RESIGN_TIMEOUT)) {
                Ok(()) => log::info!("the lease is given back"),
                Err(error) => log::warn!("the lease is left to its end: {error}"),
            }
        }
    }

    /// What the pages say.
    fn publish(&self) {
        let leads = self.election.serves_until().is_some();
        let state = match (leads, self.election.is_elected()) {
            (true, _) => "serving",
            (false, true) => "leader_warmup",
            (false, false) => "standby",
        };
        let leader = match self.election.other_leader() {
            Some(seen) => Some(seen.address.clone()),
            None => self.election.is_elected().then(|| self.address.clone()),
        };
        self.seat.stand(Standing { elects: true, leads, state, leader });
    }

    fn note_change(&self, seen: Option<&Seen>) {
        let before = self.election.other_leader().map(|seen| &seen.address);
        if let Some(seen) = seen.filter(|seen| Some(&seen.address) != before) {
            log::info!("{} leads; this master stands by", seen.address);
        }
    }

    /// The good part of an outcome; the other one is logged, now and then.
    fn told<T>(&mut self, what: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(good) => {
                if self.complained.take().is_some() {
                    log::info!("etcd answers again");
                }
                Some(good)
            }
            Err(error) => {
                let now = Instant::now();
                if self.complained.is_none_or(|at| now >= at + COMPLAINT_PAUSE) {
                    self.complained = Some(now);
                    log::warn!("{what}: {error}");
                }
                None
            }
        }
    }
}

fn seen(leader: crate::metadata::etcd::Leader) -> Seen {
    let crate::metadata::etcd::Leader { address, lease, is_ours, .. } = leader;
    Seen { address, lease, is_ours }
}
