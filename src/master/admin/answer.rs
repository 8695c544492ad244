//! Bodies of the pages, from what the index says.

use std::fmt::Write as _;

use axum::http::StatusCode;
use serde_json::{json, Map, Value as Json};

use crate::master::summary::size;
use crate::master::view::{SegmentView, View};
use crate::pool::outcome::Refusal;
use crate::pool::replica::{BufferRange, Place, Replica};

/// Upstream 0.3.7: used and whole bytes of all segments of one name.
pub(super) fn segment_figures(segments: &[SegmentView], name: &[u8]) -> Option<String> {
    let mut found = None;
    for segment in segments.iter().filter(|segment| segment.name.as_bytes() == name) {
        let sums: &mut (u64, u64) = found.get_or_insert((0, 0));
        sums.0 += segment.used;
        sums.1 += segment.size;
    }
    let (used, capacity) = found?;
    let name = String::from_utf8_lossy(name);
    Some(format!("{name}\nUsed(bytes): {used}\nCapacity(bytes) : {capacity}\n"))
}

/// Upstream 0.3.7: one line of JSON for each range in memory.
pub(super) fn ranges(replicas: &[Replica]) -> String {
    let mut body = String::new();
    for range in in_memory(replicas) {
        let endpoint = Json::from(range.endpoint.as_str());
        let _ = writeln!(
            body,
            "{{\"size_\":{},\"buffer_address_\":{},\"transport_endpoint_\":{endpoint}}}",
            range.size, range.address,
        );
    }
    body
}

fn in_memory(replicas: &[Replica]) -> impl Iterator<Item = &BufferRange> {
    replicas.iter().flat_map(|replica| match &replica.place {
        Place::Memory(ranges) => ranges.as_slice(),
        Place::Disk { .. } => &[],
    })
}

/// Upstream 0.3.13: what is known of each key.
pub(super) fn batch(view: &dyn View, keys: &[Vec<u8>]) -> Json {
    let mut data = Map::new();
    for key in keys {
        let entry = match view.peek(key) {
            Ok(replicas) => json!({
                "ok": true,
                "error": null,
                "values": in_memory(&replicas).map(range).collect::<Vec<Json>>(),
                "disk_values": in_files(&replicas),
                "local_disk_values": [],
                "nof_values": null,
            }),
            Err(why) => failed(why),
        };
        data.insert(String::from_utf8_lossy(key).into_owned(), entry);
    }
    json!({"success": true, "data": data})
}

/// Copies in files; nothing where there are none.
fn in_files(replicas: &[Replica]) -> Option<Vec<Json>> {
    let file = |replica: &Replica| match &replica.place {
        Place::Disk { path, size } => Some(json!({"file_path": path, "object_size": size})),
        Place::Memory(_) => None,
    };
    let files: Vec<Json> = replicas.iter().filter_map(file).collect();
    (!files.is_empty()).then_some(files)
}

fn failed(why: Refusal) -> Json {
    json!({
        "ok": false,
        "error": why.name(),
        "values": null,
        "disk_values": null,
        "local_disk_values": null,
        "nof_values": null,
    })
}

fn range(range: &BufferRange) -> Json {
    json!({
        "size_": range.size,
        "buffer_address_": range.address,
        "protocol_": range.protocol,
        "transport_endpoint_": range.endpoint,
    })
}

/// Upstream 0.3.13: everything about every segment.
pub(super) fn segments_detail(segments: &[SegmentView]) -> Json {
    let one = |segment: &SegmentView| {
        let percent = segment.used as f64 * 100.0 / segment.size.max(1) as f64;
        json!({
            "segment_name": segment.name,
            "segment_id": segment.id,
            "client_id": segment.client,
            "base_address": segment.base,
            "size_bytes": segment.size,
            "size_human": size(segment.size),
            "te_endpoint": segment.endpoint,
            "protocol": segment.protocol,
            "status": status(segment).1,
            "allocator_used_bytes": segment.used,
            "allocator_capacity_bytes": segment.size,
            "allocator_usage_percent": percent,
        })
    };
    json!({
        "total_segments": segments.len(),
        "segments": segments.iter().map(one).collect::<Vec<Json>>(),
    })
}

/// Number and name; upstream has the first only.
fn status(segment: &SegmentView) -> (u8, &'static str) {
    if segment.is_suspect {
        (2, "SUSPECT")
    } else {
        (1, "OK")
    }
}

/// Upstream 0.3.13: how one segment is.
pub(super) fn segment_status(found: Option<&SegmentView>, asked: &str) -> (StatusCode, Json) {
    match found {
        Some(segment) => {
            let (number, name) = status(segment);
            let body = json!({
                "success": true,
                "segment": segment.name,
                "status": number,
                "status_name": name,
                "error_code": 0,
                "error_message": "",
            });
            (StatusCode::OK, body)
        }
        None => {
            let is_missing = asked.is_empty();
            let why = if is_missing { Refusal::INVALID_PARAMS } else { Refusal::SEGMENT_NOT_FOUND };
            let body = json!({
                "success": false,
                "segment": asked,
                "error_code": why.number(),
                "error_message": why.name(),
            });
            (if is_missing { StatusCode::BAD_REQUEST } else { StatusCode::NOT_FOUND }, body)
        }
    }
}
