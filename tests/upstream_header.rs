//! `include/mooncake/transfer_engine_c.h` is generated from `src/capi/upstream`; this keeps the
//! checked-in copy fresh.
//!
//! `MOONCAKE_UPDATE=1 cargo test --test upstream_header` writes it anew.

#[path = "common/c_header.rs"]
mod c_header;

use std::collections::BTreeSet;
use std::fs;

use c_header::{root, section};

/// Files of `src/capi/upstream` that declare something, in the order of the header.
const SOURCES: &[&str] = &["types", "engine", "segment", "memory", "batch", "notify"];

/// Types that no function takes; cbindgen would leave them out.
const UNUSED_TYPES: &[&str] = &["segment_handle_t", "transfer_request_t", "transfer_status_t"];

const INTRODUCTION: &str = r#"/*
 * transfer_engine_c.h - the C API of the upstream transfer engine, as this library has it.
 *
 * Generated from src/capi/upstream by tests/upstream_header.rs; changes here are overwritten.
 *
 * For programs written against upstream's header of the same name: names, layouts and numbers are
 * those of 0.3.7.post2, with the functions added up to 0.3.13. Link with -ltransfer_engine, which
 * is another name of libmooncake. New programs use mooncake.h.
 *
 * Return values. Most functions give 0 or a negative number, those of batches 0 or a positive one:
 * 1 invalid argument, 2 too many requests, 3 memory not registered, 4 batch busy, 7 memory
 * registered already, 8 no such transport, 101 name not found, 102 socket, 103 malformed message,
 * 104 rejected by the peer, 200 metadata, 202 engine, 302 memory. mc_last_error_message of
 * mooncake.h tells the cause of the calling thread's last failure.
 *
 * Handles and ids that are wrong, NULL or destroyed are a return value, never a crash. Texts and
 * arrays are read during the call only. Every function may be called from any thread.
 */
"#;

/// Declared by upstream, but taken by no function.
const SEGMENT_DESCRIPTION: &str = r#"
/* Not used by any function; for programs that mention it. */
struct segment_desc {
    int type;
    union {
        struct {
            void *addr;
            uint64_t size;
            const char *location;
        } rdma;
        struct {
            const char *file_path;
            const char *subsystem_name;
            const char *proto;
            const char *ip;
            uint64_t port;
        } nvmeof;
    } desc_;
};
typedef struct segment_desc segment_desc_t;

"#;

/// Functions of 0.3.7.post2, then those added up to 0.3.13.
const FUNCTIONS: &[&str] = &[
    "createTransferEngine",
    "getLocalIpAndPort",
    "installTransport",
    "uninstallTransport",
    "openSegment",
    "openSegmentNoCache",
    "closeSegment",
    "removeLocalSegment",
    "destroyTransferEngine",
    "registerLocalMemory",
    "unregisterLocalMemory",
    "registerLocalMemoryBatch",
    "unregisterLocalMemoryBatch",
    "allocateBatchID",
    "submitTransfer",
    "submitTransferWithNotify",
    "getNotifsFromEngine",
    "freeNotifsMsgBuf",
    "genNotifyInEngine",
    "getTransferStatus",
    "freeBatchID",
    "syncSegmentCache",
    "discoverTopology",
    "warmupEfaSegment",
    "getNicLoadStats",
    "enableGracefulShutdown",
    "showLinks",
];

#[test]
fn header_is_fresh() {
    c_header::keep_fresh("mooncake/transfer_engine_c.h", &header(), "upstream_header");
}

#[test]
fn every_function_is_declared_and_exported() {
    let header = fs::read_to_string(root().join("include/mooncake/transfer_engine_c.h")).unwrap();
    let symbols = fs::read_to_string(root().join("include/mooncake.symbols")).unwrap();
    let listed: BTreeSet<&str> = symbols
        .lines()
        .filter(|symbol| !symbol.starts_with("mc_") && !symbol.starts_with("mooncake_store_"))
        .collect();
    assert_eq!(listed, FUNCTIONS.iter().copied().collect(), "include/mooncake.symbols");
    for name in FUNCTIONS {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
}

fn header() -> String {
    let mut header = String::from(INTRODUCTION);
    // Upstream's own guard: whichever of the two headers comes first is the one that counts.
    header.push_str(
        "#ifndef TRANSFER_ENGINE_C\n#define TRANSFER_ENGINE_C\n\n#include <stddef.h>\n\
         #include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n",
    );
    let sources: Vec<_> = SOURCES
        .iter()
        .map(|file| root().join("src/capi/upstream").join(file).with_extension("rs"))
        .collect();
    header.push_str(SEGMENT_DESCRIPTION);
    header.push_str(&section(&sources, |config| {
        config.style = cbindgen::Style::Tag;
        config.export.include = UNUSED_TYPES.iter().map(|name| name.to_string()).collect();
    }));
    header.push_str(
        "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* TRANSFER_ENGINE_C */\n",
    );
    header
}
