//! Opening a client: memory, engine, master, segments, in that order; a failure undoes what was
//! done.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::{Access, Mapping, Pages};
use crate::net::address::{self, PortSource};
use crate::net::port::{bind_listener, PortRule};
use crate::pool::identity::{ClientId, SegmentId, Uuid};
use crate::pool::segment::Segment;
use crate::time::Deadline;

use super::attend::{tolerate, Attendant};
use super::buffers::LocalBuffers;
use super::calls::Calls;
use super::client::{let_go, Gate, Owner, Pulse, Shared, Store};
use super::engine_mover::engine_mover;
use super::files::{begin_files, FileTier};
use super::held::Held;
use super::master::Master;
use super::metrics::StoreMetrics;
use super::mover::Mover;
use super::options::StoreOptions;
use super::own::{OwnMemory, Piece};

/// What a client is made of; [`Store::open`] makes them from options, tests by themselves.
pub struct Parts {
    /// The way to the master.
    pub master: Arc<dyn Master>,
    /// The way bytes travel.
    pub mover: Arc<dyn Mover>,
    /// Name of the client and of its segments.
    pub hostname: String,
    /// Bytes given to the pool; 0 for a client that only reads and writes.
    pub segment_bytes: u64,
    /// Longest single segment.
    pub segment_bytes_max: u64,
    /// Bytes for objects that are read into memory of the client.
    pub local_buffer_bytes: u64,
    /// Pages of both.
    pub pages: Pages,
    /// Copies inside the process do not go through the engine.
    pub is_copied: bool,
    /// Time of an operation for which the caller gives none.
    pub timeout: Duration,
    /// Time of one call to the master.
    pub master_timeout: Duration,
    /// How the memory is reached, as published.
    pub protocol: String,
}

impl Store {
    /// Opens a client with an engine of its own. Blocks for the metadata service and the master.
    pub fn open(options: &StoreOptions) -> Result<Store> {
        Store::open_at(options, options.connect()?)
    }

    /// As [`Store::open`], with another way to the master than an address.
    pub fn open_at(options: &StoreOptions, master: Arc<dyn Master>) -> Result<Store> {
        let (hostname, port) = options.choose_name()?;
        let engine = Engine::create(options.engine_config(&hostname)?)?;
        Store::open_with(options, &engine, false, hostname, port, master)
    }

    /// Opens a client over an engine of the caller, which stays open when the client is closed.
    pub fn open_on(options: &StoreOptions, engine: &Engine) -> Result<Store> {
        let (hostname, port) = options.choose_name()?;
        Store::open_with(options, engine, true, hostname, port, options.connect()?)
    }

    fn open_with(
        options: &StoreOptions,
        engine: &Engine,
        is_shared: bool,
        hostname: String,
        port: Option<TcpListener>,
        master: Arc<dyn Master>,
    ) -> Result<Store> {
        let parts = Parts {
            master,
            mover: engine_mover(engine.clone(), is_shared),
            hostname,
            segment_bytes: options.segment_bytes,
            segment_bytes_max: options.config.store_segment_bytes_max,
            local_buffer_bytes: options.local_buffer_bytes,
            pages: options.pages()?,
            is_copied: options.config.store_memcpy,
            timeout: Duration::from_millis(options.config.transfer_timeout_ms.into()),
            master_timeout: Duration::from_millis(options.config.store_master_timeout_ms.into()),
            protocol: "tcp".to_owned(),
        };
        Store::assemble_with(parts, port)
    }

    /// Opens a client from its parts: mounts the segments and starts the thread.
    pub fn assemble(parts: Parts) -> Result<Store> {
        Store::assemble_with(parts, None)
    }

    fn assemble_with(parts: Parts, port: Option<TcpListener>) -> Result<Store> {
        let mut client = [0; 16];
        crate::net::random::fill(&mut client)?;
        let client = ClientId(Uuid::from_bytes(client));
        let endpoint = parts.mover.endpoint().to_owned();
        let pieces = allocate(&parts, &endpoint)?;
        let buffers = match parts.local_buffer_bytes {
            0 => None,
            bytes => Some(Mapping::new(size(bytes)?, parts.pages.private())?),
        };
        let shared = Arc::new(Shared {
            hostname: parts.hostname,
            timeout: parts.timeout,
            calls: Calls::new(parts.master, client, parts.master_timeout),
            mover: parts.mover,
            own: OwnMemory {
                endpoint,
                pieces,
                is_copied: parts.is_copied,
                mounts: parking_lot::RwLock::default(),
            },
            buffers: Arc::new(LocalBuffers::new(buffers)),
            files: FileTier::default(),
            held: Arc::new(Mutex::new(Held::default())),
            open_puts: Mutex::default(),
            can_keep: AtomicBool::new(false),
            metrics: StoreMetrics::default(),
            mounting: Mutex::new(()),
            gate: Gate::default(),
            pulse: Mutex::new(Pulse::default()),
            is_fence_due: AtomicBool::new(false),
            registered: Mutex::default(),
            _port: port,
        });
        if let Err(error) = begin(&shared) {
            undo(&shared);
            return Err(error);
        }
        let attendant = match Attendant::start(&shared) {
            Ok(attendant) => attendant,
            Err(error) => {
                undo(&shared);
                return Err(error);
            }
        };
        Ok(Store(Arc::new(Owner { shared, attendant: Mutex::new(Some(attendant)) })))
    }
}

