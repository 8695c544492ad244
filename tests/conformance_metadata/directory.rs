//! Names over every kind of store, and who owns a name.

use std::sync::Arc;
use std::time::Duration;

use mooncake::descriptor::SegmentDescriptor;
use mooncake::error::ErrorKind;
use mooncake::metadata::directory::StoreDirectory;
use mooncake::metadata::document::RpcMeta;
use mooncake::metadata::handshake_server::{HandshakeHandler, HandshakeServer};
use mooncake::metadata::memory::{Faults, MemoryStore};
use mooncake::metadata::p2p::HandshakeClient;
use mooncake::metadata::{Directory, Lifetime, MetadataStore};
use mooncake::net::address::Family;
use mooncake::net::handshake::NotifyMessage;

use crate::servers;
use crate::stores::{open, soon};

pub(crate) fn handshake() -> HandshakeClient {
    HandshakeClient {
        family: Family::Any,
        bytes_max: 1 << 20,
        connect_timeout: Duration::from_secs(1),
        default_port: 12_001,
        is_over: Arc::new(mooncake::net::ending::Ending::new().unwrap()),
    }
}

fn descriptor(name: &str) -> SegmentDescriptor {
    let text = format!(
        "{{\"name\":\"{name}\",\"protocol\":\"tcp\",\"tcp_data_port\":15000,\
         \"tcp_data_host\":\"127.0.0.1\",\"buffers\":[{{\"name\":\"{name}\",\"addr\":4096,\
         \"length\":64}}]}}"
    );
    SegmentDescriptor::decode(text.as_bytes()).unwrap()
}

fn location(port: u16) -> RpcMeta {
    RpcMeta { ip_or_host_name: "127.0.0.1".into(), rpc_port: port }
}

fn names_lead_somewhere(store: Arc<dyn MetadataStore>) {
    let directory = StoreDirectory::new(Arc::clone(&store), "cluster", handshake());
    let nobody = directory.fetch("nobody:1", soon()).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::SegmentNotFound);
    assert_eq!(nobody.context("service"), Some(store.scheme()));
    assert_eq!(nobody.context("key"), Some("mooncake/cluster/ram/nobody:1"));

    let name = "some where/node:1";
    let (own, place) = (descriptor(name), location(15_001));
    directory.publish(&own, &place, soon()).unwrap();
    assert_eq!(directory.locate(name, soon()).unwrap(), place);
    let peer = directory.fetch(name, soon()).unwrap();
    assert_eq!(peer.descriptor.buffers, own.buffers);
    assert_eq!(peer.host, "127.0.0.1");
    directory.withdraw(name, soon()).unwrap();
    assert_eq!(directory.fetch(name, soon()).unwrap_err().kind(), ErrorKind::SegmentNotFound);
    assert_eq!(directory.locate(name, soon()).unwrap_err().kind(), ErrorKind::SegmentNotFound);

    let key = "mooncake/cluster/ram/broken:1";
    let deep = "[".repeat(100_000);
    let huge = "x".repeat(1 << 20);
    let zeros = "{\"name\":\"n\",\"protocol\":\"tcp\",\"tcp_data_port\":1,\"buffers\":[{}]}";
    for document in [
        "",
        "[]",
        "null",
        "7",
        "not json",
        "{",
        "{}x",
        "\u{feff}{}",
        &deep,
        &huge,
        "{\"name\":1}",
        "{\"protocol\":[]}",
        "{\"tcp_data_port\":\"15000\"}",
        "{\"tcp_data_port\":65536}",
        "{\"tcp_data_port\":1.5}",
        "{\"buffers\":7}",
        "{\"buffers\":[7]}",
        "{\"buffers\":[{\"addr\":-1}]}",
        "{\"buffers\":[{\"addr\":1e3}]}",
        "{\"buffers\":[{\"addr\":\"4096\"}]}",
        "{\"buffers\":[{\"addr\":18446744073709551616}]}",
        "{\"buffers\":[{\"addr\":18446744073709551615,\"length\":2,\"name\":\"x\"}]}",
        "{\"mooncake_native\":7}",
        zeros,
    ] {
        store.put(key, document.as_bytes(), Lifetime::Session, soon()).unwrap();
        let start = &document[..document.len().min(60)];
        let Err(error) = directory.fetch("broken:1", soon()) else { panic!("accepted: {start}") };
        assert_eq!(error.kind(), ErrorKind::MetadataMalformed, "{start}: {error}");
        assert_eq!(error.context("key"), Some(key), "{start}");
        assert_eq!(error.context("service"), Some(store.scheme()), "{start}");
        assert!(error.to_string().len() < 2000, "{start}: {} bytes", error.to_string().len());
        store.remove(key, soon()).unwrap();
    }
    let key = "mooncake/cluster/rpc_meta/broken:1";
    for document in
        ["", "[]", "{\"rpc_port\":\"1\"}", "{\"rpc_port\":65536}", "{\"ip_or_host_name\":1}"]
    {
        store.put(key, document.as_bytes(), Lifetime::Session, soon()).unwrap();
        let error = directory.locate("broken:1", soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MetadataMalformed, "{document}: {error}");
        assert_eq!(error.context("key"), Some(key), "{document}");
        assert_eq!(error.context("service"), Some(store.scheme()), "{document}");
        store.remove(key, soon()).unwrap();
    }
}

