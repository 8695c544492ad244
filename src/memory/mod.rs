//! Registered memory: raw ranges with an owner outside this crate.
//!
//! A range is never a Rust reference, because a peer or the caller may write it at any time. It is
//! reached through a [`Region`], which hands out leases: a lease is held for the length of one
//! non-blocking system call or copy, and closing a region waits for its leases. So after
//! `unregister` returns, nothing in this crate touches the memory again.

mod cross;
mod hint;
mod location;
mod mapped;
mod mapping;
mod node;
mod region;
mod shared;

pub use cross::{peek, CrossCall};
pub use hint::{prefetch, wish_huge_pages};
pub use location::{is_host as location_is_host, is_valid as location_is_valid};
pub use mapped::check_mapped;
pub use mapping::{Mapping, Pages};
pub use node::node_of;
pub use region::{Access, Lease, Region};
pub use shared::{backing_of, Backing, Foreign, SharedFile, SharedWords};
