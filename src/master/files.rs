//! Deletes files of the disk tier whose objects are gone.
//!
//! One thread of the process, `mc-files`, is in [`Files::run`]; any other hands paths in and never
//! waits. Files that nobody handed in (their writer came too late, the master was restarted without
//! a journal, the queue was full) are found by looking through the folder, at the start and from
//! time to time. Only files that are called as ours are touched, and only while the lock of the
//! folder is held: another master that serves the same folder holds it otherwise.

use std::collections::{HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::limits;
use crate::pool::file::generation_of;

/// Pause between two looks through the folder.
const LOOK_PAUSE: Duration = Duration::from_secs(600);
/// A file of this life without an object may still be on its way to one when it is younger.
const YOUNG: Duration = Duration::from_secs(600);
const LOCK: &str = ".mooncake_master.lock";

/// The folder of the tier.
pub struct Files {
    folder: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
    deleted: AtomicU64,
    failed: AtomicU64,
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
        if let Err(error) = make_folder(&path) {
            log::warn!("files of the disk tier are not deleted: {folder} is not here: {error}");
            return None;
        }
        Some(Arc::new(Files {
            folder: path,
            queue: Mutex::default(),
            changed: Condvar::new(),
            deleted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
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

    /// Deletes until [`Files::stop`]; the thread's whole work. `live` tells which puts have files,
    /// and the first of this life.
    pub fn run(&self, live: impl Fn() -> (HashSet<u64>, u64)) {
        let mut lock = None;
        let mut next_look = Instant::now();
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
                next_look = Instant::now() + LOOK_PAUSE;
                lock = lock.or_else(|| self.lock());
                if lock.is_some() {
                    let (live, first) = live();
                    self.look(&live, first);
                }
            }
        }
    }

    fn lock(&self) -> Option<File> {
        let path = self.folder.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        let locked = file.and_then(|file| Ok(rustix::fs::flock(&file, exclusive).map(|()| file)?));
        if let Err(error) = &locked {
            log::warn!("orphans in {} stay: it is not ours alone: {error}", self.folder.display());
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

    /// Deletes what belongs to no object.
    fn look(&self, live: &HashSet<u64>, first_generation: u64) {
        for one in b'a'..=b'p' {
            for two in b'a'..=b'p' {
                let folder = self.folder.join(char::from(one).to_string());
                let Ok(entries) = std::fs::read_dir(folder.join(char::from(two).to_string()))
                else {
                    continue;
                };
                for entry in entries.flatten() {
                    let Some(generation) = entry.file_name().to_str().and_then(generation_of)
                    else {
                        continue;
                    };
                    let is_old = generation < first_generation || is_older(&entry, YOUNG);
                    if is_old && !live.contains(&generation) {
                        self.delete(&entry.path());
                    }
                }
                if self.queue.lock().stop {
                    return;
                }
            }
        }
    }
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
            std::thread::spawn(move || files.run(|| (HashSet::from([7]), 100)))
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
