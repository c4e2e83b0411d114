//! An older or restricted kernel, forced by failing system calls: the fallback works, or the error says what is missing.

use std::time::Duration;

use corten_testkit::Sandbox;
use corten_testkit::require;
use corten_testkit::run::{Finished, finish};
use corten_testkit::skip::program;

use crate::sandbox;

/// `corten run` with these system calls failing in every process of it.
fn run_without(sandbox: &Sandbox, calls: &str, errno: &str, tiny: &str) -> Finished {
    let mut command = sandbox.command("strace");
    let script = "echo ok; cat /proc/1/comm; ls /sys/firmware | wc -l; touch /etc/x && echo written; ls -d /dev/null";
    let inner = sandbox.corten_command(["run", "--rm", "--network", "none", "--tmpfs", "/t", tiny, "sh", "-c", script]);
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={calls}:error={errno}")]);
    command.arg(inner.get_program()).args(inner.get_args());
    finish(command, None, Duration::from_secs(60))
}

#[test]
fn new_system_calls_may_be_missing() {
    let mut sandbox = sandbox();
    require!(program("strace").is_some(), "needs `strace` to fail system calls");
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let tiny = sandbox.tiny();
    for calls in [
        "openat2",
        "open_tree",
        "fsopen",
        "mount_setattr",
        "open_tree,fsopen,fsconfig,fsmount,move_mount,mount_setattr",
        "keyctl",
        "memfd_create",
        "statx",
    ] {
        let finished = run_without(&sandbox, calls, "ENOSYS", &tiny);
        assert!(
            finished.code == 0 && finished.stdout == "ok\nsh\n0\nwritten\n/dev/null\n",
            "without {calls}\n{}",
            finished.transcript()
        );
    }
}

#[test]
fn what_cannot_be_replaced_is_named() {
    let mut sandbox = sandbox();
    require!(program("strace").is_some(), "needs `strace` to fail system calls");
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let tiny = sandbox.tiny();
    for (calls, errno) in
        [("clone3", "EPERM"), ("pivot_root", "EINVAL"), ("seccomp", "EINVAL"), ("sethostname", "EPERM")]
    {
        let finished = run_without(&sandbox, calls, errno, &tiny);
        assert!(
            finished.code == 125 && finished.stderr.contains(calls) && finished.stderr.starts_with("error: "),
            "with a failing {calls}\n{}",
            finished.transcript()
        );
    }
}
