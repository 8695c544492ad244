//! The master of the store: it knows which object is where, and moves no bytes of objects.
//!
//! [`state`] decides everything and is pure; [`journal`] makes its changes survive the process.
//! Around them stand sockets, timers and pages: [`process`] owns all of it, [`service`] leads calls
//! to the index. Where several masters elect one, [`election`] decides who, and [`fence`] keeps a
//! leader that was replaced from answering. What the program `mooncake_master` is told is in
//! [`flags`] and [`config`]. Nothing here names the engine or a transport: the master runs on hosts
//! without any of their hardware.

#[cfg(feature = "http")]
pub mod admin;
#[cfg(feature = "http")]
mod cleanup;
pub mod config;
pub mod election;
#[cfg(all(feature = "http", feature = "etcd"))]
mod elector;
mod ending;
pub mod exposition;
pub mod fence;
pub mod files;
pub mod flags;
pub mod journal;
pub mod latency;
mod notices;
#[cfg(feature = "http")]
pub mod process;
#[cfg(feature = "http")]
mod seat;
pub mod service;
pub mod state;
pub mod summary;
#[cfg(feature = "http")]
mod term;
pub mod view;
