//! Putting an engine together: names, ports, transports, metadata, in that order.

use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Once, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::config::{unknown_environment_names, EngineConfig, ProcessEnvironment};
use crate::descriptor::{Dialect, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::metadata::backend;
use crate::metadata::directory::StoreDirectory;
use crate::metadata::document::RpcMeta;
use crate::metadata::handshake_server::{HandshakeHandler, HandshakeServer};
use crate::metadata::p2p::{HandshakeClient, OwnSegment, P2pDirectory};
use crate::metadata::Directory;
use crate::metrics::Metrics;
use crate::net::address::{self, Family};
use crate::net::ending::Ending;
use crate::net::handshake::{ConnectionMessage, NotifyMessage, NULL_LINE};
use crate::net::interface::{self, ChoiceRules};
use crate::net::port::{bind_listener, PortRule};
use crate::net::resolve::resolve_within;
use crate::transport::loopback::{self, Faults, Loopback};
use crate::transport::shm::{self, Shm};
use crate::transport::tcp::{Settings, Tcp};
use crate::transport::{Recovery, RegionTable, Transport};

use super::control::{Control, SegmentRecovery};
use super::notify::{Inbox, Notification};
use super::registry::Registry;
use super::segment::{SegmentState, SegmentTable};
use super::topology::{choose_protocols, known_protocol, HostTopology};
use super::watch::Watch;
use super::{Engine, Owner, Shared};

impl Engine {
    /// Starts an engine: binds its ports, starts its threads, publishes its descriptor. Blocks for
    /// the metadata service where there is one.
    pub fn create(mut config: EngineConfig) -> Result<Engine> {
        config.check()?;
        warn_once(&config);
        let closed = Arc::new(Ending::new()?);
        let directory = Lookup::parse(&config, &closed)?;
        let topology = HostTopology::new(&config);
        let (protocols, why) = choose_protocols(&config, &topology)?;
        let mut names = Names::choose(&config, matches!(directory, Lookup::P2p))?;
        names.reasons.push(why);
        let listener = bind_listener(
            names.listen,
            port_rule(names.rpc_port, &config),
            true,
            config.handshake_backlog,
        )
        .map_err(|error| error.with("for", "the handshake plane"))?;
        let rpc_port = local_port(&listener)?;
        let local_name = match directory {
            Lookup::Store(_) if !names.given.is_empty() => names.given.clone(),
            _ => address::join_host_port(&names.host, rpc_port),
        };
        let mut instance = [0; 16];
        crate::net::random::fill(&mut instance)?;
        let registry = Arc::new(Registry::default());
        let recovery = Arc::new(SegmentRecovery::new());
        let metrics = Arc::new(Metrics::default());
        let host_id = read_host_id();
        let parts = Parts {
            config: &config,
            listen: names.listen,
            host: &names.host,
            instance,
            name: &local_name,
            table: Arc::clone(&registry) as Arc<dyn RegionTable>,
            recovery: Arc::clone(&recovery) as Arc<dyn Recovery>,
            metrics: &metrics,
            host_id: &host_id,
        };
        let mut transports =
            protocols.iter().map(|protocol| parts.make(protocol)).collect::<Result<Vec<_>>>()?;
        let mut reasons = names.reasons;
        if protocols.contains(&"tcp") {
            match parts.make_near() {
                Ok(near) => transports.push(near),
                Err(why) => reasons.push(why),
            }
        }
        reasons.push(port_reason("handshake", rpc_port, names.rpc_port, &config));
        if let Some(port) = transports.iter().map(|t| t.data_port()).max().filter(|p| *p != 0) {
            reasons.push(port_reason("data", port, config.data_port, &config));
        }
        let (control, jobs) = Control::new();
        let segments = SegmentTable::default();
        let local_route = loopback::local_route(
            Arc::clone(&registry) as Arc<dyn RegionTable>,
            Arc::clone(&recovery) as Arc<dyn Recovery>,
        );
        segments.insert(&local_name, SegmentState::local(local_route))?;
        let shared = Arc::new_cyclic(|own: &Weak<Shared>| Shared {
            directory: directory.open(&config, &closed, Weak::clone(own) as Weak<dyn OwnSegment>),
            local_name,
            location: RpcMeta { ip_or_host_name: names.host, rpc_port },
            listen: names.listen,
            instance,
            host_id,
            reasons,
            topology,
            registry,
            transports: RwLock::new(transports),
            recovery: Arc::clone(&recovery) as Arc<dyn Recovery>,
            segments,
            control,
            watch: Watch::default(),
            handshake: Mutex::new(None),
            notifications: Inbox::default(),
            metrics,
            registration: Mutex::new(()),
            descriptor: Mutex::new(None),
            wakers: Mutex::default(),
            idle_batches: Mutex::default(),
            closed,
            config,
        });
        recovery.connect(&shared);
        // From here on an error drops the owner, which ends what was started.
        let engine = Engine(Arc::new(Owner(Arc::clone(&shared))));
        shared.control.start(&shared, jobs)?;
        shared.watch.start(&shared)?;
        let handler = Arc::new(Handler(Arc::downgrade(&shared)));
        let server = HandshakeServer::start(listener, handler, shared.config.handshake_bytes_max)?;
        *shared.handshake.lock() = Some(server);
        shared.publish()?;
        Ok(engine)
    }
}

/// Adds a transport to a running engine.
pub(super) fn install_transport(shared: &Arc<Shared>, protocol: &str) -> Result<()> {
    let _registration = shared.registration.lock();
    shared.ensure_open()?;
    if shared.transports.read().iter().any(|transport| transport.name() == protocol) {
        return Ok(());
    }
    let parts = Parts {
        config: &shared.config,
        listen: shared.listen,
        host: &shared.location.ip_or_host_name,
        instance: shared.instance,
        name: &shared.local_name,
        table: Arc::clone(&shared.registry) as Arc<dyn RegionTable>,
        recovery: Arc::clone(&shared.recovery),
        metrics: &shared.metrics,
        host_id: &shared.host_id,
    };
    let mut fresh = vec![parts.make(protocol)?];
    if protocol == "tcp" {
        // Without one the engine is slower, not broken.
        fresh.extend(parts.make_near().inspect_err(|why| log::debug!("{why}")).ok());
    }
    for transport in &fresh {
        for entry in shared.registry.entries() {
            match transport.register(&entry.region) {
                Ok(keys) => shared.registry.add_keys(entry.region.address(), keys),
                Err(error) => {
                    fresh.iter().for_each(|transport| transport.shutdown());
                    return Err(error.with("transport", protocol));
                }
            }
        }
    }
    shared.transports.write().extend(fresh);
    shared.publish()
}

pub(super) fn handshake_client(config: &EngineConfig, is_over: &Arc<Ending>) -> HandshakeClient {
    HandshakeClient {
        family: Family::Any,
        bytes_max: config.handshake_bytes_max,
        connect_timeout: Duration::from_millis(config.handshake_connect_timeout_ms.into()),
        default_port: config.handshake_port,
        is_over: Arc::clone(is_over),
    }
}

/// What transports are made from.
struct Parts<'a> {
    config: &'a EngineConfig,
    listen: Option<IpAddr>,
    host: &'a str,
    instance: [u8; 16],
    name: &'a str,
    table: Arc<dyn RegionTable>,
    recovery: Arc<dyn Recovery>,
    metrics: &'a Arc<Metrics>,
    host_id: &'a str,
}

