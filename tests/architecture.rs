//! The rules of the house that a machine can check: who may name whom, where `unsafe` and foreign
//! calls live and how much of it there is, what the library may never do, and how the text looks.
//!
//! CONTRIBUTING.md says why. A rule that stands in the way is changed here, in view of everybody.
//! `MOONCAKE_UPDATE=1 cargo test --test architecture` writes the count of `unsafe` anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

#[path = "common/rust_source.rs"]
mod rust_source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rust_source::Code;

/// Top to bottom. A module may name itself and what its row lists, nothing else.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "bin",
        &[
            "config", "engine", "error", "limits", "master", "metadata", "metrics", "net", "store",
            "sys", "time", "topology",
        ],
    ),
    ("capi", &["config", "engine", "error", "limits", "memory", "metrics", "store", "sys"]),
    (
        "store",
        &[
            "config", "engine", "error", "json", "limits", "memory", "metadata", "metrics", "net",
            "pool", "rpc", "time",
        ],
    ),
    (
        "engine",
        &[
            "config",
            "descriptor",
            "error",
            "json",
            "limits",
            "memory",
            "metadata",
            "metrics",
            "net",
            "time",
            "topology",
            "transport",
        ],
    ),
    (
        "master",
        &[
            "config", "error", "limits", "memory", "metadata", "metrics", "net", "pool", "rpc",
            "time",
        ],
    ),
    (
        "transport",
        &[
            "config",
            "descriptor",
            "error",
            "limits",
            "memory",
            "metrics",
            "net",
            "sys",
            "time",
            "topology",
        ],
    ),
    ("metadata", &["config", "descriptor", "error", "json", "limits", "net", "time"]),
    ("rpc", &["error", "limits", "net", "pool", "time"]),
    ("pool", &["error", "limits", "memory", "time"]),
    ("descriptor", &["error", "json", "limits"]),
    ("net", &["error", "json", "limits", "memory", "sys", "time"]),
    ("memory", &["error", "limits", "sys"]),
    ("topology", &["error", "json", "limits"]),
    ("config", &["error", "limits"]),
    ("metrics", &["error"]),
    ("json", &["error", "limits"]),
    ("time", &["error", "limits"]),
    ("error", &[]),
    ("limits", &[]),
    ("sys", &[]),
];

/// Folders whose children are alternatives and do not know each other, with the files that are
/// shared by all of them and the one that lists them.
const SIBLINGS: &[(&str, &[&str])] = &[
    ("transport", &["mod"]),
    ("metadata", &["mod", "backend", "directory", "document", "handshake_server", "keeper"]),
];

/// Who makes transports; everybody else knows them by their trait.
const TRANSPORT_MAKERS: &[&str] = &["src/engine/create.rs", "src/engine/mod.rs"];

/// Where `unsafe` may be at all.
const UNSAFE_ROOMS: &[&str] = &["capi", "sys", "net", "memory"];
const UNSAFE_BUDGET: &str = "tests/unsafe_budget.txt";
/// A reason stands within this many lines above its block.
const SAFETY_LINES: usize = 12;

/// What never happens in the library, and what it would do.
const FORBIDDEN: &[(&str, &str)] = &[
    ("todo!", "unfinished"),
    ("unimplemented!", "unfinished"),
    ("dbg!", "left over"),
    ("panic!", "takes the host's thread down"),
    ("unreachable!", "takes the host's thread down"),
    (".unwrap()", "takes the host's thread down"),
    (".expect(\"", "takes the host's thread down"),
    ("process::exit", "ends the host"),
    ("process::abort", "ends the host"),
    ("libc::exit", "ends the host"),
    ("libc::abort", "ends the host"),
    ("libc::atexit", "runs after main"),
    ("libc::signal", "belongs to the host"),
    ("libc::sigaction", "belongs to the host"),
    ("println!", "writes where nobody asked"),
    ("print!", "writes where nobody asked"),
    ("eprintln!", "writes where nobody asked"),
];

/// Panics that a comment beside them proves impossible, and the one that is made on command: file,
/// what, how often.
const KNOWN_PANICS: &[(&str, &str, usize)] = &[
    ("src/capi/handle.rs", "unreachable!", 1),
    ("src/json.rs", ".expect(\"", 1),
    ("src/transport/loopback/mod.rs", "panic!", 1),
];

