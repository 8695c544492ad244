//! Tells whether this process is the one that created a handle.
//!
//! A forked child inherits memory but no threads, so a handle of the parent must not be used in it.
//! Each process has an epoch, a number that no ancestor has. It lives in a page that the kernel
//! zeroes in a child (`MADV_WIPEONFORK`), so the check is one load and no `atfork` handler or
//! system call is needed. Where the kernel lacks that, the process id is compared instead.
//! Everything here is atomics: a child can always use it, whatever its parent's threads held.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The page with the epoch of this process; NULL before the first use or when falling back.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// The largest epoch given out in this process and its ancestors.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Without the page: low half the process id, high half its epoch.
static BY_PID: AtomicU64 = AtomicU64::new(0);
/// Whether the page was refused once; then nobody asks again.
static PAGE_REFUSED: AtomicU32 = AtomicU32::new(0);

/// The epoch of the calling process; never zero.
#[inline]
pub(crate) fn epoch() -> u64 {
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: a page stored in PAGE is mapped for the life of the process, zeroed or holding
        // an epoch, and only accessed as this atomic.
        let cell = unsafe { &*page };
        let epoch = cell.load(Ordering::Relaxed);
        return if epoch != 0 { epoch } else { renew(cell) };
    }
    first_use()
}

/// First look in a child: takes a number no ancestor has.
#[cold]
fn renew(cell: &AtomicU64) -> u64 {
    let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    match cell.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => fresh,
        Err(other_thread) => other_thread,
    }
}

#[cold]
fn first_use() -> u64 {
    if PAGE_REFUSED.load(Ordering::Relaxed) == 0 {
        match wiped_page() {
            Some(page) => {
                let won = PAGE.compare_exchange(
                    ptr::null_mut(),
                    page,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if won.is_err() {
                    unmap(page);
                }
                return epoch();
            }
            None => PAGE_REFUSED.store(1, Ordering::Relaxed),
        }
    }
    epoch_by_pid(std::process::id())
}

/// The epoch that belongs to `pid`, renewed when the stored one belongs to another process.
fn epoch_by_pid(pid: u32) -> u64 {
    let stored = BY_PID.load(Ordering::Relaxed);
    if stored != 0 && stored as u32 == pid {
        return stored >> 32;
    }
    let fresh = (LAST.fetch_add(1, Ordering::Relaxed) + 1) << 32 | u64::from(pid);
    match BY_PID.compare_exchange(stored, fresh, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => fresh >> 32,
        Err(other_thread) => other_thread >> 32,
    }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf takes no pointer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

fn wiped_page() -> Option<*mut AtomicU64> {
    let length = page_bytes();
    // SAFETY: a fresh anonymous mapping; no address is asked for.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping made above.
    if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } != 0 {
        unmap(page.cast());
        return None;
    }
    Some(page.cast())
}

fn unmap(page: *mut AtomicU64) {
    // SAFETY: the page came from `wiped_page` and was never published.
    unsafe { libc::munmap(page.cast(), page_bytes()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_is_stable_and_not_zero() {
        let first = epoch();
        assert_ne!(first, 0);
        assert_eq!(std::thread::spawn(epoch).join().unwrap(), first);
    }

    #[test]
    fn a_zeroed_page_gets_a_new_number() {
        let cell = AtomicU64::new(0);
        let before = epoch();
        let child = renew(&cell);
        assert!(child > before);
        assert_eq!(renew(&cell), child, "the second look keeps the first answer");
    }

    #[test]
    fn another_pid_gets_another_epoch() {
        let here = epoch_by_pid(10);
        assert_eq!(epoch_by_pid(10), here);
        let child = epoch_by_pid(11);
        assert_ne!(child, here);
        assert_eq!(epoch_by_pid(11), child);
    }
}
