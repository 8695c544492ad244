//! The border between C and Rust: the guard every exported function runs in, and the checks every
//! pointer goes through.
//!
//! Owns: nothing. Threads: any. Must not: let a panic out, or make a reference to memory the
//! caller may change during the call longer than it takes to copy it (strings and structs are
//! copied on entry; transferred memory stays a number).

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::handle::Noun;
use super::last_error;
use super::panic_hook;
use super::status::{self, mc_status_t, MC_ERR_PANIC, MC_OK};
use crate::error::{Error, ErrorKind, Result};

// A panic that leaves an `extern "C"` function aborts the host. The guard can only stop it when
// panics unwind, so a build without unwinding is not this library.
const _: () = assert!(cfg!(panic = "unwind"));

/// Runs the body of an exported function; errors and panics become a status and the thread's last
/// error text.
#[inline]
pub(crate) fn guard(body: impl FnOnce() -> Result<mc_status_t>) -> mc_status_t {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => failed(&error),
        Err(payload) => panicked(payload),
    }
}

/// As [`guard`], for a body that has nothing to say but "done".
#[inline]
pub(crate) fn guard_ok(body: impl FnOnce() -> Result<()>) -> mc_status_t {
    guard(|| body().map(|()| MC_OK))
}

/// As [`guard`], for functions that return a plain value; `otherwise` is returned on a panic.
#[inline]
pub(crate) fn guard_value<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(payload) => {
            panicked(payload);
            otherwise
        }
    }
}

/// Runs one call inside the object behind `handle`.
#[inline]
pub(crate) fn on<T: Noun>(
    handle: *const T::Opaque,
    call: impl FnOnce(&T) -> Result<mc_status_t>,
) -> mc_status_t {
    guard(|| T::table().pin(handle)?.run(call))
}

/// As [`on`], for a call that has nothing to say but "done".
#[inline]
pub(crate) fn on_ok<T: Noun>(
    handle: *const T::Opaque,
    call: impl FnOnce(&T) -> Result<()>,
) -> mc_status_t {
    on(handle, |object: &T| call(object).map(|()| MC_OK))
}

/// The status of a failure that a task or call reports; its text becomes the thread's last one.
#[cold]
pub(crate) fn failed(error: &Error) -> mc_status_t {
    last_error::set(error);
    status::of(error.kind())
}

#[cold]
fn panicked(payload: Box<dyn Any + Send>) -> mc_status_t {
    let text = panic_text(&*payload);
    let mut error = Error::new(ErrorKind::Panic, format!("a defect of the library: {text}"));
    if let Some(place) = panic_hook::take_place() {
        error = error.with("at", place);
    }
    // Dropping a foreign payload may itself panic; one leaked box of a bug is the better end.
    if !payload.is::<&str>() && !payload.is::<String>() {
        std::mem::forget(payload);
    }
    last_error::set(&error);
    MC_ERR_PANIC
}

/// What a panic says, where it says something.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    match payload.downcast_ref::<String>() {
        Some(text) => text,
        None => payload.downcast_ref::<&str>().copied().unwrap_or("no message"),
    }
}

/// A NULL or misaligned pointer, or a length no array can have.
#[cold]
pub(crate) fn bad_argument(what: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("{what} {why}"))
}

fn check<T>(pointer: *const T, what: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(bad_argument(what, "is NULL"));
    }
    if !pointer.is_aligned() {
        return Err(bad_argument(what, "is not aligned"));
    }
    Ok(())
}

/// Where a result goes. Made before the work, so that a bad pointer costs nothing; used once.
pub(crate) struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// A place the caller must give.
    pub(crate) fn required(pointer: *mut T, what: &str) -> Result<Self> {
        check(pointer, what)?;
        Ok(Out(pointer))
    }

    /// A place the caller may leave out with NULL.
    pub(crate) fn optional(pointer: *mut T, what: &str) -> Result<Self> {
        if !pointer.is_null() {
            check(pointer, what)?;
        }
        Ok(Out(pointer))
    }

    /// Writes the result, if the caller wants it.
    pub(crate) fn set(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not NULL and aligned (checked when made); the caller of the exported
            // function vouches that it is writable.
            unsafe { self.0.write(value) };
        }
    }
}

/// The array (`pointer`, `count`). The pointer of an empty array is ignored.
///
/// # Safety
/// A pointer that passes the checks is readable for `count` elements until the exported function
/// returns, and nobody writes them meanwhile.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, what)?;
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(bad_argument(what, "has an impossible length"));
    }
    // SAFETY: checked above; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A copy of the bytes (`pointer`, `length`), at most `longest`.
///
/// # Safety
/// As [`slice`].
pub(crate) unsafe fn bytes(
    pointer: *const c_char,
    length: usize,
    longest: usize,
    what: &str,
) -> Result<Vec<u8>> {
    if length > longest {
        return Err(bad_argument(what, "is too long")
            .with("length_bytes", length)
            .with("length_bytes_max", longest));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice(pointer.cast::<u8>(), length, what) }?;
    Ok(bytes.to_vec())
}

/// A copy of the NUL-terminated bytes at `pointer`, at most `longest`; `None` for NULL.
///
/// # Safety
/// A pointer that is not NULL points to a NUL-terminated text.
pub(crate) unsafe fn text_bytes(
    pointer: *const c_char,
    longest: usize,
    what: &str,
) -> Result<Option<Vec<u8>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the text ends with NUL; strnlen reads no further than that.
    let length = unsafe { libc::strnlen(pointer, longest + 1) };
    // SAFETY: strnlen saw that many bytes.
    unsafe { bytes(pointer, length, longest, what) }.map(Some)
}

