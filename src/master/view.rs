//! What the pages and the summary need to know of the index: a trait, so that they are tested
//! without one.

use super::latency::Times;
use super::state::{Operation, Tally, Totals, VALUE_SIZE_BOUNDS};
use crate::pool::outcome::Outcome;
use crate::pool::replica::Replica;
use crate::rpc::message::Method;

/// Numbers of the process beside those of the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sums over the pool.
    pub totals: Totals,
    /// Puts that wait for room.
    pub waiting_puts: u64,
    /// The journal, if there is one.
    pub journal: Option<JournalFigures>,
    /// Version of the view of an elected leader.
    pub view_version: i64,
}

/// Numbers of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFigures {
    /// It takes changes; false after an error such as a full disk.
    pub works: bool,
    /// Bytes on disk.
    pub bytes: u64,
}

/// One mounted range of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentView {
    /// The client's name for it.
    pub name: String,
    /// Identity, in upstream's text form.
    pub id: String,
    /// Its owner, likewise.
    pub client: String,
    /// First address in the owner's process.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that objects use.
    pub used: u64,
    /// How the transfer engine finds it.
    pub endpoint: String,
    /// How it is reached.
    pub protocol: String,
    /// Nothing is placed in it at present.
    pub is_suspect: bool,
}

/// Whether this master leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is one of several that elect a leader.
    pub elects: bool,
    /// It serves.
    pub leads: bool,
    /// In one word, those of upstream 0.3.13.
    pub state: &'static str,
    /// Address of the leader, where there is an election and somebody leads.
    pub leader: Option<String>,
}

impl Default for Standing {
    /// A master that stands alone.
    fn default() -> Standing {
        Standing { elects: false, leads: true, state: "serving", leader: None }
    }
}

/// Questions to the index. May be asked from any thread; none waits for anything but locks.
pub trait View: Send + Sync {
    /// Whether this master leads.
    fn standing(&self) -> Standing {
        Standing::default()
    }
    /// Times of the calls of one method.
    fn latency(&self, method: Method) -> Times;
    /// Numbers.
    fn figures(&self) -> Figures;
    /// Counts of one kind of call.
    fn tally(&self, operation: Operation) -> Tally;
    /// Sizes at the start of puts: how many in each class, and the sum of all.
    fn value_sizes(&self) -> ([u64; VALUE_SIZE_BOUNDS.len() + 1], u64);
    /// Calls `each` with every key, in no order.
    fn keys(&self, each: &mut dyn FnMut(&[u8]));
    /// Every segment.
    fn segments(&self) -> Vec<SegmentView>;
    /// The complete copies of an object. Grants a lease and counts as a lookup.
    fn lookup(&self, key: &[u8]) -> Outcome<Vec<Replica>>;
    /// The same without either.
    fn peek(&self, key: &[u8]) -> Outcome<Vec<Replica>>;
    /// Removes all objects; with `force` in spite of leases. The result is their number.
    fn remove_all(&self, force: bool) -> i64;
}
