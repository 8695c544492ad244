//! `mooncake_master`: the master of the store, with upstream's flags, pages and lines of output.
//!
//! With `--enable_ha` it stands by until it is elected. Ends with status 0 on SIGTERM and SIGINT
//! after answering what is under way; a second signal ends it at once. Status 1 where it cannot
//! start, or cannot serve once it is elected, with one line that says why.

#[path = "support/glog.rs"]
mod glog;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use glog::{error, info, warning};
use mooncake::config::gflags::{Request, Sources};
use mooncake::error::{Error, ErrorKind, Result};
use mooncake::limits;
use mooncake::master::config::{apply_file, Host, Journal, MasterConfig};
use mooncake::master::flags::{self, CommandLine, Values, PROGRAM};
use mooncake::master::process::Process;
use mooncake::net::interface;

/// Status of a process that a second signal ends.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let arguments =
        std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    let sources = Sources {
        program: PROGRAM,
        variable: &|name| std::env::var(name).ok(),
        file: &|path| read_bounded(path),
    };
    let line = flags::read(arguments, &sources);
    match &line.request {
        Request::Help(flag, pattern) => {
            print(&flags::help(flag, pattern, &line.values));
            return ExitCode::FAILURE;
        }
        Request::Version => {
            print(&flags::version());
            return ExitCode::SUCCESS;
        }
        Request::Run => {}
    }
    if !line.problems.is_empty() {
        for problem in &line.problems {
            let _ = writeln!(std::io::stderr(), "ERROR: {problem}");
        }
        return ExitCode::FAILURE;
    }
    glog::show_library(level(&line));
    match run(line.values) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// An output that is closed is not worth ending for.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What is logged: as upstream, `v` shows more and `minloglevel` less.
fn level(line: &CommandLine) -> log::LevelFilter {
    let last = |name: &str| {
        let found = line.logging.iter().rev().find(|(known, _)| known == name);
        found.and_then(|(_, value)| value.parse::<i32>().ok()).unwrap_or(0)
    };
    match (last("minloglevel"), last("v")) {
        (3.., _) => log::LevelFilter::Off,
        (2, _) => log::LevelFilter::Error,
        (1, _) => log::LevelFilter::Warn,
        (_, ..=0) => log::LevelFilter::Info,
        (_, 1) => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    }
}

fn read_bounded(path: &str) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(limits::CONFIG_JSON_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn run(mut values: Values) -> Result<()> {
    let path = values.written("config_path").to_owned();
    if !path.is_empty() {
        let text = read_bounded(&path).map_err(|error| {
            Error::io(ErrorKind::InvalidArgument, "cannot read the configuration file", error)
                .with("file", &path)
        })?;
        if let Some(unknown) = apply_file(&path, &text, &mut values)? {
            warning!("{unknown}");
        }
        print(&format!("Loading config from: {path}\n"));
    }
    let host = Host {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        variable: &|name| std::env::var(name).ok(),
        interface: &address_of_interface,
    };
    let config = MasterConfig::new(&values, &host)?;
    for text in &config.warnings {
        warning!("{text}");
    }
    // Before any thread is there, so that no signal is missed.
    let ends = Ends::new()?;
    let mut process = Process::start(&config, ends.alarm())?;
    info!("{}", start_line(&config, &values, &process));
    info!("HTTP metrics server started on port {}", process.metrics_port());
    if let Some(port) = process.metadata_port() {
        info!("HTTP metadata server started on port {port}");
    }
    if let Some(candidacy) = &config.candidacy {
        info!("standing by to serve at {}", candidacy.address);
    }
    ends.wait();
    if let Some(error) = process.failure() {
        process.stop();
        return Err(error);
    }
    info!("ending: new puts are refused, calls under way are answered");
    process.stop();
    Ok(())
}

/// SIGTERM and SIGINT.
struct Ends(signal_hook::iterator::Signals);

impl Ends {
    fn new() -> Result<Ends> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        let failed = |error| Error::io(ErrorKind::Resource, "no signal handlers", error);
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first one only sets the flag that makes the second one end all.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&seen))
                .map_err(failed)?;
            flag::register(signal, Arc::clone(&seen)).map_err(failed)?;
        }
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map(Ends).map_err(failed)
    }

    /// Ends the wait without a signal.
    fn alarm(&self) -> Arc<dyn Fn() + Send + Sync> {
        let handle = self.0.handle();
        Arc::new(move || handle.close())
    }

    fn wait(mut self) {
        self.0.forever().next();
    }
}

fn address_of_interface(name: &str) -> Option<Ipv4Addr> {
    let found = interface::enumerate().ok()?;
    found.iter().filter(|interface| interface.name == name).find_map(|interface| {
        match interface.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    })
}

/// Upstream's line, which scripts wait for, with our settings at its end.
fn start_line(config: &MasterConfig, values: &Values, process: &Process) -> String {
    let number = |name: &str| u8::from(values.bool(name));
    let text = |name: &str| values.written(name).to_owned();
    let journal = match &config.journal {
        Journal::Off(_) => "off".to_owned(),
        Journal::Default(path) | Journal::At(path) => path.display().to_string(),
    };
    let port = process.rpc_port();
    format!(
        "Master service started on port {port}, max_threads={}, enable_metric_reporting={}, \
         metrics_port={}, default_kv_lease_ttl={}, default_kv_soft_pin_ttl={}, \
         allow_evict_soft_pinned_objects={}, eviction_ratio={}, \
         eviction_high_watermark_ratio={}, enable_ha={}, etcd_endpoints={}, client_ttl={}, \
         rpc_thread_num={}, rpc_port={port}, rpc_address={}, rpc_conn_timeout_seconds={}, \
         rpc_enable_tcp_no_delay={}, rpc protocol=tcp, cluster_id={}, root_fs_dir={}, \
         global_file_segment_size={}, memory_allocator={}, enable_http_metadata_server={}, \
         http_metadata_server_port={}, http_metadata_server_host={}, metrics_host={}, \
         dialect={}, journal={journal}",
        config.threads,
        number("enable_metric_reporting"),
        process.metrics_port(),
        config.lease_ttl.as_millis(),
        config.soft_pin_ttl.as_millis(),
        number("allow_evict_soft_pinned_objects"),
        config.eviction_ratio,
        config.high_watermark,
        number("enable_ha"),
        text("etcd_endpoints"),
        config.client_ttl.as_secs(),
        config.threads,
        config.rpc.host,
        text("rpc_conn_timeout_seconds"),
        number("rpc_enable_tcp_no_delay"),
        config.cluster_id,
        text("root_fs_dir"),
        text("global_file_segment_size"),
        text("memory_allocator"),
        number("enable_http_metadata_server"),
        text("http_metadata_server_port"),
        text("http_metadata_server_host"),
        config.metrics.host,
        text("dialect"),
    )
}
