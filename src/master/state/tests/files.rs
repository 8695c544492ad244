//! Copies in files: granted, written, left over by eviction, gone with their objects.

use std::sync::Arc;

use super::{client, segment, Bench, Recorder, MIB};
use crate::master::state::{Settings, State};
use crate::pool::file::{relative_path, Sealed};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{Place, Replica, ReplicaKind, ReplicaStatus};
use crate::pool::segment::HeldObject;
use crate::rpc::message::Call;

const FOLDER: &str = "/tier/cluster";

fn settings(life: u64, folder: &str) -> Settings {
    let storage_directory = folder.to_owned();
    Settings { shards: 4, life, storage_directory, ..Settings::default() }
}

fn bench() -> Bench {
    let bench = Bench::new(settings(1, FOLDER));
    bench.mount(1, 8 * MIB).unwrap();
    bench
}

fn end_file(bench: &Bench, key: &[u8]) -> Outcome<()> {
    bench.done(Call::PutEnd(None, key.to_vec(), ReplicaKind::Disk, 0))
}

fn revoke_file(bench: &Bench, key: &[u8]) -> Outcome<()> {
    bench.done(Call::PutRevoke(None, key.to_vec(), ReplicaKind::Disk, 0))
}

/// Kinds of the copies, and the path of the file.
fn kinds(replicas: &[Replica]) -> (Vec<bool>, Option<String>) {
    let mut path = None;
    let is_memory = |replica: &Replica| match &replica.place {
        Place::Memory(_) => true,
        Place::Disk { path: file, .. } => {
            path = Some(file.clone());
            false
        }
    };
    (replicas.iter().map(is_memory).collect(), path)
}

/// Puts an object and its file; the path.
fn put(bench: &Bench, key: &[u8]) -> String {
    let granted = bench.put(key, MIB).unwrap();
    end_file(bench, key).unwrap();
    kinds(&granted.replicas).1.unwrap()
}

/// Lets memory overflow until the key is only in its file.
fn push_out(bench: &mut Bench, key: &[u8]) {
    for number in 0..100_u32 {
        bench.pass(100);
        bench.put_patiently(&number.to_le_bytes(), MIB).unwrap();
        if kinds(&bench.state.peek(key).unwrap()).0 == [false] {
            return;
        }
    }
    panic!("it is never evicted");
}

fn gone(bench: &Bench) -> Vec<String> {
    std::mem::take(&mut *bench.recorder.files_gone.lock())
}

#[test]
fn a_put_is_granted_a_file_and_readers_see_it_once_it_is_written() {
    let bench = bench();
    let granted = bench.put(b"a/b", MIB).unwrap();
    let (order, path) = kinds(&granted.replicas);
    assert_eq!(order, [true, false]);
    assert!(granted.replicas.iter().all(|r| r.status == ReplicaStatus::Processing));
    let expected = format!("{FOLDER}/{}", relative_path(b"a/b", granted.generation));
    assert_eq!(path.unwrap(), expected);
    assert_eq!(kinds(&bench.lookup(b"a/b").unwrap().replicas).0, [true]);
    end_file(&bench, b"a/b").unwrap();
    end_file(&bench, b"a/b").unwrap();
    let replicas = bench.lookup(b"a/b").unwrap().replicas;
    assert_eq!(kinds(&replicas).0, [true, false]);
    assert!(replicas.iter().all(|r| r.status == ReplicaStatus::Complete));
    assert_ne!(replicas[0].id, replicas[1].id);
    assert_eq!(revoke_file(&bench, b"a/b"), Err(Refusal::INVALID_WRITE));
    assert_eq!(end_file(&bench, b"none"), Err(Refusal::OBJECT_NOT_FOUND));
    let totals = bench.state.totals();
    assert_eq!((totals.files, totals.file_bytes), (1, MIB));
    // Without a tier nothing is granted.
    let plain = Bench::new(settings(1, ""));
    plain.mount(1, 8 * MIB).unwrap();
    assert_eq!(kinds(&plain.put(b"k", MIB).unwrap().replicas).0, [true]);
    assert_eq!(end_file(&plain, b"k"), Err(Refusal::OBJECT_NOT_FOUND));
    assert_eq!(revoke_file(&plain, b"k"), Ok(()));
}

