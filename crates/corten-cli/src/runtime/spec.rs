//! `spec`: a config.json to start from; runc's example, value for value.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use corten_types::runtime_spec::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Rlimit, Root,
    Spec, VERSION,
};
use corten_types::{Error, ErrorKind, Result};

use super::arguments::Arguments;
use super::{Context, list};

/// Magic number of a cgroup2 file system (statfs(2)).
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// `spec`
pub(super) fn spec(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let mut spec = example(is_cgroup2());
    if arguments.is_set("rootless") {
        make_rootless(&mut spec, context.environment.uid, rustix::process::getegid().as_raw());
    }
    let bundle = arguments
        .path("bundle")
        .map_or_else(|| context.environment.working_directory.clone(), |bundle| context.environment.absolute(bundle));
    let path = bundle.join("config.json");
    let mut text = list::to_json_pretty(&spec, b"\t")?;
    text.push('\n');
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path);
    let write = file.and_then(|mut file| file.write_all(text.as_bytes()));
    write.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::AlreadyExists, "File config.json exists. Remove it first")
                .hint(format!("rm {path:?}"))
        }
        _ => Error::from(error).context(format!("cannot write {path:?}")),
    })?;
    Ok(0)
}

fn is_cgroup2() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup")
        .is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|t| t == CGROUP2_SUPER_MAGIC))
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn example(cgroup2: bool) -> Spec {
    let capabilities = strings(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    Spec {
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
        linux: Some(linux(cgroup2)),
        ..Spec::default()
    }
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

fn linux(cgroup2: bool) -> Linux {
    use NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let kinds = [Pid, Network, Ipc, Uts, Mount].into_iter().chain(cgroup2.then_some(Cgroup));
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

/// A user namespace with the caller as root in place of what only the host's root may have.
fn make_rootless(spec: &mut Spec, uid: u32, gid: u32) {
    let linux = spec.linux.get_or_insert_default();
    linux.namespaces.retain(|namespace| !matches!(namespace.kind, NamespaceKind::Network | NamespaceKind::User));
    linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: String::new() });
    linux.uid_mappings = vec![IdMapping { container_id: 0, host_id: uid, size: 1 }];
    linux.gid_mappings = vec![IdMapping { container_id: 0, host_id: gid, size: 1 }];
    linux.resources = None;
    for mount in &mut spec.mounts {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rootless_example_asks_for_nothing_that_needs_root() {
        let mut spec = example(true);
        make_rootless(&mut spec, 1000, 100);
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
