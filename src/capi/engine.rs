//! The engine: everything else belongs to one.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::boundary::{self, bad_argument, guard_ok, on_ok, Out};
use super::handle::{Kind, Noun, Table};
use super::log;
use super::options::{self, Sized32};
use super::panic_hook;
use super::status::mc_status_t;
use crate::config::{EngineConfig, Origin, ProcessEnvironment};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// An engine: its threads, connections and registered memory. Opaque.
pub struct mc_engine_t {
    _private: [u8; 0],
}

/// Value of mc_engine_options_t.spin_us for "never poll, sleep at once".
pub const MC_SPIN_NEVER: u32 = 0xffff_ffff;

/// Settings of an engine. Set struct_size to sizeof(mc_engine_options_t) and everything else to
/// zero; then change what you need. Zero means default for every member.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mc_engine_options_t {
    /// sizeof(mc_engine_options_t).
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Where peers find each other; default "P2PHANDSHAKE": no service, names are addresses.
    pub metadata: *const c_char,
    /// Name of this engine's segment, "host" or "host:port"; default: the first usable address.
    /// With "P2PHANDSHAKE" the port is the one that was bound: see mc_engine_local_name.
    pub local_name: *const c_char,
    /// Transport: "tcp" or "loopback" (this process only, for tests); default: chosen.
    pub protocol: *const c_char,
    /// Address or host name to listen on; default: every address of the host.
    pub bind_address: *const c_char,
    /// Port of the handshake plane; default: the first free one of the port range.
    pub rpc_port: u16,
    /// Port of the data plane; default: as above.
    pub data_port: u16,
    /// Threads that move bytes; default: chosen.
    pub io_threads: u32,
    /// Connections kept to one peer; default: chosen.
    pub lanes_per_peer: u32,
    /// Longest time of a transfer for which the caller gives no deadline; default 30 s.
    pub transfer_timeout_ms: u32,
    /// How long a waiting caller polls before it sleeps; MC_SPIN_NEVER turns it off.
    pub spin_us: u32,
    /// Further settings of docs/configuration.md as a JSON object; members above win over it.
    pub json: *const c_char,
}

// SAFETY: repr(C), size first, numbers and pointers that may be NULL.
unsafe impl Sized32 for mc_engine_options_t {
    const FIRST_SIZE: usize = 72;
    const NAME: &'static str = "options";
}

/// Calls that are inside an engine when it is destroyed end at once; this is the longest wait for
/// their threads to be scheduled.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

static ENGINES: Table<Engine> = Table::new(Kind::Engine);

impl Noun for Engine {
    type Opaque = mc_engine_t;
    const WORD: &'static str = "engine";

    fn table() -> &'static Table<Self> {
        &ENGINES
    }
}

/// Creates an engine: starts its threads, opens its ports and publishes its segment.
///
/// @param options     read during the call only; NULL = all defaults.
/// @param engine_out  receives the engine, owned by the caller until mc_engine_destroy; NULL on
///                    failure.
///
/// Settings come from options, then from its json, then from the environment (MC_* variables of
/// docs/configuration.md), then from defaults.
///
/// Threads: any. Blocks: while ports are opened and metadata is published, longest the transfer
/// timeout.
/// Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_ADDRESS; MC_ERR_UNKNOWN_PROTOCOL;
/// MC_ERR_METADATA_UNAVAILABLE; MC_ERR_RESOURCE; MC_ERR_LIMIT_REACHED. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_create(
    options: *const mc_engine_options_t,
    engine_out: *mut *mut mc_engine_t,
) -> mc_status_t {
    guard_ok(|| {
        let engine_out = handle_out(engine_out, "engine_out")?;
        // SAFETY: the caller's promise about options.
        let options = unsafe { options::read(options) }?;
        // SAFETY: as above.
        create(unsafe { configuration(&options) }?, &engine_out)
    })
}

/// Creates an engine from settings in JSON, for callers that keep them as text.
///
/// @param json        an object with the keys of docs/configuration.md; copied.
/// @param json_len    its bytes; 0 = all defaults.
/// @param engine_out  as in mc_engine_create.
///
/// Threads, Blocks, Returns: as mc_engine_create. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_create_json(
    json: *const c_char,
    json_len: usize,
    engine_out: *mut *mut mc_engine_t,
) -> mc_status_t {
    guard_ok(|| {
        let engine_out = handle_out(engine_out, "engine_out")?;
        // SAFETY: the caller's promise about json.
        let json =
            unsafe { boundary::bytes(json, json_len, limits::CONFIG_JSON_BYTES_MAX, "json") }?;
        let json = String::from_utf8(json).map_err(|_| bad_argument("json", "is not UTF-8"))?;
        let json = (!json.is_empty()).then_some(json.as_str());
        create(EngineConfig::load(json, &ProcessEnvironment)?.0, &engine_out)
    })
}

