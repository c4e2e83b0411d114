//! Manifests, indexes, configurations, references and digests: any bytes give one of them or an error in words.
#![no_main]

#[path = "../bodies/image_manifest.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
