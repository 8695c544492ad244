//! Words about files that the master did not answer: kept, and said again once it is heard.
//!
//! A file is written, or it will not be. If that word is lost the master takes the copy for
//! unfinished as long as the object lives, and the file serves nobody. So such words are kept, and
//! said again after a sign of life was answered. While there are any, later words join them without
//! a try, so that a silent master is not waited for once for each file. Only masters of ours are
//! told again: they number puts, and a word about a put means the same however late it comes, and
//! however often.
//!
//! Owns the list, which is part of the queue of files and bounded. Words are said by the threads
//! `mc-store-file`; any other thread adds to the list or wakes those. They may block in a call to
//! the master until its deadline, and in the file system where a file is deleted.

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::pool::object::Generation;
use crate::pool::outcome::Outcome;
use crate::pool::replica::ReplicaKind;
use crate::time::Deadline;

use super::super::calls::Put;
use super::super::client::Shared;
use super::super::failure::shown;
use super::{FileTier, CALL_TIMEOUT};

/// What the master is to be told of one file.
#[derive(Debug)]
pub(in crate::store) struct Word {
    pub(in crate::store) put: Put,
    /// The file that is written; nothing where none will be.
    pub(in crate::store) path: Option<String>,
}

impl Word {
    fn bytes(&self) -> usize {
        self.put.key.len() + self.path.as_ref().map_or(0, String::len)
    }
}

/// Words without an answer.
#[derive(Default)]
pub(super) struct Words {
    owed: Vec<Word>,
    bytes: usize,
    /// The master answers; they are to be said.
    is_due: bool,
    /// They were said for the last time.
    is_over: bool,
}

impl Words {
    /// Keeps a word; it comes back where there is no room.
    pub(super) fn add(&mut self, word: Word) -> std::result::Result<(), Word> {
        let bytes = self.bytes.saturating_add(word.bytes());
        if self.owed.len() >= limits::STORE_FILE_WORDS_MAX
            || bytes > limits::STORE_FILE_WORD_BYTES_MAX
        {
            return Err(word);
        }
        self.bytes = bytes;
        self.owed.push(word);
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.owed.len()
    }

    /// The master is heard; true if it is to be told something.
    pub(super) fn hear(&mut self) -> bool {
        self.is_due = !self.owed.is_empty();
        self.is_due
    }

    /// What is to be said now; at the end everything, once.
    pub(super) fn due(&mut self, is_end: bool) -> Option<Vec<Word>> {
        let is_last = is_end && !self.is_over;
        if self.owed.is_empty() || !(self.is_due || is_last) {
            return None;
        }
        (self.is_due, self.bytes) = (false, 0);
        self.is_over |= is_end;
        Some(std::mem::take(&mut self.owed))
    }

    /// What can be said without looking after a file.
    pub(super) fn take_revocations(&mut self) -> Vec<Word> {
        let owed = std::mem::take(&mut self.owed);
        let (ends, revocations) = owed.into_iter().partition(|word| word.path.is_some());
        self.owed = ends;
        self.bytes = self.owed.iter().map(Word::bytes).sum();
        revocations
    }
}

impl FileTier {
    /// A sign of life was answered.
    pub(in crate::store) fn hear_master(&self) {
        if self.queue.lock().words.hear() {
            self.changed.notify_all();
        }
    }

    /// Keeps a word until the master is heard; it comes back where nobody would say it again.
    fn owe(&self, word: Word) -> std::result::Result<(), Word> {
        let mut queue = self.queue.lock();
        match queue.writers {
            0 => Err(word),
            _ => queue.words.add(word),
        }
    }
}

/// The master may not have heard the word.
fn is_unanswered(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::MasterUnavailable | ErrorKind::Timeout)
}

impl Shared {
    /// Tells the master of one file, now or, where it does not answer, later.
    pub(super) fn tell_file(&self, word: Word) {
        let may_repeat = word.put.generation != 0 && self.calls.is_native();
        let word = match may_repeat && self.files.queue.lock().words.count() > 0 {
            false => word,
            true => match self.files.owe(word) {
                Ok(()) => return,
                Err(word) => word,
            },
        };
        let deadline = Deadline::within(CALL_TIMEOUT);
        let told = match &word.path {
            Some(_) => self.calls.put_end_file(&word.put, deadline),
            None => self.calls.revoke_file(&word.put, deadline),
        };
        match told {
            Err(error) if may_repeat && is_unanswered(&error) => self.keep_words([word], &error),
            told => self.take_answers([(word, told)], deadline),
        }
    }

    /// Keeps words that the master may not have heard.
    pub(in crate::store) fn keep_words(&self, words: impl IntoIterator<Item = Word>, why: &Error) {
        for word in words {
            let Err(word) = self.files.owe(word) else { continue };
            log::debug!("the master was not told of the file of {}: {why}", shown(&word.put.key));
            if word.path.is_some() {
                self.metrics.file_writes_failed.inc();
            }
        }
    }

