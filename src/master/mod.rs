//! The master of the store: it knows which object is where, and moves no bytes of objects.
//!
//! [`state`] decides everything and is pure; [`journal`] makes its changes survive the process.
//! Around them stand sockets, timers and pages: [`process`] owns all of it, [`service`] leads calls
//! to the index. What the program `mooncake_master` is told is in [`flags`] and [`config`].
//! Nothing here names the engine or a transport: the master runs on hosts without any of their
//! hardware.

#[cfg(feature = "http")]
pub mod admin;
pub mod config;
pub mod exposition;
pub mod files;
pub mod flags;
pub mod journal;
pub mod latency;
mod notices;
#[cfg(feature = "http")]
pub mod process;
pub mod service;
pub mod state;
pub mod summary;
pub mod view;
