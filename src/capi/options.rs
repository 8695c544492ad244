//! Structs with a size: how they grow without breaking programs built against an older header.
//!
//! Rule: the first member is `uint32_t struct_size`, set by the caller to `sizeof` of the struct
//! it was built with. Members a short (older) struct does not have are zero, and zero means
//! default. A longer (newer) struct is accepted when the bytes we do not know are zero, that is,
//! when the caller asks for nothing we would ignore.

use std::mem::MaybeUninit;

use super::boundary::bad_argument;
use crate::error::Result;

/// No struct of this library comes near this; a larger size is a struct that was never set up.
const STRUCT_BYTES_MAX: usize = 4096;

/// A struct that C fills.
///
/// # Safety
/// `repr(C)`, starts with a `u32` size, valid when all bytes are zero.
pub(crate) unsafe trait Sized32: Copy {
    /// Size of the struct in the first release that had it; a shorter one never existed.
    const FIRST_SIZE: usize;
    /// Name used in messages.
    const NAME: &'static str;
}

/// A copy of the struct at `pointer`; all zero for NULL.
///
/// # Safety
/// A pointer that is not NULL is readable for 4 bytes, and for as many as those say.
pub(crate) unsafe fn read<T: Sized32>(pointer: *const T) -> Result<T> {
    let mut copy = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        // SAFETY: the caller's promise.
        let size = unsafe { checked_size(pointer) }?;
        let known = size.min(size_of::<T>());
        // SAFETY: `known` bytes are readable and fit; both sides are plain bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), copy.as_mut_ptr().cast(), known)
        };
        for offset in known..size {
            // SAFETY: within `size`, which the caller vouched for.
            let byte = unsafe { pointer.cast::<u8>().add(offset) };
            // SAFETY: as above.
            if unsafe { byte.read() } != 0 {
                return Err(bad_argument(
                    T::NAME,
                    "sets a member this version of the library does not have",
                )
                .with("offset", offset)
                .with("struct_size", size));
            }
        }
    }
    // SAFETY: all-zero is valid for these structs, and so is every prefix C can write.
    Ok(unsafe { copy.assume_init() })
}

/// Writes `value` to the struct at `pointer`, as much of it as the caller's `struct_size` has
/// room for; bytes beyond what we know become zero. The size member is left as it is.
///
/// # Safety
/// As [`read`], and writable.
pub(crate) unsafe fn write<T: Sized32>(pointer: *mut T, value: &T) -> Result<()> {
    if pointer.is_null() {
        return Err(bad_argument(T::NAME, "is NULL"));
    }
    // SAFETY: the caller's promise.
    let size = unsafe { checked_size(pointer) }?;
    let known = size.min(size_of::<T>());
    let head = size_of::<u32>();
    // SAFETY: offsets below `size`.
    let to = unsafe { pointer.cast::<u8>().add(head) };
    let from = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: offset within T.
    let from = unsafe { from.add(head) };
    // SAFETY: `known - head` bytes exist on both sides.
    unsafe { std::ptr::copy_nonoverlapping(from, to, known - head) };
    // SAFETY: `size - head` bytes are writable from `to`; this is the part after the known.
    let rest = unsafe { to.add(known - head) };
    // SAFETY: as above.
    unsafe { std::ptr::write_bytes(rest, 0, size - known) };
    Ok(())
}

unsafe fn checked_size<T: Sized32>(pointer: *const T) -> Result<usize> {
    if !pointer.is_aligned() {
        return Err(bad_argument(T::NAME, "is not aligned"));
    }
    // SAFETY: the caller of `read` or `write` vouches for 4 bytes.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if size < T::FIRST_SIZE || size > STRUCT_BYTES_MAX {
        return Err(bad_argument(T::NAME, "has a struct_size that is not its sizeof")
            .with("struct_size", size)
            .with("sizeof", size_of::<T>()));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Old {
        struct_size: u32,
        a: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct New {
        struct_size: u32,
        a: u32,
        b: u64,
    }

    // SAFETY: plain numbers after the size.
    unsafe impl Sized32 for Old {
        const FIRST_SIZE: usize = 8;
        const NAME: &'static str = "old";
    }
    // SAFETY: plain numbers after the size.
    unsafe impl Sized32 for New {
        const FIRST_SIZE: usize = 8;
        const NAME: &'static str = "new";
    }

    #[test]
    fn null_is_all_default() {
        // SAFETY: NULL is allowed.
        let read: New = unsafe { read(std::ptr::null()) }.unwrap();
        assert_eq!(read, New { struct_size: 0, a: 0, b: 0 });
    }

    #[test]
    fn an_older_caller_gets_defaults() {
        let old = Old { struct_size: 8, a: 5 };
        // SAFETY: the size says how much there is. Only the alignment of New is borrowed here.
        let place = [old, old];
        let pointer = place.as_ptr().cast::<New>();
        if pointer.is_aligned() {
            // SAFETY: 8 bytes are readable.
            assert_eq!(unsafe { read(pointer) }.unwrap(), New { struct_size: 8, a: 5, b: 0 });
        }
    }

    #[test]
    fn a_newer_caller_may_not_ask_for_more() {
        let mut new = New { struct_size: 16, a: 5, b: 0 };
        let pointer = std::ptr::from_ref(&new).cast::<Old>();
        // SAFETY: 16 bytes are there.
        assert_eq!(unsafe { read(pointer) }.unwrap(), Old { struct_size: 16, a: 5 });
        new.b = 1 << 40;
        let pointer = std::ptr::from_ref(&new).cast::<Old>();
        // SAFETY: as above.
        assert!(unsafe { read(pointer) }.is_err());
    }

    #[test]
    fn sizes_that_never_were_are_refused() {
        for size in [0, 4, 7, 4097, u32::MAX] {
            let new = New { struct_size: size, a: 0, b: 0 };
            // SAFETY: refused by its size.
            assert!(unsafe { read(&raw const new) }.is_err(), "{size}");
        }
    }

    #[test]
    fn writing_respects_the_callers_size() {
        let value = New { struct_size: 0, a: 7, b: 9 };
        let mut short = New { struct_size: 8, a: 1, b: 1 };
        // SAFETY: 16 bytes are there.
        unsafe { write(&raw mut short, &value) }.unwrap();
        assert_eq!(short, New { struct_size: 8, a: 7, b: 1 });
        let mut full = New { struct_size: 16, a: 1, b: 1 };
        // SAFETY: as above.
        unsafe { write(&raw mut full, &value) }.unwrap();
        assert_eq!(full, New { struct_size: 16, a: 7, b: 9 });
        let mut longer = [New { struct_size: 32, a: 1, b: 1 }; 2];
        // SAFETY: 32 bytes are there.
        unsafe { write(longer.as_mut_ptr(), &value) }.unwrap();
        assert_eq!(longer[1], New { struct_size: 0, a: 0, b: 0 });
    }
}
