//! Addresses, sockets and the messages of the handshake plane.

pub mod handshake;
