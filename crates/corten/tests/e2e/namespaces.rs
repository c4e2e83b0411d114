//! --ipc, --pid, --uts, --cgroup-parent, --cgroupns, --volumes-from, --device and --gpus by CDI names, --annotation.

use std::time::Duration;

use corten_testkit::run::finish;
use corten_testkit::skip::{is_root, program};
use corten_testkit::{Sandbox, require};

use crate::sandbox;

fn inspect(sandbox: &Sandbox, name: &str, field: &str) -> String {
    sandbox.corten(["inspect", "--format", &format!("{{{{{field}}}}}"), name]).ok().text().to_owned()
}

#[test]
fn shared_memory_is_shared_with_whom_it_is_offered_to() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "an ordinary user's supervisors do not see each other's mounts");
    let tiny = sandbox.tiny();
    let line = ["run", "-d", "--name", "donor", "--ipc", "shareable", "--shm-size", "1m", &tiny];
    sandbox.corten(line.into_iter().chain(["sh", "-c", "echo shared >/dev/shm/note; exec sleep 600"])).ok();
    assert_eq!(inspect(&sandbox, "donor", ".HostConfig.IpcMode"), "shareable");
    let joins = |script: &str| sandbox.corten(["run", "--rm", "--ipc", "container:donor", &tiny, "sh", "-c", script]);
    joins("until test -s /dev/shm/note; do sleep 0.05; done; cat /dev/shm/note").ok().prints("shared");
    let of_donor = sandbox.corten(["exec", "donor", "readlink", "/proc/self/ns/ipc"]).ok().text().to_owned();
    joins("readlink /proc/self/ns/ipc").ok().prints(&of_donor);
    sandbox.corten(["run", "-d", "--name", "alone", &tiny, "sleep", "600"]).ok();
    sandbox
        .corten(["run", "--rm", "--ipc", "container:alone", &tiny, "true"])
        .code(125)
        .complains("does not share its IPC");
    sandbox.corten(["kill", "donor"]).ok();
    sandbox.corten(["wait", "donor"]).ok();
    joins("true").code(125).complains("cannot join IPC of a non running container");
    sandbox.corten(["run", "--rm", "--ipc", "container:nobody", &tiny, "true"]).code(125).complains("nobody");
    sandbox
        .corten(["run", "--rm", "--ipc", "none", &tiny, "sh", "-c", "test ! -e /dev/shm || ! touch /dev/shm/x"])
        .ok();
    let host = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    let shown = sandbox.corten(["run", "--rm", "--ipc", "host", &tiny, "readlink", "/proc/self/ns/ipc"]);
    shown.ok().prints(host.to_str().unwrap());
}

#[test]
fn processes_and_names_are_shared_where_that_is_asked() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "an ordinary user's containers here have no cgroup that would end them");
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "web", "-h", "webhost", &tiny, "sleep", "600"]).ok();
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; test $$ != 1 && echo joined";
    let joined = sandbox.corten(["run", "--rm", "--pid", "container:web", &tiny, "sh", "-c", script]);
    joined.ok().prints("sleep 600 joined");
    let host = std::fs::read_link("/proc/self/ns/pid").unwrap();
    sandbox
        .corten(["run", "--rm", "--pid", "host", &tiny, "readlink", "/proc/self/ns/pid"])
        .ok()
        .prints(host.to_str().unwrap());
    sandbox.corten(["run", "--rm", "--uts", "container:web", &tiny, "hostname"]).ok().prints("webhost");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    sandbox.corten(["run", "--rm", "--uts", "host", &tiny, "hostname"]).ok().prints(name.trim());
    sandbox.corten(["run", "--uts", "host", "-h", "x", &tiny, "true"]).code(125).complains("UTS mode");
    sandbox.corten(["run", "--pid", "sometimes", &tiny, "true"]).code(125).complains("--pid");
    sandbox.corten(["run", "--userns", "keep-id", &tiny, "true"]).code(125).complains("keep-id");
    // What a program leaves in the host's pid namespace ends with its container.
    sandbox.corten(["run", "-d", "--name", "left", "--pid", "host", &tiny, "sh", "-c", "sleep 601 & exit 0"]).ok();
    sandbox.corten(["wait", "left"]).ok().prints("0");
    sandbox.corten(["rm", "-f", "left", "web"]).ok();
}

