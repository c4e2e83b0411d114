//! The program's beginning, in place of the standard library's: that one reads /proc/self/maps and installs handlers to say
//! a word about a stack overflow, which costs a runtime's command a twentieth of its time. What it does for safety is here.
//!
//! Arguments and environment need nothing: glibc hands them to the standard library before `main`.
#![expect(unsafe_code, reason = "descriptors that may not be open have no safe form")]

use std::os::fd::{BorrowedFd, IntoRawFd as _, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

/// Makes `$run`, an `fn() -> i32`, the program. The crate is `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($run:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(_count: std::ffi::c_int, _arguments: *const *const std::ffi::c_char) -> std::ffi::c_int {
            $crate::start::prepare();
            let code = $run();
            std::process::exit(code)
        }
    };
}

/// What every role relies on: open standard descriptors, and a closed pipe as an error rather than a signal.
pub fn prepare() {
    open_standard_descriptors();
    // SAFETY: ignoring is valid for every signal.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Opens /dev/null where a standard descriptor is closed: the next file that is opened would otherwise become one.
fn open_standard_descriptors() {
    // SAFETY: used for poll(2) alone, which says POLLNVAL of what is not open.
    let standard = [0, 1, 2].map(|number: RawFd| unsafe { BorrowedFd::borrow_raw(number) });
    let mut list = standard.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if !matches!(rustix::io::retry_on_intr(|| poll(&mut list, Some(&now))), Ok(0)) {
        for _ in list.iter().filter(|fd| fd.revents().contains(PollFlags::NVAL)) {
            match rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
                // It has the lowest free number; it stays open.
                Ok(null) => drop(null.into_raw_fd()),
                Err(_) => std::process::abort(),
            }
        }
    }
}
