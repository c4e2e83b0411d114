//! Tar archives: any bytes give members or an error in words, and a member that is written again reads the same.
#![no_main]

#[path = "../bodies/tar_archive.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
