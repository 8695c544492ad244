//! Tests of what flags and file mean together.

use super::*;
use crate::config::gflags::Sources;
use crate::master::flags;

const HOST: Host<'static> = Host {
    cores: 2,
    variable: &|name| match name {
        "HOME" => Some("/users/me".to_owned()),
        _ => None,
    },
    interface: &|name| (name == "eth9").then(|| Ipv4Addr::new(10, 0, 0, 9)),
};

fn values(arguments: &[&str]) -> Values {
    let sources = Sources {
        program: "p",
        variable: &|_| None,
        file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let line = flags::read(arguments.iter().map(|text| text.to_string()).collect(), &sources);
    assert_eq!(line.problems, [""; 0], "{arguments:?}");
    line.values
}

fn config(arguments: &[&str]) -> MasterConfig {
    MasterConfig::new(&values(arguments), &HOST).unwrap()
}

fn refused(arguments: &[&str]) -> String {
    MasterConfig::new(&values(arguments), &HOST).unwrap_err().to_string()
}

/// A file and a command line together.
fn with_file(path: &str, text: &str, arguments: &[&str]) -> Result<(MasterConfig, Option<String>)> {
    let mut values = values(arguments);
    let warning = apply_file(path, text, &mut values)?;
    Ok((MasterConfig::new(&values, &HOST)?, warning))
}

#[test]
fn defaults_are_those_of_upstream() {
    let config = config(&[]);
    assert_eq!(config.rpc, Listen { host: "0.0.0.0".into(), port: 50051, flag: "port" });
    assert_eq!((config.metrics.port, config.threads), (9003, 2));
    assert_eq!(config.metadata, None);
    assert_eq!(config.lease_ttl, Duration::from_secs(5));
    assert_eq!(config.client_ttl, Duration::from_secs(10));
    assert_eq!((config.high_watermark, config.eviction_ratio), (0.95, 0.05));
    assert_eq!(config.storage_directory, "");
    assert_eq!(config.warnings, [""; 0]);
    let folder = "/users/me/.local/state/mooncake_master/mooncake_cluster-50051";
    assert_eq!(config.journal, Journal::Default(PathBuf::from(folder)));
}

#[test]
fn other_ports_are_of_the_family_of_the_calls() {
    let metadata = "--enable_http_metadata_server";
    for (address, expected) in
        [("::", "::"), ("[::1]", "::"), ("fe80::1%eth0", "::"), ("127.0.0.1", "0.0.0.0")]
    {
        let config = config(&[&format!("--rpc_address={address}"), metadata]);
        assert_eq!(config.metrics.host, expected, "{address}");
        assert_eq!(config.metadata.unwrap().host, expected, "{address}");
    }
    let chosen = ["--rpc_address=::", "--metrics_host=0.0.0.0", metadata];
    let config = config(&chosen);
    assert_eq!(config.metrics.host, "0.0.0.0");
    assert_eq!(config.metadata.unwrap().host, "::");
}

#[test]
fn files_have_the_smaller_of_both_limits() {
    let capacity = |flags: &[&str]| {
        let config = config(flags);
        (config.file_capacity, config.file_share, config.evict_files)
    };
    assert_eq!(capacity(&[]), (i64::MAX as u64, Some(0.9), true));
    assert_eq!(capacity(&["--quota_bytes=7"]), (7, None, true));
    let both = ["--quota_bytes=7", "--global_file_segment_size=5", "--noenable_disk_eviction"];
    assert_eq!(capacity(&both), (5, None, false));
}

#[test]
fn a_candidate_has_no_journal_and_upstreams_name_for_its_group() {
    let ha = ["--enable_ha", "--etcd_endpoints=a:1; b:2", "--rpc_address=::1", "--cluster_id=x"];
    let elected = config(&ha);
    let candidacy = elected.candidacy.unwrap();
    assert_eq!(candidacy.endpoints, ["a:1", "b:2"]);
    assert_eq!(
        (candidacy.address.as_str(), candidacy.cluster.as_str()),
        ("[::1]:50051", "mooncake")
    );
    assert_eq!(candidacy.lease, Duration::from_secs(5));
    assert!(matches!(elected.journal, Journal::Off(Some(_))), "{:?}", elected.journal);
    assert_eq!(elected.warnings, [""; 0]);
    let named = Host { variable: &|name| (name == CLUSTER_VARIABLE).then(|| "y".into()), ..HOST };
    let named = MasterConfig::new(&values(&ha), &named).unwrap();
    assert_eq!(named.candidacy.unwrap().cluster, "y");
    let vague = config(&["--enable_ha", "--etcd_endpoints=http://a:1", "--data_dir=/x"]);
    assert_eq!(vague.warnings.len(), 2, "{:?}", vague.warnings);
    assert_eq!(vague.candidacy.unwrap().endpoints, ["http://a:1"]);
    assert_eq!(config(&["--etcd_endpoints=a:1"]).candidacy, None);
}

#[test]
fn old_names_give_way_to_new_ones_and_are_mentioned() {
    let old = config(&["--port=50088", "--max_threads=1"]);
    assert_eq!((old.rpc.port, old.threads, old.warnings.len()), (50088, 1, 2));
    let both = config(&["--port=1", "--rpc_port=2", "--max_threads=1", "--rpc_thread_num=7"]);
    assert_eq!((both.rpc.port, both.threads, both.warnings.len()), (2, 7, 4));
    let many = config(&["--rpc_thread_num=100000"]);
    assert_eq!((many.threads, many.warnings.len()), (limits::RPC_THREADS_MAX, 1));
}

#[test]
fn what_cannot_be_is_refused_with_the_flag() {
    for (arguments, flag) in [
        (&["--eviction_ratio=1.5"][..], "--eviction_ratio=1.5"),
        (&["--eviction_ratio=nan"], "--eviction_ratio=nan"),
        (&["--eviction_high_watermark_ratio=-0.1"], "--eviction_high_watermark_ratio=-0.1"),
        (&["--memory_allocator=heap"], "--memory_allocator=heap"),
        (&["--enable_ha"], "--enable_ha"),
        (&["--enable_ha", "--etcd_endpoints=redis://a:1"], "--etcd_endpoints=redis://a:1"),
        (
            &["--enable_ha", "--etcd_endpoints=a:1", "--ha_lease_ttl_sec=61"],
            "--ha_lease_ttl_sec=61",
        ),
        (&["--rpc_port=99999"], "--rpc_port=99999"),
        (&["--rpc_port=-1"], "--rpc_port=-1"),
        (&["--metrics_port=70000"], "--metrics_port=70000"),
        (&["--rpc_address=300.1.1.1"], "--rpc_address=300.1.1.1"),
        (&["--rpc_address=a b"], "--rpc_address=a b"),
        (&["--metrics_host="], "--metrics_host="),
        (&["--rpc_interface=eth7"], "--rpc_interface=eth7"),
        (&["--rpc_thread_num=-1"], "--rpc_thread_num=-1"),
        (&["--client_ttl=0"], "--client_ttl=0"),
        (&["--dialect=0.2"], "--dialect=0.2"),
        (&["--dialect=0.3.13.post1"], "--dialect=0.3.13.post1"),
        (&["--rpc_port_0_3_13=50052"], "--rpc_port_0_3_13=50052"),
        (&["--put_start_release_timeout_sec=5"], "--put_start_release_timeout_sec=5"),
    ] {
        let text = refused(arguments);
        assert!(text.starts_with(flag), "{arguments:?}: {text}");
    }
}

#[test]
fn addresses() {
    assert_eq!(config(&["--rpc_address=[::]"]).rpc.host, "::");
    assert_eq!(config(&["--rpc_address=node-1.example"]).rpc.host, "node-1.example");
    assert_eq!(config(&["--rpc_interface=eth9"]).rpc.host, "10.0.0.9");
}

#[test]
fn a_file_fills_in_what_the_command_line_left_open() {
    let yaml = "metrics_port: 9100\nenable_metric_reporting: no\nclient_live_ttl_sec: 20\n\
                eviction_high_watermark_ratio: 1.0\ndefault_kv_lease_ttl: 7000\ncluster_id: c\n";
    let (config, warning) = with_file("/x/m.yaml", yaml, &["--metrics_port=9003"]).unwrap();
    assert_eq!(warning, None);
    // An explicit flag counts even where it repeats the default.
    assert_eq!(config.metrics.port, 9003);
    assert!(!config.report_metrics);
    assert_eq!(config.client_ttl, Duration::from_secs(20));
    assert_eq!(config.high_watermark, 1.0);
    assert_eq!(config.lease_ttl, Duration::from_secs(7));
    // Upstream would listen on any port here.
    assert_eq!(config.rpc.port, 50051);

    let json = r#"{"rpc_port": 5, "rpc_thread_num": 3, "enable_ha": false, "other": 1,
                   "default_kv_soft_pin_ttl": "5s", "nested": {"rpc_port": 6}}"#;
    let (config, warning) = with_file("m.json", json, &[]).unwrap();
    assert_eq!((config.rpc.port, config.threads), (5, 3));
    assert_eq!(config.soft_pin_ttl, Duration::from_secs(5));
    let warning = warning.unwrap();
    assert!(warning.contains("other") && warning.contains("nested."), "{warning}");
    let (config, _) =
        with_file("m.yaml", "client_live_ttl_sec: 20\nclient_ttl: 30", &["--client_ttl=5"])
            .unwrap();
    assert_eq!(config.client_ttl, Duration::from_secs(5));
    let (config, _) = with_file("m.yaml", "client_live_ttl_sec: 20\nclient_ttl: 30", &[]).unwrap();
    assert_eq!(config.client_ttl, Duration::from_secs(20));
    assert!(with_file("m.yaml", "", &[]).is_ok());
}

