//! The same containers where the kernel or an outer sandbox lacks system calls: older mount calls, openat2 by hand.

use super::*;

cases![
    a_typical_container_starts_without_any_of_the_newer_mount_calls,
    a_user_namespace_starts_without_any_of_the_newer_mount_calls,
    binds_devices_and_cgroups_come_out_the_same,
    what_cannot_fall_back_says_so,
    options_too_long_for_fsconfig_go_to_mount,
];

const OPEN_TREE: u32 = 428;
const MOVE_MOUNT: u32 = 429;
const FSOPEN: u32 = 430;
const FSMOUNT: u32 = 432;
const OPENAT2: u32 = 437;
const MOUNT_SETATTR: u32 = 442;

/// Each call alone, and all: a kernel of 2019.
const MISSING: [&[u32]; 8] = [
    &[],
    &[OPENAT2],
    &[FSOPEN],
    &[FSMOUNT],
    &[OPEN_TREE],
    &[MOVE_MOUNT],
    &[MOUNT_SETATTR],
    &[OPENAT2, FSOPEN, FSMOUNT, OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR],
];

fn a_typical_container_starts_without_any_of_the_newer_mount_calls() {
    for missing in MISSING {
        println!("  without {missing:?}");
        Bundle::typical().read_only().missing(missing).check(|| {
            layout::assert_typical();
            assert!(mounted("/").has(&["ro"]));
        });
        let mut moved = Bundle::typical().missing(missing);
        moved.no_pivot = true;
        moved.check(layout::assert_typical);
    }
}

fn a_user_namespace_starts_without_any_of_the_newer_mount_calls() {
    for missing in MISSING {
        println!("  without {missing:?}");
        Bundle::typical().in_user_namespace().missing(missing).check(layout::assert_typical);
    }
}

fn binds_devices_and_cgroups_come_out_the_same() {
    let own = layout::Cgroups::make(&["memory", "pids"], &format!("corten-rootfs-{}", std::process::id()));
    for missing in MISSING {
        println!("  without {missing:?}");
        let mut bundle = Bundle::typical().link("tmp", "/var/deep").missing(missing);
        if let Some(own) = &own {
            bundle.cgroup_paths = own.paths();
            bundle = bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["ro"]}));
        }
        bundle
            .mount(
                json!({"destination": "/data", "source": "outside", "options": ["rbind", "ro", "nodev", "rprivate"]}),
            )
            .mount(json!({"destination": "/etc/file", "source": "outside/canary", "options": ["bind", "noexec"]}))
            .mount(
                json!({"destination": "/tmp", "type": "tmpfs", "source": "t", "options": ["nosuid", "noatime", "ro"]}),
            )
            .mount(json!({"destination": "/etc", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}))
            .check(|| {
                assert!(mounted("/data").has(&["ro", "nodev"]));
                assert!(mounted("/var/deep").has(&["ro", "nosuid", "noatime"]), "{:?}", mounted("/var/deep"));
                assert_eq!(fs::read_to_string("/data/canary").unwrap(), "alive");
                assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "image");
                fs::write("/etc/hosts", "changed").unwrap();
                if find_mount("/sys/fs/cgroup").is_some() {
                    assert!(mounted("/sys/fs/cgroup/memory").has(&["ro"]));
                }
            });
    }
}

fn what_cannot_fall_back_says_so() {
    let bundle = Bundle::new().missing(&[MOUNT_SETATTR]);
    let report = bundle
        .mount(json!({"destination": "/data", "source": "outside", "options": ["rbind", "rro"]}))
        .run(|| {})
        .unwrap_err();
    assert!(report.contains("`/data`") && report.contains("Linux 5.12"), "{report}");
}

fn options_too_long_for_fsconfig_go_to_mount() {
    let bundle = Bundle::new();
    let long = "l".repeat(120);
    for name in ["1", "2", "3", "upper", "work"] {
        fs::create_dir(bundle.rootfs().join(format!("{long}{name}"))).unwrap();
    }
    let at = |name: &str| bundle.rootfs().join(format!("{long}{name}")).display().to_string();
    fs::write(format!("{}/file", at("2")), "lower").unwrap();
    let lower = format!("lowerdir={}:{}:{}", at("1"), at("2"), at("3"));
    let data = format!("upperdir={},workdir={}", at("upper"), at("work"));
    let bundle = bundle.mount(json!({"destination": "/proc", "type": "proc", "source": "proc"})).mount(
        json!({"destination": "/merged", "type": "overlay", "source": "overlay", "options": [lower, data, "nodev"]}),
    );
    bundle.check(|| {
        assert_eq!(fs::read_to_string("/merged/file").unwrap(), "lower");
        assert!(mounted("/merged").has(&["nodev"]));
    });
}
