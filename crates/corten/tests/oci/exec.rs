//! One more process in a running container.

use super::*;

#[test]
fn output_and_exit_code_come_back() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    sandbox.runtime(["exec", "c", "sh", "-c", "echo out; echo err >&2; exit 5"]).code(5).prints("out").complains("err");
    sandbox.runtime(["exec", "c", "sh", "-c", "kill -9 $$"]).code(137);
    sandbox.runtime(["exec", "c", "no-such-program"]).code(255).complains("no-such-program");
    sandbox.runtime(["exec", "c"]).code(255).complains("exec args cannot be empty");
    delete(&sandbox);
}

#[test]
fn it_shares_the_containers_namespaces_and_cgroup() {
    let sandbox = sandbox();
    let bundle = sleeper(&sandbox);
    start(&sandbox, &bundle);
    let pid = state(&sandbox)["pid"].to_string();
    let inside =
        sandbox.runtime(["exec", "c", "sh", "-c", "for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done"]);
    let expected: Vec<String> = ["pid", "net", "ipc", "uts", "mnt"]
        .iter()
        .map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string())
        .collect();
    inside.ok().prints(&expected.join("\n"));
    let file = sandbox.work().join("pid");
    detached(&sandbox, &["exec", "--detach", "--pid-file", file.to_str().unwrap(), "c", "sleep", "1000"]).ok();
    let second = std::fs::read_to_string(file).unwrap();
    let cgroup = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(&second), cgroup(&pid));
    delete(&sandbox);
}

#[test]
fn flags_change_the_process() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    sandbox.runtime(["exec", "--cwd", "/tmp", "c", "pwd"]).ok().prints("/tmp");
    sandbox.runtime(["exec", "-e", "A=1", "--env=B=2,3", "c", "sh", "-c", "echo $A $B"]).ok().prints("1 2,3");
    if !sandbox.is_rootless() {
        let ids =
            sandbox.runtime(["exec", "-u", "1000:50", "-g", "7", "-g", "8", "c", "sh", "-c", "id -u; id -g; id -G"]);
        ids.ok().prints("1000\n50\n50 7 8");
        sandbox.runtime(["exec", "-u", "4294967295", "c", "id", "-u"]).code(255).complains("bad uid");
        sandbox.runtime(["exec", "-u", "root", "c", "id", "-u"]).code(255).complains("bad uid");
    }
    let capabilities = |args: &[&str]| {
        let words = ["exec"].iter().chain(args).chain(&["c", "grep", "CapBnd", "/proc/self/status"]);
        let text = sandbox.runtime(words).ok().text().to_owned();
        u64::from_str_radix(text.split_whitespace().last().unwrap(), 16).unwrap()
    };
    assert_eq!(capabilities(&[]), 1 << 29 | 1 << 10 | 1 << 5);
    if !sandbox.is_rootless() {
        assert_eq!(capabilities(&["--cap", "CAP_SYS_CHROOT"]), 1 << 29 | 1 << 18 | 1 << 10 | 1 << 5);
        sandbox.runtime(["exec", "--cap", "CAP_MOON", "c", "true"]).ok().complains("CAP_MOON");
    }
    delete(&sandbox);
}

#[test]
fn the_inheritable_and_ambient_sets_are_empty() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    let zero = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000";
    sandbox.runtime(["exec", "c", "grep", "-E", "CapInh|CapAmb", "/proc/self/status"]).ok().prints(zero);
    sandbox.runtime(["exec", "c", "grep", "-E", "CapInh|CapAmb", "/proc/1/status"]).ok().prints(zero);
    delete(&sandbox);
}

#[test]
fn a_process_document_says_everything() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    let path = sandbox.work().join("process.json");
    let document = serde_json::json!({
        "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "echo $X in $PWD; exit 4"],
        "env": ["PATH=/bin:/usr/bin", "X=here"], "cwd": "/etc",
    });
    std::fs::write(&path, document.to_string()).unwrap();
    sandbox.runtime(["exec", "--process", path.to_str().unwrap(), "c"]).code(4).prints("here in /etc");
    std::fs::write(&path, r#"{"user":{"uid":"x"},"args":["true"],"cwd":"/"}"#).unwrap();
    sandbox.runtime(["exec", "-p", path.to_str().unwrap(), "c"]).code(255).complains("user.uid");
    delete(&sandbox);
}

