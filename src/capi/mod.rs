//! The C API `mc_*`: what a C, C++ or ctypes program sees of this library.
//!
//! For: checking what comes from C, translating it, calling one Rust method, translating the answer
//! back. One file per C noun; `include/mooncake.h` is generated from these files, and their
//! documentation comments are the reference of the C API. [`upstream`] is a second C API, that of
//! the upstream transfer engine.
//! Owns: the tables of live handles ([`handle`]), the thread's last error text, the log sink.
//! Threads: any thread of the host, at any time, also while another thread destroys the handle.
//! Must not: hold logic, block beyond what the called method does, unwind into C, or read memory
//! through a handle. A handle is a number that is looked up, so no value of it is dangerous.
//!
//! Safety contract of every exported function, stated once: pointers that are not handles point to
//! memory of the documented type and extent, readable (or writable for outputs) during the call.
//! NULL, misaligned pointers and impossible lengths are refused with a status.
#![deny(missing_docs)]
#![allow(non_camel_case_types)] // The types carry their C names.
#![allow(clippy::missing_safety_doc)] // See the contract above.

pub mod batch;
pub mod buffer;
pub mod engine;
pub mod last_error;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod segment;
pub mod status;
pub mod store;
pub mod store_batch;
pub mod store_buffer;
pub mod store_replicas;
pub mod store_state;
pub mod transfer;
pub mod upstream;
pub mod version;

mod boundary;
mod fork;
mod handle;
mod options;
mod panic_hook;
