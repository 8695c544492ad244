//! The table as a whole: every row parses, fits its field and is told apart from the others.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

pub(super) fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

pub(super) fn load(json: Option<&str>, env: &[(&str, &str)]) -> Result<EngineConfig> {
    EngineConfig::load(json, &environment(env)).map(|(config, _)| config)
}

#[test]
fn keys_and_variables_are_unique() {
    let mut seen = BTreeSet::new();
    for setting in SETTINGS {
        assert!(seen.insert(setting.key), "{}", setting.key);
        assert!(!setting.help.trim().is_empty() && setting.help.trim().ends_with('.'));
        for variable in setting.variables {
            assert!(seen.insert(variable.name), "{}", variable.name);
        }
    }
    for name in NAMES_WITHOUT_EFFECT.iter().flat_map(|group| group.names) {
        assert!(seen.insert(name), "{name}");
    }
}

#[test]
fn every_default_is_a_legal_value_of_its_row() {
    let config = EngineConfig::default();
    for setting in SETTINGS {
        let default = (setting.get)(&config);
        let mut copy = config.clone();
        copy.set(setting.key, default.clone(), Origin::Option).unwrap();
        assert_eq!((setting.get)(&copy), default, "{}", setting.key);
    }
}

#[test]
fn every_legal_value_fits_its_field() {
    for setting in SETTINGS {
        let values: Vec<Json> = match setting.kind {
            Kind::Flag | Kind::Bool => vec![json!(true), json!(false)],
            Kind::Integer { min, max } => vec![json!(min), json!(max)],
            Kind::OneOf(values) => values.iter().map(|n| json!(n)).collect(),
            Kind::Text(bytes_max) | Kind::Secret(bytes_max) => vec![json!("x".repeat(bytes_max))],
            Kind::List(items_max) => vec![json!(vec!["x"; items_max])],
            Kind::Choice { words, .. } => words.iter().map(|word| json!(word)).collect(),
        };
        for value in values {
            let mut config = EngineConfig::default();
            config.set(setting.key, value.clone(), Origin::Option).unwrap();
            assert_eq!((setting.get)(&config), value, "{}", setting.key);
            assert_eq!(config.origins.get(setting.key), Origin::Option);
        }
    }
}

#[test]
fn every_alias_stands_for_a_word() {
    for setting in SETTINGS {
        if let Kind::Choice { words, aliases } = setting.kind {
            for (alias, word) in aliases {
                assert!(words.contains(word) && !words.contains(alias), "{}", setting.key);
            }
        }
    }
}

