//! Deletes files of the disk tier whose objects are gone, and finds those that an earlier master
//! left.
//!
//! One thread of the process, `mc-files`, is in [`Files::run`]; any other hands paths in and never
//! waits. Files that nobody handed in (their writer came too late, the queue was full) are found by
//! looking through the folder, at the start and from time to time. The first look also offers every
//! file that says what it holds to an index that has lost its memory. Only files that are called as
//! ours are touched, and only while the lock of the folder is held: another master that serves the
//! same folder holds it otherwise. Files of a later master are left alone.

use std::collections::{HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::limits;
use crate::net::thread;
use crate::pool::file::{generation_of, relative_path, Sealed, SEAL_BYTES};

/// Pause between two looks through the folder.
const LOOK_PAUSE: Duration = Duration::from_secs(600);
/// Pause between two tries to get the lock of the folder, which a leader before may hold yet.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// Time for a file system to say something of a folder when a master begins.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// A file of this life without an object may still be on its way to one when it is younger.
const YOUNG: Duration = Duration::from_secs(600);
const LOCK: &str = ".mooncake_master.lock";

/// Bytes of the file system that a folder is or will be in; nothing where it is not here.
pub(super) fn file_system_bytes(folder: &str) -> Option<u64> {
    let path = PathBuf::from(folder);
    let found = asked(ASK_PATIENCE, move || {
        let found = [Some(path.as_path()), path.parent()].into_iter().flatten();
        found.filter_map(|path| rustix::fs::statvfs(path).ok()).next()
    });
    let found = found.flatten()?;
    Some(found.f_blocks.saturating_mul(found.f_frsize))
}

/// The answer of a file system, if it comes in time. One that hangs keeps a thread, not a master
/// that starts or begins to lead.
fn asked<T: Send + 'static>(
    patience: Duration,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (send, receive) = crossbeam_channel::bounded(1);
    let ask = move || {
        // Nobody may wait any more.
        let _ = send.send(question());
    };
    thread::spawn("mc-files-ask", ask).ok()?;
    receive.recv_timeout(patience).ok()
}

/// The index, as far as it concerns files.
pub trait Owner {
    /// Which puts have files, the first put of this life, and the one that would be next.
    fn live(&self) -> Live;
    /// Takes a file over that is of an earlier life; false where it belongs to nothing.
    fn take(&self, found: Sealed) -> bool;
    /// Everything was offered.
    fn taken(&self);
}

/// See [`Owner::live`].
pub struct Live {
    /// Puts with files, unfinished ones too.
    pub puts: HashSet<u64>,
    /// First put of this life.
    pub first: u64,
    /// Its next one; what is numbered beyond it is of a later master.
    pub next: u64,
}

/// The folder of the tier.
pub struct Files {
    folder: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
    deleted: AtomicU64,
    failed: AtomicU64,
    /// Somebody else's lock is complained about once.
    complained: AtomicBool,
}

#[derive(Default)]
struct Queue {
    paths: VecDeque<String>,
    stop: bool,
}

impl Files {
    /// Nothing without a folder, or where this host does not have it; then files stay.
    pub fn open(folder: &str) -> Option<Arc<Files>> {
        if folder.is_empty() {
            return None;
        }
        let path = PathBuf::from(folder);
        let wanted = path.clone();
        let made = asked(ASK_PATIENCE, move || make_folder(&wanted)).unwrap_or_else(|| {
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not answer"))
        });
        if let Err(error) = made {
            log::warn!("files of the disk tier are not deleted: {folder} is not here: {error}");
            return None;
        }
        Some(Arc::new(Files {
            folder: path,
            queue: Mutex::default(),
            changed: Condvar::new(),
            deleted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            complained: AtomicBool::new(false),
        }))
    }

    /// Hands in a file to be deleted. What does not fit is found later.
    pub fn discard(&self, path: String) {
        let mut queue = self.queue.lock();
        if queue.paths.len() < limits::MASTER_FILES_QUEUED_MAX {
            queue.paths.push_back(path);
            self.changed.notify_one();
        }
    }

    /// Ends [`Files::run`] once everything handed in is deleted.
    pub fn stop(&self) {
        self.queue.lock().stop = true;
        self.changed.notify_all();
    }

