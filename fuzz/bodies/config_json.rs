//! `config.json`: any bytes give a document or an error in words, and a document survives being written and read again.

use corten_runtime::seccomp;
use corten_types::runtime_spec::Spec;

/// Panics where the promise does not hold for `bytes`.
pub(crate) fn check(bytes: &[u8]) {
    let spec = match Spec::parse(bytes) {
        Ok(spec) => spec,
        Err(error) => return assert!(!error.report().is_empty()),
    };
    let written = serde_json::to_vec(&spec).expect("a document can be written");
    assert_eq!(Spec::parse(&written).expect("what was written can be read"), spec);
    if let Some(profile) = spec.linux.and_then(|linux| linux.seccomp) {
        // A refusal is an answer too.
        drop(seccomp::compile(&profile));
    }
}
