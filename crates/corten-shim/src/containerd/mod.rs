//! The role `containerd-shim-corten-v2`: real containerd's shim, version 2 of its protocol.
//!
//! One shim holds every container of a group (a pod): it is the parent of their processes, speaks ttrpc on one socket, and
//! tells containerd what happens. One thread, one poll loop, the runtime in the same process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use corten_fs::atomic::write_all;

mod messages;
mod publish;
mod serve;
mod start;
mod stats;
mod stdio;
mod task;
mod ttrpc;

/// The role; `variables` is the environment and `directory` the working directory. Returns the exit code.
pub fn main(args: &[OsString], variables: &BTreeMap<String, String>, directory: &Path) -> i32 {
    match start::run(args, variables, directory) {
        Ok(()) => 0,
        Err(error) => {
            write_all(std::io::stderr().as_fd(), format!("{}\n", error.one_line()).as_bytes()).ok();
            1
        }
    }
}
