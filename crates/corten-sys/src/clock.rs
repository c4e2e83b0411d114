//! The clock that the kernel's log counts by.
#![expect(unsafe_code, reason = "the standard library keeps this clock's readings to itself")]

use std::time::Duration;

/// The time since the machine started, without what it slept (clock_gettime(2), CLOCK_MONOTONIC).
///
/// Through the C library: rustix's own clock insists on a vDSO that User-Mode Linux has only in part.
pub fn since_start() -> Duration {
    let mut read = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the one timespec it is given; a clock that every Linux has cannot fail.
    let _done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut read) };
    Duration::new(u64::try_from(read.tv_sec).unwrap_or(0), u32::try_from(read.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_only_goes_forward() {
        let before = super::since_start();
        assert!(!before.is_zero() && super::since_start() >= before);
    }
}
