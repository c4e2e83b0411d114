//! Paths beneath a root, archives, overlay mounts, locks, and files that appear whole or not at all.

pub mod append;
pub mod atomic;
pub mod erofs;
pub mod lock;
pub mod overlay;
pub mod root;
pub mod tar;

pub use lock::Lock;
pub use root::Root;
