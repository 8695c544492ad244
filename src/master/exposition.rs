//! `/metrics`: upstream 0.3.7's families under their names, those of 0.3.13 where there is data for
//! them, and ours, which begin with `mooncake_master_`.
//!
//! The text comes from `prometheus-client`. Its counters end in `_total` or not at all, upstream's
//! do as they like; so a family is declared a counter and its value written as it is.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::counters::Counters;
use super::view::{Figures, SegmentView, View};
use crate::rpc::message::Method;

/// A number that the page shows beside what is in the [`Figures`]: name, what it is, value.
pub type Extra = (&'static str, &'static str, u64);

/// Further counters of the process.
pub type Extras = Arc<dyn Fn() -> Vec<Extra> + Send + Sync>;

/// Single and batched methods by upstream's names.
const METHODS: &[(&str, Method)] = &[
    ("exist_key", Method::Exists),
    ("put_start", Method::PutStart),
    ("put_end", Method::PutEnd),
    ("put_revoke", Method::PutRevoke),
    ("get_replica_list", Method::Lookup),
    ("get_replica_list_by_regex", Method::LookupByPattern),
    ("remove", Method::Remove),
    ("remove_by_regex", Method::RemoveByPattern),
    ("remove_all", Method::RemoveAll),
    ("mount_segment", Method::Mount),
    ("unmount_segment", Method::Unmount),
    ("remount_segment", Method::Remount),
    ("ping", Method::Ping),
];
const BATCHED: &[(&str, Method)] = &[
    ("batch_exist_key", Method::BatchExists),
    ("batch_get_replica_list", Method::BatchLookup),
    ("batch_put_start", Method::BatchPutStart),
    ("batch_put_end", Method::BatchPutEnd),
    ("batch_put_revoke", Method::BatchPutRevoke),
];

/// What the page is made of.
#[derive(Clone)]
pub struct Sources {
    /// The index.
    pub view: Arc<dyn View>,
    /// Calls.
    pub counters: Arc<Counters>,
    /// What the shared folder is said to hold; absent without one.
    pub file_capacity: Option<u64>,
    /// Counters of the server of calls.
    pub extras: Extras,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// The page.
pub fn exposition(sources: &Sources) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sources.clone()));
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode_registry(&mut text, &registry);
    // Upstream's spelling of the classes of sizes; to a reader of numbers it is the same.
    for limit in super::counters::SIZES {
        text = text.replace(&format!("le=\"{limit}.0\""), &format!("le=\"{limit}.000000\""));
    }
    text
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let figures = self.view.figures();
        let segments = self.view.segments();
        let mut page = Page { encoder: &mut encoder };
        page.gauges(&figures, self.file_capacity)?;
        page.segments(&segments)?;
        let (sum, count, classes) = self.counters.sizes();
        page.histogram("master_value_size_bytes", "Sizes of objects", sum, count, &classes)?;
        for (name, method) in METHODS {
            let counts = self.counters.read(*method);
            let help = "Calls";
            page.counter(&format!("master_{name}_requests_total"), help, counts.requests)?;
            let help = "Calls that were refused";
            page.counter(&format!("master_{name}_failures_total"), help, counts.failures)?;
        }
        for (name, method) in BATCHED {
            let counts = self.counters.read(*method);
            for (what, help, value) in [
                ("requests", "Calls", counts.requests),
                ("failures", "Calls of which nothing succeeded", counts.failures),
                ("partial_successes", "Calls of which a part succeeded", counts.partial),
                ("items", "Entries of calls", counts.items),
                ("failed_items", "Entries that were refused", counts.failed_items),
            ] {
                page.counter(&format!("master_{name}_{what}_total"), help, value)?;
            }
        }
        page.evictions(&figures)?;
        page.latencies(&self.counters)?;
        for (name, help, value) in (self.extras)() {
            page.counter(name, help, value)?;
        }
        Ok(())
    }
}

