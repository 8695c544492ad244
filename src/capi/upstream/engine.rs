//! The engine and its transports.

use std::collections::HashSet;
use std::ffi::{c_char, c_int, c_void};
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

use super::entry::{self, UpstreamEngine};
use super::numbers::CODE_INVALID_ARGUMENT;
use super::types::{nic_load_stat_t, transfer_engine_t, transport_t};
use crate::capi::boundary::{self, bad_argument, Out};
use crate::capi::handle::Noun;
use crate::capi::log;
use crate::config::{EngineConfig, Origin, ProcessEnvironment};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Longest wait for calls of other threads that are inside an engine when it is destroyed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Creates an engine: starts its threads, opens its ports and publishes its segment.
///
/// @param metadata_conn_string  where peers find each other: "P2PHANDSHAKE", or the address of a
///                              metadata service.
/// @param local_server_name     name of the engine's segment, "host" or "host:port". With
///                              "P2PHANDSHAKE" the port is replaced by the one that was bound.
/// @param ip_or_host_name       ignored, as upstream does; may be NULL.
/// @param rpc_port              ignored, as upstream does.
/// @param auto_discover         not 0: choose and install a transport; 0: installTransport will,
///                              unless MC_FORCE_TCP is set.
/// @return the engine, owned by the caller until destroyTransferEngine; NULL on failure, also for
///         an unknown kind of metadata service.
///
/// Further settings come from the environment (MC_* variables of docs/configuration.md).
#[no_mangle]
pub unsafe extern "C" fn createTransferEngine(
    metadata_conn_string: *const c_char,
    local_server_name: *const c_char,
    ip_or_host_name: *const c_char,
    rpc_port: u64,
    auto_discover: c_int,
) -> transfer_engine_t {
    let _ = (ip_or_host_name, rpc_port);
    entry::guarded(
        |_| std::ptr::null_mut(),
        || {
            // SAFETY: the caller's promise about the texts.
            let metadata = unsafe {
                boundary::required_text(
                    metadata_conn_string,
                    limits::CONNECTION_STRING_BYTES_MAX,
                    "metadata_conn_string",
                )
            }?;
            // SAFETY: as above.
            let local_name = unsafe {
                boundary::required_text(
                    local_server_name,
                    limits::NAME_BYTES_MAX,
                    "local_server_name",
                )
            }?;
            let config = configuration(metadata, local_name, auto_discover != 0)?;
            let reports_timeouts = config.rdma_slice_timeout_s > 0;
            UpstreamEngine::table().insert(UpstreamEngine {
                engine: Engine::create(config)?,
                registering: Mutex::new(()),
                batches: Mutex::new(HashSet::new()),
                forgotten: Mutex::new(HashSet::new()),
                transports: Mutex::new(Vec::new()),
                reports_timeouts,
            })
        },
    )
}

fn configuration(
    metadata: String,
    local_name: String,
    auto_discover: bool,
) -> Result<EngineConfig> {
    let (mut config, _) = EngineConfig::load(None, &ProcessEnvironment)?;
    config.set("metadata", metadata.into(), Origin::Option)?;
    config.set("local_name", local_name.into(), Origin::Option)?;
    config.set("auto_discovery", i32::from(auto_discover).into(), Origin::Option)?;
    if !auto_discover {
        // The setting force_tcp, which MC_FORCE_TCP is, wins over this.
        config.set("protocol", "none".into(), Origin::Option)?;
    }
    config.check()?;
    Ok(config)
}

/// Destroys an engine with its batches, cancels what is in flight and withdraws its segment.
///
/// When it returns no memory registered with the engine is touched any more. Destroying an engine
/// twice, or NULL, does nothing.
///
/// @param engine  the engine; the handle is invalid afterwards.
#[no_mangle]
pub unsafe extern "C" fn destroyTransferEngine(engine: transfer_engine_t) {
    entry::guarded(|_| (), || if engine.is_null() { Ok(()) } else { destroy(engine) });
}

