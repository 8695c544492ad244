//! Prints what an engine finds and chooses on this host, and why; or what a peer has published; or
//! the configuration with the origin of each value.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use mooncake::config::{
    unknown_environment_names, EngineConfig, Origin, ProcessEnvironment, SETTINGS,
};
use mooncake::engine::Engine;
use mooncake::error::{Error, ErrorKind, Result};
use serde_json::{json, Value};

/// Shows what the transfer engine sees: addresses, ports, transports, peers and settings
#[derive(Parser)]
#[command(name = "mc_info", version)]
struct Flags {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the configuration with the origin of each value; start nothing
    #[arg(long)]
    config: bool,
    /// Open this segment and describe it
    #[arg(long, value_name = "NAME")]
    segment: Option<String>,
    /// Where peers find each other: P2PHANDSHAKE, or the address of a metadata service
    #[arg(long, value_name = "ADDRESS")]
    metadata: Option<String>,
    /// Name of the own segment, "host" or "host:port"
    #[arg(long, value_name = "NAME")]
    local_name: Option<String>,
    /// Transport to use
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
    /// Any setting of docs/configuration.md; the value is JSON, or text
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match describe(&flags) {
        Ok(value) => {
            let text =
                if flags.json { format!("{value:#}\n") } else { for_people(value, flags.config) };
            // A reader that left early is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "mc_info: {error}");
            ExitCode::FAILURE
        }
    }
}

fn describe(flags: &Flags) -> Result<Value> {
    let config = configuration(flags)?;
    if flags.config {
        return Ok(json!({
            "configuration": config.dump(),
            "warnings": config.warnings,
            "unknown_variables": unknown_environment_names(&ProcessEnvironment),
        }));
    }
    let engine = Engine::create(config)?;
    let value = match &flags.segment {
        Some(name) => segment(&engine, name)?,
        None => engine.dump(),
    };
    engine.shutdown();
    Ok(value)
}

fn configuration(flags: &Flags) -> Result<EngineConfig> {
    let (mut config, _) = EngineConfig::load(None, &ProcessEnvironment)?;
    for (key, value) in [
        ("metadata", &flags.metadata),
        ("local_name", &flags.local_name),
        ("protocol", &flags.protocol),
    ] {
        if let Some(value) = value {
            config.set(key, value.as_str().into(), Origin::Option)?;
        }
    }
    for setting in &flags.settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "--set wants KEY=VALUE").with("given", setting)
        })?;
        // A text need not be quoted, also where it looks like a number.
        let json = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        config
            .set(key, json, Origin::Option)
            .or_else(|error| config.set(key, value.into(), Origin::Option).map_err(|_| error))?;
    }
    config.check()?;
    Ok(config)
}

/// Longest wait for a sign of life.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

fn segment(engine: &Engine, name: &str) -> Result<Value> {
    let id = engine.open_segment(name)?;
    let buffers: Vec<Value> = engine
        .segment_buffers(id)?
        .iter()
        .map(|buffer| {
            json!({
                "address": format!("{:#x}", buffer.address),
                "length_bytes": buffer.length,
                "location": buffer.location,
            })
        })
        .collect();
    let begin = Instant::now();
    let probe = match engine.probe_segment(id, PROBE_TIMEOUT) {
        Ok(()) => json!({ "answer": "alive", "time_us": begin.elapsed().as_micros() as u64 }),
        // An old peer does not know this message, and is alive all the same.
        Err(error) => json!({ "answer": "none", "error": error.to_string() }),
    };
    let dump = engine.dump();
    let mut known = dump["segments"]["first"].as_array().into_iter().flatten();
    let route = known.rfind(|segment| segment["name"] == name).cloned();
    Ok(json!({
        "segment": name,
        "probe": probe,
        "peer": route,
        "buffers": { "count": buffers.len(), "list": buffers },
    }))
}

/// The members of a dump that people want first, in this order.
const FIRST: &[&str] = &["engine", "topology", "transports", "segments", "buffers"];

