//! What `--help` and its kin print, and `--version`. All of it goes to standard output.

use std::fmt::Write as _;

use super::{Flag, Values, FLAGS, PROGRAM};
use crate::config::gflags::{library_flags, Kind};

const COLUMNS: usize = 80;

/// The answer to `--version`.
pub fn version() -> String {
    format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))
}

/// The answer to the help flag `request`; `pattern` is its value where it has one.
pub fn help(request: &str, pattern: &str, values: &Values) -> String {
    match request {
        "helpxml" => xml(values),
        "helpmatch" | "helpon" => plain(values, false, pattern),
        "helpshort" | "helppackage" => plain(values, false, ""),
        _ => plain(values, true, ""),
    }
}

fn plain(values: &Values, with_libraries: bool, pattern: &str) -> String {
    let mut text = format!("{PROGRAM}: the master of the store\n");
    // Upstream compares with names of source files; ours is the program's.
    if PROGRAM.contains(pattern) {
        let _ = write!(text, "\n  Flags from {PROGRAM}:\n");
        for flag in FLAGS {
            text += &entry(flag, values);
        }
    }
    if with_libraries {
        text += "\n  Flags accepted for the libraries that upstream is built on:\n";
        for (name, kind) in library_flags() {
            let _ = writeln!(text, "    -{name} type: {}", kind.name());
        }
    }
    text
}

fn entry(flag: &Flag, values: &Values) -> String {
    let mut words: Vec<String> = vec![format!("-{}", flag.name)];
    let help = format!("({})", flag.help);
    words.extend(help.split_ascii_whitespace().map(str::to_owned));
    let shown = |value: &str| match flag.kind {
        Kind::Text => format!("\"{value}\""),
        _ => value.to_owned(),
    };
    words.push(format!("type: {}", flag.kind.name()));
    words.push(format!("default: {}", shown(flag.default)));
    let current = values.written(flag.name);
    if current != flag.default {
        words.push(format!("currently: {}", shown(current)));
    }
    let mut text = String::from("   ");
    let mut column = text.len();
    for word in words {
        if column + 1 + word.len() > COLUMNS {
            text += "\n     ";
            column = 5;
        }
        text.push(' ');
        text += &word;
        column += 1 + word.len();
    }
    text.push('\n');
    text
}

fn xml(values: &Values) -> String {
    let mut text = format!("<?xml version=\"1.0\"?>\n<AllFlags>\n<program>{PROGRAM}</program>\n");
    for flag in FLAGS {
        let _ = writeln!(
            text,
            "<flag><file>{PROGRAM}</file><name>{}</name><meaning>{}</meaning><default>{}</default>\
             <current>{}</current><type>{}</type></flag>",
            flag.name,
            escaped(flag.help),
            escaped(flag.default),
            escaped(values.written(flag.name)),
            flag.kind.name(),
        );
    }
    text + "</AllFlags>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