fn destroy(engine: transfer_engine_t) -> Result<()> {
    if log::in_sink() {
        return Err(Error::new(
            ErrorKind::InvalidState,
            "an engine cannot be destroyed inside a log sink: it may be its own thread",
        ));
    }
    let engine = UpstreamEngine::table().close(engine)?;
    engine.engine.shutdown();
    if !engine.wait_alone(LEAVE_TIMEOUT) {
        return Err(Error::new(ErrorKind::Timeout, "another thread is still inside the engine"));
    }
    Ok(())
}

/// Looks at the host's devices, again if that was done before. Transports that are installed keep
/// what they have. Blocks for some milliseconds.
///
/// @param engine  the engine.
/// @return 0, or -1 for a handle that is not an engine.
#[no_mangle]
pub unsafe extern "C" fn discoverTopology(engine: transfer_engine_t) -> c_int {
    entry::code(engine, |engine| {
        engine.engine.discover_topology();
        Ok(())
    })
}

/// Copies the published address of the engine's handshake plane, "host:port"; an IPv6 host has no
/// brackets.
///
/// @param engine   the engine.
/// @param buf_out  receives the text, cut to fit and NUL-terminated.
/// @param buf_len  bytes in buf_out.
/// @return 0, or -1 for a handle that is not an engine or a NULL buffer.
#[no_mangle]
pub unsafe extern "C" fn getLocalIpAndPort(
    engine: transfer_engine_t,
    buf_out: *mut c_char,
    buf_len: usize,
) -> c_int {
    entry::code(engine, |UpstreamEngine { engine, .. }| {
        let text = format!("{}:{}", engine.host(), engine.rpc_port());
        // SAFETY: the caller's promise about buf_out.
        unsafe { boundary::give_text(&text, buf_out, buf_len, std::ptr::null_mut()) }
    })
}

/// Adds a transport to an engine; memory registered before is registered with it too.
///
/// @param engine  the engine.
/// @param proto   "tcp"; other names upstream knows are refused where this build lacks them.
/// @param args    NULL, or an array whose first entry is a preference matrix of network adapters
///                (JSON) or NULL. The engine then uses this matrix instead of the host's own. A
///                text that is none is logged and ignored.
/// @return the transport, which belongs to the engine; the same one when it was installed before;
///         NULL on failure.
#[no_mangle]
pub unsafe extern "C" fn installTransport(
    engine: transfer_engine_t,
    proto: *const c_char,
    args: *mut *mut c_void,
) -> transport_t {
    entry::on(
        engine,
        |_| std::ptr::null_mut(),
        |engine| {
            // SAFETY: the caller's promise about proto.
            let proto = unsafe { boundary::required_text(proto, PROTOCOL_BYTES_MAX, "proto") }?;
            // SAFETY: the caller's promise about args.
            let matrix = unsafe { preference_matrix(args) };
            engine.engine.install_transport(&proto)?;
            if let Some(Err(error)) =
                matrix.map(|text| text.and_then(|text| engine.engine.set_preference_matrix(&text)))
            {
                ::log::warn!("the preference matrix of installTransport is ignored: {error}");
            }
            let mut transports = engine.transports.lock();
            let known = transports.iter().position(|(name, _)| *name == proto);
            let index = known.unwrap_or_else(|| {
                transports.push((proto, Box::new(0)));
                transports.len() - 1
            });
            Ok(std::ptr::from_ref(&*transports[index].1).cast_mut().cast())
        },
    )
}

/// The text of the first entry of `args`, if there is one.
///
/// # Safety
/// `args` is NULL or an array, whose first entry is NULL or a NUL-terminated text.
unsafe fn preference_matrix(args: *mut *mut c_void) -> Option<Result<String>> {
    if args.is_null() {
        return None;
    }
    // SAFETY: the caller's promise; not NULL.
    let first = unsafe { args.read() };
    if first.is_null() {
        return None;
    }
    let bytes_max = limits::CUSTOM_TOPOLOGY_BYTES_MAX;
    // SAFETY: the caller's promise about the text.
    Some(unsafe { boundary::required_text(first.cast(), bytes_max, "args[0]") })
}

