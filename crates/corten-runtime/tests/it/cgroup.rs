//! Control groups of this host, whichever of the three layouts it has, with real processes in them.
//!
//! `uml-run -- TEST-BINARY cgroup::` runs the same under cgroup2 alone.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use corten_runtime::cgroup::{Cgroup, OomEvent, Request};
use corten_types::ErrorKind;
use corten_types::runtime_spec::Resources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const KILL: i32 = 9;

static NONE: BTreeMap<String, String> = BTreeMap::new();

/// A container's cgroup that is gone at the end of the test, processes and all.
struct Made {
    cgroup: Cgroup,
}

impl Deref for Made {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.cgroup.signal_all(KILL).unwrap();
        self.cgroup.destroy().unwrap();
        let left: Vec<_> = self.paths().into_values().filter(|path| Path::new(path).exists()).collect();
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn place(name: &str) -> String {
    format!("/corten-test-{}-{}/{name}", name.replace('/', "-"), std::process::id())
}

fn request<'a>(path: &'a str, resources: Option<&'a Resources>) -> Request<'a> {
    Request {
        cgroups_path: path,
        id: "test",
        systemd: false,
        rootless: false,
        resources,
        devices: &[],
        annotations: &NONE,
    }
}

fn resources(json: &str) -> Resources {
    Resources::parse(json.as_bytes()).unwrap()
}

fn try_make(path: &str, json: &str) -> corten_types::Result<Made> {
    let resources = resources(json);
    let request = request(path, Some(&resources));
    let mut cgroup = Cgroup::plan(&request)?;
    cgroup.create(&request)?;
    // What is used from here on is what another process would have read from the container's state.
    let cgroup = serde_json::from_str(&serde_json::to_string(&cgroup).unwrap()).unwrap();
    Ok(Made { cgroup })
}

fn make(name: &str, json: &str) -> Made {
    try_make(&place(name), json).unwrap()
}

/// Runs `sh -c script` inside `cgroup`, entered by a process with one thread.
fn command(cgroup: &Cgroup, sub_cgroups: &[&str], script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corten-runtime-test-child"));
    command.arg("enter-cgroup").arg(serde_json::to_string(&(cgroup, sub_cgroups, script)).unwrap());
    command
}

fn run(cgroup: &Cgroup, script: &str) -> Output {
    command(cgroup, &[], script).output().unwrap()
}

/// A process inside that stays; back once it is there.
fn stay(cgroup: &Cgroup) -> Child {
    let before = cgroup.pids().unwrap().len();
    let child = command(cgroup, &[], "exec sleep 1000").stdout(Stdio::null()).spawn().unwrap();
    wait_until("the process is inside", || cgroup.pids().unwrap().len() > before);
    child
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })).unwrap();
    }
}

