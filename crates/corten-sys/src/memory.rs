//! Memory that a process does not need for now, given back: for processes that wait for days and are many.
#![expect(unsafe_code, reason = "advice about memory is given by address")]

use rustix::mm::{Advice, madvise};

const PAGE_SIZE_BYTES: usize = 4096;
/// Stack that stays: what is running now, and what it calls next.
const STACK_KEPT_BYTES: usize = 4 * PAGE_SIZE_BYTES;
/// How far below the stack may have grown; nothing else is ever mapped so near to it.
const STACK_DEPTH_BYTES: usize = 512 * 1024;

unsafe extern "C" {
    /// Where the program's file is mapped first, by the linker.
    static __executable_start: u8;
    /// The end of its code.
    static etext: u8;
}

/// Gives back the heap's free pages, the stack below the caller and what of the program's file was only needed to get here.
///
/// Everything comes back by itself where it is touched again: free memory as zeros, code from its file.
pub fn give_back() {
    // SAFETY: it takes no pointer and touches only memory that nobody holds.
    #[cfg(target_env = "gnu")]
    let _given = unsafe { libc::malloc_trim(0) };
    let here = 0_u8;
    let top = (&raw const here).addr() - STACK_KEPT_BYTES;
    forget(top - STACK_DEPTH_BYTES, top);
    // Between these lie the file's read-only parts: whatever is relocated or written follows the code.
    forget((&raw const __executable_start).addr(), (&raw const etext).addr());
}

/// Lets go of the whole pages in a range.
fn forget(from: usize, to: usize) {
    let (from, to) = (from.next_multiple_of(PAGE_SIZE_BYTES), to / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES);
    let Some(length) = to.checked_sub(from) else { return };
    // SAFETY: the ranges of `give_back` alone come here. Below the stack pointer and its red zone nothing lives; pages of
    // the program's file that nobody wrote come back as they were. A hole in a range is an error without effect on the rest.
    let _advised = unsafe { madvise(std::ptr::without_provenance_mut(from), length, Advice::LinuxDontNeed) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn everything_that_is_held_stays() {
        let held: Vec<Vec<u8>> = (0..100).map(|number| vec![number; 10_000]).collect();
        let text = "text".repeat(1000);
        super::give_back();
        assert!(held.iter().enumerate().all(|(number, one)| one.iter().all(|byte| usize::from(*byte) == number)));
        assert_eq!(text.len(), 4000);
    }
}
