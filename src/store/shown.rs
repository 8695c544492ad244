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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::replica::BufferRange;

    #[test]
    fn memory_and_files_have_the_size_of_the_object() {
        let range = |size, address| BufferRange {
            size,
            address,
            protocol: "tcp".to_owned(),
            endpoint: "h:1".to_owned(),
        };
        let place = Place::Memory(vec![range(3, 10), range(4, 20)]);
        let shown = replica_shown(&Replica { id: 1, place, status: ReplicaStatus::Complete });
        let second = json!({"address": 20, "size": 4, "endpoint": "h:1"});
        assert_eq!((&shown["size"], &shown["ranges"][1]), (&json!(7), &second));
        assert_eq!((&shown["kind"], &shown["status"]), (&json!("memory"), &json!("complete")));

        let place = Place::Disk { path: "/p".to_owned(), size: 9 };
        let shown = replica_shown(&Replica { id: 1, place, status: ReplicaStatus::Failed });
        let wanted = json!({"kind": "disk", "status": "failed", "size": 9, "path": "/p"});
        assert_eq!(shown, wanted);
    }
}
