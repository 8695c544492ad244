//! The running master: ports, threads and their order of life.
//!
//! Every port is opened before anything else is done, so that a port that is taken ends the start
//! without a trace. Owns the server of calls, the pages, the metadata server, and the threads
//! `mc-master` (time), `mc-summary` (a line every ten seconds), `mc-journal` (its size) and
//! `mc-files` (files whose objects are gone).

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::admin::{Admin, Pages};
use super::config::{self, Allocation, Listen, MasterConfig};
use super::exposition::Sources;
use super::files::Files;
use super::journal::file::{discard, Journal};
use super::journal::image::Image;
use super::journal::record::Record;
use super::service::{Inbox, Master, Recorder};
use super::state::{Outlet, Settings, State};
use super::view::{JournalFigures, View};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::http_server::{MetadataServer, ServerOptions as MetadataOptions};
use crate::net::address::{join_host_port, resolve, Family};
use crate::net::port::{bind_listener, PortRule};
use crate::net::{random, thread};
use crate::pool::placement::Policy;
use crate::rpc::dialect::Dialect;
use crate::rpc::server::{Counters, Port, Server, ServerOptions};
use crate::time::Deadline;

/// Pause between two summaries, upstream's.
const SUMMARY_PAUSE: Duration = Duration::from_secs(10);
/// Pause between two looks at the size of the journal.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a journal that was given up is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);
/// Calls under way are given so long when the process is told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of the pages that the kernel holds until they are taken.
const BACKLOG: u32 = 1024;

/// A master that serves. Dropping it ends it without waiting for calls.
pub struct Process {
    server: Server,
    master: Arc<Master>,
    pages: Pages,
    admin: Admin,
    metadata: Option<MetadataServer>,
    threads: Vec<JoinHandle<()>>,
    ending: Arc<Ending>,
    files: Option<Arc<Files>>,
}

