//! The engine: registered memory, transports, open segments and batches of one participant.
//!
//! Lives in this order and dies in the reverse: control threads, transports with their listeners
//! and data threads, the handshake server, the published descriptor. Everything hangs on
//! [`Shared`]; threads hold it weakly.
//!
//! Lock order (take from left to right, never the other way): `registration` > a batch's `desk` > a
//! segment's `refreshing` > the segment table > the registry > `descriptor`. None is held across a
//! call that can block, except `registration` and `refreshing`, which exist to serialise such
//! calls, and `desk` where `disable_metacache` has every submission fetch the descriptor.

mod batch;
mod control;
mod create;
mod dump;
mod failover;
mod notify;
mod plan;
mod questions;
mod recent;
mod registry;
mod remote;
mod renew;
mod segment;
mod slices;
mod submit;
mod sync;
mod topology;
mod wait;
mod watch;
mod way;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

pub use crate::memory::Access;
pub use crate::transport::Operation;
pub use batch::{BatchProgress, TaskState, TaskStatus};
pub use notify::Notification;
pub use segment::{SegmentBuffer, SegmentId, LOCAL_SEGMENT};
pub use submit::{Batch, Request};

use crate::config::EngineConfig;
use crate::descriptor::{
    BufferDescriptor, NativeBuffer, NativeExtension, PeerAddress, SegmentDescriptor,
};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{location_is_valid, Region};
use crate::metadata::document::RpcMeta;
use crate::metadata::handshake_server::HandshakeServer;
use crate::metadata::Directory;
use crate::metrics::Metrics;
use crate::net::ending::Ending;
use crate::net::wake::EventFd;
use crate::time::Deadline;
use crate::transport::{Recovery, RegionKeys, Transport};

use control::{Control, Job};
use registry::{Placement, Registry};
use segment::{Parked, Segment, SegmentState, SegmentTable};
use watch::Watch;

/// A buffer to register.
#[derive(Clone, Debug)]
pub struct BufferSpec {
    /// First address.
    pub address: usize,
    /// Bytes.
    pub length: usize,
    /// Where it lives: `cpu:N`, `cuda:N`, `npu:N`, or `*` for "find out".
    pub location: String,
    /// What peers may do with it.
    pub access: Access,
}

/// A participant. Clones are handles to the same engine; it ends with the last one, or earlier by
/// [`Engine::shutdown`].
#[derive(Clone)]
pub struct Engine(Arc<Owner>);

/// Ends the engine when the last handle goes, whoever else still holds [`Shared`].
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// The state behind all handles.
struct Shared {
    config: EngineConfig,
    local_name: String,
    /// Published host and port of the handshake plane.
    location: RpcMeta,
    /// Where listeners of transports bind, `None` for everywhere.
    listen: Option<IpAddr>,
    instance: [u8; 16],
    host_id: String,
    /// Why names and addresses are what they are, for the dump.
    reasons: Vec<String>,
    topology: topology::HostTopology,
    registry: Arc<Registry>,
    transports: RwLock<Vec<Arc<dyn Transport>>>,
    recovery: Arc<dyn Recovery>,
    directory: Arc<dyn Directory>,
    segments: SegmentTable,
    control: Control,
    watch: Watch,
    handshake: Mutex<Option<HandshakeServer>>,
    notifications: notify::Inbox,
    metrics: Arc<Metrics>,
    registration: Mutex<()>,
    /// The own descriptor, until registering something makes it stale.
    descriptor: Mutex<Option<Arc<SegmentDescriptor>>>,
    /// Event descriptors lent to waiting threads.
    wakers: Mutex<Vec<Arc<EventFd>>>,
    /// Batches lent to one-call transfers.
    idle_batches: Mutex<Vec<Arc<submit::BatchShared>>>,
    closed: Arc<Ending>,
}

fn shutdown_error() -> Error {
    Error::new(ErrorKind::Shutdown, "the engine is being destroyed")
}

impl Engine {
    /// The name under which peers open the own segment.
    pub fn local_name(&self) -> &str {
        &self.0 .0.local_name
    }

    /// Published host.
    pub fn host(&self) -> &str {
        &self.0 .0.location.ip_or_host_name
    }

