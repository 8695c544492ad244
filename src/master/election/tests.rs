//! The rules of the election, over clocks and clusters that the tests make up.

use super::*;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const TTL: Duration = Duration::from_secs(5);

fn candidate(now: Instant) -> Election {
    Election::new(Timing::of(TTL), now)
}

fn seen(lease: &str, is_ours: bool) -> Seen {
    Seen { address: format!("h:{lease}"), lease: lease.to_owned(), is_ours }
}

/// Leads a candidate, which sees nobody, to its claim.
fn claiming(election: &mut Election, now: Instant) {
    assert_eq!(election.next(now), Act::Look);
    election.looked(now, now, Some((None, 7)));
    assert_eq!(election.next(now), Act::Grant);
    election.granted(now, now, Some(("1".to_owned(), TTL)));
    let claim = Act::Claim { lease: "1".to_owned(), number_after: 7 + LIFE_STEP_MS };
    assert_eq!(election.next(now), claim);
}

/// To its serving, after whatever wait there is. Returns the moment.
fn leading(election: &mut Election, start: Instant) -> Instant {
    claiming(election, start);
    election.claimed(start, Some(Some(9)));
    let mut now = start;
    loop {
        match election.next(now) {
            Act::Sleep(until) => now = until,
            Act::Keep { .. } => election.kept(now, now, Some(true)),
            Act::Serve { revision } => {
                assert_eq!(revision, 9);
                election.serves();
                return now;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn who_finds_nobody_leads_after_one_lease() {
    let start = Instant::now();
    let mut election = candidate(start);
    assert_eq!(election.serves_until(), None);
    let now = leading(&mut election, start);
    assert_eq!(now, start + TTL);
    assert!(election.serves_until().is_some_and(|until| until > now && until < now + TTL));
    assert_eq!(election.lease(), Some("1"));
}

#[test]
fn a_leader_of_ours_is_followed_at_once_and_upstreams_is_not() {
    for (is_ours, gap, wait) in [
        (true, ms(250), ms(0)),
        (false, ms(250), TTL),
        // Upstream's may have come and gone meanwhile.
        (true, ms(4500), TTL),
    ] {
        let start = Instant::now();
        let mut election = candidate(start);
        assert_eq!(election.next(start), Act::Look);
        election.looked(start, start, Some((Some(seen("5", is_ours)), 7)));
        assert_eq!(election.next(start), Act::Sleep(start + ms(250)));
        assert_eq!(election.other_leader(), Some(&seen("5", is_ours)));
        let began = start + gap;
        let now = leading(&mut election, began);
        assert_eq!(now, began + wait, "{is_ours} {gap:?}");
    }
}

#[test]
fn the_lease_is_counted_from_before_its_renewal() {
    let start = Instant::now();
    let mut election = candidate(start);
    let now = leading(&mut election, start);
    let Act::Sleep(at) = election.next(now) else { panic!() };
    let Act::Keep { .. } = election.next(at) else { panic!() };
    // The answer took two seconds.
    election.kept(at, at + ms(2000), Some(true));
    assert_eq!(election.serves_until(), Some(at + ms(4500)));
}

#[test]
fn without_answers_it_stops_before_the_lease_ends() {
    let start = Instant::now();
    let mut election = candidate(start);
    let mut now = leading(&mut election, start);
    let until = election.serves_until().unwrap();
    let mut tries = 0;
    loop {
        match election.next(now) {
            Act::Sleep(at) => now = at,
            Act::Keep { until: limit, .. } => {
                assert_eq!(limit, until);
                tries += 1;
                now += ms(300);
                election.kept(now, now, None);
            }
            Act::Stop => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(tries > 2, "{tries}");
    assert!(now >= until && now < until + ms(400));
    assert_eq!(election.serves_until(), None);
    // Stops first, gives back then, campaigns last.
    assert_eq!(election.next(now), Act::Stop);
    election.stopped(now);
    assert_eq!(election.next(now), Act::Resign { lease: "1".to_owned() });
    election.resigned(now, true);
    assert_eq!(election.next(now), Act::Look);
}

#[test]
fn one_that_was_frozen_stops_before_it_asks_anybody() {
    let start = Instant::now();
    let mut election = candidate(start);
    let now = leading(&mut election, start) + Duration::from_secs(3600);
    assert_eq!(election.next(now), Act::Stop);
    assert_eq!(election.serves_until(), None);
    // Also when it was frozen in the middle of a renewal that went well.
    let mut election = candidate(start);
    let now = leading(&mut election, start);
    let Act::Sleep(at) = election.next(now) else { panic!() };
    let Act::Keep { .. } = election.next(at) else { panic!() };
    election.kept(at, at + Duration::from_secs(60), Some(true));
    assert_eq!(election.next(at + Duration::from_secs(60)), Act::Stop);
}

#[test]
fn a_lease_that_is_gone_ends_it_at_once() {
    let start = Instant::now();
    let mut election = candidate(start);
    let now = leading(&mut election, start);
    let Act::Sleep(at) = election.next(now) else { panic!() };
    let Act::Keep { .. } = election.next(at) else { panic!() };
    election.kept(at, at, Some(false));
    assert_eq!(election.next(at), Act::Stop);
}

#[test]
fn a_claim_of_unknown_fate_is_given_back() {
    let start = Instant::now();
    for outcome in [None, Some(None)] {
        let mut election = candidate(start);
        claiming(&mut election, start);
        election.claimed(start, outcome);
        assert_eq!(election.next(start), Act::Resign { lease: "1".to_owned() });
        assert!(!election.is_elected());
    }
    // And one that took so long that the lease has ended is not even made.
    let mut election = candidate(start);
    claiming(&mut election, start);
    assert_eq!(election.next(start + TTL), Act::Resign { lease: "1".to_owned() });
}

#[test]
fn what_could_not_be_given_back_is_when_it_is_seen() {
    let start = Instant::now();
    let mut election = candidate(start);
    let mut now = leading(&mut election, start) + TTL;
    assert_eq!(election.next(now), Act::Stop);
    election.stopped(now);
    for _ in 0..RESIGN_TRIES {
        if let Act::Sleep(until) = election.next(now) {
            now = until;
        }
        assert_eq!(election.next(now), Act::Resign { lease: "1".to_owned() });
        election.resigned(now, false);
    }
    assert_eq!(election.next(now), Act::Look);
    assert_eq!(election.lease(), Some("1"));
    // etcd is away for a while, and then still has the key.
    election.looked(now, now, None);
    let Act::Sleep(until) = election.next(now) else { panic!() };
    assert_eq!(election.next(until), Act::Look);
    election.looked(until, until, Some((Some(seen("1", true)), 7)));
    assert_eq!(election.next(until), Act::Resign { lease: "1".to_owned() });
    election.resigned(until, true);
    assert_eq!(election.lease(), None);
}

#[test]
fn a_failure_is_not_repeated_without_a_pause() {
    let start = Instant::now();
    let mut election = candidate(start);
    assert_eq!(election.next(start), Act::Look);
    election.looked(start, start, None);
    assert_eq!(election.next(start), Act::Sleep(start + ms(500)));
    let now = start + ms(500);
    election.looked(now, now, Some((None, 0)));
    assert_eq!(election.next(now), Act::Grant);
    election.granted(now, now, None);
    assert_eq!(election.next(now), Act::Sleep(now + ms(500)));
}

/// Two candidates and a cluster that keeps its leases for their full length, in seeded disorder:
/// calls fail, candidates freeze. Never do two serve at one moment.
#[test]
fn never_do_two_serve() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..4000 {
            world.step();
        }
        assert!(world.served > 0, "seed {seed}: nobody ever served");
    }
}

struct World {
    rng: fastrand::Rng,
    seed: u64,
    now: Instant,
    candidates: Vec<(Election, Instant)>,
    leases: std::collections::HashMap<String, Instant>,
    key: Option<String>,
    next_lease: u64,
    served: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let now = Instant::now();
        let one = || (candidate(now), now);
        World {
            rng: fastrand::Rng::with_seed(seed),
            seed,
            now,
            candidates: vec![one(), one(), one()],
            leases: std::collections::HashMap::new(),
            key: None,
            next_lease: 1,
            served: 0,
        }
    }

    fn expire(&mut self) {
        let now = self.now;
        self.leases.retain(|_, end| *end > now);
        if self.key.as_ref().is_some_and(|lease| !self.leases.contains_key(lease)) {
            self.key = None;
        }
    }

    fn step(&mut self) {
        let pick = self.rng.usize(..self.candidates.len());
        self.now += ms(self.rng.u64(..60));
        self.expire();
        let now = self.now;
        let mut serving = 0;
        for (election, _) in &self.candidates {
            serving += usize::from(election.serves_until().is_some_and(|until| now < until));
        }
        assert!(serving <= 1, "seed {}: {serving} serve", self.seed);
        self.served += serving as u64;
        if now < self.candidates[pick].1 {
            return;
        }
        if self.rng.u32(..400) == 0 {
            self.candidates[pick].1 = now + ms(self.rng.u64(..12_000));
            return;
        }
        self.act(pick);
    }

    /// One call. It may be answered late, and its answer may be lost although it was served.
    fn act(&mut self, pick: usize) {
        let asked = self.now;
        let act = self.candidates[pick].0.next(asked);
        if matches!(act, Act::Sleep(_)) {
            return;
        }
        let served = self.rng.u32(..20) > 0;
        let longest = if self.rng.u32(..30) == 0 { 3000 } else { 20 };
        self.now += ms(self.rng.u64(..longest));
        self.expire();
        let heard = served && self.rng.u32(..20) > 0;
        let now = self.now;
        match act {
            Act::Look => {
                let key = self.key.clone().map(|lease| seen(&lease, true));
                self.candidates[pick].0.looked(asked, now, heard.then_some((key, 1)));
            }
            Act::Grant => {
                let id = self.next_lease.to_string();
                self.next_lease += 1;
                self.leases.insert(id.clone(), now + TTL);
                self.candidates[pick].0.granted(asked, now, heard.then_some((id, TTL)));
            }
            Act::Claim { lease, .. } => {
                let won = served && self.key.is_none() && self.leases.contains_key(&lease);
                if won {
                    self.key = Some(lease);
                }
                let outcome = won.then_some(1);
                self.candidates[pick].0.claimed(now, heard.then_some(outcome));
            }
            Act::Keep { lease, .. } => {
                let held = self.leases.contains_key(&lease);
                if held && served {
                    self.leases.insert(lease, now + TTL);
                }
                self.candidates[pick].0.kept(asked, now, heard.then_some(held));
            }
            Act::Serve { .. } => self.candidates[pick].0.serves(),
            Act::Stop => self.candidates[pick].0.stopped(now),
            Act::Resign { lease } => {
                if served {
                    self.leases.remove(&lease);
                    self.expire();
                }
                self.candidates[pick].0.resigned(now, heard);
            }
            Act::Sleep(_) => {}
        }
    }
}