/// As [`text_bytes`], for a text that must be UTF-8.
///
/// # Safety
/// As [`text_bytes`].
pub(crate) unsafe fn text(
    pointer: *const c_char,
    longest: usize,
    what: &str,
) -> Result<Option<String>> {
    // SAFETY: the caller's promise.
    match unsafe { text_bytes(pointer, longest, what) }?.map(String::from_utf8) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(bad_argument(what, "is not UTF-8")),
    }
}

/// As [`text`], for a text the caller must give.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn required_text(
    pointer: *const c_char,
    longest: usize,
    what: &str,
) -> Result<String> {
    // SAFETY: the caller's promise.
    unsafe { text(pointer, longest, what) }?.ok_or_else(|| bad_argument(what, "is NULL"))
}

/// Copies `text` to (`buffer`, `capacity`), always NUL-terminated when there is room for a byte,
/// cut at a character if it does not fit. Returns the full length without NUL.
///
/// # Safety
/// A `buffer` that is not NULL is writable for `capacity` bytes.
pub(crate) unsafe fn copy_text(text: &str, buffer: *mut c_char, capacity: usize) -> usize {
    if !buffer.is_null() && capacity > 0 {
        let mut length = text.len().min(capacity - 1);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        // SAFETY: length < capacity; the texts of this library do not overlap the caller's.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, length) };
        // SAFETY: as above; length is within capacity.
        let end = unsafe { buffer.add(length) };
        // SAFETY: as above.
        unsafe { end.write(0) };
    }
    text.len()
}

/// [`copy_text`] with the full length in `length_out`, which may be NULL.
///
/// # Safety
/// As [`copy_text`].
pub(crate) unsafe fn give_text(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    length_out: *mut usize,
) -> Result<()> {
    if buffer.is_null() && capacity != 0 {
        return Err(bad_argument("buf", "is NULL, but buf_len is not zero"));
    }
    let length_out = Out::optional(length_out, "len_out")?;
    // SAFETY: the caller's promise.
    length_out.set(unsafe { copy_text(text, buffer, capacity) });
    Ok(())
}

/// The address of local memory as a number: the engine treats transferred memory as a raw range.
pub(crate) fn address(pointer: *const c_void) -> usize {
    pointer.expose_provenance()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::status::{MC_ERR_INVALID_ARGUMENT, MC_ERR_TIMEOUT};

    #[test]
    fn a_panic_is_a_status_with_its_text() {
        assert_eq!(guard(|| panic!("number {}", 5)), MC_ERR_PANIC);
        assert!(last_error::get().contains("number 5"), "{}", last_error::get());
        assert_eq!(guard_value(9, || std::panic::panic_any(3u8)), 9);
        assert!(last_error::get().contains("no message"));
    }

    #[test]
    fn an_error_is_its_status_and_text() {
        let status = guard_ok(|| Err(Error::new(ErrorKind::Timeout, "late").with("peer", "p")));
        assert_eq!(status, MC_ERR_TIMEOUT);
        assert_eq!(last_error::get(), "late (peer: p)");
    }

    /// Copies what `slice` gives; the tests pass only what it must refuse or may read.
    fn numbers(pointer: *const u64, count: usize) -> Result<Vec<u64>> {
        // SAFETY: see above.
        unsafe { slice(pointer, count, "x") }.map(<[u64]>::to_vec)
    }

    fn text3(pointer: *const c_char) -> Result<Option<String>> {
        // SAFETY: the tests pass literals or NULL.
        unsafe { text(pointer, 3, "x") }
    }

    #[test]
    fn slices_are_checked() {
        let array = [1u64, 2];
        assert_eq!(numbers(array.as_ptr(), 2).unwrap(), array);
        assert!(numbers(std::ptr::null(), 0).unwrap().is_empty());
        assert!(numbers(std::ptr::null(), 1).is_err());
        assert!(numbers(array.as_ptr().wrapping_byte_add(1), 1).is_err());
        assert!(numbers(array.as_ptr(), usize::MAX / 8).is_err());
        // SAFETY: refused by its length.
        assert!(unsafe { bytes(c"abc".as_ptr(), 3, 2, "x") }.is_err());
    }

    #[test]
    fn texts_are_bounded_and_utf8() {
        assert_eq!(text3(c"abc".as_ptr()).unwrap().as_deref(), Some("abc"));
        assert_eq!(text3(std::ptr::null()).unwrap(), None);
        assert!(text3(c"abcd".as_ptr()).is_err());
        assert!(text3(c"\xff".as_ptr()).is_err());
        // SAFETY: NULL is refused.
        assert!(unsafe { required_text(std::ptr::null(), 3, "x") }.is_err());
    }

    #[test]
    fn text_is_cut_at_a_character() {
        let mut buffer = [1 as c_char; 4];
        // SAFETY: the buffer has 4 bytes.
        assert_eq!(unsafe { copy_text("aaä", buffer.as_mut_ptr(), 4) }, 4);
        assert_eq!(buffer.map(|c| c as u8), [b'a', b'a', 0, 1]);
        // SAFETY: nothing is written without a capacity.
        assert_eq!(unsafe { copy_text("aaä", buffer.as_mut_ptr(), 0) }, 4);
        let nowhere = std::ptr::null_mut();
        // SAFETY: refused before anything is written.
        let status = guard_ok(|| unsafe { give_text("a", nowhere, 1, std::ptr::null_mut()) });
        assert_eq!(status, MC_ERR_INVALID_ARGUMENT);
    }
}
