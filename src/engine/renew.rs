//! Buffers that get another key, and transfers that do not follow to one.
//!
//! Whoever lends parts of a buffer to peers and takes them back, as the store does, can shut out
//! what a peer that stood still meanwhile would go on to write. Called by any thread; blocks while
//! stores under way end, and while the new key is published.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::Region;

use super::submit::{self, Request};
use super::{Engine, Shared};

impl Engine {
    /// [`Engine::transfer`] for requests that were allowed by somebody who counts on
    /// [`Engine::renew`]: one whose peer has renewed the buffer meanwhile fails with `RemoteRange`.
    pub fn transfer_pinned(&self, requests: &[Request], timeout: Option<Duration>) -> Result<()> {
        submit::transfer_pinned(&self.0 .0, requests, timeout)
    }

    /// Gives the buffer that starts at `address` a new key. When this returns, no native peer
    /// writes into it any more by what it knew before, also not with what is on its way: what is
    /// not pinned asks anew and is repeated, what is pinned fails. Blocks while the new key is
    /// published.
    ///
    /// # Errors
    /// No buffer starts there; or the key is new, but could not be published: repeat it.
    pub fn renew(&self, address: usize) -> Result<()> {
        self.0 .0.renew(address)
    }
}

impl Shared {
    fn renew(&self, address: usize) -> Result<()> {
        let _registration = self.registration.lock();
        self.ensure_open()?;
        let before = self.registry.at(address).ok_or_else(|| {
            Error::new(ErrorKind::NotRegistered, "no buffer is registered at this address")
                .with("address", format_args!("{address:#x}"))
        })?;
        let key = crate::net::random::u64()?.max(1);
        let region = Arc::new(Region::new(
            before.address(),
            before.length(),
            before.location(),
            before.access(),
            key,
        )?);
        let keys = self.register_everywhere(&region)?;
        let before = self.registry.replace(region, keys);
        let gone = before.map_or(Ok(()), |before| self.let_go(&[before]));
        self.publish().and(gone)
    }
}
