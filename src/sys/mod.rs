//! Dealings with the system below the crate's Rust: foreign symbols and how they are bound.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc_floor;
