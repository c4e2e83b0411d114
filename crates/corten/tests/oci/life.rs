//! From create to delete, and the operations that a state forbids.

use super::*;

#[test]
fn a_container_goes_through_its_states() {
    let sandbox = sandbox();
    let mut bundle = sleeper(&sandbox);
    bundle.spec.annotations.insert("org.example.key".into(), "value".into());
    bundle.write();
    let directory = bundle.directory.to_str().unwrap();
    let pid_file = sandbox.work().join("pid");
    detached(&sandbox, &["create", "--bundle", directory, "--pid-file", pid_file.to_str().unwrap(), "c"]).ok();
    let created = state(&sandbox);
    assert_eq!(created["status"], "created");
    assert_eq!((&created["id"], &created["bundle"]), (&"c".into(), &directory.into()));
    assert_eq!(created["annotations"]["org.example.key"], "value");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert_eq!(created["pid"].to_string(), pid);
    sandbox.runtime(["start", "c"]).ok();
    assert_eq!(state(&sandbox)["status"], "running");
    let running = corten_testkit::run::eventually(LIMIT, || {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\x00")
    });
    assert!(running);
    sandbox.runtime(["kill", "c", "KILL"]).ok();
    wait_for_status(&sandbox, "stopped");
    assert_eq!(state(&sandbox)["pid"], 0);
    sandbox.runtime(["delete", "c"]).ok();
    sandbox.runtime(["state", "c"]).code(1).complains("does not exist");
}

#[test]
fn the_program_does_not_run_before_start() {
    let sandbox = sandbox();
    let mut bundle = script(&sandbox, "echo ran >/out/file; sleep 1000");
    let out = sandbox.directory("out");
    bundle.mount("/out", "bind", out.to_str().unwrap(), &["bind", "rw"]);
    bundle.write();
    detached(&sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    assert!(!out.join("file").exists());
    // What changes in the bundle after create has no effect.
    bundle.write_raw(b"{}");
    sandbox.runtime(["start", "c"]).ok();
    assert!(corten_testkit::run::eventually(LIMIT, || out.join("file").exists()));
    delete(&sandbox);
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_container_untouched() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    start(&sandbox, &bundle);
    let pid = state(&sandbox)["pid"].clone();
    for command in ["create", "run"] {
        let again = sandbox.runtime([command, "-b", bundle.directory.to_str().unwrap(), "c"]);
        again.code(1).complains("exist");
    }
    assert_eq!(state(&sandbox)["pid"], pid);
    assert_eq!(state(&sandbox)["status"], "running");
    delete(&sandbox);
}

#[test]
fn a_state_forbids_what_does_not_fit_it() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    detached(&sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    sandbox.runtime(["start", "c"]).ok();
    sandbox.runtime(["start", "c"]).code(1).complains("running");
    sandbox.runtime(["delete", "c"]).code(1).complains("not stopped");
    assert_eq!(state(&sandbox)["status"], "running");
    sandbox.runtime(["kill", "c", "9"]).ok();
    wait_for_status(&sandbox, "stopped");
    sandbox.runtime(["start", "c"]).code(1).complains("stopped");
    sandbox.runtime(["kill", "c", "TERM"]).code(1).complains("not running");
    sandbox.runtime(["kill", "--all", "c", "TERM"]).ok();
    sandbox.runtime(["exec", "c", "true"]).code(255).complains("stopped");
    sandbox.runtime(["pause", "c"]).code(1);
    sandbox.runtime(["delete", "c"]).ok();
}

#[test]
fn a_container_that_was_never_started_can_be_deleted() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    detached(&sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    sandbox.runtime(["delete", "c"]).ok();
    sandbox.runtime(["state", "c"]).code(1);
}

#[test]
fn an_unknown_container_is_an_error_except_for_delete_force() {
    let sandbox = sandbox();
    for command in ["start", "state", "kill", "pause", "resume", "delete", "ps", "events", "update"] {
        sandbox.runtime([command, "nobody"]).code(1).complains("does not exist");
    }
    sandbox.runtime(["exec", "nobody", "true"]).code(255).complains("does not exist");
    sandbox.runtime(["delete", "--force", "nobody"]).ok();
}

#[test]
fn run_passes_on_the_exit_code_and_leaves_nothing() {
    let sandbox = sandbox();
    run(&sandbox, &script(&sandbox, "echo out; echo err >&2; exit 7")).code(7).prints("out").complains("err");
    sandbox.runtime(["state", "c"]).code(1);
    // The first process of a pid namespace is shielded from its own signals: a shell's child is killed instead.
    run(&sandbox, &script(&sandbox, "sh -c 'kill -9 $$'; exit $?")).code(137);
}

#[test]
fn run_keeps_the_container_when_asked() {
    let sandbox = sandbox();
    let bundle = script(&sandbox, "exit 3");
    sandbox.runtime(["run", "--keep", "-b", bundle.directory.to_str().unwrap(), "c"]).code(3);
    assert_eq!(state(&sandbox)["status"], "stopped");
    sandbox.runtime(["delete", "c"]).ok();
}

#[test]
fn run_forwards_signals() {
    let sandbox = sandbox();
    let bundle = script(&sandbox, "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done");
    let mut command = sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn run_detached_returns_at_once() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    detached(&sandbox, &["run", "--detach", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    assert_eq!(state(&sandbox)["status"], "running");
    delete(&sandbox);
}

#[test]
fn a_program_that_is_missing_or_not_executable_is_named() {
    let sandbox = sandbox();
    run(&sandbox, &sandbox.bundle(["no-such-program"])).code(1).complains("no-such-program");
    run(&sandbox, &sandbox.bundle(["/etc/passwd"])).code(1).complains("/etc/passwd");
    sandbox.runtime(["state", "c"]).code(1);
}

#[test]
fn signals_are_named_or_numbered() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    start(&sandbox, &bundle);
    sandbox.runtime(["kill", "c", "moon"]).code(1).complains("unknown signal \\\"moon\\\"");
    for signal in ["0", "SIGWINCH", "urg"] {
        sandbox.runtime(["kill", "c", signal]).ok();
    }
    assert_eq!(state(&sandbox)["status"], "running");
    delete(&sandbox);
}

#[test]
fn a_container_that_waits_for_its_start_obeys_the_usual_signals() {
    for signal in ["TERM", "INT", "KILL"] {
        let sandbox = sandbox();
        detached(&sandbox, &["create", "-b", sleeper(&sandbox).directory.to_str().unwrap(), "c"]).ok();
        sandbox.runtime(["kill", "c", signal]).ok();
        wait_for_status(&sandbox, "stopped");
        sandbox.runtime(["start", "c"]).code(1).complains("stopped");
        sandbox.runtime(["delete", "c"]).ok();
    }
}