/// The content of the first of `files` that exists.
fn read(cgroup: &Cgroup, controller: &str, files: &[&str]) -> String {
    let paths = cgroup.paths();
    let directory = PathBuf::from(paths.get(controller).unwrap_or_else(|| &paths[""]));
    let file = files.iter().map(|file| directory.join(file)).find(|file| file.exists()).unwrap();
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

#[test]
fn limits_reach_the_kernel_and_processes_are_inside_every_hierarchy() {
    let cgroup = make(
        "limits",
        r#"{"memory":{"limit":67108864,"reservation":33554432},"pids":{"limit":17},
            "cpu":{"shares":512,"quota":50000,"period":100000}}"#,
    );
    assert_eq!(read(&cgroup, "memory", &["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert_eq!(read(&cgroup, "memory", &["memory.soft_limit_in_bytes", "memory.low"]), "33554432");
    assert_eq!(read(&cgroup, "pids", &["pids.max"]), "17");
    let cpu: Vec<String> = match unified() {
        true => vec![read(&cgroup, "cpu", &["cpu.weight"]), read(&cgroup, "cpu", &["cpu.max"])],
        false => vec![read(&cgroup, "cpu", &["cpu.shares"]), read(&cgroup, "cpu", &["cpu.cfs_quota_us"])],
    };
    assert_eq!(cpu, if unified() { ["59", "50000 100000"] } else { ["512", "50000"] });

    let output = run(&cgroup, "cat /proc/self/cgroup");
    let text = String::from_utf8(output.stdout).unwrap();
    let inside = text.lines().filter(|line| line.ends_with(&place("limits"))).count();
    let mounted: BTreeMap<_, _> = cgroup.paths().into_iter().map(|(name, path)| (path, name)).collect();
    assert_eq!(inside, mounted.len(), "{text}");
}

/// Number of a block device of this host that has a queue.
fn block_device() -> Option<(u32, u32)> {
    let devices = std::fs::read_dir("/sys/block").ok()?.flatten();
    devices.filter(|device| device.path().join("queue").exists()).find_map(|device| {
        let number = std::fs::read_to_string(device.path().join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[test]
fn the_rarer_limits_reach_the_kernel_too() {
    let cgroup = make("rare", r#"{"cpu":{"quota":50000,"period":100000,"burst":20000,"idle":1},"memory":{}}"#);
    assert_eq!(read(&cgroup, "cpu", &["cpu.cfs_burst_us", "cpu.max.burst"]), "20000");
    assert_eq!(read(&cgroup, "cpu", &["cpu.idle"]), "1");
    if !unified() {
        cgroup
            .update(&resources(
                r#"{"memory":{"swappiness":7,"disableOOMKiller":true,"kernelTCP":4194304},"cpu":{"cpus":"0","mems":"0"}}"#,
            ))
            .unwrap();
        assert_eq!(read(&cgroup, "memory", &["memory.swappiness"]), "7");
        assert!(read(&cgroup, "memory", &["memory.oom_control"]).contains("oom_kill_disable 1"));
        assert_eq!(read(&cgroup, "memory", &["memory.kmem.tcp.limit_in_bytes"]), "4194304");
        assert_eq!(read(&cgroup, "cpuset", &["cpuset.cpus"]), "0");
    }
    if let Some((major, minor)) = block_device() {
        let limit = |rate: u64| {
            let device = format!(r#"[{{"major":{major},"minor":{minor},"rate":{rate}}}]"#);
            resources(&format!(
                r#"{{"blockIO":{{"throttleReadBpsDevice":{device},"throttleWriteIOPSDevice":{device}}}}}"#
            ))
        };
        let seen = || read(&cgroup, "blkio", &["blkio.throttle.read_bps_device", "io.max"]);
        cgroup.update(&limit(1_048_576)).unwrap();
        assert!(seen().starts_with(&format!("{major}:{minor} ")) && seen().contains("1048576"), "{}", seen());
        cgroup.update(&limit(0)).unwrap();
        assert!(!seen().contains("1048576"), "{}", seen());
    }
    let error = cgroup.update(&resources(r#"{"blockIO":{"throttleReadBpsDevice":[{"major":9,"minor":99,"rate":1}]}}"#));
    let error = error.unwrap_err();
    assert!(error.message().contains("linux.resources.blockIO.throttleReadBpsDevice[0]"), "{}", error.report());
}

/// `MAJOR:MINOR` of a device whose queue BFQ orders.
fn bfq_device() -> Option<(u32, u32)> {
    let queues = std::fs::read_dir("/sys/block").ok()?.flatten();
    let mut ordered = queues.filter(|entry| {
        std::fs::read_to_string(entry.path().join("queue/scheduler")).is_ok_and(|text| text.contains("[bfq]"))
    });
    let number = std::fs::read_to_string(ordered.next()?.path().join("dev")).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn weights_of_block_devices_reach_the_kernel() {
    const FILES: [&str; 3] = ["blkio.bfq.weight", "io.bfq.weight", "blkio.weight"];
    let plain = make("weights", "{}");
    let paths = plain.paths();
    let directory = PathBuf::from(paths.get("blkio").unwrap_or_else(|| &paths[""]));
    let known = FILES.iter().any(|file| directory.join(file).exists());
    corten_testkit::require!(known, "this kernel weighs no block devices");
    plain.update(&resources(r#"{"blockIO":{"weight":300}}"#)).unwrap();
    assert!(read(&plain, "blkio", &FILES).ends_with("300"), "{}", read(&plain, "blkio", &FILES));
    let Some((major, minor)) = bfq_device() else {
        return corten_testkit::skip::skip("no device has BFQ as its scheduler: the weight of one device");
    };
    let one = format!(r#"{{"blockIO":{{"weightDevice":[{{"major":{major},"minor":{minor},"weight":700}}]}}}}"#);
    plain.update(&resources(&one)).unwrap();
    let seen = read(&plain, "blkio", &["blkio.bfq.weight_device", "io.bfq.weight", "blkio.weight_device"]);
    assert!(seen.contains(&format!("{major}:{minor} 700")), "{seen}");
}

#[test]
fn an_update_goes_up_and_down_and_a_failed_one_changes_nothing() {
    let cgroup = make("update", r#"{"memory":{"limit":67108864,"swap":67108864}}"#);
    let limit = || read(&cgroup, "memory", &["memory.limit_in_bytes", "memory.max"]);
    for size in [134_217_728, 33_554_432] {
        cgroup.update(&resources(&format!(r#"{{"memory":{{"limit":{size},"swap":{size}}}}}"#))).unwrap();
        assert_eq!(limit(), size.to_string());
    }
    let error = cgroup.update(&resources(r#"{"memory":{"limit":67108864,"swap":67108864},"cpu":{"cpus":"4000"}}"#));
    let error = error.unwrap_err();
    assert!(error.message().contains("linux.resources.cpu.cpus"), "{}", error.report());
    assert_eq!(limit(), "33554432", "{}", error.report());
    cgroup.update(&resources(r#"{"memory":{"limit":-1}}"#)).unwrap();
    assert_ne!(limit(), "33554432");
    if unified() {
        cgroup.update(&resources(r#"{"cpu":{"quota":30000}}"#)).unwrap();
        cgroup.update(&resources(r#"{"cpu":{"period":50000},"unified":{"memory.high":"16777216"}}"#)).unwrap();
        assert_eq!(read(&cgroup, "", &["cpu.max"]), "30000 50000");
        assert_eq!(read(&cgroup, "", &["memory.high"]), "16777216");
    }
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let path = place("fails");
    let error = try_make(&path, r#"{"memory":{"limit":67108864},"cpu":{"quota":1}}"#).err().unwrap();
    assert!(error.report().contains("cannot set `linux.resources.cpu.quota` to `1`"), "{}", error.report());
    let request = request(&path, None);
    let planned = Cgroup::plan(&request).unwrap();
    let left: Vec<_> = planned.paths().into_values().filter(|path| Path::new(path).exists()).collect();
    assert_eq!(left, Vec::<String>::new());
    planned.destroy().unwrap();
    let error = try_make(&path, r#"{"memory":{"limit":-7}}"#).err().unwrap();
    assert_eq!((error.kind(), error.message().contains("linux.resources.memory.limit")), (ErrorKind::Invalid, true));
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    let cgroup = make("freeze", "{}");
    let mut children = [stay(&cgroup), stay(&cgroup)];
    let pids = cgroup.pids().unwrap();
    assert_eq!((pids.len(), cgroup.is_frozen().unwrap()), (2, false));
    cgroup.freeze(true).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.freeze(false).unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze(true).unwrap();
    cgroup.signal_all(KILL).unwrap();
    for child in &mut children {
        assert!(!child.wait().unwrap().success());
    }
    wait_until("no process is left", || cgroup.pids().unwrap().is_empty());
}

#[test]
fn another_signal_reaches_every_process() {
    let cgroup = make("signal", "{}");
    let mut children = [stay(&cgroup), stay(&cgroup)];
    cgroup.signal_all(15).unwrap();
    for child in &mut children {
        assert!(!child.wait().unwrap().success());
    }
}

#[test]
fn nested_cgroups_and_ending_processes_are_removed_too() {
    let cgroup = make("nested", "{}");
    for path in cgroup.paths().into_values() {
        for nested in ["a", "a/b", "c"] {
            let nested = Path::new(&path).join(nested);
            std::fs::create_dir(&nested).unwrap();
            // On v1 nothing can run in a new cpuset.
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| !unified() && nested.join(file).exists()) {
                std::fs::write(nested.join(file), std::fs::read(Path::new(&path).join(file)).unwrap()).unwrap();
            }
        }
    }
    let mut child = command(&cgroup, &["a/b"], "exec sleep 1000").stdout(Stdio::null()).spawn().unwrap();
    wait_until("the process is inside", || cgroup.pids().unwrap().len() == 1);
    cgroup.signal_all(KILL).unwrap();
    cgroup.destroy().unwrap();
    assert!(!cgroup.exists());
    child.wait().unwrap();
    assert_eq!(cgroup.pids().unwrap(), Vec::<i32>::new());
    cgroup.signal_all(KILL).unwrap();
    cgroup.destroy().unwrap();
}

#[test]
fn a_cgroup_in_use_is_refused_and_left_alone() {
    let cgroup = make("used", "{}");
    let mut child = stay(&cgroup);
    let error = try_make(&place("used"), "{}").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.report().contains("is not empty: 1 process(es) found"), "{}", error.report());
    assert!(child.try_wait().unwrap().is_none() && cgroup.exists());
    cgroup.signal_all(KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_plan_alone_changes_nothing_and_can_be_destroyed() {
    let path = place("plan/with/parents");
    let request = request(&path, None);
    let mut cgroup = Cgroup::plan(&request).unwrap();
    assert!(cgroup.paths().values().all(|path| !Path::new(path).exists()));
    cgroup.destroy().unwrap();
    cgroup.create(&request).unwrap();
    cgroup.destroy().unwrap();
    let above = |path: &String| Path::new(path).parent().unwrap().exists();
    assert!(!cgroup.paths().values().any(above), "parents that were made are removed");
}

#[test]
fn the_last_container_removes_the_cgroup_that_all_shared() {
    let shared = format!("/corten-test-shared-{}/pod", std::process::id());
    let first = try_make(&format!("{shared}/first"), "{}").unwrap();
    let second = try_make(&format!("{shared}/second"), "{}").unwrap();
    let above = |path: &String| Path::new(path).ancestors().nth(2).unwrap().to_owned();
    let tops: Vec<PathBuf> = second.paths().values().map(above).collect();
    drop(first);
    assert!(second.exists() && tops.iter().all(|top| top.exists()));
    drop(second);
    assert!(!tops.iter().any(|top| top.exists()));
}

#[test]
fn hostile_paths_stay_beneath_the_mounts() {
    let path = format!("/../../corten-test-evil/./x/../evil-{}", std::process::id());
    let cgroup = try_make(&path, "{}").unwrap();
    let expected = format!("/corten-test-evil/evil-{}", std::process::id());
    assert!(cgroup.paths().values().all(|path| path.ends_with(&expected) && Path::new(path).exists()));
    let error = command(&cgroup, &["../.."], "true").output().unwrap();
    let text = String::from_utf8_lossy(&error.stderr).into_owned() + &String::from_utf8_lossy(&error.stdout);
    assert!(text.contains("leaves the container's cgroup"), "{text}");
    assert!(Cgroup::plan(&request("/", None)).unwrap_err().message().contains("names no cgroup"));
}

#[test]
fn devices_are_denied_and_allowed_as_the_rules_say() {
    let denied = |cgroup: &Cgroup| {
        let script = "for device in null zero kmsg; do head -c0 /dev/$device && echo $device-ok; done";
        String::from_utf8(run(cgroup, script).stdout).unwrap()
    };
    let cgroup = make("devices", "{}");
    let seen = denied(&cgroup);
    assert!(seen.contains("null-ok") && seen.contains("zero-ok") && !seen.contains("kmsg-ok"), "{seen}");

    cgroup.update(&resources(r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#)).unwrap();
    assert!(denied(&cgroup).contains("kmsg-ok"));
    let output = run(&cgroup, "echo '<7>corten test' >/dev/kmsg && echo written");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("written"));

    cgroup.update(&resources(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#)).unwrap();
    let seen = denied(&cgroup);
    assert!(seen.contains("null-ok") && !seen.contains("kmsg-ok"), "{seen}");

    let all = make("devices-all", r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
    assert!(denied(&all).contains("kmsg-ok"));
}

#[test]
fn usage_is_counted() {
    let cgroup = make("stats", r#"{"memory":{"limit":67108864},"pids":{"limit":17}}"#);
    let mut child = stay(&cgroup);
    run(&cgroup, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; cat /proc/self/cgroup");
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 17));
    assert_eq!(stats.memory.usage.limit, 67_108_864);
    assert!(stats.memory.usage.usage > 0 && stats.cpu.usage.total > 0 && !stats.memory.raw.is_empty(), "{stats:?}");
    let pressure = cgroup.paths().get("").is_some_and(|path| Path::new(path).join("cpu.pressure").exists());
    assert_eq!(stats.cpu.psi.is_some(), pressure && unified(), "{stats:?}");
    cgroup.signal_all(KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn running_out_of_memory_is_noticed_and_counted() {
    let cgroup = make("oom", r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    let mut watch = cgroup.oom_watch().unwrap();
    assert_eq!((watch.read().unwrap(), cgroup.oom_kill_count().unwrap()), (OomEvent::Nothing, 0));
    let output = run(&cgroup, "tail /dev/zero; echo ended with $?");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ended with 137"), "{output:?}");
    let mut seen = Vec::new();
    while !seen.iter().any(|event| matches!(event, OomEvent::OutOfMemory { .. })) {
        let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "{seen:?}");
        seen.push(watch.read().unwrap());
    }
    assert!(cgroup.oom_kill_count().unwrap() >= 1);
    cgroup.destroy().unwrap();
    if !unified() {
        poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], None).unwrap();
        assert_eq!(watch.read().unwrap(), OomEvent::Ended);
    }
}

#[test]
fn huge_pages_are_limited_where_the_kernel_has_them() {
    let hugetlb = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    let has_pages = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
    corten_testkit::require!(hugetlb.contains("hugetlb") && has_pages, "no hugetlb controller on this kernel");
    let cgroup = make("huge", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#);
    assert_eq!(read(&cgroup, "", &["hugetlb.2MB.max"]), "4194304");
    assert_eq!(read(&cgroup, "", &["hugetlb.2MB.rsvd.max"]), "4194304");
    assert!(cgroup.stats().unwrap().hugetlb.contains_key("2MB"));
}

fn as_user(inside: &str, path: &str, json: &str) -> String {
    let payload = serde_json::to_string(&(inside, path, json)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_corten-runtime-test-child"));
    let output = command.args(["make-cgroup-as-user", &payload]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn an_ordinary_user_goes_without_unless_something_was_asked_for() {
    let seen = as_user("", "", "{}");
    assert!(seen.contains("made {}"), "{seen}");
    let seen = as_user("", "", r#"{"memory":{"limit":67108864}}"#);
    assert!(seen.contains("cannot set `linux.resources.memory.limit`") && seen.contains("hint: "), "{seen}");
    let seen = as_user("", "/corten-user/x", "{}");
    assert!(seen.contains("no permission to use the cgroup") && seen.contains("Delegate=yes"), "{seen}");
}

#[test]
fn an_ordinary_user_makes_cgroups_in_a_delegated_part() {
    corten_testkit::require!(unified(), "delegation is cgroup2's");
    let part = PathBuf::from(format!("/sys/fs/cgroup/corten-delegated-{}", std::process::id()));
    std::fs::create_dir(&part).unwrap();
    std::fs::create_dir(part.join("mine")).unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "mine", "mine/cgroup.procs"] {
        std::os::unix::fs::chown(part.join(file), Some(1000), Some(1000)).unwrap();
    }
    let inside = part.join("mine/cgroup.procs");
    let seen = as_user(inside.to_str().unwrap(), "", r#"{"memory":{"limit":67108864},"pids":{"limit":9}}"#);
    assert!(seen.contains("made {") && seen.contains("/test"), "{seen}");
    std::fs::remove_dir(part.join("mine")).unwrap();
    std::fs::remove_dir(part).unwrap();
}

#[test]
fn all_this_holds_without_cgroup2_too() {
    const SECOND: &str = "/sys/fs/cgroup/unified";
    corten_testkit::require!(Path::new(SECOND).join("cgroup.procs").exists(), "no cgroup2 beside cgroup v1 here");
    let script = format!("umount {SECOND} && exec \"$0\" cgroup:: --skip all_this_holds");
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).arg(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
