//! The per-container supervisor: parent of its processes, owner of its streams and log, recorder of its end.
//!
//! One thread, one poll loop. It lives in a mount namespace of its own, where the container's root is mounted: however it
//! ends, nothing stays mounted. The container's liveness lock is held for as long as the process lives.

use std::ffi::OsString;

mod clients;
mod containerd;
mod events;
mod health;
mod host;
mod identity;
mod init;
mod launch;
mod life;
mod log;
mod processes;
mod serve;
mod streams;
mod supervisor;
mod usage;

/// The role `corten shim`: serves one container over the socket that is its standard input. Returns the exit code.
///
/// Failures travel to the client; only one that no client can hear of makes the code 1.
///
/// `corten shim compress FILE` is its helper that compresses a log.
pub fn main(args: Vec<OsString>) -> i32 {
    match args.as_slice() {
        [word, path] if word == "compress" => i32::from(log::compress(path.as_ref()).is_err()),
        _ => i32::from(serve::serve().is_err()),
    }
}

pub use containerd::main as containerd_main;

/// The role `corten init`: the small pid 1 of `--init`; `args` is the program with its arguments, after an optional `--`.
/// Returns the exit code.
pub fn init_main(args: Vec<OsString>) -> i32 {
    init::main(args)
}
