//! A container's life: created, started, stopped, frozen, renamed, entered again, started again by its policy.

use std::time::Duration;

use corten_testkit::Sandbox;
use corten_testkit::run::eventually;
use corten_testkit::skip::program;

use crate::sandbox;

/// A loop that ends with 7 when it is asked to.
const POLITE: &str = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";

fn field(sandbox: &Sandbox, name: &str, field: &str) -> String {
    sandbox.corten(["inspect", "--format", &format!("{{{{{field}}}}}"), name]).ok().text().to_owned()
}

fn wait_for(sandbox: &Sandbox, name: &str, text: &str) {
    let shown = eventually(Duration::from_secs(30), || sandbox.corten(["logs", name]).stdout.contains(text));
    assert!(shown, "{text} is not in the log of {name}: {}", sandbox.corten(["logs", name]).transcript());
}

#[test]
fn a_container_is_created_started_and_started_again() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let id = sandbox.corten(["create", "--name", "web", &tiny, "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(id.ok().text().len(), 64);
    assert_eq!(field(&sandbox, "web", ".State.Status"), "created");
    sandbox.corten(["start", "web"]).ok().prints("web");
    sandbox.corten(["wait", "web"]).ok().prints("3");
    let again = sandbox.corten(["start", "-a", "web"]);
    again.code(3).prints("out");
    assert_eq!(again.stderr, "err\n");
    let logs = sandbox.corten(["logs", "web"]);
    assert_eq!((logs.ok().stdout.as_str(), logs.stderr.as_str()), ("out\nout\n", "err\nerr\n"));
    sandbox.corten(["start", "web", "nobody"]).code(1).prints("web").complains("no such container: `nobody`");
    sandbox.corten(["wait", "web"]).ok();
    sandbox.corten(["rm", "web"]).ok().prints("web");
}

#[test]
fn stop_asks_first_and_kills_later() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "polite", &tiny, "sh", "-c", POLITE]).ok();
    wait_for(&sandbox, "polite", "ready");
    sandbox.corten(["stop", "polite"]).ok().prints("polite");
    assert_eq!(field(&sandbox, "polite", ".State.ExitCode"), "7");
    sandbox.corten(["stop", "polite"]).ok();
    sandbox.corten(["run", "-d", "--name", "deaf", &tiny, "sh", "-c", "trap '' TERM; echo ready; sleep 600"]).ok();
    wait_for(&sandbox, "deaf", "ready");
    sandbox.corten(["stop", "-t", "0", "deaf"]).ok();
    assert_eq!(field(&sandbox, "deaf", ".State.ExitCode"), "137");
    sandbox.corten(["kill", "deaf"]).code(1).complains("is not running");
    sandbox.corten(["restart", "-t", "0", "deaf"]).ok().prints("deaf");
    sandbox.corten(["kill", "-s", "KILL", "deaf"]).ok().prints("deaf");
    sandbox.corten(["wait", "deaf"]).ok().prints("137");
}

#[test]
fn a_frozen_container_is_told_and_can_be_stopped() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    sandbox.corten(["run", "-d", "--name", "cold", &tiny, "sh", "-c", POLITE]).ok();
    wait_for(&sandbox, "cold", "ready");
    sandbox.corten(["pause", "cold"]).ok().prints("cold");
    sandbox.corten(["ps"]).ok().shows("(Paused)");
    sandbox.corten(["pause", "cold"]).code(1).complains("already paused");
    sandbox.corten(["exec", "cold", "true"]).code(1).complains("is paused, unpause the container before exec");
    sandbox.corten(["unpause", "cold"]).ok();
    sandbox.corten(["unpause", "cold"]).code(1).complains("is not paused");
    sandbox.corten(["pause", "cold"]).ok();
    sandbox.corten(["stop", "cold"]).ok();
    assert_eq!(field(&sandbox, "cold", ".State.ExitCode"), "7");
}

#[test]
fn a_name_can_change_at_any_time() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--rm", "--name", "before", &tiny, "sleep", "600"]).ok();
    sandbox.corten(["create", "--name", "other", &tiny, "true"]).ok();
    sandbox.corten(["rename", "before", "other"]).code(1).complains("already in use");
    sandbox.corten(["rename", "before", "after"]).ok().prints("");
    sandbox.corten(["inspect", "before"]).code(1);
    sandbox.corten(["create", "--name", "before", &tiny, "true"]).ok();
    sandbox.corten(["rm", "-f", "after"]).ok();
    sandbox.corten(["rm", "before", "other"]).ok();
    let names: Vec<_> = std::fs::read_dir(sandbox.root().join("names")).unwrap().collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn exec_runs_one_more_program_as_docker_does() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "web", "-e", "A=1", "-w", "/tmp", &tiny, "sleep", "600"]).ok();
    sandbox.corten(["exec", "web", "sh", "-c", "echo $A $B; pwd; exit 5"]).code(5).prints("1\n/tmp");
    sandbox.corten(["exec", "-e", "B=2", "-w", "/", "web", "sh", "-c", "echo $A $B; pwd"]).ok().prints("1 2\n/");
    let megabyte = vec![b'x'; 1 << 20];
    sandbox.corten_with_input(["exec", "-i", "web", "wc", "-c"], &megabyte).ok().prints("1048576");
    sandbox.corten_with_input(["exec", "web", "wc", "-c"], b"not passed on").ok().prints("0");
    sandbox.corten(["exec", "web", "no-such-program"]).code(127);
    sandbox.corten(["exec", "web", "/etc"]).code(126);
    sandbox.corten(["exec", "web", "sh", "-c", "kill -9 $$"]).code(137);
    sandbox.corten(["exec", "-d", "web", "sh", "-c", "echo made >/tmp/made"]).ok().prints("");
    assert!(eventually(Duration::from_secs(20), || sandbox.corten(["exec", "web", "cat", "/tmp/made"]).code == 0));
    sandbox.corten(["exec", "-t", "web", "sh", "-c", "test -t 1 && echo $TERM"]).ok().shows("xterm");
    sandbox.corten(["stop", "-t", "0", "web"]).ok();
    sandbox.corten(["exec", "web", "true"]).code(1).complains("is not running");
}

