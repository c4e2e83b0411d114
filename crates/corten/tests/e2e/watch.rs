//! stats, usage, why, top in a terminal, ps -s, inspect -s, generate systemd: what a container uses, and why it ended.

use std::time::Duration;

use corten_testkit::run::{eventually, finish, shown};
use corten_testkit::skip::program;
use corten_testkit::{Sandbox, require};
use serde_json::Value;

use crate::sandbox;

fn why(sandbox: &Sandbox, name: &str) -> Value {
    serde_json::from_str(sandbox.corten(["why", "--format", "json", name]).ok().text()).unwrap()
}

fn usage(sandbox: &Sandbox, name: &str) -> Value {
    serde_json::from_str(sandbox.corten(["usage", "--format", "json", name]).ok().text()).unwrap()
}

fn exited(sandbox: &Sandbox, name: &str) {
    sandbox.corten(["wait", name]).ok();
    let told = eventually(Duration::from_secs(20), || {
        sandbox.corten(["usage", "--format", "{{.Status}} {{.Runs}}", name]).stdout.starts_with("ended 1")
    });
    assert!(told, "{}", sandbox.corten(["usage", name]).transcript());
}

#[test]
fn stats_show_what_running_containers_use() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "busy", &tiny, "sh", "-c", "while :; do :; done"]).ok();
    sandbox.corten(["create", "--name", "idle", &tiny, "true"]).ok();
    let table = sandbox.corten(["stats", "--no-stream"]);
    table.ok().shows("CONTAINER ID").shows("MEM USAGE / LIMIT").shows("busy");
    assert!(!table.stdout.contains("idle"), "{}", table.transcript());
    sandbox.corten(["stats", "--no-stream", "-a"]).ok().shows("idle");
    if !sandbox.is_rootless() {
        let line = ["stats", "--no-stream", "--format", "{{.CPUPerc}} {{.PIDs}} {{.MemUsage}}", "busy"];
        let shown = sandbox.corten(line).ok().text().to_owned();
        assert!(!shown.starts_with("0.00%") && shown.contains("% 1 ") && !shown.contains("% 1 0B"), "{shown}");
    }
    sandbox.corten(["stats", "--no-stream", "nobody"]).code(1).complains("no such container");
    sandbox.corten(["port", "busy"]).ok().prints("");
    sandbox.corten(["port", "busy", "80"]).code(1).complains("no public port '80/tcp' published for busy");
    sandbox.corten(["rm", "-f", "busy", "idle"]).ok();
}

#[test]
fn usage_outlives_the_container() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "no cgroup is delegated to an ordinary user here");
    let tiny = sandbox.tiny();
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done";
    sandbox
        .corten(["run", "-d", "--name", "worker", "-l", "team=a", "--pids-limit", "50", &tiny, "sh", "-c", script])
        .ok();
    exited(&sandbox, "worker");
    let before = usage(&sandbox, "worker");
    assert!(
        before["CPUSeconds"].as_f64().unwrap() > 0.0 && before["MemoryPeakBytes"].as_u64().unwrap() > 0,
        "{before}"
    );
    sandbox.corten(["rm", "worker"]).ok();
    let after = usage(&sandbox, "worker");
    assert_eq!((&after["Status"], &after["CPUSeconds"]), (&"removed".into(), &before["CPUSeconds"]));
    sandbox.corten(["usage", "--label", "team=a"]).ok().shows("worker").shows("GB-HOURS");
    sandbox.corten(["usage", "--label", "team=b", "--format", "{{.Name}}"]).ok().prints("");
    sandbox.corten(["usage", "nobody"]).code(1).complains("nobody");
}

#[test]
fn why_names_what_ended_a_container() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let summary = |name: &str| why(&sandbox, name)["Summary"].as_str().unwrap().to_owned();
    sandbox.corten(["run", "--name", "ended", &tiny, "sh", "-c", "exit 3"]).code(3);
    assert!(
        eventually(Duration::from_secs(20), || summary("ended") == "ended by itself with exit code 3"),
        "{}",
        summary("ended")
    );
    sandbox.corten(["run", "-d", "--name", "killed", &tiny, "sleep", "600"]).ok();
    sandbox.corten(["kill", "-s", "KILL", "killed"]).ok();
    sandbox.corten(["wait", "killed"]).ok();
    let said = summary("killed");
    assert!(said.contains("SIGKILL from") && said.contains("kill -s KILL killed"), "{said}");
    let text = sandbox.corten(["why", "killed"]);
    text.ok().shows("created").shows("started as process").shows("SIGKILL was sent by").shows("ended by SIGKILL");
    sandbox.corten(["rm", "killed"]).ok();
    assert!(summary("killed").contains("was removed"), "{}", summary("killed"));
    sandbox.corten(["why", "nobody"]).code(1).complains("no such container");
}

