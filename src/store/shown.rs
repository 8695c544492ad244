//! Replicas as JSON, for those who only show them.
//!
//! Owns nothing; any thread enters it. It must not decide anything.

use serde_json::{json, Value};

use crate::pool::replica::{Place, Replica, ReplicaStatus};

/// One replica: "kind", "status", "size", and "ranges" or "path".
pub fn replica_shown(replica: &Replica) -> Value {
    let status = match replica.status {
        ReplicaStatus::Undefined => "undefined",
        ReplicaStatus::Initialized => "initialized",
        ReplicaStatus::Processing => "processing",
        ReplicaStatus::Complete => "complete",
        ReplicaStatus::Removed => "removed",
        ReplicaStatus::Failed => "failed",
    };
    match &replica.place {
        Place::Memory(ranges) => {
            let size: u64 = ranges.iter().fold(0, |sum, range| sum.saturating_add(range.size));
            let ranges: Vec<Value> = ranges
                .iter()
                .map(|range| {
                    json!({
                        "address": range.address,
                        "size": range.size,
                        "endpoint": range.endpoint,
                    })
                })
                .collect();
            json!({"kind": "memory", "status": status, "size": size, "ranges": ranges})
        }
        Place::Disk { path, size } => {
            json!({"kind": "disk", "status": status, "size": size, "path": path})
        }
    }
}
