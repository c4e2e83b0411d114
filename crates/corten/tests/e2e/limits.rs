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
fn quota_and_period() {
    let flags = ["--cpu-period", "50000", "--cpu-quota", "20000"];
    let shown = limit(&flags, "cpu.max", ("cpu", "cpu.cfs_quota_us"));
    require!(shown.is_some(), "no cgroup is delegated to an ordinary user here");
    assert!(["20000", "20000 50000"].contains(&shown.unwrap().as_str()));
}

/// A block device of this machine.
fn block_device() -> Option<(String, String)> {
    let names =
        std::fs::read_dir("/sys/class/block").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.map(|name| (format!("/dev/{name}"), name)).find_map(|(path, name)| {
        let numbers = std::fs::read_to_string(format!("/sys/class/block/{name}/dev")).ok()?;
        let whole = !std::path::Path::new(&format!("/sys/class/block/{name}/partition")).exists();
        (whole && std::path::Path::new(&path).exists()).then(|| (path, numbers.trim().to_owned()))
    })
}

#[test]
fn rates_of_devices() {
    let device = block_device();
    require!(device.is_some(), "there is no block device here");
    let (path, numbers) = device.unwrap();
    let rate = format!("{path}:1mb");
    let shown = limit(&["--device-write-bps", &rate], "io.max", ("blkio", "blkio.throttle.write_bps_device"));
    require!(shown.is_some(), "no cgroup is delegated to an ordinary user here");
    let shown = shown.unwrap();
    assert!(shown.contains(&numbers) && shown.contains("1048576"), "{shown}");
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox
        .corten(["create", "--device-read-iops", "/dev/null:5", &tiny, "true"])
        .code(1)
        .complains("not a block device");
}

#[test]
fn what_only_cgroup_v1_has_works_there_and_is_refused_elsewhere() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "no cgroup is delegated to an ordinary user here");
    let tiny = sandbox.tiny();
    let file = "/sys/fs/cgroup/memory/memory.swappiness";
    let line = ["run", "--rm", "-m", "64m", "--memory-swappiness", "7", &tiny, "cat", file];
    match has_cgroup_v2_only() {
        true => drop(sandbox.corten(line).code(125).complains("--memory-swappiness").clone()),
        false => drop(sandbox.corten(line).ok().prints("7").clone()),
    }
}

#[test]
fn rules_for_devices_that_come_later() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "no cgroup is delegated to an ordinary user here");
    let tiny = sandbox.tiny();
    require!(!has_cgroup_v2_only(), "cgroup v2 has no file that shows the rules");
    let list = "/sys/fs/cgroup/devices/devices.list";
    let plain = sandbox.corten(["run", "--rm", &tiny, "cat", list]);
    assert!(!plain.ok().stdout.contains("c 42:* rwm"), "{}", plain.transcript());
    sandbox.corten(["run", "--rm", "--device-cgroup-rule", "c 42:* rmw", &tiny, "cat", list]).ok().shows("c 42:* rwm");
    sandbox.corten(["run", "--device-cgroup-rule", "c 42", &tiny, "true"]).code(125).complains("device cgroup format");
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
