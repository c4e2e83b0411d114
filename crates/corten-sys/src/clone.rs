//! New processes that share nothing by accident (clone(2)).
#![expect(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Result;
use rustix::process::Pid;

use crate::check;

/// Proof that the process has one thread: a child may then use the whole of the standard library.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Asks the kernel; EINVAL when there are other threads.
    pub fn check() -> Result<Self> {
        // SAFETY: unshare(CLONE_VM) changes nothing; the kernel refuses it where the process has another thread.
        check(unsafe { libc::unshare(libc::CLONE_VM) }.into())?;
        Ok(Self(()))
    }
}

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The calling process.
    Parent {
        /// The child, in the caller's pid namespace.
        pid: Pid,
        /// The child's pidfd.
        pidfd: OwnedFd,
    },
}

/// What is cloned.
#[derive(Debug, Default)]
pub struct CloneRequest<'a> {
    /// `CLONE_NEW*` and `CLONE_PARENT`; `CLONE_PIDFD` is always added.
    pub flags: u64,
    /// A cgroup v2 directory that the child is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Duplicates the process. The child has copies of everything, as after fork(2).
pub fn clone(_: &SingleThreaded, request: &CloneRequest<'_>) -> Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = request.flags | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if request.flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = request.cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: no CLONE_VM and no new stack, so this is fork with more flags. One thread exists (SingleThreaded), so no
    // lock of the C library can be held by a thread that the child lacks. `args` and `pidfd` outlive the call.
    let result = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    match i32::try_from(result).ok().and_then(Pid::from_raw) {
        None => Ok(Side::Child),
        Some(pid) => {
            // SAFETY: the kernel stored a descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent { pid, pidfd })
        }
    }
}

/// Ends the process at once: no destructors, no flush (_exit(2)).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: always sound; nothing of this process runs afterwards.
    unsafe { libc::_exit(code) }
}
