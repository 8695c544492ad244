//! Bytes on the wire and in the service against what upstream's engines were seen to send.

use std::path::Path;

use mooncake::descriptor::SegmentDescriptor;
use mooncake::metadata::directory::StoreDirectory;
use mooncake::metadata::document::RpcMeta;
use mooncake::metadata::Directory;

use crate::directory::handshake;
use crate::servers;
use crate::stores::{open, soon};
use crate::wire::{request, Fake, Recorded};

const VERSION: &str = "v0.3.13.post1";

fn vector(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/te");
    std::fs::read(folder.join(name)).unwrap()
}

fn body(recorded: &str) -> Vec<u8> {
    Recorded::parse(&vector(recorded)).body
}

fn publication(recorded_meta: &[u8], recorded_ram: &[u8]) -> (RpcMeta, SegmentDescriptor) {
    let meta = RpcMeta::decode(recorded_meta).unwrap();
    (meta, SegmentDescriptor::decode(recorded_ram).unwrap())
}

/// The same request: line and body byte by byte, the same headers but for the host.
fn assert_same(ours: &Recorded, theirs: &[u8]) {
    let theirs = Recorded::parse(theirs);
    assert_eq!(ours.line, theirs.line);
    assert_eq!(
        String::from_utf8_lossy(&ours.body),
        String::from_utf8_lossy(&theirs.body),
        "{}",
        ours.line
    );
    let sorted = |request: &Recorded| {
        let mut headers = request.headers.clone();
        headers.retain(|(name, _)| name != "host");
        headers.sort();
        headers
    };
    assert_eq!(sorted(ours), sorted(&theirs), "{}", ours.line);
}

#[test]
fn http_requests_are_upstreams() {
    let (fake, requests) = Fake::recording(Some("{}"));
    let store = open(&format!("http://{}/metadata", fake.address));
    let directory = StoreDirectory::new(store, "", handshake());
    let put_meta = format!("http-{VERSION}-put-rpc_meta.request");
    let put_ram = format!("http-{VERSION}-put-ram.request");
    let (meta, descriptor) = publication(&body(&put_meta), &body(&put_ram));
    directory.publish(&descriptor, &meta, soon()).unwrap();
    directory.publish(&descriptor, &meta, soon()).unwrap();
    let next = || requests.recv_timeout(crate::stores::PATIENCE).unwrap();
    assert_same(&next(), &vector(&put_meta));
    assert_same(&next(), &vector(&put_ram));
    // A name is claimed once, then only the segment is written again.
    assert_same(&next(), &vector(&put_ram));

    directory.withdraw("nodeA:12345", soon()).unwrap();
    assert_eq!(next().line, "GET /metadata?key=mooncake%2Frpc_meta%2FnodeA%3A12345 HTTP/1.1");
    // What stands there now ("{}") is not ours any more, so it stays.
    drop(directory);
    assert!(requests.try_recv().is_err());
}

#[test]
fn http_deletes_are_upstreams() {
    let (fake, requests) = Fake::recording(Some(""));
    let store = open(&format!("http://{}/metadata", fake.address));
    let recorded = vector(&format!("http-{VERSION}-shutdown-deletes.request"));
    let separator = b"-----\n";
    let at = recorded.windows(separator.len()).position(|some| some == separator).unwrap();
    for (key, theirs) in [
        ("mooncake/rpc_meta/nodeA:12345", &recorded[..at]),
        ("mooncake/ram/nodeA:12345", &recorded[at + separator.len()..]),
    ] {
        store.remove(key, soon()).unwrap();
        let ours = requests.recv_timeout(crate::stores::PATIENCE).unwrap();
        let end = theirs.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert_same(&ours, &theirs[..end]);
    }
}

#[test]
fn etcd_entries_are_upstreams() {
    let Some(server) = servers::etcd(false) else { return };
    let (meta_bytes, ram_bytes) = (
        vector(&format!("etcd-{VERSION}-rpc_meta.json")),
        vector(&format!("etcd-{VERSION}-ram.json")),
    );
    let (meta, descriptor) = publication(&meta_bytes, &ram_bytes);
    let directory = StoreDirectory::new(open(&server.url("etcd")), "clusterX", handshake());
    directory.publish(&descriptor, &meta, soon()).unwrap();
    let keys = String::from_utf8(vector(&format!("etcd-{VERSION}-keys.txt"))).unwrap();
    let keys: Vec<&str> = keys.lines().collect();
    for (key, value) in [(keys[0], &ram_bytes), (keys[1], &meta_bytes)] {
        // Asked for by hand: what our own client writes wrong it might read wrong as well.
        let asked = format!("{{\"key\":\"{}\"}}", base64(key.as_bytes()));
        let answer = request(server.port, "POST", "/v3/kv/range", asked.as_bytes());
        let text = String::from_utf8(answer.body).unwrap();
        let expected = format!("\"value\":\"{}\"", base64(value));
        assert!(text.contains(&expected), "{key}: {text}");
    }
}

#[test]
fn redis_entries_are_upstreams() {
    let Some(server) = servers::redis(&[]) else { return };
    let (meta_bytes, ram_bytes) = (
        vector(&format!("etcd-{VERSION}-rpc_meta.json")),
        vector(&format!("etcd-{VERSION}-ram.json")),
    );
    let (meta, descriptor) = publication(&meta_bytes, &ram_bytes);
    let directory = StoreDirectory::new(open(&server.url("redis")), "clusterX", handshake());
    directory.publish(&descriptor, &meta, soon()).unwrap();
    for (key, value) in [
        ("mooncake/clusterX/ram/nodeE:1", &ram_bytes),
        ("mooncake/clusterX/rpc_meta/nodeE:1", &meta_bytes),
    ] {
        let port = server.port.to_string();
        let found = std::process::Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &port, "--raw", "GET", key])
            .output();
        let Ok(found) = found else { return servers::skipped("redis values", "no redis-cli") };
        // The program ends what it prints with a newline of its own.
        assert_eq!(found.stdout.strip_suffix(b"\n").unwrap(), &value[..], "{key}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            match digit <= three.len() {
                true => text.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char),
                false => text.push('='),
            }
        }
    }
    text
}