    /// Port of the handshake plane.
    pub fn rpc_port(&self) -> u16 {
        self.0 .0.location.rpc_port
    }

    /// Port of the TCP data plane, 0 without one.
    pub fn data_port(&self) -> u16 {
        self.0 .0.data_port()
    }

    /// Makes buffers usable for transfers, all or none. Exactly repeating a registration counts;
    /// overlapping another one is an error. Publishes the change once.
    pub fn register(&self, buffers: &[BufferSpec]) -> Result<()> {
        self.0 .0.register(buffers)
    }

    /// True if exactly this range is registered.
    pub fn is_registered(&self, address: usize, length: usize) -> bool {
        let region = self.0 .0.registry.find(address as u64, length as u64);
        region.is_ok_and(|region| region.address() == address && region.length() == length)
    }

    /// Takes registrations back, by their first addresses; all must be registered. When this
    /// returns, memory whose last registration ended is not touched any more; transfers that were
    /// using it fail.
    pub fn unregister(&self, addresses: &[usize]) -> Result<()> {
        self.0 .0.unregister(addresses)
    }

    /// Opens the segment of a peer. A name that is open already gives the same handle, counted
    /// once more. Blocks for the metadata service, at most the transfer timeout.
    pub fn open_segment(&self, name: &str) -> Result<SegmentId> {
        self.0 .0.open(name, false, self.0 .0.default_deadline())
    }

    /// As [`Engine::open_segment`], but never from the cache.
    pub fn open_segment_fresh(&self, name: &str) -> Result<SegmentId> {
        self.0 .0.open(name, true, self.0 .0.default_deadline())
    }

    /// Takes one opening back. With the last one the handle becomes invalid and what is in flight
    /// to the segment fails.
    pub fn close_segment(&self, id: SegmentId) -> Result<()> {
        self.0 .0.close(id)
    }

    /// Fetches the descriptor again. Blocks like opening does.
    pub fn refresh_segment(&self, id: SegmentId) -> Result<()> {
        let shared = &self.0 .0;
        shared.ensure_open()?;
        let segment = shared.segments.get(id)?;
        shared.refresh(&segment, shared.default_deadline())
    }

