//! The store: objects put into a pool of memory and got from it by name.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::boundary::{self, bad_argument, guard_ok, guard_value, on_ok, Out};
use super::engine::{handle_out, mc_engine_t};
use super::handle::{Kind, Noun, Table};
use super::log;
use super::options::{self, Sized32};
use super::status::{self, mc_status_t, MC_OK};
use super::store_batch::check_count;
use crate::config::ProcessEnvironment;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::store::{outcome_of, Object, PutOptions, Range, Store, StoreOptions};

/// A client of the store. Opaque.
pub struct mc_store_t {
    _private: [u8; 0],
}

/// Value of the sizes in mc_store_options_t for "no memory at all", where a file or the environment
/// says otherwise.
pub const MC_STORE_NO_BYTES: u64 = 0xffff_ffff_ffff_ffff;
/// Evict the object last.
pub const MC_PUT_SOFT_PIN: u32 = 1;
/// Never evict the object; masters of ours only.
pub const MC_PUT_HARD_PIN: u32 = 2;
/// Put all objects of the batch into the segment of the first.
pub const MC_PUT_SAME_NODE: u32 = 4;

/// How a client of the store is opened. Set struct_size to sizeof(mc_store_options_t) and
/// everything else to zero; then change what you need. What is zero comes from json, then from the
/// environment (MOONCAKE_* and MC_* variables), then from the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_store_options_t {
    /// sizeof(mc_store_options_t).
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Name of this client, "host" or "host:port", under whose host peers reach it; needed.
    pub local_hostname: *const c_char,
    /// Where engines find each other; default "P2PHANDSHAKE".
    pub metadata_server: *const c_char,
    /// Transport; default "tcp".
    pub protocol: *const c_char,
    /// Adapters to use, separated by commas; default: all.
    pub device_name: *const c_char,
    /// Address of the master, "host:port", several separated by commas, or
    /// "etcd://host:port;host:port", where the elected one is found; needed.
    pub master_server_address: *const c_char,
    /// Memory given to the pool; default: none.
    pub global_segment_bytes: u64,
    /// Memory for mc_store_get_buffer; default 16 MiB.
    pub local_buffer_bytes: u64,
    /// A JSON object with the names of mooncake.json and any setting of docs/configuration.md.
    pub json: *const c_char,
}

// SAFETY: repr(C), size first, numbers and pointers that may be NULL.
unsafe impl Sized32 for mc_store_options_t {
    const FIRST_SIZE: usize = 72;
    const NAME: &'static str = "options";
}

/// What is asked of a put beside the bytes. Set struct_size to sizeof(mc_put_options_t).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_put_options_t {
    /// sizeof(mc_put_options_t).
    pub struct_size: u32,
    /// Copies, each in another segment; default 1. Where there are fewer segments, fewer are made.
    pub replica_num: u32,
    /// MC_PUT_* bits.
    pub flags: u32,
    /// Longest time; default: the setting transfer_timeout_ms.
    pub timeout_ms: u32,
    /// How long MC_PUT_SOFT_PIN lasts; default: the master's. Masters of ours only.
    pub soft_pin_ttl_ms: u64,
    /// Names of segments to try first (mc_store_hostname of their clients); may be NULL.
    pub preferred_segments: *const *const c_char,
    /// How many.
    pub preferred_segment_count: usize,
    /// Names of groups, one for each object of the call, NULL or "" for none: objects of one group
    /// are leased and evicted together. Masters of ours only; others ignore it. May be NULL.
    /// Since: 0.3.
    pub groups: *const *const c_char,
    /// How many: 0, or as many as the call has objects. Since: 0.3.
    pub group_count: usize,
}

// SAFETY: repr(C), size first, numbers and pointers that may be NULL.
unsafe impl Sized32 for mc_put_options_t {
    const FIRST_SIZE: usize = 40;
    const NAME: &'static str = "options";
}

/// Calls that are inside a client when it is closed end at their deadlines; this is the longest
/// wait for them after the client's own.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Local buffer where nothing says otherwise: upstream's default of a client without a file.
const LOCAL_BUFFER_BYTES: u64 = 16 << 20;

static STORES: Table<Store> = Table::new(Kind::Store);

impl Noun for Store {
    type Opaque = mc_store_t;
    const WORD: &'static str = "store client";

    fn table() -> &'static Table<Self> {
        &STORES
    }
}

