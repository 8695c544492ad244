//! Addresses, interfaces, ports, and the messages of the handshake plane. Owns no thread.

pub mod address;
pub mod handshake;
pub mod interface;
pub mod port;
