//! Every setting of the library, once. The struct [`EngineConfig`], its defaults, the parsers, the
//! documentation and the dump all come from the rows below; adding a setting is adding a row.
//!
//! A row reads: documentation, field: type = default => kind, variables, effect. The documentation
//! is also the text of `docs/configuration.md`.

use super::dialect::Dialect;
use super::origin::Origins;
use super::row::{Effect, Field, Kind, NamesWithoutEffect, Setting, Variable};
use crate::limits;

use Effect::{Reserved, Used};
use Kind::{Bool, Choice, Flag, Integer, List, OneOf, Secret, Text};

macro_rules! settings {
    ($($section:literal {
        $($(#[doc = $help:literal])+
        $key:ident: $type:ty = $default:expr => $kind:expr, [$($variable:expr),*], $effect:expr;)*
    })*) => {
        /// The settings of one engine. Plain data: reading it has no effect.
        #[derive(Clone)]
        pub struct EngineConfig {
            $($($(#[doc = $help])+ pub $key: $type,)*)*
            /// Who set what.
            pub origins: Origins,
            /// What was set but ignored, as sentences for the log.
            pub warnings: Vec<String>,
        }

        impl Default for EngineConfig {
            fn default() -> Self {
                EngineConfig {
                    $($($key: $default,)*)*
                    origins: Origins::default(),
                    warnings: Vec::new(),
                }
            }
        }

        /// The table.
        pub static SETTINGS: &[Setting] = &[$($(Setting {
            key: stringify!($key),
            section: $section,
            variables: &[$($variable),*],
            kind: $kind,
            effect: $effect,
            help: concat!($($help),+),
            get: |config| Field::to_json(&config.$key),
            put: |config, value| match Field::from_value(value) {
                Some(value) => {
                    config.$key = value;
                    true
                }
                None => false,
            },
        },)*)*];
    };
}

const fn v7(name: &'static str) -> Variable {
    Variable::v0_3_7(name)
}

const fn v13(name: &'static str) -> Variable {
    Variable::v0_3_13(name)
}

const fn integer(min: i64, max: i64) -> Kind {
    Integer { min, max }
}

/// Times in milliseconds: at least one, at most what a deadline may be.
const fn timeout_ms() -> Kind {
    Integer { min: 1, max: limits::TIMEOUT_MAX.as_secs() as i64 * 1000 }
}

/// Times in seconds with the same upper end.
const fn timeout_s() -> Kind {
    Integer { min: 1, max: limits::TIMEOUT_MAX.as_secs() as i64 }
}

const NAME: Kind = Text(limits::NAME_BYTES_MAX);
const PATH: Kind = Text(libc::PATH_MAX as usize);
const DEVICES: Kind = List(limits::CONFIG_LIST_ITEMS_MAX);
const U32: i64 = u32::MAX as i64;

const LOG_LEVELS: Kind = Choice {
    words: &["off", "error", "warn", "info", "debug", "trace"],
    aliases: &[("warning", "warn")],
};
const DIALECTS: Kind = Choice { words: Dialect::WORDS, aliases: &[("1", "v1"), ("2", "v2")] };

const RDMA: Effect = Reserved("the rdma transport");

settings! {
    "Engine" {
        /// Where peers find each other: `P2PHANDSHAKE` (no service), `http://host:port/path`,
        /// `etcd://a:2379;b:2379` (also without a scheme), `redis://host:port`.
        metadata: String = "P2PHANDSHAKE".to_owned()
            => Text(limits::CONNECTION_STRING_BYTES_MAX), [], Used;
        /// Name of this engine's segment, `host` or `host:port`; empty chooses the host. With
        /// `P2PHANDSHAKE` the port is replaced by the one that was bound.
        local_name: String = String::new() => NAME, [], Used;
        /// Transport to use: `tcp` or `loopback`; empty chooses. See `auto_discovery`.
        protocol: String = String::new() => Text(64), [], Used;
        /// Use TCP even where a faster transport is available.
        force_tcp: bool = false => Flag, [v7("MC_FORCE_TCP")], Used;
        /// Move bytes to and from engines of this library on the same host without sockets, where
        /// both run as the same user. Where that cannot be done TCP is used, and the dump says why.
        same_host: bool = true => Bool, [Variable::ours("MC_SAME_HOST")], Used;
        /// Use RDMA even where no adapter was found.
        force_rdma: bool = false => Flag, [v13("MC_FORCE_HCA")], RDMA;
        /// Longest time of one transfer for which the caller gave no deadline.
        transfer_timeout_ms: u32 = 30_000 => timeout_ms(),
            [v7("MC_TRANSFER_TIMEOUT").within(5, 3600).scaled(1000)], Used;
        /// How often a request is tried again after its connection was lost.
        retry_max: u32 = 3 => integer(0, 127), [], Used;
        /// How long a peer that could not be reached is refused without another try.
        peer_cooldown_ms: u32 = 1000 => integer(0, 600_000), [], Used;
    }
    "Addresses and ports" {
        /// Address or host name to listen on; absent is every address of the host, except as
        /// `publish_address` says.
        bind_address: Option<String> = None => NAME, [], Used;
        /// Address or host name published to peers; absent chooses the first usable one. Where it
        /// is an address of this host and `bind_address` is absent, the engine listens only there.
        publish_address: Option<String> = None => NAME, [v7("MC_TCP_BIND_ADDRESS")], Used;
        /// Port of the handshake plane; 0 draws one from the range.
        rpc_port: u16 = 0 => integer(0, 65_535), [], Used;
        /// Port of the data plane; 0 draws one from the range.
        data_port: u16 = 0 => integer(0, 65_535), [], Used;
        /// First port of the range. The older spelling of the variable takes 1..65535; the newer
        /// one takes 1024..65535 without the ports 32768..60999 that the kernel hands out itself.
        port_min: u16 = 15_000 => integer(1, 65_535),
            [v13("MC_MIN_RPC_PORT"), v7("MC_MIN_PRC_PORT")], Used;
        /// Last port of the range; the rules are those of `port_min`.
        port_max: u16 = 17_000 => integer(1, 65_535),
            [v13("MC_MAX_RPC_PORT"), v7("MC_MAX_PRC_PORT")], Used;
        /// Publish an IPv6 address and resolve names to IPv6 first.
        use_ipv6: bool = false => Flag, [v7("MC_USE_IPV6")], Used;
        /// Take host and port of the handshake plane from `local_name`.
        legacy_rpc_port_binding: bool = false => Flag, [v7("MC_LEGACY_RPC_PORT_BINDING")], Used;
    }
    "Metadata" {
        /// Part of every key in the metadata service, so that clusters can share one.
        cluster_id: String = String::new() => NAME, [v7("MC_METADATA_CLUSTER_ID")], Used;
        /// Fetch the descriptor of a segment before every transfer.
        disable_metacache: bool = false => Flag, [v7("MC_DISABLE_METACACHE")], Used;
        /// Fetch the descriptors of open segments again so often; 0 is never.
        metadata_refresh_interval_s: u32 = 0 => integer(0, 86_400),
            [v13("MC_TE_METADATA_REFRESH_INTERVAL_SECONDS")], Used;
        /// How long the entries of a killed engine stay in an etcd or redis service; 0 is for
        /// ever. While the engine lives its entries are prolonged, and put again where the service
        /// has lost them, three times in this interval; http services are looked after as often.
        metadata_lease_s: u32 = 60 => integer(0, 86_400), [], Used;
        /// Certificate authorities for TLS to the metadata service, a file in PEM form; absent
        /// is those of the system.
        metadata_ca_path: Option<String> = None => PATH, [], Used;
        /// Own certificate for a metadata service that asks for one, a file in PEM form.
        metadata_certificate_path: Option<String> = None => PATH, [], Used;
        /// Key of `metadata_certificate_path`.
        metadata_key_path: Option<String> = None => PATH, [], Used;
        /// Use TLS to etcd endpoints that do not say `http://` or `https://` themselves.
        etcd_tls: bool = false => Bool, [], Used;
        /// User of the etcd service; empty sends none.
        etcd_username: String = String::new() => NAME, [], Used;
        /// Password of the etcd user.
        etcd_password: String = String::new() => Secret(limits::NAME_BYTES_MAX), [], Used;
        /// User of the redis service; empty sends none. A user in the URL wins.
        redis_username: String = String::new() => NAME, [v13("MC_REDIS_USERNAME")], Used;
        /// Password of the redis service; empty sends none.
        redis_password: String = String::new() => Secret(limits::NAME_BYTES_MAX),
            [v7("MC_REDIS_PASSWORD")], Used;
        /// Database number of the redis service. A number in the URL wins.
        redis_db_index: u32 = 0 => integer(0, 255), [v7("MC_REDIS_DB_INDEX")], Used;
    }
    "Handshake" {
        /// Port assumed in `host` without one.
        handshake_port: u16 = 12_001 => integer(1, 65_535), [v7("MC_HANDSHAKE_PORT")], Used;
        /// Connections that may wait to be accepted.
        handshake_backlog: u32 = 128 => integer(1, 65_535),
            [v7("MC_HANDSHAKE_LISTEN_BACKLOG")], Used;
        /// Longest message sent or accepted; it bounds the descriptor in `P2PHANDSHAKE`.
        handshake_bytes_max: usize = limits::HANDSHAKE_BYTES_DEFAULT
            => integer(limits::HANDSHAKE_BYTES_DEFAULT as i64, limits::HANDSHAKE_BYTES_MAX as i64),
            [v13("MC_HANDSHAKE_MAX_LENGTH")], Used;
        /// Longest time to connect to the handshake plane of a peer.
        handshake_connect_timeout_ms: u32 = 5000 => timeout_ms(),
            [v13("MC_HANDSHAKE_CONNECT_TIMEOUT").within(1, 3599).scaled(1000)], Used;
    }
    "TCP" {
        /// Best dialect used towards a peer: `auto`, `v1` (upstream 0.3.7), `v2` (0.3.13),
        /// `native`.
        tcp_dialect: Dialect = Dialect::Auto => DIALECTS, [v13("MC_TCP_PROTO")], Used;
        /// Threads that move bytes; 0 chooses.
        tcp_io_threads: u32 = 0 => integer(0, 256), [], Used;
        /// Connections kept to one peer; 0 chooses.
        tcp_lanes_per_peer: u32 = 0 => integer(0, 64),
            [
                v13("MC_TCP_LANES_PER_PEER").within(1, 16),
                v13("MC_TCP_MAX_CONNECTIONS_PER_PEER").within(1, 16)
            ], Used;
        /// Keep connections for the next request where the dialect allows it.
        tcp_connection_pool: bool = true => Bool, [v13("MC_TCP_ENABLE_CONNECTION_POOL")], Used;
        /// Longest wait for the status of a request whose bytes were sent.
        tcp_status_timeout_s: u32 = 30 => timeout_s(), [v13("MC_TCP_STATUS_TIMEOUT_SEC")], Used;
        /// Longest time in which a transfer may make no progress.
        tcp_progress_timeout_s: u32 = 30 => timeout_s(),
            [v13("MC_TCP_PROGRESS_TIMEOUT_SEC")], Used;
        /// Requests that may wait for one connection to a peer; more are refused.
        tcp_queued_requests_max: u32 = limits::BATCH_REQUESTS_MAX as u32
            => integer(1, limits::BATCH_REQUESTS_MAX as i64),
            [v13("MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER").within(1, 65_535)], Used;
        /// Connections served at once; more are closed.
        tcp_connections_max: u32 = 4096 => integer(1, 1_048_576), [], Used;
        /// Time in which a new connection must send its first header.
        tcp_header_timeout_ms: u32 = 10_000 => timeout_ms(), [], Used;
        /// Time a waiting caller polls before it sleeps; 0 is never.
        tcp_spin_us: u32 = 50 => integer(0, 1_000_000), [], Used;
        /// Requests from this size on are spread over the connections to a peer.
        tcp_stripe_bytes_min: u64 = 1 << 20 => integer(4096, limits::REQUEST_BYTES_MAX as i64),
            [], Used;
        /// Connections open at once to a peer of the `v1` dialect, which needs one for each
        /// request.
        tcp_v1_connections_max: u32 = 64 => integer(1, 4096), [], Used;
        /// Congestion control of connections between processes of one host, where pacing only
        /// costs; empty leaves the system's choice. Unavailable ones are skipped.
        tcp_local_congestion: String = "reno".to_owned() => Text(16), [], Used;
        /// Seconds of silence after which the kernel asks whether the peer is still there.
        tcp_keepalive_s: u32 = 15 => integer(1, 32_767), [], Used;
    }
    "Loopback" {
        /// Faults of the `loopback` transport, for tests: parts of a million and microseconds, as
        /// in `fail=1000,reset=500,half=0,drop=0,delay_us=50,seed=7`.
        loopback_faults: String = String::new() => Text(256), [], Used;
    }
    "Topology" {
        /// File with the preference matrix to use instead of what the host tells, or the matrix
        /// itself, which begins with `{`. One that cannot be used is a note in the dump.
        custom_topology_path: Option<String> = None => Text(limits::CUSTOM_TOPOLOGY_BYTES_MAX),
            [v7("MC_CUSTOM_TOPO_JSON")], Used;
        /// RDMA adapters that may be used, by name; empty is all.
        device_filters: Vec<String> = Vec::new() => DEVICES,
            [v13("MC_TE_FILTERS"), v7("MC_MS_FILTERS")], Used;
        /// Choose between `rdma` and `tcp` by the adapters found: 1 always, 0 never, -1 where
        /// `protocol` is `rdma` and `device_filters` is empty.
        auto_discovery: i32 = -1 => integer(-1, 1), [v7("MC_MS_AUTO_DISC").within(0, 1)], Used;
        /// Where the kernel shows devices. A container may have those of its host elsewhere.
        sysfs_path: String = "/sys".to_owned() => PATH, [], Used;
    }
    "Store" {
        /// Longest time of one call to the master of the store.
        store_master_timeout_ms: u32 = 5000 => timeout_ms(), [v13("MC_RPC_TIMEOUT_MS")], Used;
        /// Longest time to connect to the master of the store.
        store_master_connect_timeout_ms: u32 = 2000 => timeout_ms(),
            [v13("MC_RPC_CONNECT_TIMEOUT_MS")], Used;
        /// Name of the group of masters of which one is elected, where the master is given as
        /// `etcd://host:port;host:port`.
        store_cluster_id: String = "mooncake".to_owned() => NAME, [v7("MC_STORE_CLUSTER_ID")], Used;
        /// Copy bytes inside the process instead of sending them through a transport.
        store_memcpy: bool = true => Bool, [v7("MC_STORE_MEMCPY")], Used;
        /// Longest segment that is mounted in one piece.
        store_segment_bytes_max: u64 = 1 << 40
            => integer(limits::STORE_SEGMENT_BYTES_MIN as i64, limits::REQUEST_BYTES_MAX as i64),
            [], Used;
        /// Take the memory of segments and local buffers from the pool of huge pages.
        store_huge_pages: bool = false => Bool, [v13("MC_STORE_USE_HUGEPAGE")], Used;
        /// Size of a huge page, such as `2MB` or `1GB`.
        store_huge_page_size: String = "2MB".to_owned() => Text(32),
            [v13("MC_STORE_HUGEPAGE_SIZE")], Used;
        /// First port of the range from which the name of a store client gets its port, where
        /// `local_hostname` has none.
        store_port_min: u16 = 12_300 => integer(1, 65_535),
            [v13("MC_STORE_CLIENT_MIN_PORT")], Used;
        /// Last port of that range.
        store_port_max: u16 = 14_300 => integer(1, 65_535),
            [v13("MC_STORE_CLIENT_MAX_PORT")], Used;
    }
    "Log and metrics" {
        /// Least important messages shown: `off`, `error`, `warn`, `info`, `debug`, `trace`.
        /// Absent is `off` until the caller installs a sink.
        log_level: Option<String> = None => LOG_LEVELS, [v7("MC_LOG_LEVEL")], Used;
        /// Log the rate of transfers from time to time.
        metrics_log: bool = false => Bool, [v7("MC_TE_METRIC")], Reserved("the rate log");
        /// How often, if at all.
        metrics_log_interval_s: u32 = 5 => integer(1, 86_400),
            [v7("MC_TE_METRIC_INTERVAL_SECONDS")], Reserved("the rate log");
    }
    "RDMA" {
        /// Host name used in adapter paths, where it is not the segment's name.
        rdma_bind_address: Option<String> = None => NAME, [v13("MC_RDMA_BIND_ADDRESS")], RDMA;
        /// Bytes moved by one work request.
        rdma_slice_bytes: u64 = 65_536 => integer(1, 1 << 31), [v7("MC_SLICE_SIZE")], RDMA;
        /// A rest below `rdma_slice_bytes` divided by this joins the slice before it.
        rdma_fragment_ratio: u32 = 4 => integer(1, U32), [v7("MC_FRAGMENT_RATIO")], RDMA;
        /// Longest time of one slice; 0 is no limit of its own.
        rdma_slice_timeout_s: u32 = 0 => integer(0, 65_535),
            [v7("MC_SLICE_TIMEOUT").within(1, 65_535)], RDMA;
        /// How often a slice is tried again.
        rdma_retry_max: u32 = 9 => integer(1, 127), [v7("MC_RETRY_CNT")], RDMA;
        /// Threads for each adapter.
        rdma_workers_per_device: u32 = 2 => integer(1, 8), [v7("MC_WORKERS_PER_CTX")], RDMA;
        /// Completion queues of each adapter.
        rdma_completion_queues_per_device: u32 = 1 => integer(1, 255),
            [v7("MC_NUM_CQ_PER_CTX")], RDMA;
        /// Completion channels of each adapter.
        rdma_completion_channels_per_device: u32 = 1 => integer(1, 255),
            [v7("MC_NUM_COMP_CHANNELS_PER_CTX")], RDMA;
        /// Entries of a completion queue.
        rdma_completion_queue_entries: u32 = 4096 => integer(1, 65_535),
            [v7("MC_MAX_CQE_PER_CTX")], RDMA;
        /// Endpoints kept on one adapter.
        rdma_endpoints_max: u32 = 65_536 => integer(1, 65_536),
            [v7("MC_MAX_EP_PER_CTX").within(1, 65_535)], RDMA;
        /// Which endpoint makes room for a new one: `fifo` or `sieve`.
        rdma_endpoint_eviction: String = "sieve".to_owned()
            => Choice { words: &["fifo", "sieve"], aliases: &[] },
            [v13("MC_ENDPOINT_STORE_TYPE")], RDMA;
        /// Queue pairs of one endpoint; upstream peers must use the same number.
        rdma_queue_pairs_per_endpoint: u32 = 2 => integer(1, 255),
            [v7("MC_NUM_QP_PER_EP")], RDMA;
        /// Scatter entries of one work request.
        rdma_scatter_entries_max: u32 = 4 => integer(1, 65_535), [v7("MC_MAX_SGE")], RDMA;
        /// Work requests in one queue pair.
        rdma_work_requests_max: u32 = 256 => integer(1, 65_535), [v7("MC_MAX_WR")], RDMA;
        /// Bytes that travel inside a work request.
        rdma_inline_bytes_max: u32 = 64 => integer(0, 65_535), [v7("MC_MAX_INLINE")], RDMA;
        /// Largest packet.
        rdma_mtu_bytes: u32 = 4096 => OneOf(&[512, 1024, 2048, 4096]), [v7("MC_MTU")], RDMA;
        /// Port of the adapter.
        rdma_port: u32 = 1 => integer(1, 255), [v7("MC_IB_PORT")], RDMA;
        /// Index of the adapter's address; -1 chooses.
        rdma_gid_index: i32 = -1 => integer(-1, 255),
            [
                v7("MC_GID_INDEX").within(0, 255),
                v7("NCCL_IB_GID_INDEX").within(0, 255)
            ], RDMA;
        /// How often another address is tried after a failed connection.
        rdma_gid_retries_max: u32 = 2 => integer(0, 16), [v13("MC_AUTO_GID_MAX_RETRIES")], RDMA;
        /// Index of the partition key.
        rdma_partition_key_index: u16 = 0 => integer(0, 65_535), [v13("MC_PKEY_INDEX")], RDMA;
        /// Traffic class; -1 leaves the adapter's.
        rdma_traffic_class: i32 = -1 => integer(-1, 255), [v13("MC_IB_TC").within(0, 255)], RDMA;
        /// Service level; -1 leaves the adapter's.
        rdma_service_level: i32 = -1 => integer(-1, 15), [v13("MC_IB_SL").within(0, 15)], RDMA;
        /// Relaxed ordering on the bus: 0 off, 1 where supported, 2 chosen by the driver.
        rdma_relaxed_ordering: u32 = 1 => integer(0, 2), [v13("MC_IB_PCI_RELAXED_ORDERING")], RDMA;
        /// Take adapters in turn instead of by preference.
        rdma_path_round_robin: bool = false => Bool, [v7("MC_PATH_ROUNDROBIN")], RDMA;
        /// Prefer the peer's adapter of the same name.
        rdma_same_device_preferred: bool = false => Flag,
            [v7("MC_ENABLE_DEST_DEVICE_AFFINITY")], RDMA;
        /// Pair adapters with those of the peer; not together with `rdma_same_device_preferred`.
        rdma_peer_affinity: bool = false => Bool, [v13("MC_ENABLE_HCA_PEER_AFFINITY")], RDMA;
        /// The pairs, as `local=peer1,peer2;...`.
        rdma_peer_affinity_pairs: String = String::new()
            => Text(limits::CONNECTION_STRING_BYTES_MAX),
            [v13("MC_NIC_PEER_AFFINITY")], RDMA;
        /// How long no new connection to a failed peer is tried.
        rdma_reconnect_pause_ms: u32 = 0 => integer(0, 600_000),
            [v13("MC_CONN_PAUSE_TTL_MS")], RDMA;
        /// How long a failed pair of adapters is left alone.
        rdma_rail_pause_s: u32 = 30 => integer(1, 3599), [v13("MC_RDMA_RAIL_PAUSE_SECONDS")], RDMA;
        /// Register large memory with several threads: 1 always, 0 never, -1 choose.
        rdma_parallel_registration: i32 = -1 => integer(-1, 1),
            [v13("MC_ENABLE_PARALLEL_REG_MR")], RDMA;
        /// Registrations that run at once; 0 is no limit.
        rdma_registrations_concurrent_max: u32 = 0 => integer(0, 65_535),
            [v13("MC_MAX_CONCURRENT_REG_MR")], RDMA;
        /// Largest region registered in one piece.
        rdma_region_bytes_max: u64 = 1 << 40 => integer(1, 1 << 62), [v13("MC_MAX_MR_SIZE")], RDMA;
        /// Source ports of the queue pairs on mlx5 adapters.
        rdma_mlx5_source_ports: Vec<String> = Vec::new() => DEVICES,
            [v13("MC_MLX5_QP_UDP_SPORTS")], RDMA;
        /// Spread queue pairs over the bonded ports of mlx5 adapters.
        rdma_mlx5_port_balance: bool = false => Bool,
            [v13("MC_MLX5_QP_LAG_PORT_BALANCE")], RDMA;
    }
}

/// Variables of upstream that are accepted without a warning and change nothing here.
pub static NAMES_WITHOUT_EFFECT: &[NamesWithoutEffect] = &[
    NamesWithoutEffect {
        names: &["MC_TCP_SLICE_SIZE"],
        reason: "Bytes move straight between the socket and registered memory; there is no local \
                 chunk to size.",
    },
    NamesWithoutEffect {
        names: &["MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER", "MC_TCP_ADMISSION_TIMEOUT_MS"],
        reason: "There is one queue for each peer (`tcp_queued_requests_max`) and no second list \
                 behind it.",
    },
    NamesWithoutEffect {
        names: &["MC_LOG_DIR"],
        reason: "Messages go to the caller's sink or to the standard error stream.",
    },
    NamesWithoutEffect {
        names: &["MC_LOG_RDMA_SLICE_AFFINITY", "MC_TRACK_RDMA_POSTED_SLICES"],
        reason: "Diagnostics of upstream's own threads.",
    },
    NamesWithoutEffect {
        names: &["MC_USE_RDMA_TWOSIDED", "MC_RDMA_NOTIFY_*"],
        reason: "Notifications travel over the handshake plane, which every peer has.",
    },
    NamesWithoutEffect {
        names: &["MC_USE_TENT", "MC_USE_TEV1", "MC_TENT_*"],
        reason: "They choose between upstream's own engines; there is one here.",
    },
    NamesWithoutEffect {
        names: &[
            "MC_FORCE_MNNVL",
            "MC_INTRA_NVLINK",
            "MC_INTRANODE_NVLINK",
            "MC_USE_NVLINK_IPC",
            "MC_CXL_DEV_PATH",
            "MC_CXL_DEV_SIZE",
            "MC_EFA_NIC_SELECTION",
            "MC_EFA_CQ_THREADS",
            "MC_MIN_REG_SIZE",
            "MC_DISABLE_HIP",
            "MC_DISABLE_MACA",
            "MC_DISABLE_MUSA",
            "MC_FORCE_MUSA",
            "MC_MACA_*",
            "MC_MUSA_*",
            "MC_HIP_NUM_STREAMS",
            "MC_HIP_NUM_EVENTS",
            "MC_USE_HIP_IPC",
            "MC_UBSHMEM_*",
            "MC_USE_UBSHMEM_IPC",
            "MC_TANGRT_*",
            "ACCL_*",
            "USE_BAREX",
            "BAREX_USE_RANDOM_DEV",
            "FI_HMEM",
            "CUDA_VISIBLE_DEVICES",
            "MUSA_VISIBLE_DEVICES",
        ],
        reason: "They belong to transports of other vendors' devices, which are not in this \
                 library.",
    },
    NamesWithoutEffect {
        names: &[
            "MC_TE_RPC_CLIENT_IO_THREADS",
            "MC_RPC_CLIENT_IO_THREADS",
            "MC_STORE_RPC_CLIENT_IO_THREADS",
            "MC_RPC_PROTOCOL",
            "MC_YLT_LOG_LEVEL",
        ],
        reason: "They tune upstream's RPC library.",
    },
    NamesWithoutEffect {
        names: &[
            "MC_STORE_CLIENT_METRIC",
            "MC_STORE_CLIENT_METRIC_INTERVAL",
            "MC_STORE_CLIENT_METRIC_BANDWIDTH",
        ],
        reason: "The counters of a store client are always kept, and read when somebody asks.",
    },
    NamesWithoutEffect {
        names: &["MC_STORE_CLIENT_SETUP_RETRIES"],
        reason: "The port of a client's name is bound when it is chosen, so it need not be tried.",
    },
    NamesWithoutEffect {
        names: &[
            "MC_STORE_LOCAL_HOT_*",
            "MC_STORE_NUMA_SOCKET_ID",
            "MC_STORE_REPLICA_SCORING",
            "MC_STORE_PIN_MEMORY_MAX_BYTES",
            "MC_STORE_PINNED_RESTORE_ARENA_SIZE_BYTES",
            "MC_NOF_*",
            "MC_NVME_*",
            "MC_FILEREAD_WORKERS",
            "MC_MMAP_ARENA_POOL_SIZE",
            "MC_DISABLE_MMAP_ARENA",
            "MOONCAKE_*",
            "LOCAL_HOSTNAME",
        ],
        reason: "They belong to parts of upstream's store that are not in this version.",
    },
    NamesWithoutEffect {
        names: &["ASCEND_*", "HCCL_RDMA_TC", "HCCL_RDMA_SL", "HCCL_INTRA_ROCE_ENABLE"],
        reason: "They are settings of the ascend transport, which is not in this version.",
    },
];