#[test]
fn a_file_that_is_not_written_costs_nothing_but_itself() {
    let bench = bench();
    let path = kinds(&bench.put(b"k", MIB).unwrap().replicas).1.unwrap();
    revoke_file(&bench, b"k").unwrap();
    assert_eq!(gone(&bench), [path]);
    assert!(bench.exists(b"k"));
    assert_eq!(end_file(&bench, b"k"), Err(Refusal::OBJECT_NOT_FOUND));
    assert_eq!(bench.state.totals().file_bytes, 0);
    // A put that fails takes its file along.
    bench.start(None, super::item(b"l", MIB), Default::default()).unwrap();
    bench.done(Call::PutRevoke(None, b"l".to_vec(), ReplicaKind::Memory, 0)).unwrap();
    assert_eq!(gone(&bench).len(), 1);
    assert_eq!(end_file(&bench, b"l"), Err(Refusal::OBJECT_NOT_FOUND));
}

#[test]
fn a_late_end_of_an_earlier_put_is_not_taken_for_the_present_one() {
    let bench = bench();
    let end = |owner| bench.done(Call::PutEnd(owner, b"k".to_vec(), ReplicaKind::Disk, 0));
    let item = super::item(b"k", MIB);
    bench.start(Some(client(1)), item.clone(), Default::default()).unwrap();
    assert_eq!(end(Some(client(1))), Err(Refusal::REPLICA_IS_NOT_READY));
    assert_eq!(end(Some(client(2))), Err(Refusal::ILLEGAL_CLIENT));
    bench.end(Some(client(1)), b"k").unwrap();
    assert_eq!(end(Some(client(2))), Err(Refusal::ILLEGAL_CLIENT));
    end(Some(client(1))).unwrap();
    assert_eq!(kinds(&bench.lookup(b"k").unwrap().replicas).0, [true, false]);
    // Upstream's clients end them in any order.
    bench.start(None, super::item(b"l", MIB), Default::default()).unwrap();
    end_file(&bench, b"l").unwrap();
    bench.end(None, b"l").unwrap();
    assert_eq!(kinds(&bench.lookup(b"l").unwrap().replicas).0, [true, false]);
}

#[test]
fn an_evicted_object_goes_on_in_its_file_until_it_is_removed() {
    let mut bench = bench();
    let path = put(&bench, b"k");
    push_out(&mut bench, b"k");
    assert!(bench.exists(b"k"));
    let located = bench.lookup(b"k").unwrap();
    assert_eq!(kinds(&located.replicas), (vec![false], Some(path.clone())));
    assert_eq!(bench.remove(b"k"), Err(Refusal::OBJECT_HAS_LEASE));
    let again = bench.start(None, super::item(b"k", MIB), Default::default());
    assert_eq!(again, Err(Refusal::OBJECT_ALREADY_EXISTS));
    gone(&bench);
    bench.pass(6000);
    bench.remove(b"k").unwrap();
    assert_eq!(gone(&bench), [path.as_str()]);
    assert!(!bench.exists(b"k"));
    // The next put of the key has another file.
    assert_ne!(put(&bench, b"k"), path);
}

#[test]
fn an_object_outlives_its_provider_in_its_file() {
    let bench = bench();
    let path = put(&bench, b"k");
    bench.put(b"unwritten", MIB).unwrap();
    bench.done(Call::Unmount(segment(1, 0).id, client(1))).unwrap();
    assert_eq!(kinds(&bench.lookup(b"k").unwrap().replicas), (vec![false], Some(path)));
    assert!(!bench.exists(b"unwritten"));
    assert_eq!(gone(&bench).len(), 1);
    assert_eq!(bench.state.totals().files, 1);
}

