//! Puts of this client that go on, and whether the master may know of others. Pure.
//!
//! A word about a put can be lost: the answer that grants it, its end, or that it is given up. Then
//! the master holds the key for a put that nobody makes. So after a lost word, once the master has
//! been heard again for a while, it is told which puts go on, and drops the others.

use std::collections::HashSet;
use std::time::Instant;

use crate::limits;
use crate::pool::object::Generation;

use super::client::Shared;

/// See the module.
#[derive(Default)]
pub(super) struct OpenPuts {
    going: HashSet<Generation>,
    /// More go on than are known by number: nothing can be said then.
    uncounted: usize,
    doubt: Option<Doubt>,
}

/// A word was lost.
#[derive(Clone, Copy, PartialEq)]
enum Doubt {
    /// And nothing was heard since.
    Silence,
    /// The master answers since then.
    Since(Instant),
}

impl OpenPuts {
    fn begin(&mut self, put: Generation) {
        match self.going.len() < limits::STORE_OPEN_PUTS_MAX {
            true => drop(self.going.insert(put)),
            false => self.uncounted += 1,
        }
    }

    fn end(&mut self, put: Generation) {
        if !self.going.remove(&put) {
            self.uncounted = self.uncounted.saturating_sub(1);
        }
    }

    /// A word about a put was lost.
    pub(super) fn doubt(&mut self) {
        self.doubt = Some(Doubt::Silence);
    }

    /// A sign of life was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.doubt == Some(Doubt::Silence) {
            self.doubt = Some(Doubt::Since(now));
        }
    }

    /// What the master is to be told now, if anything.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<Generation>> {
        let Some(Doubt::Since(since)) = self.doubt else { return None };
        if now.saturating_duration_since(since) < limits::STORE_DOUBT_PAUSE || self.uncounted > 0 {
            return None;
        }
        self.doubt = None;
        Some(self.going.iter().copied().collect())
    }
}

/// Puts that are known to go on until this is dropped.
pub(super) struct Going<'a> {
    shared: &'a Shared,
    puts: Vec<Generation>,
}

impl Shared {
    /// Puts have been granted; 0 is none.
    pub(super) fn going(&self, puts: impl Iterator<Item = Generation>) -> Going<'_> {
        let puts: Vec<Generation> = puts.filter(|put| *put != 0).collect();
        let mut open = self.open_puts.lock();
        puts.iter().for_each(|put| open.begin(*put));
        drop(open);
        Going { shared: self, puts }
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut open = self.shared.open_puts.lock();
        self.puts.iter().for_each(|put| open.end(*put));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_word_is_made_good_some_time_after_the_master_answers_again() {
        let (mut open, start) = (OpenPuts::default(), Instant::now());
        let (pause, moment) = (limits::STORE_DOUBT_PAUSE, std::time::Duration::from_millis(1));
        open.begin(7);
        open.answered(start);
        assert_eq!(open.due(start + pause), None, "nothing was lost");
        open.doubt();
        assert_eq!(open.due(start + pause), None, "nobody answers");
        open.answered(start);
        open.answered(start + moment);
        assert_eq!(open.due(start + pause - moment), None);
        // Another one is lost meanwhile.
        open.doubt();
        assert_eq!(open.due(start + pause), None);
        open.answered(start + moment);
        assert_eq!(open.due(start + pause), None);
        assert_eq!(open.due(start + pause + moment), Some(vec![7]));
        assert_eq!(open.due(start + 2 * pause), None, "it is told once");
        open.end(7);
        open.doubt();
        open.answered(start);
        assert_eq!(open.due(start + pause), Some(vec![]));
    }

    #[test]
    fn nothing_is_said_while_not_all_are_known() {
        let (mut open, start) = (OpenPuts::default(), Instant::now());
        let most = limits::STORE_OPEN_PUTS_MAX as u64;
        (1..=most + 1).for_each(|put| open.begin(put));
        open.doubt();
        open.answered(start);
        assert_eq!(open.due(start + limits::STORE_DOUBT_PAUSE), None);
        open.end(most + 1);
        let told = open.due(start + limits::STORE_DOUBT_PAUSE).unwrap();
        assert_eq!(told.len() as u64, most);
    }
}