#[test]
fn a_file_that_cannot_be_meant_is_refused() {
    for (path, text) in [
        ("m.toml", "rpc_port = 5"),
        ("m", ""),
        ("m.json", ""),
        ("m.json", "[]"),
        ("m.json", r#"{"rpc_port": "5"}"#),
        ("m.json", r#"{"rpc_port": 5.5}"#),
        ("m.json", r#"{"rpc_port": null}"#),
        ("m.json", r#"{"enable_ha": "true"}"#),
        ("m.json", r#"{"enable_ha": 1}"#),
        ("m.json", r#"{"cluster_id": true}"#),
        ("m.json", r#"{"whatever": [1]}"#),
        ("m.yaml", "rpc_port: five"),
        ("m.yaml", "rpc_port: {a: 1"),
        ("m.yaml", "- 5"),
        ("m.yaml", "5: 5"),
        ("m.yaml", "enable_ha: 1"),
        ("m.yaml", "whatever: [1]"),
        ("m.yaml", "default_kv_lease_ttl: 5 parsecs"),
    ] {
        let error = with_file(path, text, &[]).unwrap_err();
        assert_eq!(error.context("file"), Some(path), "{text}: {error}");
    }
    let long = " ".repeat(limits::CONFIG_JSON_BYTES_MAX + 1);
    assert!(with_file("m.yaml", &long, &[]).is_err());
}

#[test]
fn the_journal_is_where_it_was_put() {
    let folder = || PathBuf::from("/x");
    let off = config(&["--noenable_journal", "--data_dir=/x"]).journal;
    assert_eq!(off, Journal::Off(Some(folder())));
    assert_eq!(config(&["--data_dir=/x", "--port=0"]).journal, Journal::At(folder()));
    assert_eq!(config(&["--port=0"]).journal, Journal::Off(None));
    let nowhere = Host { variable: &|_| None, ..HOST };
    assert_eq!(MasterConfig::new(&values(&[]), &nowhere).unwrap().journal, Journal::Off(None));
}
