//! One suite for every metadata service, against real servers that the tests start themselves.
//!
//! What is not installed is skipped with a line that says so. Servers listen on 127.0.0.1 only,
//! keep their data in a folder of their own and end with the test.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod bad;
mod cycles;
mod directory;
mod engines;
mod lifetime;
mod names;
mod outage;
#[path = "../common/ports.rs"]
#[allow(unreachable_pub, clippy::unwrap_used, clippy::panic)] // A failed test is a panic.
mod ports;
mod refresh;
mod servers;
#[path = "../common/skip.rs"]
mod skip;
mod stores;
mod suite;
mod table;
mod tls;
mod vectors;
mod wire;
