//! What the specification promises of a typical container's files.

use super::*;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use corten_sys::namespace::NEWCGROUP;

cases![
    a_typical_container_finds_every_file_system_device_and_mask,
    a_typical_container_starts_in_a_user_namespace,
    sysfs_of_the_host_is_bound_where_the_network_is_the_hosts,
    a_read_only_root_is_read_only_and_its_mounts_are_not,
    missing_mount_points_are_made_and_relative_destinations_start_at_the_root,
    symlinks_in_the_image_lead_where_they_lead_inside,
    sources_in_the_rootfs_are_what_earlier_mounts_put_there,
    devices_have_their_numbers_modes_and_owners,
    a_device_where_another_file_is_stops_the_start,
    a_bound_dev_stays_as_it_is,
    cgroup_hierarchies_show_the_containers_own_cgroup_read_only,
    a_terminal_is_the_console,
    without_pivot_root_the_hosts_procfs_is_hidden,
    without_a_mount_namespace_the_mounts_can_be_taken_away,
    the_roots_propagation_is_the_one_asked_for,
];

pub(crate) fn assert_typical() {
    assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "image");
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
    assert!(!Path::new("/work").exists() && !Path::new("/home").exists(), "the host's root is gone");
    for (path, kind, options) in [
        ("/proc", "proc", &["rw"][..]),
        ("/dev", "tmpfs", &["rw", "nosuid"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/proc/sys", "proc", &["ro"]),
    ] {
        let line = mounted(path);
        assert_eq!(line.kind, kind, "{path}");
        assert!(line.has(options), "{path}: {line:?}");
    }
    assert!(mounted("/dev").data.contains("mode=755") && mounted("/dev").data.contains("size=65536k"));
    assert!(!mounted("/dev").has(&["relatime"]), "strictatime");
    for (name, mode) in [("null", 0o666), ("zero", 0o666), ("full", 0o666), ("random", 0o666), ("tty", 0o666)] {
        let meta = fs::metadata(Path::new("/dev").join(name)).unwrap();
        assert!(meta.file_type().is_char_device(), "{name}");
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("ptmx", "pts/ptmx")] {
        assert_eq!(fs::read_link(Path::new("/dev").join(link)).unwrap(), Path::new(target));
    }
    fs::write("/dev/null", "x").unwrap();
    assert_eq!(fs::read("/proc/keys").unwrap(), b"", "masked");
    assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0, "masked");
    assert!(mounted("/sys/firmware").has(&["ro"]));
    assert_eq!(errno(fs::write("/proc/sys/kernel/domainname", "x")), Some(30));
}

fn a_typical_container_finds_every_file_system_device_and_mask() {
    let bundle = Bundle::typical();
    bundle.check(|| {
        assert_typical();
        fs::write("/etc/new", "").unwrap();
        assert_eq!(std::process::id(), 1);
        assert_eq!(
            fs::read_dir("/proc").unwrap().filter(|entry| entry.as_ref().unwrap().file_name() == "1").count(),
            1
        );
    });
    assert!(bundle.rootfs().join("etc/new").exists());
    assert_eq!(fs::read_dir(bundle.rootfs().join("dev")).unwrap().count(), 0, "all of /dev was the container's own");
}

fn a_typical_container_starts_in_a_user_namespace() {
    Bundle::typical().in_user_namespace().check(|| {
        assert_typical();
        assert!(mounted("/dev/null").kind.contains("tmpfs"), "bound from the host's devtmpfs");
    });
}

fn sysfs_of_the_host_is_bound_where_the_network_is_the_hosts() {
    let mut bundle = Bundle::typical().in_user_namespace();
    bundle.namespaces &= !NEWNET;
    bundle.check(|| {
        assert!(mounted("/sys").has(&["ro", "nosuid", "nodev", "noexec"]));
        assert!(Path::new("/sys/class/net").is_dir());
    });
}

fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    for bundle in [Bundle::typical(), Bundle::typical().in_user_namespace()] {
        bundle.read_only().check(|| {
            assert!(mounted("/").has(&["ro"]));
            assert_eq!(errno(fs::write("/etc/new", "")), Some(30));
            fs::write("/dev/shm/new", "").unwrap();
        });
    }
}

