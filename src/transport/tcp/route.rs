//! The route to one peer: its lanes, and which slice takes which.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::descriptor::PeerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::address::Family;
use crate::net::resolve::resolve_before;
use crate::transport::{Driver, OwnerId, Rails, Route, Slice, SplitRule, WaitSource};

use super::health::Health;
use super::identity::Identities;
use super::lane::{Lane, Peer, Wire};
use super::Tcp;

/// Where several threads can move bytes, a lane gets this much before the next one is used.
const RUN_BYTES: u64 = 1 << 20;
/// The same in slices.
const RUN_SLICES: usize = 512;

/// Live connections to one peer.
pub(super) struct TcpRoute {
    peer: Arc<Peer>,
    lanes: Vec<Arc<Lane>>,
    /// Threads that can move bytes at the same time.
    movers: usize,
    next_lane: AtomicUsize,
}

impl TcpRoute {
    pub(super) fn new(
        address: &PeerAddress,
        wire: Wire,
        identities: Arc<Identities>,
        tcp: &Tcp,
    ) -> Result<Arc<TcpRoute>> {
        let (settings, workers) = (&tcp.settings, &tcp.workers);
        let descriptor = &address.descriptor;
        let (host, port) = (&address.host, descriptor.tcp_data_port);
        let timeout = settings.connect_timeout;
        let addresses = resolve_before(host, port, Family::Any, timeout, &tcp.ending)
            .map_err(|error| error.with("segment", &address.name))?;
        let peer = Arc::new(Peer {
            name: address.name.clone(),
            addresses,
            wire,
            instance: descriptor.native.as_ref().map_or([0; 16], |native| native.instance),
            settings: Arc::clone(settings),
            identities,
            recovery: Arc::clone(&tcp.recovery),
            metrics: Arc::clone(&tcp.metrics),
            health: Health::new(settings.cooldown, Instant::now()),
        });
        let count = match wire {
            Wire::V1 { .. } => settings.v1_connections,
            Wire::V2 | Wire::Native => settings.lanes,
        };
        let lanes = (0..count.max(1))
            .map(|index| Lane::new(&peer, &workers[index % workers.len()], index))
            .collect();
        Ok(Arc::new(TcpRoute {
            peer,
            lanes,
            movers: workers.len(),
            next_lane: AtomicUsize::new(0),
        }))
    }

    fn chosen(&self, rails: Rails) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.iter().enumerate().filter(move |(index, _)| rails.has(*index)).map(|(_, l)| l)
    }

    /// The lane of the calling thread: callers that work at the same time use different ones.
    fn home(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: Cell<Option<usize>> = const { Cell::new(None) };
        }
        let own = OWN.with(|own| match own.get() {
            Some(number) => number,
            None => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                own.set(Some(number));
                number
            }
        });
        own % self.lanes.len()
    }

    /// Gives one lane slices until `enough` or the source is empty; returns a slice too many.
    fn fill(
        &self,
        lane: usize,
        first: Slice,
        slices: &mut dyn Iterator<Item = Slice>,
        runs: bool,
    ) -> Option<Slice> {
        let mut next = Some(first);
        let mut bytes = 0;
        let mut count = 0;
        let mut rest = None;
        self.lanes[lane].submit(|| {
            let slice = next.take().or_else(|| slices.next())?;
            if runs && count > 0 && (bytes >= RUN_BYTES || count >= RUN_SLICES) {
                rest = Some(slice);
                return None;
            }
            bytes += slice.length;
            count += 1;
            Some(slice)
        });
        rest
    }
}

impl Route for TcpRoute {
    fn split_rule(&self) -> SplitRule {
        let settings = &self.peer.settings;
        match self.peer.wire {
            // A v1 request is a connection; more of them help nobody.
            Wire::V1 { .. } => SplitRule {
                slice_bytes_max: limits::REQUEST_BYTES_MAX,
                stripe_bytes_min: u64::MAX,
                rails: 1,
            },
            Wire::V2 => SplitRule {
                slice_bytes_max: limits::V2_SLICE_BYTES_MAX,
                stripe_bytes_min: settings.stripe_bytes_min,
                rails: self.movers.min(self.lanes.len()) as u32,
            },
            Wire::Native => SplitRule {
                slice_bytes_max: limits::NATIVE_FRAME_BYTES_MAX,
                stripe_bytes_min: settings.stripe_bytes_min,
                rails: self.movers.min(self.lanes.len()) as u32,
            },
        }
    }

    fn submit(&self, slices: &mut dyn Iterator<Item = Slice>, driver: Driver) -> Rails {
        let mut used = Rails::default();
        let single = matches!(self.peer.wire, Wire::V1 { .. });
        let runs = single || self.movers > 1;
        let mut lane = match single {
            true => self.next_lane.fetch_add(1, Ordering::Relaxed) % self.lanes.len(),
            false => self.home(),
        };
        let mut next = slices.next();
        while let Some(first) = next.take() {
            next = match single {
                true => {
                    let mut one = std::iter::empty();
                    self.fill(lane, first, &mut one, false);
                    slices.next()
                }
                false => self.fill(lane, first, slices, runs),
            };
            let index = lane;
            lane = (lane + 1) % self.lanes.len();
            match driver {
                Driver::Caller if used.has(index) => {}
                Driver::Caller => self.attend(Rails::one(index)),
                Driver::Onlookers => self.lanes[index].leave_to_onlookers(),
                Driver::Threads => self.lanes[index].hand_over(),
            }
            used.add(Rails::one(index));
        }
        used
    }

    fn attend(&self, rails: Rails) {
        for lane in self.chosen(rails) {
            lane.attend();
            lane.disarm();
        }
    }

    fn progress(&self, rails: Rails) -> bool {
        let mut has_moved = false;
        for lane in self.chosen(rails) {
            has_moved |= lane.progress();
        }
        has_moved
    }

    fn wait_sources(&self, rails: Rails, into: &mut Vec<WaitSource>) {
        into.extend(self.chosen(rails).filter_map(|lane| lane.wait_source()));
    }

    fn release(&self, rails: Rails) {
        for lane in self.chosen(rails) {
            lane.release();
        }
    }

    fn cancel(&self, owner: OwnerId, error: &Error) {
        for lane in &self.lanes {
            lane.cancel(owner, error);
        }
    }

    fn close(&self, error: &Error) {
        for lane in &self.lanes {
            lane.close(error);
        }
    }

    fn retire(&self) {
        for lane in &self.lanes {
            lane.retire();
        }
    }

    fn is_down(&self) -> bool {
        self.peer.health.is_down()
    }

    fn dump(&self) -> serde_json::Value {
        let addresses: Vec<String> = self.peer.addresses.iter().map(|a| a.to_string()).collect();
        json!({
            "wire": match self.peer.wire {
                Wire::V1 { .. } => "v1",
                Wire::V2 => "v2",
                Wire::Native => "native",
            },
            "addresses": addresses,
            "lanes": self.lanes.len(),
            "connected": self.lanes.iter().filter(|lane| lane.is_connected()).count(),
        })
    }
}

impl Drop for TcpRoute {
    fn drop(&mut self) {
        self.close(&Error::new(ErrorKind::Cancelled, "the segment was closed"));
    }
}
