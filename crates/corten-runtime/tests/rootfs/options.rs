//! Mount options: what the table of the specification means in the kernel.

use super::*;

use std::os::unix::fs::PermissionsExt;

cases![
    every_flag_of_a_new_file_system_and_of_a_bind_reaches_the_kernel,
    a_bind_with_flags_has_those_alone_but_for_locked_ones,
    flags_locked_by_the_host_cannot_be_cleared_in_a_user_namespace,
    recursive_flags_change_the_mounts_below,
    propagation_is_the_one_asked_for,
    an_id_mapped_bind_shows_its_files_under_other_owners,
    an_id_map_needs_mappings_and_a_bind,
    sources_that_only_the_host_may_reach_are_bound_in_a_user_namespace,
    a_tmpfs_takes_the_mode_of_what_it_covers,
    tmpcopyup_copies_modes_owners_times_and_links,
    remount_changes_what_is_there,
    every_option_is_listed_for_features,
    nonsense_is_refused_before_anything_is_made,
    a_file_system_that_the_kernel_lacks_is_named,
];

const FLAGS: [(&[&str], &[&str]); 11] = [
    (&["ro"], &["ro"]),
    (&["nosuid", "nodev", "noexec"], &["rw", "nosuid", "nodev", "noexec"]),
    (&["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"], &["rw"]),
    (&["noatime"], &["noatime"]),
    (&["noatime", "relatime"], &["relatime"]),
    (&["noatime", "atime"], &["relatime"]),
    (&["nodiratime"], &["nodiratime", "relatime"]),
    (&["nosymfollow"], &["nosymfollow"]),
    (&["nosymfollow", "symfollow", "defaults", "silent", "loud"], &["rw"]),
    (&["norelatime", "nostrictatime", "iversion", "noiversion", "nomand", "async", "nolazytime"], &["relatime"]),
    (&["strictatime"], &[]),
];

fn every_flag_of_a_new_file_system_and_of_a_bind_reaches_the_kernel() {
    for (given, expected) in FLAGS {
        let bind = [&["bind"], given].concat();
        let bundle = Bundle::typical()
            .mount(json!({"destination": "/new", "type": "tmpfs", "source": "tmpfs", "options": given}))
            .mount(json!({"destination": "/bound", "source": "outside", "options": bind}));
        bundle.check(|| {
            for path in ["/new", "/bound"] {
                let line = mounted(path);
                assert!(line.has(expected), "{given:?}: {line:?}");
                if given == ["strictatime"] {
                    assert!(!line.has(&["relatime"]) && !line.has(&["noatime"]), "{line:?}");
                }
                for flag in ["nosuid", "nodev", "noexec", "ro", "nosymfollow"] {
                    assert!(expected.contains(&flag) || !line.has(&[flag]), "{given:?}: {line:?}");
                }
            }
        });
    }
    let flags =
        json!({"destination": "/new", "type": "tmpfs", "source": "t", "options": ["sync", "dirsync", "lazytime"]});
    Bundle::typical().mount(flags).check(|| {
        let data = mounted("/new").data;
        assert!(["sync", "dirsync", "lazytime"].iter().all(|flag| data.contains(flag)), "{data}");
    });
}

