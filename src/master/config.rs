//! What the flags and the configuration file mean together, checked.
//!
//! Pure but for the look at the host that the defaults need (cores, variables, interfaces), which
//! comes in as [`Host`]. Whatever is refused here is refused before any port is opened.

mod file;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::flags::{Origin, Values};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

pub use file::apply_file;

/// What the defaults depend on.
pub struct Host<'a> {
    /// Cores this process may use.
    pub cores: usize,
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The first IPv4 address of a network interface.
    pub interface: &'a dyn Fn(&str) -> Option<Ipv4Addr>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address or host name, without brackets.
    pub host: String,
    /// 0 lets the system choose.
    pub port: u16,
    /// The flag that gave the port.
    pub flag: &'static str,
}

/// Where new objects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Anywhere.
    Random,
    /// Where most is free.
    FreeRatioFirst,
}

/// Where the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Journal {
    /// There is none. One that an earlier life left in this folder is out of date.
    Off(Option<PathBuf>),
    /// Nobody chose the folder: without it the master runs, too.
    Default(PathBuf),
    /// Chosen: it must work.
    At(PathBuf),
}

/// Everything the master is told.
#[derive(Clone, Debug, PartialEq)]
pub struct MasterConfig {
    /// Clients.
    pub rpc: Listen,
    /// Threads that serve clients.
    pub threads: usize,
    /// Small answers go out at once.
    pub no_delay: bool,
    /// A silent connection is closed after this.
    pub silent_timeout: Option<Duration>,
    /// Metrics, health and queries.
    pub metrics: Listen,
    /// Log a summary from time to time.
    pub report_metrics: bool,
    /// The metadata server.
    pub metadata: Option<Listen>,
    /// Keeps the documents of the metadata server.
    pub metadata_file: Option<PathBuf>,
    /// A client that is not heard of for so long is dropped.
    pub client_ttl: Duration,
    /// An object that was looked up stays for so long.
    pub lease_ttl: Duration,
    /// Soft pins hold so long.
    pub soft_pin_ttl: Duration,
    /// Nobody may ask for a longer one.
    pub soft_pin_ttl_max: Duration,
    /// Soft-pinned objects may be evicted.
    pub evict_soft_pinned: bool,
    /// Share freed beyond the watermark.
    pub eviction_ratio: f64,
    /// Share above which is evicted.
    pub high_watermark: f64,
    /// Where new objects go.
    pub allocation: Allocation,
    /// An unfinished put blocks its key for so long.
    pub put_discard: Duration,
    /// An unfinished put keeps its memory for so long.
    pub put_release: Duration,
    /// Shared folder of files; clients get it with the cluster's name behind it.
    pub storage_directory: String,
    /// For the metrics.
    pub file_capacity: u64,
    /// Name of the cluster.
    pub cluster_id: String,
    /// The journal.
    pub journal: Journal,
    /// What should be logged at the start.
    pub warnings: Vec<String>,
}