fn missing_mount_points_are_made_and_relative_destinations_start_at_the_root() {
    let bundle = Bundle::new();
    let file = bundle.directory.path().join("file");
    fs::write(&file, "content").unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/proc", "type": "proc", "source": "proc"}))
        .mount(json!({"destination": "a/b/c", "type": "tmpfs", "source": "tmpfs"}))
        .mount(json!({"destination": "/x/y/z", "source": "file", "options": ["bind", "ro"]}))
        .mount(json!({"destination": "/d/e", "source": bundle_path("outside", &file), "options": ["rbind", "ro"]}));
    assert_eq!(bundle.plan().unwrap().warnings().len(), 1);
    bundle.check(|| {
        assert_eq!(mounted("/a/b/c").kind, "tmpfs");
        assert_eq!(fs::read_to_string("/x/y/z").unwrap(), "content");
        assert_eq!(errno(fs::write("/x/y/z", "")), Some(30));
        assert_eq!(fs::read_to_string("/d/e/canary").unwrap(), "alive");
    });
    let meta = fs::metadata(bundle.rootfs().join("a/b")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o755);
    assert!(bundle.rootfs().join("x/y/z").is_file());
}

fn bundle_path(name: &str, beside: &Path) -> PathBuf {
    beside.parent().unwrap().join(name)
}

fn symlinks_in_the_image_lead_where_they_lead_inside() {
    let bundle = Bundle::new()
        .link("run", "/var/run/../../deep/run")
        .link("tmp", "../../../../../usr")
        .mount(json!({"destination": "/proc", "type": "proc", "source": "proc"}))
        .mount(json!({"destination": "/run/lock", "type": "tmpfs", "source": "tmpfs"}))
        .mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nodev"]}));
    bundle.check(|| {
        assert!(find_mount("/deep/run/lock").is_some(), "{}", mountinfo());
        assert!(mounted("/usr").has(&["nodev"]));
    });
    assert!(bundle.rootfs().join("deep/run/lock").is_dir());
}

fn sources_in_the_rootfs_are_what_earlier_mounts_put_there() {
    for user in [false, true] {
        let bundle = if user { Bundle::typical().in_user_namespace() } else { Bundle::typical() };
        let rootfs = bundle.rootfs();
        let maps = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
        let mut mapped = json!({"destination": "/mapped", "source": rootfs.join("usr"), "options": ["rbind", "idmap"],
            "uidMappings": maps, "gidMappings": maps});
        if user {
            // Mapped by the parent, which these tests have none of (oci isolation).
            mapped = json!({"destination": "/mapped", "source": rootfs.join("usr"), "options": ["rbind"]});
        }
        bundle
            .mount(json!({"destination": "/usr", "source": "outside", "options": ["bind"]}))
            // A destination that spells the rootfs's path means the place in it.
            .mount(json!({"destination": rootfs.join("tmp/again"), "source": rootfs.join("usr"), "options": ["rbind", "ro"]}))
            .mount(mapped)
            .check(|| {
                assert_eq!(fs::read_to_string("/tmp/again/canary").unwrap(), "alive");
                assert!(mounted("/tmp/again").has(&["ro"]));
                let owner = fs::metadata("/mapped/canary").unwrap().uid();
                assert_eq!(owner, if user { 65534 } else { 5000 });
            });
    }
}

fn devices_have_their_numbers_modes_and_owners() {
    let bundle = Bundle::typical().linux(
        "devices",
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/deep/loop", "type": "b", "major": 7, "minor": 3, "fileMode": 0o100_660},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
            {"path": "/dev/pipe", "type": "p"},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
        ]),
    );
    bundle.check(|| {
        let fuse = fs::metadata("/dev/fuse").unwrap();
        assert_eq!((fuse.mode() & 0o7777, fuse.uid(), fuse.gid()), (0o640, 7, 8));
        assert_eq!(fuse.rdev(), rustix::fs::makedev(10, 229));
        let looped = fs::metadata("/dev/deep/loop").unwrap();
        assert!(looped.file_type().is_block_device() && looped.mode() & 0o7777 == 0o660);
        assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o7777, 0o600);
        assert!(fs::metadata("/dev/pipe").unwrap().file_type().is_fifo());
        assert!(fs::symlink_metadata("/dev/ptmx").unwrap().is_symlink());
    });
}

