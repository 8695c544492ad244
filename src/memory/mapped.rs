//! Is a range mapped at all? A cheap look that turns a bad pointer into a status.

use crate::error::{Error, ErrorKind, Result};

/// Checks that the first and the last page of the range are mapped. A hole in between is found by
/// the transfer that meets it, as `MemoryFault`.
pub fn check_mapped(address: usize, length: usize) -> Result<()> {
    let page = rustix::param::page_size();
    let last = address.saturating_add(length.saturating_sub(1));
    for probe in [address, last] {
        let start = probe & !(page - 1);
        let mut resident = 0u8;
        // SAFETY: mincore writes one byte for one page into `resident`. It only looks at the
        // address space, the page itself is not touched.
        let result = unsafe { libc::mincore(start as *mut libc::c_void, page, &mut resident) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENOMEM) {
                return Err(Error::new(ErrorKind::InvalidArgument, "the range is not mapped")
                    .with("address", format_args!("{address:#x}"))
                    .with("length_bytes", length)
                    .with("unmapped", format_args!("{start:#x}")));
            }
            // Not answered here (a sandbox may forbid the call): nothing is known against it.
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_mapped_and_page_zero_is_not() {
        let bytes = vec![1u8; 100_000];
        check_mapped(bytes.as_ptr() as usize, bytes.len()).unwrap();
        let error = check_mapped(4096, 4096).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(check_mapped(bytes.as_ptr() as usize, 1 << 45).is_err());
    }
}
