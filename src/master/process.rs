//! The running master: ports, threads and their order of life.
//!
//! Every port is opened before anything else is done, so that a port that is taken ends the start
//! without a trace. Owns the pages, the metadata server, the thread `mc-summary` (a line every ten
//! seconds), and either one term of serving or the campaign for them.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::admin::{Admin, Pages};
use super::cleanup::{Cleanup, Place};
use super::config::{self, Listen, MasterConfig};
use super::ending::Ending;
use super::exposition::Sources;
use super::fence::Fence;
use super::files::file_system_bytes;
use super::journal::file::{discard, Journal};
use super::journal::image::Image;
use super::seat::Seat;
use super::term::{address_of, Term};
use super::view::View;
use crate::config::{EngineConfig, ProcessEnvironment};
use crate::error::{Error, Result};
use crate::limits;
use crate::metadata::backend;
use crate::metadata::http_server::{MetadataServer, ServerOptions as MetadataOptions};
use crate::net::address::join_host_port;
use crate::net::port::{bind_listener, PortRule};
use crate::net::thread;
use crate::rpc::server::Counters;
use crate::time::Deadline;

/// Pause between two summaries, upstream's.
const SUMMARY_PAUSE: Duration = Duration::from_secs(10);
/// Calls under way are given so long when the process is told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of the pages that the kernel holds until they are taken.
const BACKLOG: u32 = 1024;

/// Called once, from any thread, when a master cannot go on; [`Process::failure`] says why.
pub type Alarm = Arc<dyn Fn() + Send + Sync>;

/// A master that serves, or stands by. Dropping it ends it without waiting for calls.
pub struct Process {
    serving: Serving,
    pages: Pages,
    admin: Admin,
    metadata: Option<MetadataServer>,
    threads: Vec<JoinHandle<()>>,
    ending: Arc<Ending>,
    cleanup: Option<Cleanup>,
    rpc_port: u16,
}

/// How a master comes to serve.
enum Serving {
    /// It always does.
    Always(Box<Term>),
    /// While it is elected.
    #[cfg(feature = "etcd")]
    Elected(super::elector::Elector),
}

impl Process {
    /// Opens all ports and serves, or campaigns to. `alarm` is called where this ends by itself.
    pub fn start(config: &MasterConfig, alarm: Alarm) -> Result<Process> {
        let config = &with_file_system(config);
        let admin_listener = open(&config.metrics)?;
        let metadata_listener = config.metadata.as_ref().map(open).transpose()?;
        let fence = config.candidacy.as_ref().map(|_| Arc::new(Fence::closed(Instant::now())));
        let seat = Arc::new(Seat::new(fence.clone()));
        let metadata = match metadata_listener {
            Some(listener) => {
                let options = MetadataOptions { file: config.metadata_file.clone() };
                Some(MetadataServer::start(listener, options)?)
            }
            None => None,
        };
        let mut threads = Vec::new();
        let cleanup = match place_of_metadata(config, metadata.as_ref())? {
            Some(place) => {
                let cluster = config.metadata_cluster.clone();
                let (cleanup, thread) = super::cleanup::start(place, cluster)?;
                threads.push(thread);
                Some(cleanup)
            }
            None => None,
        };
        let serving = Serving::start(config, &seat, (fence, cleanup.clone()), alarm)?;
        let rpc_port = match &serving {
            Serving::Always(term) => term.port(),
            #[cfg(feature = "etcd")]
            Serving::Elected(_) => config.rpc.port,
        };
        let sources = Sources {
            view: Arc::clone(&seat) as Arc<dyn View>,
            file_capacity: (!config.storage_directory.is_empty()).then_some(config.file_capacity),
            extras: Arc::new(move || extras(&seat.counters().unwrap_or_default())),
        };
        let pages = Pages { sources };
        let admin = Admin::start(admin_listener, pages.clone())?;
        let mut process = Process {
            serving,
            pages,
            admin,
            metadata,
            threads,
            ending: Arc::default(),
            cleanup,
            rpc_port,
        };
        if config.report_metrics {
            process.report()?;
        }
        Ok(process)
    }

