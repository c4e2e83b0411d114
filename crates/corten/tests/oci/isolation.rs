//! Namespaces, identity and what the program finds around it.

use corten_types::runtime_spec::{IdMapping, NamespaceKind, Rlimit, TimeOffset};

use super::*;

const KINDS: [(NamespaceKind, &str); 8] = [
    (NamespaceKind::Pid, "pid"),
    (NamespaceKind::Network, "net"),
    (NamespaceKind::Mount, "mnt"),
    (NamespaceKind::Ipc, "ipc"),
    (NamespaceKind::Uts, "uts"),
    (NamespaceKind::User, "user"),
    (NamespaceKind::Cgroup, "cgroup"),
    (NamespaceKind::Time, "time"),
];

fn namespace(pid: &str, name: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().display().to_string()
}

#[test]
fn each_namespace_is_new_or_the_hosts_as_asked() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "shares namespaces that only root may share");
    for (kind, name) in KINDS
        .iter()
        .filter(|(kind, _)| !matches!(kind, NamespaceKind::Mount | NamespaceKind::User | NamespaceKind::Time))
    {
        for shared in [false, true] {
            let mut bundle = script(&sandbox, &format!("readlink /proc/self/ns/{name}"));
            if shared {
                bundle.share(*kind);
            }
            if shared && *kind == NamespaceKind::Uts {
                bundle.spec.hostname = String::new();
            }
            bundle.write();
            let inside = run(&sandbox, &bundle).ok().text().to_owned();
            assert_eq!(inside == namespace("self", name), shared, "{name} shared={shared} {inside}");
        }
    }
}

#[test]
fn namespaces_are_joined_by_path() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "joins namespaces of another container");
    let first = sleeper(&sandbox);
    start(&sandbox, &first);
    let pid = state(&sandbox)["pid"].to_string();
    for (kind, name) in [
        (NamespaceKind::Network, "net"),
        (NamespaceKind::Ipc, "ipc"),
        (NamespaceKind::Uts, "uts"),
        (NamespaceKind::Pid, "pid"),
    ] {
        let mut bundle = script(&sandbox, &format!("readlink /proc/self/ns/{name}"));
        bundle.linux().cgroups_path.push_str("-second");
        bundle.spec.hostname = String::new();
        for namespace in &mut bundle.linux().namespaces {
            if namespace.kind == kind {
                namespace.path = format!("/proc/{pid}/ns/{name}");
            }
        }
        bundle.write();
        let directory = bundle.directory.to_str().unwrap();
        sandbox.runtime(["run", "-b", directory, "second"]).ok().prints(&namespace(&pid, name));
    }
    let mut wrong = script(&sandbox, "true");
    wrong.linux().cgroups_path.push_str("-second");
    wrong
        .linux()
        .namespaces
        .iter_mut()
        .filter(|namespace| namespace.kind == NamespaceKind::Network)
        .for_each(|namespace| namespace.path = format!("/proc/{pid}/ns/uts"));
    wrong.write();
    sandbox.runtime(["run", "-b", wrong.directory.to_str().unwrap(), "second"]).code(1).complains("network");
    delete(&sandbox);
}

#[test]
fn a_user_namespace_maps_ids() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "maps more ids than its own");
    let mut bundle = script(&sandbox, "id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/made");
    bundle.spec.root.as_mut().unwrap().readonly = false;
    bundle
        .linux()
        .namespaces
        .push(corten_types::runtime_spec::Namespace { kind: NamespaceKind::User, path: String::new() });
    bundle.linux().uid_mappings = vec![IdMapping { container_id: 0, host_id: 100_000, size: 65536 }];
    bundle.linux().gid_mappings = vec![IdMapping { container_id: 0, host_id: 200_000, size: 65536 }];
    bundle.write();
    let words: Vec<String> = run(&sandbox, &bundle).ok().stdout.split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "100000", "65536", "0", "200000", "65536"]);
    let made = std::fs::metadata(bundle.rootfs().join("tmp/made")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((made.uid(), made.gid()), (100_000, 200_000));
}

#[test]
fn clocks_are_offset_in_a_time_namespace() {
    let sandbox = sandbox();
    corten_testkit::require!(std::path::Path::new("/proc/self/ns/time").exists(), "this kernel has no time namespaces");
    let mut bundle =
        script(&sandbox, "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime 2>/dev/null || cat /proc/uptime");
    bundle
        .linux()
        .namespaces
        .push(corten_types::runtime_spec::Namespace { kind: NamespaceKind::Time, path: String::new() });
    bundle.linux().time_offsets.insert("boottime".into(), TimeOffset { secs: 1_000_000_000, nanosecs: 5 });
    bundle.write();
    let finished = run(&sandbox, &bundle);
    let words: Vec<&str> = finished.ok().stdout.split_whitespace().collect();
    assert_eq!(words[3..6], ["boottime", "1000000000", "5"]);
    assert!(words[6].split('.').next().unwrap().parse::<u64>().unwrap() >= 1_000_000_000);
}