#[test]
fn the_tier_holds_no_more_than_it_may() {
    let settings = Settings { file_capacity: 4 * MIB, ..settings(1, FOLDER) };
    let mut bench = Bench::new(settings);
    bench.mount(1, 64 * MIB).unwrap();
    for number in 0..10_u8 {
        let granted = bench.put(&[number], MIB).unwrap();
        if kinds(&granted.replicas).1.is_some() {
            end_file(&bench, &[number]).unwrap();
        }
        assert!(bench.state.totals().file_bytes <= 4 * MIB);
        bench.pass(10);
        bench.tick();
    }
    // The oldest files went; their objects stay in memory.
    let files = bench.state.totals().files;
    assert!((1..=4).contains(&files), "{files}");
    assert!((0..10_u8).all(|number| bench.exists(&[number])));
    assert_eq!(kinds(&bench.lookup(&[0]).unwrap().replicas).0, [true]);
    assert_eq!(bench.state.puts_with_files().len() as u64, files);
}

#[test]
fn without_eviction_a_full_tier_takes_no_more() {
    let settings = Settings { file_capacity: 4 * MIB, evict_files: false, ..settings(1, FOLDER) };
    let mut bench = Bench::new(settings);
    bench.mount(1, 64 * MIB).unwrap();
    for number in 0..10_u8 {
        let granted = bench.put(&[number], MIB).unwrap();
        let file = kinds(&granted.replicas).1;
        assert_eq!(file.is_some(), number < 4, "{number}");
        if file.is_some() {
            end_file(&bench, &[number]).unwrap();
        }
        bench.pass(6000);
        bench.ping(client(1));
        bench.tick();
    }
    let totals = bench.state.totals();
    assert_eq!((totals.files, totals.file_bytes), (4, 4 * MIB));
    assert_eq!((totals.refused_files, totals.evicted_files), (6, 0));
    // A file that goes with its object gives room for another one.
    bench.remove(&[0]).unwrap();
    assert!(kinds(&bench.put(b"k", MIB).unwrap().replicas).1.is_some());
}

/// A file as an earlier life has left it.
fn left(key: &[u8], generation: u64) -> Sealed {
    Sealed { key: key.to_vec(), generation, size: MIB, sum: 1 }
}

/// A life that remembers nothing and is about to be offered files.
fn forgetful(settings: Settings) -> (Bench, u64) {
    let bench = Bench::new(settings);
    bench.state.expect_files();
    let first = bench.state.life();
    (bench, first)
}

#[test]
fn files_of_an_earlier_life_are_taken_over() {
    let (bench, first) = forgetful(Settings { file_capacity: 4 * MIB, ..settings(9, FOLDER) });
    assert!(bench.state.take_file(bench.now, left(b"k", first - 9)));
    assert!(bench.state.take_file(bench.now, left(b"k", first - 9)), "offered twice");
    let path = format!("{FOLDER}/{}", relative_path(b"k", first - 9));
    let located = bench.lookup(b"k").unwrap();
    assert_eq!(
        (kinds(&located.replicas), located.generation),
        ((vec![false], Some(path)), first - 9)
    );
    let again = bench.start(None, super::item(b"k", MIB), Default::default());
    assert_eq!(again, Err(Refusal::OBJECT_ALREADY_EXISTS));
    // Of two puts of a key the later one is right, whichever comes first.
    assert!(!bench.state.take_file(bench.now, left(b"k", first - 10)));
    assert!(bench.state.take_file(bench.now, left(b"k", first - 8)));
    assert_eq!(bench.lookup(b"k").unwrap().generation, first - 8);
    assert_eq!(gone(&bench).len(), 1);
    // Nothing, too much, and what this life or a later one numbers itself.
    for wrong in [
        Sealed { size: 0, ..left(b"l", 5) },
        Sealed { size: u64::MAX, ..left(b"l", 5) },
        Sealed { key: Vec::new(), ..left(b"l", 5) },
        left(b"l", 0),
        left(b"l", first),
    ] {
        assert!(!bench.state.take_file(bench.now, wrong));
    }
    for number in 0..3_u8 {
        assert!(bench.state.take_file(bench.now, left(&[number], 5 + u64::from(number))));
    }
    assert!(!bench.state.take_file(bench.now, left(b"too much", 5)));
    let totals = bench.state.totals();
    assert_eq!((totals.files, totals.file_bytes, totals.revived_files), (4, 4 * MIB, 5));
    // The journal has them from now on.
    let image = bench.recorder.image.lock().clone();
    let next =
        State::restore(settings(10, FOLDER), bench.now, Arc::new(Recorder::default()), image);
    assert_eq!(next.unwrap().totals().files, 4);
    bench.state.expect_no_files();
    assert!(!bench.state.take_file(bench.now, left(b"late", 5)));
}

