//! Link settings of `libmooncake.so`. Writes nothing into the source tree.

/// Number in the SONAME. It moves only when a symbol or struct breaks; `capi/version.rs` and
/// `CMakeLists.txt` are checked against it.
const ABI_VERSION: u32 = 0;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=MOONCAKE_ABI_VERSION={ABI_VERSION}");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if os == "linux" {
        for argument in [
            &format!("-soname,libmooncake.so.{ABI_VERSION}"),
            // All symbols are bound and then write-protected at load time.
            "-z,now",
            "-z,relro",
            // The library owns threads and thread locals; dlclose keeps it mapped.
            "-z,nodelete",
            "-z,noexecstack",
        ] {
            println!("cargo:rustc-cdylib-link-arg=-Wl,{argument}");
        }
    }
}