fn a_bind_with_flags_has_those_alone_but_for_locked_ones() {
    for (user, options, expected, absent) in [
        (false, json!(["bind"]), &["ro", "nosuid", "nodev"][..], &["noexec"][..]),
        (false, json!(["bind", "rprivate"]), &["ro", "nosuid", "nodev"], &[]),
        (false, json!(["bind", "noexec"]), &["rw", "noexec"], &["nosuid", "nodev"]),
        (false, json!(["bind", "dev"]), &["rw"], &["nosuid", "nodev"]),
        (false, json!(["bind", "ro"]), &["ro"], &["nosuid", "nodev"]),
        (true, json!(["bind"]), &["ro", "nosuid", "nodev"], &[]),
        (true, json!(["bind", "noexec"]), &["ro", "nosuid", "nodev", "noexec"], &[]),
    ] {
        let bundle = if user { Bundle::typical().in_user_namespace() } else { Bundle::typical() };
        let shown = format!("{user} {options}");
        let bundle = bundle.mount(json!({"destination": "/bound", "source": "flags", "options": options}));
        let source = bundle.directory.path().join("flags");
        fs::create_dir(&source).unwrap();
        own_host();
        rustix::mount::mount("t", &source, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        use rustix::mount::MountFlags as Flags;
        rustix::mount::mount_remount(&source, Flags::BIND | Flags::RDONLY | Flags::NOSUID | Flags::NODEV, c"").unwrap();
        bundle.check(|| {
            let line = mounted("/bound");
            assert!(line.has(expected) && !absent.iter().any(|flag| line.has(&[flag])), "{shown}: {line:?}");
        });
    }
}

/// Mounts a tmpfs with flags at `path` of the host, in a mount namespace of the test's own.
fn host_mount(path: &str, options: &[&str]) {
    use rustix::mount::MountFlags;
    own_host();
    let mut flags = MountFlags::empty();
    for option in options {
        flags |= match *option {
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "ro" => MountFlags::RDONLY,
            other => panic!("{other}"),
        };
    }
    rustix::mount::mount("t", path, "tmpfs", flags, None).unwrap();
}

/// What the test does to its host's mounts stays its own.
fn own_host() {
    use rustix::mount::{MountPropagationFlags as Flags, mount_change};
    corten_sys::namespace::unshare(NEWNS).unwrap();
    mount_change("/", Flags::PRIVATE | Flags::REC).unwrap();
}

fn flags_locked_by_the_host_cannot_be_cleared_in_a_user_namespace() {
    let bundle = Bundle::typical().in_user_namespace();
    let source = bundle.directory.path().join("locked");
    fs::create_dir(&source).unwrap();
    host_mount(source.to_str().unwrap(), &["nosuid", "nodev", "ro"]);
    let with = |options: &[&str]| {
        let mut options = options.to_vec();
        options.push("bind");
        json!({"destination": "/locked", "source": "locked", "options": options})
    };
    let mut bundle = bundle.mount(with(&["noexec"]));
    bundle.check(|| assert!(mounted("/locked").has(&["nosuid", "nodev", "ro", "noexec"])));
    // The parent opened the source with the host's rights, and may clear what it likes. A mount inside cannot.
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    let bundle = bundle
        .mount(json!({"destination": "/locked", "source": "locked", "options": ["bind"]}))
        .mount(json!({"destination": "/sys", "options": ["remount", "bind", "rw"]}));
    bundle.check(|| assert!(mounted("/sys").has(&["rw"]), "its own sysfs"));
    let mut bundle = Bundle::typical().in_user_namespace();
    bundle.namespaces &= !NEWNET;
    let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::NOSUID;
    rustix::mount::mount_remount("/sys", flags, c"").unwrap();
    let report = bundle.mount(json!({"destination": "/sys", "options": ["remount", "bind", "rw", "suid"]})).refused();
    assert!(report.contains("cannot remount `/sys`") && report.contains("locked"), "{report}");
}

fn recursive_flags_change_the_mounts_below() {
    let bundle = Bundle::typical();
    own_host();
    for name in ["tree", "tree/below"] {
        let path = bundle.directory.path().join(name);
        fs::create_dir(&path).unwrap();
        rustix::mount::mount("t", &path, "tmpfs", rustix::mount::MountFlags::NOSUID, None).unwrap();
    }
    for (options, above, below) in [
        (json!(["rbind", "ro"]), &["ro"][..], &["rw", "nosuid"][..]),
        (json!(["rbind", "rro"]), &["ro"], &["ro"]),
        (
            json!(["rbind", "rro", "rnodev", "rnoexec", "rnosymfollow"]),
            &["ro"],
            &["ro", "nodev", "noexec", "nosymfollow"],
        ),
        (json!(["rbind", "rnoatime", "rnodiratime"]), &["noatime"], &["noatime", "nodiratime"]),
        (json!(["rbind", "rnoatime", "rrelatime"]), &["relatime"], &["relatime"]),
        (
            json!(["rbind", "rro", "rrw", "rsuid", "rdev", "rexec", "ratime", "rdiratime", "rsymfollow"]),
            &["rw"],
            &["rw"],
        ),
    ] {
        let shown = options.to_string();
        let mut bundle = Bundle {
            spec: Bundle::typical().spec,
            directory: tempfile::tempdir_in(bundle.directory.path()).unwrap(),
            ..Bundle::new()
        };
        bundle.spec["root"]["path"] = json!("../rootfs");
        fs::create_dir(bundle.outside()).unwrap();
        fs::write(bundle.outside().join("canary"), "alive").unwrap();
        let bundle = bundle.mount(json!({"destination": "/tree", "source": "../tree", "options": options}));
        bundle.check(|| {
            assert!(mounted("/tree").has(above), "{shown}: {:?}", mounted("/tree"));
            let line = mounted("/tree/below");
            assert!(line.has(below), "{shown}: {line:?}");
            assert!(!shown.contains("rsuid") || !line.has(&["nosuid"]), "{line:?}");
        });
    }
}

fn propagation_is_the_one_asked_for() {
    for (word, expected) in
        [("private", ""), ("rprivate", ""), ("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable")]
    {
        let options = json!(["rbind", word]);
        Bundle::typical().mount(json!({"destination": "/data", "source": "outside", "options": options})).check(|| {
            let found = mounted("/data").propagation;
            assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{word}: {found}");
        });
    }
}

fn an_id_mapped_bind_shows_its_files_under_other_owners() {
    let maps = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    for user in [false, true] {
        let mut bundle = if user { Bundle::typical().in_user_namespace() } else { Bundle::typical() };
        for (id, option) in [(0, "idmap"), (3, "ridmap")] {
            let source = bundle.directory.path().join(format!("files{id}"));
            fs::create_dir(&source).unwrap();
            std::os::unix::fs::chown(&source, Some(id), Some(id)).unwrap();
            // In a user namespace the mapped owner must be one of its own.
            let base = if user { 100_000 } else { 5000 };
            let maps = if user { json!([{"containerID": 0, "hostID": base, "size": 10}]) } else { maps.clone() };
            bundle = bundle
                .mount(json!({"destination": format!("/files{id}"), "source": source, "options": ["rbind", option],
                "uidMappings": maps, "gidMappings": maps}));
        }
        bundle.check(|| {
            for id in [0, 3] {
                let meta = fs::metadata(format!("/files{id}")).unwrap();
                let expected = if user { id } else { 5000 + id };
                assert_eq!((meta.uid(), meta.gid()), (expected, expected));
            }
        });
    }
    // Without mappings of its own the mount takes the container's.
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = Bundle::typical()
        .in_user_namespace()
        .linux("namespaces", json!([{"type": "mount"}, {"type": "user"}]))
        .linux("uidMappings", maps.clone())
        .linux("gidMappings", maps)
        .mount(json!({"destination": "/data", "source": "outside", "options": ["bind", "idmap"]}));
    bundle.check(|| assert_eq!(fs::metadata("/data/canary").unwrap().uid(), 0));
}

fn an_id_map_needs_mappings_and_a_bind() {
    let bundle = || Bundle::typical().linux("namespaces", json!([{"type": "mount"}]));
    let maps = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    let report =
        bundle().mount(json!({"destination": "/d", "source": "outside", "options": ["bind", "idmap"]})).refused();
    assert!(report.contains("needs a user namespace"), "{report}");
    let half = json!({"destination": "/d", "source": "outside", "options": ["bind"], "uidMappings": maps});
    assert!(bundle().mount(half).refused().contains("must be given together"));
    let tmpfs = json!({"destination": "/d", "type": "tmpfs", "uidMappings": maps, "gidMappings": maps});
    assert!(bundle().mount(tmpfs).refused().contains("only bind mounts can be id-mapped"));
}

fn sources_that_only_the_host_may_reach_are_bound_in_a_user_namespace() {
    let bundle = Bundle::typical().in_user_namespace();
    let secret = bundle.directory.path().join("locked");
    fs::create_dir(&secret).unwrap();
    fs::create_dir(secret.join("volume")).unwrap();
    fs::write(secret.join("volume/file"), "reached").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o700)).unwrap();
    bundle.mount(json!({"destination": "/volume", "source": "locked/volume", "options": ["rbind", "ro"]})).check(
        || {
            assert_eq!(fs::read_to_string("/volume/file").unwrap(), "reached");
            assert!(mounted("/volume").has(&["ro"]));
        },
    );
}