/// Destroys an engine: cancels what is in flight, withdraws its segment, closes its connections
/// and ends its threads.
///
/// When it returns MC_OK no memory registered with the engine is touched any more. Batches of the
/// engine stay valid handles with cancelled tasks; each still needs mc_batch_destroy.
///
/// @param engine  the engine; NULL does nothing. The handle is invalid afterwards, whatever is
///                returned.
///
/// Threads: any, but not inside a log sink; calls of other threads in the same engine end with
/// MC_ERR_SHUTDOWN or MC_ERR_CANCELLED. Blocks: until its threads have ended, longest 10 s.
/// Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was destroyed before; MC_ERR_INVALID_STATE
/// inside a log sink; MC_ERR_TIMEOUT when a call of another thread did not end in time (the engine
/// goes when that call ends). Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_destroy(engine: *mut mc_engine_t) -> mc_status_t {
    guard_ok(|| {
        if engine.is_null() {
            return Ok(());
        }
        if log::in_sink() {
            return Err(Error::new(
                ErrorKind::InvalidState,
                "an engine cannot be destroyed inside a log sink: it may be its own thread",
            ));
        }
        let engine = ENGINES.close(engine)?;
        engine.shutdown();
        if engine.wait_alone(LEAVE_TIMEOUT) {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Timeout, "another thread is still inside the engine"))
        }
    })
}

/// Copies the name under which peers open this engine's segment.
///
/// @param engine   the engine.
/// @param buf      receives the name, cut to fit and NUL-terminated; may be NULL if buf_len is 0.
/// @param buf_len  bytes in buf.
/// @param len_out  receives the full length without NUL; may be NULL.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_local_name(
    engine: *const mc_engine_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(engine.local_name(), buf, buf_len, len_out) }
    })
}

/// Tells the ports this engine listens on.
///
/// @param engine         the engine.
/// @param rpc_port_out   receives the port of the handshake plane; may be NULL.
/// @param data_port_out  receives the port of the data plane, 0 without one; may be NULL.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_ports(
    engine: *const mc_engine_t,
    rpc_port_out: *mut u16,
    data_port_out: *mut u16,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let rpc_port_out = Out::optional(rpc_port_out, "rpc_port_out")?;
        let data_port_out = Out::optional(data_port_out, "data_port_out")?;
        rpc_port_out.set(engine.rpc_port());
        data_port_out.set(engine.data_port());
        Ok(())
    })
}

/// Copies a description of everything the engine found and chose, as one JSON object: settings
/// with their origins, transports, topology, peers.
///
/// Its members may change between versions; it is meant for people and logs.
///
/// @param engine, buf, buf_len, len_out  as in mc_engine_local_name.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_engine_dump(
    engine: *const mc_engine_t,
    buf: *mut c_char,
    buf_len: usize,
    len_out: *mut usize,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let dump = engine.dump().to_string();
        // SAFETY: the caller's promise about buf and len_out.
        unsafe { boundary::give_text(&dump, buf, buf_len, len_out) }
    })
}

fn create(config: EngineConfig, engine_out: &Out<*mut mc_engine_t>) -> Result<()> {
    panic_hook::install();
    if let Some(level) = &config.log_level {
        log::apply_setting(level);
    }
    let engine = Engine::create(config)?;
    engine_out.set(ENGINES.insert(engine)?);
    Ok(())
}

/// A place for a handle; NULL until there is one.
pub(crate) fn handle_out<T>(place: *mut *mut T, what: &str) -> Result<Out<*mut T>> {
    let place = Out::required(place, what)?;
    place.set(std::ptr::null_mut());
    Ok(place)
}

/// The configuration `options` ask for.
///
/// # Safety
/// Texts that are not NULL are NUL-terminated.
unsafe fn configuration(options: &mc_engine_options_t) -> Result<EngineConfig> {
    if options.reserved != 0 {
        return Err(bad_argument("options.reserved", "is not zero"));
    }
    // SAFETY: the caller's promise.
    let json =
        unsafe { boundary::text(options.json, limits::CONFIG_JSON_BYTES_MAX, "options.json") }?;
    let json = json.as_deref().filter(|text| !text.is_empty());
    let (mut config, _) = EngineConfig::load(json, &ProcessEnvironment)?;
    for (key, pointer) in [
        ("metadata", options.metadata),
        ("local_name", options.local_name),
        ("protocol", options.protocol),
        ("bind_address", options.bind_address),
    ] {
        // SAFETY: the caller's promise.
        let value = unsafe { boundary::text(pointer, limits::CONNECTION_STRING_BYTES_MAX, key) }?;
        if let Some(value) = value.filter(|text| !text.is_empty()) {
            config.set(key, value.into(), Origin::Option)?;
        }
    }
    for (key, value) in [
        ("rpc_port", u32::from(options.rpc_port)),
        ("data_port", u32::from(options.data_port)),
        ("tcp_io_threads", options.io_threads),
        ("tcp_lanes_per_peer", options.lanes_per_peer),
        ("transfer_timeout_ms", options.transfer_timeout_ms),
    ] {
        if value != 0 {
            config.set(key, value.into(), Origin::Option)?;
        }
    }
    match options.spin_us {
        0 => {}
        MC_SPIN_NEVER => config.set("tcp_spin_us", 0.into(), Origin::Option)?,
        spin_us => config.set("tcp_spin_us", spin_us.into(), Origin::Option)?,
    }
    config.check()?;
    Ok(config)
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<mc_engine_options_t>() == 72);
    assert!(offset_of!(mc_engine_options_t, metadata) == 8);
    assert!(offset_of!(mc_engine_options_t, bind_address) == 32);
    assert!(offset_of!(mc_engine_options_t, rpc_port) == 40);
    assert!(offset_of!(mc_engine_options_t, data_port) == 42);
    assert!(offset_of!(mc_engine_options_t, io_threads) == 44);
    assert!(offset_of!(mc_engine_options_t, spin_us) == 56);
    assert!(offset_of!(mc_engine_options_t, json) == 64);
    assert!(size_of::<*mut c_void>() == 8, "only 64-bit targets are described in the header");
};
