//! The benchmark of the transfer engine, with upstream's flags and lines of output.
//!
//! One process is the target: it registers memory and waits for SIGINT or SIGTERM. The other is the
//! initiator: its threads read or write that memory in batches for some seconds, and it prints the
//! rate.

#[path = "support/gflags.rs"]
mod gflags;
#[path = "support/glog.rs"]
mod glog;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use glog::{error, info, warning};
use mooncake::config::{EngineConfig, Origin, ProcessEnvironment};
use mooncake::engine::{Access, BufferSpec, Engine, Operation, Request, SegmentBuffer, SegmentId};
use mooncake::error::{Error, ErrorKind, Result};
use mooncake::limits;

/// Moves bytes between two processes and prints how fast.
#[derive(Parser)]
// Of a flag that comes twice the last one counts, as upstream.
#[command(
    name = "transfer_engine_bench",
    version,
    rename_all = "snake_case",
    args_override_self = true
)]
struct Flags {
    /// Name of this process's segment, "host" or "host:port"; default: the host's name
    #[arg(long, default_value_t = host_name(), hide_default_value = true)]
    local_server_name: String,
    /// Where peers find each other: P2PHANDSHAKE, or the address of a metadata service
    #[arg(long, default_value = "P2PHANDSHAKE")]
    metadata_server: String,
    /// "initiator" reads or writes the memory of "target"
    #[arg(long, default_value = "initiator")]
    mode: String,
    /// "read" or "write"
    #[arg(long, default_value = "read")]
    operation: String,
    /// Transport: tcp, rdma, ...
    #[arg(long, default_value = "rdma")]
    protocol: String,
    /// Network adapters to use, separated by commas
    #[arg(long)]
    device_name: Option<String>,
    /// File with the preference matrix of network adapters
    #[arg(long)]
    nic_priority_matrix: Option<String>,
    /// The target's segment: what it printed after "listening on", or its name
    #[arg(long, default_value = "")]
    segment_id: String,
    /// Bytes of each buffer
    #[arg(long, default_value = "1073741824", value_parser = gflags::unsigned)]
    buffer_size: u64,
    /// Requests in a batch
    #[arg(long, default_value = "128", value_parser = gflags::unsigned)]
    batch_size: u64,
    /// Bytes of a request
    #[arg(long, default_value = "65536", value_parser = gflags::unsigned)]
    block_size: u64,
    /// Seconds
    #[arg(long, default_value = "10", value_parser = gflags::unsigned)]
    duration: u64,
    /// Threads that submit batches
    #[arg(long, default_value = "12", value_parser = gflags::unsigned)]
    threads: u64,
    /// Choose the transport instead of taking --protocol
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = clap::ArgAction::Set)]
    auto_discovery: bool,
    /// Unit of the rate: GB, GiB, Gb, MB, MiB, Mb, KB, KiB or Kb
    #[arg(long, default_value = "GB")]
    report_unit: String,
    /// Decimal places of the rate
    #[arg(long, default_value = "2", value_parser = gflags::unsigned)]
    report_precision: u64,
    /// Engine of upstream to use; there is one here
    #[arg(long, default_value = "classic")]
    backend: String,
    /// Use device memory
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = clap::ArgAction::Set)]
    use_vram: bool,
    /// Fill device memory first
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", action = clap::ArgAction::Set)]
    init_mem: bool,
    /// Device to use; -1 for all
    #[arg(long, default_value = "0", allow_hyphen_values = true)]
    gpu_id: i32,
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    let mut spelled = gflags::normalise(&Flags::command(), arguments);
    spelled.insert(0, "transfer_engine_bench".to_owned());
    let mut flags = match Flags::try_parse_from(spelled) {
        Ok(flags) => flags,
        Err(problem) => {
            let _ = problem.print();
            return ExitCode::from(u8::from(problem.use_stderr()));
        }
    };
    match run(&mut flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &mut Flags) -> Result<()> {
    check(flags)?;
    match flags.mode.as_str() {
        "initiator" => initiator(flags),
        "target" => target(flags),
        _ => Err(invalid("--mode is neither initiator nor target")),
    }
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, why)
}

