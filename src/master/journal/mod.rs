//! What the master writes down so that its index survives the process.
//!
//! [`record`] is one change as bytes, [`image`] what a row of changes adds up to; both are pure.
//! [`file`] keeps them in a folder.

pub mod file;
pub mod image;
pub mod record;
