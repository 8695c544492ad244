//! What the integration tests of the engine share: engines, memory with borders, seeds, raw bytes
//! of the wires, peers that misbehave. Each test program uses its part.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

pub mod engines;
pub mod fake_peer;
pub mod guarded;
pub mod ports;
pub mod process;
pub mod random;
pub mod raw;
pub mod relay;
