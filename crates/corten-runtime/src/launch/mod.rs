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
use rustix::thread::CpuSet;

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

/// The steps of a start in runc's words, for a debug log: its users look for them.
pub(crate) fn steps(affinity: Option<&CpuSet>, last: &str) -> Vec<String> {
    let mut steps = vec!["nsexec container setup".to_owned()];
    steps.extend(affinity.map(|set| format!("nsexec: affinity: {}", mask(set))));
    steps.extend(["child process in init()".to_owned(), last.to_owned()]);
    steps
}

/// The set as one hexadecimal number, processor 0 its lowest bit.
fn mask(set: &CpuSet) -> String {
    let digit = |place: usize| (0..4).filter(|bit| set.is_set(place * 4 + bit)).fold(0, |digit, bit| digit | 1 << bit);
    let digits = (0..CpuSet::MAX_CPU / 4).rev().map(digit).skip_while(|digit: &u32| *digit == 0);
    format!("0x{}", digits.filter_map(|digit| char::from_digit(digit, 16)).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_shown_as_one_number() {
        let set = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(*cpu));
            set
        };
        assert_eq!(mask(&set(&[1])), "0x2");
        assert_eq!(mask(&set(&[0, 1, 66])), "0x40000000000000003");
    }
}
