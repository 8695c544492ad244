//! What the configuration means for TCP, with the choices it leaves to us made.

use std::time::Duration;

use crate::config::{Dialect, EngineConfig};

/// Settings of one engine's TCP transport.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) instance: [u8; 16],
    pub(super) own_name: String,
    pub(super) host: String,
    pub(super) dialect: Dialect,
    pub(super) threads: usize,
    pub(super) lanes: usize,
    pub(super) v1_connections: usize,
    pub(super) pooled: bool,
    pub(super) connect_timeout: Duration,
    pub(super) progress_timeout: Duration,
    pub(super) header_timeout: Duration,
    pub(super) keepalive: Duration,
    pub(super) cooldown: Duration,
    pub(super) connections_max: usize,
    pub(super) queue_max: usize,
    pub(super) stripe_bytes_min: u64,
    pub(super) spin: Duration,
    pub(super) local_congestion: String,
}

impl Settings {
    /// Reads them from the configuration; `host` is what peers should dial.
    pub fn new(config: &EngineConfig, instance: [u8; 16], own_name: &str, host: &str) -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One thread moves 3 to 6 GB/s; a quarter of the cores, at most 8, fill any NIC in use
        // without taking the host's cores from inference.
        let threads = match config.tcp_io_threads {
            0 => (cores / 4).clamp(1, 8),
            threads => threads as usize,
        };
        // Four connections keep small transfers of several callers apart, as upstream has them.
        let lanes = match config.tcp_lanes_per_peer {
            0 => threads.clamp(4, 16),
            lanes => lanes as usize,
        };
        let seconds = |s: u32| Duration::from_secs(s.into());
        let millis = |ms: u32| Duration::from_millis(ms.into());
        Settings {
            instance,
            own_name: own_name.to_owned(),
            host: host.to_owned(),
            dialect: config.tcp_dialect,
            threads,
            lanes,
            v1_connections: config.tcp_v1_connections_max as usize,
            pooled: config.tcp_connection_pool,
            connect_timeout: millis(config.handshake_connect_timeout_ms),
            progress_timeout: seconds(
                config.tcp_progress_timeout_s.min(config.tcp_status_timeout_s),
            ),
            header_timeout: millis(config.tcp_header_timeout_ms),
            keepalive: seconds(config.tcp_keepalive_s),
            cooldown: millis(config.peer_cooldown_ms),
            connections_max: config.tcp_connections_max as usize,
            queue_max: config.tcp_queued_requests_max as usize,
            stripe_bytes_min: config.tcp_stripe_bytes_min,
            spin: Duration::from_micros(config.tcp_spin_us.into()),
            local_congestion: config.tcp_local_congestion.clone(),
        }
    }
}
