//! Bytes of the TCP data plane, one file per dialect.

pub mod v1v2;