/// Refuses what makes no sense, and says what has no effect.
fn check(flags: &mut Flags) -> Result<()> {
    if flags.backend != "classic" {
        return Err(invalid("--backend is not classic: there is one engine here"));
    }
    if flags.threads == 0 || flags.batch_size == 0 || flags.block_size == 0 || flags.duration == 0 {
        return Err(invalid("--threads, --batch_size, --block_size and --duration begin at 1"));
    }
    if flags.threads > THREADS_MAX || flags.batch_size > limits::BATCH_REQUESTS_MAX as u64 {
        return Err(invalid("--threads or --batch_size is too large"));
    }
    if unit_bytes(&flags.report_unit).is_none() {
        warning!("--report_unit={} is no unit; GB is used", flags.report_unit);
        flags.report_unit = "GB".to_owned();
    }
    let needed = flags
        .block_size
        .checked_mul(flags.batch_size * flags.threads)
        .filter(|needed| *needed <= limits::REQUEST_BYTES_MAX)
        .ok_or_else(|| invalid("--block_size times --batch_size times --threads is too large"))?;
    if flags.buffer_size < needed {
        warning!("--buffer_size is smaller than all blocks together; {needed} is used");
        flags.buffer_size = needed;
    }
    if flags.device_name.is_some() || flags.nic_priority_matrix.is_some() {
        warning!("--device_name and --nic_priority_matrix choose RDMA adapters: no effect here");
    }
    if flags.use_vram {
        warning!("--use_vram: this build knows no device memory; host memory is used");
    }
    Ok(())
}

const THREADS_MAX: u64 = 1024;

/// An engine as the flags and the environment ask for it.
fn start(flags: &Flags) -> Result<Engine> {
    let (mut config, _) = EngineConfig::load(None, &ProcessEnvironment)?;
    let protocol = if flags.auto_discovery { "" } else { flags.protocol.as_str() };
    config.set("metadata", flags.metadata_server.as_str().into(), Origin::Option)?;
    config.set("local_name", flags.local_server_name.as_str().into(), Origin::Option)?;
    config.set("protocol", protocol.into(), Origin::Option)?;
    config.set("auto_discovery", i32::from(flags.auto_discovery).into(), Origin::Option)?;
    config.check()?;
    let level = config.log_level.as_deref().unwrap_or("warn");
    glog::show_library(level.parse().unwrap_or(log::LevelFilter::Warn));
    let binding = match (config.metadata.as_str(), config.legacy_rpc_port_binding) {
        ("P2PHANDSHAKE", _) => "P2P handshake",
        (_, true) => "legacy/P2P",
        (_, false) => "new RPC mapping",
    };
    let engine = Engine::create(config)?;
    // Scripts read host and port from this line.
    info!(
        "Transfer Engine RPC using {binding}, listening on {}:{}",
        engine.host(),
        engine.rpc_port()
    );
    Ok(engine)
}

/// One buffer for each memory node, as upstream: a peer expects as many as it has itself.
fn register(engine: &Engine, flags: &Flags) -> Result<Vec<Vec<u8>>> {
    let length = usize::try_from(flags.buffer_size)
        .map_err(|_| invalid("--buffer_size is more than memory can have"))?;
    let nodes = memory_nodes();
    let mut buffers = Vec::new();
    let mut specs = Vec::new();
    for node in 0..nodes {
        // Asked for first in the way that can be refused; then zeroed by the system on first use,
        // like the memory upstream takes.
        Vec::<u8>::new().try_reserve_exact(length).map_err(|problem| {
            Error::new(ErrorKind::Resource, "no memory for a buffer").caused_by(problem)
        })?;
        let buffer = vec![0; length];
        specs.push(BufferSpec {
            address: buffer.as_ptr().expose_provenance(),
            length,
            location: format!("cpu:{node}"),
            access: Access::ALL,
        });
        buffers.push(buffer);
    }
    engine.register(&specs)?;
    Ok(buffers)
}

