//! Addresses, sockets, the epoll loop and the messages of the handshake plane.

pub mod address;
pub mod door;
pub mod ending;
pub mod epoll;
pub mod handshake;
#[cfg(any(feature = "http", feature = "etcd"))]
pub mod http;
pub mod interface;
pub mod port;
#[cfg(any(feature = "http", feature = "etcd"))]
mod proxy;
pub mod random;
pub mod resolve;
pub mod thread;
#[cfg(feature = "_client")]
pub mod tls;
pub mod vectored;
pub mod wake;