    /// Forgets what is known of a name; an open handle stays valid and is fetched again.
    pub fn forget_segment(&self, name: &str) -> Result<()> {
        let shared = &self.0 .0;
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "an empty segment name"));
        }
        match shared.segments.find(name, false) {
            Some(segment) => shared.refresh(&segment, shared.default_deadline()),
            None => Ok(()),
        }
    }

    /// The buffers that the segment's owner published.
    pub fn segment_buffers(&self, id: SegmentId) -> Result<Vec<SegmentBuffer>> {
        self.0 .0.segment_buffers(id)
    }

    /// Asks the owner of a segment whether it is alive.
    pub fn probe_segment(&self, id: SegmentId, timeout: Duration) -> Result<()> {
        self.0 .0.probe(id, timeout)
    }

    /// A batch for up to `capacity` requests.
    pub fn create_batch(&self, capacity: usize) -> Result<Batch> {
        Batch::new(&self.0 .0, capacity)
    }

    /// Moves bytes and returns when all requests ended, the calling thread doing the work. Fails
    /// with the first failed request's error. Without `timeout`, the configured one.
    pub fn transfer(&self, requests: &[Request], timeout: Option<Duration>) -> Result<()> {
        submit::transfer(&self.0 .0, requests, timeout)
    }

    /// Sends a notification to the owner of a segment and waits for its acknowledgement.
    pub fn notify(
        &self,
        id: SegmentId,
        notification: &Notification,
        timeout: Duration,
    ) -> Result<()> {
        self.0 .0.ensure_open()?;
        self.0 .0.notify(id, notification, timeout)
    }

    /// Takes all notifications that arrived, oldest first.
    pub fn take_notifications(&self) -> Vec<Notification> {
        self.0 .0.notifications.take()
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0 .0.metrics
    }

    /// Everything found and chosen, and why.
    pub fn dump(&self) -> serde_json::Value {
        self.0 .0.dump()
    }

    /// Adds a transport by name; registered memory is registered with it too. Adding one that is
    /// there already does nothing.
    pub fn install_transport(&self, protocol: &str) -> Result<()> {
        create::install_transport(&self.0 .0, protocol)
    }

    /// True if the transport is installed.
    pub fn has_transport(&self, protocol: &str) -> bool {
        self.0 .0.transports.read().iter().any(|transport| transport.name() == protocol)
    }

    /// Ends the engine: cancels what is in flight, removes what was published, ends all threads
    /// and lets go of all memory. Later calls fail with `Shutdown`. Repeating it does nothing.
    pub fn shutdown(&self) {
        self.0 .0.shutdown();
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.has_begun()
    }

    fn ensure_open(&self) -> Result<()> {
        if self.is_closed() {
            return Err(shutdown_error());
        }
        Ok(())
    }

    fn data_port(&self) -> u16 {
        self.transports.read().iter().map(|t| t.data_port()).max().unwrap_or(0)
    }

    fn default_timeout(&self) -> Duration {
        Duration::from_millis(self.config.transfer_timeout_ms.into())
    }

    fn default_deadline(&self) -> Deadline {
        Deadline::within(self.default_timeout())
    }

    fn register(&self, buffers: &[BufferSpec]) -> Result<()> {
        let _registration = self.registration.lock();
        self.ensure_open()?;
        let mut added: Vec<usize> = Vec::new();
        let mut repeated: Vec<usize> = Vec::new();
        let mut outcome = Ok(());
        for spec in buffers {
            outcome = self.register_one(spec).map(|placement| match placement {
                Placement::New => added.push(spec.address),
                Placement::Repeat => repeated.push(spec.address),
            });
            if outcome.is_err() {
                break;
            }
        }
        // Buffers that no peer may touch are not published, so they change nothing for peers.
        if outcome.is_ok() && buffers.iter().any(|spec| spec.access != Access::LOCAL) {
            outcome = if added.is_empty() { Ok(()) } else { self.publish() };
        }
        if outcome.is_err() {
            for address in repeated {
                self.registry.release(address);
            }
            let regions: Vec<_> =
                added.iter().filter_map(|address| self.registry.release(*address)).collect();
            self.descriptor.lock().take();
            outcome = outcome.and(self.let_go(&regions));
        }
        outcome
    }

    fn register_one(&self, spec: &BufferSpec) -> Result<Placement> {
        if !location_is_valid(&spec.location) {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a location")
                .with("location", spec.location.escape_debug()));
        }
        // The key is what a native peer must present; it cannot be guessed or reused.
        let key = crate::net::random::u64()?.max(1);
        let region = Region::new(spec.address, spec.length, &spec.location, spec.access, key)?;
        let placement =
            self.registry.place(spec.address, spec.length, &spec.location, spec.access)?;
        if matches!(placement, Placement::Repeat) {
            self.registry.repeat(spec.address);
            return Ok(placement);
        }
        crate::memory::check_mapped(spec.address, spec.length)?;
        let region = Arc::new(region);
        let keys = self.register_everywhere(&region)?;
        self.registry.insert(region, keys);
        Ok(placement)
    }

    /// Registers a region with every transport, or with none.
    fn register_everywhere(&self, region: &Arc<Region>) -> Result<Vec<RegionKeys>> {
        let transports = self.transports.read().clone();
        let mut keys = Vec::with_capacity(transports.len());
        for (index, transport) in transports.iter().enumerate() {
            match transport.register(region) {
                Ok(own) => keys.push(own),
                Err(error) => {
                    for done in &transports[..index] {
                        done.unregister(region)?;
                    }
                    return Err(error.with("transport", transport.name()));
                }
            }
        }
        Ok(keys)
    }

    fn unregister(&self, addresses: &[usize]) -> Result<()> {
        let _registration = self.registration.lock();
        self.ensure_open()?;
        let mut wanted = std::collections::HashMap::new();
        for address in addresses {
            *wanted.entry(*address).or_insert(0u32) += 1;
        }
        for (address, times) in &wanted {
            if self.registry.count(*address).is_none_or(|count| count < *times) {
                return Err(Error::new(
                    ErrorKind::NotRegistered,
                    "no buffer is registered at this address",
                )
                .with("address", format_args!("{address:#x}")));
            }
        }
        let regions: Vec<_> =
            addresses.iter().filter_map(|address| self.registry.release(*address)).collect();
        let gone = self.let_go(&regions);
        if regions.iter().all(|region| region.access() == Access::LOCAL) {
            return gone;
        }
        gone.and(self.publish())
    }

    fn publish(&self) -> Result<()> {
        self.descriptor.lock().take();
        if self.directory.is_passive() {
            return Ok(());
        }
        let descriptor = self.own_descriptor();
        self.directory.publish(&descriptor, &self.location, self.default_deadline())
    }

    fn own_descriptor(&self) -> Arc<SegmentDescriptor> {
        let mut cached = self.descriptor.lock();
        if let Some(descriptor) = &*cached {
            return Arc::clone(descriptor);
        }
        let mut descriptor = SegmentDescriptor {
            name: self.local_name.clone(),
            timestamp: crate::time::local_timestamp(),
            ..SegmentDescriptor::default()
        };
        let mut native = NativeExtension {
            buffers: Vec::new(),
            capabilities: 0,
            host_id: self.host_id.clone(),
            instance: self.instance,
            version: crate::transport::tcp::NATIVE_VERSION,
        };
        for entry in self.registry.entries() {
            let region = &entry.region;
            if region.access() == Access::LOCAL {
                continue;
            }
            let keys = entry.keys.into_iter().find(|keys| !keys.remote.is_empty());
            let keys = keys.unwrap_or_default();
            descriptor.buffers.push(BufferDescriptor {
                // TCP readers upstream want the segment's name here, not a location.
                name: self.local_name.clone(),
                addr: region.address() as u64,
                length: region.length() as u64,
                lkey: keys.local,
                rkey: keys.remote,
            });
            native.buffers.push(NativeBuffer {
                access: region.access().bits(),
                key: region.key(),
                location: region.location().to_owned(),
            });
        }
        descriptor.native = Some(native);
        for transport in self.transports.read().iter() {
            transport.publish(&mut descriptor);
        }
        let descriptor = Arc::new(descriptor);
        *cached = Some(Arc::clone(&descriptor));
        descriptor
    }

    fn open(&self, name: &str, fresh: bool, deadline: Deadline) -> Result<SegmentId> {
        self.ensure_open()?;
        // Upstream drops one leading slash.
        let name = name.strip_prefix('/').unwrap_or(name);
        if name.is_empty() || name.len() > crate::limits::NAME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a segment name has 1 to {} bytes", crate::limits::NAME_BYTES_MAX),
            )
            .with("length_bytes", name.len()));
        }
        if name == self.local_name {
            return Ok(LOCAL_SEGMENT);
        }
        if let Some(segment) = self.segments.find(name, true) {
            if fresh || self.config.disable_metacache {
                if let Err(error) = self.refresh(&segment, deadline) {
                    let _ = self.segments.close(segment.id);
                    return Err(error);
                }
            }
            return Ok(segment.id);
        }
        let state = self.fetch(name, deadline)?;
        Ok(self.segments.insert(name, state)?.id)
    }

    fn fetch(&self, name: &str, deadline: Deadline) -> Result<SegmentState> {
        let peer = self.directory.fetch(name, deadline).map_err(|error| {
            match error.context("segment") {
                Some(_) => error,
                None => error.with("segment", name),
            }
        })?;
        let way = self.way(&peer)?;
        Ok(SegmentState::remote(Arc::new(peer), way))
    }

    /// Fetches the descriptor again and replaces the route if the way to the peer changed.
    fn refresh(&self, segment: &Arc<Segment>, deadline: Deadline) -> Result<()> {
        let before = segment.state()?;
        let Some(old_peer) = &before.peer else { return Ok(()) };
        let Some(_refreshing) = segment.refreshing.try_lock_until(deadline.instant()) else {
            let text = "another thread is still fetching the descriptor";
            return Err(Error::new(ErrorKind::Timeout, text).with("segment", &segment.name));
        };
        // Somebody else refreshed while this thread waited for its turn.
        if !Arc::ptr_eq(&segment.state()?, &before) {
            return Ok(());
        }
        self.metrics.refreshes.inc();
        let peer = self
            .directory
            .fetch(&segment.name, deadline)
            .map_err(|error| error.with("segment", &segment.name))?;
        let state = if same_way(old_peer, &peer) {
            SegmentState::remote(Arc::new(peer), before.way.clone())
        } else {
            let way = self.way(&peer)?;
            SegmentState::remote(Arc::new(peer), way)
        };
        let moved = !Arc::ptr_eq(&state.way.route, &before.way.route);
        // Fails if the segment was closed meanwhile; a new route then ends with its last use here.
        if segment.advance(&before, state) && moved {
            // What is still on the old route comes back here and goes out on the new one.
            before.way.route.retire();
        }
        Ok(())
    }

    fn close(&self, id: SegmentId) -> Result<()> {
        let Some(segment) = self.segments.close(id)? else { return Ok(()) };
        let error = Error::new(ErrorKind::Cancelled, "the segment was closed")
            .with("segment", &segment.name);
        if let Some(state) = segment.replace(None) {
            state.way.route.close(&error);
        }
        for Parked { slice, .. } in segment.empty() {
            slice.fail(error.clone());
        }
        Ok(())
    }

    fn segment_buffers(&self, id: SegmentId) -> Result<Vec<SegmentBuffer>> {
        self.ensure_open()?;
        let segment = self.segments.get(id)?;
        let state = segment.state()?;
        let own;
        let descriptor = match &state.peer {
            Some(peer) => &peer.descriptor,
            None => {
                own = self.own_descriptor();
                &*own
            }
        };
        let native = descriptor.native.as_ref();
        let location = |index: usize| {
            native.and_then(|n| n.buffers.get(index)).map_or("*", |b| b.location.as_str())
        };
        Ok(descriptor
            .buffers
            .iter()
            .enumerate()
            .map(|(index, buffer)| SegmentBuffer {
                address: buffer.addr,
                length: buffer.length,
                location: location(index).to_owned(),
            })
            .collect())
    }

    /// Puts a failed slice aside for a control thread.
    fn park(&self, segment: &Arc<Segment>, parked: Parked) {
        let deadline = parked.slice.deadline;
        let is_first = segment.park(parked);
        self.watch.before(deadline);
        if !is_first {
            return;
        }
        if let Err(Job::Repair(segment)) = self.control.queue(Job::Repair(Arc::clone(segment))) {
            let error = if self.is_closed() {
                shutdown_error()
            } else {
                Error::new(ErrorKind::LimitReached, "too many segments wait for a repair")
            };
            for Parked { slice, .. } in segment.empty() {
                slice.fail(error.clone());
            }
        }
    }

    fn shutdown(&self) {
        if !self.closed.begin() {
            return;
        }
        let error = shutdown_error();
        if let Some(mut server) = self.handshake.lock().take() {
            server.stop();
        }
        if !self.directory.is_passive() {
            let deadline = Deadline::after(Instant::now(), crate::limits::WITHDRAW_TIMEOUT);
            if let Err(error) = self.directory.withdraw(&self.local_name, deadline) {
                log::warn!("the published descriptor could not be removed: {error}");
            }
        }
        for segment in self.segments.all() {
            if let Ok(state) = segment.state() {
                state.way.route.close(&error);
            }
        }
        let transports = std::mem::take(&mut *self.transports.write());
        for transport in &transports {
            transport.shutdown();
        }
        self.watch.stop();
        self.control.stop();
        for segment in self.segments.all() {
            // A repair may have made another route meanwhile.
            if let Ok(state) = segment.state() {
                state.way.route.close(&error);
            }
            for Parked { slice, .. } in segment.empty() {
                slice.fail(error.clone());
            }
        }
        // The transports have ended, and with them every hold that a peer had.
        for region in self.registry.take_all() {
            region.close();
        }
        self.idle_batches.lock().clear();
        self.wakers.lock().clear();
    }
}

/// True if the connections to the peer can stay when its descriptor changed.
fn same_way(old: &PeerAddress, new: &PeerAddress) -> bool {
    let life = |peer: &PeerAddress| peer.descriptor.native.as_ref().map(|n| n.instance);
    old.host == new.host
        && old.descriptor.tcp_data_port == new.descriptor.tcp_data_port
        && old.descriptor.tcp_proto_version == new.descriptor.tcp_proto_version
        && old.descriptor.protocol == new.descriptor.protocol
        && life(old) == life(new)
}