fn target(flags: &Flags) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])
    .map_err(|problem| Error::io(ErrorKind::Resource, "no signal handlers", problem))?;
    let engine = start(flags)?;
    let buffers = register(&engine, flags)?;
    info!("target {} is ready", engine.local_name());
    signals.forever().next();
    engine.shutdown();
    drop(buffers);
    Ok(())
}

/// What the threads of an initiator share.
struct Work<'a> {
    flags: &'a Flags,
    engine: &'a Engine,
    segment: SegmentId,
    operation: Operation,
    local: Vec<usize>,
    remote: Vec<SegmentBuffer>,
    running: AtomicBool,
    batches: AtomicU64,
}

fn initiator(flags: &Flags) -> Result<()> {
    let operation = match flags.operation.as_str() {
        "read" => Operation::Read,
        "write" => Operation::Write,
        _ => return Err(invalid("--operation is neither read nor write")),
    };
    if flags.segment_id.is_empty() {
        return Err(invalid("--segment_id is missing: which target?"));
    }
    let engine = start(flags)?;
    let buffers = register(&engine, flags)?;
    let segment = engine.open_segment(&flags.segment_id)?;
    let work = Work {
        flags,
        engine: &engine,
        segment,
        operation,
        local: buffers.iter().map(|buffer| buffer.as_ptr().expose_provenance()).collect(),
        remote: remote_buffers(&engine, segment, flags)?,
        running: AtomicBool::new(true),
        batches: AtomicU64::new(0),
    };
    let elapsed = measure(&work)?.as_secs_f64();
    let batches = work.batches.load(Ordering::Relaxed);
    let bytes = batches as f64 * (flags.batch_size * flags.block_size) as f64;
    info!(
        "Test completed: duration {elapsed:.2}, batch count {batches}, throughput {}",
        rate(bytes / elapsed, flags)
    );
    engine.shutdown();
    drop(buffers);
    Ok(())
}

/// The target's buffers, if all requests fit into them.
fn remote_buffers(
    engine: &Engine,
    segment: SegmentId,
    flags: &Flags,
) -> Result<Vec<SegmentBuffer>> {
    let buffers = engine.segment_buffers(segment)?;
    let needed = flags.block_size * flags.batch_size * flags.threads;
    match buffers.iter().map(|buffer| buffer.length).min() {
        None => Err(invalid("the target has no buffers").with("segment", &flags.segment_id)),
        Some(shortest) if shortest < needed => {
            Err(invalid("the target's buffers are too small: start it with a larger --buffer_size")
                .with("length_bytes", shortest)
                .with("needed_bytes", needed))
        }
        Some(_) => Ok(buffers),
    }
}

/// Runs all threads for the duration; a failure ends them early.
fn measure(work: &Work) -> Result<Duration> {
    let (failures, failed) = mpsc::channel();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for index in 0..work.flags.threads {
            let failures = failures.clone();
            scope.spawn(move || {
                if let Err(problem) = submit_batches(work, index) {
                    // The receiver may have its failure already.
                    let _ = failures.send(problem);
                }
                info!("Worker {index} stopped!");
            });
        }
        drop(failures);
        let failure = failed.recv_timeout(Duration::from_secs(work.flags.duration));
        work.running.store(false, Ordering::Relaxed);
        match failure {
            Ok(problem) => Err(problem),
            Err(_) => failed.recv().map_or(Ok(()), Err),
        }
    })?;
    Ok(begin.elapsed())
}