#[test]
fn why_tells_of_memory_with_the_cgroups_numbers() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "no cgroup is delegated to an ordinary user here");
    let tiny = sandbox.tiny();
    let script = "x=a; while :; do x=$x$x; done";
    let line = ["run", "-d", "--name", "eater", "-m", "16m", "--memory-swap", "16m", &tiny, "sh", "-c", script];
    sandbox.corten(line).ok();
    exited(&sandbox, "eater");
    let story = why(&sandbox, "eater");
    assert!(story["Summary"].as_str().unwrap().contains("for want of memory"), "{story}");
    let oom = story["Steps"].as_array().unwrap().iter().find(|step| step["Action"] == "oom").unwrap();
    assert_eq!(oom["Facts"]["memoryLimitBytes"], (16 << 20).to_string(), "{oom}");
    assert!(oom["Text"].as_str().unwrap().contains("of 16MiB"), "{oom}");
    assert!(usage(&sandbox, "eater")["OOMKills"].as_u64().unwrap() > 0);
    sandbox.corten(["rm", "eater"]).ok();
}

#[test]
fn why_tells_of_health_and_of_the_system_call_filter() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let check = ["--health-cmd", "echo no answer; false", "--health-interval", "50ms", "--health-retries", "1"];
    let line = ["run", "-d", "--name", "sick", "--health-on-failure", "kill"].into_iter().chain(check);
    sandbox.corten(line.chain([tiny.as_str(), "sleep", "600"])).ok();
    sandbox.corten(["wait", "sick"]).ok();
    let text = sandbox.corten(["why", "sick"]);
    text.ok().shows("is unhealthy: the check ended with 1 and printed: no answer").shows("its health check failed");
    let profile = sandbox.work().join("profile.json");
    let rules = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    std::fs::write(&profile, rules).unwrap();
    let option = format!("seccomp={}", profile.display());
    let line = ["run", "-d", "--name", "filtered", "--security-opt", &option, &tiny, "mkdir", "/tmp/x"];
    sandbox.corten(line).ok();
    sandbox.corten(["wait", "filtered"]).ok().prints("159");
    sandbox.corten(["why", "filtered"]).ok().shows("was killed by its system call filter");
    sandbox.corten(["rm", "-f", "sick", "filtered"]).ok();
}

#[test]
fn sizes_are_what_was_written() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--name", "writer", &tiny, "sh", "-c", "head -c 20000 /dev/zero >/file"]).ok();
    sandbox.corten(["ps", "-as"]).ok().shows("SIZE").shows("20kB (virtual ");
    sandbox.corten(["ps", "-a", "--format", "{{.Size}}"]).ok().shows("20kB (virtual");
    let document: Value = serde_json::from_str(sandbox.corten(["inspect", "-s", "writer"]).ok().text()).unwrap();
    assert_eq!(document[0]["SizeRw"], 20000);
    assert!(document[0]["SizeRootFs"].as_u64().unwrap() > 20000);
    assert!(document[0]["GraphDriver"]["Data"]["UpperDir"].as_str().unwrap().contains("snapshots"), "{document}");
    sandbox.corten(["container", "prune", "-f"]).ok().shows("Total reclaimed space: 20kB");
}

#[test]
fn top_without_a_name_shows_every_container_in_a_terminal() {
    let mut sandbox = sandbox();
    require!(program("script").is_some(), "needs `script` to have a terminal");
    let tiny = sandbox.tiny();
    sandbox.corten(["top"]).code(1).complains("needs a terminal");
    sandbox.corten(["run", "-d", "--name", "shown", &tiny, "sh", "-c", "echo printed-by-it; exec sleep 600"]).ok();
    let line = shown(&sandbox.corten_command(["top"]));
    let mut command = sandbox.command("sh");
    let typing = "seen() { for i in $(seq 200); do grep -q \"$1\" \"$2\" 2>/dev/null && return; sleep 0.1; done; }
        (seen '> shown' \"$2\"; printf l; seen printed-by-it \"$2\"; printf q; printf q; seen ^code \"$2\") |
        script -qefc \"$1; echo code \\$?\" \"$2\"";
    command.args(["-c", typing, "sh", &line]).arg(sandbox.work().join("typescript"));
    finish(command, None, Duration::from_secs(60)).shows("the log of shown").shows("code 0");
    sandbox.corten(["rm", "-f", "shown"]).ok();
}

#[test]
fn units_of_systemd_start_containers() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["create", "--name", "web", &tiny, "true"]).ok();
    sandbox.corten(["generate", "systemd"]).ok().shows(" boot\n").shows("RemainAfterExit=yes");
    sandbox.corten(["generate", "systemd", "--name", "web"]).ok().shows("start --attach web").shows("ExecStop=");
    sandbox.corten(["generate", "systemd", "--name", "nobody"]).code(1);
    sandbox.corten(["rm", "web"]).ok();
}
