//! Tests that cannot run here say why, and are counted.
//!
//! Rust's harness knows no skipped test: a test that calls [`skip`] and returns is reported as passed. The reasons are
//! also appended to the file that `CORTEN_TEST_SKIPS` names, from which `cargo xtask test` takes its count.

use std::fs::OpenOptions;
use std::io::Write;

/// Records that the calling test leaves something out, and why.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("test"));
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("CORTEN_TEST_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        // One write, so that lines of tests that run beside each other do not mix.
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Leaves the test with a reason when a condition does not hold: `require!(is_root(), "needs root");`.
#[macro_export]
macro_rules! require {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            $crate::skip::skip(&format!($($reason)+));
            return;
        }
    };
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program's path, found on PATH and in the administrator's directories.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let administrator = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
    let folders = path.split(':').chain(administrator);
    folders.map(|folder| std::path::Path::new(folder).join(name)).find(|candidate| candidate.is_file())
}

/// Whether this machine has a cgroup v2 hierarchy alone.
pub fn has_cgroup_v2_only() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
