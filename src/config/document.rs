//! The text of `docs/configuration.md`, from the table.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::row::{Effect, Kind, Setting, Variable};
use super::table::{NAMES_WITHOUT_EFFECT, SETTINGS};
use super::EngineConfig;

const HEAD: &str = "# Configuration\n\n\
    This page is generated from `src/config/table.rs`; `MOONCAKE_UPDATE=1 cargo test --test \
    configuration` writes it anew.\n\n\
    A setting has a key. The key is used in the JSON object given when an engine is created, and \
    in the dump of an engine, which also says where each value came from. Many settings can also \
    be given by an environment variable; the number after its name is the upstream version from \
    which on it means the same there.\n\n\
    Options and JSON win over the environment, and the environment wins over the default. An \
    unknown key or a value outside its bounds in JSON is an error. A value outside its bounds in \
    the environment is ignored with a warning, and so is an unknown name that begins with `MC_`. \
    A JSON `null` leaves a setting as it is. Where several variables are listed the first valid \
    one counts.\n";

/// The whole page.
pub fn document() -> String {
    let mut page = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            page.push_str(&format!("\n## {section}\n"));
        }
        write_setting(&mut page, setting);
    }
    page.push_str("\n## Accepted without effect\n\n| variables | why |\n| --- | --- |\n");
    for group in NAMES_WITHOUT_EFFECT {
        let names: Vec<String> = group.names.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(page, "| {} | {} |", names.join(", "), group.reason);
    }
    page
}

fn write_setting(page: &mut String, setting: &Setting) {
    let default = (setting.get)(&EngineConfig::default());
    // Writing to a string does not fail.
    let _ = writeln!(page, "\n### `{}`\n\n{}\n", setting.key, setting.help.trim());
    let _ = writeln!(page, "- value: {}; default {}", values(&setting.kind), shown(&default));
    for variable in setting.variables {
        let _ = writeln!(page, "- environment: {}", variable_text(setting, variable));
    }
    if let Effect::Reserved(part) = setting.effect {
        let _ = writeln!(page, "- accepted and kept; read by {part}, not in this version");
    }
}

fn values(kind: &Kind) -> String {
    match kind {
        Kind::Flag | Kind::Bool => "true or false".to_owned(),
        Kind::Integer { min, max } => format!("{min}..{max}"),
        Kind::OneOf(values) => values.iter().map(i64::to_string).collect::<Vec<_>>().join(", "),
        Kind::Text(bytes_max) => format!("text of at most {bytes_max} bytes"),
        Kind::Secret(bytes_max) => format!("text of at most {bytes_max} bytes, never shown"),
        Kind::List(items_max) => format!("list of at most {items_max} texts"),
        Kind::Choice { words, .. } => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
    }
}

fn variable_text(setting: &Setting, variable: &Variable) -> String {
    let mut text = format!("`{}` ({}", variable.name, variable.since.text());
    match setting.kind {
        Kind::Flag => text.push_str("; set to anything means true"),
        Kind::Bool => text.push_str("; 1, true, yes, on or 0, false, no, off"),
        Kind::List(_) => text.push_str("; separated by commas"),
        _ => {}
    }
    if let Some((min, max)) = variable.bounds {
        let _ = write!(text, "; {min}..{max}");
    }
    if variable.scale == 1000 {
        text.push_str(" seconds");
    }
    if let Kind::Choice { aliases, .. } = setting.kind {
        for (alias, word) in aliases {
            let _ = write!(text, "; `{alias}` is `{word}`");
        }
    }
    text.push(')');
    text
}

fn shown(default: &Json) -> String {
    match default {
        Json::Null => "absent".to_owned(),
        Json::String(text) if text.is_empty() => "empty".to_owned(),
        Json::Array(items) if items.is_empty() => "empty".to_owned(),
        Json::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
