//! Engines that find each other through each service.

use std::time::Duration;

use mooncake::config::EngineConfig;
use mooncake::descriptor::SegmentDescriptor;
use mooncake::engine::{Access, BufferSpec, Engine, Operation, Request, SegmentId};
use mooncake::error::ErrorKind;
use mooncake::metadata::Lifetime;

use crate::servers;
use crate::stores::{open, soon};

fn engine(metadata: &str, name: &str) -> Result<Engine, mooncake::error::Error> {
    Engine::create(EngineConfig { protocol: "loopback".into(), ..config(metadata, name) })
}

/// An engine that moves its bytes over TCP.
pub(crate) fn tcp_engine(metadata: &str, name: &str) -> Engine {
    Engine::create(config(metadata, name)).unwrap()
}

/// What stays on this host and looks after its entries often. Without a service the name is where
/// the engine listens, so the port comes from there.
pub(crate) fn config(metadata: &str, name: &str) -> EngineConfig {
    let port = match (metadata, name.rsplit_once(':')) {
        ("P2PHANDSHAKE", Some((_, port))) => port.parse().unwrap(),
        _ => 0,
    };
    EngineConfig {
        rpc_port: port,
        metadata: metadata.into(),
        local_name: name.into(),
        bind_address: Some("127.0.0.1".into()),
        publish_address: Some("127.0.0.1".into()),
        metadata_lease_s: 2,
        same_host: false,
        ..EngineConfig::default()
    }
}

/// Moves between `local` and the same number of bytes at `remote` of a peer.
pub(crate) fn request(
    operation: Operation,
    local: &[u8],
    segment: SegmentId,
    remote: u64,
) -> Request {
    let length = local.len() as u64;
    let local = local.as_ptr() as usize;
    Request { operation, local, segment, remote_address: remote, length }
}

pub(crate) fn spec(memory: &[u8]) -> BufferSpec {
    BufferSpec {
        address: memory.as_ptr() as usize,
        length: memory.len(),
        location: "*".into(),
        access: Access::ALL,
    }
}

fn engines_meet(metadata: &str) {
    let store = open(metadata);
    let names = ["meet-target:1", "meet-own:1"];
    let keys = names.map(|name| format!("mooncake/ram/{name}"));
    // Left behind by a dead process, or planted: never part of the engine's own segment.
    let forged = format!(
        "{{\"name\":\"{}\",\"protocol\":\"tcp\",\"tcp_data_port\":1,\
         \"buffers\":[{{\"name\":\"x\",\"addr\":4096,\"length\":4096}}]}}",
        names[0]
    );
    store.put(&keys[0], forged.as_bytes(), Lifetime::Permanent, soon()).unwrap();

    let (source, sink) = (vec![7u8; 4096], vec![0u8; 4096]);
    let target = engine(metadata, names[0]).unwrap();
    target.register(&[spec(&sink)]).unwrap();
    let own = engine(metadata, names[1]).unwrap();
    own.register(&[spec(&source)]).unwrap();
    let published = SegmentDescriptor::decode(&store.get(&keys[0], soon()).unwrap().unwrap());
    let addresses: Vec<u64> = published.unwrap().buffers.iter().map(|b| b.addr).collect();
    assert_eq!(addresses, [sink.as_ptr() as u64]);

    let segment = own.open_segment(names[0]).unwrap();
    let write = request(Operation::Write, &source, segment, sink.as_ptr() as u64);
    own.transfer(&[write], Some(Duration::from_secs(30))).unwrap();
    assert_eq!(source, sink);
    let forged = request(Operation::Read, &source, segment, 4096);
    let error = own.transfer(&[forged], Some(Duration::from_secs(30))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteRange, "{error}");
    assert_eq!(own.open_segment("nobody").unwrap_err().kind(), ErrorKind::SegmentNotFound);
    own.shutdown();
    target.shutdown();
    for key in keys {
        assert_eq!(store.get(&key, soon()).unwrap(), None, "{key} is left behind");
    }
}

/// The same without a service: names are places.
#[test]
fn without_a_service() {
    let (source, sink) = (vec![7u8; 4096], vec![0u8; 4096]);
    let place = format!("127.0.0.1:{}", servers::free_port());
    let target = tcp_engine("P2PHANDSHAKE", &place);
    assert_eq!(target.local_name(), place);
    target.register(&[spec(&sink)]).unwrap();
    let own = tcp_engine("P2PHANDSHAKE", "127.0.0.1");
    own.register(&[spec(&source)]).unwrap();
    let segment = own.open_segment(&place).unwrap();
    let write = request(Operation::Write, &source, segment, sink.as_ptr() as u64);
    own.transfer(&[write], Some(Duration::from_secs(30))).unwrap();
    assert_eq!(source, sink);
    own.close_segment(segment).unwrap();
    target.shutdown();
    for nobody in [place.as_str(), "nobody.invalid:1", "127.0.0.1:1"] {
        let error = own.open_segment(nobody).unwrap_err();
        // Where the resolver itself is away, it takes its time.
        let kinds = [ErrorKind::Unreachable, ErrorKind::Timeout];
        assert!(kinds.contains(&error.kind()), "{nobody}: {error}");
        assert_eq!(error.context("segment"), Some(nobody), "{error}");
    }
}

#[test]
fn through_http() {
    let server = servers::own_http(&[]);
    engines_meet(&(server.url("http") + "/metadata"));
}

#[test]
fn through_etcd() {
    let Some(server) = servers::etcd(false) else { return };
    engines_meet(&format!("127.0.0.1:{}", server.port));
}

#[test]
fn through_redis() {
    let Some(server) = servers::redis(&[]) else { return };
    engines_meet(&server.url("redis"));
}

#[test]
fn a_service_that_is_away_is_a_status_of_create() {
    let port = servers::free_port();
    for metadata in [
        format!("http://127.0.0.1:{port}/metadata"),
        format!("etcd://127.0.0.1:{port}"),
        format!("redis://127.0.0.1:{port}"),
    ] {
        let Err(error) = engine(&metadata, "away:1") else { panic!("{metadata} served") };
        assert_eq!(error.kind(), ErrorKind::MetadataUnavailable, "{metadata}: {error}");
    }
}

/// One name, killed and started over and over: every start succeeds, and nothing piles up.
#[test]
fn restarts_under_one_name() {
    let server = servers::own_http(&[]);
    let metadata = server.url("http") + "/metadata";
    let store = open(&metadata);
    let mut ports = Vec::new();
    for _ in 0..5 {
        let alive = engine(&metadata, "again:1").unwrap();
        ports.push(alive.rpc_port());
        let found = store.get("mooncake/rpc_meta/again:1", soon()).unwrap().unwrap();
        let text = String::from_utf8(found.clone()).unwrap();
        assert!(text.contains(&alive.rpc_port().to_string()), "{text}");
        // The newer of two live engines is refused; the older one is not disturbed.
        let second = engine(&metadata, "again:1").map(|_| ()).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Rejected, "{second}");
        assert_eq!(store.get("mooncake/rpc_meta/again:1", soon()).unwrap().unwrap(), found);
        drop(alive);
        // As if it had been killed: its entry is still there.
        store.put("mooncake/rpc_meta/again:1", &found, Lifetime::Permanent, soon()).unwrap();
    }
    assert_eq!(ports.len(), 5);
}
