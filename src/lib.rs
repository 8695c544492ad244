//! Moves and pools KV cache between LLM inference processes.
//!
//! An [`engine::Engine`] owns registered memory, threads and connections; peers name its segment
//! and read or write inside it. Layers, top to bottom: `capi` (C functions), `engine`,
//! `transport` and `metadata` (one folder or file per backend), `descriptor` (what both know of a
//! peer), `net`, `memory` and `topology`, `config`, and at the bottom `error`, `time`, `limits`.
//! The store stands on it: `store` is its client, `rpc` carries the vocabulary of `pool` between
//! clients and the `master`. A layer never names one above it; `tests/architecture.rs` reads the
//! imports.

pub mod capi;
pub mod config;
pub mod descriptor;
pub mod engine;
pub mod error;
mod json;
pub mod limits;
pub mod master;
pub mod memory;
pub mod metadata;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod rpc;
pub mod store;
mod sys;
#[cfg(test)]
#[path = "../tests/common/skip.rs"]
mod test_skip;
pub mod time;
pub mod topology;
pub mod transport;