fn submit_batches(work: &Work, thread: u64) -> Result<()> {
    let flags = work.flags;
    let own = thread as usize % work.local.len();
    let local = work.local[own];
    let remote = work.remote[own % work.remote.len()].address;
    let requests: Vec<Request> = (0..flags.batch_size)
        .map(|index| {
            let offset = flags.block_size * (index * flags.threads + thread);
            Request {
                operation: work.operation,
                local: local + offset as usize,
                segment: work.segment,
                remote_address: remote + offset,
                length: flags.block_size,
            }
        })
        .collect();
    let batch = work.engine.create_batch(requests.len())?;
    while work.running.load(Ordering::Relaxed) {
        batch.submit(&requests)?;
        // Every task has a deadline of its own, which is earlier than this.
        batch.wait(limits::TIMEOUT_MAX)?;
        if let Some(problem) = batch.first_error() {
            return Err(problem);
        }
        batch.reset()?;
        work.batches.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Units of the rate and the bytes in one; `b` is a bit.
const UNITS: &[(&str, f64)] = &[
    ("GB", 1e9),
    ("GiB", (1u64 << 30) as f64),
    ("Gb", 1e9 / 8.0),
    ("MB", 1e6),
    ("MiB", (1u64 << 20) as f64),
    ("Mb", 1e6 / 8.0),
    ("KB", 1e3),
    ("KiB", (1u64 << 10) as f64),
    ("Kb", 1e3 / 8.0),
];

fn unit_bytes(unit: &str) -> Option<f64> {
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes)
}

fn rate(bytes_per_second: f64, flags: &Flags) -> String {
    let unit = unit_bytes(&flags.report_unit).unwrap_or(1e9);
    let precision = flags.report_precision.min(17) as usize;
    format!("{:.precision$} {}/s", bytes_per_second / unit, flags.report_unit)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// Memory nodes of this host, at least one.
fn memory_nodes() -> usize {
    let is_node =
        |name: &str| name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok());
    let folder = std::fs::read_dir("/sys/devices/system/node").into_iter().flatten();
    folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_node(name))
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        let arguments = arguments.iter().map(|text| text.to_string()).collect();
        let mut spelled = gflags::normalise(&Flags::command(), arguments);
        spelled.insert(0, String::new());
        Flags::try_parse_from(spelled).unwrap()
    }

    #[test]
    fn defaults_are_upstreams() {
        let flags = flags(&[]);
        assert_eq!((flags.buffer_size, flags.batch_size, flags.block_size), (1 << 30, 128, 65_536));
        assert_eq!((flags.duration, flags.threads, flags.report_precision), (10, 12, 2));
        assert_eq!((flags.mode.as_str(), flags.operation.as_str()), ("initiator", "read"));
        assert_eq!((flags.protocol.as_str(), flags.backend.as_str()), ("rdma", "classic"));
        assert!(!flags.auto_discovery && !flags.use_vram && flags.init_mem);
    }

    #[test]
    fn spellings_of_upstream_are_read() {
        let flags = flags(&[
            "-mode",
            "target",
            "--auto_discovery",
            "--noinit_mem",
            "--gpu_id=-1",
            "--block-size=5",
            "--block-size=0x1000",
        ]);
        assert_eq!(flags.mode, "target");
        assert!(flags.auto_discovery && !flags.init_mem);
        assert_eq!((flags.gpu_id, flags.block_size), (-1, 4096));
    }

    #[test]
    fn a_buffer_holds_all_blocks() {
        let mut flags = flags(&["--buffer_size=1", "--threads=2", "--batch_size=3"]);
        check(&mut flags).unwrap();
        assert_eq!(flags.buffer_size, 2 * 3 * 65_536);
        flags.block_size = u64::MAX / 2;
        assert!(check(&mut flags).is_err());
        flags.block_size = 0;
        assert!(check(&mut flags).is_err());
    }

    #[test]
    fn rates_have_unit_and_precision() {
        assert_eq!(rate(2.5e9, &flags(&[])), "2.50 GB/s");
        let flags = flags(&["--report_unit=Mb", "--report_precision=0"]);
        assert_eq!(rate(1e6, &flags), "8 Mb/s");
    }
}
