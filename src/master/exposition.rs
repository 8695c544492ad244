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

use super::latency::BOUNDS_US;
use super::state::{Operation, VALUE_SIZE_BOUNDS};
use super::view::{Figures, SegmentView, View};
use crate::rpc::message::Method;

/// A number that the page shows beside what is in the [`Figures`]: name, what it is, value.
pub type Extra = (&'static str, &'static str, u64);

/// Further counters of the process.
pub type Extras = Arc<dyn Fn() -> Vec<Extra> + Send + Sync>;

/// What is counted as batches. The others have requests and failures only.
const BATCHED: &[Operation] = &[
    Operation::BatchExistKey,
    Operation::BatchGetReplicaList,
    Operation::BatchPutStart,
    Operation::BatchPutEnd,
    Operation::BatchPutRevoke,
    Operation::BatchRemove,
];

/// What the page is made of.
#[derive(Clone)]
pub struct Sources {
    /// The index.
    pub view: Arc<dyn View>,
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
    for limit in VALUE_SIZE_BOUNDS {
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
        page.standing(&*self.view, &figures)?;
        page.segments(&segments)?;
        let (sizes, sum) = self.view.value_sizes();
        page.histogram("master_value_size_bytes", "Sizes of objects", sum, &sizes)?;
        for operation in Operation::ALL {
            let (name, tally) = (operation.name(), self.view.tally(*operation));
            let is_batch = BATCHED.contains(operation);
            for (what, help, value, is_for_all) in [
                ("requests", "Calls", tally.requests, true),
                ("failures", "Calls of which nothing succeeded", tally.failures, true),
                ("partial_successes", "Calls of which a part did", tally.partial_successes, false),
                ("items", "Entries of calls", tally.items, false),
                ("failed_items", "Entries that were refused", tally.failed_items, false),
            ] {
                if is_batch || is_for_all {
                    page.counter(&format!("master_{name}_{what}_total"), help, value)?;
                }
            }
        }
        page.evictions(&figures)?;
        page.latencies(&*self.view)?;
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
        let totals = &figures.totals;
        let journal = figures.journal.clone().unwrap_or_default();
        for (name, help, value) in [
            ("master_allocated_bytes", "Bytes of objects", totals.used),
            ("master_total_capacity_bytes", "Bytes of segments", totals.capacity),
            ("master_allocated_file_size_bytes", "Bytes of files", totals.file_bytes),
            ("mooncake_master_files", "Files of the disk tier", totals.files),
            (
                "master_total_file_capacity_bytes",
                "Bytes of objects that the shared folder may hold",
                file_capacity.unwrap_or(0),
            ),
            ("master_key_count", "Objects, unfinished ones too", totals.keys),
            (
                "master_soft_pin_key_count",
                "Objects that were put with a soft pin",
                totals.soft_pinned,
            ),
            ("master_active_clients", "Clients heard of lately", totals.clients),
            (
                "mooncake_master_quarantine_bytes",
                "Bytes whose object is gone and whose readers may not be",
                totals.resting,
            ),
            ("mooncake_master_segments", "Segments", totals.segments),
            ("mooncake_master_waiting_puts", "Puts that wait for room", figures.waiting_puts),
            (
                "mooncake_master_journal_works",
                "1 while changes are written to the journal",
                journal.works.into(),
            ),
            ("mooncake_master_journal_bytes", "Bytes of the journal", journal.bytes),
        ] {
            self.gauge(name, help, value)?;
        }
        for (name, help, value) in [
            (
                "mooncake_master_abandoned_puts_total",
                "Unfinished puts that were given up for their owner",
                totals.abandoned_puts,
            ),
            (
                "mooncake_master_reported_objects_total",
                "Objects taken over from what clients report",
                totals.reported_objects,
            ),
            (
                "mooncake_master_revived_files_total",
                "Files of an earlier master that were taken over",
                totals.revived_files,
            ),
            (
                "mooncake_master_evicted_files_total",
                "Files that went because there were too many bytes of them",
                totals.evicted_files,
            ),
            (
                "mooncake_master_evicted_file_bytes_total",
                "Bytes of these files' objects",
                totals.evicted_file_bytes,
            ),
            (
                "mooncake_master_refused_files_total",
                "Objects that got no file because the shared folder was full",
                totals.refused_files,
            ),
            ("mooncake_master_waited_puts_total", "Puts that waited", totals.waited_puts),
            (
                "master_put_start_partial_allocations_total",
                "Puts with fewer copies than were asked for",
                totals.partial_allocations,
            ),
            (
                "mooncake_master_expired_clients_total",
                "Clients given up because they were silent",
                totals.expired_clients,
            ),
        ] {
            self.counter(name, help, value)?;
        }
        Ok(())
    }

