//! The master of the store: the program `mooncake_master` without its `main`.

pub mod config;
pub mod flags;
