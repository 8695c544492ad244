//! Link settings of `libmooncake.so`. Writes nothing into the source tree.

/// Number in the SONAME. It moves only when a symbol or struct breaks; `capi/version.rs` and
/// `CMakeLists.txt` are checked against it.
const ABI_VERSION: u32 = 0;

/// The functions that `src/sys/glibc_floor.rs` binds to older tags.
const GLIBC_FLOOR: &str = include_str!("src/sys/glibc_floor.rs");

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/sys/glibc_floor.rs");
    println!("cargo:rustc-env=MOONCAKE_ABI_VERSION={ABI_VERSION}");
    if target("OS") != "linux" {
        return;
    }
    link(&format!("-soname,libmooncake.so.{ABI_VERSION}"));
    // All symbols are bound and then write-protected at load time.
    link("-z,now");
    link("-z,relro");
    // The library owns threads and thread locals; dlclose keeps it mapped.
    link("-z,nodelete");
    link("-z,noexecstack");
    // A tool chain that links against an older glibc itself (see setup.py) needs no help.
    println!("cargo:rerun-if-env-changed=MOONCAKE_WHEEL_GLIBC");
    let old_already = std::env::var_os("MOONCAKE_WHEEL_GLIBC").is_some();
    let has_tags = ["x86_64", "aarch64"].contains(&target("ARCH").as_str());
    if !old_already && target("ENV") == "gnu" && has_tags {
        for name in GLIBC_FLOOR.lines().filter_map(wrapped_name) {
            link(&format!("--wrap={name}"));
        }
        // Before glibc 2.34 the old tags are defined in these two; since then they are empty.
        link("--push-state,--no-as-needed,-l:libpthread.so.0,-l:libdl.so.2,--pop-state");
    }
}

/// The name in a line such as `"dlsym" "2.2.5";` or `wrapped!("gettid", ...`.
fn wrapped_name(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix("wrapped!(").unwrap_or(line).strip_prefix('"')?.split('"').next()
}

fn target(what: &str) -> String {
    std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default()
}

fn link(argument: &str) {
    println!("cargo:rustc-cdylib-link-arg=-Wl,{argument}");
}
