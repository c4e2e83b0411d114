//! Signals by number, masks and descriptors (signal(7), signalfd(2)).
#![expect(unsafe_code, reason = "signal masks, dispositions and signalfd have no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Result;
use rustix::process::Pid;

use crate::check;

/// Highest signal number.
pub const MAX: i32 = 64;

/// Sends `signal` (0 only asks) to one process.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    // SAFETY: only sends a signal.
    check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into()).map(drop)
}

/// Sends `signal` to the process of a pidfd: never to a later process of the same number.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo asks the kernel to fill it in.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) })
        .map(drop)
}

/// Blocks every signal and returns a descriptor that delivers `signals` as data, close-on-exec and non-blocking.
pub fn block_all_and_watch(signals: &[i32]) -> Result<OwnedFd> {
    // SAFETY: sigset_t is plain data, initialised by sigemptyset/sigfillset before use; signalfd gives a new descriptor.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()).into())?;
        let mut watched: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut watched);
        for signal in signals {
            libc::sigaddset(&raw mut watched, *signal);
        }
        let fd = check(libc::signalfd(-1, &raw const watched, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)))
    }
}

/// Blocks `signals` alone and returns a descriptor that delivers them as data, close-on-exec and non-blocking.
pub fn block_and_watch(signals: &[i32]) -> Result<OwnedFd> {
    // SAFETY: as in `block_all_and_watch`.
    unsafe {
        let mut watched: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut watched);
        for signal in signals {
            libc::sigaddset(&raw mut watched, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const watched, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const watched, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)))
    }
}

/// The next signal of a signalfd: its number and the sender's pid; `None` when none is pending.
pub fn read_signal(signalfd: BorrowedFd<'_>) -> Result<Option<(i32, u32)>> {
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signalfd, &mut buffer) {
        Ok(_) => {
            let word = |at: usize| u32::from_ne_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]]);
            // signalfd(2): ssi_signo at 0, ssi_pid at 12.
            Ok(Some((word(0).cast_signed(), word(12))))
        }
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Gives every signal its default disposition and unblocks all: what a new program expects to find.
pub fn reset_all() {
    // SAFETY: SIG_DFL is valid for every signal; SIGKILL, SIGSTOP and the C library's own refuse, which is harmless.
    unsafe {
        for signal in 1..=MAX {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Ends the process with 128 + n on signal n of `signals`, even where the kernel shields it as the first of a pid
/// namespace; until it becomes another program.
pub fn end_on(signals: &[i32]) {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: ends the process at once; async-signal-safe (signal-safety(7)).
        unsafe { libc::_exit(128 + signal) }
    }
    for signal in signals {
        // SAFETY: the handler makes one async-signal-safe call and touches no memory of the program.
        unsafe {
            libc::signal(*signal, end as *const () as libc::sighandler_t);
        }
    }
}

/// SIGPIPE.
pub const SIGPIPE: i32 = libc::SIGPIPE;

/// Gives one signal its default disposition.
pub fn set_default(signal: i32) {
    // SAFETY: SIG_DFL is valid for every signal; a number that is none is refused.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}

/// Has `command`'s process lead a group of its own, in the foreground of its terminal where it has one, and find signals as
/// a new program expects them, whatever the caller blocks.
pub fn detach_program(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec the closure makes system calls alone: it takes no lock and allocates nothing. The
    // signals of the caller are still blocked when the terminal changes hands, so that SIGTTOU stops nobody.
    unsafe {
        command.pre_exec(|| {
            let own = libc::getpid();
            libc::setpgid(0, 0);
            libc::tcsetpgrp(0, own);
            reset_all();
            Ok(())
        })
    }
}
