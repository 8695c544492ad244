//! Counters of one engine, readable as numbers and as Prometheus text. No server lives here.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// All counters of an engine. Increments are single atomic additions.
pub struct Metrics {
    /// Tasks handed in.
    pub requests: Counter,
    /// Tasks that failed or were cancelled.
    pub requests_failed: Counter,
    /// Bytes written to peers.
    pub bytes_written: Counter,
    /// Bytes read from peers.
    pub bytes_read: Counter,
    /// Slices that were tried again after a failure.
    pub retries: Counter,
    /// Descriptors fetched because something failed or was asked for.
    pub refreshes: Counter,
    /// Connections made to peers.
    pub connections_opened: Counter,
    /// Connections of peers accepted.
    pub connections_accepted: Counter,
    /// Connections refused or closed because they broke a rule.
    pub connections_refused: Counter,
    /// Requests of peers that were refused (range, key, access).
    pub remote_requests_refused: Counter,
    /// Bytes that peers wrote into own memory.
    pub bytes_received: Counter,
    /// Bytes that peers read from own memory.
    pub bytes_served: Counter,
    /// Notifications taken in.
    pub notifications_received: Counter,
    /// Notifications refused because nobody fetches them.
    pub notifications_dropped: Counter,
    /// Bytes of those written and read that were moved without a socket.
    pub same_host_bytes: Counter,
    /// Blocks of them.
    pub same_host_blocks: Counter,
    /// Connections of peers open now.
    pub connections_serving: Gauge,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mooncake");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let requests = counter("requests", "Requests handed in");
        let requests_failed = counter("requests_failed", "Requests that failed");
        let retries = counter("retries", "Slices tried again after a failure");
        let refreshes = counter("refreshes", "Segment descriptors fetched again");
        let connections_opened = counter("connections_opened", "Connections made to peers");
        let connections_accepted = counter("connections_accepted", "Connections taken from peers");
        let connections_refused =
            counter("connections_refused", "Connections closed because they broke a rule");
        let remote_requests_refused =
            counter("remote_requests_refused", "Requests of peers outside what is granted");
        let notifications_received = counter("notifications_received", "Notifications taken in");
        let notifications_dropped =
            counter("notifications_dropped", "Notifications refused because the list was full");
        let same_host_blocks =
            counter("same_host_blocks", "Blocks moved without a socket, to and from peers here");
        let mut bytes = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
            counter
        };
        let bytes_written = bytes("written", "Written to peers");
        let bytes_read = bytes("read", "Read from peers");
        let bytes_received = bytes("received", "Written into own memory by peers");
        let bytes_served = bytes("served", "Read from own memory by peers");
        let same_host_bytes = bytes("same_host", "Of those written and read, without a socket");
        let connections_serving = Gauge::default();
        registry.register(
            "connections_serving",
            "Connections of peers open now",
            connections_serving.clone(),
        );
        Metrics {
            requests,
            requests_failed,
            bytes_written,
            bytes_read,
            retries,
            refreshes,
            connections_opened,
            connections_accepted,
            connections_refused,
            remote_requests_refused,
            bytes_received,
            bytes_served,
            notifications_received,
            notifications_dropped,
            same_host_bytes,
            same_host_blocks,
            connections_serving,
            registry,
        }
    }
}

impl Metrics {
    /// The OpenMetrics text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_every_counter_with_its_value() {
        let metrics = Metrics::default();
        metrics.bytes_written.inc_by(4096);
        metrics.connections_serving.inc();
        let text = metrics.text();
        assert!(text.contains("mooncake_written_bytes_total 4096"), "{text}");
        assert!(text.contains("mooncake_connections_serving 1"), "{text}");
    }
}
