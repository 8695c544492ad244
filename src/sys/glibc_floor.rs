//! Lets a shared library built on a new system run on glibc 2.28.
//!
//! glibc 2.32 to 2.34 moved the thread and loader functions into libc.so.6 under new version tags
//! and made `stat64` a function. Linking there binds the new tags, although the old ones are still
//! present and mean the same. `build.rs` has the linker replace each call of a function named
//! below by one of `__wrap_<name>`, and those go to the old tag. So the library neither contains
//! nor emulates anything of glibc; it only asks for less. `tests/symbols.rs` reads the result.
//!
//! Only the shared library is linked like this. The definitions are weak, so a static link in
//! which somebody wraps the same functions is not disturbed.

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    ($to:literal) => {
        concat!("jmp ", $to, "@PLT\n")
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    ($to:literal) => {
        concat!("b ", $to, "\n")
    };
}

/// Defines `__wrap_<name>` with the given instructions.
macro_rules! wrapped {
    ($name:literal, $($body:expr),+) => {
        std::arch::global_asm!(concat!(
            ".pushsection .text.__wrap_", $name, ",\"ax\",%progbits\n",
            ".weak __wrap_", $name, "\n",
            ".hidden __wrap_", $name, "\n",
            ".type __wrap_", $name, ",%function\n",
            "__wrap_", $name, ":\n",
            $($body,)+
            ".size __wrap_", $name, ", . - __wrap_", $name, "\n",
            ".popsection\n",
        ));
    };
}

/// Functions with the tag they had in the first glibc of each architecture, or soon after.
macro_rules! old_tags {
    ($($name:literal $x86_64:literal;)+) => {$(
        #[cfg(target_arch = "x86_64")]
        wrapped!($name,
            ".symver mooncake_old_", $name, ", ", $name, "@GLIBC_", $x86_64, "\n",
            "jmp mooncake_old_", $name, "@PLT\n");
        #[cfg(target_arch = "aarch64")]
        wrapped!($name,
            ".symver mooncake_old_", $name, ", ", $name, "@GLIBC_2.17\n",
            "b mooncake_old_", $name, "\n");
    )+};
}

// build.rs reads the names from these lines.
old_tags! {
    "dladdr" "2.2.5";
    "dlsym" "2.2.5";
    "pthread_attr_getguardsize" "2.2.5";
    "pthread_attr_getstack" "2.2.5";
    "pthread_attr_setstacksize" "2.2.5";
    "pthread_create" "2.2.5";
    "pthread_detach" "2.2.5";
    "pthread_getattr_np" "2.2.5";
    "pthread_join" "2.2.5";
    "pthread_key_create" "2.2.5";
    "pthread_key_delete" "2.2.5";
    "pthread_setname_np" "2.12";
    "pthread_setspecific" "2.2.5";
    "pthread_sigmask" "2.2.5";
}

// Before 2.33 the headers turned these into calls with the version of `struct stat` in front.
#[cfg(target_arch = "x86_64")]
wrapped!("stat64", "mov rdx, rsi\nmov rsi, rdi\nmov edi, 1\n", jump!("__xstat64"));
#[cfg(target_arch = "x86_64")]
wrapped!("fstat64", "mov rdx, rsi\nmov esi, edi\nmov edi, 1\n", jump!("__fxstat64"));
#[cfg(target_arch = "x86_64")]
wrapped!("lstat64", "mov rdx, rsi\nmov rsi, rdi\nmov edi, 1\n", jump!("__lxstat64"));
#[cfg(target_arch = "aarch64")]
wrapped!("stat64", "mov x2, x1\nmov x1, x0\nmov w0, #0\n", jump!("__xstat64"));
#[cfg(target_arch = "aarch64")]
wrapped!("fstat64", "mov x2, x1\nmov w1, w0\nmov w0, #0\n", jump!("__fxstat64"));
#[cfg(target_arch = "aarch64")]
wrapped!("lstat64", "mov x2, x1\nmov x1, x0\nmov w0, #0\n", jump!("__lxstat64"));

// Since 2.30; before, programs made the system call.
#[cfg(target_arch = "x86_64")]
wrapped!("gettid", "mov eax, 186\nsyscall\nret\n");
#[cfg(target_arch = "aarch64")]
wrapped!("gettid", "mov x8, #178\nsvc #0\nret\n");
