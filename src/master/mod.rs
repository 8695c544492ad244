//! The master of the store: it knows which object is where, and moves no bytes of objects.
//!
//! The program `mooncake_master` without its `main`: flags and their meaning, pages, counters.

#[cfg(feature = "http")]
pub mod admin;
pub mod config;
pub mod exposition;
pub mod flags;
pub mod latency;
pub mod summary;
pub mod view;