/// Opens a client of the store: allocates and mounts its memory, and starts the thread that gives
/// signs of life.
///
/// @param options    read during the call only.
/// @param engine     the engine that moves the bytes; it must live longer than the client, and the
///                   options that concern it are ignored. NULL: the client makes its own.
/// @param store_out  receives the client, owned by the caller until mc_store_close; NULL on
///                   failure.
///
/// Threads: any. Blocks: for the metadata service and the master, longest the transfer timeout for
/// each. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_ADDRESS; MC_ERR_UNSUPPORTED;
/// MC_ERR_MASTER_UNAVAILABLE; MC_ERR_METADATA_UNAVAILABLE; MC_ERR_RESOURCE; MC_ERR_STORE_REFUSED.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_open(
    options: *const mc_store_options_t,
    engine: *mut mc_engine_t,
    store_out: *mut *mut mc_store_t,
) -> mc_status_t {
    guard_ok(|| {
        let store_out = handle_out(store_out, "store_out")?;
        // SAFETY: the caller's promise about options.
        let options = unsafe { options::read(options) }?;
        // SAFETY: as above.
        let options = unsafe { store_options(&options) }?;
        let store = match engine.is_null() {
            true => Store::open(&options)?,
            false => Engine::table().pin(engine)?.run(|e| Store::open_on(&options, e))?,
        };
        store_out.set(STORES.insert(store)?);
        Ok(())
    })
}

/// Closes a client: waits for calls that are inside it, takes its memory out of the pool, and lets
/// go of everything but buffers that are still held.
///
/// Objects whose only replica was in its memory are gone. An engine that was given stays open.
///
/// @param store  the client; NULL does nothing. The handle is invalid afterwards, whatever is
///               returned.
///
/// Threads: any, but not inside a log sink; other calls in the client end with MC_ERR_SHUTDOWN or
/// as they would have. Blocks: longest 20 s. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was
/// closed before; MC_ERR_INVALID_STATE inside a log sink; MC_ERR_TIMEOUT when a call of another
/// thread did not end in time. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_close(store: *mut mc_store_t) -> mc_status_t {
    guard_ok(|| {
        if store.is_null() {
            return Ok(());
        }
        if log::in_sink() {
            let text =
                "a store client cannot be closed inside a log sink: it may be its own thread";
            return Err(Error::new(ErrorKind::InvalidState, text));
        }
        let store = STORES.close(store)?;
        store.close();
        match store.wait_alone(LEAVE_TIMEOUT) {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::Timeout, "another thread is still inside the client"))
            }
        }
    })
}

/// Copies the name of a client, by which others prefer its memory: "host:port".
///
/// @param store, buf, buf_len, len_out  as in mc_engine_local_name.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_hostname(
    store: *const mc_store_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(store.hostname(), buf, buf_len, len_out) }
    })
}

/// Puts one object. An object that exists is not changed.
///
/// @param store      the client.
/// @param key        name of the object, 1 to 65536 bytes of any kind.
/// @param key_len    how many.
/// @param value      its bytes; registered memory (mc_store_register_buffer) is fastest.
/// @param value_len  how many, not 0.
/// @param options    NULL = all defaults.
///
/// Threads: any. Blocks: longest the timeout of the options, and 2 s for taking back.
/// Returns: MC_OK when all copies are complete; MC_ERR_OBJECT_EXISTS; MC_ERR_OBJECT_NOT_READY when
/// another put of the key is not complete, or never will be; MC_ERR_NO_SPACE;
/// MC_ERR_MASTER_UNAVAILABLE; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN; what transfers can return.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_put(
    store: *mut mc_store_t,
    key: *const c_char,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    options: *const mc_put_options_t,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about key.
        let key = unsafe { key_of(key, key_len) }?;
        let ranges = [range_of(value, value_len, "value")?];
        // SAFETY: the caller's promise about options.
        let asked = unsafe { put_options(options) }?;
        let objects = [Object { key: &key, ranges: &ranges }];
        one(asked.put(store, &objects)?)
    })
}

