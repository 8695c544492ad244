//! The summary line, as upstream 0.3.7 logs it every ten seconds and serves it.

use std::fmt::Write as _;

use super::state::{Operation, Tally};
use super::view::View;

/// The line, without an end of line. `file_capacity` is what the shared folder is said to hold;
/// absent where there is none. As upstream has it, clients and pings are in it where leaders are
/// elected.
pub fn summary(view: &dyn View, file_capacity: Option<u64>) -> String {
    let totals = view.figures().totals;
    let standing = view.standing();
    let mut line = String::new();
    let _ = write!(line, "Mem Storage: {} / {}", size(totals.used), size(totals.capacity));
    if totals.capacity > 0 {
        let _ = write!(line, " ({:.1}%)", totals.used as f64 * 100.0 / totals.capacity as f64);
    }
    let files = (size(totals.file_bytes), size(file_capacity.unwrap_or(0)));
    let _ = write!(line, " | SSD Storage: {} / {}", files.0, files.1);
    let (keys, pinned) = (totals.keys, totals.soft_pinned);
    let _ = write!(line, " | Keys: {keys} (soft-pinned: {pinned})");
    if standing.elects {
        let _ = write!(line, " | Clients: {}", totals.clients);
    }
    line += " | Requests (Success/Total): ";
    let elected: &[(&str, Operation)] = match standing.elects {
        true => &[("Ping", Operation::Ping)],
        false => &[],
    };
    let single = [
        ("PutStart", Operation::PutStart),
        ("PutEnd", Operation::PutEnd),
        ("PutRevoke", Operation::PutRevoke),
        ("Get", Operation::GetReplicaList),
        ("Exist", Operation::ExistKey),
        ("Del", Operation::Remove),
        ("DelAll", Operation::RemoveAll),
    ];
    for (name, operation) in single.iter().chain(elected).copied() {
        let tally = view.tally(operation);
        let _ = write!(line, "{name}={}/{}, ", successes(&tally), tally.requests);
    }
    line += " | Batch Requests (Req=Success/PartialSuccess/Total, Item=Success/Total): ";
    let batched = [
        ("PutStart", Operation::BatchPutStart),
        ("PutEnd", Operation::BatchPutEnd),
        ("PutRevoke", Operation::BatchPutRevoke),
        ("Get", Operation::BatchGetReplicaList),
        ("ExistKey", Operation::BatchExistKey),
    ];
    for (name, operation) in batched {
        let tally = view.tally(operation);
        let _ = write!(
            line,
            "{name}:(Req={}/{}/{}, Item={}/{}), ",
            successes(&tally),
            tally.partial_successes,
            tally.requests,
            tally.items.saturating_sub(tally.failed_items),
            tally.items,
        );
    }
    let _ = write!(
        line,
        " | Eviction: Success/Attempts={}/{}, keys={}, size={}",
        totals.successful_evictions,
        totals.attempted_evictions,
        totals.evicted_keys,
        size(totals.evicted_bytes),
    );
    line
}

/// Counters that are read one after the other may be from different moments.
fn successes(tally: &Tally) -> u64 {
    tally.requests.saturating_sub(tally.failures).saturating_sub(tally.partial_successes)
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
    use super::*;
    use crate::master::admin::fake::Fake;
    use crate::master::state::Totals;

    /// As upstream 0.3.7.post2 logged it just after its start.
    const FRESH: &str = "Mem Storage: 0 B / 0 B | SSD Storage: 0 B / 0 B | Keys: 0 (soft-pinned: \
        0) | Requests (Success/Total): PutStart=0/0, PutEnd=0/0, PutRevoke=0/0, Get=0/0, \
        Exist=0/0, Del=0/0, DelAll=0/0,  | Batch Requests (Req=Success/PartialSuccess/Total, \
        Item=Success/Total): PutStart:(Req=0/0/0, Item=0/0), PutEnd:(Req=0/0/0, Item=0/0), \
        PutRevoke:(Req=0/0/0, Item=0/0), Get:(Req=0/0/0, Item=0/0), ExistKey:(Req=0/0/0, \
        Item=0/0),  | Eviction: Success/Attempts=0/0, keys=0, size=0 B";

    #[test]
    fn it_is_upstreams_line() {
        let mut fake = Fake::default();
        assert_eq!(summary(&fake, None), FRESH);
        let found = Tally { requests: 1, failures: 1, ..Tally::default() };
        let batch = Tally {
            requests: 1,
            partial_successes: 1,
            items: 2,
            failed_items: 1,
            ..Tally::default()
        };
        fake.tallies = vec![(Operation::GetReplicaList, found), (Operation::BatchExistKey, batch)];
        fake.totals = Totals {
            capacity: 64 << 20,
            used: 16 << 20,
            evicted_bytes: 20 << 20,
            ..Totals::default()
        };
        let line = summary(&fake, Some(i64::MAX as u64));
        for part in [
            "Mem Storage: 16.00 MB / 64.00 MB (25.0%) | SSD Storage: 0 B / infinite | ",
            "Get=0/1, ",
            "DelAll=0/0,  | Batch",
            "ExistKey:(Req=0/1/1, Item=1/2), ",
            "size=20.00 MB",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn where_leaders_are_elected_it_says_more() {
        let mut fake = Fake::default();
        assert!(!summary(&fake, None).contains("Clients: "));
        fake.standing.elects = true;
        fake.totals.clients = 3;
        fake.tallies = vec![(Operation::Ping, Tally { requests: 5, ..Tally::default() })];
        let line = summary(&fake, None);
        assert!(line.contains(" (soft-pinned: 0) | Clients: 3 | Requests"), "{line}");
        assert!(line.contains("DelAll=0/0, Ping=5/5,  | Batch"), "{line}");
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
