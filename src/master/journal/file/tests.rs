//! The journal in a folder: ends at any byte, damage, other boots, a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{discard, files, Journal, Kind, HEADER_BYTES};
use crate::master::journal::image::Image;
use crate::master::journal::record::Record;
use crate::master::state::{Outlet, Settings, State, Step};
use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::object::{PutItem, PutOptions};
use crate::pool::replica::ReplicaKind;
use crate::pool::segment::Segment;
use crate::rpc::message::{Call, Reply};

/// A folder that goes away at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("mc-journal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Written(Arc<Journal>);

impl Outlet for Written {
    fn record(&self, record: &Record<'_>) {
        self.0.append(record);
    }
}

fn start(folder: &Path) -> (Arc<Journal>, State, Image) {
    let (journal, image) = Journal::open(folder, false).unwrap();
    let journal = Arc::new(journal);
    let outlet = Arc::new(Written(Arc::clone(&journal)));
    let settings = Settings { shards: 4, life: 5, ..Settings::default() };
    let state = State::restore(settings, Instant::now(), outlet, image.clone()).unwrap();
    journal.begin(&state, Instant::now()).unwrap();
    (journal, state, image)
}

fn client() -> ClientId {
    ClientId(Uuid { first: 1, second: 2 })
}

fn segment() -> Segment {
    Segment {
        id: SegmentId(Uuid { first: 3, second: 4 }),
        name: "host".to_owned(),
        base: 1 << 30,
        size: 1 << 30,
        endpoint: "host:1".to_owned(),
        protocol: String::new(),
    }
}

fn call(state: &State, call: Call) -> Reply {
    match state.apply(Instant::now(), call) {
        Step::Reply(reply) => reply,
        Step::Later(waiting) => state.give_up(waiting),
    }
}

fn put(state: &State, number: u64) {
    let key = number.to_le_bytes().to_vec();
    let item = PutItem::new(key.clone(), vec![100]);
    let reply = call(state, Call::PutStart(None, item, PutOptions::default()));
    assert!(matches!(reply, Reply::Granted(Ok(_))), "{reply:?}");
    call(state, Call::PutEnd(None, key, ReplicaKind::Memory, 0));
}

fn mount(state: &State) {
    assert_eq!(call(state, Call::Mount(segment(), client())), Reply::Done(Ok(())));
}

fn names(folder: &Path) -> Vec<(Kind, u64)> {
    files(folder).unwrap().into_iter().map(|(kind, number, _)| (kind, number)).collect()
}

#[test]
fn a_life_goes_on_where_the_last_one_ended() {
    let folder = Folder::new("life");
    let (journal, state, image) = start(&folder.0);
    assert_eq!(image, Image::default());
    mount(&state);
    (0..100).for_each(|number| put(&state, number));
    journal.flush();
    // As after SIGKILL: neither is asked to end.
    drop((journal, state));
    for life in 0..3_u64 {
        let (journal, state, image) = start(&folder.0);
        let expected = 100 + life;
        assert_eq!((image.objects.len() as u64, image.segments.len()), (expected, 1));
        assert!(image.objects.values().all(|object| object.complete));
        call(&state, Call::Remount(vec![segment()], client()));
        assert_eq!(state.totals().keys, expected);
        for number in 0..expected {
            let reply = call(&state, Call::Lookup(number.to_le_bytes().to_vec()));
            assert!(matches!(reply, Reply::Located(Ok(_))), "{number}: {reply:?}");
        }
        put(&state, expected);
        journal.flush();
        assert_eq!(names(&folder.0).len(), 2);
    }
}