impl Parts<'_> {
    /// The transport that stands in front of TCP for peers on this host, or why there is none.
    fn make_near(&self) -> std::result::Result<Arc<dyn Transport>, String> {
        if let Some(why) = shm::refusal(self.config, self.host_id) {
            return Err(format!("no transport shm: {why}"));
        }
        let metrics = Arc::clone(self.metrics);
        match Shm::start(self.config, self.instance, self.host_id, metrics) {
            Ok(shm) => Ok(Arc::new(shm)),
            Err(error) => Err(format!("no transport shm: {error}")),
        }
    }

    fn make(&self, protocol: &str) -> Result<Arc<dyn Transport>> {
        if known_protocol(protocol)? == "loopback" {
            let faults = Faults::parse(&self.config.loopback_faults)?;
            let recovery = Arc::clone(&self.recovery);
            return Ok(Arc::new(Loopback::new(self.instance, &self.table, recovery, faults)));
        }
        let listener = bind_listener(
            self.listen,
            port_rule(self.config.data_port, self.config),
            true,
            self.config.handshake_backlog.max(1024),
        )
        .map_err(|error| error.with("for", "the TCP data plane"))?;
        let settings = Settings::new(self.config, self.instance, self.name, self.host);
        let tcp = Tcp::start(
            settings,
            listener,
            Arc::clone(&self.table),
            Arc::clone(&self.recovery),
            Arc::clone(self.metrics),
        )?;
        Ok(Arc::new(tcp))
    }
}

