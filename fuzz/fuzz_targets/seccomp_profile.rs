//! `linux.seccomp`: what compiles is a program that the kernel's checker would take.
#![no_main]

#[path = "../bodies/seccomp_profile.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
