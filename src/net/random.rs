//! Random numbers from the operating system: keys, identities, port choices.

use crate::error::{Error, ErrorKind, Result};

/// Fills `bytes` with unpredictable values.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => rest = &mut rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::io(ErrorKind::Resource, "no random numbers", errno.into()))
            }
        }
    }
    Ok(())
}

/// An unpredictable number.
pub fn u64() -> Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
