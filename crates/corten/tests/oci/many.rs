//! Attacks and cycles that only many tries show. An ordinary run tries some; `CORTEN_TEST_ROUNDS=10000` tries that many.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use corten_testkit::run::{eventually, rounds};
use corten_types::runtime_spec::NamespaceKind;
use rustix::fs::{CWD, RenameFlags};

use super::*;

/// A bundle whose program finds itself in the pid namespace of the container `c`.
fn beside(sandbox: &Sandbox, args: &[&str]) -> Bundle {
    let pid = state(sandbox)["pid"].to_string();
    let mut bundle = sandbox.bundle(args.iter().copied());
    bundle.linux().cgroups_path.push_str("-second");
    for namespace in bundle.linux().namespaces.iter_mut().filter(|entry| entry.kind == NamespaceKind::Pid) {
        namespace.path = format!("/proc/{pid}/ns/pid");
    }
    bundle.write();
    bundle
}

/// CVE-2016-9962: a process of the container looks at the runtime's while they enter it.
#[test]
fn a_container_that_watches_every_process_sees_no_descriptor_of_the_hosts() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "joins the namespace of another container");
    let out = sandbox.directory("out");
    // Descriptor 7 shows that the watcher sees anything at all.
    let mut watcher = script(
        &sandbox,
        "exec 7</etc/group; while :; do ls -l /proc/[0-9]*/fd/ 2>/dev/null | grep -e '-> ' \
         | grep -v -e ' [012] -> ' >>/out/seen; done",
    );
    watcher.mount("/out", "bind", out.to_str().unwrap(), &["bind", "rw"]);
    watcher.write();
    start(&sandbox, &watcher);
    let seen = || std::fs::read_to_string(out.join("seen")).unwrap_or_default();
    assert!(eventually(LIMIT, || seen().contains(" 7 -> /etc/group")), "the watcher sees nothing");
    let second = beside(&sandbox, &["true"]);
    for round in 0..rounds(24) {
        sandbox.runtime(["exec", "c", "true"]).ok();
        if round % 4 == 0 {
            sandbox.runtime(["run", "-b", second.directory.to_str().unwrap(), "second"]).ok();
        }
    }
    delete(&sandbox);
    let text = seen();
    let targets: BTreeSet<&str> = text.lines().filter_map(|line| line.split_once(" -> ")).map(|line| line.1).collect();
    // What the watcher's own programs open: what they list, the pipes between them, libraries, the output they were given.
    let output = sandbox.work().join("output").display().to_string();
    let own = ["/etc/", "/proc/", "/out/seen", "pipe:[", "/lib", "/usr/", "/bin/", &output];
    let others: Vec<&&str> =
        targets.iter().filter(|target| !own.iter().any(|known| target.starts_with(known))).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// CVE-2019-5736: a process of the container writes to whatever program enters it.
#[test]
fn a_container_that_writes_to_every_program_changes_none() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "joins the namespace of another container");
    let binary = Path::new(env!("CARGO_BIN_EXE_corten"));
    let before = std::fs::read(binary).unwrap();
    let text = "while :; do for p in /proc/[0-9]*; do (echo owned >>$p/exe) 2>/dev/null; done; done";
    start(&sandbox, &script(&sandbox, text));
    let (plain, trick) = (beside(&sandbox, &["true"]), beside(&sandbox, &["/entry"]));
    let entry = trick.rootfs().join("entry");
    std::fs::write(&entry, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&entry, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for round in 0..rounds(16) {
        sandbox.runtime(["exec", "c", "true"]).ok();
        let bundle = if round % 2 == 0 { &plain } else { &trick };
        let ran = sandbox.runtime(["run", "-b", bundle.directory.to_str().unwrap(), "second"]);
        assert_eq!(ran.code == 0, round % 2 == 0, "{}", ran.transcript());
    }
    delete(&sandbox);
    assert!(std::fs::read(binary).unwrap() == before, "the binary changed");
}

/// CVE-2021-30465: a directory of a shared volume becomes a link between look-up and mount.
#[test]
fn a_volume_that_changes_during_every_start_leads_nowhere_else() {
    let sandbox = sandbox();
    let (volume, canary) = (sandbox.directory("volume"), sandbox.directory("canary"));
    std::fs::create_dir_all(volume.join("real/inner")).unwrap();
    std::os::unix::fs::symlink(&canary, volume.join("link")).unwrap();
    std::fs::write(canary.join("file"), "mine").unwrap();
    sandbox.give(&volume);
    let mut bundle = script(&sandbox, "true");
    bundle.mount("/volume", "bind", volume.to_str().unwrap(), &["rbind", "rw"]);
    bundle.mount("/volume/real/inner", "tmpfs", "tmpfs", &[]);
    bundle.mount("/volume/real/made/deep", "tmpfs", "tmpfs", &[]);
    bundle.mount("/volume/real/file", "bind", "/etc/passwd", &["bind", "ro"]);
    bundle.write();
    let written = std::fs::metadata(&canary).unwrap().modified().unwrap();
    let done = AtomicBool::new(false);
    let (mut started, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (first, second) = (volume.join("real"), volume.join("link"));
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &first, CWD, &second, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..rounds(24) {
            let ran = run(&sandbox, &bundle);
            *(if ran.code == 0 { &mut started } else { &mut refused }) += 1;
            if ran.code != 0 && !ran.stderr.contains("/volume/real") {
                done.store(true, Ordering::Relaxed);
                panic!("refused for another reason: {}", ran.transcript());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{started} started, {refused} refused");
    let names: Vec<_> = std::fs::read_dir(&canary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "mine");
    assert_eq!(std::fs::metadata(&canary).unwrap().modified().unwrap(), written);
}

/// The sandbox counts mounts, cgroups, interfaces, processes, descriptors and files at its end.
#[test]
fn many_lives_leave_nothing_behind() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    let directory = bundle.directory.to_str().unwrap();
    for round in 0..rounds(16) {
        detached(&sandbox, &["create", "-b", directory, "c"]).ok();
        sandbox.runtime(["start", "c"]).ok();
        if round % 2 == 0 {
            sandbox.runtime(["kill", "c", "KILL"]).ok();
            wait_for_status(&sandbox, "stopped");
            sandbox.runtime(["delete", "c"]).ok();
        } else {
            delete(&sandbox);
        }
    }
    sandbox.runtime(["list", "-q"]).ok().prints("");
}
