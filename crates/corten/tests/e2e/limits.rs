//! -m, --cpus, --pids-limit, --ulimit, --sysctl, as the container and its cgroup see them.

use corten_testkit::require;
use corten_testkit::skip::has_cgroup_v2_only;

use crate::sandbox;

/// A limit as the container's own cgroup shows it: file of cgroup v2, controller and file of v1.
fn limit(flags: &[&str], v2: &str, v1: (&str, &str)) -> Option<String> {
    let mut sandbox = sandbox();
    if sandbox.is_rootless() {
        return None;
    }
    let tiny = sandbox.tiny();
    let file =
        if has_cgroup_v2_only() { format!("/sys/fs/cgroup/{v2}") } else { format!("/sys/fs/cgroup/{}/{}", v1.0, v1.1) };
    let args = ["run", "--rm"].iter().chain(flags).copied().chain([tiny.as_str(), "cat", &file]);
    Some(sandbox.corten(args).ok().text().to_owned())
}

#[test]
fn memory() {
    let shown = limit(&["-m", "64m"], "memory.max", ("memory", "memory.limit_in_bytes"));
    require!(shown.is_some(), "no cgroup is delegated to an ordinary user here");
    assert_eq!(shown.unwrap(), (64 << 20).to_string());
}

#[test]
fn processors() {
    let shown = limit(&["--cpus", "0.5"], "cpu.max", ("cpu", "cpu.cfs_quota_us"));
    require!(shown.is_some(), "no cgroup is delegated to an ordinary user here");
    assert!(["50000", "50000 100000"].contains(&shown.unwrap().as_str()));
}

#[test]
fn processes() {
    let shown = limit(&["--pids-limit", "17"], "pids.max", ("pids", "pids.max"));
    require!(shown.is_some(), "no cgroup is delegated to an ordinary user here");
    assert_eq!(shown.unwrap(), "17");
}

#[test]
fn a_program_beyond_its_memory_is_killed_and_says_so() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "no cgroup is delegated to an ordinary user here");
    let tiny = sandbox.tiny();
    let script = "x=a; while :; do x=$x$x; done";
    sandbox
        .corten(["run", "--name", "eater", "-m", "16m", "--memory-swap", "16m", &tiny, "sh", "-c", script])
        .code(137);
    sandbox.corten(["inspect", "--format", "{{.State.OOMKilled}}", "eater"]).ok().prints("true");
    sandbox.corten(["rm", "eater"]).ok();
}

#[test]
fn ulimits() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox
        .corten(["run", "--rm", "--ulimit", "nofile=123:456", &tiny, "sh", "-c", "ulimit -n; ulimit -Hn"])
        .ok()
        .prints("123\n456");
    sandbox.corten(["run", "--rm", "--ulimit", "nofile=9:3", &tiny, "true"]).code(125).complains("nofile");
    sandbox.corten(["run", "--rm", "--ulimit", "nonsense=1", &tiny, "true"]).code(125).complains("nonsense");
}

#[test]
fn kernel_parameters_of_the_containers_own_namespaces() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox
        .corten([
            "run",
            "--rm",
            "--network",
            "none",
            "--sysctl",
            "net.ipv4.ip_default_ttl=42",
            &tiny,
            "cat",
            "/proc/sys/net/ipv4/ip_default_ttl",
        ])
        .ok()
        .prints("42");
    sandbox
        .corten(["run", "--rm", "--sysctl", "kernel.msgmax=4096", &tiny, "cat", "/proc/sys/kernel/msgmax"])
        .ok()
        .prints("4096");
    sandbox.corten(["run", "--rm", "--sysctl", "kernel.panic=1", &tiny, "true"]).code(125).complains("kernel.panic");
    sandbox
        .corten(["run", "--rm", "--network", "host", "--sysctl", "net.ipv4.ip_default_ttl=42", &tiny, "true"])
        .code(125)
        .complains("net.ipv4");
}
