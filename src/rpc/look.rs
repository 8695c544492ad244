//! Calls that only look keys up, and their answers, without a copy of a key or of a name.
//!
//! They are most of what a master is asked, many keys at a time, so what each key costs is what a
//! master costs. The keys lie in the request; the answer is written straight from what the index
//! knows into the bytes that the connection sends. Pure.

use smallvec::SmallVec;

use super::message::{Call, Method};
use crate::pool::object::Key;
use crate::pool::outcome::Outcome;
use crate::pool::replica::LocatedView;

/// Keys where they lie in a request.
pub type Keys<'a> = SmallVec<[&'a [u8]; 16]>;

/// A call that only looks keys up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look<'a> {
    /// One for which [`is_look`] is true; where it is not batched, there is one key.
    pub method: Method,
    /// In the order of the request.
    pub keys: Keys<'a>,
}

/// Whether calls of that method are looks.
pub fn is_look(method: Method) -> bool {
    matches!(method, Method::Exists | Method::BatchExists | Method::Lookup | Method::BatchLookup)
}

/// Whether looks of that method have any number of keys.
pub fn is_batched(method: Method) -> bool {
    matches!(method, Method::BatchExists | Method::BatchLookup)
}

impl Look<'_> {
    /// The same with keys of its own.
    pub fn to_call(&self) -> Call {
        let keys = || self.keys.iter().map(|key| key.to_vec()).collect();
        let one = || self.keys.first().map_or_else(Key::new, |key| key.to_vec());
        match self.method {
            Method::BatchExists => Call::BatchExists(keys()),
            Method::BatchLookup => Call::BatchLookup(keys()),
            Method::Lookup => Call::Lookup(one()),
            _ => Call::Exists(one()),
        }
    }
}

/// Where objects are, as an index sees them.
pub trait Sights {
    /// How many objects were asked for.
    fn count(&self) -> usize;
    /// Where that one is; asked once or twice for each, in their order.
    fn sight(&self, at: usize) -> Outcome<LocatedView<'_>>;
}

/// What a look has seen, in the order of its keys.
#[derive(Clone, Copy)]
pub enum Seen<'a> {
    /// Which objects are complete.
    Exists(&'a [bool]),
    /// Where they are.
    Located(&'a dyn Sights),
}

impl std::fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Seen::Exists(found) => write!(f, "Exists({found:?})"),
            Seen::Located(sights) => write!(f, "Located({})", sights.count()),
        }
    }
}

impl Seen<'_> {
    /// How many keys were asked for.
    pub fn count(&self) -> usize {
        match self {
            Seen::Exists(found) => found.len(),
            Seen::Located(sights) => sights.count(),
        }
    }

    /// True if looks of this method are answered in this way.
    pub fn answers(&self, method: Method) -> bool {
        let is_right = match self {
            Seen::Exists(_) => matches!(method, Method::Exists | Method::BatchExists),
            Seen::Located(_) => matches!(method, Method::Lookup | Method::BatchLookup),
        };
        is_right && (is_batched(method) || self.count() == 1)
    }
}
