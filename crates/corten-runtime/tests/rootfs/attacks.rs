//! Images and volumes that try to lead the runtime astray: contained or refused for the right reason, and nothing outside
//! the rootfs changes. Each test names the advisory whose way it goes.

use super::*;

use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, RenameFlags};

cases![
    proc_and_sys_are_mounted_on_ordinary_directories_only,
    destinations_that_lead_out_stay_inside,
    destinations_that_are_files_or_fifos_are_refused,
    dev_that_leads_out_stays_inside,
    nothing_covers_proc,
    lxcfs_files_may_cover_their_own,
    a_symlink_into_proc_is_no_mount_point,
    a_bound_procfs_may_stand_for_proc,
    masked_and_read_only_paths_that_are_links_stay_inside,
    a_null_device_that_is_another_file_stops_the_start,
    a_console_that_is_a_link_is_refused,
    masks_of_directories_are_one_read_only_file_system,
    destinations_with_dots_stay_inside,
    a_racing_directory_never_leads_outside,
    a_racing_proc_is_a_procfs_or_refused,
    a_source_in_the_image_that_is_a_link_leads_inside,
    a_failed_start_leaves_no_mount_on_the_host,
];

const PROC: fn() -> Value = || json!({"destination": "/proc", "type": "proc", "source": "proc"});

fn tmpfs(destination: &str) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
}

/// CVE-2019-19921, CVE-2021-30465, CVE-2023-27561, CVE-2023-28642.
fn proc_and_sys_are_mounted_on_ordinary_directories_only() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let mount = || json!({"destination": format!("/{name}"), "type": kind, "source": kind});
        for target in ["/tmp", "tmp", "/absent", "../outside", "/proc/self/root", "."] {
            let report = Bundle::new().link(name, target).mount(mount()).refused();
            assert!(report.contains(&format!("cannot mount `{kind}` at `/{name}`")), "{report}");
            assert!(report.contains("symlink"), "{target}: {report}");
        }
        let bundle = Bundle::new();
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        fs::write(bundle.rootfs().join(name), "").unwrap();
        assert!(bundle.mount(mount()).refused().contains("or a file"));
        let bundle = Bundle::new();
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        fifo(&bundle.rootfs().join(name));
        assert!(bundle.mount(mount()).refused().contains("or a file"));
    }
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, 0o666.into(), 0).unwrap();
}

/// CVE-2015-3627, CVE-2015-3629, CVE-2021-30465, CVE-2024-45310.
fn destinations_that_lead_out_stay_inside() {
    for missing in [&[][..], &[437]] {
        let bundle = Bundle::new();
        let outside = bundle.outside();
        let targets = [
            outside.display().to_string(),
            format!("{}/made", outside.display()),
            "../outside".to_owned(),
            "../../../../../../../../tmp/../outside".to_owned(),
            "/../../outside/../outside".to_owned(),
        ];
        for target in targets {
            for destination in ["/usr", "/usr/below", "/usr/a/b"] {
                let bundle = Bundle { directory: tempfile::tempdir_in(&outside).unwrap(), ..Bundle::new() };
                copy_layout(&bundle);
                let bundle = bundle
                    .link("usr", &target)
                    .missing(missing)
                    .mount(PROC())
                    .mount(tmpfs(destination))
                    .mount(json!({"destination": format!("{destination}file"), "source": "outside/canary", "options": ["bind"]}));
                bundle.check(|| {
                    let new = |line: &&str| line.contains(" tmpfs tmpfs ") && line.split(' ').nth(3) == Some("/");
                    assert_eq!(mountinfo().lines().filter(new).count(), 1, "{}", mountinfo());
                });
            }
        }
        bundle.assert_outside_untouched();
    }
}

/// The same files as every bundle's, in a directory that the test chose.
fn copy_layout(bundle: &Bundle) {
    for name in ["rootfs/etc", "rootfs/usr", "rootfs/dev", "rootfs/proc", "rootfs/sys", "rootfs/tmp", "outside"] {
        fs::DirBuilder::new().recursive(true).create(bundle.directory.path().join(name)).unwrap();
    }
    fs::write(bundle.outside().join("canary"), "alive").unwrap();
}

