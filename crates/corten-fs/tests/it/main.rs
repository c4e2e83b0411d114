//! The file system's parts on the real kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod erofs;
mod mutated;
mod root;