fn a_tmpfs_takes_the_mode_of_what_it_covers() {
    let bundle = Bundle::typical();
    fs::set_permissions(bundle.rootfs().join("tmp"), PermissionsExt::from_mode(0o1711)).unwrap();
    bundle
        .mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "t"}))
        .mount(json!({"destination": "/etc", "type": "tmpfs", "source": "t", "options": ["mode=0700"]}))
        .check(|| {
            assert_eq!(fs::metadata("/tmp").unwrap().mode() & 0o7777, 0o1711);
            assert_eq!(fs::metadata("/etc").unwrap().mode() & 0o7777, 0o700);
        });
}

fn tmpcopyup_copies_modes_owners_times_and_links() {
    let bundle = Bundle::typical();
    let etc = bundle.rootfs().join("etc");
    fs::create_dir(etc.join("sub")).unwrap();
    fs::write(etc.join("sub/big"), vec![7; 300_000]).unwrap();
    symlink("/proc/self/environ", etc.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, etc.join("fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    std::os::unix::fs::chown(etc.join("hosts"), Some(12), Some(34)).unwrap();
    fs::set_permissions(etc.join("hosts"), PermissionsExt::from_mode(0o4751)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::open(etc.join("hosts")).unwrap().set_modified(time).unwrap();
    let mount = json!({"destination": "/etc", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "ro"]});
    bundle.mount(mount).check(|| {
        let hosts = fs::metadata("/etc/hosts").unwrap();
        assert_eq!((hosts.uid(), hosts.gid(), hosts.mode() & 0o7777, hosts.mtime()), (12, 34, 0o4751, 1_000_000));
        assert_eq!(fs::read("/etc/sub/big").unwrap(), vec![7; 300_000]);
        assert_eq!(fs::read_link("/etc/link").unwrap(), Path::new("/proc/self/environ"));
        assert_eq!(fs::metadata("/etc/fifo").unwrap().mode(), 0o10640);
        assert!(mounted("/etc").has(&["ro"]));
    });
    let small = json!({"destination": "/etc", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "size=4k"]});
    let bundle = Bundle::typical().mount(small);
    fs::write(bundle.rootfs().join("etc/big"), vec![7; 300_000]).unwrap();
    let report = bundle.refused();
    assert!(report.contains("cannot copy what the mount covers") && report.contains("No space"), "{report}");
}

fn remount_changes_what_is_there() {
    let bundle = Bundle::typical()
        .mount(json!({"destination": "/data", "source": "outside", "options": ["bind", "ro"]}))
        .mount(json!({"destination": "/data", "options": ["remount", "bind", "nodev"]}))
        .mount(json!({"destination": "/dev/shm", "options": ["remount", "size=1m", "noexec"]}));
    bundle.check(|| {
        assert!(mounted("/data").has(&["ro", "nodev"]));
        assert!(mounted("/dev/shm").data.contains("size=1024k"), "{:?}", mounted("/dev/shm"));
    });
}

fn every_option_is_listed_for_features() {
    let names = corten_runtime::rootfs::mount_options();
    for name in ["ro", "rbind", "rro", "idmap", "tmpcopyup", "rnosymfollow", "runbindable", "defaults"] {
        assert!(names.contains(&name));
    }
    assert!(names.is_sorted());
}

fn nonsense_is_refused_before_anything_is_made() {
    for (mount, reason) in [
        (json!({"destination": "", "type": "tmpfs"}), "`destination` is empty"),
        (json!({"destination": "/", "type": "tmpfs"}), "the root itself"),
        (json!({"destination": "/a/../..", "type": "tmpfs"}), "the root itself"),
        (json!({"destination": "/a", "source": "outside"}), "neither a `type` nor"),
        (json!({"destination": "/a", "options": ["rbind"]}), "needs a `source`"),
        (json!({"destination": "/a", "source": "nowhere", "options": ["rbind"]}), "No such file"),
        (json!({"destination": "/a\u{0}b", "type": "tmpfs"}), "NUL"),
        (json!({"destination": "/a", "type": "tmpfs", "options": ["a\u{0}b"]}), "NUL"),
        (json!({"destination": "/a", "source": "outside", "options": ["bind", "tmpcopyup"]}), "`tmpfs` alone"),
    ] {
        let bundle = Bundle::new().mount(mount);
        let report = bundle.plan().unwrap_err();
        assert!(report.contains(reason) && report.contains("`mounts[0]`"), "{report}");
        assert_eq!(fs::read_dir(bundle.rootfs()).unwrap().count(), 6);
    }
    for (key, value) in [("maskedPaths", json!(["proc/x"])), ("readonlyPaths", json!(["/"]))] {
        let report = Bundle::new().linux(key, value).plan().unwrap_err();
        assert!(report.contains(&format!("`linux.{key}[0]`")), "{report}");
    }
    let report = Bundle::new().linux("mountLabel", json!("system_u:object_r:x")).plan().unwrap_err();
    assert!(report.contains("SELinux is not enabled here"), "{report}");
    let mut bundle = Bundle::new();
    for (root, reason) in [
        (json!(null), "`root` is missing"),
        (json!({"path": ""}), "`root.path`"),
        (json!({"path": "nowhere"}), "`root.path` (`nowhere`) is no directory"),
        (json!({"path": "outside/canary"}), "is no directory"),
    ] {
        bundle.spec["root"] = root;
        let report = bundle.plan().unwrap_err();
        assert!(report.contains(reason), "{report}");
    }
}

fn a_file_system_that_the_kernel_lacks_is_named() {
    let report = Bundle::new().mount(json!({"destination": "/a", "type": "nonesuchfs", "source": "x"})).refused();
    assert!(report.contains("cannot mount `nonesuchfs` at `/a`") && report.contains("/proc/filesystems"), "{report}");
    let report =
        Bundle::new().mount(json!({"destination": "/a", "type": "tmpfs", "options": ["nonesuch=1"]})).refused();
    assert!(report.contains("the kernel says:") && report.contains("nonesuch"), "{report}");
}
