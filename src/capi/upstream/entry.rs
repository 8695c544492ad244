//! How every function of this API is entered: the guard, the look-up of the handle, and the
//! translation of what went wrong.

use std::collections::HashSet;
use std::ffi::{c_int, c_void};

use parking_lot::Mutex;

use super::batch;
use super::numbers;
use super::types::{batch_id_t, transfer_engine_t};
use crate::capi::boundary;
use crate::capi::handle::{Kind, Noun, Table};
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};

/// What upstream's engine handle stands for.
pub(super) struct UpstreamEngine {
    pub(super) engine: Engine,
    /// Held while buffers are looked up and then registered, because upstream refuses to register
    /// a range twice.
    pub(super) registering: Mutex<()>,
    /// Batches that were not freed yet; they end with the engine.
    pub(super) batches: Mutex<HashSet<batch_id_t>>,
    /// Names that removeLocalSegment was asked to forget: opening one fetches it again.
    pub(super) forgotten: Mutex<HashSet<String>>,
    /// What installTransport gave out, by name.
    pub(super) transports: Mutex<Vec<(String, Box<u8>)>>,
    /// True where MC_SLICE_TIMEOUT is set: only then upstream reports timeouts as such.
    pub(super) reports_timeouts: bool,
}

impl Drop for UpstreamEngine {
    fn drop(&mut self) {
        for id in self.batches.get_mut().drain() {
            batch::forget(id);
        }
    }
}

static ENGINES: Table<UpstreamEngine> = Table::new(Kind::UpstreamEngine);

impl Noun for UpstreamEngine {
    type Opaque = c_void;
    const WORD: &'static str = "transfer engine";

    fn table() -> &'static Table<Self> {
        &ENGINES
    }
}

/// Runs `body`; on an error gives what `refused` makes of its kind, on a panic the same for a
/// defect of this library.
pub(super) fn guarded<R>(refused: impl Fn(ErrorKind) -> R, body: impl FnOnce() -> Result<R>) -> R {
    boundary::guard_value(refused(ErrorKind::Panic), || match body() {
        Ok(value) => value,
        Err(error) => {
            boundary::failed(&error);
            refused(error.kind())
        }
    })
}

/// Runs a call inside an engine.
pub(super) fn on<R>(
    engine: transfer_engine_t,
    refused: impl Fn(ErrorKind) -> R,
    call: impl FnOnce(&UpstreamEngine) -> Result<R>,
) -> R {
    guarded(refused, || ENGINES.pin(engine)?.run(call))
}

/// As [`on`], for functions that return 0 or a negative code.
pub(super) fn code(
    engine: transfer_engine_t,
    call: impl FnOnce(&UpstreamEngine) -> Result<()>,
) -> c_int {
    on(engine, |kind| numbers::of(kind).code, |engine| call(engine).map(|()| 0))
}

/// As [`on`], for functions that return 0 or a positive status.
pub(super) fn status(
    engine: transfer_engine_t,
    call: impl FnOnce(&UpstreamEngine) -> Result<c_int>,
) -> c_int {
    on(engine, |kind| numbers::of(kind).status, call)
}
