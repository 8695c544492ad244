//! Version of the library and of its ABI.

use std::ffi::c_char;

/// Major version this header belongs to.
pub const MC_VERSION_MAJOR: u32 = 0;
/// Minor version this header belongs to.
pub const MC_VERSION_MINOR: u32 = 1;
/// Patch version this header belongs to.
pub const MC_VERSION_PATCH: u32 = 0;
/// Version this header belongs to, as one number: major << 16 | minor << 8 | patch.
pub const MC_VERSION_NUMBER: u32 = 0x000100;
/// ABI this header describes. It moves only when a program built against an older header breaks.
pub const MC_ABI_VERSION: u32 = 0;

/// The header has it without the NUL, as MC_VERSION_STRING.
const VERSION_Z: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

// The header generator copies literals, so the constants above are written out; this keeps them
// equal to the package.
const _: () = {
    assert!(MC_VERSION_NUMBER == MC_VERSION_MAJOR << 16 | MC_VERSION_MINOR << 8 | MC_VERSION_PATCH);
    assert!(MC_VERSION_MAJOR == number(env!("CARGO_PKG_VERSION_MAJOR")));
    assert!(MC_VERSION_MINOR == number(env!("CARGO_PKG_VERSION_MINOR")));
    assert!(MC_VERSION_PATCH == number(env!("CARGO_PKG_VERSION_PATCH")));
    assert!(MC_ABI_VERSION == number(env!("MOONCAKE_ABI_VERSION")));
};

const fn number(digits: &str) -> u32 {
    let digits = digits.as_bytes();
    let mut value = 0;
    let mut i = 0;
    while i < digits.len() {
        value = value * 10 + (digits[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// Returns the version of the loaded library as text, for example "0.1.0".
///
/// @return a static text; never NULL.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub extern "C" fn mc_version_string() -> *const c_char {
    VERSION_Z.as_ptr().cast()
}

/// Returns the version of the loaded library as a number comparable with MC_VERSION_NUMBER.
///
/// @return major << 16 | minor << 8 | patch.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub extern "C" fn mc_version_number() -> u32 {
    MC_VERSION_NUMBER
}

/// Returns the ABI of the loaded library; a program built with another MC_ABI_VERSION must not
/// use it.
///
/// @return the ABI number.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub extern "C" fn mc_abi_version() -> u32 {
    MC_ABI_VERSION
}
