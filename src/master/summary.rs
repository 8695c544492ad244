//! The summary line, as upstream 0.3.7 logs it every ten seconds and serves it.

use std::fmt::Write as _;

use super::counters::{Counters, Counts};
use super::view::Figures;
use crate::rpc::message::Method;

/// The line, without an end of line. `file_capacity` is what the shared folder is said to hold;
/// absent where there is none. `with_clients` adds what upstream shows for elected leaders only.
pub fn summary(
    figures: &Figures,
    counters: &Counters,
    file_capacity: Option<u64>,
    with_clients: bool,
) -> String {
    let mut line = String::new();
    let (used, all) = (figures.allocated_bytes, figures.capacity_bytes);
    let _ = write!(line, "Mem Storage: {} / {}", size(used), size(all));
    if all > 0 {
        let _ = write!(line, " ({:.1}%)", used as f64 * 100.0 / all as f64);
    }
    let _ = write!(line, " | SSD Storage: 0 B / {}", size(file_capacity.unwrap_or(0)));
    let (keys, pinned) = (figures.keys, figures.soft_pinned_keys);
    let _ = write!(line, " | Keys: {keys} (soft-pinned: {pinned})");
    if with_clients {
        let _ = write!(line, " | Clients: {}", figures.clients);
    }
    line += " | Requests (Success/Total): ";
    let single: [(&str, &[Method]); 7] = [
        ("PutStart", &[Method::PutStart]),
        ("PutEnd", &[Method::PutEnd]),
        ("PutRevoke", &[Method::PutRevoke]),
        ("Get", &[Method::Lookup]),
        ("Exist", &[Method::Exists]),
        ("Del", &[Method::Remove]),
        ("DelAll", &[Method::RemoveAll]),
    ];
    for (name, methods) in single {
        let counts = sum(counters, methods);
        let _ = write!(line, "{name}={}/{}, ", counts.successes(), counts.requests);
    }
    if with_clients {
        let counts = counters.read(Method::Ping);
        let _ = write!(line, "Ping={}/{}, ", counts.successes(), counts.requests);
    }
    line += " | Batch Requests (Req=Success/PartialSuccess/Total, Item=Success/Total): ";
    let batched = [
        ("PutStart", Method::BatchPutStart),
        ("PutEnd", Method::BatchPutEnd),
        ("PutRevoke", Method::BatchPutRevoke),
        ("Get", Method::BatchLookup),
        ("ExistKey", Method::BatchExists),
    ];
    for (name, method) in batched {
        let counts = counters.read(method);
        let _ = write!(
            line,
            "{name}:(Req={}/{}/{}, Item={}/{}), ",
            counts.successes(),
            counts.partial,
            counts.requests,
            counts.items - counts.failed_items.min(counts.items),
            counts.items,
        );
    }
    let _ = write!(
        line,
        " | Eviction: Success/Attempts={}/{}, keys={}, size={}",
        figures.evictions_done,
        figures.evictions_tried,
        figures.evicted_keys,
        size(figures.evicted_bytes),
    );
    line
}

fn sum(counters: &Counters, methods: &[Method]) -> Counts {
    let mut all = Counts::default();
    for method in methods {
        let one = counters.read(*method);
        all.requests += one.requests;
        all.failures += one.failures;
    }
    all
}

/// Bytes for people: steps of 1024, two decimals, none for plain bytes.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if bytes == i64::MAX.unsigned_abs() {
        return "infinite".to_owned();
    }
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1024.0 && units.len() > 0 {
        value /= 1024.0;
        unit = units.next();
    }
    format!("{value:.2} {}", unit.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::outcome::Refusal;
    use crate::rpc::message::Reply;

    /// As upstream 0.3.7.post2 logged it just after its start.
    const FRESH: &str = "Mem Storage: 0 B / 0 B | SSD Storage: 0 B / 0 B | Keys: 0 (soft-pinned: \
        0) | Requests (Success/Total): PutStart=0/0, PutEnd=0/0, PutRevoke=0/0, Get=0/0, \
        Exist=0/0, Del=0/0, DelAll=0/0,  | Batch Requests (Req=Success/PartialSuccess/Total, \
        Item=Success/Total): PutStart:(Req=0/0/0, Item=0/0), PutEnd:(Req=0/0/0, Item=0/0), \
        PutRevoke:(Req=0/0/0, Item=0/0), Get:(Req=0/0/0, Item=0/0), ExistKey:(Req=0/0/0, \
        Item=0/0),  | Eviction: Success/Attempts=0/0, keys=0, size=0 B";

    #[test]
    fn it_is_upstreams_line() {
        let counters = Counters::default();
        assert_eq!(summary(&Figures::default(), &counters, None, false), FRESH);
        let refused = Err(Refusal::OBJECT_NOT_FOUND);
        counters.ended(Method::Lookup, &Reply::Located(refused), Duration::ZERO);
        let batch = Reply::BatchExists(vec![Ok(true), Err(Refusal::INVALID_KEY)]);
        counters.ended(Method::BatchExists, &batch, Duration::ZERO);
        let figures = Figures {
            capacity_bytes: 64 << 20,
            allocated_bytes: 16 << 20,
            clients: 3,
            evicted_bytes: 20 << 20,
            ..Figures::default()
        };
        let line = summary(&figures, &counters, Some(i64::MAX as u64), true);
        for part in [
            "Mem Storage: 16.00 MB / 64.00 MB (25.0%) | SSD Storage: 0 B / infinite | ",
            " | Clients: 3 | ",
            "Get=0/1, ",
            "Ping=0/0, ",
            "ExistKey:(Req=0/1/1, Item=1/2), ",
            "size=20.00 MB",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (1023, "1023 B"),
            (1024, "1.00 KB"),
            (1536 << 10, "1.50 MB"),
            (5 << 40, "5.00 TB"),
            (3 << 60, "3072.00 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