#[test]
fn compacting_while_the_index_changes_loses_nothing() {
    let folder = Folder::new("compact");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    let removed = |number: u64| number % 3 == 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..3000 {
                put(&state, number);
                if removed(number) {
                    let key = number.to_le_bytes().to_vec();
                    call(&state, Call::Remove { key, force: false });
                }
                journal.flush();
            }
        });
        while !writer.is_finished() {
            journal.compact(&state, Instant::now()).unwrap();
        }
    });
    journal.flush();
    assert_eq!(names(&folder.0).len(), 2);
    let total = state.totals().keys;
    drop((journal, state));
    let (_, image) = Journal::open(&folder.0, false).unwrap();
    assert_eq!((image.objects.len() as u64, total), (2000, 2000));
    let mut keys: Vec<u64> = image
        .objects
        .values()
        .map(|object| u64::from_le_bytes(object.key.as_slice().try_into().unwrap()))
        .collect();
    keys.sort_unstable();
    assert!(keys.into_iter().eq((0..3000).filter(|number| !removed(*number))));
}

#[test]
fn a_log_may_end_anywhere_but_not_be_damaged() {
    let folder = Folder::new("cut");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    (0..5).for_each(|number| put(&state, number));
    journal.flush();
    drop((journal, state));
    let log = files(&folder.0).unwrap().pop().unwrap().2;
    let whole = fs::read(&log).unwrap();
    let mut counts = Vec::new();
    for end in 0..=whole.len() {
        fs::write(&log, &whole[..end]).unwrap();
        let (_, image) = Journal::open(&folder.0, false).unwrap();
        counts.push(image.objects.len());
    }
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!(counts.last(), Some(&5));
    let mut rng = fastrand::Rng::with_seed(9);
    for _ in 0..300 {
        let mut damaged = whole.clone();
        let at = rng.usize(..whole.len() - 1);
        damaged[at] ^= 1 << rng.u32(..8);
        fs::write(&log, &damaged).unwrap();
        let (_, image) = Journal::open(&folder.0, false).unwrap();
        // Nothing, or what was before a length that now points behind the end.
        assert!(image.objects.len() < 5 || at == HEADER_BYTES - 1, "byte {at}");
    }
    // Cut in the middle of the row: the rest of it is missing.
    fs::write(&log, &whole[..whole.len() - 3]).unwrap();
    let next = folder.0.join("log.99");
    fs::write(&next, b"").unwrap();
    let (_, image) = Journal::open(&folder.0, false).unwrap();
    assert_eq!(image, Image::default());
}

#[test]
fn another_boot_or_another_version_is_not_believed() {
    let folder = Folder::new("boot");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    put(&state, 1);
    journal.flush();
    drop((journal, state));
    let log = files(&folder.0).unwrap().pop().unwrap().2;
    let whole = fs::read(&log).unwrap();
    for at in [0, 8, 20] {
        let mut other = whole.clone();
        other[at] ^= 1;
        fs::write(&log, &other).unwrap();
        let (_, image) = Journal::open(&folder.0, false).unwrap();
        assert_eq!(image, Image::default(), "byte {at}");
    }
    let mut later = whole.clone();
    let body = [200_u8, 1, 2];
    later.extend_from_slice(&3_u32.to_le_bytes());
    later.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    later.extend_from_slice(&body);
    fs::write(&log, &later).unwrap();
    assert_eq!(Journal::open(&folder.0, false).unwrap().1, Image::default());
    fs::write(&log, &whole).unwrap();
    assert_eq!(Journal::open(&folder.0, false).unwrap().1.objects.len(), 1);
    discard(&folder.0).unwrap();
    assert_eq!(Journal::open(&folder.0, false).unwrap().1, Image::default());
}

#[test]
fn a_journal_that_cannot_be_written_is_deleted_and_the_service_goes_on() {
    let folder = Folder::new("full");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    put(&state, 1);
    journal.flush();
    assert!(journal.is_alive());
    // The kernel's own full disk.
    journal.output.lock().log = Some(fs::File::create("/dev/full").unwrap());
    put(&state, 2);
    journal.flush();
    assert!(!journal.is_alive());
    put(&state, 3);
    journal.flush();
    assert_eq!(state.totals().keys, 3);
    assert_eq!(names(&folder.0), []);
    drop((journal, state));
    assert_eq!(Journal::open(&folder.0, false).unwrap().1, Image::default());
}