/// Lints that the crate must deny, with the table they are in.
const LINTS: &[(&str, &str)] = &[
    ("lints.rust", "unsafe_op_in_unsafe_fn"),
    ("lints.rust", "unreachable_pub"),
    ("lints.rust", "improper_ctypes_definitions"),
    ("lints.clippy", "undocumented_unsafe_blocks"),
    ("lints.clippy", "multiple_unsafe_ops_per_block"),
    ("lints.clippy", "unwrap_used"),
    ("lints.clippy", "expect_used"),
];

/// Longest line of code; rustfmt keeps all but tables and texts.
const RUST_COLUMNS_MAX: usize = 100;
/// Files with tables that are kept one row to a line.
const WIDE_TABLES: &[&str] = &["src/capi/status.rs"];
/// Longest line of other sources.
const OTHER_COLUMNS_MAX: usize = 120;

/// Lines of code in one file, tests not counted.
const FILE_LINES_MAX: usize = 600;
/// Files that are longer. The numbers go down, not up.
const LONG_FILES: &[(&str, usize)] =
    &[("src/engine/mod.rs", 660), ("src/transport/tcp/lane.rs", 740)];

struct File {
    /// From the root of the project, with `/`.
    name: String,
    source: String,
    code: Code,
    /// Path of the module, such as `transport::tcp::lane`.
    module: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` whose name ends in one of `endings`, sorted.
fn files_under(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "build", "vectors", "__pycache__"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let path = path.strip_prefix(root()).unwrap();
                found.push(path.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn read(name: &str) -> String {
    let bytes = fs::read(root().join(name)).unwrap();
    String::from_utf8(bytes).unwrap_or_else(|_| panic!("{name} is not UTF-8"))
}

fn sources() -> Vec<File> {
    let files: Vec<File> = files_under("src", &[".rs"])
        .into_iter()
        .map(|name| {
            let source = read(&name);
            // Files of tests that are included by `#[cfg(test)] mod tests;`.
            let is_test = name.ends_with("/tests.rs") || name.contains("/tests/");
            let code = Code::new(if is_test { "" } else { &source });
            let module = module_of(&name);
            File { name, source, code, module }
        })
        .collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    files
}

