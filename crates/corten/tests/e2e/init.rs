//! --init: a small pid 1 that reaps and forwards; without it the program is pid 1.

use std::time::Duration;

use corten_testkit::run::{code_of, eventually};

use crate::sandbox;

#[test]
fn the_program_is_pid_1_unless_an_init_is_asked_for() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--rm", &tiny, "sh", "-c", "echo $$"]).ok().prints("1");
    sandbox.corten(["run", "--rm", "--init", &tiny, "sh", "-c", "[ $$ != 1 ] && echo child"]).ok().prints("child");
    sandbox.corten(["run", "--rm", "--init", &tiny, "sh", "-c", "exit 7"]).code(7);
}

#[test]
fn orphans_are_reaped() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let script =
        "for i in 1 2 3; do (sleep 0.01 &); done; sleep 0.5; grep -s -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    sandbox.corten(["run", "--rm", "--init", &tiny, "sh", "-c", script]).ok().prints("0");
}

#[test]
fn signals_to_the_command_line_reach_the_program() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let ready = sandbox.work();
    let volume = format!("{}:/w", ready.display());
    let script = "trap 'echo got it; exit 42' TERM; touch /w/ready; while :; do sleep 0.05; done";
    let mut command = sandbox.corten_command(["run", "--rm", "-v", &volume, &tiny, "sh", "-c", script]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || ready.join("ready").exists()), "the program did not start");
    sandbox.command("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(code_of(child.wait().unwrap()), 42);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "got it\n");
}
