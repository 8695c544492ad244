//! Ways to move bytes, one folder each.

pub mod tcp;