#[test]
fn a_paused_container_takes_no_process_unless_asked() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    start(&sandbox, &sleeper(&sandbox));
    sandbox.runtime(["pause", "c"]).ok();
    assert_eq!(state(&sandbox)["status"], "paused");
    sandbox.runtime(["exec", "c", "true"]).code(255).complains("paused");
    let mut child = sandbox.runtime_command(["exec", "--ignore-paused", "c", "true"]);
    let mut child = child.stdin(Stdio::null()).spawn().unwrap();
    sandbox.runtime(["resume", "c"]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(state(&sandbox)["status"], "running");
    delete(&sandbox);
}

#[test]
fn preserved_descriptors_arrive_and_no_other() {
    let sandbox = sandbox();
    let file = sandbox.work().join("kept");
    std::fs::write(&file, "kept\n").unwrap();
    start(&sandbox, &sleeper(&sandbox));
    // Whatever the tests themselves were given is closed.
    let exec = "exec 3<\"$1\" 4</etc/hostname 5<&- 6<&- 7<&- 8<&- 9<&-; shift; exec \"$@\"";
    let words = |count: &str, script: &str| {
        let runtime = sandbox.runtime_command(["exec", "--preserve-fds", count, "c", "sh", "-c", script]);
        let mut command = sandbox.command("sh");
        command.args(["-c", exec, "sh"]).arg(&file).arg(runtime.get_program()).args(runtime.get_args());
        corten_testkit::run::finish(command, None, LIMIT)
    };
    // The one beyond the kept is what `ls` itself reads the directory by.
    words("1", "cat <&3; ls /proc/self/fd | grep -c '^[4-9]'").prints("kept\n1");
    words("7", "true").code(255).complains("descriptor");
    delete(&sandbox);
}

#[test]
fn the_pidfd_arrives_at_the_socket() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    let (path, listener) = sandbox.listen("pidfd.sock");
    let words = ["exec", "--detach", "--pidfd-socket", path.to_str().unwrap(), "c", "sleep", "1000"];
    detached(&sandbox, &words).ok();
    let (label, fd) = terminal::receive(&listener);
    assert_eq!(label, "setns");
    rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL).unwrap();
    let gone = corten_testkit::run::eventually(LIMIT, || {
        rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL).is_err()
    });
    assert!(gone);
    delete(&sandbox);
}

#[test]
fn it_follows_the_first_process_to_the_cgroup_that_this_went_to() {
    let sandbox = sandbox();
    corten_testkit::require!(!sandbox.is_rootless(), "needs a cgroup");
    corten_testkit::require!(corten_testkit::skip::has_cgroup_v2_only(), "on cgroup v1 every exec names its cgroup");
    let path = format!("{}/other", sandbox.cgroup());
    let mut bundle =
        script(&sandbox, &format!("echo 1 >/sys/fs/cgroup{path}/cgroup.procs && touch /out/moved; sleep 1000"));
    let out = sandbox.directory("out");
    bundle.mount("/out", "bind", out.to_str().unwrap(), &["bind", "rw"]);
    for mount in bundle.spec.mounts.iter_mut().filter(|mount| mount.kind == "cgroup") {
        mount.options.retain(|option| option != "ro");
    }
    bundle.share(corten_types::runtime_spec::NamespaceKind::Cgroup);
    bundle.write();
    detached(&sandbox, &["create", "-b", bundle.directory.to_str().unwrap(), "c"]).ok();
    let other = format!("/sys/fs/cgroup{path}");
    std::fs::create_dir(&other).unwrap();
    sandbox.runtime(["start", "c"]).ok();
    assert!(corten_testkit::run::eventually(LIMIT, || out.join("moved").exists()));
    std::fs::remove_dir(format!("/sys/fs/cgroup{}/box", sandbox.cgroup())).unwrap();
    sandbox.runtime(["exec", "c", "cat", "/proc/self/cgroup"]).ok().prints(&format!("0::{path}"));
    delete(&sandbox);
    assert!(corten_testkit::run::eventually(LIMIT, || std::fs::remove_dir(&other).is_ok()));
}
