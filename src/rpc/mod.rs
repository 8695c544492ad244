//! Remote calls between store clients and the master.
//!
//! [`message`] is the one model of every call and its answer; a [`dialect`] turns it into bytes and
//! back, and nothing else knows bytes. [`look`] is a short cut for the calls that are made most.
//! [`frame`], [`shape`], [`pack`] and the dialects are pure.
//! [`server`] and [`client`] put sockets, threads and deadlines around them and know nothing of
//! what a call means.

pub mod client;
pub mod dialect;
pub mod frame;
pub mod look;
mod lookout;
pub mod message;
pub mod pack;
pub mod server;
pub mod shape;
