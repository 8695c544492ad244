//! The transport over TCP.

pub mod wire;