    /// Files deleted, and files that could not be.
    pub fn counts(&self) -> (u64, u64) {
        (self.deleted.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Deletes until [`Files::stop`]; the thread's whole work.
    pub fn run(&self, owner: &dyn Owner) {
        let mut lock = None;
        let mut next_look = Instant::now();
        let mut is_first = true;
        loop {
            let path = {
                let mut queue = self.queue.lock();
                while queue.paths.is_empty() && !queue.stop && Instant::now() < next_look {
                    self.changed.wait_until(&mut queue, next_look);
                }
                let path = queue.paths.pop_front();
                if path.is_none() && queue.stop {
                    return;
                }
                path
            };
            if let Some(path) = path {
                self.delete(Path::new(&path));
            }
            if Instant::now() >= next_look {
                lock = lock.or_else(|| self.lock());
                if lock.is_some() {
                    self.look(owner, is_first);
                    is_first = false;
                }
                let pause = if lock.is_some() { LOOK_PAUSE } else { LOCK_PAUSE };
                next_look = Instant::now() + pause;
            }
        }
    }

    fn lock(&self) -> Option<File> {
        let path = self.folder.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        let locked = file.and_then(|file| Ok(rustix::fs::flock(&file, exclusive).map(|()| file)?));
        match &locked {
            Ok(_) => self.complained.store(false, Ordering::Relaxed),
            Err(error) if !self.complained.swap(true, Ordering::Relaxed) => {
                let folder = self.folder.display();
                log::warn!("files in {folder} are left alone: they are not ours alone: {error}");
            }
            Err(_) => {}
        }
        locked.ok()
    }

    fn delete(&self, path: &Path) {
        match std::fs::remove_file(path) {
            Ok(()) => {
                self.deleted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    log::warn!("{} cannot be deleted: {error}", path.display());
                }
            }
        }
    }

    /// Deletes what belongs to no object; the first time, offers it before.
    fn look(&self, owner: &dyn Owner, is_first: bool) {
        let (live, began) = (owner.live(), Instant::now());
        let (mut seen, mut taken) = (0_u64, 0_u64);
        for one in b'a'..=b'p' {
            for two in b'a'..=b'p' {
                let folder = format!("{}/{}", char::from(one), char::from(two));
                let Ok(entries) = std::fs::read_dir(self.folder.join(&folder)) else { continue };
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    let Some(name) = name.to_str() else { continue };
                    let Some(generation) = generation_of(name) else { continue };
                    if generation >= live.next || live.puts.contains(&generation) {
                        continue;
                    }
                    let is_before = generation < live.first;
                    seen += u64::from(is_before);
                    if is_before && is_first && self.offer(owner, &format!("{folder}/{name}")) {
                        taken += 1;
                    } else if is_before || is_older(&entry, YOUNG) {
                        self.delete(&entry.path());
                    }
                }
                // A large folder takes long, and room is waited for.
                while let Some(path) = self.queued() {
                    self.delete(Path::new(&path));
                }
                if self.queue.lock().stop {
                    return;
                }
            }
        }
        if is_first {
            owner.taken();
            if seen > 0 {
                let time = began.elapsed().as_secs_f64();
                log::info!("{taken} of {seen} files of before taken over in {time:.1} s");
            }
        }
    }

    fn queued(&self) -> Option<String> {
        self.queue.lock().paths.pop_front()
    }

    /// Offers one file to the index, if it is whole by its length and says whose it is.
    fn offer(&self, owner: &dyn Owner, relative: &str) -> bool {
        let Some(sealed) = sealed(&self.folder.join(relative)) else { return false };
        // The index finds the file by key and put.
        let is_its_own = relative_path(&sealed.key, sealed.generation) == relative;
        is_its_own && owner.take(sealed)
    }
}

/// What the file says of itself; nothing where it says nothing, or cannot be whole.
fn sealed(path: &Path) -> Option<Sealed> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut seal = [0; SEAL_BYTES];
    let at = metadata.len().checked_sub(SEAL_BYTES as u64)?;
    file.read_exact_at(&mut seal, at).ok()?;
    let key = Sealed::key_bytes(&seal, metadata.len())?;
    let mut tail = vec![0; key + SEAL_BYTES];
    file.read_exact_at(&mut tail, at - key as u64).ok()?;
    Sealed::decode(&tail)
}

fn is_older(entry: &std::fs::DirEntry, age: Duration) -> bool {
    let changed = entry.metadata().and_then(|metadata| metadata.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|passed| passed > age))
}

