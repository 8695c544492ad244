//! Where log records go. Nothing is logged until the host asks for it.
//!
//! The crate logs through the `log` facade. The C library brings its own copy of that facade, so
//! its logger is ours to set; a Rust program that links the crate may have set its own, which then
//! stays in charge.

use std::cell::Cell;
use std::ffi::{c_char, c_void, CString};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::RwLock;

use super::boundary::{bad_argument, guard_ok};
use super::status::mc_status_t;
use crate::error::{Error, ErrorKind, Result};

/// Nothing is logged.
pub const MC_LOG_OFF: i32 = 0;
/// Something is lost.
pub const MC_LOG_ERROR: i32 = 1;
/// Something is wrong, but the library helps itself.
pub const MC_LOG_WARN: i32 = 2;
/// A few lines in the life of an engine or peer.
pub const MC_LOG_INFO: i32 = 3;
/// A line for most calls, none for single requests.
pub const MC_LOG_DEBUG: i32 = 4;
/// Everything; slow.
pub const MC_LOG_TRACE: i32 = 5;

/// Receives one log record.
///
/// It may be called from any thread, also from several at once, and must return soon. It must not
/// throw, and must not call mc_log_set or mc_engine_destroy; other calls are allowed, but what they
/// log is dropped. The text is NUL-terminated UTF-8 without line end, valid during the call.
pub type mc_log_sink_t =
    Option<unsafe extern "C" fn(level: i32, text: *const c_char, user: *mut c_void)>;

/// Longest wait for running sink calls when the sink is changed.
const SINK_CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of one record; a longer one is cut.
const RECORD_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Copy)]
struct Sink {
    call: mc_log_sink_t,
    user: *mut c_void,
}

// SAFETY: `user` is only handed back to the host's function, which promises to take it in any
// thread (documentation of mc_log_sink_t).
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

struct Logger {
    /// Read-locked during a sink call, so that a sink is not called once it has been replaced.
    sink: RwLock<Sink>,
}

/// Set once the program has called mc_log_set: from then on settings have no say.
static PROGRAM_DECIDED: AtomicBool = AtomicBool::new(false);

static LOGGER: OnceLock<Option<&'static Logger>> = OnceLock::new();

thread_local! {
    static IN_SINK: Cell<bool> = const { Cell::new(false) };
}

/// True while the calling thread runs the host's log sink.
pub(crate) fn in_sink() -> bool {
    IN_SINK.try_with(Cell::get).unwrap_or(false)
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &::log::Record) {
        if !self.enabled(record.metadata()) || in_sink() {
            return;
        }
        let text = line(&format!("{}: {}", record.target(), record.args()));
        let sink = self.sink.read();
        let _ = IN_SINK.try_with(|inside| inside.set(true));
        match sink.call {
            // SAFETY: the host gave this function for this use and keeps it until it is replaced;
            // the read lock holds a replacement back.
            Some(call) => unsafe { call(record.level() as i32, text.as_ptr(), sink.user) },
            None => {
                let level = record.level();
                let _ = writeln!(std::io::stderr(), "{level:5} {}", text.to_string_lossy());
            }
        }
        let _ = IN_SINK.try_with(|inside| inside.set(false));
    }

    fn flush(&self) {}
}

/// The text of a record as C can take it: bounded, one line, no NUL inside.
fn line(text: &str) -> CString {
    let mut bytes = Vec::with_capacity(text.len().min(RECORD_BYTES_MAX));
    for character in text.chars() {
        if bytes.len() + character.len_utf8() > RECORD_BYTES_MAX {
            break;
        }
        match character {
            '\0' | '\n' | '\r' => bytes.push(b' '),
            _ => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    CString::new(bytes).unwrap_or_default()
}

/// The logger of this library, installed at the first call; an error where the host has its own.
fn logger() -> Result<&'static Logger> {
    LOGGER
        .get_or_init(|| {
            let sink = RwLock::new(Sink { call: None, user: std::ptr::null_mut() });
            let logger: &'static Logger = Box::leak(Box::new(Logger { sink }));
            ::log::set_logger(logger).is_ok().then_some(logger)
        })
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidState, "the host program has set its own Rust logger")
        })
}

fn level_filter(level: i32) -> Result<::log::LevelFilter> {
    Ok(match level {
        MC_LOG_OFF => ::log::LevelFilter::Off,
        MC_LOG_ERROR => ::log::LevelFilter::Error,
        MC_LOG_WARN => ::log::LevelFilter::Warn,
        MC_LOG_INFO => ::log::LevelFilter::Info,
        MC_LOG_DEBUG => ::log::LevelFilter::Debug,
        MC_LOG_TRACE => ::log::LevelFilter::Trace,
        _ => return Err(bad_argument("level", "is none of MC_LOG_*").with("level", level)),
    })
}

/// Applies the setting `log_level` of an engine: records go to standard error, unless the program
/// has its own wishes or logger.
pub(crate) fn apply_setting(level: &str) {
    let Ok(filter) = level.parse::<::log::LevelFilter>() else { return };
    if !PROGRAM_DECIDED.load(Ordering::Relaxed) && logger().is_ok() {
        ::log::set_max_level(filter);
    }
}

/// Sets how much is logged and where it goes; for the whole process.
///
/// @param level  MC_LOG_OFF (the state before the first call) to MC_LOG_TRACE.
/// @param sink   called for every record up to that level; NULL = standard error.
/// @param user   handed to the sink; the caller keeps it valid until another sink is set. When
///               this function returns MC_OK the earlier sink is not running and not called again.
///
/// Before the first call nothing is logged, unless the setting log_level (MC_LOG_LEVEL) of an
/// engine asks for records on standard error; afterwards that setting has no effect.
///
/// Threads: any, but not inside a sink. Blocks: while the earlier sink runs, longest 10 s.
/// Returns: MC_OK; MC_ERR_INVALID_ARGUMENT for another level; MC_ERR_INVALID_STATE inside a sink
/// or when the program is a Rust program with its own logger; MC_ERR_TIMEOUT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_log_set(
    level: i32,
    sink: mc_log_sink_t,
    user: *mut c_void,
) -> mc_status_t {
    guard_ok(|| {
        let filter = level_filter(level)?;
        if in_sink() {
            return Err(Error::new(
                ErrorKind::InvalidState,
                "a log sink must not change the log sink",
            ));
        }
        let logger = logger()?;
        let Some(mut current) = logger.sink.try_write_for(SINK_CHANGE_TIMEOUT) else {
            return Err(Error::new(ErrorKind::Timeout, "the earlier log sink does not return"));
        };
        PROGRAM_DECIDED.store(true, Ordering::Relaxed);
        *current = Sink { call: sink, user };
        ::log::set_max_level(filter);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_one_bounded_line() {
        assert_eq!(line("a\nb\0c").to_str().unwrap(), "a b c");
        assert_eq!(line(&"ä".repeat(RECORD_BYTES_MAX)).as_bytes().len(), RECORD_BYTES_MAX);
    }

    #[test]
    fn levels_are_checked() {
        for level in MC_LOG_OFF..=MC_LOG_TRACE {
            assert!(level_filter(level).is_ok());
        }
        assert!(level_filter(-1).is_err());
        assert!(level_filter(6).is_err());
    }
}
