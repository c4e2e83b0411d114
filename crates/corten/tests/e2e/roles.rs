//! One binary plays every role; the name it is started by decides, where it is a runtime's.

use std::process::Command;
use std::time::Duration;

use corten_testkit::run::finish;

use crate::sandbox;

#[test]
fn the_name_of_the_program_decides_the_role() {
    let sandbox = sandbox();
    let state = sandbox.run_root().join("runtime");
    for name in ["runc", "crun", "corten-runtime"] {
        let link = sandbox.work().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_corten"), &link).unwrap();
        let start = |args: &[&str]| {
            let mut command = Command::new(&link);
            command.arg("--root").arg(&state).args(args);
            finish(command, None, Duration::from_secs(20))
        };
        start(&["features"]).ok().shows("ociVersionMax");
    }
}

#[test]
fn the_runtime_is_a_command_too() {
    sandbox().runtime(["--version"]).ok().shows(env!("CARGO_PKG_VERSION"));
}
