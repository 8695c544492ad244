//! The client: made, set up, asked how it is, destroyed.

use std::ffi::{c_char, c_int, c_void};

use super::entry::{self, UpstreamStore, LEAVE_TIMEOUT};
use super::types::mooncake_store_t;
use crate::capi::boundary;
use crate::capi::handle::Noun;
use crate::config::{EngineConfig, Origin, ProcessEnvironment};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::store::{Store, StoreOptions};

/// Makes a client that is not set up yet.
///
/// @return the client, owned by the caller until mooncake_store_destroy; NULL on failure.
#[no_mangle]
pub extern "C" fn mooncake_store_create() -> mooncake_store_t {
    boundary::guard_value(std::ptr::null_mut(), || {
        UpstreamStore::table().insert(UpstreamStore::default()).unwrap_or(std::ptr::null_mut())
    })
}

/// Destroys a client: takes its memory out of the pool and lets go of it. Destroying a client
/// twice, or NULL, does nothing.
///
/// @param store  the client; the handle is invalid afterwards.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_destroy(store: mooncake_store_t) {
    boundary::guard_value((), || {
        let Ok(handle) = UpstreamStore::table().close(store) else { return };
        let client = handle.client.lock().take();
        if let Some(client) = client {
            client.close();
        }
        handle.wait_alone(LEAVE_TIMEOUT);
    });
}

/// Says which files TLS to an etcd metadata service uses; before mooncake_store_setup.
///
/// @param store      the client.
/// @param ca_file    authorities; NULL or empty for none.
/// @param cert_file  own certificate, as ca_file.
/// @param key_file   its key, as ca_file.
/// @return 0; -600 after mooncake_store_setup; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_set_etcd_tls_config(
    store: mooncake_store_t,
    ca_file: *const c_char,
    cert_file: *const c_char,
    key_file: *const c_char,
) -> c_int {
    entry::on_handle(store, |handle| {
        if handle.client.lock().is_some() {
            return Err(Error::new(ErrorKind::InvalidState, "the store is set up already"));
        }
        let mut files = [String::new(), String::new(), String::new()];
        for (file, pointer) in files.iter_mut().zip([ca_file, cert_file, key_file]) {
            // SAFETY: the caller's promise about the texts.
            let text = unsafe { boundary::text(pointer, libc::PATH_MAX as usize, "file") }?;
            *file = text.unwrap_or_default();
        }
        *handle.tls.lock() = files;
        Ok(0)
    }) as c_int
}

/// Sets a client up: allocates and mounts its memory. A second call replaces the client inside,
/// with all it held.
///
/// @param store                the client.
/// @param local_hostname       its name, "host" or "host:port".
/// @param metadata_server      where engines find each other, "P2PHANDSHAKE" or an address.
/// @param global_segment_size  memory given to the pool; 0 for none.
/// @param local_buffer_size    accepted; memory of the caller is used where it is.
/// @param protocol             "tcp"; NULL or empty is the same.
/// @param device_name          adapters, separated by commas; may be NULL.
/// @param master_server_addr   the master, "host:port".
/// @return 0; -600 when the master or the metadata service cannot be reached or an argument is
///         wrong; another negative number when the memory cannot be mounted.
#[no_mangle]
#[allow(clippy::too_many_arguments)] // Upstream's signature.
pub unsafe extern "C" fn mooncake_store_setup(
    store: mooncake_store_t,
    local_hostname: *const c_char,
    metadata_server: *const c_char,
    global_segment_size: u64,
    local_buffer_size: u64,
    protocol: *const c_char,
    device_name: *const c_char,
    master_server_addr: *const c_char,
) -> c_int {
    entry::on_handle(store, |handle| {
        let mut options = StoreOptions {
            segment_bytes: global_segment_size,
            local_buffer_bytes: local_buffer_size,
            ..StoreOptions::default()
        };
        options.config = EngineConfig::load(None, &ProcessEnvironment)?.0;
        for (name, pointer, is_needed) in [
            ("local_hostname", local_hostname, true),
            ("metadata_server", metadata_server, true),
            ("protocol", protocol, false),
            ("device_name", device_name, false),
            ("master_server_addr", master_server_addr, true),
        ] {
            let longest = limits::CONNECTION_STRING_BYTES_MAX;
            // SAFETY: the caller's promise about the texts.
            let text = unsafe { boundary::text(pointer, longest, name) }?;
            match text {
                Some(text) if !text.is_empty() => drop(options.set(name, &text.into())?),
                None if is_needed => return Err(entry::null(name)),
                _ => {}
            }
        }
        set_up(handle, &mut options).map(|()| 0)
    }) as c_int
}

