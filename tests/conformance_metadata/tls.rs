//! Services behind TLS: whom a client trusts, whom a service asks for a certificate, and what is
//! said when the two do not fit.

use std::sync::Arc;
use std::time::Duration;

use mooncake::config::EngineConfig;
use mooncake::error::{Error, ErrorKind};
use mooncake::metadata::MetadataStore;
use mooncake::time::Deadline;

use crate::servers::{self, Clients, Server};
use crate::stores::open_with;
use crate::suite::{conforms, Traits, REFUSES, REPLACES};

const KEY: &str = "mooncake/ram/tls:1";
const TIMEOUT: Duration = Duration::from_secs(2);

/// One service with TLS, and how engines are told about it.
struct Secured {
    server: Server,
    metadata: String,
    traits: &'static Traits,
    /// `etcd_tls`, which only etcd needs.
    etcd_tls: bool,
}

fn secured(clients: Clients) -> Vec<Secured> {
    let etcd = servers::start_etcd(Some(clients)).map(|server| Secured {
        metadata: server.url("etcd"),
        traits: &REPLACES,
        etcd_tls: true,
        server,
    });
    let redis = servers::redis_tls(clients).map(|server| Secured {
        metadata: server.url("rediss"),
        traits: &REPLACES,
        etcd_tls: false,
        server,
    });
    let https = servers::https(clients).map(|server| Secured {
        metadata: server.url("https") + "/metadata",
        traits: &REFUSES,
        etcd_tls: false,
        server,
    });
    etcd.into_iter().chain(redis).chain(https).collect()
}

impl Secured {
    fn store(&self, adjust: impl FnOnce(&mut EngineConfig)) -> Arc<dyn MetadataStore> {
        open_with(&self.metadata, |config| {
            config.etcd_tls = self.etcd_tls;
            adjust(config);
        })
    }

    fn trusting(&self) -> Arc<dyn MetadataStore> {
        let (authority, ..) = servers::tls_files(&self.server);
        self.store(|config| config.metadata_ca_path = Some(authority))
    }

    fn certified(&self) -> Arc<dyn MetadataStore> {
        let (authority, certificate, key) = servers::tls_files(&self.server);
        self.store(|config| {
            config.metadata_ca_path = Some(authority);
            config.metadata_certificate_path = Some(certificate);
            config.metadata_key_path = Some(key);
        })
    }
}

fn refused(store: &dyn MetadataStore) -> Error {
    let error = store.get(KEY, Deadline::within(TIMEOUT)).unwrap_err();
    assert_eq!(error.context("service"), Some(store.scheme()), "{error}");
    assert_eq!(error.context("key"), Some(KEY), "{error}");
    error
}

fn is_unavailable(store: &dyn MetadataStore) {
    let error = refused(store);
    assert_eq!(error.kind(), ErrorKind::MetadataUnavailable, "{error}");
}

#[test]
fn services_with_tls() {
    for service in secured(Clients::Any) {
        conforms(&*service.trusting(), service.traits);
        // A certificate that nobody asked for does no harm.
        conforms(&*service.certified(), service.traits);
        // Without the authority nobody is trusted.
        is_unavailable(&*service.store(|_| {}));
    }
}

#[test]
fn services_that_ask_for_a_certificate() {
    for service in secured(Clients::Certified) {
        conforms(&*service.certified(), service.traits);
        is_unavailable(&*service.trusting());
    }
}

/// TLS to a service without, and none to a service with it.
#[test]
fn one_side_without_tls() {
    for service in secured(Clients::Any) {
        let plain = service.metadata.replace("https:", "http:").replace("rediss:", "redis:");
        let error = refused(&*open_with(&plain, |_| {}));
        let kinds = [
            ErrorKind::MetadataUnavailable,
            ErrorKind::MetadataMalformed,
            ErrorKind::Rejected,
            ErrorKind::Timeout,
        ];
        assert!(kinds.contains(&error.kind()), "{plain}: {error}");
    }
    let http = servers::own_http(&[]);
    is_unavailable(&*open_with(&(http.url("https") + "/metadata"), |_| {}));
    if let Some(redis) = servers::redis(&[]) {
        let error = refused(&*open_with(&redis.url("rediss"), |_| {}));
        let kinds = [ErrorKind::MetadataUnavailable, ErrorKind::Timeout];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    if let Some(etcd) = servers::etcd(false) {
        is_unavailable(&*open_with(&etcd.url("etcd"), |config| config.etcd_tls = true));
    }
}

/// A name that the certificate does not have is refused: the service may be anybody.
#[test]
fn the_certificate_of_somebody_else() {
    for service in secured(Clients::Any) {
        let (authority, ..) = servers::tls_files(&service.server);
        let elsewhere = service.metadata.replace("127.0.0.1", "127.0.0.2");
        // Only services that listen there can be asked; these listen on 127.0.0.1 alone, so a relay
        // stands at the other address.
        let Some(_relay) = Relay::start(service.server.port) else { continue };
        let store = open_with(&elsewhere, |config| {
            config.metadata_ca_path = Some(authority);
            config.etcd_tls = service.etcd_tls;
        });
        is_unavailable(&*store);
    }
}

/// Passes connections on from 127.0.0.2 to 127.0.0.1, at one port.
struct Relay;

impl Relay {
    fn start(port: u16) -> Option<Relay> {
        let listener = std::net::TcpListener::bind(("127.0.0.2", port)).ok()?;
        std::thread::spawn(move || {
            // As long as the test program lives; a handful of connections at most.
            for near in listener.incoming().flatten().take(16) {
                let Ok(far) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return };
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far.try_clone().unwrap(), near.try_clone().unwrap()),
                ] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Some(Relay)
    }
}
