//! Supervisors in trouble: stuck, killed at any system call, with a full disk, with programs that cannot be started again.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_testkit::run::{eventually, finish};
use corten_testkit::skip::{is_root, program};
use corten_testkit::world::world;
use corten_testkit::{Image, Sandbox, require};

use crate::sandbox;

const LONG: Duration = Duration::from_secs(30);

fn supervisor_of(sandbox: &Sandbox, name: &str) -> i32 {
    let pid = sandbox.corten(["inspect", "--format", "{{.State.Pid}}", name]).ok().text().to_owned();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn signal(pid: i32, name: &str) {
    Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
}

fn state(sandbox: &Sandbox, name: &str) -> String {
    sandbox.corten(["inspect", "--format", "{{.State.Status}}", name]).text().to_owned()
}

#[test]
fn a_program_that_cannot_be_started_again_is_tried_again() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let directory = sandbox.directory("shared");
    let write = |text: &str| {
        std::fs::write(directory.join("new"), text).unwrap();
        std::fs::set_permissions(directory.join("new"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(directory.join("new"), directory.join("program")).unwrap();
    };
    // It takes itself away: the next start fails.
    write("#!/bin/sh\nmv /shared/program /shared/old; exit 3\n");
    let mount = format!("{}:/shared", directory.display());
    let args = ["run", "-d", "--name", "web", "--restart", "always", "-v", &mount, &tiny, "/shared/program"];
    sandbox.corten(args).ok();
    let failed = || {
        let shown =
            sandbox.corten(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "web"]);
        shown.text().starts_with("restarting 127") && !shown.text().ends_with(" 1")
    };
    assert!(eventually(LONG, failed), "{}", state(&sandbox, "web"));
    write("#!/bin/sh\nexec sleep 600\n");
    assert!(eventually(LONG, || state(&sandbox, "web") == "running"), "{}", state(&sandbox, "web"));
    sandbox.corten(["rm", "-f", "web"]).ok();
    // Where the policy counts, failed starts count too.
    write("#!/bin/sh\nmv /shared/program /shared/old; exit 3\n");
    let args = ["run", "-d", "--name", "few", "--restart", "on-failure:2", "-v", &mount, &tiny, "/shared/program"];
    sandbox.corten(args).ok();
    assert!(eventually(LONG, || state(&sandbox, "few") == "exited"), "{}", state(&sandbox, "few"));
    sandbox.corten(["inspect", "--format", "{{.State.ExitCode}} {{.RestartCount}}", "few"]).ok().prints("127 2");
}

#[test]
fn a_terminal_whose_reader_died_does_not_stop_the_process() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "web", &tiny, "sleep", "600"]).ok();
    let script = "echo ready >/tmp/ready; seq 1 300000; echo done >/tmp/done";
    let mut client = sandbox.corten_command(["exec", "-t", "web", "sh", "-c", script]);
    // A reader that reads nothing: the client blocks, and then it is killed.
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let exists = |name: &str| sandbox.corten(["exec", "web", "cat", name]).code == 0;
    assert!(eventually(LONG, || exists("/tmp/ready")));
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(eventually(LONG, || exists("/tmp/done")));
}

#[test]
fn a_stuck_supervisor_makes_nobody_else_wait() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for name in ["stuck", "other", "third"] {
        sandbox.corten(["run", "-d", "--name", name, &tiny, "sleep", "600"]).ok();
    }
    let supervisor = supervisor_of(&sandbox, "stuck");
    signal(supervisor, "STOP");
    let quick = |args: &[&str]| {
        let shown = finish(sandbox.corten_command(args), None, Duration::from_secs(15));
        assert!(!shown.timed_out, "{args:?} waits");
        shown.ok().text().to_owned()
    };
    assert_eq!(quick(&["ps", "-q"]).lines().count(), 3);
    quick(&["inspect", "stuck"]);
    quick(&["inspect", "other"]);
    quick(&["exec", "other", "true"]);
    quick(&["rm", "-f", "other"]);
    quick(&["logs", "stuck"]);
    // Its own removal waits for a while, and then does what it does not.
    let shown = finish(sandbox.corten_command(["rm", "-f", "stuck"]), None, Duration::from_secs(50));
    assert!(!shown.timed_out);
    shown.ok();
    sandbox.corten(["ps", "-a", "--format", "{{.Names}}"]).ok().prints("third");
}

