//! Trees of sysfs in a temporary folder, made from the texts in `tests/fixtures/topology/`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A tree that is removed with its last use.
pub(crate) struct SysfsTree(PathBuf);

impl SysfsTree {
    /// A tree with nothing in it.
    pub(crate) fn empty() -> SysfsTree {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mooncake-sysfs-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        SysfsTree(root)
    }

    /// The tree that a text stands for. Lines are `path = content`, where `\n` is a line end,
    /// `path -> target` for links, `path/` for folders, and `#` for comments.
    pub(crate) fn of(text: &str) -> SysfsTree {
        let tree = SysfsTree::empty();
        tree.add(text);
        tree
    }

    /// The tree of a fixture.
    pub(crate) fn fixture(name: &str) -> SysfsTree {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/topology");
        SysfsTree::of(&fs::read_to_string(folder.join(format!("{name}.sysfs"))).unwrap())
    }

    /// More of the same.
    pub(crate) fn add(&self, text: &str) {
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some((path, target)) = line.split_once(" -> ") {
                symlink(target, self.made(path)).unwrap();
            } else if let Some((path, content)) = line.split_once(" = ") {
                fs::write(self.made(path), content.replace("\\n", "\n") + "\n").unwrap();
            } else {
                let folder = line.strip_suffix('/').unwrap_or_else(|| panic!("{line}"));
                fs::create_dir_all(self.0.join(folder)).unwrap();
            }
        }
    }

    /// The path with its folders made.
    pub(crate) fn made(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
}

impl Drop for SysfsTree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
