//! Notifications: pairs of texts between engines.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use super::entry::{self, UpstreamEngine};
use super::numbers::{self, CODE_INVALID_ARGUMENT, CODE_METADATA};
use super::types::{notify_msg_t, transfer_engine_t};
use crate::capi::boundary::{self, bad_argument, Out};
use crate::engine::{Notification, SegmentId};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Longest time one notification may take.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a notification to the engine that owns a segment and waits until it has it.
///
/// @param engine      the engine.
/// @param target_id   an open segment.
/// @param notify_msg  two texts, copied; what is not UTF-8 in them arrives as U+FFFD.
/// @return 0; -200 for an unknown segment; another negative number when the peer did not take it.
#[no_mangle]
pub unsafe extern "C" fn genNotifyInEngine(
    engine: transfer_engine_t,
    target_id: u64,
    notify_msg: notify_msg_t,
) -> c_int {
    let refused = |kind| numbers::of(kind).code;
    entry::on(engine, refused, |UpstreamEngine { engine, .. }| {
        // SAFETY: the caller's promise about the texts.
        let notification = unsafe { notification(&notify_msg) }?;
        match engine.notify(SegmentId(target_id), &notification, SEND_TIMEOUT) {
            Ok(()) => Ok(0),
            // Upstream's number for a segment whose description it does not have.
            Err(error) if error.kind() == ErrorKind::InvalidHandle => {
                boundary::failed(&error);
                Ok(CODE_METADATA)
            }
            Err(error) => Err(error),
        }
    })
}

/// Takes the notifications that arrived since the last call, oldest first.
///
/// @param engine  the engine.
/// @param size    receives how many.
/// @return an array of *size entries, owned by the caller until freeNotifsMsgBuf; NULL if there is
///         none or on failure.
#[no_mangle]
pub unsafe extern "C" fn getNotifsFromEngine(
    engine: transfer_engine_t,
    size: *mut c_int,
) -> *mut notify_msg_t {
    let refused = |_| std::ptr::null_mut();
    entry::guarded(refused, || {
        let size = Out::required(size, "size")?;
        size.set(0);
        let refused = |_| None;
        let taken = entry::on(engine, refused, |UpstreamEngine { engine, .. }| {
            Ok(Some(engine.take_notifications()))
        });
        let Some(taken) = taken.filter(|taken| !taken.is_empty()) else {
            return Ok(std::ptr::null_mut());
        };
        let count = c_int::try_from(taken.len())
            .map_err(|_| Error::new(ErrorKind::Internal, "more notifications than can wait"))?;
        let list = List::new(&taken)?;
        size.set(count);
        Ok(list.give())
    })
}

/// Frees what getNotifsFromEngine gave.
///
/// @param msg   the array; NULL does nothing.
/// @param size  its entries, as getNotifsFromEngine told.
/// @return 0, or -1 for a negative size.
#[no_mangle]
pub unsafe extern "C" fn freeNotifsMsgBuf(msg: *mut notify_msg_t, size: c_int) -> c_int {
    entry::guarded(
        |_| CODE_INVALID_ARGUMENT,
        || {
            let size = usize::try_from(size)
                .map_err(|_| bad_argument("size", "is negative").with("size", size))?;
            if !msg.is_null() {
                drop(List { first: msg, length: size });
            }
            Ok(0)
        },
    )
}

/// A notification from its texts in C.
///
/// # Safety
/// Texts that are not NULL are NUL-terminated.
pub(super) unsafe fn notification(message: &notify_msg_t) -> Result<Notification> {
    // SAFETY: the caller's promise.
    let name = unsafe { notified(message.name, "name") }?;
    // SAFETY: as above.
    let message = unsafe { notified(message.msg, "msg") }?;
    Ok(Notification { name, message })
}