#[test]
fn the_cgroup_lies_where_it_was_asked_and_is_seen_as_asked() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "no cgroup is delegated to an ordinary user here");
    let tiny = sandbox.tiny();
    let parent = sandbox.cgroup();
    let line = ["run", "--rm", "--cgroupns", "host", "--cgroup-parent", &parent, &tiny, "cat", "/proc/self/cgroup"];
    sandbox.corten(line).ok().shows(&format!("{parent}/"));
    sandbox.corten(["run", "--rm", "--cgroupns", "private", &tiny, "cat", "/proc/self/cgroup"]).ok().shows(":/\n");
}

#[test]
fn another_containers_mounts_come_along() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let (one, two) = (sandbox.directory("one"), sandbox.directory("two"));
    std::fs::write(one.join("file"), "first").unwrap();
    std::fs::write(two.join("file"), "second").unwrap();
    let bind = |directory: &std::path::Path, inside: &str| format!("{}:{inside}", directory.display());
    sandbox.corten(["create", "--name", "donor", "-v", &bind(&one, "/a"), "-v", &bind(&one, "/b"), &tiny, "true"]).ok();
    let from = ["run", "--name", "taker", "--volumes-from", "donor:ro", "-v", &bind(&two, "/b")];
    let script = "cat /a/file /b/file; touch /a/x 2>/dev/null || echo -read-only; touch /b/x && echo -writable";
    sandbox
        .corten(from.into_iter().chain([tiny.as_str(), "sh", "-c", script]))
        .ok()
        .prints("firstsecond-read-only\n-writable");
    assert_eq!(inspect(&sandbox, "taker", ".HostConfig.VolumesFrom"), "[donor:ro]");
    assert_eq!(inspect(&sandbox, "taker", ".HostConfig.Binds"), format!("[{}]", bind(&two, "/b")));
    assert_eq!(inspect(&sandbox, "taker", "len .Mounts"), "2");
    sandbox.corten(["run", "--volumes-from", "nobody", &tiny, "true"]).code(125).complains("nobody");
    sandbox.corten(["rm", "donor", "taker"]).ok();
}

#[test]
fn annotations_reach_the_runtime_and_inspect() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "-d", "--name", "noted", "--annotation", "a.b/c=d", &tiny, "sleep", "600"]).ok();
    assert_eq!(inspect(&sandbox, "noted", "index .HostConfig.Annotations \"a.b/c\""), "d");
    let id = inspect(&sandbox, "noted", ".Id");
    let config = std::fs::read_to_string(sandbox.run_root().join("containers").join(id).join("config.json")).unwrap();
    assert!(config.contains("\"a.b/c\":\"d\""), "{config}");
    sandbox.corten(["rm", "-f", "noted"]).ok();
}

#[test]
fn devices_come_by_their_cdi_names() {
    let mut sandbox = sandbox();
    require!(is_root() && !sandbox.is_rootless(), "needs root to have an /etc of its own");
    require!(program("unshare").is_some(), "needs `unshare`");
    let tiny = sandbox.tiny();
    let own = sandbox.directory("etc");
    let specification = r#"{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","containerEdits":{"env":["EVERY=1"]},
        "devices":[{"name":"all","containerEdits":{"env":["GPU=all"],
            "deviceNodes":[{"path":"/dev/gpu0","hostPath":"/dev/null"}],
            "mounts":[{"hostPath":"/etc/cdi","containerPath":"/vendor","options":["ro"]}]}}]}"#;
    std::fs::write(own.join("gpu.json"), specification).unwrap();
    let run = |flags: &[&str]| {
        let script = "echo $GPU $EVERY; echo x >/dev/gpu0 && ls /vendor";
        let corten =
            sandbox.corten_command(["run", "--rm"].iter().chain(flags).chain(&[tiny.as_str(), "sh", "-c", script]));
        let mut command = sandbox.command("unshare");
        let enter = format!(
            "d=$(mktemp -d) && mount -t tmpfs t $d && mkdir $d/u $d/w && mount -t overlay -o lowerdir=/etc,upperdir=$d/u,workdir=$d/w o /etc \
             && mkdir -p /etc/cdi && cp {}/gpu.json /etc/cdi/ && umount -l $d && rmdir $d && exec \"$@\"",
            own.display()
        );
        command.args(["--mount", "--propagation", "private", "sh", "-c", &enter, "sh"]);
        command.arg(corten.get_program()).args(corten.get_args());
        finish(command, None, Duration::from_secs(60))
    };
    run(&["--gpus", "all"]).ok().prints("all 1\ngpu.json");
    run(&["--device", "nvidia.com/gpu=all"]).ok().prints("all 1\ngpu.json");
    run(&["--device", "nvidia.com/gpu=7"]).code(125).complains("unresolvable CDI device `nvidia.com/gpu=7`");
}