/// The folder of the cluster in a root that must be there already: a root that is not mounted is
/// not to be filled.
fn make_folder(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::file::relative_path;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let name = format!("mc-master-files-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Root(path)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write(folder: &Path, relative: &str) -> PathBuf {
        let path = folder.join(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"x").unwrap();
        path
    }

    /// An index that knows put 7 and takes what it is offered, but for one key.
    #[derive(Default)]
    struct Index {
        taken: Mutex<Vec<Sealed>>,
        is_over: AtomicBool,
    }

    impl Owner for Index {
        fn live(&self) -> Live {
            Live { puts: HashSet::from([7]), first: 100, next: 200 }
        }

        fn take(&self, found: Sealed) -> bool {
            let is_wanted = found.key != b"unwanted";
            if is_wanted {
                self.taken.lock().push(found);
            }
            is_wanted
        }

        fn taken(&self) {
            self.is_over.store(true, Ordering::Release);
        }
    }

    #[test]
    fn whole_files_of_before_are_offered_and_nothing_else() {
        let root = Root::new("offered");
        let folder = root.0.join("cluster");
        let files = Files::open(folder.to_str().unwrap()).unwrap();
        let sealed =
            |key: &[u8], generation| Sealed { key: key.into(), generation, size: 3, sum: 1 };
        let write = |name: String, sealed: &Sealed, cut: usize| {
            let path = write(&folder, &name);
            let bytes = [b"abc", &sealed.tail()[..]].concat();
            std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
            path
        };
        let good = sealed(b"../a b", 5);
        let kept = write(relative_path(b"../a b", 5), &good, 0);
        let bad = [
            write(relative_path(b"short", 6), &sealed(b"short", 6), 1),
            write(relative_path(b"other", 8), &sealed(b"another", 8), 0),
            write(relative_path(b"renamed", 9), &sealed(b"renamed", 10), 0),
            write(relative_path(b"unwanted", 11), &sealed(b"unwanted", 11), 0),
            write(format!("{}.part-1", relative_path(b"part", 12)), &sealed(b"part", 12), 0),
        ];
        let link = folder.join(relative_path(b"link", 13));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        // A later master's, and a put of this life that is on its way.
        let others = [(b"later", 200), (b"young", 150)]
            .map(|(key, put)| write(relative_path(key, put), &sealed(key, put), 0));
        let (files, index) = (Arc::clone(&files), Arc::new(Index::default()));
        let runner = {
            let (files, index) = (Arc::clone(&files), Arc::clone(&index));
            std::thread::spawn(move || files.run(&*index))
        };
        while !index.is_over.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        files.stop();
        runner.join().unwrap();
        assert_eq!(*index.taken.lock(), [good]);
        assert!(kept.exists() && others.iter().all(|path| path.exists()));
        assert!(bad.iter().all(|path| !path.exists()) && link.symlink_metadata().is_err());
    }

    #[test]
    fn orphans_go_and_everything_else_stays() {
        let root = Root::new("orphans");
        let folder = root.0.join("cluster");
        let files = Files::open(folder.to_str().unwrap()).unwrap();
        let orphan = write(&folder, &relative_path(b"orphan", 5));
        let unfinished = write(&folder, &format!("{}.part-1", relative_path(b"part", 6)));
        let live = write(&folder, &relative_path(b"live", 7));
        let young = write(&folder, &relative_path(b"young", 101));
        let foreign = write(&folder, "a/b/sys_prompt_1");
        let handed = write(&folder, &relative_path(b"handed", 102));
        files.discard(handed.to_str().unwrap().to_owned());
        files.discard("/nowhere/at/all".to_owned());
        let runner = {
            let files = Arc::clone(&files);
            std::thread::spawn(move || files.run(&Index::default()))
        };
        while orphan.exists() || unfinished.exists() || handed.exists() {
            std::thread::yield_now();
        }
        files.stop();
        runner.join().unwrap();
        assert!(live.exists() && young.exists() && foreign.exists());
        assert_eq!(files.counts(), (3, 0));
    }

    #[test]
    fn a_file_system_that_hangs_does_not_keep_a_master_from_beginning() {
        let (release, hold) = crossbeam_channel::bounded::<()>(0);
        let hangs = move || hold.recv().is_err();
        assert_eq!(asked(Duration::from_millis(10), hangs), None);
        drop(release);
        assert_eq!(asked(Duration::from_secs(60), || 5), Some(5));
    }

    #[test]
    fn the_file_system_of_a_folder_that_is_not_made_yet() {
        let root = Root::new("size");
        let whole = file_system_bytes(root.0.to_str().unwrap());
        assert!(whole.is_some_and(|bytes| bytes > 0));
        assert_eq!(file_system_bytes(root.0.join("cluster").to_str().unwrap()), whole);
        assert_eq!(file_system_bytes("/nowhere/at/all"), None);
    }

    #[test]
    fn what_another_master_serves_is_left_alone() {
        let root = Root::new("lock");
        let one = Files::open(root.0.to_str().unwrap()).unwrap();
        let held = one.lock().unwrap();
        assert!(one.lock().is_none());
        drop(held);
        assert!(one.lock().is_some());
        assert!(Files::open("/nowhere/at/all").is_none() && Files::open("").is_none());
    }
}
