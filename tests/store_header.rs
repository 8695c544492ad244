//! `include/mooncake/store_c.h` is generated from `src/capi/upstream/store`; this keeps the
//! checked-in copy fresh.
//!
//! `MOONCAKE_UPDATE=1 cargo test --test store_header` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed test is a panic.

#[path = "common/c_header.rs"]
mod c_header;

use std::collections::BTreeSet;
use std::fs;

use c_header::{root, section};

/// Files of `src/capi/upstream/store` that declare something, in the order of the header.
const SOURCES: &[&str] = &["types", "client", "object"];

const INTRODUCTION: &str = r#"/*
 * store_c.h - the C API of upstream's store client, as this library has it.
 *
 * Generated from src/capi/upstream/store by tests/store_header.rs; changes here are overwritten.
 *
 * For programs written against upstream's header of the same name: names, layouts and numbers are
 * upstream's. New programs use mooncake.h, which also has batches of several ranges, buffers that
 * are lent, and the reasons of failures.
 *
 * Return values: 0 or a negative number, sizes and counts are positive. -1 a pointer or handle that
 * cannot be right, or a defect; -200 no space in the pool; -600 a wrong argument, or the store is
 * not set up; -703 the object is not complete; -704 no such object; -706 leased; -707 the lease
 * ended during the copy; -800 the bytes could not be moved; -900 the master does not answer.
 * mc_last_error_message of mooncake.h tells the cause of the calling thread's last failure.
 *
 * Texts and arrays are read during the call only. Every function may be called from any thread.
 */
"#;

const FUNCTIONS: &[&str] = &[
    "mooncake_store_create",
    "mooncake_store_destroy",
    "mooncake_store_set_etcd_tls_config",
    "mooncake_store_setup",
    "mooncake_store_init_all",
    "mooncake_store_health_check",
    "mooncake_store_put",
    "mooncake_store_put_from",
    "mooncake_store_batch_put_from",
    "mooncake_store_get_into",
    "mooncake_store_batch_get_into",
    "mooncake_store_is_exist",
    "mooncake_store_batch_is_exist",
    "mooncake_store_get_size",
    "mooncake_store_get_hostname",
    "mooncake_store_remove",
    "mooncake_store_remove_by_regex",
    "mooncake_store_remove_all",
    "mooncake_store_register_buffer",
    "mooncake_store_unregister_buffer",
];

#[test]
fn header_is_fresh() {
    c_header::keep_fresh("mooncake/store_c.h", &header(), "store_header");
}

#[test]
fn every_function_is_declared_and_exported() {
    let header = fs::read_to_string(root().join("include/mooncake/store_c.h")).unwrap();
    let symbols = fs::read_to_string(root().join("include/mooncake.symbols")).unwrap();
    let listed: BTreeSet<&str> =
        symbols.lines().filter(|symbol| symbol.starts_with("mooncake_store_")).collect();
    assert_eq!(listed, FUNCTIONS.iter().copied().collect(), "include/mooncake.symbols");
    for name in FUNCTIONS {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
}

fn header() -> String {
    let mut header = String::from(INTRODUCTION);
    header.push_str(
        "#ifndef MOONCAKE_STORE_C_H\n#define MOONCAKE_STORE_C_H\n\n#include <stddef.h>\n\
         #include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n",
    );
    let sources: Vec<_> = SOURCES
        .iter()
        .map(|file| root().join("src/capi/upstream/store").join(file).with_extension("rs"))
        .collect();
    header.push_str(&section(&sources, |config| config.style = cbindgen::Style::Tag));
    header.push_str(
        "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* MOONCAKE_STORE_C_H */\n",
    );
    header
}
