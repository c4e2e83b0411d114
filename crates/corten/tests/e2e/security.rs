//! Capabilities, --privileged, --security-opt: docker's defaults and what changes them.

use corten_testkit::run::rounds;
use corten_testkit::tar::Entry;
use corten_testkit::{Finished, Image, Sandbox, require};

use crate::sandbox;

fn status(sandbox: &Sandbox, tiny: &str, flags: &[&str]) -> Finished {
    let args = ["run", "--rm"].iter().chain(flags).copied();
    sandbox.corten(args.chain([tiny, "grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status"]))
}

#[test]
fn capabilities_are_dockers_and_can_be_changed() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let shown = status(&sandbox, &tiny, &[]);
    shown.ok().shows("CapPrm:\t00000000a80425fb").shows("CapEff:\t00000000a80425fb").shows("CapBnd:\t00000000a80425fb");
    shown.shows("CapInh:\t0000000000000000").shows("CapAmb:\t0000000000000000");
    status(&sandbox, &tiny, &["--cap-drop", "ALL"]).ok().shows("CapBnd:\t0000000000000000");
    status(&sandbox, &tiny, &["--cap-drop=ALL", "--cap-add=NET_ADMIN", "--cap-add=cap_chown"])
        .ok()
        .shows("CapEff:\t0000000000001001");
    status(&sandbox, &tiny, &["--cap-add", "FLYING"]).code(125).complains("FLYING");
}

#[test]
fn a_system_call_filter_is_in_force_by_default() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    status(&sandbox, &tiny, &[]).ok().shows("Seccomp:\t2").shows("NoNewPrivs:\t0");
    status(&sandbox, &tiny, &["--security-opt", "seccomp=unconfined"]).ok().shows("Seccomp:\t0");
    status(&sandbox, &tiny, &["--security-opt", "no-new-privileges"]).ok().shows("NoNewPrivs:\t1");
    sandbox.corten(["run", "--rm", &tiny, "unshare", "-U", "true"]).code(1);
    status(&sandbox, &tiny, &["--security-opt", "seccomp=/no/such/profile.json"])
        .code(125)
        .complains("/no/such/profile.json");
    status(&sandbox, &tiny, &["--security-opt", "wishes=many"]).code(125).complains("wishes");
}

#[test]
fn a_profile_of_the_users_own_decides() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let profile = sandbox.work().join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#).unwrap();
    let option = format!("seccomp={}", profile.display());
    sandbox
        .corten(["run", "--rm", "--security-opt", &option, &tiny, "mkdir", "/x"])
        .code(1)
        .complains("No space left on device");
}

#[test]
fn a_privileged_container_has_everything_of_its_caller() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let shown = status(&sandbox, &tiny, &["--privileged"]);
    shown.ok().shows("Seccomp:\t0");
    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    let all = if sandbox.is_rootless() { (1u64 << (last + 1)) - 1 } else { own_bounding_set() };
    shown.shows(&format!("CapEff:\t{all:016x}"));
    sandbox
        .corten([
            "run",
            "--rm",
            "--privileged",
            &tiny,
            "sh",
            "-c",
            "mount -t tmpfs none /tmp && grep -c ' /tmp tmpfs' /proc/mounts",
        ])
        .ok()
        .prints("1");
}

fn own_bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap()
}

#[test]
fn nothing_of_the_host_is_open_inside() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox
        .corten([
            "run",
            "--rm",
            &tiny,
            "sh",
            "-c",
            "for f in /proc/1/fd/*; do n=${f##*/}; [ $n -gt 2 ] && readlink $f; done; true",
        ])
        .ok()
        .prints("");
}

/// CVE-2024-21626, in every place that names a working directory.
#[test]
fn a_descriptor_is_no_working_directory() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "box", &tiny, "sleep", "600"]).ok();
    // `CORTEN_TEST_ROUNDS=62` tries every number from 3 to 64.
    for number in (3..=64).step_by(62_usize.div_ceil(rounds(10))) {
        let folder = format!("/proc/self/fd/{number}");
        let shows = ["cat", "/proc/self/cwd/../../../../etc/hostname"];
        sandbox.corten(["run", "--rm", "-w", &folder, &tiny].iter().chain(&shows)).code(125).prints("");
        let entered = sandbox.corten(["exec", "-w", &folder, "box"].iter().chain(&shows));
        assert!(entered.code != 0 && entered.stdout.is_empty(), "{}", entered.transcript());
    }
    sandbox.corten(["rm", "-f", "box"]).ok();
    for number in (3..=64).step_by(62_usize.div_ceil(rounds(3))) {
        let image = Image::tiny().config("WorkingDir", format!("/proc/self/fd/{number}").into());
        let source = image.write_layout(&sandbox.work().join("layout"));
        sandbox.corten(["run", "--rm", &source, "cat", "/proc/self/cwd/etc/hostname"]).code(125).prints("");
    }
}

/// CVE-2022-1227: what lists processes runs nothing of the image.
#[test]
fn top_runs_nothing_of_the_image() {
    let sandbox = sandbox();
    let programs = ["bin/ps", "bin/nsenter", "usr/bin/ps", "usr/bin/nsenter", "usr/local/bin/ps", "sbin/nsenter"];
    let trap = programs.map(|name| Entry::file(name, 0o755, "#!/bin/sh\necho ran >>/ran\n"));
    let folders = ["usr", "usr/bin", "usr/local", "usr/local/bin", "sbin"].map(|name| Entry::directory(name, 0o755));
    let image = Image::tiny().layer(folders.into_iter().chain(trap).collect());
    let source = image.write_layout(&sandbox.work().join("layout"));
    sandbox.corten(["run", "-d", "--name", "box", &source, "sleep", "600"]).ok();
    sandbox.corten(["top", "box", "-o", "pid,args"]).ok().shows("sleep 600");
    sandbox.corten(["top", "box", "-o", "pid,comm"]).ok().shows("sleep");
    sandbox.corten(["exec", "box", "cat", "/ran"]).code(1).complains("No such file");
    sandbox.corten(["rm", "-f", "box"]).ok();
}

#[test]
fn an_ordinary_user_can_read_nothing_of_roots_containers() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "needs root, whose state it is");
    let tiny = sandbox.tiny();
    // Whatever the caller's umask.
    let line = corten_testkit::run::shown(
        &sandbox.corten_command(["run", "-d", "--name", "secret", "-e", "KEY=1", &tiny, "sleep", "60"]),
    );
    sandbox.command("sh").args(["-c", &format!("umask 0; {line}")]).status().unwrap();
    let mut find = std::process::Command::new("find");
    std::os::unix::process::CommandExt::uid(&mut find, corten_testkit::sandbox::ORDINARY_UID);
    find.arg(sandbox.root()).arg(sandbox.run_root()).args([
        "(",
        "-readable",
        "-o",
        "-writable",
        ")",
        "-mindepth",
        "1",
        "-print",
    ]);
    let seen = corten_testkit::run::finish(find, None, std::time::Duration::from_secs(20));
    assert_eq!(seen.stdout, "", "{}", seen.transcript());
    sandbox.corten(["rm", "-f", "secret"]).ok();
}