impl MasterConfig {
    /// The meaning of `values`, or the first thing that cannot be.
    pub fn new(values: &Values, host: &Host) -> Result<MasterConfig> {
        let mut warnings = Vec::new();
        let port_flag = deprecated(values, "rpc_port", "port", &mut warnings);
        let threads_flag = deprecated(values, "rpc_thread_num", "max_threads", &mut warnings);
        let rpc = Listen {
            host: rpc_host(values, host)?,
            port: port(values, port_flag)?,
            flag: port_flag,
        };
        let threads = usize::try_from(at_least(values, threads_flag, 1)?).unwrap_or(usize::MAX);
        let threads = match threads_flag {
            "max_threads" => threads.min(host.cores),
            _ => threads,
        };
        if threads > limits::RPC_THREADS_MAX {
            let most = limits::RPC_THREADS_MAX;
            warnings.push(format!("--{threads_flag}={threads} is more than helps: {most} it is"));
        }
        let threads = threads.min(limits::RPC_THREADS_MAX);
        let silent = at_least(values, "rpc_conn_timeout_seconds", 0)?;
        check_dialects(values)?;
        check_election(values)?;
        let memory_allocator = values.written("memory_allocator");
        match memory_allocator {
            "offset" => {}
            "cachelib" => warnings.push(
                "--memory_allocator=cachelib has no effect: there is one allocator".to_owned(),
            ),
            _ => return Err(refuse(values, "memory_allocator", "is neither offset nor cachelib")),
        }
        let allocation = match values.written("allocation_strategy") {
            "random" => Allocation::Random,
            "free_ratio_first" => Allocation::FreeRatioFirst,
            other => {
                warnings.push(format!("--allocation_strategy={other} is not known: random it is"));
                Allocation::Random
            }
        };
        let without: Vec<String> =
            values.without_effect().iter().map(|(name, why)| format!("--{name} ({why})")).collect();
        if !without.is_empty() {
            warnings.push(format!("these flags have no effect: {}", without.join(", ")));
        }
        let cluster_id = values.written("cluster_id").to_owned();
        if cluster_id.is_empty() || cluster_id.len() > limits::NAME_BYTES_MAX {
            return Err(refuse(values, "cluster_id", "is no name"));
        }
        let root = values.written("root_fs_dir").trim_end_matches('/');
        let storage_directory = match values.written("root_fs_dir") {
            "" => String::new(),
            _ => format!("{root}/{cluster_id}"),
        };
        let metadata = match values.bool("enable_http_metadata_server") {
            true => Some(listen(values, "http_metadata_server_host", "http_metadata_server_port")?),
            false => None,
        };
        let file = values.written("http_metadata_server_file");
        let config = MasterConfig {
            journal: journal(values, host, &cluster_id, rpc.port),
            rpc,
            threads,
            no_delay: values.bool("rpc_enable_tcp_no_delay"),
            silent_timeout: (silent > 0).then(|| seconds(silent)),
            metrics: listen(values, "metrics_host", "metrics_port")?,
            report_metrics: values.bool("enable_metric_reporting"),
            metadata,
            metadata_file: (!file.is_empty()).then(|| PathBuf::from(file)),
            client_ttl: seconds(at_least(values, "client_ttl", 1)?),
            lease_ttl: milliseconds(values, "default_kv_lease_ttl"),
            soft_pin_ttl: milliseconds(values, "default_kv_soft_pin_ttl"),
            soft_pin_ttl_max: milliseconds(values, "max_kv_soft_pin_ttl"),
            evict_soft_pinned: values.bool("allow_evict_soft_pinned_objects"),
            eviction_ratio: ratio(values, "eviction_ratio")?,
            high_watermark: ratio(values, "eviction_high_watermark_ratio")?,
            allocation,
            put_discard: seconds_of(values, "put_start_discard_timeout_sec"),
            put_release: seconds_of(values, "put_start_release_timeout_sec"),
            storage_directory,
            file_capacity: u64::try_from(at_least(values, "global_file_segment_size", 0)?)
                .unwrap_or(0),
            cluster_id,
            warnings,
        };
        if config.put_release < config.put_discard {
            return Err(refuse(
                values,
                "put_start_release_timeout_sec",
                "is shorter than --put_start_discard_timeout_sec",
            ));
        }
        Ok(config)
    }
}

/// The flag that counts: the new name unless it is 0. Says so where the old one was used.
fn deprecated(
    values: &Values,
    new: &'static str,
    old: &'static str,
    warnings: &mut Vec<String>,
) -> &'static str {
    let is_old_set = values.origin(old) > Origin::Default;
    if is_old_set {
        warnings.push(format!("--{old} is deprecated: use --{new}"));
    }
    if values.signed(new) == 0 {
        return old;
    }
    if is_old_set {
        warnings.push(format!("both --{old} and --{new} are given: --{new} is used"));
    }
    new
}

fn refuse(values: &Values, flag: &str, why: &str) -> Error {
    let text = format!("--{flag}={} {why}", values.written(flag));
    Error::new(ErrorKind::InvalidArgument, text)
}

fn at_least(values: &Values, flag: &str, least: i64) -> Result<i64> {
    let number = values.signed(flag);
    if number < least {
        return Err(refuse(values, flag, &format!("is less than {least}")));
    }
    Ok(number)
}

