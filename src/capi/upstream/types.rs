//! Types and constants that C sees, laid out as upstream lays them out.

use std::ffi::{c_char, c_int, c_void};

/// An engine; the value of a failed creation is NULL.
pub type transfer_engine_t = *mut c_void;
/// A transport of an engine; belongs to the engine.
pub type transport_t = *mut c_void;
/// An open segment of one engine: 0 is its own, others count from 1.
pub type segment_id_t = i32;
/// The same as segment_id_t.
pub type segment_handle_t = i32;
/// A batch of one engine.
pub type batch_id_t = u64;

/// The segment of the engine itself.
pub const LOCAL_SEGMENT: segment_id_t = 0;
/// What allocateBatchID gives when there is no batch to give.
pub const INVALID_BATCH: batch_id_t = u64::MAX;

/// From the segment to local memory.
pub const OPCODE_READ: c_int = 0;
/// From local memory to the segment.
pub const OPCODE_WRITE: c_int = 1;

/// Under way.
pub const STATUS_WAITING: c_int = 0;
/// Not given by this library.
pub const STATUS_PENDING: c_int = 1;
/// Not given by this library.
pub const STATUS_INVALID: c_int = 2;
/// Not given by this library.
pub const STATUS_CANCELED: c_int = 3;
/// All bytes are where they belong.
pub const STATUS_COMPLETED: c_int = 4;
/// It took longer than MC_SLICE_TIMEOUT, which is the only way to this status.
pub const STATUS_TIMEOUT: c_int = 5;
/// It failed.
pub const STATUS_FAILED: c_int = 6;

/// One read or write.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct transfer_request {
    /// OPCODE_READ or OPCODE_WRITE.
    pub opcode: c_int,
    /// First local byte; in use until the task has ended.
    pub source: *mut c_void,
    /// Whose memory is read or written.
    pub target_id: segment_id_t,
    /// Address of the first byte there.
    pub target_offset: u64,
    /// How many bytes.
    pub length: u64,
}
/// One read or write.
pub type transfer_request_t = transfer_request;

/// What became of one request.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct transfer_status {
    /// One of STATUS_*.
    pub status: c_int,
    /// Bytes moved so far.
    pub transferred_bytes: u64,
}
/// What became of one request.
pub type transfer_status_t = transfer_status;

/// A range of memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct buffer_entry {
    /// Its first byte.
    pub addr: *mut c_void,
    /// Its length in bytes.
    pub length: usize,
}
/// A range of memory.
pub type buffer_entry_t = buffer_entry;

/// A notification: two NUL-terminated texts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct notify_msg {
    /// What it is about.
    pub name: *mut c_char,
    /// Its content.
    pub msg: *mut c_char,
}
/// A notification.
pub type notify_msg_t = notify_msg;

/// Load of one network adapter.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nic_load_stat {
    /// Its name.
    pub device_name: [c_char; 64],
    /// Bytes on their way.
    pub inflight_bytes: u64,
    /// Smoothed bits per second.
    pub ewma_bandwidth_bps: f64,
}
/// Load of one network adapter.
pub type nic_load_stat_t = nic_load_stat;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<transfer_request>() == 40);
    assert!(offset_of!(transfer_request, source) == 8);
    assert!(offset_of!(transfer_request, target_id) == 16);
    assert!(offset_of!(transfer_request, target_offset) == 24);
    assert!(offset_of!(transfer_request, length) == 32);
    assert!(size_of::<transfer_status>() == 16);
    assert!(offset_of!(transfer_status, transferred_bytes) == 8);
    assert!(size_of::<buffer_entry>() == 16);
    assert!(size_of::<notify_msg>() == 16);
    assert!(size_of::<nic_load_stat>() == 80);
    assert!(offset_of!(nic_load_stat, ewma_bandwidth_bps) == 72);
};
