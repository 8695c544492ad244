//! Stores over the services, made as an engine makes them: from its settings.

use std::sync::Arc;
use std::time::Duration;

use mooncake::config::EngineConfig;
use mooncake::metadata::{backend, MetadataStore};
use mooncake::net::address::parse_metadata;
use mooncake::time::Deadline;

/// Beyond anything a working service needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn soon() -> Deadline {
    Deadline::within(PATIENCE)
}

pub(crate) fn open(metadata: &str) -> Arc<dyn MetadataStore> {
    open_with(metadata, |_| {})
}

pub(crate) fn open_with(
    metadata: &str,
    adjust: impl FnOnce(&mut EngineConfig),
) -> Arc<dyn MetadataStore> {
    let mut config = EngineConfig { metadata: metadata.to_owned(), ..EngineConfig::default() };
    adjust(&mut config);
    let address = parse_metadata(&config.metadata).unwrap();
    backend::open(&address, &config).unwrap().unwrap()
}
