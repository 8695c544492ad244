//! The list of metadata services: a connection string and settings to a store.

use std::sync::Arc;
#[cfg(feature = "_client")]
use std::time::Duration;

use crate::config::EngineConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::net::address::MetadataAddress;
#[cfg(feature = "_client")]
use crate::net::tls::TlsFiles;

use super::memory::MemoryStore;
use super::MetadataStore;

/// The store at `address`, or none for `P2PHANDSHAKE`. Connects to nothing yet.
pub fn open(
    address: &MetadataAddress,
    config: &EngineConfig,
) -> Result<Option<Arc<dyn MetadataStore>>> {
    let store: Arc<dyn MetadataStore> = match address {
        MetadataAddress::P2pHandshake => return Ok(None),
        MetadataAddress::Memory(hub) => MemoryStore::shared(hub),
        #[cfg(feature = "http")]
        MetadataAddress::Http(url) => {
            Arc::new(super::http::HttpStore::new(url, &tls_files(config), lease(config))?)
        }
        #[cfg(feature = "etcd")]
        MetadataAddress::Etcd(endpoints) => {
            Arc::new(super::etcd::EtcdStore::new(etcd_settings(endpoints, config))?)
        }
        #[cfg(feature = "redis")]
        MetadataAddress::Redis(url) => {
            Arc::new(super::redis::RedisStore::new(super::redis::Settings {
                url,
                default_port: config.handshake_port,
                username: &config.redis_username,
                password: &config.redis_password,
                database: config.redis_db_index,
                files: tls_files(config),
                lease: lease(config),
            })?)
        }
        #[allow(unreachable_patterns)]
        left_out => return Err(unsupported(left_out, config)),
    };
    Ok(Some(store))
}

/// How a cluster is reached.
#[cfg(feature = "etcd")]
pub fn etcd_settings<'a>(
    endpoints: &'a [String],
    config: &'a EngineConfig,
) -> super::etcd::Settings<'a> {
    super::etcd::Settings {
        endpoints,
        tls: config.etcd_tls,
        username: &config.etcd_username,
        password: &config.etcd_password,
        files: tls_files(config),
        lease: lease(config),
    }
}

#[cfg(feature = "_client")]
fn tls_files(config: &EngineConfig) -> TlsFiles {
    TlsFiles {
        authorities: config.metadata_ca_path.clone(),
        certificate: config.metadata_certificate_path.clone(),
        key: config.metadata_key_path.clone(),
    }
}

#[cfg(feature = "_client")]
fn lease(config: &EngineConfig) -> Option<Duration> {
    match config.metadata_lease_s {
        0 => None,
        seconds => Some(Duration::from_secs(seconds.into())),
    }
}

fn unsupported(address: &MetadataAddress, config: &EngineConfig) -> Error {
    let scheme = match address {
        MetadataAddress::Http(_) => "http",
        MetadataAddress::Etcd(_) => "etcd",
        MetadataAddress::Redis(_) => "redis",
        MetadataAddress::P2pHandshake | MetadataAddress::Memory(_) => "",
    };
    let text = "this metadata service is known, but not part of this build";
    Error::new(ErrorKind::Unsupported, text)
        .with("scheme", scheme)
        .with("origin", config.origins.get("metadata"))
}
