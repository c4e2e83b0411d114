//! Limits, their change, statistics, pausing.

use super::*;

/// A limit as the container's own cgroup mount shows it, on either version of control groups.
fn limit(sandbox: &Sandbox, v1: &str, v2: &str) -> String {
    let script = format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}");
    sandbox.runtime(["exec", "c", "sh", "-c", &script]).ok().text().to_owned()
}

#[test]
fn limits_are_set_and_changed() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    let mut bundle = sleeper(&sandbox);
    bundle.resources().pids = Some(corten_types::runtime_spec::Pids { limit: Some(50) });
    bundle.resources().memory =
        Some(corten_types::runtime_spec::Memory { limit: Some(64 << 20), ..Default::default() });
    bundle.write();
    start(&sandbox, &bundle);
    let pids = || limit(&sandbox, "pids/pids.max", "pids.max");
    let memory = || limit(&sandbox, "memory/memory.limit_in_bytes", "memory.max");
    assert_eq!((pids().as_str(), memory().as_str()), ("50", "67108864"));
    sandbox.runtime(["update", "--pids-limit", "40", "--memory", "96m", "--memory-swap", "-1", "c"]).ok();
    assert_eq!((pids().as_str(), memory().as_str()), ("40", "100663296"));
    let document = br#"{"pids":{"limit":30},"cpu":{"quota":50000,"period":100000}}"#;
    let mut command = sandbox.runtime_command(["update", "--resources", "-", "c"]);
    command.stdin(Stdio::piped());
    corten_testkit::run::finish(command, Some(document), LIMIT).ok();
    assert_eq!(pids(), "30");
    let quota = limit(&sandbox, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("50000"), "{quota}");
    sandbox.runtime(["update", "--memory", "a lot", "c"]).code(1).complains("memory");
    sandbox.runtime(["update", "--cpu-share", "x", "c"]).code(1).complains("cpu-share");
    assert_eq!(pids(), "30");
    delete(&sandbox);
}

#[test]
fn pause_stops_and_resume_continues() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    start(&sandbox, &sleeper(&sandbox));
    sandbox.runtime(["pause", "c"]).ok();
    assert_eq!(state(&sandbox)["status"], "paused");
    sandbox.runtime(["resume", "c"]).ok();
    assert_eq!(state(&sandbox)["status"], "running");
    // A paused container can be removed.
    sandbox.runtime(["pause", "c"]).ok();
    delete(&sandbox);
    sandbox.runtime(["state", "c"]).code(1);
}

#[test]
fn statistics_are_one_document() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    start(&sandbox, &sleeper(&sandbox));
    let event: Value = serde_json::from_str(&sandbox.runtime(["events", "--stats", "c"]).ok().stdout).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&"stats".into(), &"c".into()));
    assert_eq!(event["data"]["pids"]["current"], 1);
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{event}");
    // Nothing yet is left out, as in runc, and a kernel that counts by ticks may have counted none.
    assert!(event["data"]["cpu"]["usage"].is_object(), "{event}");
    delete(&sandbox);
}

#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    let mut bundle =
        script(&sandbox, "while :; do sleep 0.2; test -e /tmp/go && break; done; tail /dev/zero; sleep 1000");
    bundle.spec.root.as_mut().unwrap().readonly = false;
    bundle.resources().memory =
        Some(corten_types::runtime_spec::Memory { limit: Some(16 << 20), swap: Some(16 << 20), ..Default::default() });
    bundle.write();
    start(&sandbox, &bundle);
    let mut command = sandbox.runtime_command(["events", "--interval", "1h", "c"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::fs::write(bundle.rootfs().join("tmp/go"), "").unwrap();
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), serde_json::json!({"type": "oom", "id": "c"}));
    delete(&sandbox);
    // It ends with the container.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn processes_are_listed() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    start(&sandbox, &sleeper(&sandbox));
    let pid = state(&sandbox)["pid"].to_string();
    sandbox.runtime(["ps", "--format", "json", "c"]).ok().prints(&format!("[{pid}]"));
    sandbox.runtime(["ps", "--format", "moon", "c"]).code(1).complains("invalid format option");
    // User-Mode Linux hides the time of boot, without which procps gives up.
    if std::process::Command::new("ps").arg("-ef").output().is_ok_and(|own| own.status.success()) {
        let table = sandbox.runtime(["ps", "c"]);
        table.ok().shows("sleep 1000");
        assert_eq!(table.stdout.lines().count(), 2, "{}", table.transcript());
        sandbox.runtime(["ps", "c", "-e", "-x"]).ok().shows("sleep");
    }
    delete(&sandbox);
}

#[test]
fn cgroups_that_the_container_made_go_with_it() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    // Without a namespace a mount of cgroup2 shows the host's whole tree, which is not the container's to change.
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for namespace in [true, false].into_iter().take(if is_v2 { 1 } else { 2 }) {
        let mut bundle = sleeper(&sandbox);
        for mount in bundle.spec.mounts.iter_mut().filter(|mount| mount.kind == "cgroup") {
            mount.options.retain(|option| option != "ro");
        }
        if !namespace {
            bundle.share(corten_types::runtime_spec::NamespaceKind::Cgroup);
        }
        bundle.write();
        start(&sandbox, &bundle);
        // On cgroup v2 one hierarchy, on v1 a directory of them.
        let script = "cd /sys/fs/cgroup; for one in . */; do [ -e $one/cgroup.procs ] || continue; \
                      mkdir $one/below && mkdir $one/below/deeper && made=$one; done; cd $made/below/deeper; \
                      sleep 1000 & echo $! >cgroup.procs; cat cgroup.procs";
        detached(&sandbox, &["exec", "c", "sh", "-euc", script]).ok();
        // The sandbox counts what is left of the cgroups.
        delete(&sandbox);
    }
}
