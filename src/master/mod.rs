//! The master of the store: it knows which object is where, and moves no bytes of objects.
//!
//! [`state`] decides everything and is pure; [`journal`] makes its changes survive the process.
//! Sockets, timers and pages stand around them. Nothing here names the engine or a transport: the
//! master runs on hosts without any of their hardware.

pub mod journal;
pub mod state;
