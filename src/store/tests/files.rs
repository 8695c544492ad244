//! Words about files that are lost: said again, and what becomes of the files.

use std::path::PathBuf;
use std::sync::Arc;

use super::fakes::{client, FakeMaster, World};
use super::{eventually, put, Dialect, Object, PutOptions, Range, Store, MIB};
use crate::pool::file::relative_path;
use crate::pool::outcome::Refusal;

/// A master with a disk tier and one client; the root goes away in the end.
struct Tier {
    root: PathBuf,
    master: Arc<FakeMaster>,
    store: Store,
}

impl Tier {
    fn new(name: &str, dialect: Dialect) -> Tier {
        let root = std::env::temp_dir().join(format!("mc-words-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let master = FakeMaster::new(dialect);
        master.state.lock().folder = format!("{}/cluster", root.display());
        let store = client(&master, &Arc::new(World::default()), "a", 16 * MIB);
        Tier { root, master, store }
    }

    fn file(&self, key: &[u8], generation: u64) -> PathBuf {
        self.root.join("cluster").join(relative_path(key, generation))
    }

    fn ended(&self) -> Vec<u64> {
        let mut ended = self.master.state.lock().files_ended.clone();
        ended.sort_unstable();
        ended
    }

    fn counts(&self) -> [u64; 3] {
        let metrics = self.store.metrics();
        [&metrics.file_writes, &metrics.file_writes_failed, &metrics.file_words_repeated]
            .map(|counter| counter.get())
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.store.close();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_lost_word_about_a_file_is_said_again() {
    for is_answer in [false, true] {
        let tier = Tier::new(&format!("ended-{is_answer}"), Dialect::Native);
        {
            let mut state = tier.master.state.lock();
            let lost = if is_answer { &mut state.answers_lost } else { &mut state.calls_lost };
            *lost = Some("PutEnd");
        }
        put(&tier.store, b"k", b"value").unwrap();
        eventually(|| tier.counts() == [1, 0, 1]);
        let expected: &[u64] = if is_answer { &[1, 1] } else { &[1] };
        assert_eq!(tier.ended(), expected, "answer lost: {is_answer}");
        assert!(tier.file(b"k", 1).exists());
    }
}

#[test]
fn a_silent_master_is_told_everything_later() {
    let tier = Tier::new("silent", Dialect::Native);
    tier.master.state.lock().falls_silent_at = Some("PutEnd");
    let keys: Vec<Vec<u8>> = (1..=8_u8).map(|number| vec![b'k', number]).collect();
    let ranges = [Range::of(b"value")];
    let objects: Vec<Object<'_>> = keys.iter().map(|key| Object { key, ranges: &ranges }).collect();
    let results = tier.store.put_batch(&objects, &PutOptions::default(), None).unwrap();
    assert!(results.iter().all(std::result::Result::is_ok));
    eventually(|| (1..=8).all(|put| tier.file(&keys[put as usize - 1], put).exists()));
    eventually(|| tier.store.health().unwrap().failures > 1);
    assert!(tier.ended().is_empty());
    tier.master.state.lock().is_down = false;
    eventually(|| tier.counts() == [8, 0, 8]);
    assert_eq!(tier.ended(), (1..=8).collect::<Vec<u64>>());
    // One by one they were tried once.
    assert_eq!(tier.master.calls("PutEnd"), 1);
}

#[test]
fn a_lost_word_that_a_file_is_not_written_is_said_again() {
    let tier = Tier::new("revoked", Dialect::Native);
    std::fs::write(tier.root.join("cluster"), b"no folder").unwrap();
    tier.master.state.lock().calls_lost = Some("PutRevoke");
    put(&tier.store, b"k", b"value").unwrap();
    eventually(|| tier.master.state.lock().files_revoked == [1]);
    eventually(|| tier.counts() == [0, 1, 1]);
    assert_eq!(tier.store.get(b"k").unwrap(), b"value");
}

#[test]
fn a_file_that_is_not_wanted_goes_unless_a_later_life_may_find_it() {
    for later in [false, true] {
        let tier = Tier::new(&format!("refused-{later}"), Dialect::Native);
        {
            let mut state = tier.master.state.lock();
            state.calls_lost = Some("PutEnd");
            state.file_end = Some(Refusal::OBJECT_NOT_FOUND);
            // Puts are numbered from the first of a life.
            state.life = if later { 100 } else { 1 };
        }
        put(&tier.store, b"k", b"value").unwrap();
        eventually(|| tier.counts() == [0, 1, 1]);
        assert_eq!(tier.ended(), [1]);
        let file = tier.file(b"k", 1);
        match later {
            true => assert!(file.exists()),
            false => eventually(|| !file.exists()),
        }
    }
}

#[test]
fn a_master_that_numbers_no_puts_is_not_told_again() {
    let tier = Tier::new("upstream", Dialect::Upstream);
    tier.master.state.lock().calls_lost = Some("PutEnd");
    put(&tier.store, b"k", b"value").unwrap();
    eventually(|| tier.counts() == [0, 1, 0]);
    put(&tier.store, b"l", b"value").unwrap();
    eventually(|| tier.master.calls("PutEnd") == 2);
    assert!(tier.ended().is_empty() && tier.file(b"k", 1).exists());
}

#[test]
fn what_was_not_heard_is_said_a_last_time_when_the_client_is_closed() {
    let tier = Tier::new("closed", Dialect::Native);
    tier.master.state.lock().signs_lost = true;
    eventually(|| tier.store.health().unwrap().failures > 0);
    tier.master.state.lock().calls_lost = Some("PutEnd");
    put(&tier.store, b"k", b"value").unwrap();
    eventually(|| tier.master.calls("PutEnd") == 1);
    assert!(tier.ended().is_empty());
    tier.store.close();
    assert_eq!(tier.ended(), [1]);
}