fn destinations_that_are_files_or_fifos_are_refused() {
    let bundle = Bundle::new().mount(tmpfs("/etc/hosts"));
    assert!(bundle.refused().contains("cannot mount `tmpfs` at `/etc/hosts`"));
    let bundle = Bundle::new().mount(tmpfs("/etc/hosts/below"));
    let report = bundle.refused();
    assert!(report.contains("Not a directory"), "{report}");
    let bundle = Bundle::new();
    fifo(&bundle.rootfs().join("etc/fifo"));
    let bundle = bundle.mount(tmpfs("/etc/fifo"));
    let report = bundle.refused();
    assert!(report.contains("Not a directory"), "and did not wait for a writer: {report}");
    let directory = json!({"destination": "/etc", "source": "outside/canary", "options": ["bind"]});
    assert!(Bundle::new().mount(directory).refused().contains("cannot bind"));
    // A FIFO may be covered by a file.
    let bundle = Bundle::typical();
    fifo(&bundle.rootfs().join("etc/fifo"));
    let mount = json!({"destination": "/etc/fifo", "source": "outside/canary", "options": ["bind", "ro"]});
    bundle.mount(mount).check(|| assert_eq!(fs::read_to_string("/etc/fifo").unwrap(), "alive"));
}

/// CVE-2015-3629 and its like by way of /dev, /dev/pts, /dev/shm.
fn dev_that_leads_out_stays_inside() {
    for target in ["../outside", "/../../outside", "/usr", "/absent/deep"] {
        let mut bundle = Bundle::typical().link("dev", target);
        bundle.check(|| {
            assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
            assert!(fs::symlink_metadata("/dev").unwrap().is_symlink());
        });
        // No tmpfs over it: the devices go where the link leads, inside.
        bundle.spec["mounts"] = json!([PROC()]);
        bundle.spec["linux"]["maskedPaths"] = json!([]);
        bundle.spec["linux"]["readonlyPaths"] = json!([]);
        bundle.check(|| assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device()));
    }
    let bundle = Bundle::new();
    for name in ["pts", "shm", "mqueue"] {
        symlink("../../outside", bundle.rootfs().join("dev").join(name)).unwrap();
    }
    let bundle = bundle
        .mount(PROC())
        .mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]}))
        .mount(tmpfs("/dev/shm"));
    bundle.check(|| assert_eq!(mounted("/outside").kind, "tmpfs"));
    // A /dev inside /proc is no place for devices.
    let report = Bundle::new().link("dev", "/proc/sys").mount(PROC()).refused();
    assert!(report.contains("cannot make the device `/dev/null`"), "{report}");
}

/// CVE-2015-3630, CVE-2015-3631, CVE-2019-16884.
fn nothing_covers_proc() {
    let bind = |destination: &str| json!({"destination": destination, "source": "outside", "options": ["rbind"]});
    for (mount, reason) in [
        (bind("/proc"), "can be covered by a procfs only"),
        (bind("/./proc/"), "can be covered by a procfs only"),
        (bind("/x/../proc"), "can be covered by a procfs only"),
        (tmpfs("/proc"), "can be covered by a procfs only"),
        (tmpfs("/proc/sys"), "is inside /proc"),
        (bind("/proc/self/attr"), "is inside /proc"),
        (
            json!({"destination": "/proc/self/attr/current", "source": "outside/canary", "options": ["bind"]}),
            "is inside /proc",
        ),
        (json!({"destination": "/proc/keys", "source": "outside/canary", "options": ["bind"]}), "is inside /proc"),
        (json!({"destination": "/proc/new", "source": "outside/canary", "options": ["bind"]}), "/proc"),
    ] {
        for first in [vec![PROC()], vec![]] {
            let bundle = first.into_iter().fold(Bundle::new(), Bundle::mount).mount(mount.clone());
            let report = bundle.refused();
            assert!(report.contains(reason) || report.contains("No such file"), "{mount}: {report}");
        }
    }
}