fn port_rule(port: u16, config: &EngineConfig) -> PortRule {
    match port {
        0 => PortRule::Range { min: config.port_min, max: config.port_max },
        port => PortRule::Fixed(port),
    }
}

/// Why a plane has its port; `asked` is 0 where none was asked for.
fn port_reason(plane: &str, port: u16, asked: u16, config: &EngineConfig) -> String {
    match asked {
        0 => {
            let (min, max) = (config.port_min, config.port_max);
            format!("{plane} port {port}: a free one of {min}..{max}")
        }
        _ => format!("{plane} port {port}: asked for"),
    }
}

fn local_port(listener: &TcpListener) -> Result<u16> {
    listener
        .local_addr()
        .map(|address| address.port())
        .map_err(|error| Error::io(ErrorKind::Resource, "a listening socket has no address", error))
}

/// How names will be looked up.
enum Lookup {
    P2p,
    Store(StoreDirectory),
}

impl Lookup {
    fn parse(config: &EngineConfig, is_over: &Arc<Ending>) -> Result<Lookup> {
        let address = address::parse_metadata(&config.metadata)?;
        Ok(match backend::open(&address, config)? {
            None => Lookup::P2p,
            Some(store) => {
                let handshake = handshake_client(config, is_over);
                Lookup::Store(StoreDirectory::new(store, &config.cluster_id, handshake))
            }
        })
    }

    fn open(
        self,
        config: &EngineConfig,
        is_over: &Arc<Ending>,
        own: Weak<dyn OwnSegment>,
    ) -> Arc<dyn Directory> {
        match self {
            Lookup::P2p => Arc::new(P2pDirectory::new(handshake_client(config, is_over), own)),
            Lookup::Store(directory) => Arc::new(directory),
        }
    }
}

/// What the engine is called, where it is reached and where it listens.
struct Names {
    /// As the caller gave it.
    given: String,
    host: String,
    rpc_port: u16,
    listen: Option<IpAddr>,
    reasons: Vec<String>,
}