    /// Says what was kept.
    pub(super) fn tell_files(&self, words: Vec<Word>) {
        if !self.calls.is_native() {
            // Replaced by a master that knows nothing of these puts.
            return;
        }
        let deadline = Deadline::within(CALL_TIMEOUT);
        let (ends, revocations): (Vec<Word>, Vec<Word>) =
            words.into_iter().partition(|word| word.path.is_some());
        let ended = self.tell(ends, deadline, |puts| self.calls.end_files(puts, deadline));
        let revoked = self.revoke_words(revocations, deadline);
        self.metrics.file_words_repeated.inc_by(ended + revoked);
    }

    /// Tells a master of ours of files that will not be written; how many words were answered.
    pub(super) fn revoke_words(&self, words: Vec<Word>, deadline: Deadline) -> u64 {
        self.tell(words, deadline, |puts| self.calls.put_revoke(puts, ReplicaKind::Disk, deadline))
    }

    fn tell(
        &self,
        words: Vec<Word>,
        deadline: Deadline,
        say: impl FnOnce(&[Put]) -> Result<Vec<Outcome<()>>>,
    ) -> u64 {
        if words.is_empty() {
            return 0;
        }
        let puts: Vec<Put> = words.iter().map(|word| word.put.clone()).collect();
        match say(&puts) {
            Ok(answers) => {
                let told =
                    answers.into_iter().map(|told| told.map_err(super::super::failure::plain));
                self.take_answers(words.into_iter().zip(told), deadline);
                puts.len() as u64
            }
            Err(error) => {
                self.keep_words(words, &error);
                0
            }
        }
    }

    /// Counts what was answered, and deletes files that the master does not want.
    fn take_answers(&self, told: impl IntoIterator<Item = (Word, Result<()>)>, deadline: Deadline) {
        let mut life = None;
        for (Word { put, path }, told) in told {
            let Some(path) = path else {
                if let Err(error) = told {
                    log::debug!("the file of {} was not revoked: {error}", shown(&put.key));
                }
                continue;
            };
            let Err(error) = told else {
                self.metrics.file_writes.inc();
                continue;
            };
            self.metrics.file_writes_failed.inc();
            if put.generation == 0 || error.kind() == ErrorKind::MasterUnavailable {
                continue;
            }
            // The object is gone, and the path was its alone.
            if self.is_granted_by(*life.get_or_insert_with(|| self.life(deadline)), put.generation)
            {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// The life of the master that answers now; nothing where there are none, or nobody knows.
    fn life(&self, deadline: Deadline) -> Option<u64> {
        self.calls.greet(deadline).ok()
    }

    /// Whether a put is of that life. A later one may not know an object yet whose file it finds by
    /// itself; and what belongs to nothing it deletes.
    fn is_granted_by(&self, life: Option<u64>, put: Generation) -> bool {
        !self.calls.is_native() || life.is_some_and(|life| put >= life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(generation: u64, key_bytes: usize) -> Word {
        Word { put: Put { key: vec![b'k'; key_bytes], generation }, path: None }
    }

    fn numbers(words: Option<Vec<Word>>) -> Option<Vec<u64>> {
        words.map(|words| words.iter().map(|word| word.put.generation).collect())
    }

    #[test]
    fn words_are_said_when_the_master_is_heard_and_once_more_at_the_end() {
        let mut words = Words::default();
        assert!(!words.hear(), "nothing is to be said");
        words.add(word(1, 1)).unwrap();
        assert_eq!(numbers(words.due(false)), None, "it is silent");
        assert!(words.hear());
        words.add(word(2, 1)).unwrap();
        assert_eq!(numbers(words.due(false)), Some(vec![1, 2]));
        assert_eq!((words.count(), numbers(words.due(false))), (0, None));
        // It was not answered once more.
        words.add(word(1, 1)).unwrap();
        assert_eq!(numbers(words.due(false)), None);
        assert_eq!(numbers(words.due(true)), Some(vec![1]));
        words.add(word(1, 1)).unwrap();
        assert_eq!((numbers(words.due(true)), words.count()), (None, 1));
    }

    #[test]
    fn their_number_and_bytes_are_bounded() {
        let mut words = Words::default();
        let most = limits::STORE_FILE_WORDS_MAX as u64;
        (0..most).for_each(|number| words.add(word(number, 1)).unwrap());
        assert_eq!(words.add(word(most, 1)).unwrap_err().put.generation, most);
        words.hear();
        assert_eq!(numbers(words.due(false)).unwrap().len() as u64, most);
        let long = limits::STORE_FILE_WORD_BYTES_MAX / 4;
        (0..4).for_each(|number| words.add(word(number, long)).unwrap());
        assert!(words.add(word(4, 1)).is_err());
        words.hear();
        assert_eq!(numbers(words.due(false)), Some(vec![0, 1, 2, 3]));
        assert!(words.add(word(4, long)).is_ok());
    }
}
