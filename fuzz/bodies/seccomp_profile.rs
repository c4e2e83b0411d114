//! `linux.seccomp`: what compiles is a program that the kernel's checker would take.

use corten_runtime::seccomp::compile;
use corten_types::runtime_spec::Seccomp;

const INSTRUCTIONS_MAX: usize = 4096;

/// Panics where the promise does not hold for `bytes`.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<Seccomp>(bytes) else { return };
    let program = match compile(&profile) {
        Ok(Some(filter)) => filter.program,
        Ok(None) => return,
        Err(error) => return assert!(error.report().contains("linux.seccomp"), "{}", error.report()),
    };
    assert!(!program.is_empty() && program.len() <= INSTRUCTIONS_MAX);
    for (place, instruction) in program.iter().enumerate() {
        let rest = program.len() - place - 1;
        let reach = match instruction.code {
            0x06 => continue,
            0x20 => {
                assert!(instruction.k.is_multiple_of(4) && instruction.k < 64);
                1
            }
            0x54 => 1,
            0x05 => instruction.k as usize + 1,
            0x15 | 0x25 | 0x35 => usize::from(instruction.jt.max(instruction.jf)) + 1,
            code => panic!("instruction {code:#x}"),
        };
        assert!(reach <= rest, "instruction {place} leaves the program");
    }
}