impl Names {
    /// `is_p2p` makes the host of the name the one where peers ask.
    fn choose(config: &EngineConfig, is_p2p: bool) -> Result<Names> {
        let mut reasons = Vec::new();
        let interfaces = interface::enumerate()?;
        let given = config.local_name.clone();
        let parsed = match given.as_str() {
            "" => None,
            text => Some(address::parse_host_port(text, config.handshake_port)?),
        };
        let here = |host: &str| {
            address::literal(host).is_some_and(|address| {
                address.is_loopback() || interfaces.iter().any(|i| i.address == address)
            })
        };
        let host_of_name = parsed.as_ref().map(|p| p.host.as_str()).filter(|h| !h.is_empty());
        let (host, why) = match (host_of_name, &config.publish_address) {
            (Some(host), _) if is_p2p || config.legacy_rpc_port_binding => {
                (host.to_owned(), "the host of the local name")
            }
            (_, Some(address)) => {
                let host = address::without_brackets(address).to_owned();
                (host, "the setting publish_address")
            }
            (Some(host), None) if here(host) => {
                (host.to_owned(), "the host of the local name, an address of this host")
            }
            _ => {
                let rules = ChoiceRules { use_ipv6: config.use_ipv6 };
                let (chosen, mut skipped) = interface::choose(&interfaces, rules);
                reasons.append(&mut skipped);
                match chosen {
                    Some(address) => (address.to_string(), "the best interface"),
                    None => return Err(no_address(&reasons)),
                }
            }
        };
        reasons.push(format!("published host {host}: {why}"));
        let rpc_port = match (&parsed, config.rpc_port) {
            (Some(parsed), 0) if config.legacy_rpc_port_binding => parsed.port,
            (_, port) => port,
        };
        let bind = match &config.bind_address {
            Some(text) => Some(one_address(text)?),
            None => None,
        };
        let publish = config.publish_address.as_deref().and_then(address::literal);
        let (listen, why) = interface::listen_address(bind, publish, &interfaces);
        reasons.push(why);
        Ok(Names { given, host, rpc_port, listen, reasons })
    }
}

/// Nothing could be told to peers. `reasons` is what was looked at.
fn no_address(reasons: &[String]) -> Error {
    const SHOWN: usize = 8;
    let first = reasons.len().saturating_sub(SHOWN);
    let text = "this host has no address to publish; publish_address may name one";
    Error::new(ErrorKind::Resource, text).with("interfaces", reasons[first..].join("; "))
}

/// The address to bind to: a literal, or the first one that a name stands for.
fn one_address(text: &str) -> Result<IpAddr> {
    if let Some(literal) = address::literal(text) {
        return Ok(literal);
    }
    let addresses = resolve_within(text, 0, Family::Any, limits::BIND_NAME_TIMEOUT)?;
    match addresses.first() {
        Some(first) => Ok(first.ip()),
        None => Err(Error::new(ErrorKind::InvalidAddress, "the name has no address")
            .with("bind_address", text)),
    }
}

/// Tells engines of one host from others: the boot, which containers of one host share.
fn read_host_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn warn_once(config: &EngineConfig) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in unknown_environment_names(&ProcessEnvironment) {
            log::warn!("environment {name} is not known to this library and has no effect");
        }
    });
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
}

/// What the handshake plane asks of the engine.
struct Handler(Weak<Shared>);

impl HandshakeHandler for Handler {
    fn descriptor_line(&self) -> Vec<u8> {
        let Some(shared) = self.0.upgrade() else { return NULL_LINE.to_vec() };
        let descriptor = shared.own_descriptor();
        let line = descriptor.encode_line(Dialect::V0_3_13);
        if line.len() < shared.config.handshake_bytes_max || descriptor.native.is_none() {
            return line;
        }
        // Too long for one message: peers can do without what only native peers read.
        SegmentDescriptor { native: None, ..(*descriptor).clone() }.encode_line(Dialect::V0_3_13)
    }

    fn notify(&self, message: NotifyMessage) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let notification = Notification { name: message.name, message: message.notify_msg };
        let taken = shared.notifications.push(notification);
        match taken {
            true => shared.metrics.notifications_received.inc(),
            false => shared.metrics.notifications_dropped.inc(),
        };
        taken
    }

    fn connection_line(&self, _: &[u8]) -> Vec<u8> {
        // What a 0.3.13 engine without RDMA answers.
        ConnectionMessage::default().encode_line()
    }
}

impl OwnSegment for Shared {
    fn descriptor(&self) -> Option<Arc<SegmentDescriptor>> {
        Some(self.own_descriptor())
    }
}