fn lxcfs_files_may_cover_their_own() {
    let bundle = Bundle::typical();
    let mount = |name: &str| json!({"destination": name, "source": "outside/canary", "options": ["bind", "ro"]});
    bundle.mount(mount("/proc/meminfo")).mount(mount("/proc/uptime")).check(|| {
        assert_eq!(fs::read_to_string("/proc/meminfo").unwrap(), "alive");
        assert_eq!(fs::read_to_string("/proc/uptime").unwrap(), "alive");
    });
}

/// CVE-2019-16884, CVE-2023-28642: the way in by a link.
fn a_symlink_into_proc_is_no_mount_point() {
    for (target, destination) in [
        ("/proc", "/tmp"),
        ("/proc/self", "/tmp/attr"),
        ("proc/sys", "/tmp"),
        ("/proc", "/tmp/meminfo"),
        ("proc", "/tmp/new"),
    ] {
        for first in [vec![PROC()], vec![]] {
            let has_proc = !first.is_empty();
            let bundle =
                first.into_iter().fold(Bundle::new().link("tmp", target), Bundle::mount).mount(tmpfs(destination));
            match bundle.run(|| {}) {
                Err(report) if has_proc => {
                    assert!(
                        report.contains("leads into /proc")
                            || report.contains("No such file")
                            || report.contains("Not a directory"),
                        "{destination} -> {target}: {report}"
                    );
                }
                Err(report) => assert!(report.contains("/proc") || report.contains("leads"), "{report}"),
                // Without a procfs there is only a directory of that name; it is no trusted place for anyone.
                Ok(()) => assert!(!has_proc, "{destination} -> {target}"),
            }
            bundle.assert_outside_untouched();
        }
    }
    let report = Bundle::new().link("tmp", "/").mount(PROC()).mount(tmpfs("/tmp")).refused();
    assert!(report.contains("leads to the root"), "{report}");
}

fn a_bound_procfs_may_stand_for_proc() {
    let bundle = Bundle::new().mount(json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]}));
    bundle.check(|| assert!(Path::new("/proc/self/exe").symlink_metadata().is_ok()));
}

fn masked_and_read_only_paths_that_are_links_stay_inside() {
    let bundle = Bundle::typical().link("usr", "../../outside").link("tmp", "/etc");
    fs::create_dir(bundle.rootfs().join("outside")).unwrap();
    fs::write(bundle.rootfs().join("outside/canary"), "inside").unwrap();
    fifo(&bundle.rootfs().join("etc/fifo"));
    let bundle = bundle
        .linux("maskedPaths", json!(["/usr/canary", "/etc/fifo", "/proc/self/root", "/absent", "/etc/hosts/x"]))
        .linux("readonlyPaths", json!(["/tmp", "/usr/absent"]));
    let report = bundle.refused();
    assert!(report.contains("cannot mask `/proc/self/root`"), "a magic link leads anywhere: {report}");
    let bundle = bundle.linux("maskedPaths", json!(["/usr/canary", "/etc/fifo", "/absent", "/etc/hosts/x"]));
    bundle.check(|| {
        assert_eq!(fs::read("/outside/canary").unwrap(), b"");
        assert!(fs::metadata("/etc/fifo").unwrap().file_type().is_char_device());
        assert_eq!(errno(fs::write("/etc/hosts", "")), Some(30));
    });
}