/// Reads one object into memory of the caller.
///
/// @param store       the client.
/// @param key         name of the object.
/// @param key_len     its bytes.
/// @param buffer      receives the bytes; after a failure they must not be used.
/// @param buffer_len  room; may be more than the object has.
/// @param timeout_ms  longest time; 0 = the setting transfer_timeout_ms.
/// @param size_out    receives the object's size; may be NULL.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_OBJECT_NOT_FOUND;
/// MC_ERR_OBJECT_NOT_READY; MC_ERR_BUFFER_TOO_SMALL; MC_ERR_LEASE_EXPIRED;
/// MC_ERR_MASTER_UNAVAILABLE; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN; what transfers can return.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_get(
    store: *mut mc_store_t,
    key: *const c_char,
    key_len: usize,
    buffer: *mut c_void,
    buffer_len: usize,
    timeout_ms: u32,
    size_out: *mut u64,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let size_out = Out::optional(size_out, "size_out")?;
        // SAFETY: the caller's promise about key.
        let key = unsafe { key_of(key, key_len) }?;
        let ranges = [range_of(buffer, buffer_len, "buffer")?];
        let objects = [Object { key: &key, ranges: &ranges }];
        size_out.set(one(store.get_batch(&objects, timeout(timeout_ms))?)?);
        Ok(())
    })
}

/// Tells the size of an object. Takes a lease on it.
///
/// @param store, key, key_len, timeout_ms  as in mc_store_get.
/// @param size_out  receives the size.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_OBJECT_NOT_FOUND;
/// MC_ERR_OBJECT_NOT_READY; MC_ERR_MASTER_UNAVAILABLE; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_size(
    store: *mut mc_store_t,
    key: *const c_char,
    key_len: usize,
    timeout_ms: u32,
    size_out: *mut u64,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let size_out = Out::required(size_out, "size_out")?;
        // SAFETY: the caller's promise about key.
        let key = unsafe { key_of(key, key_len) }?;
        size_out.set(one(store.sizes(&[&key], timeout(timeout_ms))?)?);
        Ok(())
    })
}

/// Tells whether an object exists and is complete. Takes a lease on it if it does.
///
/// @param store, key, key_len, timeout_ms  as in mc_store_get.
/// @param exists_out  receives 1 or 0.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_MASTER_UNAVAILABLE;
/// MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_exists(
    store: *mut mc_store_t,
    key: *const c_char,
    key_len: usize,
    timeout_ms: u32,
    exists_out: *mut i32,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let exists_out = Out::required(exists_out, "exists_out")?;
        // SAFETY: the caller's promise about key.
        let key = unsafe { key_of(key, key_len) }?;
        exists_out.set(one(store.exists(&[&key], timeout(timeout_ms))?)?.into());
        Ok(())
    })
}

/// Removes one object.
///
/// @param store, key, key_len, timeout_ms  as in mc_store_get.
/// @param force  not 0: also when readers hold a lease; masters of ours only.
///
/// Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_OBJECT_NOT_FOUND;
/// MC_ERR_OBJECT_LEASED; MC_ERR_OBJECT_NOT_READY; MC_ERR_UNSUPPORTED; MC_ERR_MASTER_UNAVAILABLE;
/// MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_remove(
    store: *mut mc_store_t,
    key: *const c_char,
    key_len: usize,
    force: i32,
    timeout_ms: u32,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        // SAFETY: the caller's promise about key.
        let key = unsafe { key_of(key, key_len) }?;
        one(store.remove(&[&key], force != 0, timeout(timeout_ms))?)
    })
}

/// Removes all objects in whose name a regular expression is found, as far as they are complete and
/// not leased.
///
/// @param store        the client.
/// @param pattern      the expression.
/// @param pattern_len  its bytes.
/// @param force        as in mc_store_remove.
/// @param count_out    receives how many were removed; may be NULL.
///
/// Threads: any. Blocks: longest the setting transfer_timeout_ms. Returns: MC_OK;
/// MC_ERR_INVALID_ARGUMENT, also for a wrong expression; MC_ERR_UNSUPPORTED;
/// MC_ERR_MASTER_UNAVAILABLE; MC_ERR_SHUTDOWN. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_remove_by_pattern(
    store: *mut mc_store_t,
    pattern: *const c_char,
    pattern_len: usize,
    force: i32,
    count_out: *mut u64,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let count_out = Out::optional(count_out, "count_out")?;
        // SAFETY: the caller's promise about pattern.
        let pattern = unsafe { key_of(pattern, pattern_len) }?;
        count_out.set(store.remove_by_pattern(&pattern, force != 0)?);
        Ok(())
    })
}