    fn report(&mut self) -> Result<()> {
        let (pages, ending) = (self.pages.clone(), Arc::clone(&self.ending));
        self.threads.push(thread::spawn("mc-summary", move || {
            // Scripts read what follows the colon.
            ending.every(SUMMARY_PAUSE, || log::info!("Master Metrics: {}", pages.summary()));
        })?);
        Ok(())
    }

    /// Port of the calls; nobody listens there on a standby.
    pub fn rpc_port(&self) -> u16 {
        self.rpc_port
    }

    /// Port of the pages.
    pub fn metrics_port(&self) -> u16 {
        self.admin.address().port()
    }

    /// Port of the metadata server.
    pub fn metadata_port(&self) -> Option<u16> {
        self.metadata.as_ref().map(|server| server.address().port())
    }

    /// Why this master cannot go on, where it cannot.
    pub fn failure(&self) -> Option<Error> {
        match &self.serving {
            Serving::Always(_) => None,
            #[cfg(feature = "etcd")]
            Serving::Elected(elector) => elector.failure(),
        }
    }

    /// Refuses new puts, waits for those that were granted, answers what is under way, gives the
    /// leadership back, and ends everything: within [`limits::MASTER_DRAIN_PUTS`] and a few
    /// seconds.
    pub fn stop(&mut self) {
        match &mut self.serving {
            Serving::Always(term) => {
                term.drain(limits::MASTER_DRAIN_PUTS);
                term.stop(Deadline::within(DRAIN_TIMEOUT));
            }
            #[cfg(feature = "etcd")]
            Serving::Elected(elector) => elector.stop(),
        }
        self.finish();
    }

    fn finish(&mut self) {
        self.ending.end();
        if let Some(cleanup) = &self.cleanup {
            cleanup.end();
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
        match &mut self.serving {
            Serving::Always(term) => term.stop(Deadline::within(Duration::ZERO)),
            #[cfg(feature = "etcd")]
            Serving::Elected(elector) => elector.stop(),
        }
        self.finish();
    }
}

impl Serving {
    fn start(
        config: &MasterConfig,
        seat: &Arc<Seat>,
        (fence, cleanup): (Option<Arc<Fence>>, Option<Cleanup>),
        alarm: Alarm,
    ) -> Result<Serving> {
        let kept = open_journal(&config.journal)?;
        let (Some(candidacy), Some(fence)) = (&config.candidacy, fence) else {
            let term = Term::start(config, kept, None, cleanup)?;
            seat.take(term.master(), term.counters());
            return Ok(Serving::Always(Box::new(term)));
        };
        // Taken only while this master leads, so that clients find nobody on a standby; but that
        // it can be had is known at the start.
        drop(open(&config.rpc)?);
        #[cfg(feature = "etcd")]
        return super::elector::Elector::start(config, candidacy, seat, &fence, cleanup, alarm)
            .map(Serving::Elected);
        #[cfg(not(feature = "etcd"))]
        {
            let _ = (candidacy, fence, cleanup, alarm);
            let text = "leaders are elected in etcd, which is not part of this build";
            Err(Error::new(crate::error::ErrorKind::Unsupported, text))
        }
    }
}

/// Limits the files to their share of the file system, where it is seen here.
fn with_file_system(config: &MasterConfig) -> MasterConfig {
    let mut config = config.clone();
    let share = config.file_share.filter(|_| !config.storage_directory.is_empty());
    let whole = share.and_then(|_| file_system_bytes(&config.storage_directory));
    if let (Some(share), Some(whole)) = (share, whole) {
        config.file_capacity = config.file_capacity.min((whole as f64 * share) as u64);
    }
    config
}

/// Where clients keep their metadata, if what those leave that are gone is to be taken away.
fn place_of_metadata(
    config: &MasterConfig,
    server: Option<&MetadataServer>,
) -> Result<Option<Place>> {
    if !config.clean_metadata {
        return Ok(None);
    }
    if let Some(server) = server {
        return Ok(Some(Place::Inside(Arc::clone(server.table()))));
    }
    let Some(service) = &config.metadata_service else { return Ok(None) };
    let (engine, _) = EngineConfig::load(None, &ProcessEnvironment)?;
    Ok(backend::open(service, &engine)?.map(Place::Service))
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