#[test]
fn policies_start_a_program_again_and_the_user_ends_it() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let delay = ["--restart-delay", "10ms:20ms"];
    let args = ["run", "-d", "--name", "fails", "--restart", "on-failure:2"].into_iter().chain(delay);
    sandbox.corten(args.chain([tiny.as_str(), "sh", "-c", "echo again; exit 4"])).ok();
    sandbox.corten(["wait", "fails"]).ok().prints("4");
    assert_eq!(field(&sandbox, "fails", ".RestartCount"), "2");
    assert_eq!(sandbox.corten(["logs", "fails"]).ok().stdout, "again\nagain\nagain\n");
    let args = ["run", "-d", "--name", "always", "--restart", "always"].into_iter().chain(delay);
    sandbox.corten(args.chain([tiny.as_str(), "sh", "-c", "echo again"])).ok();
    assert!(eventually(Duration::from_secs(20), || sandbox.corten(["logs", "always"]).stdout.lines().count() > 3));
    sandbox.corten(["stop", "always"]).ok();
    assert_eq!(field(&sandbox, "always", ".State.Status"), "exited");
    sandbox.corten(["run", "--rm", "--restart", "always", &tiny, "true"]).code(125).complains("--restart and --rm");
    sandbox.corten(["boot"]).ok().prints("always");
    sandbox.corten(["rm", "-f", "always", "fails"]).ok();
}

#[test]
fn checks_tell_a_container_s_health_and_act_on_it() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let checked = |name: &str, action: &str| {
        let flags = ["run", "-d", "--name", name, "--health-cmd", "echo looked; test -e /tmp/well"];
        let times = ["--health-interval", "50ms", "--health-retries", "2", "--health-on-failure", action];
        sandbox.corten(flags.into_iter().chain(times).chain([tiny.as_str(), "sleep", "600"])).ok();
    };
    let is = |name: &str, status: &str| {
        eventually(Duration::from_secs(30), || {
            sandbox
                .corten(["ps", "-q", "--filter", &format!("health={status}"), "--filter", &format!("name={name}")])
                .text()
                != ""
        })
    };
    checked("web", "none");
    assert!(is("web", "unhealthy"));
    sandbox.corten(["ps"]).ok().shows("(unhealthy)");
    assert_eq!(field(&sandbox, "web", "(index .State.Health.Log 0).Output"), "looked");
    sandbox.corten(["exec", "web", "touch", "/tmp/well"]).ok();
    assert!(is("web", "healthy"));
    checked("sick", "kill");
    sandbox.corten(["wait", "sick"]).ok().prints("137");
}

#[test]
fn attached_to_by_several_and_left_by_keys() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    corten_testkit::require!(corten_testkit::skip::program("script").is_some(), "needs `script` to have a terminal");
    sandbox.corten(["run", "-dit", "--name", "shell", &tiny, "sh"]).ok();
    for round in 0..2 {
        let line = corten_testkit::run::shown(&sandbox.corten_command(["attach", "shell"]));
        let mut command = sandbox.command("sh");
        let script = format!(
            "(sleep 1; printf 'echo round-$((40+{round}))\\r'; sleep 1; printf '\\020\\021') | script -qec \"$1; echo left \\$?\" /dev/null"
        );
        command.args(["-c", &script, "sh", &line]);
        let shown = corten_testkit::run::finish(command, None, Duration::from_secs(30));
        shown.shows(&format!("round-{}", 40 + round)).shows("left 0");
        assert_eq!(field(&sandbox, "shell", ".State.Running"), "true");
    }
    sandbox.corten(["logs", "shell"]).ok().shows("round-40").shows("round-41");
    sandbox.corten(["rm", "-f", "shell"]).ok();
}

#[test]
fn what_happens_to_a_container_is_changed_shown_and_told() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "web", &tiny, "sleep", "600"]).ok();
    sandbox.corten(["update", "--restart", "unless-stopped", "web"]).ok().prints("web");
    assert_eq!(field(&sandbox, "web", ".HostConfig.RestartPolicy.Name"), "unless-stopped");
    if program("ps").is_some() {
        sandbox.corten(["top", "web", "-o", "pid,args"]).ok().shows("sleep 600");
    }
    sandbox.corten(["update", "--restart", "sometimes", "web"]).code(1).complains("restart policy");
    sandbox.corten(["container", "prune", "-f"]).ok().shows("Total reclaimed space: 0B");
    sandbox.corten(["stop", "-t", "0", "web"]).ok();
    let told = ["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}", "--filter", "container=web"];
    assert_eq!(sandbox.corten(told).ok().text(), "create\nstart\nupdate\nkill\ndie\nstop");
    sandbox.corten(["container", "prune", "-f"]).ok().shows("Deleted Containers:");
    assert_eq!(sandbox.corten(["ps", "-aq"]).ok().text(), "");
}