#[test]
fn what_happened_in_this_life_is_truer_than_a_file() {
    let (mut bench, first) = forgetful(settings(9, FOLDER));
    bench.mount(1, 8 * MIB).unwrap();
    bench.put(b"put", MIB).unwrap();
    bench.put(b"removed", MIB).unwrap();
    bench.pass(6000);
    bench.remove(b"removed").unwrap();
    assert_eq!(bench.remove(b"not known yet"), Err(Refusal::OBJECT_NOT_FOUND));
    for key in [&b"put"[..], b"removed", b"not known yet"] {
        assert!(!bench.state.take_file(bench.now, left(key, first - 1)), "{}", key.escape_ascii());
    }
    assert!(!bench.exists(b"removed") && !bench.exists(b"not known yet"));
    assert_ne!(bench.lookup(b"put").unwrap().generation, first - 1);
    bench.call(Call::RemoveAll { force: true });
    assert!(!bench.state.take_file(bench.now, left(b"other", first - 1)));
    // A life that remembers knows all files that belong to something.
    let image = bench.recorder.image.lock().clone();
    let new = State::restore(settings(10, FOLDER), bench.now, Arc::new(Recorder::default()), image);
    let new = new.unwrap();
    new.expect_files();
    assert!(!new.take_file(bench.now, left(b"other", first - 1)));
}

#[test]
fn a_file_and_what_its_holder_reports_are_one_object() {
    for file_first in [true, false] {
        let (bench, first) = forgetful(settings(9, FOLDER));
        let segments = vec![segment(1, 8 * MIB)];
        let held = HeldObject {
            key: b"k".to_vec(),
            generation: first - 5,
            segment: segments[0].id,
            address: segments[0].base,
            slices: vec![MIB - 7, 7],
            soft_pin: false,
            group: b"page".to_vec(),
        };
        let report = || {
            bench.attend(client(1), 0);
            bench.done(Call::Remount(segments.clone(), client(1))).unwrap();
            let objects = vec![held.clone()];
            bench.done(Call::Report { client: client(1), objects, last: true }).unwrap();
        };
        let take = || assert!(bench.state.take_file(bench.now, left(b"k", first - 5)));
        match file_first {
            true => {
                take();
                report();
            }
            false => {
                report();
                take();
            }
        }
        // A file does not say its group.
        assert_eq!(bench.recorder.image.lock().objects[&held.generation].group, held.group);
        let located = bench.lookup(b"k").unwrap();
        assert_eq!(kinds(&located.replicas).0, [true, false], "file first: {file_first}");
        let Place::Memory(ranges) = &located.replicas[0].place else { panic!() };
        assert_eq!(ranges.iter().map(|range| range.size).collect::<Vec<_>>(), held.slices);
        // Its memory goes, its file stays.
        bench.done(Call::Unmount(segments[0].id, client(1))).unwrap();
        assert_eq!(kinds(&bench.lookup(b"k").unwrap().replicas).0, [false]);
    }
}

