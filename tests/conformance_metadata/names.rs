//! Engines with names that need care, in every service; names, ports and addresses that cannot be
//! had.

use std::net::TcpListener;

use mooncake::engine::{Engine, Operation};
use mooncake::error::{Error, ErrorKind};

use crate::engines::{config, request, spec, tcp_engine};
use crate::servers;
use crate::skip;
use crate::stores::PATIENCE;

/// The longest name there is.
const NAME_BYTES_MAX: usize = 1024;

fn any_name_is_found(metadata: &str) {
    let long = "n".repeat(NAME_BYTES_MAX);
    let names = [
        "with blank:1",
        "with/slash:1",
        "a//b",
        "nvmeof/x",
        "100%",
        "%2F",
        "a+b",
        "a&key=b",
        "a?b#c",
        "[::1]:80",
        "\"'\\",
        "héé",
        "日本:1",
        "..",
        "../up",
        "*",
        "{name}",
        &long,
    ];
    let block = vec![3u8; 64];
    let own = tcp_engine(metadata, "names-own:1");
    own.register(&[spec(&block)]).unwrap();
    for name in names {
        let memory = vec![0u8; 64];
        let target = tcp_engine(metadata, name);
        assert_eq!(target.local_name(), name);
        target.register(&[spec(&memory)]).unwrap();
        let segment = own.open_segment(name).unwrap();
        let write = request(Operation::Write, &block, segment, memory.as_ptr() as u64);
        own.transfer(&[write], Some(PATIENCE)).unwrap();
        assert_eq!(memory, block, "{name}");
        own.close_segment(segment).unwrap();
        drop(target);
        let error = own.open_segment(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SegmentNotFound, "{name}: {error}");
    }
}

#[test]
fn over_memory() {
    any_name_is_found("memory://names");
}

#[test]
fn over_http() {
    let server = servers::own_http(&[]);
    any_name_is_found(&(server.url("http") + "/metadata"));
    for version in ["0.3.7.post2", "0.3.13.post1"] {
        let Some(server) = servers::upstream_http(version) else { continue };
        any_name_is_found(&(server.url("http") + "/metadata"));
    }
}

#[test]
fn over_etcd() {
    let Some(server) = servers::etcd(false) else { return };
    any_name_is_found(&server.url("etcd"));
}

#[test]
fn over_redis() {
    let Some(server) = servers::redis(&[]) else { return };
    any_name_is_found(&server.url("redis"));
}

/// Why an engine of this name and settings cannot be.
fn refusal(name: &str, adjust: impl FnOnce(&mut mooncake::config::EngineConfig)) -> Error {
    let mut settings = config("memory://refusals", name);
    adjust(&mut settings);
    match Engine::create(settings) {
        Err(error) => error,
        Ok(engine) => panic!("{:?} was created", engine.local_name()),
    }
}

#[test]
fn names_that_cannot_be() {
    let too_long = "n".repeat(NAME_BYTES_MAX + 1);
    // Names that begin like a key would be another engine's documents.
    for name in [&too_long, "a\nb", "a\0b", "[::1", "ram/victim:1", "rpc_meta/victim:1", "/a"] {
        let error = refusal(name, |_| {});
        let kinds = [ErrorKind::InvalidArgument, ErrorKind::InvalidAddress];
        assert!(kinds.contains(&error.kind()), "{name:?}: {error}");
    }
    let own = tcp_engine("memory://refusals", "refusals-own:1");
    for name in ["", "/", &too_long] {
        let error = own.open_segment(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}: {error}");
    }
}

#[test]
fn ports_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = port.to_string();
    for (plane, error) in [
        ("handshake", refusal("ports:1", |config| config.rpc_port = port)),
        ("data", refusal("ports:1", |config| config.data_port = port)),
        (
            "handshake",
            refusal("ports:1", |config| (config.port_min, config.port_max) = (port, port)),
        ),
    ] {
        assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
        assert_eq!(error.context("address"), Some("127.0.0.1"), "{error}");
        assert_eq!(error.context("port"), Some(text.as_str()), "{error}");
        assert!(error.to_string().contains(plane), "{error}");
    }
    // What was refused left nothing behind.
    drop(tcp_engine("memory://refusals", "ports:1"));
}

/// Brackets are for texts that go on with a port; documents have bare addresses. The dump says why
/// an engine is where it is.
#[test]
fn what_is_published_and_why() {
    for (publish, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("node.example", "node.example"),
    ] {
        if host == "::1" && TcpListener::bind("[::1]:0").is_err() {
            servers::skipped(publish, "this machine has no IPv6");
            continue;
        }
        let mut settings = config("memory://published", "published:1");
        settings.publish_address = Some(publish.into());
        if host.parse::<std::net::IpAddr>().is_ok() {
            // Listens at the published address then.
            settings.bind_address = None;
        }
        settings.rpc_port = servers::free_port();
        let engine = Engine::create(settings).unwrap();
        assert_eq!(engine.host(), host);
        let reasons = engine.dump()["engine"]["reasons"].to_string();
        for why in [
            format!("published host {host}: the setting publish_address"),
            format!("handshake port {}: asked for", engine.rpc_port()),
            format!("data port {}: a free one of 15000..17000", engine.data_port()),
            "listens on ".to_owned(),
        ] {
            assert!(reasons.contains(&why), "{why}: {reasons}");
        }
    }
}

#[test]
fn addresses_that_are_not_here() {
    for address in ["203.0.113.7", "2001:db8::7", "[2001:db8::7]"] {
        let error = refusal("address:1", |config| config.bind_address = Some(address.into()));
        assert_eq!(error.kind(), ErrorKind::Resource, "{address}: {error}");
        let bare = address.trim_matches(['[', ']']);
        assert_eq!(error.context("address"), Some(bare), "{error}");
    }
    let error = refusal("address:1", |config| config.bind_address = Some("nobody.invalid".into()));
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("nobody.invalid"), "{error}");
}

/// A host whose interfaces have no address: nothing to publish.
#[test]
fn no_address_at_all() {
    let ran = std::thread::spawn(|| {
        // SAFETY: changes the network of this thread only, which ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return false;
        }
        for use_ipv6 in [false, true] {
            let error = refusal("bare:1", |config| {
                config.bind_address = None;
                config.publish_address = None;
                config.use_ipv6 = use_ipv6;
            });
            assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
            assert!(error.to_string().contains("publish_address"), "{error}");
        }
        true
    });
    if !ran.join().unwrap() {
        skip::skipped("no network namespace for this user");
    }
}
