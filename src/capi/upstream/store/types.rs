//! Types of the store's API.

use std::ffi::{c_char, c_int, c_void};

/// A client of the store; made by mooncake_store_create.
pub type mooncake_store_t = *mut c_void;

/// What is asked of a put beside the bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mooncake_replicate_config {
    /// Copies, each in another segment; at least 1.
    pub replica_num: usize,
    /// Not 0: evict the object last.
    pub with_soft_pin: c_int,
    /// Not 0: never evict the object; masters of ours only.
    pub with_hard_pin: c_int,
    /// Names of segments to try first; may be NULL.
    pub preferred_segments: *mut *const c_char,
    /// How many.
    pub preferred_segments_count: usize,
}

/// The same type by its short name.
pub type mooncake_replicate_config_t = mooncake_replicate_config;

const _: () = assert!(size_of::<mooncake_replicate_config>() == 32);
