//! The file of `--config_path`: a flat map of flags, YAML or JSON by its name.
//!
//! Keys are the names of flags, and upstream's `client_live_ttl_sec` for `client_ttl`. What stands
//! on the command line goes before the file.

use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;

use crate::config::gflags::Kind;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::master::flags::{find, Origin, Values};

/// Upstream's own name for a key, and the flag.
const RENAMED: (&str, &str) = ("client_live_ttl_sec", "client_ttl");
/// Keys that are named in the warning about unknown ones.
const UNKNOWN_SHOWN_MAX: usize = 16;

/// Puts what `text`, the content of the file at `path`, says into `values`. The result is a warning
/// about keys that mean nothing.
pub fn apply_file(path: &str, text: &str, values: &mut Values) -> Result<Option<String>> {
    let place = |why: String| Error::new(ErrorKind::InvalidArgument, why).with("file", path);
    if text.len() > limits::CONFIG_JSON_BYTES_MAX {
        return Err(place("the configuration file is too long".to_owned()));
    }
    let entries = if path.ends_with(".json") {
        json_entries(text)
    } else if path.ends_with(".yaml") {
        yaml_entries(text)
    } else {
        Err("the name of the configuration file ends in neither .yaml nor .json".to_owned())
    };
    let mut unknown = Vec::new();
    let entries = entries.map_err(place)?;
    let is_renamed_there = entries.iter().any(|(key, _)| key == RENAMED.0);
    for (key, entry) in entries {
        if matches!(entry, Entry::List) {
            return Err(place(format!("{key} is a list; no setting is")));
        }
        // Both names at once: the one that upstream knows counts.
        if key == RENAMED.1 && is_renamed_there {
            continue;
        }
        let name = if key == RENAMED.0 { RENAMED.1 } else { &key };
        let Some(flag) = find(name) else {
            unknown.push(key);
            continue;
        };
        let value = entry.text(flag.kind).filter(|value| values.set(name, value, Origin::File));
        if value.is_none() {
            return Err(place(format!("{key} is not of type {}", flag.kind.name())));
        }
    }
    if unknown.is_empty() {
        return Ok(None);
    }
    let count = unknown.len();
    unknown.truncate(UNKNOWN_SHOWN_MAX);
    Ok(Some(format!(
        "{count} keys of {path} are no settings and are ignored: {}",
        unknown.join(", ").chars().take(limits::NAME_BYTES_MAX).collect::<String>()
    )))
}

/// One value of the file.
enum Entry {
    Json(Json),
    Yaml(Yaml),
    List,
}

impl Entry {
    /// As it would be written on a command line; none where the type is another.
    fn text(&self, kind: Kind) -> Option<String> {
        match self {
            Entry::Json(Json::Bool(value)) => (kind == Kind::Bool).then(|| value.to_string()),
            Entry::Json(Json::Number(value)) => (kind != Kind::Bool).then(|| value.to_string()),
            Entry::Json(Json::String(value)) => {
                let is_text = matches!(kind, Kind::Text | Kind::Milliseconds);
                is_text.then(|| value.clone())
            }
            Entry::Yaml(Yaml::Bool(value)) => {
                matches!(kind, Kind::Bool | Kind::Text).then(|| value.to_string())
            }
            // Scalars of YAML have no type of their own; 1 is no boolean there all the same.
            Entry::Yaml(Yaml::Number(value)) => (kind != Kind::Bool).then(|| value.to_string()),
            Entry::Yaml(Yaml::String(value)) => {
                let word = value.to_ascii_lowercase();
                Some(match (kind, word.as_str()) {
                    (Kind::Bool, "on") => "true".to_owned(),
                    (Kind::Bool, "off") => "false".to_owned(),
                    (Kind::Bool, "0" | "1") => return None,
                    _ => value.clone(),
                })
            }
            Entry::Yaml(Yaml::Null) => (kind == Kind::Text).then(String::new),
            _ => None,
        }
    }
}

fn json_entries(text: &str) -> std::result::Result<Vec<(String, Entry)>, String> {
    let unreadable = |why: &dyn std::fmt::Display| format!("the configuration is no JSON: {why}");
    let whole: Json = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let Json::Object(members) = whole else { return Err(unreadable(&"not an object")) };
    let mut entries = Vec::new();
    for (key, value) in members {
        match value {
            // Upstream gives nested values dotted names, which no setting has.
            Json::Object(_) => entries.push((format!("{key}."), Entry::Json(Json::Null))),
            Json::Array(_) => entries.push((key, Entry::List)),
            value => entries.push((key, Entry::Json(value))),
        }
    }
    Ok(entries)
}

fn yaml_entries(text: &str) -> std::result::Result<Vec<(String, Entry)>, String> {
    let unreadable = |why: &dyn std::fmt::Display| format!("the configuration is no YAML: {why}");
    let whole: Yaml = serde_yaml_ng::from_str(text).map_err(|error| unreadable(&error))?;
    let members = match whole {
        Yaml::Mapping(members) => members,
        Yaml::Null => return Ok(Vec::new()),
        _ => return Err(unreadable(&"not a map")),
    };
    let mut entries = Vec::new();
    for (key, value) in members {
        let Yaml::String(key) = key else { return Err(unreadable(&"a key is no text")) };
        match value {
            Yaml::Mapping(_) => entries.push((format!("{key}."), Entry::Json(Json::Null))),
            Yaml::Sequence(_) => entries.push((key, Entry::List)),
            value => entries.push((key, Entry::Yaml(value))),
        }
    }
    Ok(entries)
}