/// strace at a living supervisor, that kills it at its `count`th system call from now on.
fn kill_at(supervisor: i32, count: usize) -> Child {
    let inject = format!("inject=all:signal=KILL:when={count}");
    let args = ["-qq", "-o", "/dev/null", "-e", &inject, "-p", &supervisor.to_string()].map(str::to_owned);
    let mut tracer = Command::new("strace");
    let child = tracer.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let traced = || {
        std::fs::read_to_string(format!("/proc/{supervisor}/status"))
            .is_ok_and(|status| status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
    };
    assert!(eventually(Duration::from_secs(10), traced));
    child
}

#[test]
fn a_supervisor_killed_at_any_system_call_leaves_nothing_that_the_next_command_does_not_repair() {
    let mut sandbox = sandbox();
    require!(is_root() && !sandbox.is_rootless(), "an ordinary user may not trace its supervisors");
    require!(program("strace").is_some(), "needs `strace` to choose the system call");
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let tiny = sandbox.tiny();
    let commands: [&[&str]; 5] = [
        &["exec", "web", "true"],
        &["stop", "-t", "0", "web"],
        &["restart", "-t", "0", "web"],
        &["pause", "web"],
        &["rm", "-f", "web"],
    ];
    // Another start each time: every run of the test sees other system calls.
    let first = usize::try_from(std::process::id()).unwrap() % 17;
    for command in commands {
        for count in (1 + first..240).step_by(47) {
            sandbox.corten(["run", "-d", "--name", "web", &tiny, "sleep", "600"]).ok();
            let mut tracer = kill_at(supervisor_of(&sandbox, "web"), count);
            let shown = finish(sandbox.corten_command(command), None, LONG);
            assert!(!shown.timed_out, "{command:?} waits when its supervisor is killed at system call {count}");
            tracer.kill().ok();
            tracer.wait().unwrap();
            sandbox.corten(["ps", "-a"]).ok();
            sandbox.corten(["rm", "-f", "web"]).ok();
            sandbox.corten(["ps", "-aq"]).ok().prints("");
        }
    }
}

#[test]
fn command_line_and_supervisor_killed_at_any_system_call_of_a_start_leave_nothing() {
    let mut sandbox = sandbox();
    require!(is_root() && !sandbox.is_rootless(), "an ordinary user may not trace its supervisors");
    require!(program("strace").is_some(), "needs `strace` to choose the system call");
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let tiny = sandbox.tiny();
    let first = usize::try_from(std::process::id()).unwrap() % 31;
    // Each process counts for itself: the command line makes fewer calls than its supervisor, so that later kills are its.
    for count in (1 + first..1000).step_by(61) {
        let inner = sandbox.corten_command(["run", "-d", "--name", "web", &tiny, "sleep", "600"]);
        let mut command = sandbox.command("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject=all:signal=KILL:when={count}")]);
        command.arg(inner.get_program()).args(inner.get_args());
        // strace follows what is left running; killed, it lets go of that at once.
        let mut tracer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let over = || tracer.try_wait().unwrap().is_some() || state(&sandbox, "web") == "running";
        assert!(eventually(LONG, over), "hangs when killed at system call {count}");
        tracer.kill().ok();
        tracer.wait().unwrap();
        sandbox.corten(["ps", "-a"]).ok();
        let ids = || sandbox.corten(["ps", "-aq"]).ok().text().to_owned();
        let gone = eventually(LONG, || {
            ids().lines().for_each(|id| drop(sandbox.corten(["rm", "-f", id])));
            ids().is_empty()
        });
        assert!(gone, "killed at system call {count}: {}", ids());
    }
}

#[test]
fn a_full_disk_costs_lines_of_the_log_and_nothing_else() {
    let sandbox = sandbox();
    require!(is_root() && !sandbox.is_rootless(), "a file system of its own needs root");
    Image::tiny().write_docker_archive(&sandbox.work().join("tiny.tar"));
    for driver in ["json-file", "local", "k8s-file"] {
        let script = format!(
            "corten() {{ {corten} --root $STATE/small/root --run-root $STATE/run/corten \"$@\"; }}\n\
             mkdir -p $STATE/small && mount -t tmpfs -o size=24m tmpfs $STATE/small\n\
             corten load -q -i {work}/tiny.tar\n\
             corten run -d --name web --log-driver {driver} --log-opt max-size=-1 tiny:latest \
               sh -c 'seq 1 4000000; echo >/dev/null; exit 5'\n\
             corten wait web\n\
             corten inspect --format 'code {{{{.State.ExitCode}}}} {{{{.State.Error}}}}' web\n\
             corten logs web | head -n 2\n\
             corten logs web | tail -n 1 | grep -q '^[0-9]*$' && echo whole lines\n\
             corten ps -a --format '{{{{.Names}}}} is known'\n\
             corten rm web && corten ps -aq | wc -l\n",
            corten = env!("CARGO_BIN_EXE_corten"),
            work = sandbox.work().display(),
        );
        let mut command = world(&sandbox.path().join("world"), &script);
        command.env("CORTEN_TEST_SANDBOX", sandbox.path());
        let shown = finish(command, None, Duration::from_secs(120));
        shown.ok().shows("5\ncode 5 \n1\n2\nwhole lines\nweb is known\nweb\n0");
    }
}

#[test]
fn output_without_an_end_of_line_takes_no_memory() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let program = "head -c 30000000 /dev/zero; sleep 600";
    let args = ["run", "-d", "--name", "web", "--log-opt", "max-size=1m", "--log-opt", "max-file=2", &tiny];
    sandbox.corten(args.into_iter().chain(["sh", "-c", program])).ok();
    let supervisor = supervisor_of(&sandbox, "web");
    let waits = || sandbox.corten(["top", "web", "-o", "pid,comm"]).text().contains("sleep");
    assert!(eventually(Duration::from_secs(120), waits));
    let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
    let peak_kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let anonymous_kib = peak_kib("RssAnon:");
    assert!(anonymous_kib < 8 * 1024, "{anonymous_kib} KiB");
    sandbox.corten(["rm", "-f", "web"]).ok();
}
