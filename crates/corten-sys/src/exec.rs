//! Becoming another program (execve(2)) and what must be true of descriptors before.
#![expect(unsafe_code, reason = "execve, execveat and close_range have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

use crate::check;

/// Replaces the process by the program at `path`. Returns only a failure.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in a null pointer and point to NUL-terminated strings that outlive the call.
    failure(unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) }.into())
}

/// Replaces the process by the program that `file` refers to (execveat(2) with AT_EMPTY_PATH). Returns only a failure.
pub fn fexecve(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: as in `execve`; the empty path is NUL-terminated.
    failure(unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), CLOSE_RANGE_CLOEXEC).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: only flags of descriptors change.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes every descriptor from `first` to `last` (close_range(2)), whoever holds it: for a process that will use none of
/// them again before it ends or becomes another program.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: no memory is touched; whoever still uses a number of the range gets EBADF.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

fn failure(result: libc::c_long) -> Errno {
    check(result).err().unwrap_or(Errno::IO)
}

/// Whether the descriptor `number` came from whoever started this program: open, and not close-on-exec as every descriptor is
/// that the program opens itself (fcntl(2), F_GETFD).
pub fn is_inherited(number: i32) -> bool {
    // SAFETY: F_GETFD only asks, of any number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC == 0
}

/// Makes the number of `target` refer to what `with` refers to (dup3(2)), close-on-exec: whoever holds `target` finds the
/// other file there.
pub fn replace(target: BorrowedFd<'_>, with: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory is touched; the number stays open throughout.
    check(unsafe { libc::dup3(with.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) }.into()).map(drop)
}
