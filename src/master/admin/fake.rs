//! A pool that tests make up.

use parking_lot::Mutex;

use crate::master::latency::Times;
use crate::master::state::{Operation, Tally, Totals, VALUE_SIZE_BOUNDS};
use crate::master::view::{Figures, SegmentView, Standing, View};
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::replica::{BufferRange, Place, Replica, ReplicaStatus};
use crate::rpc::message::Method;

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) totals: Totals,
    pub(crate) tallies: Vec<(Operation, Tally)>,
    pub(crate) leases: Mutex<Vec<Vec<u8>>>,
    pub(crate) removals: Mutex<Vec<bool>>,
    pub(crate) standing: Standing,
}

impl View for Fake {
    fn standing(&self) -> Standing {
        self.standing.clone()
    }

    fn latency(&self, _: Method) -> Times {
        Times::default()
    }

    fn figures(&self) -> Figures {
        Figures { totals: self.totals, ..Figures::default() }
    }

    fn tally(&self, operation: Operation) -> Tally {
        let found = self.tallies.iter().find(|(known, _)| *known == operation);
        found.map(|(_, tally)| *tally).unwrap_or_default()
    }

    fn value_sizes(&self) -> ([u64; VALUE_SIZE_BOUNDS.len() + 1], u64) {
        ([0; VALUE_SIZE_BOUNDS.len() + 1], 0)
    }

    fn keys(&self, each: &mut dyn FnMut(&[u8])) {
        each(b"a/b");
        each(b"\xff");
    }

    fn segments(&self) -> Vec<SegmentView> {
        let one = |name: &str, used, is_suspect| SegmentView {
            name: name.to_owned(),
            size: 500,
            used,
            is_suspect,
            ..SegmentView::default()
        };
        vec![one("host:1", 5, false), one("host:1", 2, false), one("b c", 0, true)]
    }

    fn lookup(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        let found = self.peek(key)?;
        self.leases.lock().push(key.to_vec());
        Ok(found)
    }

    fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>> {
        match key {
            b"a/b" => {
                let range = |size, address| BufferRange {
                    size,
                    address,
                    protocol: "tcp".to_owned(),
                    endpoint: "127.0.0.1:15328".to_owned(),
                };
                let places = [
                    Place::Memory(vec![range(5, 140_358_356_828_160), range(6, 7)]),
                    Place::Disk { path: "/x".to_owned(), size: 11 },
                ];
                let replica = |place| Replica { id: 0, place, status: ReplicaStatus::Complete };
                Ok(places.map(replica).to_vec())
            }
            b"half" => Err(Refusal::REPLICA_IS_NOT_READY),
            _ => Err(Refusal::OBJECT_NOT_FOUND),
        }
    }

    fn remove_all(&self, force: bool) -> i64 {
        self.removals.lock().push(force);
        2
    }
}
