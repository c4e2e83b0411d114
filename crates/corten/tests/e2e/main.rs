//! The real binary on the real kernel, one behaviour a file. Every sandbox counts what it left behind when it is dropped.
//!
//! As root these run as root; `CORTEN_TEST_AS_USER=1` runs corten as an ordinary user without a line in /etc/passwd.
//! What cannot be had on a machine is skipped with its reason.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests panic, and work on files of their own")]

mod concurrency;
mod docker_registry;
mod environment;
mod exit_codes;
mod fallbacks;
mod faults;
mod filesystem;
mod hello;
mod identity;
mod images;
mod init;
mod layers;
mod life;
mod limits;
mod lists;
mod logs;
mod namespaces;
mod network;
mod peers;
mod platforms;
mod registry;
mod roles;
mod security;
mod serve;
mod serve_peers;
mod sources;
mod stdio;
mod supervisor;
mod terminal;
mod watch;

use corten_testkit::{Identity, Sandbox};

/// A corten of this test's own.
fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_corten"))
}

/// The same for a given identity; the caller must be root.
fn sandbox_as(identity: Identity) -> Sandbox {
    Sandbox::with_identity(env!("CARGO_BIN_EXE_corten"), identity)
}
