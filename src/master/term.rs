//! One time of serving: an index, the port of the calls, and what keeps both going.
//!
//! A master that stands alone has one for its whole life; an elected one gets a new one, empty,
//! each time it begins to lead. Owns the server of calls and the threads `mc-master` (time),
//! `mc-journal` (its size) and `mc-files` (files whose objects are gone). A term that ends leaves
//! nothing behind but the journal, and `mc-files` where a file system keeps it.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cleanup::Cleanup;
use super::config::{Allocation, Listen, MasterConfig};
use super::ending::Ending;
use super::fence::Fence;
use super::files::{Files, Live, Owner};
use super::journal::file::Journal;
use super::journal::image::Image;
use super::journal::record::Record;
use super::service::{Inbox, Master, Recorder};
use super::state::{Outlet, Settings, State};
use super::view::JournalFigures;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::address::{resolve, Family};
use crate::net::port::PortRule;
use crate::net::{random, thread};
use crate::pool::file::Sealed;
use crate::pool::placement::Policy;
use crate::rpc::dialect::Dialect;
use crate::rpc::server::{Counters, Port, Server, ServerOptions};
use crate::time::Deadline;

/// Pause between two looks at the size of the journal.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a journal that was given up is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);
/// Time for the files that are still to be deleted, and for a file system that hangs.
const FILES_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks at the puts that are waited for.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);

/// What an elected master serves under.
pub(super) struct Mandate {
    /// Nobody is answered beyond it.
    pub(super) fence: Arc<Fence>,
    /// The version of the view.
    pub(super) revision: i64,
    /// A number above that of every leader before.
    pub(super) life: u64,
}

/// See the module.
pub(super) struct Term {
    server: Server,
    master: Arc<Master>,
    threads: Vec<JoinHandle<()>>,
    ending: Arc<Ending>,
    files: Option<Arc<Files>>,
    /// The thread `mc-files`, which a file system that hangs may keep.
    files_thread: Option<JoinHandle<()>>,
}

impl Term {
    /// Opens the port of the calls and serves. `kept` is the journal with what it remembers;
    /// `cleanup` is told of clients that are gone.
    pub(super) fn start(
        config: &MasterConfig,
        kept: Option<(Journal, Image)>,
        mandate: Option<Mandate>,
        cleanup: Option<Cleanup>,
    ) -> Result<Term> {
        let address = address_of(&config.rpc)?;
        // Of both families, which the server opens where it is given no address.
        let bind = Some(address).filter(|address| address.is_ipv4() || !address.is_unspecified());
        let (journal, image) = match kept {
            Some((journal, image)) => (Some(Arc::new(journal)), Some(image)),
            None => (None, None),
        };
        let recorder = journal.clone().map(|journal| journal as Arc<dyn Recorder>);
        let gone = cleanup.map(|cleanup| {
            Box::new(move |name: &str| cleanup.gone(name.to_owned())) as super::service::Gone
        });
        let files = Files::open(&config.storage_directory);
        let inbox = Inbox::new(recorder, files.clone(), gone);
        let outlet: Arc<dyn Outlet> = Arc::clone(&inbox) as _;
        let (settings, now) = (settings(config, mandate.as_ref())?, Instant::now());
        let state = match image {
            Some(image) => State::restore(settings, now, outlet, image).map_err(|why| {
                Error::new(ErrorKind::Resource, "the journal cannot be taken over")
                    .with("refused", why)
            })?,
            None => State::new(settings, now, outlet),
        };
        if files.is_some() {
            state.expect_files();
        }
        if let Some(journal) = &journal {
            let (keys, segments) = (state.totals().keys, state.totals().segments);
            log::info!("journal: {keys} objects, {segments} segments of the life before");
            // One that has no room now is tried again later; a restart does not wait for that.
            if let Err(error) = journal.begin(&state, now) {
                log::error!("no journal at present: {error}");
            }
        }
        let master = Master::new(state, inbox, mandate.map(|mandate| mandate.fence));
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
        let (threads, ending) = (Vec::new(), Arc::default());
        let mut term = Term { server, master, threads, ending, files, files_thread: None };
        term.start_threads(journal)?;
        Ok(term)
    }

    fn start_threads(&mut self, journal: Option<Arc<Journal>>) -> Result<()> {
        let master = Arc::clone(&self.master);
        self.threads.push(thread::spawn("mc-master", move || master.run())?);
        if let Some(files) = self.files.clone() {
            let master = Arc::clone(&self.master);
            self.files_thread = Some(thread::spawn("mc-files", move || {
                files.run(master.state());
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

    /// The index and its calls.
    pub(super) fn master(&self) -> &Arc<Master> {
        &self.master
    }

    /// What the server of calls has counted.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        self.server.counters()
    }

    /// Port of the calls.
    pub(super) fn port(&self) -> u16 {
        self.server.addresses().first().map_or(0, |address| address.port())
    }

    /// Refuses new puts and waits for the ends of those that were granted, at most so long.
    pub(super) fn drain(&self, patience: Duration) {
        self.master.drain();
        let end = Instant::now() + patience;
        while self.master.state().open_puts() > 0 {
            if Instant::now() >= end {
                log::warn!("ending although puts are under way");
                return;
            }
            std::thread::sleep(DRAIN_PAUSE);
        }
    }

    /// Answers what is under way, at most until `deadline`, and ends everything.
    pub(super) fn stop(&mut self, deadline: Deadline) {
        // Answers those that wait; the others are being answered anyway.
        self.master.stop();
        self.server.stop(deadline);
        self.ending.end();
        if let Some(files) = &self.files {
            files.stop();
        }
        for thread in self.threads.drain(..) {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
        let Some(thread) = self.files_thread.take() else { return };
        let end = Instant::now() + FILES_PATIENCE;
        while !thread.is_finished() {
            if Instant::now() >= end {
                log::warn!("a thread is left in a file system that hangs");
                return;
            }
            std::thread::sleep(DRAIN_PAUSE);
        }
        let _ = thread.join();
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.stop(Deadline::within(Duration::ZERO));
    }
}

/// The first address that the host of a flag stands for.
pub(super) fn address_of(listen: &Listen) -> Result<IpAddr> {
    let found = resolve(&listen.host, listen.port, Family::Any)?;
    match found.first() {
        Some(address) => Ok(address.ip()),
        None => Err(Error::new(ErrorKind::InvalidAddress, "the host has no address")
            .with("host", &listen.host)),
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_clock() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(1)
}

fn settings(config: &MasterConfig, mandate: Option<&Mandate>) -> Result<Settings> {
    let mut seed = [0; 16];
    random::fill(&mut seed)?;
    let life = mandate.map_or_else(wall_clock, |mandate| mandate.life);
    Ok(Settings {
        seed: u128::from_le_bytes(seed),
        life: life.min(limits::MASTER_LIFE_MAX),
        view_version: mandate.map_or(0, |mandate| mandate.revision),
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
        evict_files: config.evict_files,
        ..Settings::default()
    })
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

impl Owner for State {
    fn live(&self) -> Live {
        let (first, next) = self.generations();
        Live { puts: self.puts_with_files(), first, next }
    }

    fn take(&self, found: Sealed) -> bool {
        self.take_file(Instant::now(), found)
    }

    fn taken(&self) {
        self.expect_no_files();
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
