//! Files without a client: whole or refused.

use std::path::PathBuf;

use super::*;
use crate::pool::file::relative_path;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("mc-files-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn tier(&self) -> FileTier {
        let tier = FileTier::default();
        assert!(tier.begin(format!("{}/cluster", self.0.display()), patiently()));
        tier
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn patiently() -> Deadline {
    Deadline::within(Duration::from_secs(60))
}

fn job(tier: &FileTier, key: &[u8], value: &[u8]) -> Job {
    let path = format!("{}/{}", tier.folder.get().unwrap(), relative_path(key, 7));
    Job { key: key.to_vec(), path, generation: 7, value: value.to_vec() }
}

fn read(tier: &FileTier, job: &Job, size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let (one, two) = bytes.split_at_mut(size / 3);
    let target = [Range::of_mut(one), Range::of_mut(two)];
    tier.read(&job.key, &job.path, size as u64, &target, patiently())?;
    Ok(bytes)
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().map(|error| error.kind()).expect("an error")
}

#[test]
fn what_is_written_is_read() {
    let folder = Folder::new("whole");
    let tier = folder.tier();
    for size in [1, 31, 4096, CHUNK_BYTES + 5, 3 * CHUNK_BYTES] {
        let value: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let job = job(&tier, format!("../k/{size}").as_bytes(), &value);
        tier.write(&job, 0).unwrap();
        assert!(read(&tier, &job, size).unwrap() == value);
        // Nothing else is left in the folder.
        let inside = std::fs::read_dir(Path::new(&job.path).parent().unwrap()).unwrap();
        assert!(inside.flatten().all(|e| !e.file_name().to_str().unwrap().contains(UNFINISHED)));
    }
}

#[test]
fn other_bytes_are_seen() {
    let folder = Folder::new("broken");
    let tier = folder.tier();
    let job = job(&tier, b"k", b"hello world");
    tier.write(&job, 0).unwrap();
    let whole = std::fs::read(&job.path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        std::fs::write(&job.path, &changed).unwrap();
        assert_eq!(kind(read(&tier, &job, 11)), ErrorKind::ChecksumMismatch, "byte {at}");
    }
    for end in (0..whole.len()).filter(|end| *end != 11) {
        std::fs::write(&job.path, &whole[..end]).unwrap();
        assert_eq!(kind(read(&tier, &job, 11)), ErrorKind::ChecksumMismatch, "{end} bytes");
    }
    // Upstream's writers put no seal.
    std::fs::write(&job.path, &whole[..11]).unwrap();
    assert_eq!(read(&tier, &job, 11).unwrap(), b"hello world");
    // The first files had a seal without the key.
    let sum = crc32fast::hash(b"hello world");
    let old = [&whole[..11], &crate::pool::file::old_seal(b"k", 11, sum)].concat();
    std::fs::write(&job.path, &old).unwrap();
    assert_eq!(read(&tier, &job, 11).unwrap(), b"hello world");
    // The file of another put of the same key.
    let path = format!("{}/{}", tier.folder.get().unwrap(), relative_path(b"k", 8));
    let later = Job { key: b"k".to_vec(), path, generation: 8, value: Vec::new() };
    std::fs::write(&later.path, &whole).unwrap();
    assert_eq!(kind(read(&tier, &later, 11)), ErrorKind::ChecksumMismatch);
    // The file of another key.
    std::fs::write(&job.path, &whole).unwrap();
    let other = Job { key: b"l".to_vec(), ..job };
    assert_eq!(kind(read(&tier, &other, 11)), ErrorKind::ChecksumMismatch);
}

#[test]
fn only_files_below_the_folder_are_touched() {
    let folder = Folder::new("outside");
    let tier = folder.tier();
    let good = job(&tier, b"k", b"x");
    for path in ["/etc/passwd", &format!("{}/../x", tier.folder.get().unwrap())] {
        let bad = Job { path: path.to_owned(), ..job(&tier, b"k", b"x") };
        assert!(tier.write(&bad, 0).is_err());
        assert_eq!(kind(read(&tier, &bad, 1)), ErrorKind::Protocol);
    }
    assert_eq!(kind(read(&tier, &good, 1)), ErrorKind::ObjectNotFound);
    // A folder, and a link, in place of the file.
    std::fs::create_dir_all(&good.path).unwrap();
    assert_eq!(kind(read(&tier, &good, 1)), ErrorKind::ObjectNotFound);
    assert!(tier.write(&good, 0).is_err());
    std::fs::remove_dir(&good.path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &good.path).unwrap();
    assert_eq!(kind(read(&tier, &good, 1)), ErrorKind::Resource);
    // A root that is not there is not made.
    let absent = FileTier::default();
    assert!(!absent.begin("/nowhere/at/all/cluster".to_owned(), patiently()));
    assert_eq!(kind(read(&absent, &good, 1)), ErrorKind::Unsupported);
}

#[test]
fn what_waits_is_bounded_and_an_older_value_gives_way() {
    let folder = Folder::new("queue");
    let tier = folder.tier();
    let small = |generation| Job { generation, ..job(&tier, b"k", b"x") };
    assert!(tier.submit(small(1)).is_err(), "nobody writes");
    tier.queue.lock().writers = 1;
    assert!(tier.submit(small(1)).is_ok() && tier.submit(small(2)).is_ok());
    assert!(tier.submit(small(0)).is_ok());
    assert_eq!(tier.queue.lock().jobs.len(), 2);
    assert_eq!(tier.queue.lock().bytes, 2);
    assert!(tier.has_room(limits::STORE_FILE_QUEUE_BYTES_MAX - 2));
    assert!(!tier.has_room(limits::STORE_FILE_QUEUE_BYTES_MAX - 1));
    // Two of one key, of which the later one counts.
    let Some(Work::Write(first)) = tier.next() else { panic!("no job") };
    assert!(!tier.is_outdated(&small(2)) && tier.is_outdated(&small(1)));
    tier.done(&first);
    tier.begin_put(b"k", 9);
    tier.begin_put(b"other", 9);
    assert!(tier.is_outdated(&small(2)) && !tier.is_outdated(&small(9)));
    assert_eq!(tier.queue.lock().keys.len(), 1);
    // A writer that hangs is not waited for.
    tier.finish(Duration::from_millis(1));
    assert!(tier.queue.lock().jobs.is_empty());
    assert!(tier.submit(small(1)).is_err());
    assert!(tier.next().is_none());
    tier.finish(Duration::from_secs(60));
}

#[test]
fn a_file_system_that_hangs_keeps_nobody() {
    let folder = Folder::new("hangs");
    let tier = folder.tier();
    let good = job(&tier, b"good", b"hello world");
    tier.write(&good, 0).unwrap();
    // A pipe without a writer in place of the file: whoever opens it stands still.
    let pipe = folder.0.join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    let (kind_of, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, name.as_c_str(), kind_of, mode, 0).unwrap();
    let mut bytes = [7_u8; 11];
    let target = [Range::of_mut(&mut bytes)];
    for _ in 0..3 {
        let wanted = Wanted { key: b"good".to_vec(), path: good.path.clone(), size: 11 };
        let place = pipe.clone();
        let deadline = Deadline::within(Duration::from_millis(30));
        let hung = read::read(&tier.readers, wanted, &target, deadline, move |_| {
            std::fs::File::open(&place)
                .map_err(|error| Error::io(ErrorKind::Resource, "no pipe", error))
        });
        assert_eq!(kind(hung), ErrorKind::Timeout);
    }
    // Others are served meanwhile.
    assert_eq!(self::read(&tier, &good, 11).unwrap(), b"hello world");
    // A client is closed although they hang.
    tier.finish(Duration::from_millis(30));
    // They come back, find that nobody waits, and have touched nothing.
    let writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    drop(writer);
    tier.readers.finish(Duration::from_secs(60));
    assert_eq!(bytes, [7; 11]);
}

#[test]
fn a_file_system_that_is_full_is_told_about_once_a_second() {
    let (tier, now) = (FileTier::default(), Instant::now());
    assert_eq!(tier.complaint(now), Some(1));
    assert!((0..50).all(|ms| tier.complaint(now + Duration::from_millis(ms)).is_none()));
    assert_eq!(tier.complaint(now + COMPLAINT_PAUSE), Some(51));
    assert_eq!(tier.complaint(now + COMPLAINT_PAUSE), None);
}

#[test]
fn writers_that_are_kept_are_given_up_and_so_is_what_waits_for_them() {
    let folder = Folder::new("kept");
    let tier = folder.tier();
    let (moment, long) = (Duration::from_millis(1), limits::STORE_FILE_WRITE_STUCK);
    let numbered = |generation| Job { generation, ..job(&tier, b"k", b"x") };
    let puts = |given: GivenUp| {
        let (words, writers, waited) = given.parts();
        (words.iter().map(|word| word.put.generation).collect::<Vec<_>>(), writers, waited)
    };
    tier.queue.lock().writers = 2;
    let seats = [tier.take_seat(), tier.take_seat()];
    for generation in 1..=4 {
        assert!(tier.submit(numbered(generation)).is_ok());
    }
    for (seat, generation) in seats.into_iter().zip([1, 2]) {
        let Some(Work::Write(job)) = tier.next() else { panic!("no job") };
        assert_eq!(job.generation, generation);
        tier.sit(seat, job.put());
    }
    let began = Instant::now();
    tier.step(seats[0]);
    assert_eq!(puts(tier.give_up(began + long - moment)), (vec![], 0, 0));
    // The other one goes on, so the queue is worked off.
    let later = Instant::now() + long;
    assert_eq!(puts(tier.give_up(later)), (vec![1], 1, 0));
    assert_eq!(puts(tier.give_up(later)), (vec![], 0, 0), "it is told once");
    tier.step(seats[1]);
    let later = Instant::now() + long;
    assert_eq!(puts(tier.give_up(later)), (vec![2, 3, 4], 1, 2));
    let is_stuck = || tier.queue.lock().is_stuck(later);
    assert!(is_stuck());
    assert!(tier.queue.lock().jobs.is_empty());
    // They come back, and what they wrote is not wanted.
    assert!(tier.rise(seats[0]) && tier.rise(seats[1]) && !tier.rise(seats[1]));
    assert!(!is_stuck());
    for generation in [1, 2] {
        tier.done(&numbered(generation));
    }
    assert_eq!(tier.queue.lock().bytes, 0);
    assert!(tier.queue.lock().keys.is_empty());
    // At the end nothing is waited for, and all is told.
    assert!(tier.submit(numbered(5)).is_ok() && tier.submit(numbered(6)).is_ok());
    let Some(Work::Write(job)) = tier.next() else { panic!("no job") };
    tier.sit(seats[0], job.put());
    tier.step(seats[0]);
    assert_eq!(puts(tier.finish(moment)), (vec![5, 6], 1, 1));
    assert!(tier.rise(seats[0]));
}

#[test]
fn a_hung_write_keeps_its_thread_only() {
    let folder = Folder::new("hung-write");
    let tier = Arc::new(folder.tier());
    let hung = job(&tier, b"k", &[7; 3]);
    let parent = Path::new(&hung.path).parent().unwrap().to_owned();
    std::fs::create_dir_all(&parent).unwrap();
    // A pipe that nobody reads in place of the file: whoever opens it stands still.
    let unfinished = format!("{}{UNFINISHED}-{}-0", hung.path, std::process::id());
    let name = std::ffi::CString::new(unfinished.as_str()).unwrap();
    let (kind_of, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, name.as_c_str(), kind_of, mode, 0).unwrap();
    tier.queue.lock().writers = 1;
    let seat = tier.take_seat();
    let writer = {
        let (tier, put) = (Arc::clone(&tier), hung.put());
        std::thread::spawn(move || {
            tier.sit(seat, put);
            let _ = tier.write(&hung, seat);
            tier.rise(seat)
        })
    };
    let is_kept = || tier.queue.lock().is_stuck(Instant::now() + limits::STORE_FILE_WRITE_STUCK);
    while !is_kept() {
        std::thread::yield_now();
    }
    let (words, writers, _) = tier.finish(Duration::from_millis(1)).parts();
    assert_eq!((words.len(), writers), (1, 1));
    // Somebody reads: it goes on, and knows that it was given up.
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut std::fs::File::open(&unfinished).unwrap(), &mut bytes).unwrap();
    assert!(writer.join().unwrap());
    assert_eq!(&bytes[..3], [7; 3]);
}
