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
use crate::net::address::{join_host_port, parse_metadata, MetadataAddress};

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

/// What a master needs to be elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidacy {
    /// etcd, `host:port` each.
    pub endpoints: Vec<String>,
    /// Name of the group of masters.
    pub cluster: String,
    /// What clients and the other masters read: `host:port`.
    pub address: String,
    /// Length of the lease.
    pub lease: Duration,
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
    /// Bytes that objects in that folder may have.
    pub file_capacity: u64,
    /// The same as a share of the file system, which is not known here: it counts where it is less.
    pub file_share: Option<f64>,
    /// The oldest files go when there are too many bytes of them.
    pub evict_files: bool,
    /// Name of the cluster.
    pub cluster_id: String,
    /// The journal.
    pub journal: Journal,
    /// One of several, of which one serves.
    pub candidacy: Option<Candidacy>,
    /// Take away what clients that are gone left in their metadata service.
    pub clean_metadata: bool,
    /// That service, where it is not the one of this process.
    pub metadata_service: Option<MetadataAddress>,
    /// Part of the keys there.
    pub metadata_cluster: String,
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
        let candidacy = candidacy(values, host, &rpc, &mut warnings)?;
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
        let pages = beside(values, &rpc, "metrics_host", "metrics_port")?;
        let metadata = match values.bool("enable_http_metadata_server") {
            true => {
                let host = "http_metadata_server_host";
                Some(beside(values, &rpc, host, "http_metadata_server_port")?)
            }
            false => None,
        };
        let metadata_service = metadata_service(values, host, &mut warnings)?;
        let file = values.written("http_metadata_server_file");
        let config = MasterConfig {
            journal: match (journal(values, host, &cluster_id, rpc.port), &candidacy) {
                // Another master may have led since it was written.
                (Journal::At(folder) | Journal::Default(folder), Some(_)) => {
                    Journal::Off(Some(folder))
                }
                (journal, _) => journal,
            },
            candidacy,
            clean_metadata: values.bool("enable_metadata_cleanup_on_timeout"),
            metadata_service,
            metadata_cluster: (host.variable)("MC_METADATA_CLUSTER_ID").unwrap_or_default(),
            rpc,
            threads,
            no_delay: values.bool("rpc_enable_tcp_no_delay"),
            silent_timeout: (silent > 0).then(|| seconds(silent)),
            metrics: pages,
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
            file_capacity: file_capacity(values)?,
            file_share: (values.unsigned("quota_bytes") == 0).then_some(FILE_SHARE),
            evict_files: values.bool("enable_disk_eviction"),
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

/// The share of the file system that files may take where no number is given; upstream's.
const FILE_SHARE: f64 = 0.9;

fn file_capacity(values: &Values) -> Result<u64> {
    let most = u64::try_from(at_least(values, "global_file_segment_size", 0)?).unwrap_or(0);
    Ok(match values.unsigned("quota_bytes") {
        0 => most,
        quota => most.min(quota),
    })
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

/// The same for a port beside that of the calls: whoever serves calls over IPv6 and says nothing
/// else means these as well, which then serve both families.
fn beside(
    values: &Values,
    rpc: &Listen,
    host: &'static str,
    port_flag: &'static str,
) -> Result<Listen> {
    let mut listen = listen(values, host, port_flag)?;
    if values.origin(host) == Origin::Default && rpc.host.contains(':') {
        listen.host = "::".to_owned();
    }
    Ok(listen)
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

/// What `--enable_ha` asks for.
fn candidacy(
    values: &Values,
    host: &Host,
    rpc: &Listen,
    warnings: &mut Vec<String>,
) -> Result<Option<Candidacy>> {
    if !values.bool("enable_ha") {
        return Ok(None);
    }
    let written = values.written("etcd_endpoints");
    if written.trim().is_empty() {
        return Err(refuse(values, "enable_ha", "needs --etcd_endpoints"));
    }
    let wrong = |why| refuse(values, "etcd_endpoints", why);
    let endpoints = match parse_metadata(written) {
        Ok(MetadataAddress::Etcd(endpoints)) => endpoints,
        // One endpoint as a URL.
        Ok(MetadataAddress::Http(url)) => vec![url],
        _ => return Err(wrong("is no list of etcd endpoints: host:port;host:port")),
    };
    if rpc.port == 0 {
        return Err(refuse(values, "enable_ha", "needs a port in --rpc_port"));
    }
    if rpc.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        warnings.push(format!(
            "--rpc_address={} is what clients are told when this master leads, and no other host \
             reaches it there",
            rpc.host
        ));
    }
    for flag in ["data_dir", "enable_journal"] {
        if values.origin(flag) > Origin::Default {
            warnings.push(format!(
                "--{flag} has no effect with --enable_ha: the next leader hears from the clients \
                 what they hold"
            ));
        }
    }
    let lease = seconds_of(values, "ha_lease_ttl_sec");
    if !(limits::ELECTION_LEASE_MIN..=limits::ELECTION_LEASE_MAX).contains(&lease) {
        return Err(refuse(values, "ha_lease_ttl_sec", "is not between 2 and 60"));
    }
    // As upstream 0.3.7, whose masters and clients do not look at --cluster_id for this.
    let cluster = (host.variable)(CLUSTER_VARIABLE).filter(|name| !name.trim().is_empty());
    let cluster = cluster.unwrap_or_else(|| CLUSTER_DEFAULT.to_owned());
    let address = join_host_port(&rpc.host, rpc.port);
    Ok(Some(Candidacy { endpoints, cluster, address, lease }))
}

/// Name of the group of masters, upstream's variable and default.
pub const CLUSTER_VARIABLE: &str = "MC_STORE_CLUSTER_ID";
/// See [`CLUSTER_VARIABLE`].
pub const CLUSTER_DEFAULT: &str = "mooncake";

/// Where clients keep their metadata if not in this process, as upstream finds it.
fn metadata_service(
    values: &Values,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<MetadataAddress>> {
    if !values.bool("enable_metadata_cleanup_on_timeout")
        || values.bool("enable_http_metadata_server")
    {
        return Ok(None);
    }
    let written = (host.variable)(METADATA_VARIABLE).unwrap_or_default();
    match written.trim() {
        "" => warnings.push(format!(
            "--enable_metadata_cleanup_on_timeout has no effect: neither \
             --enable_http_metadata_server nor {METADATA_VARIABLE} is given"
        )),
        written => {
            let address = parse_metadata(written);
            return address.map(Some).map_err(|error| error.with("variable", METADATA_VARIABLE));
        }
    }
    Ok(None)
}

/// The metadata service of clients, upstream's name.
const METADATA_VARIABLE: &str = "MOONCAKE_TE_META_DATA_SERVER";

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
