//! A global allocator for roles that last milliseconds: one piece of memory, taken from front to back.
//!
//! The C library's allocator is a tenth of what such a role computes, and scatters what it gives over more pages than the
//! kernel would otherwise have to find. Until [`Arena::open`], and once the piece is used up, everything comes from the C
//! library, so that nothing else of the program notices.
#![expect(unsafe_code, reason = "a global allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of the piece: address space; only what is used becomes memory.
const SIZE_BYTES: usize = 1 << 20;
/// As much of it as every command uses is made memory in one call.
const READY_SIZE_BYTES: usize = 96 << 10;

/// The allocator.
#[derive(Debug)]
pub struct Arena {
    /// Where the piece begins; 0 while there is none.
    start: AtomicUsize,
    /// Where the next allocation may begin.
    next: AtomicUsize,
}

impl Arena {
    /// An allocator that still is the C library's.
    #[must_use]
    pub const fn closed() -> Self {
        Self { start: AtomicUsize::new(0), next: AtomicUsize::new(usize::MAX) }
    }

    /// Gets the piece. Where that fails everything stays as it was. For a process that has one thread so far.
    pub fn open(&self) {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        // SAFETY: a new private mapping at no particular address touches nothing that exists.
        let piece = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                SIZE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let Ok(piece) = piece else { return };
        // SAFETY: the range lies in the mapping; where the kernel does not know the advice nothing happens.
        let _unready = unsafe { madvise(piece, READY_SIZE_BYTES, Advice::LinuxPopulateWrite) };
        // `next` opens the piece, and comes last.
        self.start.store(piece.addr(), Ordering::Relaxed);
        self.next.store(piece.addr(), Ordering::Release);
    }

    /// The end of the piece, with its start; an empty range before [`Arena::open`].
    fn range(&self) -> (usize, usize) {
        let start = self.start.load(Ordering::Relaxed);
        (start, if start == 0 { 0 } else { start + SIZE_BYTES })
    }

    /// Takes `size` bytes at a multiple of `align`; `None` where the piece has no room for them.
    fn take(&self, size: usize, align: usize) -> Option<usize> {
        let (_, end) = self.range();
        let mut next = self.next.load(Ordering::Acquire);
        loop {
            let at = next.checked_next_multiple_of(align)?;
            let after = at.checked_add(size).filter(|after| *after <= end)?;
            match self.next.compare_exchange_weak(next, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(at),
                Err(other) => next = other,
            }
        }
    }

    /// Moves the end of what is taken from `from` to `to`; false where it is not there (any more).
    fn move_end(&self, from: usize, to: usize) -> bool {
        to <= self.range().1 && self.next.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn holds(&self, pointer: *mut u8) -> bool {
        let (start, end) = self.range();
        (start..end).contains(&pointer.addr())
    }
}

// SAFETY: each byte of the piece is given to one allocation at a time: `next` only grows past what is given, by one atomic
// step, and shrinks only by the last allocation's own bytes when that ends. What is not of the piece is the system's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout.size(), layout.align()) {
            Some(at) => std::ptr::with_exposed_provenance_mut(at),
            // SAFETY: the caller's promise about `layout` is passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.holds(pointer) {
            // What was given last can be given again; the rest goes with the process.
            self.move_end(pointer.addr() + layout.size(), pointer.addr());
        } else {
            // SAFETY: it is not of the piece, so it came from the system, with this layout.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.holds(pointer) {
            // SAFETY: it is not of the piece, so it came from the system, with this layout.
            return unsafe { System.realloc(pointer, layout, new_size) };
        }
        let at = pointer.addr();
        if self.move_end(at + layout.size(), at.saturating_add(new_size)) || new_size <= layout.size() {
            return pointer;
        }
        // SAFETY: `new_size` does not overflow when rounded up to the alignment (the caller's promise).
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are allocations of at least that many bytes, and apart.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(new_size)) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn memory_is_aligned_apart_and_grows_in_place_at_the_end() {
        let arena = Arena::closed();
        arena.open();
        // SAFETY: sizes are not zero, layouts are those of the allocations, and nothing is used after it was freed.
        unsafe {
            let first = arena.alloc(layout(3, 1));
            let second = arena.alloc(layout(8, 64));
            assert!(arena.holds(first) && second.addr().is_multiple_of(64) && second.addr() >= first.addr() + 3);
            second.write_bytes(7, 8);
            let grown = arena.realloc(second, layout(8, 64), 100);
            assert_eq!((grown, *grown.add(7)), (second, 7));
            let moved = arena.realloc(first, layout(3, 1), 50);
            assert!(moved.addr() >= grown.addr() + 100);
            arena.dealloc(moved, layout(50, 1));
            assert_eq!(arena.alloc(layout(50, 1)), moved);
        }
    }

    #[test]
    fn what_does_not_fit_comes_from_the_system() {
        let arena = Arena::closed();
        // SAFETY: as above.
        unsafe {
            let early = arena.alloc(layout(16, 16));
            arena.open();
            let large = arena.alloc(layout(SIZE_BYTES + 1, 16));
            assert!(!arena.holds(early) && !arena.holds(large));
            let larger = arena.realloc(large, layout(SIZE_BYTES + 1, 16), SIZE_BYTES * 2);
            let small = arena.alloc(layout(16, 16));
            let outgrown = arena.realloc(small, layout(16, 16), SIZE_BYTES * 2);
            assert!(arena.holds(small) && !arena.holds(outgrown));
            arena.dealloc(early, layout(16, 16));
            arena.dealloc(larger, layout(SIZE_BYTES * 2, 16));
            arena.dealloc(outgrown, layout(SIZE_BYTES * 2, 16));
        }
    }
}
