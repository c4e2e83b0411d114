//! Memory that several trees share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes all trees of a process may take together.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    used: AtomicUsize,
    bytes_max: usize,
}

/// Reservations are made in steps of this size.
const STEP_BYTES: usize = 64 * 1024;

impl Budget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner { used: AtomicUsize::new(0), bytes_max }))
    }
}

/// What one tree has taken; given back when it goes.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    reserved: usize,
}

impl Share {
    pub(super) fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), reserved: 0 }
    }

    /// Makes sure that `bytes` are reserved in all; `false` where there is no more room.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        if bytes <= self.reserved {
            return true;
        }
        let more = (bytes - self.reserved).next_multiple_of(STEP_BYTES);
        let inner = &self.budget.0;
        if inner.used.fetch_add(more, Ordering::Relaxed) + more > inner.bytes_max {
            inner.used.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.reserved += more;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_share_and_give_back() {
        let budget = Budget::new(3 * STEP_BYTES);
        let (mut one, mut two) = (Share::new(&budget), Share::new(&budget));
        assert!(one.hold(STEP_BYTES + 1) && two.hold(STEP_BYTES) && !two.hold(STEP_BYTES + 1));
        drop(one);
        assert!(two.hold(STEP_BYTES + 1));
    }
}
