//! How a client of the store is: health, counters, and everything it found and chose.

use std::ffi::c_char;

use super::boundary::{self, on_ok};
use super::options::{self, Sized32};
use super::status::{self, mc_status_t, MC_OK};
use super::store::mc_store_t;
use crate::store::{Health, Store, StoreMetrics};

/// What a client last heard of its master. Set struct_size to sizeof(mc_store_health_t).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_store_health_t {
    /// sizeof(mc_store_health_t).
    pub struct_size: u32,
    /// 1 when the last sign of life was answered, else 0.
    pub master_is_reachable: i32,
    /// 1 when the master is one of ours, 0 when it is upstream's.
    pub master_is_native: i32,
    /// Why the last sign of life was not answered; MC_OK when it was.
    pub last_failure: mc_status_t,
    /// Signs of life in a row that were not answered.
    pub failures: u64,
    /// Time since the last answer.
    pub since_answer_ms: u64,
    /// Objects that the memory of this client is known to hold; masters of ours only.
    pub objects_held: u64,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized32 for mc_store_health_t {
    const FIRST_SIZE: usize = 40;
    const NAME: &'static str = "health_out";
}

/// What a client has counted since it was opened. Set struct_size to sizeof(mc_store_metrics_t).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_store_metrics_t {
    /// sizeof(mc_store_metrics_t).
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Objects put.
    pub puts: u64,
    /// Puts that found the object there already.
    pub puts_existing: u64,
    /// Puts that failed.
    pub puts_failed: u64,
    /// Bytes put, each replica asked for counted.
    pub put_bytes: u64,
    /// Objects read.
    pub gets: u64,
    /// Reads of objects that do not exist.
    pub gets_missed: u64,
    /// Reads that failed.
    pub gets_failed: u64,
    /// Bytes read.
    pub got_bytes: u64,
    /// Copies made inside the process instead of transfers.
    pub copies: u64,
    /// Replicas that could not be read.
    pub replica_failures: u64,
    /// Reads repeated because their lease ended.
    pub rereads: u64,
    /// Objects removed.
    pub removes: u64,
    /// Signs of life that were not answered.
    pub pings_failed: u64,
    /// Times the memory was mounted again.
    pub remounts: u64,
    /// Objects told to a restarted master.
    pub objects_reported: u64,
    /// Objects handed out by mc_store_get_buffer without a copy.
    pub views: u64,
    /// Objects written to files of the disk tier.
    pub file_writes: u64,
    /// Objects that were not, because too much waited to be written or a file system failed.
    pub file_writes_failed: u64,
    /// Objects read from files of the disk tier.
    pub file_reads: u64,
}

// SAFETY: repr(C), size first, numbers only.
unsafe impl Sized32 for mc_store_metrics_t {
    const FIRST_SIZE: usize = 128;
    const NAME: &'static str = "metrics_out";
}

/// Tells what a client last heard of its master. Makes no call.
///
/// @param store       the client.
/// @param health_out  its struct_size says how much is filled.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_health(
    store: *mut mc_store_t,
    health_out: *mut mc_store_health_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about health_out.
        unsafe { options::write(health_out, &health(&store.health()?)) }
    })
}

/// Reads the counters of a client.
///
/// @param store        the client.
/// @param metrics_out  its struct_size says how much is filled.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_metrics(
    store: *const mc_store_t,
    metrics_out: *mut mc_store_metrics_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about metrics_out.
        unsafe { options::write(metrics_out, &snapshot(store.metrics())) }
    })
}

/// Copies the counters of a client as text in the format Prometheus reads (OpenMetrics).
///
/// @param store, buf, buf_len, len_out  as in mc_engine_local_name.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_metrics_text(
    store: *const mc_store_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(&store.metrics().text(), buf, buf_len, len_out) }
    })
}

/// Copies what a client found and chose, as JSON for people: segments, master, engine.
///
/// @param store, buf, buf_len, len_out  as in mc_engine_local_name.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_dump(
    store: *const mc_store_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(&store.dump().to_string(), buf, buf_len, len_out) }
    })
}

fn health(health: &Health) -> mc_store_health_t {
    let failure = health.last_error.as_ref().filter(|_| health.failures > 0);
    mc_store_health_t {
        struct_size: 0,
        master_is_reachable: health.master_is_reachable.into(),
        master_is_native: health.is_native.into(),
        last_failure: failure.map_or(MC_OK, |error| status::of(error.kind())),
        failures: health.failures.into(),
        since_answer_ms: health
            .since_answer
            .map_or(u64::MAX, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        objects_held: health.objects_held as u64,
    }
}

fn snapshot(metrics: &StoreMetrics) -> mc_store_metrics_t {
    mc_store_metrics_t {
        struct_size: 0,
        reserved: 0,
        puts: metrics.puts.get(),
        puts_existing: metrics.puts_existing.get(),
        puts_failed: metrics.puts_failed.get(),
        put_bytes: metrics.bytes_put.get(),
        gets: metrics.gets.get(),
        gets_missed: metrics.gets_missed.get(),
        gets_failed: metrics.gets_failed.get(),
        got_bytes: metrics.bytes_got.get(),
        copies: metrics.copies.get(),
        replica_failures: metrics.replica_failures.get(),
        rereads: metrics.rereads.get(),
        removes: metrics.removes.get(),
        pings_failed: metrics.pings_failed.get(),
        remounts: metrics.remounts.get(),
        objects_reported: metrics.objects_reported.get(),
        views: metrics.views.get(),
        file_writes: metrics.file_writes.get(),
        file_writes_failed: metrics.file_writes_failed.get(),
        file_reads: metrics.file_reads.get(),
    }
}

const _: () = assert!(size_of::<mc_store_health_t>() == 40);
const _: () = assert!(size_of::<mc_store_metrics_t>() == 160);
