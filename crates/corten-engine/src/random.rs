//! Random bytes of the kernel (getrandom(2)).

use corten_sys::Call;
use corten_types::Result;
use rustix::rand::{GetRandomFlags, getrandom};

/// `N` random bytes; `N` is at most 256, which the kernel gives at once.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom(&mut bytes[..], GetRandomFlags::empty()).call(|| "getrandom")?;
    Ok(bytes)
}