    /// What a standby and its leader differ in.
    fn standing(&mut self, view: &dyn View, figures: &Figures) -> fmt::Result {
        let standing = view.standing();
        let help = "1 while this master serves clients";
        self.gauge("mooncake_master_leads", help, standing.leads.into())?;
        if !standing.elects {
            return Ok(());
        }
        let version = u64::try_from(figures.view_version).unwrap_or(0);
        let help = "Version of the view in which it leads; 0 on a standby";
        self.gauge("mooncake_master_view_version", help, version)
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
        let suspect = segments.iter().filter(|segment| segment.is_suspect).count() as u64;
        let help = "Segments in which nothing is placed at present";
        self.gauge("mooncake_master_suspect_segments", help, suspect)
    }

    fn evictions(&mut self, figures: &Figures) -> fmt::Result {
        let totals = &figures.totals;
        // 0.3.13 counts for each tier; there is one here.
        for (name, name_mem, help, value) in [
            (
                "master_successful_evictions_total",
                "master_successful_evictions_mem",
                "Passes of eviction that freed something",
                totals.successful_evictions,
            ),
            (
                "master_attempted_evictions_total",
                "master_attempted_evictions_mem",
                "Passes of eviction",
                totals.attempted_evictions,
            ),
            (
                "master_evicted_key_count",
                "master_evicted_key_count_mem",
                "Objects evicted",
                totals.evicted_keys,
            ),
            (
                "master_evicted_size_bytes",
                "master_evicted_size_bytes_mem",
                "Bytes evicted",
                totals.evicted_bytes,
            ),
        ] {
            self.counter(name, help, value)?;
            self.counter(name_mem, help, value)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, sum: u64, classes: &[u64]) -> fmt::Result {
        let kind = MetricType::Histogram;
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        let (count, classes) = with_bounds(&VALUE_SIZE_BOUNDS, classes, 1.0);
        metric.encode_histogram::<NoLabelSet>(sum as f64, count, &classes, None)
    }

    fn latencies(&mut self, view: &dyn View) -> fmt::Result {
        let name = "mooncake_master_call_seconds";
        let help = "Time from the arrival of a call to its answer";
        let kind = MetricType::Histogram;
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        for method in Method::ALL {
            let times = view.latency(method);
            let (count, classes) = with_bounds(&BOUNDS_US, &times.classes, 1e-6);
            if count == 0 {
                continue;
            }
            let seconds = times.sum_us as f64 * 1e-6;
            metric
                .encode_family(&[("call", format!("{method:?}"))])?
                .encode_histogram::<NoLabelSet>(seconds, count, &classes, None)?;
        }
        Ok(())
    }
}

/// Their number, and each class with its bound; the encoder adds them up.
fn with_bounds(bounds: &[u64], classes: &[u64], scale: f64) -> (u64, Vec<(f64, u64)>) {
    let scaled = bounds.iter().map(|bound| *bound as f64 * scale);
    let all = scaled.chain([f64::INFINITY]).zip(classes.iter().copied()).collect();
    (classes.iter().sum(), all)
}
