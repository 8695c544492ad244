//! Metrics: what an engine has counted, as numbers and as text.

use std::ffi::c_char;

use super::boundary::{self, on_ok};
use super::engine::mc_engine_t;
use super::options::{self, Sized32};
use super::status::mc_status_t;
use crate::engine::Engine;
use crate::metrics::Metrics;

/// What an engine has counted since it was created. Set struct_size to sizeof(mc_metrics_t).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_metrics_t {
    /// sizeof(mc_metrics_t).
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Requests handed in.
    pub requests: u64,
    /// Requests that failed or were cancelled.
    pub requests_failed: u64,
    /// Written to peers.
    pub written_bytes: u64,
    /// Read from peers.
    pub read_bytes: u64,
    /// Written into own memory by peers.
    pub received_bytes: u64,
    /// Read from own memory by peers.
    pub served_bytes: u64,
    /// Parts of requests that were tried again after a failure.
    pub retries: u64,
    /// Descriptions of segments fetched again.
    pub refreshes: u64,
    /// Connections made to peers.
    pub connections_opened: u64,
    /// Connections of peers accepted.
    pub connections_accepted: u64,
    /// Connections refused or closed because they broke a rule.
    pub connections_refused: u64,
    /// Connections of peers open now.
    pub connections_serving: u64,
    /// Requests of peers that were refused: range, access or key.
    pub remote_requests_refused: u64,
    /// Notifications that arrived.
    pub notifications_received: u64,
    /// Notifications refused because nobody takes them.
    pub notifications_dropped: u64,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized32 for mc_metrics_t {
    const FIRST_SIZE: usize = 128;
    const NAME: &'static str = "metrics_out";
}

/// Reads the counters of an engine.
///
/// Each is exact; together they are no single moment while transfers run.
///
/// @param engine       the engine.
/// @param metrics_out  its struct_size says how much is filled.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_metrics(
    engine: *const mc_engine_t,
    metrics_out: *mut mc_metrics_t,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        // SAFETY: the caller's promise about metrics_out.
        unsafe { options::write(metrics_out, &snapshot(engine.metrics())) }
    })
}

/// Copies the counters of an engine as text in the format Prometheus reads (OpenMetrics).
///
/// @param engine, buf, buf_len, len_out  as in mc_engine_local_name.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_metrics_text(
    engine: *const mc_engine_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(&engine.metrics().text(), buf, buf_len, len_out) }
    })
}

fn snapshot(metrics: &Metrics) -> mc_metrics_t {
    mc_metrics_t {
        struct_size: 0,
        reserved: 0,
        requests: metrics.requests.get(),
        requests_failed: metrics.requests_failed.get(),
        written_bytes: metrics.bytes_written.get(),
        read_bytes: metrics.bytes_read.get(),
        received_bytes: metrics.bytes_received.get(),
        served_bytes: metrics.bytes_served.get(),
        retries: metrics.retries.get(),
        refreshes: metrics.refreshes.get(),
        connections_opened: metrics.connections_opened.get(),
        connections_accepted: metrics.connections_accepted.get(),
        connections_refused: metrics.connections_refused.get(),
        connections_serving: u64::try_from(metrics.connections_serving.get()).unwrap_or(0),
        remote_requests_refused: metrics.remote_requests_refused.get(),
        notifications_received: metrics.notifications_received.get(),
        notifications_dropped: metrics.notifications_dropped.get(),
    }
}

const _: () = assert!(size_of::<mc_metrics_t>() == 128);
const _: () = assert!(std::mem::offset_of!(mc_metrics_t, notifications_dropped) == 120);
