//! How a peer is reached, and how memory gets out of everybody's reach again. Chooses among the
//! installed transports by what they can do; entered by threads that may block.

use std::sync::Arc;

use super::Shared;
use crate::descriptor::PeerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::transport::{Near, Route};

/// The way to one peer.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) transport: &'static str,
    pub(super) route: Arc<dyn Route>,
    /// Why this one, for the dump.
    pub(super) why: Arc<str>,
}

impl Shared {
    /// The first installed transport that reaches the peer, or a shorter way in front of it.
    pub(super) fn way(&self, peer: &PeerAddress) -> Result<Way> {
        let transports = self.transports.read().clone();
        let own = || transports.iter().map(|t| t.name()).collect::<Vec<_>>().join(",");
        let reached = transports.iter().find_map(|transport| {
            transport.route(peer).map(|route| route.map(|route| (transport.name(), route)))
        });
        let Some(reached) = reached else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "no installed transport reaches the segment",
            )
            .with("segment", &peer.name)
            .with("peer_offers", &peer.descriptor.protocol)
            .with("installed", own()));
        };
        let (transport, route) = reached?;
        let mut why = "the first installed transport that reaches the peer".to_owned();
        for nearer in &transports {
            match nearer.near(peer, &route) {
                Near::Silent => {}
                Near::No(reason) => why = reason,
                Near::Route(route, reason) => {
                    return Ok(Way { transport: nearer.name(), route, why: reason.into() });
                }
            }
        }
        Ok(Way { transport, route, why: why.into() })
    }

    /// Waits until nobody touches the regions, which are out of the registry already. An error
    /// says why that cannot be promised of one of them.
    pub(super) fn let_go(&self, regions: &[Arc<Region>]) -> Result<()> {
        let transports = self.transports.read().clone();
        let mut outcome = Ok(());
        for region in regions {
            for transport in &transports {
                outcome = outcome.and(transport.unregister(region));
            }
            region.close();
        }
        outcome
    }
}
