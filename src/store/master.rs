//! What the client needs of a master: one call at a time, with a deadline.

use crate::error::Result;
use crate::rpc::message::{Call, Reply};
use crate::time::Deadline;

/// Which calls a master understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Those of an upstream version only.
    Upstream,
    /// All of them.
    Native,
}

/// The way to a master. Calls come from any number of threads at once.
pub trait Master: Send + Sync {
    /// Makes one call and waits for the answer, at most until `deadline`. An answer that does not
    /// fit the call is an error.
    fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply>;

    /// Waits for a master that is about to be there, where somebody may be: one is being elected.
    /// Blocks at most until `deadline`, and fails as a call would.
    fn find(&self, _deadline: Deadline) -> Result<()> {
        Ok(())
    }

    /// What the master speaks, as far as it was heard of.
    fn dialect(&self) -> Dialect;

    /// Ends calls that are under way and refuses later ones.
    fn close(&self);
}
