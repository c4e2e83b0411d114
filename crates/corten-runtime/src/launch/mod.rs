//! From a checked plan to a running process: what the parent does, what the child does, and what they tell each other.
//!
//! ```text
//! create.rs   parent: plan, record, clone, cgroup (before the clone where it must be), answer the child, record again
//! spawn.rs    parent: the clone itself, with an intermediate process where namespaces demand one
//! init.rs     child: the container's first process, from the clone to execve
//! exec.rs     both sides of one more process in a running container
//! ```

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod init;
pub(crate) mod plan;
pub(crate) mod spawn;

use corten_types::{Error, Result};

/// Descriptors that the program is to keep must be there, before any of ours takes their numbers.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for number in (3..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if !corten_sys::exec::is_inherited(number) {
            return Err(Error::invalid(format!("descriptor {number} is to be kept but is not open"))
                .hint("`--preserve-fds N` keeps the N descriptors from 3 on"));
        }
    }
    Ok(())
}
