//! What every store must do, whichever service is behind it.

use std::io::{Read, Write};
use std::time::Duration;

use mooncake::error::ErrorKind;
use mooncake::metadata::{Lifetime, MetadataStore, Put};
use mooncake::time::Deadline;

use crate::servers;
use crate::stores::{open, open_with, soon};
use crate::wire::connect;

/// What services differ in.
pub(crate) struct Traits {
    /// A second, different `rpc_meta` of one name is refused.
    refuses_duplicates: bool,
    /// Bytes of the largest document tried.
    document_bytes: usize,
}

pub(crate) const REPLACES: Traits = Traits { refuses_duplicates: false, document_bytes: 1_000_000 };
pub(crate) const REFUSES: Traits = Traits { refuses_duplicates: true, document_bytes: 1_000_000 };

pub(crate) fn conforms(store: &dyn MetadataStore, traits: &Traits) {
    values_come_back(store, traits);
    any_name_is_a_key(store);
    only_rpc_meta_may_be_refused(store, traits);
    no_time_is_a_timeout(store);
    many_threads_may_enter(store);
}

fn values_come_back(store: &dyn MetadataStore, traits: &Traits) {
    let key = "mooncake/ram/values:1";
    assert_eq!(store.get(key, soon()).unwrap(), None);
    store.remove(key, soon()).unwrap();
    let large = vec![b'x'; traits.document_bytes];
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [&b"{\"a\":1}"[..], b"{\"a\":1}\n", b"", &every_byte, &large] {
        for lifetime in [Lifetime::Permanent, Lifetime::Session] {
            assert_eq!(store.put(key, value, lifetime, soon()).unwrap(), Put::Done);
            let found = store.get(key, soon()).unwrap().unwrap();
            assert!(found == value, "{} bytes came back as {}", value.len(), found.len());
        }
    }
    store.remove(key, soon()).unwrap();
    assert_eq!(store.get(key, soon()).unwrap(), None);
}

fn any_name_is_a_key(store: &dyn MetadataStore) {
    let long = "n".repeat(1024);
    let names = [
        "a b", "a/b", "a//b", "100%", "%2F", "a+b", "a&key=b", "a?b#c", "[::1]:80", "\"'\\", "héé",
        "日本", "..", "-._~", "A", "a", &long,
    ];
    let key = |name: &str| format!("mooncake/ram/{name}");
    for name in names {
        store.put(&key(name), name.as_bytes(), Lifetime::Session, soon()).unwrap();
    }
    for name in names {
        let found = store.get(&key(name), soon()).unwrap();
        assert_eq!(found.as_deref(), Some(name.as_bytes()), "{name}");
        store.remove(&key(name), soon()).unwrap();
        assert_eq!(store.get(&key(name), soon()).unwrap(), None, "{name}");
    }
}

fn only_rpc_meta_may_be_refused(store: &dyn MetadataStore, traits: &Traits) {
    let key = "mooncake/rpc_meta/twice:1";
    let put = |value: &[u8]| store.put(key, value, Lifetime::Session, soon()).unwrap();
    assert_eq!(put(b"{\"rpc_port\":1}"), Put::Done);
    let (second, stays): (_, &[u8]) = match traits.refuses_duplicates {
        true => (Put::Taken, b"{\"rpc_port\":1}"),
        false => (Put::Done, b"{\"rpc_port\":2}"),
    };
    assert_eq!(put(b"{\"rpc_port\":2}"), second);
    assert_eq!(store.get(key, soon()).unwrap().unwrap(), stays);
    store.remove(key, soon()).unwrap();
    assert_eq!(put(b"{\"rpc_port\":2}"), Put::Done);
    store.remove(key, soon()).unwrap();
}

fn no_time_is_a_timeout(store: &dyn MetadataStore) {
    let now = Deadline::within(Duration::ZERO);
    let key = "mooncake/ram/late:1";
    let kinds = [
        store.get(key, now).unwrap_err().kind(),
        store.put(key, b"1", Lifetime::Session, now).unwrap_err().kind(),
        store.remove(key, now).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Timeout; 3]);
    assert_eq!(store.get(key, soon()).unwrap(), None);
}

fn many_threads_may_enter(store: &dyn MetadataStore) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..10 {
                    let key = format!("mooncake/ram/thread{thread}:{round}");
                    let value = format!("{{\"value\":{thread}{round}}}").into_bytes();
                    store.put(&key, &value, Lifetime::Session, soon()).unwrap();
                    assert_eq!(store.get(&key, soon()).unwrap(), Some(value));
                    store.remove(&key, soon()).unwrap();
                }
            });
        }
    });
}

#[test]
fn memory() {
    conforms(&*open("memory://suite"), &REPLACES);
}

#[test]
fn http_of_our_own() {
    let server = servers::own_http(&[]);
    let store = open(&(server.url("http") + "/metadata"));
    assert_eq!(store.scheme(), "http");
    conforms(&*store, &REFUSES);
}

#[test]
fn http_of_upstream() {
    for version in ["0.3.7.post2", "0.3.13.post1"] {
        let Some(server) = servers::upstream_http(version) else { continue };
        conforms(&*open(&(server.url("http") + "/metadata")), &REFUSES);
    }
}

#[test]
fn etcd() {
    let Some(server) = servers::etcd(false) else { return };
    // An endpoint that is down is passed over, whatever stands between them.
    let down = servers::free_port();
    for text in [
        server.url("etcd"),
        format!("127.0.0.1:{}", server.port),
        format!("etcd://127.0.0.1:{down}; 127.0.0.1:{}", server.port),
        format!("etcd://127.0.0.1:{down},http://127.0.0.1:{}/", server.port),
    ] {
        conforms(&*open(&text), &REPLACES);
    }
    conforms(&*open_with(&server.url("etcd"), |config| config.metadata_lease_s = 0), &REPLACES);
}

#[test]
fn redis() {
    let Some(server) = servers::redis(&[]) else { return };
    conforms(&*open(&server.url("redis")), &REPLACES);
    conforms(&*open(&(server.url("redis") + "/2")), &REPLACES);
    conforms(&*open_with(&server.url("redis"), |config| config.metadata_lease_s = 0), &REPLACES);
}

#[test]
fn redis_with_users() {
    let Some(server) = servers::redis(&["--requirepass", "main-secret"]) else { return };
    let mut admin = connect(server.port);
    admin.write_all(b"AUTH main-secret\r\nACL SETUSER writer on >secret ~* +@all\r\n").unwrap();
    let mut replies = [0; 10];
    admin.read_exact(&mut replies).unwrap();
    assert_eq!(&replies, b"+OK\r\n+OK\r\n");
    let url = server.url("redis");
    conforms(&*open_with(&url, |config| config.redis_password = "main-secret".into()), &REPLACES);
    let store = open_with(&url, |config| {
        config.redis_username = "writer".into();
        config.redis_password = "secret".into();
        config.redis_db_index = 1;
    });
    conforms(&*store, &REPLACES);
    let in_url = format!("redis://writer:secret@127.0.0.1:{}/1", server.port);
    conforms(&*open(&in_url), &REPLACES);
    for (user, password) in [("", ""), ("", "wrong"), ("writer", "wrong"), ("nobody", "x")] {
        let store = open_with(&url, |config| {
            config.redis_username = user.into();
            config.redis_password = password.into();
        });
        let error = store.get("mooncake/ram/x", soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{user:?} {password:?}: {error}");
        assert_eq!(error.context("service"), Some("redis"));
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}