/// Removes all objects that are not leased.
///
/// @param store      the client.
/// @param force      as in mc_store_remove.
/// @param count_out  receives how many were removed; may be NULL.
///
/// Threads: any. Blocks: longest the setting transfer_timeout_ms. Returns: MC_OK;
/// MC_ERR_INVALID_ARGUMENT; MC_ERR_UNSUPPORTED; MC_ERR_MASTER_UNAVAILABLE; MC_ERR_SHUTDOWN.
/// Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_remove_all(
    store: *mut mc_store_t,
    force: i32,
    count_out: *mut u64,
) -> mc_status_t {
    on_ok(store, |store: &Store| {
        let count_out = Out::optional(count_out, "count_out")?;
        count_out.set(store.remove_all(force != 0)?);
        Ok(())
    })
}

/// Registers memory that objects are put from and got into, which makes that cheaper. Peers cannot
/// reach it.
///
/// @param store         the client.
/// @param address       its first byte; it must stay mapped until it is unregistered.
/// @param length_bytes  its length, not 0.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_OVERLAP, also for
/// the same range again; MC_ERR_LIMIT_REACHED; MC_ERR_SHUTDOWN. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_register_buffer(
    store: *mut mc_store_t,
    address: *mut c_void,
    length_bytes: usize,
) -> mc_status_t {
    on_ok(store, |store: &Store| store.register_buffer(boundary::address(address), length_bytes))
}

/// Takes that back. When it returns, the store does not touch the memory any more.
///
/// @param store    the client.
/// @param address  as it was registered.
///
/// Threads: any. Blocks: for copies under way, microseconds. Returns: MC_OK;
/// MC_ERR_NOT_REGISTERED; MC_ERR_SHUTDOWN. Since: 0.2.
#[no_mangle]
pub unsafe extern "C" fn mc_store_unregister_buffer(
    store: *mut mc_store_t,
    address: *mut c_void,
) -> mc_status_t {
    on_ok(store, |store: &Store| store.unregister_buffer(boundary::address(address)))
}

/// Translates a status into the number that upstream's store interfaces have for it.
///
/// @param status  any number.
/// @return 0 for MC_OK, else a negative number such as -704 for MC_ERR_OBJECT_NOT_FOUND.
///
/// Threads: any. Blocks: no. Since: 0.2.
#[no_mangle]
pub extern "C" fn mc_store_upstream_code(status: mc_status_t) -> i32 {
    guard_value(-1, || match status {
        MC_OK => 0,
        _ => status::kind_of(status).map_or(-1, outcome_of),
    })
}

/// # Safety
/// Texts that are not NULL are NUL-terminated.
unsafe fn store_options(given: &mc_store_options_t) -> Result<StoreOptions> {
    if given.reserved != 0 {
        return Err(bad_argument("options.reserved", "is not zero"));
    }
    // SAFETY: the caller's promise.
    let json =
        unsafe { boundary::text(given.json, limits::CONFIG_JSON_BYTES_MAX, "options.json") }?;
    let json = json.as_deref().filter(|text| !text.is_empty());
    let base = StoreOptions {
        segment_bytes: 0,
        local_buffer_bytes: LOCAL_BUFFER_BYTES,
        ..StoreOptions::default()
    };
    let mut options = base.load_over(json, &ProcessEnvironment)?;
    for (name, pointer) in [
        ("local_hostname", given.local_hostname),
        ("metadata_server", given.metadata_server),
        ("protocol", given.protocol),
        ("device_name", given.device_name),
        ("master_server_address", given.master_server_address),
    ] {
        // SAFETY: the caller's promise.
        let value = unsafe { boundary::text(pointer, limits::CONNECTION_STRING_BYTES_MAX, name) }?;
        if let Some(value) = value.filter(|text| !text.is_empty()) {
            options.set(name, &value.into())?;
        }
    }
    for (name, bytes) in [
        ("global_segment_size", given.global_segment_bytes),
        ("local_buffer_size", given.local_buffer_bytes),
    ] {
        match bytes {
            0 => {}
            MC_STORE_NO_BYTES => drop(options.set(name, &0.into())?),
            bytes => drop(options.set(name, &bytes.into())?),
        }
    }
    Ok(options)
}

