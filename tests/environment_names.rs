//! A variable whose name nobody knows is told about once in a process, however many engines there
//! are. A program of its own, since it sets variables of the process.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use mooncake::config::{EngineConfig, ProcessEnvironment};
use mooncake::engine::Engine;

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            SEEN.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn unknown_names_are_told_once_and_ignored_values_each_time() {
    log::set_logger(&Sink).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    std::env::set_var("MC_TRANSFER_TIMOUT", "60");
    std::env::set_var("MC_HANDSHAKE_PORT", "70000");
    std::env::set_var("MC_HANDSHAKE_LISTEN_BACKLOG", "64");
    std::env::set_var("MC_TCP_BIND_ADDRESS", "127.0.0.1");
    for _ in 0..3 {
        let json = r#"{"metadata": "memory://names", "local_name": "names:1"}"#;
        let (config, _) = EngineConfig::load(Some(json), &ProcessEnvironment).unwrap();
        let engine = Engine::create(config).unwrap();
        let dump = engine.dump();
        let settings = &dump["configuration"];
        let backlog = &settings["handshake_backlog"];
        assert_eq!(backlog["origin"], "environment MC_HANDSHAKE_LISTEN_BACKLOG");
        assert_eq!(backlog["value"], 64);
        assert_eq!(settings["handshake_port"]["origin"], "default");
        assert!(dump["warnings"][0].as_str().unwrap().contains("MC_HANDSHAKE_PORT"), "{dump}");
        assert!(dump["engine"]["reasons"].to_string().contains("listens on 127.0.0.1"), "{dump}");
    }
    let seen = SEEN.lock().unwrap();
    let about = |name: &str| seen.iter().filter(|text| text.contains(name)).count();
    assert_eq!(about("MC_TRANSFER_TIMOUT"), 1, "{seen:?}");
    assert_eq!(about("MC_HANDSHAKE_PORT"), 3, "{seen:?}");
    assert_eq!(about("MC_TCP_BIND_ADDRESS"), 0, "{seen:?}");
}
