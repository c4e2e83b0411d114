//! A kill at a bad moment: the next command tells the truth, and `rm -f` removes all of it.

use std::time::Duration;

use corten_testkit::run::{eventually, finish, rounds};
use corten_testkit::skip::program;
use corten_testkit::{Sandbox, require};

use crate::sandbox;

/// A detached container with two processes; the host's pids of its first process and its supervisor.
fn running(sandbox: &Sandbox, tiny: &str, name: &str) -> (i32, i32) {
    sandbox.corten(["run", "-d", "--name", name, tiny, "sh", "-c", "sleep 600 & sleep 601"]).ok();
    let pid: i32 = sandbox.corten(["inspect", "--format", "{{.State.Pid}}", name]).ok().text().parse().unwrap();
    (pid, parent(pid))
}

fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn kill(pid: i32) {
    std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
}

fn status(sandbox: &Sandbox, name: &str) -> String {
    sandbox.corten(["inspect", "--format", "{{.State.Status}} {{.State.Running}}", name]).ok().text().to_owned()
}

#[test]
fn a_killed_command_line_leaves_the_container_running() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let mut client = sandbox.corten_command(["run", "--name", "left", &tiny, "sleep", "600"]).spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || {
        let shown = sandbox.corten(["inspect", "--format", "{{.State.Running}}", "left"]);
        shown.text() == "true"
    }));
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(status(&sandbox, "left"), "running true");
    sandbox.corten(["rm", "-f", "left"]).ok().prints("left");
}

#[test]
fn a_killed_supervisor_is_noticed_and_everything_can_be_removed() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let (pid, supervisor) = running(&sandbox, &tiny, "orphan");
    assert!(std::fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap().contains("corten"), "{supervisor}");
    kill(supervisor);
    let shown = sandbox.corten(["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    shown.ok().shows("orphan");
    sandbox.corten(["rm", "-f", "orphan"]).ok();
    assert!(eventually(Duration::from_secs(5), || !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    sandbox.corten(["ps", "-aq"]).ok().prints("");
}

#[test]
fn supervisor_and_program_killed_at_once() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let (pid, supervisor) = running(&sandbox, &tiny, "both");
    kill(supervisor);
    kill(pid);
    assert!(
        eventually(Duration::from_secs(5), || status(&sandbox, "both").ends_with(" false")),
        "{}",
        status(&sandbox, "both")
    );
    sandbox.corten(["rm", "both"]).ok();
}

#[test]
fn a_client_killed_at_a_system_call_leaves_nothing_that_cannot_be_removed() {
    let mut sandbox = sandbox();
    require!(program("strace").is_some(), "needs `strace` to choose the system call");
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let tiny = sandbox.tiny();
    for count in (1..400).step_by(9) {
        let mut command = sandbox.command("strace");
        let inner = sandbox.corten_command(["run", "--rm", &tiny, "true"]);
        command.args(["-qq", "-o", "/dev/null", "-e", &format!("inject=all:signal=KILL:when={count}")]);
        command.arg(inner.get_program()).args(inner.get_args());
        let finished = finish(command, None, Duration::from_secs(30));
        assert!(!finished.timed_out, "hangs when killed at system call {count}\n{}", finished.transcript());
        sandbox.corten(["ps", "-a"]).ok();
    }
    remove_all(&sandbox);
}

/// Removes whatever there is; a supervisor that was under way may still bring its container up.
fn remove_all(sandbox: &Sandbox) {
    let ids = || sandbox.corten(["ps", "-aq"]).ok().stdout.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let gone = eventually(Duration::from_secs(20), || {
        ids().iter().for_each(|id| drop(sandbox.corten(["rm", "-f", id])));
        ids().is_empty()
    });
    assert!(gone, "containers that cannot be removed: {:?}", ids());
}

#[test]
fn a_client_killed_at_any_moment_of_the_start_leaves_nothing_that_cannot_be_removed() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for moment_ms in [0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64] {
        let mut client = sandbox.corten_command(["run", "--rm", &tiny, "sleep", "600"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment_ms));
        client.kill().unwrap();
        client.wait().unwrap();
    }
    remove_all(&sandbox);
}

/// Between what creates the container and what starts it there is no moment that leaves anything behind: whoever of
/// command line, supervisor and first process makes one of these calls dies of it.
#[test]
fn whoever_dies_between_create_and_start_of_a_run_leaves_nothing() {
    let mut sandbox = sandbox();
    require!(program("strace").is_some(), "needs `strace` to choose the system call");
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let tiny = sandbox.tiny();
    let calls = [
        "clone3",
        "unshare",
        "pivot_root",
        "sethostname",
        "fsopen",
        "fsmount",
        "move_mount",
        "mount",
        "prctl",
        "capset",
        "seccomp",
        "execveat",
        "setsid",
        "signalfd4",
        "memfd_create",
        "socketpair",
        "mknodat",
        "renameat",
        "close_range",
    ];
    for call in calls {
        let inner = sandbox.corten_command(["run", "--rm", &tiny, "true"]);
        let inject = format!("inject={call}:signal=KILL:when=1");
        let mut command = sandbox.command("strace");
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=none", "-e", &inject]);
        command.arg(inner.get_program()).args(inner.get_args());
        let finished = finish(command, None, Duration::from_secs(30));
        assert!(!finished.timed_out, "hangs when killed at {call}\n{}", finished.transcript());
        sandbox.corten(["ps", "-a"]).ok();
    }
    remove_all(&sandbox);
    sandbox.corten(["run", "--rm", &tiny, "echo", "fine"]).ok().prints("fine");
}

/// The sandbox counts mounts, cgroups, interfaces, rules, processes, descriptors and files at its end.
#[test]
fn many_starts_and_stops_leave_every_count_as_it_was() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for _ in 0..rounds(5) {
        sandbox.corten(["run", "--rm", &tiny, "true"]).ok();
        sandbox.corten(["run", "-d", "--name", "again", &tiny, "sleep", "600"]).ok();
        sandbox.corten(["stop", "-t", "0", "again"]).ok();
        sandbox.corten(["start", "again"]).ok();
        sandbox.corten(["rm", "-f", "again"]).ok();
    }
    sandbox.corten(["ps", "-aq"]).ok().prints("");
}