fn set_up(handle: &UpstreamStore, options: &mut StoreOptions) -> Result<()> {
    let files = handle.tls.lock().clone();
    for (key, file) in ["metadata_ca_path", "metadata_certificate_path", "metadata_key_path"]
        .into_iter()
        .zip(files)
    {
        if !file.is_empty() {
            options.config.set(key, file.into(), Origin::Option)?;
        }
    }
    let fresh = Store::open(options).map_err(not_set_up)?;
    let before = handle.client.lock().replace(fresh);
    if let Some(before) = before {
        before.close();
    }
    Ok(())
}

/// Whoever cannot be reached during setup, upstream says "invalid parameters".
fn not_set_up(error: Error) -> Error {
    match error.kind() {
        ErrorKind::StoreRefused | ErrorKind::NoSpace | ErrorKind::Panic | ErrorKind::Internal => {
            error
        }
        _ => Error::new(ErrorKind::InvalidArgument, error.to_string()),
    }
}

/// Sets a client up with upstream's fixed addresses for tests: localhost, etcd at 2379, the master
/// at 50051, and a local buffer of 16 MiB.
///
/// @param store               the client.
/// @param protocol            as in mooncake_store_setup.
/// @param device_name         as in mooncake_store_setup.
/// @param mount_segment_size  memory given to the pool.
/// @return as mooncake_store_setup.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_init_all(
    store: mooncake_store_t,
    protocol: *const c_char,
    device_name: *const c_char,
    mount_segment_size: u64,
) -> c_int {
    // SAFETY: the caller's promise about protocol and device_name; the others are texts of ours.
    unsafe {
        mooncake_store_setup(
            store,
            c"localhost:12345".as_ptr(),
            c"127.0.0.1:2379".as_ptr(),
            mount_segment_size,
            16 << 20,
            protocol,
            device_name,
            c"127.0.0.1:50051".as_ptr(),
        )
    }
}

/// Tells whether a client is usable.
///
/// @param store  the client.
/// @return 0 when it is; 1 when it is not set up; 2 when the master does not answer; -1 for a wrong
///         handle.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_health_check(store: mooncake_store_t) -> c_int {
    entry::on_handle(store, |handle| {
        let Ok(client) = handle.client() else { return Ok(1) };
        Ok(if client.health()?.master_is_reachable { 0 } else { 2 })
    }) as c_int
}

/// Copies the name of a client, "host:port".
///
/// @param store    the client.
/// @param buf_out  receives the name, NUL-terminated.
/// @param buf_len  its room, with the NUL.
/// @return 0; -600 when it is not set up or the room is too small; -1 for a wrong pointer.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_get_hostname(
    store: mooncake_store_t,
    buf_out: *mut c_char,
    buf_len: usize,
) -> c_int {
    entry::code(store, |client| {
        if buf_out.is_null() {
            return Err(entry::null("buf_out"));
        }
        let name = client.hostname();
        if name.len() >= buf_len {
            return Err(Error::new(ErrorKind::BufferTooSmall, "the name does not fit"));
        }
        // SAFETY: the caller's promise about buf_out.
        unsafe { boundary::give_text(name, buf_out, buf_len, std::ptr::null_mut()) }
    })
}

/// Registers memory that objects are put from and got into.
///
/// @param store   the client.
/// @param buffer  its first byte.
/// @param size    its length.
/// @return 0; -600 for NULL, size 0, and memory that is registered already.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_register_buffer(
    store: mooncake_store_t,
    buffer: *mut c_void,
    size: usize,
) -> c_int {
    entry::code(store, |client| client.register_buffer(boundary::address(buffer), size))
}

/// Takes that back.
///
/// @param store   the client.
/// @param buffer  as it was registered.
/// @return 0; -600 when it is not registered.
#[no_mangle]
pub unsafe extern "C" fn mooncake_store_unregister_buffer(
    store: mooncake_store_t,
    buffer: *mut c_void,
) -> c_int {
    entry::code(store, |client| client.unregister_buffer(boundary::address(buffer)))
}
