//! What the client needs of an engine: move these bytes.

use crate::error::Result;
use crate::memory::Access;
use crate::time::Deadline;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From local memory to the peer.
    Put,
    /// From the peer to local memory.
    Get,
}

/// One copy between local memory and that of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move<'a> {
    /// Which way.
    pub direction: Direction,
    /// First local address; mapped, but not necessarily registered.
    pub local: usize,
    /// Name under which the peer's memory is found.
    pub endpoint: &'a str,
    /// First address in the peer.
    pub remote: u64,
    /// Bytes, not zero.
    pub length: usize,
}

/// Moves bytes between this process and peers.
pub trait Mover: Send + Sync {
    /// The name under which peers find the memory of this process.
    fn endpoint(&self) -> &str;

    /// Makes memory usable by transfers without further preparation.
    fn register(&self, address: usize, length: usize, access: Access) -> Result<()>;

    /// True if the range lies inside memory that is usable already.
    fn covers(&self, address: usize, length: usize) -> bool;

    /// Takes that back. Afterwards nothing touches the memory any more.
    fn unregister(&self, address: usize) -> Result<()>;

    /// Lets nobody write into registered memory any more by what he was allowed before, also not
    /// with bytes that are on their way. Peers of this project keep to it; those of upstream have
    /// no word for it.
    ///
    /// # Errors
    /// Writing is over, but readers may not find the memory until this is repeated.
    fn renew(&self, address: usize) -> Result<()>;

    /// Makes all moves, those to different peers at the same time, and returns how each ended.
    /// When it returns, no memory of any of them is touched any more. `meanwhile` is called once
    /// after the moves have begun. A put into memory that its owner has renewed since the call
    /// began fails with `RemoteRange`.
    fn move_all(
        &self,
        moves: &[Move<'_>],
        deadline: Deadline,
        meanwhile: &mut dyn FnMut(),
    ) -> Vec<Result<()>>;

    /// What is known of the way bytes travel, for people.
    fn dump(&self) -> serde_json::Value;

    /// Lets go of all memory; later moves fail.
    fn close(&self);
}
