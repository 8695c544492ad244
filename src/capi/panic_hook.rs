//! Keeps a caught panic off standard error: it goes to the log and into the error text instead.
//!
//! Rust reports a panic before anybody can catch it, through a hook that is global to one copy of
//! the standard library. The shared library has its own copy, so every panic that reaches its hook
//! is ours. A program that links the crate or the static library may share its copy with us; then
//! the hook belongs to the program and is left alone.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Once;

thread_local! {
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the hook at the first call, where it is ours.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if in_shared_library() {
            std::panic::set_hook(Box::new(|info| {
                let place = info.location().map(ToString::to_string);
                let thread = std::thread::current();
                ::log::error!(
                    "panic in thread {} at {}: {}",
                    thread.name().unwrap_or("of the host"),
                    place.as_deref().unwrap_or("an unknown place"),
                    super::boundary::panic_text(info.payload()),
                );
                let _ = PLACE.try_with(|cell| *cell.borrow_mut() = place);
            }));
        }
    });
}

/// Where the calling thread panicked last, once.
pub(crate) fn take_place() -> Option<String> {
    PLACE.try_with(|cell| cell.borrow_mut().take()).ok().flatten()
}

/// True when this code is not part of the main program.
fn in_shared_library() -> bool {
    // SAFETY: takes no pointer.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) };
    let program = object_of(std::ptr::with_exposed_provenance(entry as usize));
    let own = object_of((install as fn()) as *const c_void);
    program.is_some() && own.is_some() && program != own
}

/// Start of the loaded object that contains `address`.
fn object_of(address: *const c_void) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr only compares the address, and writes the struct.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: all zero is valid for this struct of pointers; dladdr may have filled it.
    let info = unsafe { info.assume_init() };
    (found != 0 && !info.dli_fbase.is_null()).then(|| info.dli_fbase.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_not_a_shared_library() {
        assert!(!in_shared_library());
        assert!(object_of(std::ptr::null()).is_none());
    }
}