/// Registers the memory, greets the master, and mounts.
fn begin(shared: &Arc<Shared>) -> Result<()> {
    for segment in shared.own.segments() {
        shared.mover.register(segment.base as usize, segment.size as usize, Access::ALL)?;
    }
    if let Some(range) = shared.buffers.range() {
        shared.mover.register(range.address, range.length, Access::LOCAL)?;
    }
    let deadline = shared.deadline(None);
    shared.calls.find_master(deadline)?;
    shared.calls.ready(deadline)?;
    if shared.calls.is_native() {
        let life = shared.calls.greet(deadline)?;
        shared.held.lock().meet(life);
        let can_keep = shared.calls.keep(Vec::new(), Vec::new(), deadline).is_ok();
        shared.can_keep.store(can_keep, Ordering::Relaxed);
    }
    for segment in shared.own.segments() {
        shared
            .calls
            .mount(&segment, deadline)
            .map_err(|error| error.with("segment", segment.id).with("size_bytes", segment.size))?;
    }
    // A client is known only after it has mounted "again".
    shared.calls.remount(shared.own.segments(), deadline)?;
    if shared.calls.is_native() {
        // Until it has told what its segments hold, a native master is careful with them.
        tolerate(shared.calls.report(Vec::new(), true, deadline))?;
    }
    begin_files(shared, deadline)?;
    shared.pulse.lock().answered = Some(std::time::Instant::now());
    Ok(())
}

fn undo(shared: &Shared) {
    let deadline = Deadline::within(Duration::from_secs(1));
    drop(shared.files.finish(Duration::from_secs(1)));
    for segment in shared.own.segments() {
        if shared.calls.unmount(segment.id, deadline).is_err() {
            break;
        }
    }
    shared.calls.close();
    let_go(shared);
}

/// Maps the memory of the pool, in pieces of at most the longest segment.
fn allocate(parts: &Parts, endpoint: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let most = parts.segment_bytes_max.max(limits::STORE_SEGMENT_BYTES_MIN);
    let mut rest = parts.segment_bytes;
    while rest > 0 {
        if pieces.len() >= limits::CLIENT_SEGMENTS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, "too many segments for this size")
                .with("segment_bytes", parts.segment_bytes)
                .with("segment_bytes_max", most));
        }
        let bytes = rest.min(most);
        rest -= bytes;
        let mapping = Mapping::new(size(bytes)?, parts.pages)
            .map_err(|error| error.with("for", "a segment of the pool"))?;
        let mut id = [0; 16];
        crate::net::random::fill(&mut id)?;
        let segment = Segment {
            id: SegmentId(Uuid::from_bytes(id)),
            name: parts.hostname.clone(),
            base: mapping.address() as u64,
            size: mapping.length() as u64,
            endpoint: endpoint.to_owned(),
            protocol: parts.protocol.clone(),
        };
        pieces.push(Piece::new(segment, Arc::new(mapping))?);
    }
    Ok(pieces)
}

fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::new(ErrorKind::InvalidArgument, "impossible size"))
}

impl StoreOptions {
    /// The name of the client, `host:port`. Without a port in the options one is drawn and kept
    /// occupied, so that clients of one host have different names.
    fn choose_name(&self) -> Result<(String, Option<TcpListener>)> {
        let given = self.local_hostname.as_str();
        let parsed = address::parse_host_port(given, 0)?;
        if parsed.port_source != PortSource::Missing {
            return Ok((given.to_owned(), None));
        }
        let rule = PortRule::Range {
            min: self.config.store_port_min,
            max: self.config.store_port_max.max(self.config.store_port_min),
        };
        let listener = bind_listener(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), rule, false, 1)
            .map_err(|error| error.with("for", "the name of the store client"))?;
        let port = listener.local_addr().map(|address| address.port()).map_err(|error| {
            Error::io(ErrorKind::Resource, "a listening socket has no address", error)
        })?;
        Ok((address::join_host_port(&parsed.host, port), Some(listener)))
    }

    fn pages(&self) -> Result<Pages> {
        if !self.config.store_huge_pages {
            // Peers on this host then map the segments, and copy objects themselves.
            let is_shared = self.config.same_host && !self.config.force_tcp;
            return Ok(if is_shared { Pages::Shared } else { Pages::Ordinary });
        }
        let bytes = super::options::parse_size(&self.config.store_huge_page_size)?;
        Ok(Pages::Huge(size(bytes)?))
    }
}
