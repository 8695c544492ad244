//! Services that are away, silent, hostile or something else: a status that says which service and
//! which key, within the deadline.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use mooncake::error::{Error, ErrorKind};
use mooncake::metadata::{Lifetime, MetadataStore};
use mooncake::time::Deadline;

use crate::servers;
use crate::stores::{open, open_with, soon};
use crate::wire::{request, Fake};

const KEY: &str = "mooncake/ram/bad name:1";

/// The failure of each kind of call, all of which must come soon after the deadline at the latest.
fn failures(store: &dyn MetadataStore, timeout: Duration) -> Vec<Error> {
    let calls: [&dyn Fn(Deadline) -> Result<(), Error>; 3] = [
        &|end| store.get(KEY, end).map(|_| ()),
        &|end| store.put(KEY, b"{}", Lifetime::Session, end).map(|_| ()),
        &|end| store.remove(KEY, end),
    ];
    let failed = calls.map(|call| {
        let started = Instant::now();
        let result = call(Deadline::within(timeout));
        let taken = started.elapsed();
        assert!(taken < timeout + Duration::from_secs(10), "{taken:?} for {timeout:?}");
        result.expect_err("a bad service served")
    });
    failed.to_vec()
}

fn each(metadata: &str, kinds: &[ErrorKind]) {
    for error in failures(&*open(metadata), Duration::from_millis(1500)) {
        assert!(kinds.contains(&error.kind()), "{metadata}: {error:?}");
        assert!(error.context("service").is_some(), "{error}");
        assert_eq!(error.context("key"), Some(KEY), "{error}");
    }
}

fn everywhere(address: impl std::fmt::Display, kinds: &[ErrorKind]) {
    each(&format!("http://{address}/metadata"), kinds);
    each(&format!("etcd://{address}"), kinds);
    each(&format!("redis://{address}"), kinds);
}

use ErrorKind::{MetadataMalformed, MetadataUnavailable, Rejected, Timeout};

#[test]
fn nobody_listens() {
    everywhere(format!("127.0.0.1:{}", servers::free_port()), &[MetadataUnavailable]);
}

#[test]
fn no_such_host() {
    // `.invalid` has no addresses; where the resolver itself is away, it takes its time.
    everywhere("nobody.invalid:1", &[MetadataUnavailable, Timeout]);
}

#[test]
fn silence() {
    let fake = Fake::new(|mut stream| {
        let mut some = [0; 1024];
        while stream.read(&mut some).is_ok_and(|count| count > 0) {}
    });
    everywhere(fake.address, &[Timeout]);
}

