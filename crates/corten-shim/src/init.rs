//! The small pid 1 of `--init`: starts the program, forwards every signal to it, reaps everything, ends as it ended.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use corten_fs::atomic::write_all;
use corten_sys::signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

const SIGCHLD: i32 = 17;
/// Raised by the process itself or not to be caught.
const OWN: [i32; 8] = [4, 5, 7, 8, 9, 11, 19, 31];
/// Exit code where this process itself fails.
const FAILED: i32 = 125;

pub(crate) fn main(args: Vec<OsString>) -> i32 {
    let mut words = args.into_iter().peekable();
    words.next_if(|word| word == "--");
    let Some(program) = words.next() else { return FAILED };
    let watched: Vec<i32> = (1..=signal::MAX).filter(|number| !OWN.contains(number)).collect();
    // Blocked before the program exists, so that none is lost.
    let Ok(signals) = signal::block_all_and_watch(&watched) else { return FAILED };
    match signal::detach_program(Command::new(&program).args(words)).spawn() {
        Ok(child) => i32::try_from(child.id()).ok().and_then(Pid::from_raw).map_or(FAILED, |pid| follow(&signals, pid)),
        Err(error) => {
            let message = format!("exec: {program:?}: {error}\n");
            write_all(std::io::stderr().as_fd(), message.as_bytes()).ok();
            if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
        }
    }
}

fn follow(signals: &OwnedFd, child: Pid) -> i32 {
    loop {
        if let Some(code) = reap(child) {
            return code;
        }
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return FAILED,
        }
        while let Ok(Some((number, _))) = signal::read_signal(signals.as_fd()) {
            if number != SIGCHLD {
                // It may have ended in this moment.
                signal::kill(child, number).ok();
            }
        }
    }
}

fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                code = status.exit_status().or_else(|| status.terminating_signal().map(|number| 128 + number));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}
