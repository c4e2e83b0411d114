//! Loading system call filters, and answering for the calls they report (seccomp(2), seccomp_unotify(2)).
#![expect(unsafe_code, reason = "seccomp has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, Result};

use crate::check;

/// One instruction of a classic BPF program (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump when true.
    pub jt: u8,
    /// Jump when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: the call then returns the notify descriptor.
pub const NEW_LISTENER: u32 = 1 << 3;

/// Loads `program` for the calling thread; with [`NEW_LISTENER`] in `flags` gives the notify descriptor.
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `Instruction` has the layout of sock_filter; the kernel only reads the program and checks it.
    let result = check(unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, &raw const header) })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(result).map_err(|_| Errno::INVAL)?;
    // SAFETY: with NEW_LISTENER the result is a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether this kernel knows the filter return value `action` (SECCOMP_GET_ACTION_AVAIL).
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads one u32.
    check(unsafe { libc::syscall(libc::SYS_seccomp, 2, 0, &raw const action) }).is_ok()
}

/// Whether this kernel knows the filter flag `flag`.
pub fn flag_available(flag: u32) -> bool {
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    // Refused without a listener.
    let flags = if flag & WAIT_KILLABLE_RECV != 0 { flag | NEW_LISTENER } else { flag };
    let program = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: without a program nothing is loaded: the kernel checks the flags, then fails to read it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, program) }) == Err(Errno::FAULT)
}

/// A system call that waits for the agent's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Names the call towards [`answer`].
    pub id: u64,
    /// The calling thread.
    pub pid: u32,
    /// Number of the system call.
    pub number: i32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Waits for the next call that the filter behind `listener` reports.
pub fn receive(listener: BorrowedFd<'_>) -> Result<Notification> {
    const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl; // SECCOMP_IOCTL_NOTIF_RECV
    // SAFETY: all-zero is a valid seccomp_notif, and the one that the kernel wants to be given.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one seccomp_notif.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) }.into())?;
    Ok(Notification { id: call.id, pid: call.pid, number: call.data.nr, arguments: call.data.args })
}

/// Ends the call `id`: with `Err(errno)` or a value in its stead, or with `None` by letting it run.
pub fn answer(listener: BorrowedFd<'_>, id: u64, result: Option<std::result::Result<i64, Errno>>) -> Result<()> {
    const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl; // SECCOMP_IOCTL_NOTIF_SEND
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match result {
        None => (0, 0, CONTINUE),
        Some(Ok(value)) => (value, 0, 0),
        Some(Err(errno)) => (0, -errno.raw_os_error(), 0),
    };
    let mut response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: the kernel reads one seccomp_notif_resp.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut response) }.into()).map(drop)
}