/// CVE-2025-31133: a /dev/null that leads to a file of /proc would be bound in its place.
fn a_null_device_that_is_another_file_stops_the_start() {
    for target in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "../outside/canary", "zero"] {
        // What a race leaves: the devices were made, then the null device was swapped.
        let bundle = Bundle::typical();
        let steps = |plan: &mut RootfsPlan| {
            plan.prepare()?;
            let dev = plan.root()?.sub_root("dev")?;
            dev.remove_file("null")?;
            dev.symlink(target, "null")?;
            plan.enter()?;
            plan.seal()
        };
        let report = bundle.run_with(steps, || {}).unwrap_err();
        assert!(report.contains("null"), "{report}");
        let reasons = ["cannot be used", "is not the null device", "Too many levels of symbolic links"];
        assert!(reasons.iter().any(|reason| report.contains(reason)), "{report}");
        bundle.assert_outside_untouched();
    }
    let swapped = |plan: &mut RootfsPlan| {
        plan.prepare()?;
        let dev = plan.root()?.sub_root("dev")?;
        dev.remove_file("null")?;
        dev.mknod("null", FileType::CharacterDevice, 0o666.into(), rustix::fs::makedev(1, 5))?;
        plan.enter()?;
        plan.seal()
    };
    let report = Bundle::typical().run_with(swapped, || {}).unwrap_err();
    assert!(report.contains("is not the null device"), "the number decides: {report}");
}

/// CVE-2025-52565: a console that leads to a file of /proc would be bound over it.
fn a_console_that_is_a_link_is_refused() {
    for target in ["/proc/sys/kernel/core_pattern", "../outside/canary", "/absent"] {
        let bundle = Bundle::typical();
        let steps = |plan: &mut RootfsPlan| {
            plan.prepare()?;
            plan.root()?.symlink(target, "/dev/console")?;
            plan.enter()?;
            let main = fs::OpenOptions::new().read(true).write(true).open("/dev/pts/ptmx").unwrap();
            rustix::pty::unlockpt(&main).unwrap();
            let peer = rustix::pty::ioctl_tiocgptpeer(&main, rustix::pty::OpenptFlags::RDWR).unwrap();
            plan.mount_console(peer.as_fd())
        };
        let report = bundle.run_with(steps, || {}).unwrap_err();
        assert!(report.contains("`/dev/console` in the rootfs is a Symlink"), "{report}");
        bundle.assert_outside_untouched();
    }
}

/// CVE-2025-31133, CVE-2025-52881.
fn masks_of_directories_are_one_read_only_file_system() {
    Bundle::typical()
        .linux("maskedPaths", json!(["/sys/firmware", "/proc/scsi", "/proc/acpi", "/etc", "/etc/"]))
        .check(|| {
            for path in ["/sys/firmware", "/etc"] {
                assert!(mounted(path).has(&["ro"]));
                assert_eq!(errno(fs::write(format!("{path}/x"), "")), Some(30));
            }
            let device = |path| fs::metadata(path).unwrap().dev();
            assert_eq!(device("/sys/firmware"), device("/etc"));
            assert_eq!(mountinfo().lines().filter(|line| line.split(' ').nth(4) == Some("/etc")).count(), 1);
        });
}

/// CVE-2022-23648: VOLUME `/../../etc`.
fn destinations_with_dots_stay_inside() {
    let bundle = Bundle::typical()
        .mount(tmpfs("/../../../outside"))
        .mount(tmpfs("../../volume"))
        .mount(json!({"destination": "/usr/../../../../data", "source": "outside", "options": ["bind", "ro"]}));
    bundle.check(|| {
        assert_eq!((mounted("/outside").kind, mounted("/volume").kind), ("tmpfs".to_owned(), "tmpfs".to_owned()));
        assert!(mounted("/data").has(&["ro"]));
    });
}

/// A process that swaps two names of the rootfs until it is dropped.
struct Racer(OwnedFd);

impl Racer {
    fn start(first: &Path, second: &Path) -> Self {
        let single = SingleThreaded::check().unwrap();
        match clone(&single, &CloneRequest::default()).unwrap() {
            Side::Child => {
                while rustix::fs::renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE).is_ok() {}
                exit_now(0)
            }
            Side::Parent { pidfd, .. } => Self(pidfd),
        }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        // A test that failed takes its directory away, which ends the racer too.
        corten_sys::signal::pidfd_send_signal(self.0.as_fd(), 9).ok();
        wait(&self.0);
    }
}