fn port(values: &Values, flag: &'static str) -> Result<u16> {
    u16::try_from(values.signed(flag)).map_err(|_| refuse(values, flag, "is no port: 0 to 65535"))
}

fn listen(values: &Values, host: &'static str, port_flag: &'static str) -> Result<Listen> {
    let port = port(values, port_flag)?;
    Ok(Listen { host: host_of(values, host)?, port, flag: port_flag })
}

/// An address or a host name, without the brackets that an IPv6 address may have.
fn host_of(values: &Values, flag: &'static str) -> Result<String> {
    let written = values.written(flag);
    let host = written.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(written);
    let is_ip = host.parse::<IpAddr>().is_ok() || host.contains('%') && host.contains(':');
    let is_name = !host.is_empty()
        && host.len() <= limits::NAME_BYTES_MAX
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        // What looks like an address and is none would be looked up as a name.
        && !host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_ip || is_name {
        return Ok(host.to_owned());
    }
    Err(refuse(values, flag, "is no address and no host name"))
}

fn rpc_host(values: &Values, host: &Host) -> Result<String> {
    let interface = values.written("rpc_interface");
    if interface.is_empty() {
        return host_of(values, "rpc_address");
    }
    match (host.interface)(interface) {
        Some(address) => Ok(address.to_string()),
        None => Err(refuse(values, "rpc_interface", "is no interface with an IPv4 address")),
    }
}

fn ratio(values: &Values, flag: &'static str) -> Result<f64> {
    let ratio = values.double(flag);
    if (0.0..=1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(refuse(values, flag, "is not between 0 and 1"))
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(number.unsigned_abs()).min(limits::MASTER_TTL_MAX)
}

fn seconds_of(values: &Values, flag: &'static str) -> Duration {
    Duration::from_secs(values.unsigned(flag)).min(limits::MASTER_TTL_MAX)
}

fn milliseconds(values: &Values, flag: &'static str) -> Duration {
    Duration::from_millis(values.unsigned(flag)).min(limits::MASTER_TTL_MAX)
}

fn check_dialects(values: &Values) -> Result<()> {
    match values.written("dialect") {
        "0.3.7.post2" | "0.3.7" => {}
        "0.3.13.post1" | "0.3.13" => {
            return Err(refuse(values, "dialect", "is not spoken by this version yet"));
        }
        _ => return Err(refuse(values, "dialect", "is no dialect: 0.3.7.post2 is one")),
    }
    if values.signed("rpc_port_0_3_13") != 0 {
        return Err(refuse(
            values,
            "rpc_port_0_3_13",
            "cannot be served: this version does not speak the dialect of 0.3.13.post1 yet",
        ));
    }
    Ok(())
}

/// Refused rather than ignored: a second master that serves beside the first would split the pool.
fn check_election(values: &Values) -> Result<()> {
    if !values.bool("enable_ha") {
        return Ok(());
    }
    if values.written("etcd_endpoints").is_empty() {
        return Err(refuse(values, "enable_ha", "needs --etcd_endpoints"));
    }
    Err(refuse(values, "enable_ha", "cannot be served: this version does not elect leaders yet"))
}

fn journal(values: &Values, host: &Host, cluster: &str, port: u16) -> Journal {
    let chosen = values.written("data_dir");
    let is_on = values.bool("enable_journal");
    if !chosen.is_empty() {
        let folder = PathBuf::from(chosen);
        return if is_on { Journal::At(folder) } else { Journal::Off(Some(folder)) };
    }
    let variable = |name| (host.variable)(name).filter(|path| path.starts_with('/'));
    let state = variable("STATE_DIRECTORY")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_STATE_HOME").map(|path| PathBuf::from(path).join(FOLDER)))
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(HOME_STATE).join(FOLDER)));
    // A folder for each master of the host; the name of a cluster may have slashes in it. Behind a
    // port that the system chooses no client finds the next life.
    let name = format!("{}-{port}", cluster.replace('/', "_"));
    match state.filter(|_| port != 0).map(|state| state.join(name)) {
        Some(folder) if is_on => Journal::Default(folder),
        folder => Journal::Off(folder),
    }
}

const FOLDER: &str = "mooncake_master";
const HOME_STATE: &str = ".local/state";

#[cfg(test)]
mod tests;
