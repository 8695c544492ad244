//! The C API of the upstream transfer engine, with its names, layouts and numbers, so that a
//! program written against upstream's `transfer_engine_c.h` links to this library instead.
//!
//! For: the functions of 0.3.7.post2 and those added up to 0.3.13. One file per noun;
//! `include/mooncake/transfer_engine_c.h` is generated from these files.
//! Owns: the tables of live engines and batches of this API. Nothing is shared with the `mc_*`
//! handles but the last error text, which `mc_last_error_message` gives here too.
//! Threads: any thread of the host, as in the `mc_*` API.
//! Must not: let a wrong handle, batch number or pointer be more than a return value. Where
//! upstream ends the process or reads through a wrong pointer, this API returns a failure.
//!
//! Two families of numbers are returned, as upstream does ([`numbers`]): most functions give 0 or
//! a negative code, those of batches give 0 or a positive one.
#![allow(non_snake_case)] // The functions carry upstream's names.

pub mod batch;
pub mod engine;
pub mod memory;
pub mod notify;
pub mod segment;
pub mod store;
pub mod types;

mod entry;
mod numbers;
