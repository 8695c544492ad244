//! Everything found and chosen, and why, as one JSON document.

use serde_json::{json, Value};

use crate::limits::DUMP_ENTRIES_MAX;
use crate::memory::node_of;

use super::Shared;

impl Shared {
    pub(super) fn dump(&self) -> Value {
        let entries = self.registry.entries();
        let bytes: u64 = entries.iter().map(|entry| entry.region.length() as u64).sum();
        let buffers: Vec<Value> = entries
            .iter()
            .take(DUMP_ENTRIES_MAX)
            .map(|entry| {
                json!({
                    "address": format!("{:#x}", entry.region.address()),
                    "length_bytes": entry.region.length(),
                    "location": entry.region.location(),
                    "node": node_of(entry.region.address(), entry.region.length()),
                    "access": entry.region.access().bits(),
                    "registrations": entry.count,
                })
            })
            .collect();
        let all = self.segments.all();
        let segments: Vec<Value> = all
            .iter()
            .take(DUMP_ENTRIES_MAX)
            .filter_map(|segment| {
                let state = segment.state().ok()?;
                Some(json!({
                    "name": segment.name,
                    "transport": state.way.transport,
                    "why": &*state.way.why,
                    "host": state.peer.as_ref().map(|peer| peer.host.clone()),
                    "buffers": state.peer.as_ref().map(|peer| peer.descriptor.buffers.len()),
                    "down": state.way.route.is_down(),
                    "route": state.way.route.dump(),
                }))
            })
            .collect();
        let transports: Vec<Value> = self
            .transports
            .read()
            .iter()
            .map(|transport| {
                let can = transport.capabilities();
                json!({
                    "name": transport.name(),
                    "host_memory": can.host_memory,
                    "device_memory": can.device_memory,
                    "read": can.read,
                    "write": can.write,
                    "state": transport.dump(),
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "engine": {
                "local_name": self.local_name,
                "host": self.location.ip_or_host_name,
                "rpc_port": self.location.rpc_port,
                "data_port": self.data_port(),
                "instance": hex(&self.instance),
                "host_id": self.host_id,
                "metadata": self.directory.scheme(),
                "reasons": self.reasons,
                "closed": self.is_closed(),
            },
            "configuration": self.config.dump(),
            "warnings": self.config.warnings,
            "topology": self.topology.get().dump(),
            "transports": transports,
            "buffers": { "count": entries.len(), "bytes": bytes, "first": buffers },
            "segments": { "count": all.len(), "first": segments },
            "metrics": self.metrics.text(),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