/// One page being written.
struct Page<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Page<'_, '_> {
    fn number(&mut self, name: &str, help: &str, kind: MetricType, value: u64) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, kind)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.number(name, help, MetricType::Counter, value)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.number(name, help, MetricType::Gauge, value)
    }

    fn gauges(&mut self, figures: &Figures, file_capacity: Option<u64>) -> fmt::Result {
        self.gauge("master_allocated_bytes", "Bytes of objects", figures.allocated_bytes)?;
        self.gauge("master_total_capacity_bytes", "Bytes of segments", figures.capacity_bytes)?;
        self.gauge("master_allocated_file_size_bytes", "Bytes of files", 0)?;
        let help = "Bytes that the shared folder is said to hold";
        let capacity = file_capacity.unwrap_or(0);
        self.gauge("master_total_file_capacity_bytes", help, capacity)?;
        self.gauge("master_key_count", "Objects, unfinished ones too", figures.keys)?;
        let help = "Objects that were put with a soft pin";
        self.gauge("master_soft_pin_key_count", help, figures.soft_pinned_keys)?;
        self.gauge("master_active_clients", "Clients heard of lately", figures.clients)?;
        let help = "Bytes whose object is gone and whose readers may not be";
        self.gauge("mooncake_master_quarantine_bytes", help, figures.quarantine_bytes)?;
        self.gauge("mooncake_master_segments", "Segments", figures.segments)?;
        let help = "Segments in which nothing is placed at present";
        self.gauge("mooncake_master_suspect_segments", help, figures.suspect_segments)?;
        let help = "Puts that wait for room";
        self.gauge("mooncake_master_waiting_puts", help, figures.waiting_puts)?;
        let journal = figures.journal.clone().unwrap_or_default();
        let help = "1 while changes are written to the journal";
        self.gauge("mooncake_master_journal_works", help, journal.works.into())?;
        self.gauge("mooncake_master_journal_bytes", "Bytes of the journal", journal.bytes)?;
        let help = "Records written to the journal";
        self.counter("mooncake_master_journal_records_total", help, journal.records)
    }

    /// Segments of one name are one series.
    fn segments(&mut self, segments: &[SegmentView]) -> fmt::Result {
        let mut names = std::collections::BTreeMap::new();
        for segment in segments {
            let sums: &mut (u64, u64) = names.entry(segment.name.as_str()).or_default();
            sums.0 += segment.used;
            sums.1 += segment.size;
        }
        for (name, help, pick) in [
            ("segment_allocated_bytes", "Bytes of objects", 0),
            ("segment_total_capacity_bytes", "Bytes of the segment", 1),
        ] {
            let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (segment, sums) in &names {
                let value = if pick == 0 { sums.0 } else { sums.1 };
                metric.encode_family(&[("segment", *segment)])?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn evictions(&mut self, figures: &Figures) -> fmt::Result {
        let done = "Passes of eviction that freed something";
        let (tried, keys, bytes) = ("Passes of eviction", "Objects evicted", "Bytes evicted");
        self.counter("master_successful_evictions_total", done, figures.evictions_done)?;
        self.counter("master_attempted_evictions_total", tried, figures.evictions_tried)?;
        self.counter("master_evicted_key_count", keys, figures.evicted_keys)?;
        self.counter("master_evicted_size_bytes", bytes, figures.evicted_bytes)?;
        // 0.3.13 counts for each tier; there is one here.
        self.counter("master_successful_evictions_mem", done, figures.evictions_done)?;
        self.counter("master_attempted_evictions_mem", tried, figures.evictions_tried)?;
        self.counter("master_evicted_key_count_mem", keys, figures.evicted_keys)?;
        self.counter("master_evicted_size_bytes_mem", bytes, figures.evicted_bytes)
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        sum: u64,
        count: u64,
        classes: &[(u64, u64)],
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        metric.encode_histogram::<NoLabelSet>(
            sum as f64,
            count,
            &with_rest(count, classes, 1.0),
            None,
        )
    }

    fn latencies(&mut self, counters: &Counters) -> fmt::Result {
        let name = "mooncake_master_call_seconds";
        let help = "Time from the arrival of a call to its answer";
        let kind = MetricType::Histogram;
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        for method in Method::ALL {
            let (sum, count, classes) = counters.latency_us(method);
            if count == 0 {
                continue;
            }
            let label = [("call", format!("{method:?}"))];
            let classes = with_rest(count, &classes, 1e-6);
            let seconds = sum as f64 * 1e-6;
            metric
                .encode_family(&label)?
                .encode_histogram::<NoLabelSet>(seconds, count, &classes, None)?;
        }
        Ok(())
    }
}

/// The classes with the one for everything beyond; the encoder adds them up.
fn with_rest(count: u64, classes: &[(u64, u64)], scale: f64) -> Vec<(f64, u64)> {
    let inside: u64 = classes.iter().map(|(_, number)| number).sum();
    let mut all: Vec<(f64, u64)> =
        classes.iter().map(|(limit, number)| (*limit as f64 * scale, *number)).collect();
    all.push((f64::INFINITY, count.saturating_sub(inside)));
    all
}