/// CVE-2021-30465: a directory of a shared volume becomes a link between look-up and mount.
fn a_racing_directory_never_leads_outside() {
    let mut starts = 0;
    for missing in [&[][..], &[437], &[428, 429, 430]] {
        let bundle = Bundle::typical().missing(missing);
        let volume = bundle.rootfs().join("tmp/volume");
        fs::DirBuilder::new().recursive(true).create(volume.join("real/inner")).unwrap();
        symlink("../../../outside", volume.join("link")).unwrap();
        let bundle = bundle
            .mount(tmpfs("/tmp/volume/real/inner"))
            .mount(json!({"destination": "/tmp/volume/real/made", "source": "outside/canary", "options": ["bind"]}));
        let racer = Racer::start(&volume.join("real"), &volume.join("link"));
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            starts += 1;
            // Either the link was seen, which leads to the rootfs's own /outside, or the directory.
            if let Err(report) = bundle.run(|| {}) {
                assert!(report.contains("/tmp/volume/real"), "{report}");
            }
            bundle.assert_outside_untouched();
        }
        drop(racer);
    }
    println!("  {starts} starts");
}

/// CVE-2023-27561 with a racer: whatever is seen, what passes for /proc is one.
fn a_racing_proc_is_a_procfs_or_refused() {
    let mut outcomes = [0, 0];
    for missing in [&[][..], &[437, 428, 429, 430]] {
        let bundle = Bundle::typical().missing(missing);
        fs::create_dir(bundle.rootfs().join("fake")).unwrap();
        symlink("fake", bundle.rootfs().join("link")).unwrap();
        let racer = Racer::start(&bundle.rootfs().join("proc"), &bundle.rootfs().join("link"));
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            let outcome = bundle.run(|| {
                // The directory may have been renamed with the mount on it; the masks go with the mount.
                for path in ["/proc", "/link"] {
                    let is_procfs = rustix::fs::statfs(path).is_ok_and(|found| found.f_type == 0x9fa0);
                    assert!(!is_procfs || fs::read(format!("{path}/keys")).unwrap_or_default().is_empty());
                }
            });
            match outcome {
                Ok(()) => outcomes[0] += 1,
                Err(report) => {
                    assert!(report.contains("/proc"), "{report}");
                    outcomes[1] += 1;
                }
            }
            bundle.assert_outside_untouched();
        }
        drop(racer);
    }
    println!("  {} started, {} refused", outcomes[0], outcomes[1]);
    assert!(outcomes[0] > 0 && outcomes[1] > 0);
}

fn a_source_in_the_image_that_is_a_link_leads_inside() {
    let bundle = Bundle::typical().link("usr", "../outside");
    let source = bundle.rootfs().join("usr");
    let mount = json!({"destination": "/tmp", "source": source, "options": ["rbind"]});
    let mut bundle = bundle.mount(mount);
    assert!(bundle.refused().contains("No such file"), "the image has no such directory, whatever the host has");
    fs::create_dir(bundle.rootfs().join("outside")).unwrap();
    bundle.missing = vec![428];
    bundle.check(|| assert_eq!(fs::read_dir("/tmp").unwrap().count(), 0));
}

fn a_failed_start_leaves_no_mount_on_the_host() {
    use rustix::mount::{MountPropagationFlags as Flags, mount_change};
    corten_sys::namespace::unshare(NEWNS).unwrap();
    mount_change("/", Flags::DOWNSTREAM | Flags::REC).unwrap();
    mount_change("/", Flags::SHARED | Flags::REC).unwrap();
    let before = mountinfo();
    for word in ["rslave", "shared", "rshared", "private"] {
        let bundle = Bundle::typical().linux("rootfsPropagation", json!(word)).mount(tmpfs("/etc/hosts"));
        bundle.refused();
        assert_eq!(mountinfo(), before, "{word}");
    }
}
