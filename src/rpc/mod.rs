//! Remote calls between store clients and the master.
//!
//! [`message`] is the one model of every call and its answer; a dialect turns it into bytes and
//! back, and nothing else knows bytes.

pub mod message;
