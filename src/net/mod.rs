//! Addresses, sockets, the epoll loop and the messages of the handshake plane.

pub mod address;
pub mod epoll;
pub mod handshake;
pub mod interface;
pub mod port;
pub mod random;
pub mod thread;
pub mod vectored;
pub mod wake;