fn a_device_where_another_file_is_stops_the_start() {
    let bundle = Bundle::new();
    fs::write(bundle.rootfs().join("dev/zero"), "").unwrap();
    let report = bundle.refused();
    assert!(report.contains("cannot make the device `/dev/zero`") && report.contains("is there already"), "{report}");
    let bundle = Bundle::new().link("dev/null", "/etc/hosts");
    assert!(bundle.refused().contains("cannot make the device `/dev/null`"));
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/hosts")).unwrap(), "image");
}

fn a_bound_dev_stays_as_it_is() {
    let bundle = Bundle::new()
        .mount(json!({"destination": "/dev", "source": "outside", "options": ["rbind"]}))
        .mount(json!({"destination": "/proc", "type": "proc", "source": "proc"}));
    bundle.check(|| assert_eq!(fs::read_dir("/dev").unwrap().count(), 1));
}

fn cgroup_hierarchies_show_the_containers_own_cgroup_read_only() {
    let mut bundle = Bundle::typical()
        .mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    let name = format!("corten-rootfs-{}", std::process::id());
    let Some(own) = Cgroups::make(&["memory", "pids", "systemd", "unified"], &name) else {
        return check_cgroup2(&mut bundle);
    };
    bundle.cgroup_paths = own.paths();
    for namespace in [false, true] {
        bundle.cgroup_namespace = namespace;
        bundle.namespaces = if namespace { bundle.namespaces | NEWCGROUP } else { bundle.namespaces };
        bundle.check(|| {
            assert!(mounted("/sys/fs/cgroup").has(&["ro", "nosuid", "noexec", "nodev"]));
            for (hierarchy, kind) in
                [("memory", "cgroup"), ("pids", "cgroup"), ("systemd", "cgroup"), ("unified", "cgroup2")]
            {
                let path = format!("/sys/fs/cgroup/{hierarchy}");
                let line = mounted(&path);
                assert_eq!(line.kind, kind);
                assert!(line.has(&["ro", "nosuid", "noexec", "nodev"]), "{line:?}");
                if !namespace {
                    assert_eq!(line.root, format!("/{name}"));
                }
                assert_eq!(errno(fs::create_dir(format!("{path}/new"))), Some(30));
            }
            assert_eq!(fs::read_dir("/sys/fs/cgroup").unwrap().count(), 4);
        });
    }
    for options in [json!(["rw", "nosuid"]), json!(["nosuid"])] {
        bundle.spec["mounts"][6]["options"] = options;
        bundle.check(|| {
            let path = "/sys/fs/cgroup/memory";
            assert!(mounted(path).has(&["rw"]));
            fs::create_dir("/sys/fs/cgroup/pids/below").unwrap();
            fs::remove_dir("/sys/fs/cgroup/pids/below").unwrap();
        });
    }
}

fn check_cgroup2(bundle: &mut Bundle) {
    let read_only = || {
        let line = mounted("/sys/fs/cgroup");
        assert_eq!(line.kind, "cgroup2");
        assert!(line.has(&["ro", "nosuid"]), "{line:?}");
    };
    bundle.namespaces |= NEWCGROUP;
    bundle.cgroup_namespace = true;
    bundle.check(read_only);
    // In a user namespace without a cgroup namespace the kernel refuses a new mount; the host's is bound.
    let mut bundle = Bundle { spec: bundle.spec.clone(), ..Bundle::typical().in_user_namespace() };
    bundle.check(read_only);
    // With one of its own, or where it sees only its own cgroup, the container's.
    let own = Path::new("/sys/fs/cgroup").join(format!("corten-rootfs-{}", std::process::id()));
    fs::create_dir(&own).unwrap();
    let own = Cgroups(vec![own]);
    bundle.cgroup_paths.insert(String::new(), own.0[0].display().to_string());
    bundle.cgroup_namespace = true;
    bundle.check(|| {
        read_only();
        assert!(mounted("/sys/fs/cgroup").root.starts_with("/corten-rootfs-"));
    });
}

