//! Leaving and joining namespaces (setns(2), unshare(2)).
#![expect(unsafe_code, reason = "setns and unshare have no safe wrapper for every flag")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use crate::check;

/// `CLONE_NEWTIME`
pub const NEWTIME: u64 = 0x80;
/// `CLONE_NEWNS`
pub const NEWNS: u64 = 0x0002_0000;
/// `CLONE_NEWCGROUP`
pub const NEWCGROUP: u64 = 0x0200_0000;
/// `CLONE_NEWUTS`
pub const NEWUTS: u64 = 0x0400_0000;
/// `CLONE_NEWIPC`
pub const NEWIPC: u64 = 0x0800_0000;
/// `CLONE_NEWUSER`
pub const NEWUSER: u64 = 0x1000_0000;
/// `CLONE_NEWPID`
pub const NEWPID: u64 = 0x2000_0000;
/// `CLONE_NEWNET`
pub const NEWNET: u64 = 0x4000_0000;
/// `CLONE_PARENT`
pub const PARENT: u64 = 0x8000;

/// Joins the namespaces that `fd` stands for: a namespace file (`kinds` of its one kind or 0) or a pidfd (`kinds` chosen).
pub fn setns(fd: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    let kinds = libc::c_int::try_from(kinds).map_err(|_| rustix::io::Errno::INVAL)?;
    // SAFETY: only the caller's namespaces change; descriptors and memory stay.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into()).map(drop)
}

/// Makes new namespaces of `kinds` for the caller (for pid and time: for its children).
pub fn unshare(kinds: u64) -> Result<()> {
    let kinds = libc::c_int::try_from(kinds).map_err(|_| rustix::io::Errno::INVAL)?;
    // SAFETY: as for setns; CLONE_FILES and CLONE_VM are no namespace kinds and change nothing in a single thread.
    check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

/// The `CLONE_NEW*` kind of a namespace file (NS_GET_NSTYPE, ioctl_ns(2)); a failure where it is none.
pub fn kind_of(fd: BorrowedFd<'_>) -> Result<u64> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument and only answers.
    let kind = check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) }.into())?;
    Ok(u64::try_from(kind).unwrap_or(0))
}
