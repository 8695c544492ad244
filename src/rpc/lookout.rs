//! Whether to look out for the next bytes before going to sleep. Pure; each thread or connection
//! has its own.
//!
//! Waking a sleeping core takes longer than most calls. So whoever waits for bytes that may come
//! soon looks for them a while, and gives the core away between two looks: a peer on the same core
//! can only answer if it gets to run. On a core that others keep busy it may be long in coming
//! back, while a sleeper is woken in the midst of that; there it is better to sleep at once.

use std::time::{Duration, Instant};

/// Longer than whoever takes part in a call runs at a time; what runs longer is at other work.
const TURN: Duration = Duration::from_micros(200);
/// For so long a core that was busy is believed to be busy.
const BUSY: Duration = Duration::from_millis(5);

/// One look-out after the other.
#[derive(Debug)]
pub(super) struct Lookout {
    /// How long one takes at most.
    time: Duration,
    /// While it lasts: its end, and the last look.
    now: Option<(Instant, Instant)>,
    busy_until: Option<Instant>,
}

impl Lookout {
    pub(super) fn new(time: Duration) -> Lookout {
        Lookout { time, now: None, busy_until: None }
    }

    /// True between the start of a look-out and its end.
    pub(super) fn is_on(&self) -> bool {
        self.now.is_some()
    }

    /// The wait for the next bytes begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.busy_until = self.busy_until.filter(|until| now < *until);
        let pays = self.busy_until.is_none() && !self.time.is_zero();
        self.now = pays.then(|| (now + self.time, now));
    }

    /// Nothing has come yet. True if the core is to be given away and another look taken.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let Some((until, looked)) = self.now else { return false };
        if now.saturating_duration_since(looked) > TURN {
            self.busy_until = Some(now + BUSY);
        }
        let goes_on = now < until;
        self.now = goes_on.then_some((until, now));
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn it_looks_out_for_its_time() {
        let at = Instant::now();
        let mut lookout = Lookout::new(50 * US);
        assert!(!lookout.is_on() && !lookout.goes_on(at));
        lookout.begin(at);
        assert!(lookout.is_on());
        assert!(lookout.goes_on(at + 30 * US) && lookout.goes_on(at + 49 * US));
        lookout.begin(at + 49 * US);
        assert!(lookout.goes_on(at + 98 * US) && lookout.is_on());
        assert!(!lookout.goes_on(at + 99 * US) && !lookout.is_on());
        let mut never = Lookout::new(Duration::ZERO);
        never.begin(at);
        assert!(!never.is_on() && !never.goes_on(at));
    }

    #[test]
    fn it_sleeps_where_others_run() {
        let mut at = Instant::now();
        let mut lookout = Lookout::new(500 * US);
        lookout.begin(at);
        assert!(lookout.goes_on(at + TURN), "a peer has run");
        lookout.begin(at + TURN);
        at += TURN * 2 + US;
        lookout.goes_on(at);
        lookout.begin(at);
        assert!(!lookout.is_on(), "somebody else has run");
        lookout.begin(at + BUSY - US);
        assert!(!lookout.is_on());
        lookout.begin(at + BUSY);
        assert!(lookout.goes_on(at + BUSY + US));
    }
}