#[test]
fn names_over_every_store() {
    names_lead_somewhere(open("memory://directory"));
    let server = servers::own_http(&[]);
    names_lead_somewhere(open(&(server.url("http") + "/metadata")));
    if let Some(server) = servers::etcd(false) {
        names_lead_somewhere(open(&server.url("etcd")));
    }
    if let Some(server) = servers::redis(&[]) {
        names_lead_somewhere(open(&server.url("redis")));
    }
}

/// An engine's handshake plane that says it is `0`.
struct Named(&'static str);

impl HandshakeHandler for Named {
    fn descriptor_line(&self) -> Vec<u8> {
        match self.0 {
            // As upstream 0.3.13 answers.
            "" => b"null\n".to_vec(),
            name => {
                let life = "\"timestamp\":\"then\",\"tcp_data_port\":1";
                format!("{{\"name\":\"{name}\",\"protocol\":\"tcp\",{life}}}\n").into_bytes()
            }
        }
    }

    fn notify(&self, _: NotifyMessage) -> bool {
        false
    }

    fn connection_line(&self, _: &[u8]) -> Vec<u8> {
        b"{}\n".to_vec()
    }
}

fn live_engine(name: &'static str) -> (HandshakeServer, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (HandshakeServer::start(listener, Arc::new(Named(name)), 1 << 20).unwrap(), port)
}

/// A store that refuses duplicates: a name belongs to whoever is alive.
fn claims(store: Arc<dyn MetadataStore>) {
    let engine = || StoreDirectory::new(Arc::clone(&store), "", handshake());
    let own = descriptor("claimed:1");
    let (holder, holder_port) = live_engine("claimed:1");
    let first = engine();
    first.publish(&own, &location(holder_port), soon()).unwrap();
    // The holder answers: the name stays with it.
    let second = engine();
    let error = second.publish(&own, &location(1), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    assert_eq!(error.context("holder_port"), Some(holder_port.to_string().as_str()));
    second.withdraw("claimed:1", soon()).unwrap();
    assert_eq!(first.locate("claimed:1", soon()).unwrap().rpc_port, holder_port);
    // It is gone: a successor of the same name starts at once.
    drop(holder);
    second.publish(&own, &location(2), soon()).unwrap();
    assert_eq!(first.locate("claimed:1", soon()).unwrap().rpc_port, 2);
    // What the first one leaves behind is not the successor's entry.
    first.withdraw("claimed:1", soon()).unwrap();
    assert_eq!(second.locate("claimed:1", soon()).unwrap().rpc_port, 2);
    second.withdraw("claimed:1", soon()).unwrap();
    // Where somebody else listens now, the old owner of the name is gone, too.
    let (_other, other_port) = live_engine("other:1");
    engine().publish(&own, &location(other_port), soon()).unwrap();
    engine().publish(&own, &location(3), soon()).unwrap();
    // An upstream engine does not say its name, and keeps it.
    let (_upstream, upstream_port) = live_engine("");
    store.remove("mooncake/rpc_meta/claimed:1", soon()).unwrap();
    engine().publish(&own, &location(upstream_port), soon()).unwrap();
    let error = engine().publish(&own, &location(3), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    // The predecessor listened at our port, under another name of this host: that is only us.
    let (_own, own_port) = live_engine("claimed:1");
    let myself = SegmentDescriptor { timestamp: "then".into(), tcp_data_port: 1, ..own.clone() };
    store.remove("mooncake/rpc_meta/claimed:1", soon()).unwrap();
    let elsewhere = RpcMeta { ip_or_host_name: "localhost".into(), ..location(own_port) };
    engine().publish(&own, &elsewhere, soon()).unwrap();
    engine().publish(&myself, &location(own_port), soon()).unwrap();
    // Nonsense under the key is replaced like a dead engine's entry.
    store.remove("mooncake/rpc_meta/claimed:1", soon()).unwrap();
    let key = "mooncake/rpc_meta/claimed:1";
    store.put(key, b"nonsense", Lifetime::Permanent, soon()).unwrap();
    engine().publish(&own, &location(4), soon()).unwrap();
    assert_eq!(engine().locate("claimed:1", soon()).unwrap().rpc_port, 4);
}

#[test]
fn a_name_belongs_to_the_living() {
    let memory = MemoryStore::shared("claims");
    memory.set_faults(Faults { refuses_duplicates: true, ..Faults::default() });
    claims(memory);
    let server = servers::own_http(&[]);
    claims(open(&(server.url("http") + "/metadata")));
    for version in ["0.3.7.post2", "0.3.13.post1"] {
        let Some(server) = servers::upstream_http(version) else { continue };
        claims(open(&(server.url("http") + "/metadata")));
    }
}
