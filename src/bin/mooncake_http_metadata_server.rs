//! `mooncake_http_metadata_server`: the HTTP metadata server as a program of its own.
//!
//! Flags are those of upstream's Python server, and `--file`. Ends with status 0 on SIGTERM and
//! SIGINT after finishing what has begun.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use log::LevelFilter;
use mooncake::error::{Error, ErrorKind, Result};
use mooncake::limits;
use mooncake::metadata::http_server::{serve, ServerOptions};
use mooncake::net::address::{join_host_port, Family};
use mooncake::net::resolve::resolve_within;
use mooncake::time::local_timestamp;
use tokio::signal::unix::{signal, SignalKind};

/// Serves the metadata of transfer engines at /metadata, and /health.
#[derive(Parser)]
#[command(version, rename_all = "kebab-case")]
struct Flags {
    /// Address or host name to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Least important messages shown.
    #[arg(long, default_value = "INFO", ignore_case = true)]
    log_level: Level,
    /// Keep the documents in this file across restarts.
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Level {
    Debug,
    Info,
    #[value(alias = "WARN")]
    Warning,
    Error,
    Critical,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let level = match flags.log_level {
        Level::Debug => LevelFilter::Debug,
        Level::Info => LevelFilter::Info,
        Level::Warning => LevelFilter::Warn,
        Level::Error | Level::Critical => LevelFilter::Error,
    };
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(level);
    }
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> Result<()> {
    let place = join_host_port(&flags.host, flags.port);
    let resource = |text: &'static str| move |error| Error::io(ErrorKind::Resource, text, error);
    let addresses =
        resolve_within(&flags.host, flags.port, Family::Any, limits::BIND_NAME_TIMEOUT)?;
    let listener = TcpListener::bind(addresses.as_slice())
        .map_err(resource("cannot listen"))
        .map_err(|error| error.with("address", &place))?;
    let address = listener.local_addr().map_err(resource("cannot listen"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(resource("cannot start"))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(resource("cannot start"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(resource("cannot start"))?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            log::info!("stopping");
        };
        log::info!("serving metadata at http://{address}/metadata");
        serve(listener, ServerOptions { file: flags.file }, stop).await
    })
}

/// Messages of the library, one line each.
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("mooncake")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {} {}\n", local_timestamp(), record.level(), record.args());
            // Nowhere is left to report that messages cannot be written.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
