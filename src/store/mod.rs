//! The client of the store: objects put into and got from memory that clients give to a pool.
//!
//! For: placing and finding objects through a master, moving their bytes through an engine, and
//! giving own memory to the pool. [`Store`] is the whole of it.
//! Owns: the mounted memory, the copy buffers, one thread that gives signs of life (`attend`), and
//! where the master has a disk tier two that write files (`files`).
//! Threads: any number of the caller's, inside every method. None is kept waiting beyond its
//! deadline; no lock is held across a remote call or a transfer.
//! Must not: know how bytes travel ([`Mover`]) or how the master is spoken to ([`Master`]); hand
//! out bytes that no running lease has vouched for.

mod attend;
mod buffers;
mod calls;
mod client;
mod elected_master;
mod engine_mover;
mod failure;
mod files;
mod get;
mod held;
mod master;
mod metrics;
mod mover;
mod open;
mod open_puts;
mod options;
mod own;
mod plan;
mod put;
mod rpc_master;
mod shown;

#[cfg(test)]
mod tests;

pub use buffers::StoreBuffer;
pub use client::{Health, Store};
pub use failure::{outcome_number, outcome_of};
pub use master::{Dialect, Master};
pub use metrics::StoreMetrics;
pub use mover::{Direction, Move, Mover};
pub use open::Parts;
pub use options::StoreOptions;
pub use plan::{Object, Range};
pub use shown::replica_shown;

pub use crate::pool::object::PutOptions;
pub use crate::pool::replica::{Place, Replica};