/// Does nothing, as upstream: a transport lives as long as its engine.
///
/// @return 0, or -1 for a handle that is not an engine.
#[no_mangle]
pub unsafe extern "C" fn uninstallTransport(
    engine: transfer_engine_t,
    proto: *const c_char,
) -> c_int {
    let _ = proto;
    entry::code(engine, |_| Ok(()))
}

/// Does nothing: this library installs no signal handlers, and destroyTransferEngine always leaves
/// in good order.
///
/// @param engine  any value.
#[no_mangle]
pub unsafe extern "C" fn enableGracefulShutdown(engine: transfer_engine_t) {
    let _ = engine;
}

/// Tells the load of the engine's network adapters. Transports without adapters have none.
///
/// @param engine  the engine.
/// @param stats   receives up to *count entries.
/// @param count   places in stats; receives how many adapters there are.
/// @return 0, or -1 for a handle that is not an engine or a NULL pointer.
#[no_mangle]
pub unsafe extern "C" fn getNicLoadStats(
    engine: transfer_engine_t,
    stats: *mut nic_load_stat_t,
    count: *mut usize,
) -> c_int {
    entry::code(engine, |_| {
        Out::required(stats, "stats")?;
        Out::required(count, "count")?.set(0);
        Ok(())
    })
}

/// Copies a description of the engine's transports and of the peers it is connected to.
///
/// Its form may change between versions; it is meant for people and logs.
///
/// @param engine   the engine.
/// @param buf_out  receives the text, cut to fit and NUL-terminated.
/// @param buf_len  bytes in buf_out; not 0.
/// @param json     not 0: as a JSON object, else as lines.
/// @return 0, or -1 for a handle that is not an engine or no buffer.
#[no_mangle]
pub unsafe extern "C" fn showLinks(
    engine: transfer_engine_t,
    buf_out: *mut c_char,
    buf_len: usize,
    json: c_int,
) -> c_int {
    let refused = |_| CODE_INVALID_ARGUMENT;
    entry::on(engine, refused, |UpstreamEngine { engine, .. }| {
        if buf_out.is_null() || buf_len == 0 {
            return Err(bad_argument("buf_out", "has no room"));
        }
        let text = links(&engine.dump(), json != 0);
        // SAFETY: the caller's promise about buf_out.
        unsafe { boundary::copy_text(&text, buf_out, buf_len) };
        Ok(0)
    })
}

/// The part of the dump about transports and open segments.
fn links(dump: &serde_json::Value, json: bool) -> String {
    if json {
        let part = serde_json::json!({
            "local_name": dump["engine"]["local_name"],
            "transports": dump["transports"],
            "segments": dump["segments"]["first"],
        });
        return part.to_string();
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    for transport in dump["transports"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "transport {}", word(&transport["name"]));
    }
    for segment in dump["segments"]["first"].as_array().into_iter().flatten() {
        let state = if segment["down"] == true { "down" } else { "up" };
        let _ = writeln!(
            text,
            "segment {} over {}: {state}",
            word(&segment["name"]),
            word(&segment["transport"])
        );
    }
    text
}

fn word(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or("?")
}

const PROTOCOL_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_discovery_no_transport_is_chosen() {
        let config = configuration("P2PHANDSHAKE".into(), "127.0.0.1".into(), false).unwrap();
        assert_eq!(config.protocol, "none");
        let config = configuration("P2PHANDSHAKE".into(), "127.0.0.1".into(), true).unwrap();
        assert_eq!(config.protocol, "");
        assert_eq!(config.auto_discovery, 1);
    }

    #[test]
    fn links_are_lines_or_json() {
        let dump = serde_json::json!({
            "engine": { "local_name": "a:1" },
            "transports": [{ "name": "tcp" }],
            "segments": { "first": [{ "name": "b:2", "transport": "tcp", "down": true }] },
        });
        assert_eq!(links(&dump, false), "transport tcp\nsegment b:2 over tcp: down\n");
        let json: serde_json::Value = serde_json::from_str(&links(&dump, true)).unwrap();
        assert_eq!(json["local_name"], "a:1");
        assert_eq!(json["segments"][0]["name"], "b:2");
    }
}
