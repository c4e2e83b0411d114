//! `config.json`: any bytes give a document or an error in words, and a document survives being written and read again.
#![no_main]

#[path = "../bodies/config_json.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::check(bytes));