#[test]
fn precedence_and_origin() {
    let env = [("MC_HANDSHAKE_PORT", "13000"), ("MC_USE_IPV6", "")];
    let (config, origins) =
        EngineConfig::load(Some(r#"{"handshake_port": 14000}"#), &environment(&env)).unwrap();
    assert_eq!(config.handshake_port, 14_000);
    assert!(config.use_ipv6);
    assert_eq!(origins, config.origins);
    assert_eq!(origins.get("handshake_port").to_string(), "json key");
    assert_eq!(origins.get("use_ipv6").to_string(), "environment MC_USE_IPV6");
    assert_eq!(origins.get("metadata").to_string(), "default");
    assert_eq!(config.dump()["handshake_port"], json!({"value": 14000, "origin": "json key"}));

    let mut config = config;
    config.set("handshake_port", json!(15_000), Origin::Option).unwrap();
    assert_eq!(config.dump()["handshake_port"], json!({"value": 15000, "origin": "option"}));
    config.set("handshake_port", Json::Null, Origin::Json).unwrap();
    assert_eq!(config.handshake_port, 15_000);
}

#[test]
fn what_the_environment_gets_wrong_is_ignored_aloud() {
    #[rustfmt::skip]
    let cases = [
        ("MC_TRANSFER_TIMEOUT", "4"), ("MC_TRANSFER_TIMEOUT", "soon"), ("MC_MTU", "1500"),
        ("MC_HANDSHAKE_LISTEN_BACKLOG", "0"), ("MC_HANDSHAKE_CONNECT_TIMEOUT", "3600"),
        ("MC_HANDSHAKE_MAX_LENGTH", "1000"), ("MC_TCP_LANES_PER_PEER", "17"),
        ("MC_TCP_PROTO", "3"), ("MC_LOG_LEVEL", "LOUD"), ("MC_REDIS_DB_INDEX", "256"),
        ("MC_TCP_ENABLE_CONNECTION_POOL", "perhaps"), ("MC_TCP_BIND_ADDRESS", "a\u{7}b"),
    ];
    for (name, value) in cases {
        let config = load(None, &[(name, value)]).unwrap();
        assert_eq!(config.dump(), EngineConfig::default().dump(), "{name}={value}");
        assert_eq!(config.warnings.len(), 1, "{name}={value}");
        assert!(config.warnings[0].contains(name), "{:?}", config.warnings);
    }
}

#[test]
fn variables_in_other_units_and_spellings() {
    let env = [
        ("MC_TRANSFER_TIMEOUT", "60"),
        ("MC_HANDSHAKE_CONNECT_TIMEOUT", "2"),
        ("MC_TCP_PROTO", "1"),
        ("MC_LOG_LEVEL", "WARNING"),
        ("MC_TCP_MAX_CONNECTIONS_PER_PEER", "8"),
        ("MC_TE_FILTERS", "mlx5_0, mlx5_1"),
        ("MC_TCP_ENABLE_CONNECTION_POOL", "0"),
        ("MC_GID_INDEX", "0"),
        ("MC_METADATA_CLUSTER_ID", ""),
    ];
    let config = load(None, &env).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.transfer_timeout_ms, 60_000);
    assert_eq!(config.handshake_connect_timeout_ms, 2000);
    assert_eq!(config.tcp_dialect, Dialect::V1);
    assert_eq!(config.log_level.as_deref(), Some("warn"));
    assert_eq!(config.tcp_lanes_per_peer, 8);
    assert_eq!(config.device_filters, ["mlx5_0", "mlx5_1"]);
    assert!(!config.tcp_connection_pool);
    assert_eq!(config.rdma_gid_index, 0);
    assert_eq!(config.origins.get("cluster_id"), Origin::Default);
}

#[test]
fn the_newer_name_wins() {
    let env = [("MC_TCP_MAX_CONNECTIONS_PER_PEER", "8"), ("MC_TCP_LANES_PER_PEER", "2")];
    let config = load(None, &env).unwrap();
    assert_eq!(config.tcp_lanes_per_peer, 2);
    let origin = config.origins.get("tcp_lanes_per_peer");
    assert_eq!(origin, Origin::Environment("MC_TCP_LANES_PER_PEER"));
}

#[test]
fn a_flag_set_to_zero_is_on_and_noticed() {
    let config = load(None, &[("MC_DISABLE_METACACHE", "0")]).unwrap();
    assert!(config.disable_metacache);
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn what_the_caller_gets_wrong_is_an_error() {
    let long = format!("{{\"local_name\": \"{}\"}}", "x".repeat(limits::NAME_BYTES_MAX + 1));
    let huge = " ".repeat(limits::CONFIG_JSON_BYTES_MAX + 1);
    let deep = "[".repeat(100_000);
    let cases = [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        (&deep, "not JSON"),
        (r#"{"rpc_port": 65536}"#, "rpc_port"),
        (r#"{"rpc_port": -1}"#, "rpc_port"),
        (r#"{"rpc_port": "15000"}"#, "rpc_port"),
        (r#"{"transfer_timeout_ms": 0}"#, "transfer_timeout_ms"),
        (r#"{"tcp_dialect": "v9"}"#, "tcp_dialect"),
        (r#"{"rcp_port": 1}"#, "nearest: rpc_port"),
        (r#"{"timeout_transfer": 1}"#, "timeout_transfer"),
        (&long, "local_name"),
        (&huge, "too long"),
    ];
    for (json, expected) in cases {
        let error = load(Some(json), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn passwords_are_not_shown() {
    let json = r#"{"redis_password": "hunter2", "metadata": "redis://me:hunter2@h:6379/x"}"#;
    let config = load(Some(json), &[]).unwrap();
    assert_eq!(config.redis_password, "hunter2");
    for text in [config.dump().to_string(), format!("{config:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("redis://(hidden)@h:6379/x"), "{text}");
    }
}

#[test]
fn unknown_names() {
    let env = environment(&[
        ("MC_TRANSFER_TIMOUT", "1"),
        ("MC_A", "1"),
        ("MC_USE_TENT", "1"),
        ("MC_RDMA_NOTIFY_ENABLED", "1"),
        ("MC_STORE_CLUSTER_ID", "1"),
        ("MC_MIN_PRC_PORT", "15000"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(unknown_environment_names(&env), ["MC_A", "MC_TRANSFER_TIMOUT"]);
}
