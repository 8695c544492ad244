//! How a Rust test says that it could not run here, so that `tests/run` counts it as skipped, not
//! as passed: one line past the capture of what tests print. Used by tests of the crate, too.

use std::io::Write;

/// The calling test is skipped, for that reason; it returns afterwards.
pub(crate) fn skipped(reason: impl std::fmt::Display) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let reason = reason.to_string().replace('\n', " ");
    let _ = std::io::stderr().write_all(format!("SKIPPED {name}: {reason}\n").as_bytes());
}
