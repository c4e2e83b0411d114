//! The runtime's parts on the real kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod cgroup;
mod hostile_config;
mod mutated;
mod seccomp;
