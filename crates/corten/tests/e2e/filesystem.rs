//! -v, --mount, --tmpfs, --read-only, --rootfs: what a container sees and what it can change.

use corten_testkit::Image;

use crate::sandbox;

#[test]
fn the_writable_layer_is_the_containers_own() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox
        .corten(["run", "--rm", &tiny, "sh", "-c", "echo new >/etc/passwd; rm /bin/ls; cat /etc/passwd"])
        .ok()
        .prints("new");
    sandbox.corten(["run", "--rm", &tiny, "sh", "-c", "ls /bin/ls; head -n 1 /etc/passwd"]).ok().shows("root:x:0:0");
}

#[test]
fn a_read_only_root_refuses_writes() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--rm", "--read-only", &tiny, "touch", "/etc/x"]).code(1).complains("Read-only file system");
    sandbox.corten(["run", "--rm", "--read-only", "--tmpfs", "/tmp", &tiny, "touch", "/tmp/x"]).ok();
}

#[test]
fn folders_of_the_host_are_bound_in() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let folder = sandbox.work().join("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "from the host\n").unwrap();
    // Rootless, the container's root is the caller.
    std::os::unix::fs::chown(&folder, Some(sandbox.uid()), Some(sandbox.uid())).unwrap();
    let volume = format!("{}:/data", folder.display());
    sandbox
        .corten(["run", "--rm", "-v", &volume, &tiny, "sh", "-c", "cat /data/file; echo back >/data/made"])
        .ok()
        .prints("from the host");
    assert_eq!(std::fs::read_to_string(folder.join("made")).unwrap(), "back\n");
    let read_only = format!("{volume}:ro");
    sandbox
        .corten(["run", "--rm", "-v", &read_only, &tiny, "touch", "/data/x"])
        .code(1)
        .complains("Read-only file system");
    let mount = format!("type=bind,source={},target=/m,readonly", folder.display());
    sandbox
        .corten(["run", "--rm", "--mount", &mount, &tiny, "sh", "-c", "cat /m/file; touch /m/x"])
        .code(1)
        .prints("from the host");
    let missing = format!("type=bind,source={}/missing,target=/m", folder.display());
    sandbox.corten(["run", "--rm", "--mount", &missing, &tiny, "true"]).code(125).complains("missing");
    sandbox
        .corten(["run", "--rm", "-v", &format!("{}:/f:ro", folder.join("file").display()), &tiny, "cat", "/f"])
        .ok()
        .prints("from the host");
}

#[test]
fn a_bind_over_proc_is_refused() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let volume = format!("{}:/proc", sandbox.work().display());
    sandbox.corten(["run", "--rm", "-v", &volume, &tiny, "true"]).code(125).complains("/proc");
}

#[test]
fn tmpfs_has_the_options_that_were_asked_for() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let shown = sandbox.corten([
        "run",
        "--rm",
        "--tmpfs",
        "/t:size=1m,mode=700",
        &tiny,
        "sh",
        "-c",
        "grep ' /t ' /proc/mounts; stat -c %a /t",
    ]);
    shown.ok().shows("tmpfs").shows("size=1024k").shows("noexec").shows("nosuid").shows("\n700");
    let mount = "type=tmpfs,destination=/t,tmpfs-size=2097152,tmpfs-mode=1770";
    sandbox
        .corten(["run", "--rm", "--mount", mount, &tiny, "sh", "-c", "grep ' /t ' /proc/mounts; stat -c %a /t"])
        .ok()
        .shows("size=2048k")
        .shows("\n1770");
}

#[test]
fn a_root_directory_is_used_as_it_is() {
    let sandbox = sandbox();
    let root = sandbox.work().join("rootfs");
    Image::tiny().unpack(&root);
    sandbox.command("true").status().unwrap();
    let mut chown = std::process::Command::new("chown");
    chown.args(["-R", "-h", &sandbox.uid().to_string()]).arg(&root).status().unwrap();
    let root = root.to_str().unwrap();
    sandbox.corten(["run", "--rm", "--rootfs", root, "sh", "-c", "echo kept >/kept; id -u"]).ok().prints("0");
    assert_eq!(std::fs::read_to_string(sandbox.work().join("rootfs/kept")).unwrap(), "kept\n");
}

#[test]
fn proc_sys_and_dev_are_fresh_and_masked() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let script = "for f in kcore keys timer_list; do [ ! -e /proc/$f ] || cat /proc/$f; done; echo masked; ls /sys/firmware | wc -l; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo refused; \
                  for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; readlink /dev/stdin; ls /dev/pts/ptmx; \
                  stat -c %a /dev/shm";
    let shown = sandbox.corten(["run", "--rm", &tiny, "sh", "-c", script]);
    shown.ok().prints("masked\n0\nrefused\n/proc/self/fd/0\n/dev/pts/ptmx\n1777");
}
