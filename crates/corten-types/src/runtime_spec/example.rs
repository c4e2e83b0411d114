//! The document to start from, which the reference runtime's `spec` command writes.

use super::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Rlimit, Root,
    Spec, VERSION,
};

impl Spec {
    /// runc's example, value for value; runc itself asks for a cgroup namespace on cgroup2 alone.
    pub fn example(has_cgroup_namespace: bool) -> Self {
        let capabilities = strings(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        Self {
            oci_version: VERSION.to_owned(),
            process: Some(Process {
                terminal: true,
                args: strings(["sh"]),
                env: strings(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
                cwd: "/".to_owned(),
                capabilities: Some(Capabilities {
                    bounding: capabilities.clone(),
                    effective: capabilities.clone(),
                    permitted: capabilities,
                    ..Capabilities::default()
                }),
                rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: 1024, soft: 1024 }],
                no_new_privileges: true,
                ..Process::default()
            }),
            root: Some(Root { path: "rootfs".to_owned(), readonly: true }),
            hostname: "runc".to_owned(),
            mounts: mounts(),
            linux: Some(linux(has_cgroup_namespace)),
            ..Self::default()
        }
    }

    /// A user namespace where the caller (`uid` and `gid` of the host) is root, in place of what only the host's root may
    /// have.
    pub fn make_rootless(&mut self, uid: u32, gid: u32) {
        let linux = self.linux.get_or_insert_default();
        linux.namespaces.retain(|namespace| !matches!(namespace.kind, NamespaceKind::Network | NamespaceKind::User));
        linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: String::new() });
        linux.uid_mappings = vec![IdMapping { container_id: 0, host_id: uid, size: 1 }];
        linux.gid_mappings = vec![IdMapping { container_id: 0, host_id: gid, size: 1 }];
        linux.resources = None;
        for mount in &mut self.mounts {
            if mount.destination == "/sys" {
                // sysfs belongs to the network namespace, which is the host's here.
                mount.source = "/sys".to_owned();
                mount.kind = "none".to_owned();
                mount.options = strings(["rbind", "nosuid", "noexec", "nodev", "ro"]);
            } else {
                mount.options.retain(|option| !option.starts_with("gid=") && !option.starts_with("uid="));
            }
        }
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn mounts() -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, source: &str, options: &str| Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.split_terminator(',').map(str::to_owned).collect(),
        ..Mount::default()
    };
    vec![
        mount("/proc", "proc", "proc", ""),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ]
}

fn linux(has_cgroup_namespace: bool) -> Linux {
    use NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let kinds = [Pid, Network, Ipc, Uts, Mount].into_iter().chain(has_cgroup_namespace.then_some(Cgroup));
    Linux {
        resources: Some(Resources {
            devices: vec![DeviceRule { allow: false, access: "rwm".to_owned(), ..DeviceRule::default() }],
            ..Resources::default()
        }),
        namespaces: kinds.map(|kind| Namespace { kind, path: String::new() }).collect(),
        masked_paths: strings([
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/proc/scsi",
        ]),
        readonly_paths: strings(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        ..Linux::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rootless_example_asks_for_nothing_that_needs_root() {
        let mut spec = Spec::example(true);
        spec.make_rootless(1000, 100);
        let linux = spec.linux.unwrap();
        let kinds: Vec<_> = linux.namespaces.iter().map(|namespace| namespace.kind).collect();
        use NamespaceKind::{Cgroup, Ipc, Mount, Pid, User, Uts};
        assert_eq!(kinds, [Pid, Ipc, Uts, Mount, Cgroup, User]);
        assert_eq!((linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id), (1000, 100));
        assert!(linux.resources.is_none());
        assert!(spec.mounts.iter().flat_map(|mount| &mount.options).all(|option| !option.starts_with("gid=")));
        assert_eq!(spec.mounts[5].kind, "none");
    }
}