/// The value as an outline. Of a dump, counters and settings at their default are left out, unless
/// the settings are what was asked for.
fn for_people(mut value: Value, all_settings: bool) -> String {
    let mut text = String::new();
    let Value::Object(members) = &mut value else { return outline(&value) };
    for name in FIRST {
        if let Some(member) = members.remove(*name) {
            write_member(&mut text, &format!("{name}:"), &member, 0);
        }
    }
    members.remove("metrics");
    if let (false, Some(Value::Object(settings))) = (all_settings, members.get_mut("configuration"))
    {
        settings.retain(|_, setting| setting["origin"] != "default");
    }
    text + &outline(&value)
}

/// JSON as an outline: one line for each value, indented below its name.
fn outline(value: &Value) -> String {
    let mut text = String::new();
    write_members(&mut text, value, 0);
    text
}

fn write_members(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                // Settings read better with their origin in one line.
                if let (Some(shown), Some(origin)) = (value.get("value"), value.get("origin")) {
                    if SETTINGS.iter().any(|setting| setting.key == name) {
                        let origin = origin.as_str().unwrap_or_default();
                        let line = format!("{name} = {}  ({origin})", plain(shown));
                        push_line(text, depth, &line);
                        continue;
                    }
                }
                write_member(text, &format!("{name}:"), value, depth);
            }
        }
        Value::Array(items) => {
            for item in items {
                write_member(text, "-", item, depth);
            }
        }
        other => push_line(text, depth, &plain(other)),
    }
}

fn write_member(text: &mut String, name: &str, value: &Value, depth: usize) {
    let is_nested = match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::String(words) => words.contains('\n'),
        _ => false,
    };
    if !is_nested {
        push_line(text, depth, &format!("{name} {}", plain(value)));
        return;
    }
    push_line(text, depth, name);
    match value {
        Value::String(words) => {
            for line in words.lines() {
                push_line(text, depth + 1, line);
            }
        }
        nested => write_members(text, nested, depth + 1),
    }
}

fn push_line(text: &mut String, depth: usize, line: &str) {
    text.push_str(&"  ".repeat(depth));
    text.push_str(line);
    text.push('\n');
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Object(members) if members.is_empty() => "none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_are_indented() {
        let value = json!({
            "engine": { "host": "h", "reasons": ["one", "two"] },
            "none": [],
            "text": "a\nb",
            "configuration": { "metadata": { "value": "x", "origin": "default" } },
        });
        assert_eq!(
            outline(&value),
            "configuration:\n  metadata = x  (default)\nengine:\n  host: h\n  reasons:\n    \
             - one\n    - two\nnone: none\ntext:\n  a\n  b\n"
        );
    }

    #[test]
    fn people_see_what_matters_first() {
        let value = || {
            json!({
                "configuration": {
                    "rpc_port": { "value": 0, "origin": "default" },
                    "protocol": { "value": "tcp", "origin": "option" },
                },
                "engine": { "host": "h" },
                "metrics": "many lines",
            })
        };
        let short = for_people(value(), false);
        assert_eq!(short, "engine:\n  host: h\nconfiguration:\n  protocol = tcp  (option)\n");
        assert!(for_people(value(), true).contains("rpc_port = 0  (default)"));
    }

    #[test]
    fn settings_are_json_or_text() {
        let flags = |setting: &str| Flags::parse_from(["mc_info", "--set", setting]);
        assert_eq!(configuration(&flags("rpc_port=15001")).unwrap().rpc_port, 15_001);
        assert_eq!(configuration(&flags("local_name=5")).unwrap().local_name, "5");
        assert_eq!(configuration(&flags("local_name=a:1")).unwrap().local_name, "a:1");
        assert!(configuration(&flags("rpc_port=many")).is_err());
        assert!(configuration(&flags("no_such_key=1")).is_err());
        assert!(configuration(&flags("rpc_port")).is_err());
    }
}