#[test]
fn the_word_about_a_file_may_come_before_the_memory_is_mounted_again() {
    let old = bench();
    let owner = Some(client(7));
    let granted = old.start(owner, super::item(b"k", MIB), Default::default()).unwrap();
    old.end(owner, b"k").unwrap();
    for is_end in [true, false] {
        let recorder = Arc::new(Recorder::default());
        let image = old.recorder.image.lock().clone();
        let state = State::restore(settings(2, FOLDER), old.now, recorder.clone(), image).unwrap();
        let mut new = Bench { state, recorder, now: old.now };
        assert!(!new.exists(b"k"));
        let say = |put| {
            let (key, kind) = (b"k".to_vec(), ReplicaKind::Disk);
            match is_end {
                true => new.done(Call::PutEnd(owner, key, kind, put)),
                false => new.done(Call::PutRevoke(owner, key, kind, put)),
            }
        };
        assert_eq!(say(0), Err(Refusal::OBJECT_NOT_FOUND), "it does not say which put");
        assert_eq!(say(granted.generation + 1), Err(Refusal::OBJECT_NOT_FOUND));
        assert_eq!((say(granted.generation), say(granted.generation)), (Ok(()), Ok(())));
        assert_eq!(new.exists(b"k"), is_end);
        // Its memory does not come back.
        new.pass(10_100);
        new.tick();
        assert_eq!(new.exists(b"k"), is_end);
        assert_eq!(new.state.totals().files, u64::from(is_end));
    }
}

#[test]
fn the_word_about_a_file_is_that_of_its_writer() {
    let mut bench = bench();
    let (owner, other) = (Some(client(7)), Some(client(8)));
    let granted = bench.start(owner, super::item(b"k", MIB), Default::default()).unwrap();
    bench.end(owner, b"k").unwrap();
    let end = |bench: &Bench, who, put| {
        bench.done(Call::PutEnd(who, b"k".to_vec(), ReplicaKind::Disk, put))
    };
    let revoke = |bench: &Bench, who, put| {
        bench.done(Call::PutRevoke(who, b"k".to_vec(), ReplicaKind::Disk, put))
    };
    for who in [other, None] {
        assert_eq!(end(&bench, who, granted.generation), Err(Refusal::ILLEGAL_CLIENT));
        assert_eq!(revoke(&bench, who, granted.generation), Err(Refusal::ILLEGAL_CLIENT));
    }
    assert_eq!(end(&bench, owner, granted.generation), Ok(()));
    assert_eq!(revoke(&bench, other, granted.generation), Err(Refusal::ILLEGAL_CLIENT));
    assert_eq!(bench.state.totals().files, 1);
    // It was silent for so long that it is not known any more, and says it again.
    bench.pass(700_000);
    bench.tick();
    assert_eq!(end(&bench, owner, granted.generation), Ok(()));
    assert_eq!(bench.state.totals().files, 1);
}

#[test]
fn the_journal_knows_the_files_of_its_folder() {
    let mut old = bench();
    let path = put(&old, b"evicted");
    push_out(&mut old, b"evicted");
    old.put(b"unwritten", MIB).unwrap();
    let restored = |folder: &str| {
        let recorder = Arc::new(Recorder::default());
        let image = old.recorder.image.lock().clone();
        let state = State::restore(settings(2, folder), old.now, recorder.clone(), image).unwrap();
        Bench { state, recorder, now: old.now }
    };
    // Its file is enough: nobody has mounted anything yet.
    let new = restored(FOLDER);
    assert_eq!(kinds(&new.lookup(b"evicted").unwrap().replicas), (vec![false], Some(path)));
    assert!(!new.exists(b"unwritten"));
    assert_eq!(new.state.totals().files, old.state.totals().files);
    // What a snapshot says is the same.
    let mut image = crate::master::journal::image::Image::default();
    new.state.dump(new.now, |record| image.apply(record.clone()));
    assert_eq!(image.objects, new.recorder.image.lock().objects);
    for other in ["", "/elsewhere/cluster"] {
        let new = restored(other);
        assert!(!new.exists(b"evicted"));
        assert_eq!(new.state.totals().files, 0);
    }
}
