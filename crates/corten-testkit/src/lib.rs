//! Support of the tests: sandboxes, tiny images, OCI bundles and a leak counter.
//!
//! ```text
//! sandbox   a corten of its own: roots, identity, captured output, time limits; counts leaks when dropped
//! run       one program with a time limit, its output captured
//! image     tiny images from this machine's own files, as OCI layout and docker-archive
//! host      this machine's programs and the libraries they need
//! tar       an archive in memory
//! authority certificates of a test's own
//! registry  a registry on loopback, well-behaved or hostile
//! bundle    OCI bundles as the reference runtime's `spec` writes them
//! leak      what a test left behind: mounts, cgroups, interfaces, nft rules, processes, descriptors, files
//! mutate    broken inputs for parsers, the same in every run
//! skip      tests that cannot run here say why, and are counted
//! wire      a proxy, and a line that breaks
//! world     a private mount and network namespace for real engines
//! ```
//!
//! Everything here panics on failure: it is called from tests alone.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's support reads its environment, works on its own temporary files and panics"
)]

pub mod authority;
pub mod bundle;
pub mod host;
pub mod image;
pub mod leak;
pub mod mutate;
pub mod registry;
pub mod run;
pub mod sandbox;
pub mod skip;
pub mod tar;
pub mod wire;
pub mod world;

pub use authority::Authority;
pub use bundle::Bundle;
pub use image::Image;
pub use registry::Registry;
pub use run::Finished;
pub use sandbox::{Identity, Sandbox};
