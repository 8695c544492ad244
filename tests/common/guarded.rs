//! Memory that tells when it was touched where it should not be: a buffer between canary bytes
//! between pages that cannot be accessed. Peers write into it, so it is never a Rust reference.

const PAGE: usize = 4096;
const CANARY: u8 = 0xC7;

/// `[no access][canaries .. buffer .. canaries][no access]`, the buffer in the middle.
pub struct Guarded {
    mapping: usize,
    mapping_length: usize,
    address: usize,
    length: usize,
}

impl Guarded {
    /// A buffer of `length` bytes, zeroed, with at least 64 canaries on each side.
    pub fn new(length: usize) -> Guarded {
        let inner = (length + 128).next_multiple_of(PAGE);
        let mapping_length = inner + 2 * PAGE;
        // SAFETY: a new anonymous mapping; nothing else uses the range.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(mapping, libc::MAP_FAILED);
        let mapping = mapping as usize;
        let first = mapping + PAGE;
        protect(first, inner, libc::PROT_READ | libc::PROT_WRITE);
        let address = first + (inner - length) / 2;
        let guarded = Guarded { mapping, mapping_length, address, length };
        // SAFETY: the inner pages were just made writable and belong to this value.
        unsafe { std::ptr::write_bytes(first as *mut u8, CANARY, inner) };
        guarded.fill(0);
        guarded
    }

    pub fn address(&self) -> usize {
        self.address
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Sets every byte of the buffer.
    pub fn fill(&self, value: u8) {
        // SAFETY: the buffer is inside the writable pages.
        unsafe { std::ptr::write_bytes(self.address as *mut u8, value, self.length) };
    }

    /// Copies `bytes` to `offset`.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        let to = (self.address + offset) as *mut u8;
        // SAFETY: checked to lie inside the buffer; `bytes` is another allocation.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// A copy of `length` bytes at `offset`.
    pub fn get(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length);
        let mut bytes = vec![0u8; length];
        let from = (self.address + offset) as *const u8;
        // SAFETY: checked to lie inside the buffer; `bytes` is another allocation.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), length) };
        bytes
    }

    /// A copy of the whole buffer.
    pub fn all(&self) -> Vec<u8> {
        self.get(0, self.length)
    }

    /// Fails if a byte around the buffer changed.
    pub fn check_canaries(&self) {
        let first = self.mapping + PAGE;
        let last = self.mapping + self.mapping_length - PAGE;
        for at in (first..self.address).chain(self.address + self.length..last) {
            // SAFETY: inside the inner pages, outside the buffer.
            let byte = unsafe { std::ptr::read_volatile(at as *const u8) };
            assert_eq!(byte, CANARY, "canary at {:+}", at as i64 - self.address as i64);
        }
    }

    /// From now on every access is a fault: SIGSEGV in this process, EFAULT in the kernel.
    pub fn forbid(&self) {
        protect(self.mapping, self.mapping_length, libc::PROT_NONE);
    }

    /// Undoes `forbid`, with the contents as they were.
    pub fn allow(&self) {
        let inner = self.mapping_length - 2 * PAGE;
        protect(self.mapping + PAGE, inner, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// The pages are given back, the addresses stay taken: an engine that still has the buffer
/// registered finds memory, as it was promised, and no later buffer is there by chance.
impl Drop for Guarded {
    fn drop(&mut self) {
        let start = self.mapping as *mut libc::c_void;
        // SAFETY: the mapping belongs to this value; its contents are of no use any more.
        unsafe { libc::madvise(start, self.mapping_length, libc::MADV_DONTNEED) };
    }
}

fn protect(address: usize, length: usize, how: libc::c_int) {
    // SAFETY: whole pages of a mapping that the caller owns.
    let result = unsafe { libc::mprotect(address as *mut libc::c_void, length, how) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
