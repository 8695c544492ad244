//! The vocabulary of the store, shared by its client and its master: objects, replicas, segments,
//! outcomes, and the pure rules over them.
//!
//! Nothing here has a socket, a clock or a thread. Time is a parameter. The numbers of
//! [`outcome::Outcome`] are upstream's, because they travel on its wire and through its C and
//! Python interfaces; everything else is ours.

pub mod allocator;
pub mod eviction;
pub mod file;
pub mod identity;
pub mod lease;
pub mod object;
pub mod outcome;
pub mod placement;
pub mod replica;
pub mod segment;
pub mod slab;
