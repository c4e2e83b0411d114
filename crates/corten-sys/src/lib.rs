//! The system calls that no library offers safely, each as a safe function over descriptors; the only `unsafe` of Corten.
//!
//! What rustix offers is used from rustix directly. A failed call reads as it was made: see [`Call`].

pub mod arena;
pub mod bpf;
pub mod channel;
pub mod clock;
pub mod clone;
pub mod exec;
pub mod launcher;
pub mod loopback;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod start;

use corten_types::{Error, Result};

/// Turns the error of a system call into one that shows the call as it was made.
pub trait Call<T> {
    /// `openat2([7]<rootfs>, "etc/passwd", RESOLVE_IN_ROOT)` is a good `call`.
    fn call<C: Into<String>>(self, call: impl FnOnce() -> C) -> Result<T>;
}

impl<T> Call<T> for rustix::io::Result<T> {
    fn call<C: Into<String>>(self, call: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|errno| Error::syscall(call(), errno.raw_os_error()))
    }
}

/// The result of a raw system call: -1 becomes the thread's errno.
pub(crate) fn check(result: libc::c_long) -> rustix::io::Result<libc::c_long> {
    if result == -1 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(rustix::io::Errno::from_raw_os_error(errno));
    }
    Ok(result)
}
