//! Bytes of the three protocols of the data port: upstream's v1 and v2, and the native one.

pub mod native;
pub mod v1v2;
