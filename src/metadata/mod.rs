//! Documents about segments, and where they are kept.

pub mod descriptor;
pub mod document;