#[test]
fn the_program_has_the_identity_limits_and_names_it_was_given() {
    let sandbox = sandbox();
    let mut bundle = script(
        &sandbox,
        "umask; ulimit -n; cat /proc/self/oom_score_adj; uname -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
         grep NoNewPrivs /proc/self/status; pwd",
    );
    bundle.process().user.umask = Some(0o027);
    bundle.process().rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 77, hard: 99 }];
    bundle.process().oom_score_adj = Some(500);
    bundle.process().cwd = "/tmp".into();
    bundle.spec.hostname = "elsewhere".into();
    let own_network = bundle.linux().namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Network);
    if own_network {
        bundle.linux().sysctl.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
    }
    bundle.write();
    let finished = run(&sandbox, &bundle);
    let lines: Vec<&str> = finished.ok().stdout.lines().collect();
    assert_eq!(lines[..4], ["0027", "77", "500", "elsewhere"]);
    assert!(!own_network || lines[4] == "7", "{lines:?}");
    assert_eq!(lines[5..], ["NoNewPrivs:\t1", "/tmp"]);
}

#[test]
fn a_sysctl_of_the_host_is_refused() {
    let sandbox = sandbox();
    for name in ["kernel.core_pattern", "vm.overcommit_memory", "a+b", "net/../kernel/core_pattern", "kernel..shmmax"] {
        let mut bundle = script(&sandbox, "true");
        bundle.linux().sysctl.insert(name.into(), "1".into());
        bundle.write();
        run(&sandbox, &bundle).code(1).complains("sysctl");
    }
    let mut bundle = script(&sandbox, "true");
    bundle.share(NamespaceKind::Network);
    bundle.linux().sysctl.insert("net.ipv4.ip_forward".into(), "1".into());
    bundle.write();
    run(&sandbox, &bundle).code(1).complains("net.ipv4.ip_forward");
}

#[test]
fn the_root_is_read_only_and_paths_are_masked_as_asked() {
    let sandbox = sandbox();
    let mut bundle = script(
        &sandbox,
        "touch /file 2>/dev/null && echo wrote; cat /etc/group | wc -l; echo x 2>/dev/null >/proc/sys/kernel/hostname || echo kept; \
         ls /proc/scsi 2>/dev/null | wc -l",
    );
    bundle.linux().masked_paths.push("/etc/group".into());
    bundle.write();
    let finished = run(&sandbox, &bundle);
    let words: Vec<&str> = finished.ok().stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "kept", "0"]);
}

#[test]
fn devices_are_made_and_others_denied() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "makes device nodes");
    let mut bundle = script(
        &sandbox,
        "for d in null zero full random urandom tty; do test -c /dev/$d || echo missing $d; done; \
         echo x >/dev/null; mknod /tmp/m c 1 1 && cat /tmp/m; readlink /dev/fd; readlink /dev/stdin",
    );
    bundle.spec.root.as_mut().unwrap().readonly = false;
    let sets = bundle.process().capabilities.as_mut().unwrap();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.push("CAP_MKNOD".into());
    }
    bundle.write();
    run(&sandbox, &bundle).prints("/proc/self/fd\n/proc/self/fd/0").complains("not permitted");
}

#[test]
fn a_source_inside_the_root_is_id_mapped_from_within_a_user_namespace() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "maps ids that only root may map");
    let mut bundle = script(&sandbox, "stat -c %u /seen /seen/file; echo more >/seen/new; stat -c %u /data/new");
    let map = vec![IdMapping { container_id: 0, host_id: 100_000, size: 65_536 }];
    let root = bundle.rootfs();
    for name in ["seen", "data"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    chown_all(&root, "100000:100000");
    let outside = sandbox.work().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "mine").unwrap();
    bundle
        .linux()
        .namespaces
        .push(corten_types::runtime_spec::Namespace { kind: NamespaceKind::User, path: String::new() });
    (bundle.linux().uid_mappings, bundle.linux().gid_mappings) = (map.clone(), map);
    bundle.spec.root.as_mut().unwrap().readonly = false;
    bundle.mount("/data", "bind", outside.to_str().unwrap(), &["rbind"]);
    // What an earlier mount put there, which only the child sees.
    bundle.mount("/seen", "bind", root.join("data").to_str().unwrap(), &["rbind", "idmap"]);
    bundle.write();
    // The host's root is nobody through the plain mount, and root through the mapped one.
    run(&sandbox, &bundle).ok().prints("0\n0\n65534");
}

fn chown_all(path: &std::path::Path, owner: &str) {
    let mut command = std::process::Command::new("chown");
    assert!(command.args(["-R", "-h", owner]).arg(path).status().unwrap().success());
}
