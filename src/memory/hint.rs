//! Hints to the processor and to the kernel about memory that will be used. They change nothing but
//! time, so they take references and are safe to call; any thread may.

/// Smaller ranges do not cover enough of a huge page to be worth a system call.
const HUGE_WISH_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

/// Asks for the first and the last cache line of a value. Does not wait for them, so that many can
/// be under way at once. Costs a few instructions; never faults.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let first = std::ptr::from_ref(value).cast::<u8>();
    prefetch_line(first);
    if let Some(last) = std::mem::size_of_val(value).checked_sub(1) {
        prefetch_line(first.wrapping_add(last));
    }
}

#[inline]
fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads nothing as far as the program can tell, whatever the address;
    // SSE is part of every x86-64.
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(address.cast::<i8>());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction reads nothing as far as the program can tell, whatever the address,
    // and touches neither the stack nor the flags.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{address}]",
            address = in(reg) address,
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Wishes for huge pages in the whole pages of a range that is large, before it is filled: a random
/// access to a table of a gigabyte then costs one miss, not also those of the page tables. `length`
/// is in bytes. A kernel that does not grant it is no error.
pub fn wish_huge_pages(address: *const u8, length: usize) {
    if length < HUGE_WISH_BYTES {
        return;
    }
    let first = (address as usize).next_multiple_of(PAGE_BYTES.max(rustix::param::page_size()));
    let end = (address as usize).saturating_add(length);
    let Some(length) = end.checked_sub(first) else { return };
    // SAFETY: this advice changes how the kernel backs a range, never what is in it nor whether it
    // may be used, so it harms nobody even where the range is not the caller's.
    unsafe {
        libc::madvise(first as *mut libc::c_void, length, libc::MADV_HUGEPAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::{prefetch, wish_huge_pages};

    #[test]
    fn hints_leave_values_alone() {
        let values: Vec<u64> = (0..1 << 19).collect();
        prefetch(&values[3]);
        prefetch(values.as_slice());
        prefetch::<[u64]>(&[]);
        wish_huge_pages(values.as_ptr().cast(), std::mem::size_of_val(values.as_slice()));
        wish_huge_pages(std::ptr::null(), 0);
        assert!(values.iter().enumerate().all(|(at, value)| at as u64 == *value));
    }
}
