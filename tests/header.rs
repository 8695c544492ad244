//! `include/mooncake.h` is generated from `src/capi`; this keeps the checked-in copy fresh.
//!
//! `MOONCAKE_UPDATE=1 cargo test --test header` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed test is a panic.

#[path = "common/c_header.rs"]
mod c_header;

use std::fmt::Write as _;
use std::fs;

use c_header::{root, section};

/// Sections of the header: file in `src/capi`, title. The order is that of reading; a type is
/// defined before its first use.
const SECTIONS: &[(&str, &str)] = &[
    ("version", "Version"),
    ("status", "Statuses"),
    ("last_error", "Text of the last failure"),
    ("log", "Log"),
    ("engine", "Engine"),
    ("memory", "Memory"),
    ("buffer", "Buffers"),
    ("segment", "Segments"),
    ("batch", "Batches"),
    ("transfer", "Transfers in one call"),
    ("notify", "Notifications"),
    ("metrics", "Metrics"),
    ("store", "Store"),
    ("store_batch", "Batches of objects"),
    ("store_buffer", "Buffers of the store"),
    ("store_replicas", "Where objects are"),
    ("store_state", "State of the store client"),
];

const INTRODUCTION: &str = r#"/*
 * mooncake.h - moves and pools KV cache between LLM inference processes.
 *
 * Generated from src/capi by tests/header.rs; changes here are overwritten.
 *
 * An engine owns registered memory, threads and connections. Its registered memory is a segment
 * that peers open by name, and then read or write inside it.
 *
 * Names. mc_<noun>_<verb>; the object comes first, outputs come last and end in _out. Units end a
 * name: timeout_ms, length_bytes.
 *
 * Statuses. Functions return mc_status_t: 0 success, positive "not yet", negative failure. Besides
 * those named below, every function that takes a handle can return MC_ERR_INVALID_HANDLE (NULL,
 * another type, destroyed), MC_ERR_FORKED (it belongs to the parent process) and MC_ERR_PANIC (a
 * defect of the library was caught). mc_last_error_message has the text of the calling thread's
 * last failure. On failure outputs are left as they are, except handles, which become NULL or 0.
 *
 * Handles. Pointers to opaque types are handles: keep them, compare them, never look behind them.
 * Using a destroyed or invented handle is a status and touches no memory. Whoever created a handle
 * destroys it, once; destroying NULL does nothing.
 *
 * Memory. Whatever a call is given it reads during the call only, unless said otherwise. Pointers
 * must be aligned and readable (outputs: writable) as their type says; a NULL one that is needed
 * is MC_ERR_INVALID_ARGUMENT. Texts are UTF-8, NUL-terminated, or given with their length.
 *
 * Structs that a program fills begin with struct_size = sizeof(the struct). Set the rest to zero,
 * then what you need: zero is default. Programs built with an older header keep working.
 *
 * Threads. Every function may be called from any thread at any time, also on one handle at once.
 * The library calls nothing of the program but the log sink. It installs no signal handlers, and
 * has no thread before the first mc_engine_create and after the last mc_engine_destroy.
 *
 * Processes. A forked child cannot use the handles of its parent, but can create its own.
 * Unloading is not supported: dlclose keeps the library in memory.
 */
"#;

#[test]
fn header_is_fresh() {
    c_header::keep_fresh("mooncake.h", &header(), "header");
}

#[test]
fn every_file_with_exports_has_a_section() {
    for entry in fs::read_dir(root().join("src/capi")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let exports = fs::read_to_string(&path).unwrap().contains("#[no_mangle]");
        let listed = SECTIONS.iter().any(|(section, _)| *section == name);
        assert_eq!(exports, listed, "section of src/capi/{name}.rs");
    }
}

#[test]
fn every_function_says_its_contract() {
    let header = fs::read_to_string(root().join("include/mooncake.h")).unwrap();
    let mut comment = String::new();
    let mut functions = 0;
    for line in header.lines() {
        if line.starts_with("/*") {
            comment.clear();
        }
        comment.push_str(line);
        comment.push('\n');
        let Some(name) = function_name(line) else { continue };
        functions += 1;
        assert!(comment.contains("Since: "), "{name} does not say since which version");
        let refers = comment.contains("Threads, Blocks");
        for word in ["Threads", "Blocks"] {
            assert!(refers || comment.contains(word), "{name} does not say: {word}");
        }
        if line.starts_with("mc_status_t ") {
            assert!(comment.contains("Returns"), "{name} does not say what it returns");
        }
    }
    assert!(functions > 30, "only {functions} functions were found");
}

/// The name of the function whose prototype begins in this line.
fn function_name(line: &str) -> Option<&str> {
    let (before, _) = line.split_once('(')?;
    let name = before.rsplit([' ', '*']).next()?;
    (name.starts_with("mc_") && !line.starts_with(' ') && !line.starts_with("typedef"))
        .then_some(name)
}

fn header() -> String {
    let mut header = String::from(INTRODUCTION);
    header.push_str(
        "#ifndef MOONCAKE_H\n#define MOONCAKE_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {\n#endif\n",
    );
    for (file, title) in SECTIONS {
        write!(header, "\n/* ---- {title} {} */\n", "-".repeat(84 - title.len())).unwrap();
        if *file == "version" {
            // cbindgen leaves texts out.
            let version = env!("CARGO_PKG_VERSION");
            header.push_str("/** Version this header belongs to, as text. */\n");
            writeln!(header, "#define MC_VERSION_STRING \"{version}\"\n").unwrap();
        }
        header.push_str(&section(&[root().join(format!("src/capi/{file}.rs"))], |_| {}));
    }
    header.push_str(
        "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* MOONCAKE_H */\n",
    );
    header
}
