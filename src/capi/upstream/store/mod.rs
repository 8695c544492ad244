//! The C API of upstream's store client, with its names, layouts and numbers: a program written
//! against upstream's `store_c.h` links to this library instead.
//!
//! For: the functions of that header. `include/mooncake/store_c.h` is generated from these files.
//! Owns: the table of live clients of this API.
//! Threads: any thread of the host.
//! Must not: let a wrong handle or pointer be more than a return value.
//!
//! Numbers are those of upstream's store: 0, or a negative code; sizes and counts are positive.

pub mod client;
pub mod object;
pub mod types;

mod entry;
