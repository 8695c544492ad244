//! Lists of adapters that may be used. Pure.

use super::adapter::Adapter;
use crate::{json, limits};

/// The names without white space and empty ones; a name may itself be a list with commas, because
/// upstream's interfaces pass such lists on as one text.
pub(super) fn clean(filters: &[String]) -> Vec<String> {
    let names = filters.iter().flat_map(|text| text.split(','));
    let names = names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    names.take(limits::CONFIG_LIST_ITEMS_MAX).collect()
}

/// Whether an adapter is used, or why not.
pub(super) fn verdict(adapter: &Adapter, filters: &[String]) -> &'static str {
    if !filters.is_empty() && !filters.contains(&adapter.name) {
        return "not in the list of device filters";
    }
    if adapter.ports.is_empty() {
        return "it has no port";
    }
    if !adapter.is_active() {
        return "no port is active";
    }
    USED
}

/// The verdict on an adapter that is used.
pub(super) const USED: &str = "used";

/// What the caller should hear about the filters.
pub(super) fn notes(adapters: &[Adapter], filters: &[String]) -> Vec<String> {
    let is_missing = |name: &&String| !adapters.iter().any(|adapter| adapter.name == **name);
    let missing = filters.iter().filter(is_missing);
    missing.map(|name| format!("device filter {}: no such adapter", json::quote(name))).collect()
}
