//! -i, -t, -d and what passes through standard input, output and error.

use std::time::Duration;

use corten_testkit::require;
use corten_testkit::run::{eventually, finish};
use corten_testkit::skip::program;

use crate::sandbox;

#[test]
fn output_and_error_stay_apart_and_whole() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let shown = sandbox.corten(["run", "--rm", &tiny, "sh", "-c", "echo out; echo err >&2"]);
    shown.ok().prints("out");
    assert_eq!(shown.stderr, "err\n");
    let many = sandbox.corten(["run", "--rm", &tiny, "sh", "-c", "seq 1 200000"]);
    assert_eq!((many.ok().stdout.lines().count(), many.stdout.lines().last()), (200_000, Some("200000")));
}

#[test]
fn input_is_passed_on_with_i_alone() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let megabyte = vec![b'x'; 1 << 20];
    sandbox.corten_with_input(["run", "--rm", "-i", &tiny, "wc", "-c"], &megabyte).ok().prints("1048576");
    sandbox.corten_with_input(["run", "--rm", &tiny, "wc", "-c"], b"not passed on").ok().prints("0");
}

#[test]
fn a_terminal_is_there_when_asked_for() {
    let mut sandbox = sandbox();
    require!(program("script").is_some(), "needs `script` to have a terminal");
    let tiny = sandbox.tiny();
    let inner = sandbox.corten_command([
        "run",
        "--rm",
        "-it",
        &tiny,
        "sh",
        "-c",
        "tty; stty size 2>/dev/null; test -t 0 && test -t 1 && exit 5",
    ]);
    let line = corten_testkit::run::shown(&inner);
    let mut command = sandbox.command("script");
    command.args(["-qec", &format!("stty rows 30 cols 91; {line}"), "/dev/null"]);
    let shown = finish(command, Some(b""), Duration::from_secs(30));
    shown.code(5).shows("/dev/pts/0").shows("30 91");
    // Without a terminal of the caller's, docker refuses.
    sandbox.corten(["run", "--rm", "-it", &tiny, "true"]).complains("TTY");
}

#[test]
fn a_detached_container_outlives_the_command() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let started = sandbox.corten(["run", "-d", "--name", "background", &tiny, "sleep", "60"]);
    let id = started.ok().text().to_owned();
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", started.transcript());
    assert!(!started.held_open, "the container holds the command's output open");
    sandbox.corten(["ps", "-q", "--no-trunc"]).ok().prints(&id);
    sandbox.corten(["inspect", "--format", "{{.State.Running}}", "background"]).ok().prints("true");
    sandbox.corten(["rm", "background"]).code(1).complains("background");
    sandbox.corten(["rm", "-f", "background"]).ok().prints("background");
    sandbox.corten(["ps", "-aq"]).ok().prints("");
}

#[test]
fn a_detached_container_that_ends_is_seen_as_exited_or_removed() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--rm", &tiny, "true"]).ok();
    assert!(eventually(Duration::from_secs(10), || sandbox.corten(["ps", "-aq"]).ok().text().is_empty()));
    sandbox.corten(["run", "-d", "--name", "three", &tiny, "sh", "-c", "exit 3"]).ok();
    let code = || sandbox.corten(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "three"]);
    assert!(eventually(Duration::from_secs(10), || code().ok().text() == "exited 3"), "{}", code().transcript());
    sandbox.corten(["rm", "three"]).ok();
}
