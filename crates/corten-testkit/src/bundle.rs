//! OCI bundles: a root file system and a `config.json` like the one that the reference runtime's `spec` command writes.

use std::path::{Path, PathBuf};

use corten_types::runtime_spec::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Rlimit, Root, Spec,
};

use crate::Image;

/// A bundle directory; change [`Bundle::spec`], then [`Bundle::write`].
#[derive(Debug)]
pub struct Bundle {
    /// The bundle directory.
    pub directory: PathBuf,
    /// What `config.json` will hold.
    pub spec: Spec,
}

impl Bundle {
    /// A bundle at `directory` whose root is [`Image::tiny`] and whose program is `args`; written already.
    pub fn new<S: Into<String>>(directory: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Image::tiny().unpack(&directory.join("rootfs"));
        let mut bundle = Self { directory: directory.to_path_buf(), spec: default_spec() };
        bundle.process().args = args.into_iter().map(Into::into).collect();
        bundle.write();
        bundle
    }

    /// The program's part of the document.
    pub fn process(&mut self) -> &mut Process {
        self.spec.process.get_or_insert_default()
    }

    /// Linux's part of the document.
    pub fn linux(&mut self) -> &mut Linux {
        self.spec.linux.get_or_insert_default()
    }

    /// The limits.
    pub fn resources(&mut self) -> &mut Resources {
        self.linux().resources.get_or_insert_default()
    }

    /// Runs the container in a user namespace where `uid` and `gid` of the host are root, without a network namespace
    /// or cgroup settings of its own: what the reference runtime's `spec --rootless` writes.
    pub fn make_rootless(&mut self, uid: u32, gid: u32) {
        let map = |host_id| vec![IdMapping { container_id: 0, host_id, size: 1 }];
        let linux = self.linux();
        (linux.uid_mappings, linux.gid_mappings) = (map(uid), map(gid));
        linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
        linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: String::new() });
        linux.resources = None;
        for mount in &mut self.spec.mounts {
            mount.options.retain(|option| !option.starts_with("gid=") && !option.starts_with("uid="));
        }
        // sysfs belongs to the network namespace's owner, which is not ours: the host's is bound in.
        for sys in self.spec.mounts.iter_mut().filter(|mount| mount.destination == "/sys") {
            *sys = mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
        }
        self.spec.mounts.retain(|mount| mount.kind != "cgroup");
    }

    /// Removes a namespace, so that the host's is shared.
    pub fn share(&mut self, kind: NamespaceKind) {
        self.linux().namespaces.retain(|namespace| namespace.kind != kind);
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        self.spec.mounts.push(mount(destination, kind, source, options));
    }

    /// The root directory.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// Writes `config.json`.
    pub fn write(&self) {
        let json = serde_json::to_vec_pretty(&self.spec).unwrap();
        self.write_raw(&json);
    }

    /// Writes these bytes as `config.json`, for malformed input.
    pub fn write_raw(&self, bytes: &[u8]) {
        std::fs::write(self.directory.join("config.json"), bytes).unwrap();
    }
}

/// The document that the reference runtime's `spec` writes, without a terminal.
pub fn default_spec() -> Spec {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let capabilities = owned(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let namespaces = [
        NamespaceKind::Pid,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Mount,
        NamespaceKind::Cgroup,
    ];
    Spec {
        // Runtimes of Debian 12 refuse a newer one.
        oci_version: "1.0.2".into(),
        process: Some(Process {
            args: owned(&["sh"]),
            env: owned(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), hard: 1024, soft: 1024 }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: "runc".into(),
        mounts: default_mounts(),
        linux: Some(Linux {
            resources: Some(Resources {
                devices: vec![DeviceRule { allow: false, access: "rwm".into(), ..DeviceRule::default() }],
                ..Resources::default()
            }),
            namespaces: namespaces.into_iter().map(|kind| Namespace { kind, path: String::new() }).collect(),
            masked_paths: owned(&[
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
            readonly_paths: owned(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

fn default_mounts() -> Vec<Mount> {
    let fixed = ["nosuid", "noexec", "nodev"];
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &fixed),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}