#[test]
fn a_journal_that_was_given_up_begins_anew_when_there_is_room() {
    let folder = Folder::new("room");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    put(&state, 1);
    journal.flush();
    assert!(!journal.revive(&state, Instant::now()), "it works, so there is nothing to revive");
    journal.output.lock().log = Some(fs::File::create("/dev/full").unwrap());
    put(&state, 2);
    journal.flush();
    assert!(!journal.is_alive());
    // While it is dead the index goes on.
    put(&state, 3);
    let next = journal.output.lock().number + 1;
    let log = folder.0.join(super::name(Kind::Log, next));
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    assert!(!journal.revive(&state, Instant::now()), "there is no room yet");
    assert!(!journal.is_alive());
    assert_eq!(names(&folder.0), []);
    assert!(journal.revive(&state, Instant::now()));
    put(&state, 4);
    journal.flush();
    assert!(journal.is_alive());
    drop((journal, state));
    let (_, _, image) = start(&folder.0);
    assert_eq!(image.segments.len(), 1);
    assert_eq!(image.objects.len(), 4);
    assert!(image.objects.values().all(|object| object.complete));
}

#[test]
fn a_log_that_lost_records_is_deleted_when_a_new_one_is_to_begin() {
    let folder = Folder::new("hole");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    put(&state, 1);
    journal.flush();
    journal.output.lock().log = Some(fs::File::create("/dev/full").unwrap());
    put(&state, 2);
    // The record of the second put is lost with this; later ones must not follow it.
    assert!(journal.compact(&state, Instant::now()).is_err());
    assert!(!journal.is_alive());
    assert_eq!(names(&folder.0), []);
    assert!(journal.compact(&state, Instant::now()).is_err());
    assert_eq!(names(&folder.0), []);
}

#[test]
fn nobody_is_answered_before_a_broken_journal_is_deleted() {
    for _ in 0..20 {
        let folder = Folder::new("answer");
        let (journal, state, _) = start(&folder.0);
        mount(&state);
        put(&state, 1);
        journal.flush();
        journal.output.lock().log = Some(fs::File::create("/dev/full").unwrap());
        put(&state, 2);
        // Each of these could answer a caller once its flush returns.
        let left = std::thread::scope(|scope| {
            let flush = || {
                journal.flush();
                names(&folder.0).len()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(flush)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).max()
        });
        assert_eq!(left, Some(0));
    }
}

#[test]
fn without_room_for_a_snapshot_the_logs_go_on() {
    let folder = Folder::new("full-snapshot");
    let (journal, state, _) = start(&folder.0);
    mount(&state);
    put(&state, 1);
    journal.flush();
    // Where the snapshot is to be written stands something else.
    let number = journal.output.lock().number + 1;
    fs::create_dir(folder.0.join(format!("snapshot.{number}.new"))).unwrap();
    assert!(journal.compact(&state, Instant::now()).is_err());
    assert!(journal.is_alive());
    put(&state, 2);
    journal.flush();
    drop((journal, state));
    fs::remove_dir(folder.0.join(format!("snapshot.{number}.new"))).unwrap();
    assert_eq!(Journal::open(&folder.0, false).unwrap().1.objects.len(), 2);
}

#[test]
fn a_folder_has_one_master() {
    let folder = Folder::new("lock");
    let (journal, _) = Journal::open(&folder.0, true).unwrap();
    assert!(Journal::open(&folder.0, true).is_err());
    drop(journal);
    Journal::open(&folder.0, true).unwrap();
    assert!(Journal::open(Path::new("/dev/null/x"), false).is_err());
}

#[test]
fn synced_journals_survive_the_host() {
    let folder = Folder::new("sync");
    let (journal, _) = Journal::open(&folder.0, true).unwrap();
    let journal = Arc::new(journal);
    let outlet = Arc::new(Written(Arc::clone(&journal)));
    let state = State::new(Settings::default(), Instant::now(), outlet);
    journal.begin(&state, Instant::now()).unwrap();
    mount(&state);
    put(&state, 1);
    state.tick(Instant::now() + Duration::from_millis(200));
    journal.flush();
    drop((journal, state));
    for (_, _, path) in files(&folder.0).unwrap() {
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(Journal::open(&folder.0, true).unwrap().1.objects.len(), 1);
}