/// # Safety
/// A pointer that is not NULL is readable as its struct_size says, and its texts are
/// NUL-terminated.
pub(super) unsafe fn put_options(options: *const mc_put_options_t) -> Result<Asked> {
    // SAFETY: the caller's promise.
    let given = unsafe { options::read(options) }?;
    let known = MC_PUT_SOFT_PIN | MC_PUT_HARD_PIN | MC_PUT_SAME_NODE;
    if given.flags & !known != 0 {
        return Err(bad_argument("options.flags", "has bits of a later version"));
    }
    // SAFETY: the caller's promise.
    let names = unsafe {
        text_list(given.preferred_segments, given.preferred_segment_count, "preferred_segments")
    }?;
    let options = PutOptions {
        replica_num: u64::from(given.replica_num.max(1)),
        soft_pin: given.flags & MC_PUT_SOFT_PIN != 0,
        soft_pin_ttl_ms: (given.soft_pin_ttl_ms != 0).then_some(given.soft_pin_ttl_ms),
        hard_pin: given.flags & MC_PUT_HARD_PIN != 0,
        preferred_segments: names,
        same_node: given.flags & MC_PUT_SAME_NODE != 0,
    };
    // SAFETY: the caller's promise.
    let groups = unsafe { group_names(given.groups, given.group_count) }?;
    Ok(Asked { options, groups, timeout: timeout(given.timeout_ms) })
}

/// What a caller asks of a put.
pub(super) struct Asked {
    options: PutOptions,
    groups: Vec<String>,
    timeout: Option<Duration>,
}

impl Asked {
    pub(super) fn put(&self, store: &Store, objects: &[Object<'_>]) -> Result<Vec<Result<()>>> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        store.put_batch_in_groups(objects, &groups, &self.options, self.timeout)
    }
}

/// # Safety
/// An array of `count` texts, each NULL or NUL-terminated.
unsafe fn group_names(texts: *const *const c_char, count: usize) -> Result<Vec<String>> {
    check_count(count)?;
    // SAFETY: the caller's promise.
    let texts = unsafe { boundary::slice(texts, count, "options.groups") }?;
    let mut names = Vec::with_capacity(count);
    for text in texts {
        // SAFETY: as above.
        let name = unsafe { boundary::text(*text, limits::KEY_BYTES_MAX, "options.groups") }?;
        names.push(name.unwrap_or_default());
    }
    Ok(names)
}

/// # Safety
/// An array of `count` texts, each NUL-terminated.
pub(super) unsafe fn text_list(
    texts: *const *const c_char,
    count: usize,
    what: &str,
) -> Result<Vec<String>> {
    if count > limits::CONFIG_LIST_ITEMS_MAX {
        return Err(bad_argument(what, "has too many entries"));
    }
    // SAFETY: the caller's promise.
    let texts = unsafe { boundary::slice(texts, count, what) }?;
    texts
        .iter()
        // SAFETY: as above.
        .map(|text| unsafe { boundary::required_text(*text, limits::NAME_BYTES_MAX, what) })
        .collect()
}

/// # Safety
/// Readable for `length` bytes.
pub(super) unsafe fn key_of(key: *const c_char, length: usize) -> Result<Vec<u8>> {
    // SAFETY: the caller's promise.
    unsafe { boundary::bytes(key, length, limits::KEY_BYTES_MAX, "key") }
}

/// Memory whose bytes go to or come from an object; it stays a number.
pub(super) fn range_of(address: *const c_void, length: usize, what: &str) -> Result<Range> {
    if address.is_null() && length > 0 {
        return Err(bad_argument(what, "is NULL"));
    }
    Ok(Range { address: boundary::address(address), length })
}

pub(super) fn timeout(timeout_ms: u32) -> Option<Duration> {
    (timeout_ms != 0).then(|| Duration::from_millis(timeout_ms.into()))
}

fn one<T>(results: Vec<Result<T>>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Internal, "a call without a result"));
    results.into_iter().next().unwrap_or_else(missing)
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<mc_store_options_t>() == 72);
    assert!(offset_of!(mc_store_options_t, global_segment_bytes) == 48);
    assert!(offset_of!(mc_store_options_t, json) == 64);
    assert!(size_of::<mc_put_options_t>() == 56);
    assert!(offset_of!(mc_put_options_t, preferred_segments) == 24);
    assert!(offset_of!(mc_put_options_t, groups) == 40);
};