/// Only on a machine that is nobody's: the kernel that `xtask/uml-run` boots.
#[test]
fn a_clock_that_jumps_by_ten_years_restarts_collects_and_times_out_nothing() {
    let mut sandbox = sandbox();
    let is_emulated = std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("User Mode Linux");
    require!(
        is_emulated && !sandbox.is_rootless(),
        "sets the machine's clock, which it does under User Mode Linux alone"
    );
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "box", "--restart", "always", &tiny, "sleep", "6000"]).ok();
    let pid = |sandbox: &Sandbox| {
        sandbox
            .corten(["inspect", "--format", "{{.State.Pid}} {{.State.Status}} {{.RestartCount}}", "box"])
            .ok()
            .text()
            .to_owned()
    };
    let before = pid(&sandbox);
    let years = 315_360_000;
    for seconds in [years, -2 * years, years] {
        let (now, nanoseconds) = corten_types::time::now();
        let there = rustix::time::Timespec { tv_sec: now + seconds, tv_nsec: nanoseconds.into() };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, there).unwrap();
        assert_eq!(pid(&sandbox), before, "after {seconds} seconds");
        sandbox.corten(["exec", "box", "echo", "here"]).ok().prints("here");
        sandbox.corten(["run", "--rm", &tiny, "echo", "new"]).ok().prints("new");
        sandbox.corten(["images"]).ok().shows("tiny");
    }
    sandbox.corten(["stop", "-t", "1", "box"]).ok();
    sandbox.corten(["rm", "box"]).ok();
}
