//! The text of the last failure, per thread.

use std::cell::RefCell;
use std::ffi::c_char;

use super::boundary;
use crate::error::Error;
use crate::limits::ERROR_TEXT_BYTES_MAX;

thread_local! {
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers the text of `error`; quietly nothing in a thread that is ending.
pub(crate) fn set(error: &Error) {
    let mut text = error.to_string();
    if text.len() > ERROR_TEXT_BYTES_MAX {
        let end = (0..=ERROR_TEXT_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
    }
    let _ = TEXT.try_with(|cell| *cell.borrow_mut() = text);
}

/// The remembered text; empty before the first failure.
pub(crate) fn get() -> String {
    TEXT.try_with(|cell| cell.borrow().clone()).unwrap_or_default()
}

/// Copies the text of the last call that failed in the calling thread.
///
/// A call that succeeds leaves the text as it is, so read it only after a failure. The failure of
/// a task happens in another thread: see mc_batch_task_error for its text.
///
/// @param buf      receives the text, cut to fit and NUL-terminated; may be NULL if buf_len is 0.
/// @param buf_len  bytes in buf.
/// @return the full length of the text in bytes without its NUL; 0 if nothing failed yet.
///
/// Threads: any; each has its own text. Blocks: no. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_last_error_message(buf: *mut c_char, buf_len: usize) -> usize {
    // SAFETY: the caller's promise about buf.
    boundary::guard_value(0, || unsafe { boundary::copy_text(&get(), buf, buf_len) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn text_is_bounded_and_per_thread() {
        set(&Error::new(ErrorKind::Timeout, "ä".repeat(ERROR_TEXT_BYTES_MAX)));
        assert_eq!(get().len(), ERROR_TEXT_BYTES_MAX);
        assert_eq!(std::thread::spawn(get).join().unwrap(), "");
    }
}
