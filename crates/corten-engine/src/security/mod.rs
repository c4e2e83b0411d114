//! What confines a container by default, as docker decides it: capabilities, system calls, hidden paths.

pub mod capabilities;
mod default_profile;
pub mod paths;
pub mod seccomp;
