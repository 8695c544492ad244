//! Memory for programs that have none of their own to register.
//!
//! Owns: what was allocated and is not freed. Threads: any. Must not: know who registered it.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;

use parking_lot::{Mutex, MutexGuard};

use super::boundary::{self, bad_argument, failed, guard_ok, guard_value};
use super::status::mc_status_t;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::{Mapping, Pages};

type Allocated = BTreeMap<usize, Mapping>;

/// By first address.
static ALLOCATED: Mutex<Allocated> = Mutex::new(BTreeMap::new());

fn allocated() -> Result<MutexGuard<'static, Allocated>> {
    // A forked child has the lock of a thread that it does not have.
    ALLOCATED.try_lock_for(limits::MEMORY_TABLE_TIMEOUT).ok_or_else(|| {
        Error::new(ErrorKind::Forked, "the table of memory was in use when this process began")
    })
}

fn allocate(length: usize) -> Result<usize> {
    if length == 0 {
        return Err(bad_argument("length_bytes", "is zero"));
    }
    let mapping = Mapping::new(length, Pages::Shared)?;
    let mut allocated = allocated()?;
    if allocated.len() >= limits::MEMORY_ALLOCATIONS_MAX {
        let text = "too many pieces of memory are allocated";
        return Err(Error::new(ErrorKind::LimitReached, text).with("pieces", allocated.len()));
    }
    let address = mapping.address();
    allocated.insert(address, mapping);
    Ok(address)
}

/// Allocates memory to register: zeroed, aligned to a page and from 16 MiB on to 16 MiB, with the
/// wish for huge pages. Peers of this library on the same host and of the same user can map it
/// while it is registered with all access, which spares a copy by the kernel.
///
/// @param length_bytes  how much; not 0. Pages cost nothing before they are written.
/// @return its first byte, to be freed with mc_memory_free; NULL on failure, and
///         mc_last_error_message has the reason.
///
/// Threads: any. Blocks: no. A forked child shares what its parent allocated. Since: 0.3.
#[no_mangle]
pub extern "C" fn mc_memory_allocate(length_bytes: usize) -> *mut c_void {
    guard_value(ptr::null_mut(), || match allocate(length_bytes) {
        Ok(address) => ptr::with_exposed_provenance_mut(address),
        Err(error) => {
            failed(&error);
            ptr::null_mut()
        }
    })
}

/// Frees memory that mc_memory_allocate gave. It must not be registered or in use any more.
///
/// @param memory  its first byte; NULL does nothing.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT for anything else, and for
/// what was freed before; MC_ERR_FORKED. Since: 0.3.
#[no_mangle]
pub extern "C" fn mc_memory_free(memory: *mut c_void) -> mc_status_t {
    guard_ok(|| {
        if memory.is_null() {
            return Ok(());
        }
        let found = allocated()?.remove(&boundary::address(memory));
        // Unmapped without the lock.
        found.map(drop).ok_or_else(|| bad_argument("memory", "was not allocated here"))
    })
}