/// One of the two texts. What is not UTF-8 in it becomes U+FFFD, as with upstream, whose callers
/// pass what they like and count on 0.
///
/// # Safety
/// A pointer that is not NULL points to a NUL-terminated text.
unsafe fn notified(pointer: *const c_char, what: &str) -> Result<Vec<u8>> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { boundary::text_bytes(pointer, limits::NOTIFICATION_BYTES_MAX, what) }?;
    let bytes = bytes.ok_or_else(|| bad_argument(what, "is NULL"))?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text.into_bytes(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into_bytes(),
    })
}

/// An array of notifications in memory of C's allocator, because C may free it.
struct List {
    first: *mut notify_msg_t,
    length: usize,
}

impl List {
    fn new(notifications: &[Notification]) -> Result<List> {
        // SAFETY: calloc takes no pointer; zeroed entries hold NULL, which may be freed.
        let first = unsafe { libc::calloc(notifications.len(), size_of::<notify_msg_t>()) };
        if first.is_null() {
            return Err(out_of_memory());
        }
        let list = List { first: first.cast(), length: notifications.len() };
        for (index, notification) in notifications.iter().enumerate() {
            let name = copy(&notification.name)?;
            let entry = list.entry(index);
            // SAFETY: the entry is one of the array, which this function alone knows.
            unsafe { (*entry).name = name };
            let msg = copy(&notification.message)?;
            // SAFETY: as above.
            unsafe { (*entry).msg = msg };
        }
        Ok(list)
    }

    fn entry(&self, index: usize) -> *mut notify_msg_t {
        // `wrapping_add` needs no promise; callers stay below the length.
        self.first.wrapping_add(index)
    }

    /// Hands the array to C.
    fn give(self) -> *mut notify_msg_t {
        std::mem::ManuallyDrop::new(self).first
    }
}

impl Drop for List {
    fn drop(&mut self) {
        for index in 0..self.length {
            // SAFETY: made by `new`, or the caller of freeNotifsMsgBuf says so.
            let entry = unsafe { self.entry(index).read() };
            // SAFETY: the texts are from malloc or NULL.
            unsafe { libc::free(entry.name.cast()) };
            // SAFETY: as above.
            unsafe { libc::free(entry.msg.cast()) };
        }
        // SAFETY: the array is from calloc, or the caller of freeNotifsMsgBuf says so.
        unsafe { libc::free(self.first.cast()) };
    }
}

fn copy(bytes: &[u8]) -> Result<*mut c_char> {
    // SAFETY: malloc takes no pointer.
    let text = unsafe { libc::malloc(bytes.len() + 1) }.cast::<u8>();
    if text.is_null() {
        return Err(out_of_memory());
    }
    // SAFETY: the memory is new and has a byte more than this.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), text, bytes.len()) };
    // SAFETY: as above.
    unsafe { *text.wrapping_add(bytes.len()) = 0 };
    Ok(text.cast())
}

fn out_of_memory() -> Error {
    Error::new(ErrorKind::Resource, "no memory for notifications")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn lists_are_what_c_frees() {
        let notification = |name: &str, message: &str| Notification {
            name: name.as_bytes().to_vec(),
            message: message.as_bytes().to_vec(),
        };
        let first = List::new(&[notification("a", "one"), notification("", "")]).unwrap().give();
        // SAFETY: the list has two entries of NUL-terminated texts.
        #[allow(clippy::multiple_unsafe_ops_per_block)]
        unsafe {
            assert_eq!(CStr::from_ptr((*first).name), c"a");
            assert_eq!(CStr::from_ptr((*first).msg), c"one");
            assert_eq!(CStr::from_ptr((*first.add(1)).msg), c"");
            assert_eq!(freeNotifsMsgBuf(first, -1), CODE_INVALID_ARGUMENT);
            assert_eq!(freeNotifsMsgBuf(first, 2), 0);
            assert_eq!(freeNotifsMsgBuf(std::ptr::null_mut(), 2), 0);
        }
    }
}
