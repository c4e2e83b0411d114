//! Scheduling, I/O priority, processors, memory policy and personality, as the kernel shows them from inside.

use corten_types::runtime_spec::{Cpu, CpuAffinity, IoPriority, MemoryPolicy, Personality, Scheduler};

use super::*;

/// `nice`, `rt_priority` and `policy` of a line of /proc/PID/stat (proc(5)).
fn scheduling(line: &str) -> [i64; 3] {
    let fields: Vec<&str> = line.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [16, 37, 38].map(|index| fields[index].parse().unwrap())
}

fn scheduler(policy: &str) -> Scheduler {
    Scheduler { policy: policy.into(), ..Scheduler::default() }
}

#[test]
fn the_scheduler_is_the_one_that_was_asked_for() {
    let sandbox = sandbox();
    for (wanted, expected) in [
        (Scheduler { nice: 7, ..scheduler("SCHED_OTHER") }, [7, 0, 0]),
        (Scheduler { nice: 3, ..scheduler("SCHED_BATCH") }, [3, 0, 3]),
        (scheduler("SCHED_IDLE"), [0, 0, 5]),
    ] {
        let mut bundle = sandbox.bundle(["cat", "/proc/self/stat"]);
        bundle.process().scheduler = Some(wanted);
        bundle.write();
        assert_eq!(scheduling(run(&sandbox, &bundle).ok().text()), expected);
    }
    let mut bundle = script(&sandbox, "true");
    bundle.process().scheduler = Some(scheduler("SCHED_MOON"));
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("process.scheduler.policy");
}

/// A cgroup right below the root's, which alone has time for real-time processes to give away.
fn real_time(sandbox: &Sandbox, runtime_us: i64) -> Bundle {
    let mut bundle = sandbox.bundle(["cat", "/proc/self/stat"]);
    bundle.linux().cgroups_path = format!("/{}", sandbox.path().file_name().unwrap().to_str().unwrap());
    bundle.resources().cpu =
        Some(Cpu { realtime_period: Some(1_000_000), realtime_runtime: Some(runtime_us), ..Cpu::default() });
    bundle
}

#[test]
fn a_real_time_program_has_the_time_that_was_set_aside() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    let has_controller = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    if !has_controller && corten_testkit::skip::has_cgroup_v2_only() {
        let bundle = real_time(&sandbox, 10_000);
        bundle.write();
        run(&sandbox, &bundle).code(1).complains("realtime");
        return;
    }
    corten_testkit::require!(has_controller, "this kernel has no real-time groups");
    let mut bundle = real_time(&sandbox, 10_000);
    bundle.process().scheduler = Some(Scheduler { priority: 9, ..scheduler("SCHED_FIFO") });
    bundle.write();
    assert_eq!(scheduling(run(&sandbox, &bundle).ok().text()), [0, 9, 1]);
    // Without time of its own the group takes no such process, and the error says which call failed.
    let mut bundle = real_time(&sandbox, 0);
    bundle.process().scheduler = Some(Scheduler { priority: 9, ..scheduler("SCHED_RR") });
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("sched_setattr");
}

#[test]
fn the_io_priority_is_the_one_that_was_asked_for() {
    let sandbox = sandbox();
    let mut probe = sandbox.bundle(["sh", "-c", "ionice -p $$"]);
    let known = run(&sandbox, &probe);
    corten_testkit::require!(known.code == 0, "no `ionice` in the test's image");
    for (class, priority, shown) in [("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"), ("IOPRIO_CLASS_IDLE", 0, "idle")] {
        probe.process().io_priority = Some(IoPriority { class: class.into(), priority });
        probe.write();
        run(&sandbox, &probe).ok().shows(shown);
    }
    probe.process().io_priority = Some(IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 8 });
    probe.write();
    run(&sandbox, &probe).code(1).complains("process.ioPriority.priority");
}

fn processors(text: &str) -> &str {
    text.trim().rsplit_once('\t').unwrap().1
}

#[test]
fn an_exec_runs_on_the_processors_that_were_asked_for() {
    let sandbox = sandbox();
    let count = std::thread::available_parallelism().unwrap().get();
    let last = (count - 1).to_string();
    let mut bundle = sleeper(&sandbox);
    bundle.process().exec_cpu_affinity = Some(CpuAffinity { initial: "0".into(), last: last.clone() });
    bundle.write();
    start(&sandbox, &bundle);
    let words = ["exec", "c", "grep", "Cpus_allowed_list", "/proc/self/status"];
    assert_eq!(processors(sandbox.runtime(words).ok().text()), last);
    // The first process is not an exec.
    let words = ["exec", "c", "grep", "Cpus_allowed_list", "/proc/1/status"];
    let all = if count == 1 { "0".to_owned() } else { format!("0-{last}") };
    assert_eq!(processors(sandbox.runtime(words).ok().text()), all);
    let debug = sandbox.runtime(["--debug", "exec", "c", "true"]);
    debug.ok().complains("affinity: 0x1");
    let path = sandbox.work().join("process.json");
    let document = serde_json::json!({"args": ["true"], "cwd": "/", "execCPUAffinity": {"initial": "0-"}});
    std::fs::write(&path, document.to_string()).unwrap();
    let refused = sandbox.runtime(["exec", "--process", path.to_str().unwrap(), "c"]);
    refused.code(255).complains("process.execCPUAffinity.initial");
    delete(&sandbox);
}

#[test]
fn memory_comes_from_the_nodes_that_were_asked_for() {
    let sandbox = sandbox();
    corten_testkit::require!(std::path::Path::new("/proc/self/numa_maps").exists(), "this kernel has no NUMA policies");
    for (mode, nodes, flags, shown) in [
        ("MPOL_INTERLEAVE", "0", vec![], " interleave:0 "),
        ("MPOL_BIND", "0", vec!["MPOL_F_STATIC_NODES".to_owned()], " bind=static:0 "),
        ("MPOL_PREFERRED", "0", vec![], " prefer:0 "),
    ] {
        let mut bundle = sandbox.bundle(["cat", "/proc/self/numa_maps"]);
        bundle.linux().memory_policy = Some(MemoryPolicy { mode: mode.into(), nodes: nodes.into(), flags });
        bundle.write();
        run(&sandbox, &bundle).ok().shows(shown);
    }
    let mut bundle = script(&sandbox, "true");
    bundle.linux().memory_policy =
        Some(MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "0-x".into(), ..MemoryPolicy::default() });
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("linux.memoryPolicy.nodes");
}

#[test]
fn the_personality_is_the_one_that_was_asked_for() {
    let sandbox = sandbox();
    // proc_pid_personality(5), PER_LINUX and PER_LINUX32: what `uname` makes of them differs from kernel to kernel.
    for (domain, expected) in [("LINUX", "00000000"), ("LINUX32", "00000008")] {
        let mut bundle = sandbox.bundle(["cat", "/proc/self/personality"]);
        bundle.linux().personality = Some(Personality { domain: domain.into(), flags: Vec::new() });
        bundle.write();
        run(&sandbox, &bundle).ok().prints(expected);
    }
    let mut bundle = script(&sandbox, "true");
    bundle.linux().personality = Some(Personality { domain: "SOLARIS".into(), flags: Vec::new() });
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("linux.personality.domain");
}