/// Cgroups of the test's own, gone with it.
pub(crate) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// `None` where the hierarchies are not those of cgroup v1.
    pub(crate) fn make(hierarchies: &[&str], name: &str) -> Option<Self> {
        if !Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
            return None;
        }
        let paths: Vec<_> = hierarchies.iter().map(|it| Path::new("/sys/fs/cgroup").join(it).join(name)).collect();
        for path in &paths {
            fs::create_dir(path).unwrap();
        }
        Some(Self(paths))
    }

    pub(crate) fn paths(&self) -> BTreeMap<String, String> {
        let key = |path: &Path| match path.parent().unwrap().file_name().unwrap().to_str().unwrap() {
            "unified" => String::new(),
            "systemd" => "name=systemd".to_owned(),
            other => other.to_owned(),
        };
        self.0.iter().map(|path| (key(path), path.to_str().unwrap().to_owned())).collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in &self.0 {
            drop(fs::remove_dir(path));
        }
    }
}

fn a_terminal_is_the_console() {
    let bundle = Bundle::typical();
    let steps = |plan: &mut RootfsPlan| {
        plan.prepare()?;
        plan.enter()?;
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let main = fs::OpenOptions::new().read(true).write(true).open("/dev/pts/ptmx").unwrap();
        rustix::pty::unlockpt(&main).unwrap();
        let peer = rustix::pty::ioctl_tiocgptpeer(&main, flags).unwrap();
        plan.mount_console(peer.as_fd())?;
        plan.seal()
    };
    bundle
        .run_with(steps, || {
            assert_eq!(mounted("/dev/console").kind, "devpts");
            assert_eq!(fs::metadata("/dev/console").unwrap().rdev(), rustix::fs::makedev(136, 0));
        })
        .unwrap();
    let wrong = |plan: &mut RootfsPlan| {
        plan.prepare()?;
        plan.enter()?;
        let file = fs::File::open("/dev/zero").unwrap();
        plan.mount_console(file.as_fd())
    };
    let report = bundle.run_with(wrong, || {}).unwrap_err();
    assert!(report.contains("the terminal is not of a devpts"), "{report}");
}

fn without_pivot_root_the_hosts_procfs_is_hidden() {
    let mut bundle = Bundle::typical();
    bundle.no_pivot = true;
    bundle.check(|| {
        assert_typical();
        let whole = |kind| mountinfo().lines().filter(|line| line.contains(" / ") && line.contains(kind)).count();
        assert_eq!((whole(" - proc "), whole(" - sysfs ")), (1, 1), "{}", mountinfo());
    });
}

fn without_a_mount_namespace_the_mounts_can_be_taken_away() {
    // A namespace stands for the host's.
    corten_sys::namespace::unshare(NEWNS).unwrap();
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .unwrap();
    let before = mountinfo();
    let mut bundle = Bundle::typical();
    bundle.namespaces &= !NEWNS;
    assert!(bundle.plan().unwrap_err().contains("need a mount namespace"));
    let bundle = bundle.linux("maskedPaths", json!([])).linux("readonlyPaths", json!([]));
    bundle.check(|| {
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "image");
        assert!(Path::new("/proc/self/exe").symlink_metadata().is_ok());
    });
    assert_ne!(mountinfo(), before);
    corten_runtime::rootfs::unmount_from_host(&bundle.rootfs()).unwrap();
    assert_eq!(mountinfo(), before);
    corten_runtime::rootfs::unmount_from_host(&bundle.rootfs()).unwrap();
}

fn the_roots_propagation_is_the_one_asked_for() {
    // A shared root, as systemd leaves it, in a namespace that stands for the host's.
    use rustix::mount::{MountPropagationFlags as Flags, mount_change};
    corten_sys::namespace::unshare(NEWNS).unwrap();
    mount_change("/", Flags::DOWNSTREAM | Flags::REC).unwrap();
    mount_change("/", Flags::SHARED | Flags::REC).unwrap();
    let host = mountinfo();
    for (word, expected) in [
        ("", "master:"),
        ("rslave", "master:"),
        ("slave", "master:"),
        ("rprivate", ""),
        ("private", ""),
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        Bundle::typical().linux("rootfsPropagation", json!(word)).check(|| {
            let root = mounted("/").propagation;
            let fits = if expected.is_empty() { root.is_empty() } else { root.contains(expected) };
            assert!(fits, "{word}: {root:?}");
        });
        assert_eq!(mountinfo(), host, "{word}");
    }
    let report = Bundle::new().linux("rootfsPropagation", json!("wild")).refused();
    assert!(report.contains("`linux.rootfsPropagation` is `wild`"));
}
