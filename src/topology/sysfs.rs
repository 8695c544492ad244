//! Reading a tree of sysfs, or a captured copy of one: small files, bounded lists, links that stay
//! below the root.
//!
//! Owns nothing. Nothing in here fails: a file that is missing, too long, no text or no number is
//! `None`, because each of these happens on some host that works.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::limits;

/// A tree.
pub(super) struct Sysfs {
    /// Without links, so that what a link leads to can be compared with it.
    root: PathBuf,
}

/// Names of a folder, in order.
pub(super) struct Names {
    /// Those that can be used, in natural order.
    pub names: Vec<String>,
    /// How many were left out: too many, or no printable ASCII.
    pub left_out: usize,
}

impl Sysfs {
    pub(super) fn new(root: &Path) -> Sysfs {
        Sysfs { root: fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf()) }
    }

    /// The file's text without white space around it.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.long_text(path, limits::SYSFS_FILE_BYTES_MAX)
    }

    /// As [`Sysfs::text`], for the few files that are longer than a page.
    pub(super) fn long_text(&self, path: &str, bytes_max: usize) -> Option<String> {
        let text = String::from_utf8(self.bytes(path, bytes_max)?).ok()?;
        Some(text.trim().to_owned())
    }

    /// A decimal number, or a hexadecimal one after `0x`; also negative.
    pub(super) fn number(&self, path: &str) -> Option<i64> {
        let text = self.text(path)?;
        match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// What is in a folder; empty where there is none.
    pub(super) fn list(&self, path: &str, names_max: usize) -> Names {
        let mut found = Names { names: Vec::new(), left_out: 0 };
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return found };
        for entry in entries.take(limits::SYSFS_ENTRIES_MAX) {
            let Ok(entry) = entry else { break };
            match entry.file_name().to_str() {
                Some(name) if is_plain(name) => found.names.push(name.to_owned()),
                _ => found.left_out += 1,
            }
        }
        found.names.sort_by_cached_key(|name| natural_key(name));
        found.left_out += found.names.len().saturating_sub(names_max);
        found.names.truncate(names_max);
        found
    }

    /// The path from the root to what `path` really is, without links; `None` if that is missing or
    /// outside of the tree.
    pub(super) fn real(&self, path: &str) -> Option<String> {
        let real = fs::canonicalize(self.root.join(path)).ok()?;
        let below = real.strip_prefix(&self.root).ok()?;
        below.to_str().map(str::to_owned)
    }

    /// The last part of what `path`, a link, says. The goal need not exist.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        let goal = fs::read_link(self.root.join(path)).ok()?;
        Some(goal.file_name()?.to_str()?.to_owned())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.join(path).symlink_metadata().is_ok()
    }

    fn bytes(&self, path: &str, bytes_max: usize) -> Option<Vec<u8>> {
        // A captured tree may hold anything; without the flag a pipe in it would block.
        let file: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.root.join(path))
            .ok()?;
        let mut bytes = Vec::new();
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() <= bytes_max).then_some(bytes)
    }
}

/// True for names that kernels give to devices, which are safe in messages and in JSON.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= limits::DEVICE_NAME_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\,".contains(&byte))
}

/// Sorts `mlx5_2` before `mlx5_10`.
fn natural_key(name: &str) -> (String, u64, String) {
    let word = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[word.len()..].parse().unwrap_or(u64::MAX);
    (word.to_owned(), number, name.to_owned())
}