fn module_of(name: &str) -> Vec<String> {
    let path = name.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    path.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// Fails with all complaints at once.
fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What is wrong with the paths that one file names.
fn wrong_arrows(name: &str, module: &[String], code: &Code) -> Vec<String> {
    let mut complaints = Vec::new();
    let Some(own) = module.first() else { return complaints };
    let layer = LAYERS.iter().find(|(layer, _)| layer == own);
    let Some((_, below)) = layer else {
        return vec![format!("{name}: src/{own} has no row in LAYERS")];
    };
    for (line, path) in code.paths(module) {
        let Some(target) = path.first() else { continue };
        // What is not a module of the crate is a macro or an item of lib.rs.
        if !LAYERS.iter().any(|(layer, _)| layer == target) {
            continue;
        }
        let arrow = format!("{name}:{line}: {} -> {}", module.join("::"), path.join("::"));
        if target != own && !below.contains(&target.as_str()) {
            complaints.push(format!("{arrow}: {own} may not name {target}"));
        }
        let makes_transports = TRANSPORT_MAKERS.contains(&name);
        let Some((_, shared)) = SIBLINGS.iter().find(|(folder, _)| folder == target) else {
            continue;
        };
        let Some(child) = path.get(1) else { continue };
        let is_folder = child.chars().next().is_some_and(char::is_lowercase);
        if !is_folder || shared.contains(&child.as_str()) {
            continue;
        }
        if target != own {
            if target == "transport" && !makes_transports {
                complaints.push(format!("{arrow}: only {TRANSPORT_MAKERS:?} name a transport"));
            }
            continue;
        }
        let from = module.get(1).map_or("mod", String::as_str);
        if from != child && !shared.contains(&from) {
            complaints.push(format!("{arrow}: {from} and {child} are siblings"));
        }
    }
    complaints
}

#[test]
fn arrows_point_down() {
    let files = sources();
    let mut complaints: Vec<String> =
        files.iter().flat_map(|f| wrong_arrows(&f.name, &f.module, &f.code)).collect();
    for (index, (layer, below)) in LAYERS.iter().enumerate() {
        for target in *below {
            let at = LAYERS.iter().position(|(name, _)| name == target);
            let is_below = at.is_some_and(|at| at > index);
            if !is_below {
                complaints.push(format!("LAYERS: {layer} stands below {target}"));
            }
        }
    }
    report(&complaints);
}

#[test]
fn a_wrong_arrow_is_seen() {
    let check =
        |name: &str, source: &str| wrong_arrows(name, &module_of(name), &Code::new(source)).len();
    assert_eq!(check("src/net/x.rs", "use crate::engine::Engine;"), 1);
    assert_eq!(check("src/net/x.rs", "use crate::{error::Error, engine};"), 1);
    assert_eq!(check("src/net/x.rs", "use crate::error::Error;"), 0);
    assert_eq!(check("src/metadata/p2p.rs", "use super::super::transport::Route;"), 1);
    assert_eq!(check("src/transport/tcp/x.rs", "use super::super::loopback::Faults;"), 1);
    assert_eq!(check("src/transport/tcp/x.rs", "use super::super::{Route, Slice};"), 0);
    assert_eq!(check("src/transport/tcp/a/b.rs", "use crate::transport::tcp::lane;"), 0);
    assert_eq!(check("src/metadata/http.rs", "use super::memory::MemoryStore;"), 1);
    assert_eq!(check("src/metadata/backend.rs", "use super::memory::MemoryStore;"), 0);
    assert_eq!(check("src/engine/plan.rs", "use crate::transport::tcp::Tcp;"), 1);
    assert_eq!(check("src/engine/plan.rs", "use crate::transport::SplitRule;"), 0);
    assert_eq!(check("src/capi/engine.rs", "use crate::transport::Slice;"), 1);
    assert_eq!(check("src/unheard_of.rs", ""), 1);
}

#[test]
fn unsafe_is_where_it_may_be_and_does_not_grow() {
    let mut counted = BTreeMap::new();
    let mut complaints = Vec::new();
    for file in sources() {
        let lines = file.code.lines_with("unsafe");
        if lines.is_empty() {
            continue;
        }
        let room = file.module.first().map_or("", String::as_str);
        if !UNSAFE_ROOMS.contains(&room) {
            complaints.push(format!("{}:{}: unsafe outside {UNSAFE_ROOMS:?}", file.name, lines[0]));
        }
        counted.insert(file.name, lines.len());
    }
    let text: String = counted.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    if std::env::var_os("MOONCAKE_UPDATE").is_some_and(|value| value == "1") {
        fs::write(root().join(UNSAFE_BUDGET), &text).unwrap();
    }
    let budget = read(UNSAFE_BUDGET);
    for line in text.lines().filter(|line| !budget.lines().any(|other| other == *line)) {
        complaints.push(format!("{line}: not in {UNSAFE_BUDGET}"));
    }
    for line in budget.lines().filter(|line| !text.lines().any(|other| other == *line)) {
        complaints.push(format!("{line}: in {UNSAFE_BUDGET}, but not so any more"));
    }
    report(&complaints);
}

/// Lines of `unsafe` blocks and implementations without a reason above them.
fn without_reason(source: &str, code: &Code) -> Vec<usize> {
    let lines: Vec<&str> = source.lines().collect();
    let opens = |line: usize| {
        let text = code.text().lines().nth(line - 1).unwrap_or("");
        ["unsafe {", "unsafe impl"].iter().any(|opening| text.contains(opening))
    };
    let has_reason = |line: usize| {
        let above = &lines[line.saturating_sub(SAFETY_LINES)..line];
        above.iter().any(|text| text.contains("SAFETY:"))
    };
    code.lines_with("unsafe").into_iter().filter(|l| opens(*l) && !has_reason(*l)).collect()
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut complaints = Vec::new();
    for file in sources() {
        for line in without_reason(&file.source, &file.code) {
            complaints.push(format!("{}:{line}: an unsafe block without SAFETY", file.name));
        }
    }
    report(&complaints);
    let bare = "fn f() {\n    unsafe { g() }\n}\n";
    assert_eq!(without_reason(bare, &Code::new(bare)), [2]);
}

#[test]
fn foreign_calls_stay_at_the_edges() {
    let mut complaints = Vec::new();
    for file in sources() {
        let room = file.module.first().map_or("", String::as_str);
        for line in file.code.lines_with("extern \"") {
            if !["capi", "sys"].contains(&room) {
                complaints.push(format!("{}:{line}: extern \"C\" outside capi", file.name));
            }
        }
        for attribute in ["no_mangle", "export_name", "link_section"] {
            if room == "capi" {
                continue;
            }
            for line in file.code.lines_with(attribute) {
                complaints.push(format!("{}:{line}: {attribute} outside capi", file.name));
            }
        }
        if UNSAFE_ROOMS.contains(&room) {
            continue;
        }
        // Constants and types of libc are facts and may be used anywhere, functions are calls.
        for (index, line) in file.code.text().lines().enumerate() {
            for (at, _) in line.match_indices("libc::") {
                let name: String = line[at + 6..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if line[at + 6 + name.len()..].starts_with('(') {
                    complaints.push(format!("{}:{}: libc::{name}()", file.name, index + 1));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn the_library_does_not_harm_its_host() {
    let mut complaints = Vec::new();
    for file in sources() {
        let is_program = file.module.first().is_some_and(|module| module == "bin");
        for (what, why) in FORBIDDEN {
            // A program may print and end itself.
            let own_affair = why.contains("host") && !why.contains("thread");
            if is_program && (own_affair || why.contains("writes")) {
                continue;
            }
            let lines = file.code.lines_with(what);
            let known =
                KNOWN_PANICS.iter().find(|(name, word, _)| *name == file.name && word == what);
            if lines.len() <= known.map_or(0, |(_, _, count)| *count) {
                continue;
            }
            for line in lines {
                complaints.push(format!("{}:{line}: {what} {why}", file.name));
            }
        }
    }
    report(&complaints);
}

#[test]
fn the_manifest_denies_what_it_should() {
    let manifest = read("Cargo.toml");
    let mut complaints = Vec::new();
    let table = |name: &str| -> BTreeMap<String, String> {
        let header = format!("[{name}]");
        let lines = manifest.lines().skip_while(|line| **line != header).skip(1);
        lines
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
            .collect()
    };
    for (section, lint) in LINTS {
        if table(section).get(*lint).map(String::as_str) != Some("deny") {
            complaints.push(format!("Cargo.toml: [{section}] {lint} is not denied"));
        }
    }
    // Panics become statuses at the C boundary only if they unwind.
    for profile in ["profile.release", "profile.dev"] {
        if table(profile).get("panic").map(String::as_str) != Some("unwind") {
            complaints.push(format!("Cargo.toml: [{profile}] panic is not unwind"));
        }
    }
    if !read("src/capi/mod.rs").contains("#![deny(missing_docs)]") {
        complaints.push("src/capi/mod.rs: missing_docs is not denied".to_owned());
    }
    report(&complaints);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for file in sources() {
        let longest = LONG_FILES.iter().find(|(name, _)| *name == file.name);
        let max = longest.map_or(FILE_LINES_MAX, |(_, max)| *max);
        let lines = file.code.text().trim_end().lines().count();
        if lines > max {
            complaints.push(format!("{}: {lines} lines of code, at most {max}", file.name));
        }
        if !file.source.starts_with("//!") {
            complaints.push(format!("{}: does not begin with what it is for", file.name));
        }
    }
    report(&complaints);
}

#[test]
fn lines_are_short_and_clean() {
    // In two pieces, so that this file does not find itself.
    let machine = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|halves| halves.concat());
    let folders = [
        "src",
        "tests",
        "ctests",
        "fuzz",
        "examples",
        "cmake",
        "include",
        "bench",
        "python/mooncake",
    ];
    let endings = [".rs", ".c", ".h", ".cpp", ".py", ".sh", ".cmake", ".txt", ".md", ".in"];
    let mut names: Vec<String> =
        folders.iter().flat_map(|folder| files_under(folder, &endings)).collect();
    names.extend(files_under("docs", &[".md"]));
    for name in ["build.rs", "CMakeLists.txt", "Makefile", "tests/run", "tools/demo", "bench/run"]
        .into_iter()
        .chain(["setup.py", "python/generate.py"])
    {
        if Path::new(&root()).join(name).exists() {
            names.push(name.to_owned());
        }
    }
    let mut complaints = Vec::new();
    for name in &names {
        let max = match name {
            name if name.ends_with(".md") || WIDE_TABLES.contains(&name.as_str()) => usize::MAX,
            name if name.ends_with(".rs") => RUST_COLUMNS_MAX,
            _ => OTHER_COLUMNS_MAX,
        };
        let text = read(name);
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let columns = line.chars().count();
            if columns > max {
                complaints.push(format!("{name}:{number}: {columns} columns, at most {max}"));
            }
            if line.ends_with(' ') || (line.contains('\t') && name != "Makefile") {
                complaints.push(format!("{name}:{number}: white space"));
            }
            for path in machine.iter().filter(|path| line.contains(path.as_str())) {
                complaints.push(format!("{name}:{number}: {path} is a place on one machine"));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            complaints.push(format!("{name}: no newline at the end"));
        }
    }
    report(&complaints);
}