#[test]
fn bytes_that_drip() {
    let fake = Fake::new(|mut stream| {
        let mut some = [0; 4096];
        let _ = stream.read(&mut some);
        let start = match some.first() {
            Some(b'*') => &b"$1000\r\n"[..],
            _ => &b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"[..],
        };
        let _ = stream.write_all(start);
        for _ in 0..200 {
            if stream.write_all(b"x").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    everywhere(fake.address, &[Timeout, MetadataUnavailable]);
}

#[test]
fn connections_that_close() {
    let fake = Fake::new(drop);
    everywhere(fake.address, &[MetadataUnavailable]);
}

#[test]
fn other_protocols() {
    let fake = Fake::replying(b"SSH-2.0-OpenSSH_9.2\r\n");
    everywhere(fake.address, &[MetadataMalformed, MetadataUnavailable]);
    let fake = Fake::replying(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ht>");
    each(&format!("etcd://{}", fake.address), &[MetadataMalformed]);
    each(&format!("redis://{}", fake.address), &[MetadataMalformed]);
}

#[test]
fn half_replies() {
    let fake = Fake::replying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    each(&format!("http://{}/metadata", fake.address), &[MetadataUnavailable, MetadataMalformed]);
    each(&format!("etcd://{}", fake.address), &[MetadataUnavailable, MetadataMalformed]);
    let fake = Fake::replying(b"$100\r\nhalf");
    each(&format!("redis://{}", fake.address), &[MetadataUnavailable]);
}

#[test]
fn huge_replies() {
    let fake = Fake::replying(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx");
    each(&format!("http://{}/metadata", fake.address), &[MetadataUnavailable, MetadataMalformed]);
    let fake = Fake::replying(b"*2147483647\r\n$1\r\nx\r\n");
    each(&format!("redis://{}", fake.address), &[MetadataMalformed]);
    // A service that never stops sending.
    let fake = Fake::new(|mut stream| {
        let mut some = [0; 4096];
        let _ = stream.read(&mut some);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head);
        let mut chunk = b"100000\r\n".to_vec();
        chunk.resize(chunk.len() + 0x10_0000, b' ');
        chunk.extend(b"\r\n");
        while stream.write_all(&chunk).is_ok() {}
    });
    let store = open(&format!("http://{}/metadata", fake.address));
    for error in failures(&*store, Duration::from_secs(3)) {
        assert!([MetadataMalformed, Timeout].contains(&error.kind()), "{error:?}");
    }
}

/// Bodies in pieces whose sizes are nonsense, or that never end.
#[test]
fn rubbish_in_chunks() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for pieces in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "5\r\n{}",
        "",
        "\r\n\r\n\r\n",
        ";;;;\r\n",
    ] {
        let reply: &'static str = Box::leak(format!("{HEAD}{pieces}").into_boxed_str());
        let fake = Fake::replying(reply.as_bytes());
        let kinds = [MetadataUnavailable, MetadataMalformed];
        each(&format!("http://{}/metadata", fake.address), &kinds);
        each(&format!("etcd://{}", fake.address), &kinds);
    }
    // Heads that contradict themselves or never end.
    for reply in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n{}",
        b"\0\0\0\0\0\0\0\0",
    ] {
        let fake = Fake::replying(reply);
        let kinds = [MetadataUnavailable, MetadataMalformed, Timeout];
        each(&format!("http://{}/metadata", fake.address), &kinds);
        each(&format!("etcd://{}", fake.address), &kinds);
    }
    let fake = Fake::new(|mut stream| {
        let mut some = [0; 4096];
        let _ = stream.read(&mut some);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
        while stream.write_all(line.as_bytes()).is_ok() {}
    });
    let kinds = [MetadataUnavailable, MetadataMalformed, Timeout];
    each(&format!("http://{}/metadata", fake.address), &kinds);
    each(&format!("etcd://{}", fake.address), &kinds);
}

#[test]
fn rubbish_of_redis() {
    for reply in [
        &b"$999999999999999\r\nx"[..],
        b"$99999999999999999999999\r\nx",
        b"$3\r\nabcde\r\n",
        b":12\r\n",
        b"+QUEUED\r\n",
        b"*1\r\n*1\r\n*1\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"(99999999999999999999999999\r\n",
        b"!5\r\nERR x\r\n",
        b"\xff\xff\xff\xff\r\n",
    ] {
        let fake = Fake::replying(reply);
        let store = open(&format!("redis://{}", fake.address));
        // What is nonsense for one command may be an answer to another.
        let error = store.get(KEY, Deadline::within(Duration::from_secs(5))).unwrap_err();
        let kinds = [MetadataMalformed, MetadataUnavailable, Rejected];
        let text = String::from_utf8_lossy(reply);
        assert!(kinds.contains(&error.kind()), "{text}: {error:?}");
        assert_eq!(error.context("key"), Some(KEY), "{text}: {error}");
        assert_eq!(error.context("service"), Some("redis"), "{text}: {error}");
    }
}

/// JSON that is not etcd's, or says more than a metadata document may have.
#[test]
fn replies_that_are_not_etcds() {
    for body in [
        "",
        "null",
        "[]",
        "7",
        "\"text\"",
        "{\"kvs\":7}",
        "{\"kvs\":[7]}",
        "{\"kvs\":[{}]",
        "{\"kvs\":[{\"value\":7}]}",
        "{\"kvs\":[{\"value\":\"not base64!\"}]}",
        "{\"kvs\":[[[[",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let fake = Fake::replying(Box::leak(text.into_boxed_str()).as_bytes());
        let store = open(&format!("etcd://{}", fake.address));
        let error = store.get(KEY, Deadline::within(Duration::from_secs(5))).unwrap_err();
        assert_eq!(error.kind(), MetadataMalformed, "{body}: {error}");
        assert_eq!(error.context("key"), Some(KEY), "{body}: {error}");
    }
}

#[test]
fn refusals_of_http() {
    for (reply, kind) in [
        (&b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"[..], Rejected),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", Rejected),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Rejected),
        (b"HTTP/1.1 302 Found\r\nLocation: /metadata\r\nContent-Length: 0\r\n\r\n", Rejected),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", MetadataUnavailable),
    ] {
        let fake = Fake::replying(reply);
        each(&format!("http://{}/metadata", fake.address), &[kind]);
    }
}

#[test]
fn etcd_with_users() {
    let Some(server) = servers::etcd(false) else { return };
    let post = |path: &str, body: &str| {
        let answer = request(server.port, "POST", &format!("/v3/auth/{path}"), body.as_bytes());
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    };
    post("user/add", "{\"name\":\"root\",\"password\":\"root-secret\"}");
    post("user/grant", "{\"user\":\"root\",\"role\":\"root\"}");
    post("user/add", "{\"name\":\"reader\",\"password\":\"reader-secret\"}");
    post("enable", "{}");
    let with = |user: &str, password: &str| {
        open_with(&server.url("etcd"), |config| {
            config.etcd_username = user.to_owned();
            config.etcd_password = password.to_owned();
        })
    };
    let root = with("root", "root-secret");
    root.put(KEY, b"{}", Lifetime::Session, soon()).unwrap();
    assert_eq!(root.get(KEY, soon()).unwrap().unwrap(), b"{}");
    for (user, password) in
        [("", ""), ("root", "wrong"), ("nobody", "x"), ("reader", "reader-secret")]
    {
        let error = with(user, password).get(KEY, soon()).unwrap_err();
        assert_eq!(error.kind(), Rejected, "{user}: {error}");
        assert_eq!(error.context("service"), Some("etcd"), "{error}");
        assert_eq!(error.context("key"), Some(KEY), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    root.remove(KEY, soon()).unwrap();
}

#[test]
fn redis_without_that_database() {
    let Some(server) = servers::redis(&["--databases", "4"]) else { return };
    for store in [
        open(&(server.url("redis") + "/4")),
        open_with(&server.url("redis"), |config| config.redis_db_index = 255),
    ] {
        let error = store.get(KEY, soon()).unwrap_err();
        assert_eq!(error.kind(), Rejected, "{error}");
        assert!(error.context("database").is_some(), "{error}");
        assert_eq!(error.context("service"), Some("redis"), "{error}");
        assert_eq!(error.context("key"), Some(KEY), "{error}");
    }
    let last = open(&(server.url("redis") + "/3"));
    last.put(KEY, b"{}", Lifetime::Session, soon()).unwrap();
    last.remove(KEY, soon()).unwrap();
}

/// The whole way up: an engine that cannot be, with the place and the reason, in its time.
#[test]
fn engines_over_bad_services() {
    use crate::engines::config;
    use mooncake::engine::Engine;

    let silent = Fake::new(|mut stream| {
        let mut some = [0; 1024];
        while stream.read(&mut some).is_ok_and(|count| count > 0) {}
    });
    let babbling = Fake::replying(b"SSH-2.0-OpenSSH_9.2\r\n");
    for (address, kinds) in [
        (silent.address, &[Timeout][..]),
        (babbling.address, &[MetadataMalformed, MetadataUnavailable]),
    ] {
        for (service, metadata) in [
            ("http", format!("http://{address}/metadata")),
            ("etcd", format!("etcd://{address}")),
            ("redis", format!("redis://{address}")),
        ] {
            let mut settings = config(&metadata, "bad engine:1");
            settings.transfer_timeout_ms = 700;
            let started = Instant::now();
            let Err(error) = Engine::create(settings) else { panic!("{metadata} served") };
            assert!(started.elapsed() < Duration::from_secs(20), "{error}");
            assert!(kinds.contains(&error.kind()), "{metadata}: {error}");
            assert_eq!(error.context("service"), Some(service), "{error}");
            assert_eq!(error.context("key"), Some("mooncake/rpc_meta/bad engine:1"), "{error}");
        }
    }
}

#[test]
fn malformed_addresses() {
    use mooncake::config::EngineConfig;
    use mooncake::metadata::backend;
    use mooncake::net::address::parse_metadata;

    for metadata in ["http://a b/", "http://:80/x", "https://[::1/x", "redis://h/x", "etcd://a b"] {
        let config = EngineConfig { metadata: metadata.into(), ..EngineConfig::default() };
        let opened = parse_metadata(metadata).and_then(|address| backend::open(&address, &config));
        let Err(error) = opened else { panic!("{metadata} was accepted") };
        assert_eq!(error.kind(), ErrorKind::InvalidAddress, "{metadata}: {error}");
    }
    let config = EngineConfig {
        metadata_ca_path: Some("/nowhere/at/all.pem".into()),
        ..EngineConfig::default()
    };
    let address = parse_metadata("https://127.0.0.1/metadata").unwrap();
    let Err(error) = backend::open(&address, &config) else { panic!("no file, yet accepted") };
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.context("file"), Some("/nowhere/at/all.pem"));
}