/// Tells threads that work from time to time that it is over.
#[derive(Default)]
struct Ending {
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl Process {
    /// Opens all ports and serves.
    pub fn start(config: &MasterConfig) -> Result<Process> {
        let admin_listener = open(&config.metrics)?;
        let metadata_listener = config.metadata.as_ref().map(open).transpose()?;
        let address = address_of(&config.rpc)?;
        // Of both families, which the server opens where it is given no address.
        let bind = Some(address).filter(|address| address.is_ipv4() || !address.is_unspecified());
        let (journal, image) = match open_journal(&config.journal)? {
            Some((journal, image)) => (Some(Arc::new(journal)), Some(image)),
            None => (None, None),
        };
        let files = Files::open(&config.storage_directory);
        let recorder = journal.clone().map(|journal| journal as Arc<dyn Recorder>);
        let inbox = Inbox::new(recorder, files.clone());
        let outlet: Arc<dyn Outlet> = Arc::clone(&inbox) as _;
        let (settings, now) = (settings(config)?, Instant::now());
        let state = match image {
            Some(image) => State::restore(settings, now, outlet, image).map_err(|why| {
                Error::new(ErrorKind::Resource, "the journal cannot be taken over")
                    .with("refused", why)
            })?,
            None => State::new(settings, now, outlet),
        };
        if let Some(journal) = &journal {
            let (keys, segments) = (state.totals().keys, state.totals().segments);
            log::info!("journal: {keys} objects, {segments} segments of the life before");
            // One that has no room now is tried again later; a restart does not wait for that.
            if let Err(error) = journal.begin(&state, now) {
                log::error!("no journal at present: {error}");
            }
        }
        let master = Master::new(state, inbox);
        let options = ServerOptions {
            threads: config.threads,
            idle_timeout: config.silent_timeout,
            tcp_nodelay: config.no_delay,
            ..ServerOptions::default()
        };
        let port =
            Port { bind, rule: PortRule::Fixed(config.rpc.port), dialect: Dialect::Upstream0_3_7 };
        let server = Server::start(options, &[port], Arc::clone(&master) as _)
            .map_err(|error| error.with("flag", format!("--{}", config.rpc.flag)))?;
        let metadata = match metadata_listener {
            Some(listener) => {
                let options = MetadataOptions { file: config.metadata_file.clone() };
                Some(MetadataServer::start(listener, options)?)
            }
            None => None,
        };
        let counters = Arc::clone(server.counters());
        let sources = Sources {
            view: Arc::clone(&master) as Arc<dyn View>,
            latencies: Arc::clone(master.latencies()),
            file_capacity: (!config.storage_directory.is_empty()).then_some(config.file_capacity),
            extras: Arc::new(move || extras(&counters)),
        };
        let pages = Pages { sources };
        let admin = Admin::start(admin_listener, pages.clone())?;
        let mut process = Process {
            server,
            master,
            pages,
            admin,
            metadata,
            threads: Vec::new(),
            ending: Arc::default(),
            files: files.clone(),
        };
        process.start_threads(config.report_metrics, journal)?;
        Ok(process)
    }

    fn start_threads(&mut self, report: bool, journal: Option<Arc<Journal>>) -> Result<()> {
        let master = Arc::clone(&self.master);
        self.threads.push(thread::spawn("mc-master", move || master.run())?);
        if report {
            let (pages, ending) = (self.pages.clone(), Arc::clone(&self.ending));
            self.threads.push(thread::spawn("mc-summary", move || {
                // Scripts read what follows the colon.
                ending.every(SUMMARY_PAUSE, || log::info!("Master Metrics: {}", pages.summary()));
            })?);
        }
        if let Some(files) = self.files.clone() {
            let master = Arc::clone(&self.master);
            self.threads.push(thread::spawn("mc-files", move || {
                files.run(|| (master.state().puts_with_files(), master.state().life()));
            })?);
        }
        if let Some(journal) = journal {
            let (master, ending) = (Arc::clone(&self.master), Arc::clone(&self.ending));
            self.threads.push(thread::spawn("mc-journal", move || {
                let mut retry_at = None;
                ending.every(JOURNAL_PAUSE, || look_after(&journal, &master, &mut retry_at));
            })?);
        }
        Ok(())
    }

    /// Port of the calls.
    pub fn rpc_port(&self) -> u16 {
        self.server.addresses().first().map_or(0, |address| address.port())
    }

    /// Port of the pages.
    pub fn metrics_port(&self) -> u16 {
        self.admin.address().port()
    }

    /// Port of the metadata server.
    pub fn metadata_port(&self) -> Option<u16> {
        self.metadata.as_ref().map(|server| server.address().port())
    }

    /// Refuses new puts, answers what is under way, and ends everything within a few seconds.
    pub fn stop(&mut self) {
        self.master.drain();
        // Answers those that wait; the others are being answered anyway.
        self.master.stop();
        self.server.stop(Deadline::within(DRAIN_TIMEOUT));
        self.finish();
    }

    fn finish(&mut self) {
        self.master.stop();
        *self.ending.is_over.lock() = true;
        self.ending.changed.notify_all();
        if let Some(files) = &self.files {
            files.stop();
        }
        for thread in self.threads.drain(..) {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
        self.admin.stop();
        if let Some(metadata) = &mut self.metadata {
            metadata.stop();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.server.stop(Deadline::within(Duration::ZERO));
        self.finish();
    }
}

/// The first address that the host of a flag stands for.
fn address_of(listen: &Listen) -> Result<std::net::IpAddr> {
    let found = resolve(&listen.host, listen.port, Family::Any)?;
    match found.first() {
        Some(address) => Ok(address.ip()),
        None => Err(Error::new(ErrorKind::InvalidAddress, "the host has no address")
            .with("host", &listen.host)),
    }
}

/// A listener, of both families where the address is `::`.
fn open(listen: &Listen) -> Result<TcpListener> {
    let address = address_of(listen)?;
    let dual = address.is_ipv6() && address.is_unspecified();
    bind_listener(Some(address), PortRule::Fixed(listen.port), dual, BACKLOG).map_err(|error| {
        let place = join_host_port(&listen.host, listen.port);
        error.with("listen", place).with("flag", format!("--{}", listen.flag))
    })
}

fn settings(config: &MasterConfig) -> Result<Settings> {
    let mut seed = [0; 16];
    random::fill(&mut seed)?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Settings {
        seed: u128::from_le_bytes(seed),
        life: u64::try_from(since_1970.as_millis()).unwrap_or(1),
        lease_ttl: config.lease_ttl,
        soft_pin_ttl: config.soft_pin_ttl,
        soft_pin_ttl_max: config.soft_pin_ttl_max,
        client_ttl: config.client_ttl,
        discard_timeout: config.put_discard,
        release_timeout: config.put_release,
        eviction_high_watermark: config.high_watermark,
        eviction_ratio: config.eviction_ratio,
        evict_soft_pinned: config.evict_soft_pinned,
        policy: match config.allocation {
            Allocation::Random => Policy::Random,
            Allocation::FreeRatioFirst => Policy::FreeRatioFirst,
        },
        storage_directory: config.storage_directory.clone(),
        file_capacity: config.file_capacity,
        ..Settings::default()
    })
}

fn extras(counters: &Counters) -> Vec<super::exposition::Extra> {
    let load = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let open = counters.connections_open.load(Ordering::Relaxed) as u64;
    vec![
        (
            "mooncake_master_connections_accepted_total",
            "Connections of clients taken",
            load(&counters.connections_accepted),
        ),
        (
            "mooncake_master_connections_refused_total",
            "Connections closed because they were too many, too slow, or spoke something else",
            load(&counters.connections_refused),
        ),
        ("mooncake_master_connections_closed_total", "Connections that ended", {
            load(&counters.connections_accepted).saturating_sub(open)
        }),
        (
            "mooncake_master_faulty_calls_total",
            "Calls answered with an error of the protocol",
            load(&counters.faults),
        ),
        ("mooncake_master_received_bytes_total", "Bytes of calls", load(&counters.bytes_received)),
        ("mooncake_master_sent_bytes_total", "Bytes of answers", load(&counters.bytes_sent)),
    ]
}

/// The journal that was asked for, and what an earlier life left in it.
fn open_journal(journal: &config::Journal) -> Result<Option<(Journal, Image)>> {
    match journal {
        config::Journal::At(folder) => Journal::open(folder, false).map(Some),
        config::Journal::Default(folder) => match Journal::open(folder, false) {
            Ok(opened) => Ok(Some(opened)),
            Err(error) => {
                log::warn!("no journal, objects do not outlive this process: {error}");
                Ok(None)
            }
        },
        config::Journal::Off(Some(folder)) if folder.exists() => {
            // What happens from now on is not in it. Whoever holds its lock still writes it.
            match Journal::open(folder, false) {
                Ok((locked, _)) => {
                    discard(folder)?;
                    drop(locked);
                }
                Err(error) => log::warn!("a journal of another master is left alone: {error}"),
            }
            Ok(None)
        }
        config::Journal::Off(_) => Ok(None),
    }
}

fn look_after(journal: &Journal, master: &Master, retry_at: &mut Option<Instant>) {
    let now = Instant::now();
    if !journal.is_alive() {
        // The disk is given time; a try costs a snapshot.
        if now >= *retry_at.get_or_insert(now + JOURNAL_RETRY) {
            *retry_at = None;
            journal.revive(master.state(), now);
        }
        return;
    }
    if journal.is_due() {
        if let Err(error) = journal.compact(master.state(), Instant::now()) {
            log::error!("{error}");
        }
    }
}

impl Recorder for Journal {
    fn record(&self, record: &Record<'_>) {
        self.append(record);
    }

    fn commit(&self) {
        self.flush();
    }

    fn figures(&self) -> JournalFigures {
        let (log, snapshot) = self.sizes();
        JournalFigures { works: self.is_alive(), bytes: log + snapshot }
    }
}

impl Ending {
    /// Does something now and after each pause, until it is over.
    fn every(&self, pause: Duration, mut work: impl FnMut()) {
        loop {
            work();
            let next = Instant::now() + pause;
            let mut is_over = self.is_over.lock();
            while !*is_over && !self.changed.wait_until(&mut is_over, next).timed_out() {}
            if *is_over {
                return;
            }
        }
    }
}
