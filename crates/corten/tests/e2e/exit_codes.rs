//! Exit codes as docker's: the program's own, 125, 126, 127, 128 + n.

use corten_testkit::run::eventually;
use std::time::Duration;

use crate::sandbox;

#[test]
fn the_programs_exit_code_comes_back() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--rm", &tiny, "true"]).code(0);
    for code in [1, 3, 125, 255] {
        sandbox.corten(["run", "--rm", &tiny, "sh", "-c", &format!("exit {code}")]).code(code);
    }
    sandbox.corten(["run", "--rm", &tiny, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).code(137);
}

#[test]
fn a_killed_program_is_128_and_the_signal() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let mut running = sandbox.corten_command(["run", "--name", "sleeper", &tiny, "sleep", "60"]).spawn().unwrap();
    let mut pid = String::new();
    let started = eventually(Duration::from_secs(20), || {
        pid = sandbox.corten(["inspect", "--format", "{{.State.Pid}}", "sleeper"]).text().to_owned();
        pid.parse::<i32>().is_ok_and(|pid| pid > 0)
    });
    assert!(started, "the container did not start: pid {pid:?}");
    sandbox.command("kill").args(["-KILL", &pid]).status().unwrap();
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(137));
    sandbox
        .corten(["inspect", "--format", "{{.State.ExitCode}} {{.State.Status}}", "sleeper"])
        .ok()
        .prints("137 exited");
    sandbox.corten(["rm", "sleeper"]).ok().prints("sleeper");
}

#[test]
fn what_never_ran_is_125_126_or_127() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--rm", "no-such-image:1", "true"]).code(125).complains("no-such-image:1");
    sandbox.corten(["run", "--rm", "--no-such-flag", &tiny]).code(125).complains("--no-such-flag");
    sandbox.corten(["run", "--rm", &tiny, "no-such-program"]).code(127).complains("no-such-program");
    sandbox.corten(["run", "--rm", &tiny, "/no/such/program"]).code(127).complains("/no/such/program");
    sandbox.corten(["run", "--rm", &tiny, "/etc/passwd"]).code(126).complains("/etc/passwd");
    sandbox.corten(["run", "--rm", &tiny, "/etc"]).code(126).complains("/etc");
    sandbox.corten(["run", "--rm", "-w", "/etc/passwd", &tiny, "true"]).code(125);
    sandbox.corten(["run", "--rm", "-u", "nobody-here", &tiny, "true"]).code(125).complains("nobody-here");
    sandbox.corten(["ps", "-aq"]).ok().prints("");
}

#[test]
fn other_commands_fail_with_1_and_name_the_thing() {
    let sandbox = sandbox();
    sandbox.corten(["rm", "nobody"]).code(1).complains("nobody");
    sandbox.corten(["inspect", "nobody"]).code(1).complains("nobody");
    sandbox.corten(["load", "-i", "/no/such/file.tar"]).code(1).complains("/no/such/file.tar");
}
