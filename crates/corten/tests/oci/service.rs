//! A service manager as the caller: readiness comes out of the container, sockets go in.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::*;

/// The manager's socket, to which the identity may write.
fn manager(sandbox: &Sandbox) -> (PathBuf, UnixDatagram) {
    let path = sandbox.work().join("manager.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    sandbox.give(&path);
    (path, socket)
}

/// Says from inside the container of process `pid`, as sd_notify(3) does, that it is ready.
fn say_ready(pid: &str) {
    let inside = PathBuf::from(format!("/proc/{pid}/root/run/notify/notify.sock"));
    let socket = UnixDatagram::unbound().unwrap();
    let said = corten_testkit::run::eventually(LIMIT, || socket.send_to(b"STATUS=up\nREADY=1\n", &inside).is_ok());
    assert!(said, "no socket at {}", inside.display());
}

fn next(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// What the manager heard in order, and that the command ended once the manager had let go of the barrier.
fn hears(socket: &UnixDatagram, pid: &str) {
    assert_eq!(next(socket), "READY=1\n");
    assert_eq!(next(socket), format!("MAINPID={pid}\n"));
    // A datagram's descriptors are closed with it when nobody takes them.
    assert_eq!(next(socket), "BARRIER=1");
}

fn pid_from(path: &Path) -> String {
    let read = || std::fs::read_to_string(path).ok();
    assert!(corten_testkit::run::eventually(LIMIT, || read().is_some()));
    read().unwrap()
}

fn bundle(sandbox: &Sandbox) -> Bundle {
    let bundle = script(sandbox, "test \"$NOTIFY_SOCKET\" = /run/notify/notify.sock && exec sleep 1000");
    std::fs::create_dir_all(bundle.rootfs().join("run")).unwrap();
    sandbox.give(&bundle.rootfs().join("run"));
    bundle
}

#[test]
fn readiness_of_a_started_container_reaches_the_manager() {
    let sandbox = sandbox();
    let bundle = bundle(&sandbox);
    let (path, socket) = manager(&sandbox);
    let file = sandbox.work().join("pid");
    let directory = bundle.directory.to_str().unwrap();
    let words = ["create", "-b", directory, "--pid-file", file.to_str().unwrap(), "c"];
    let mut create = sandbox.runtime_command(words);
    create.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    let pid = pid_from(&file);
    let mut start = sandbox.runtime_command(["start", "c"]);
    let mut start = start.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).spawn().unwrap();
    say_ready(&pid);
    hears(&socket, &pid);
    assert!(start.wait().unwrap().success());
    delete(&sandbox);
}

#[test]
fn a_detached_run_returns_when_its_program_is_ready_or_gone() {
    let sandbox = sandbox();
    let bundle = bundle(&sandbox);
    let (path, socket) = manager(&sandbox);
    let file = sandbox.work().join("pid");
    let words = ["run", "-d", "-b", bundle.directory.to_str().unwrap(), "--pid-file", file.to_str().unwrap(), "c"];
    let mut run = sandbox.runtime_command(words);
    run.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = run.spawn().unwrap();
    let pid = pid_from(&file);
    say_ready(&pid);
    hears(&socket, &pid);
    assert!(child.wait().unwrap().success());
    delete(&sandbox);
    // One that ends without a word does not keep the command.
    let mut bundle = bundle;
    bundle.process().args = ["sh", "-c", "exit 3"].map(str::to_owned).to_vec();
    bundle.write();
    assert!(run.status().unwrap().success());
    delete(&sandbox);
}

#[test]
fn in_the_foreground_the_runtime_itself_is_the_process_to_watch() {
    let sandbox = sandbox();
    let bundle = bundle(&sandbox);
    let (path, socket) = manager(&sandbox);
    let file = sandbox.work().join("pid");
    let words = ["run", "-b", bundle.directory.to_str().unwrap(), "--pid-file", file.to_str().unwrap(), "c"];
    let mut run = sandbox.runtime_command(words);
    let mut child = run.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).spawn().unwrap();
    say_ready(&pid_from(&file));
    assert_eq!(next(&socket), "READY=1\n");
    assert_eq!(next(&socket), format!("MAINPID={}\n", child.id()));
    sandbox.runtime(["kill", "c", "KILL"]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn a_manager_that_is_not_there_is_named() {
    let sandbox = sandbox();
    let bundle = bundle(&sandbox);
    let mut command = sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]);
    command.env("NOTIFY_SOCKET", "/no/such/manager");
    corten_testkit::run::finish(command, None, LIMIT).code(1).complains("NOTIFY_SOCKET").complains("/no/such/manager");
    sandbox.runtime(["state", "c"]).code(1);
    // One whose configuration is refused leaves no directory either.
    let (path, _socket) = manager(&sandbox);
    bundle.write_raw(b"{}");
    let mut command = sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]);
    command.env("NOTIFY_SOCKET", path);
    corten_testkit::run::finish(command, None, LIMIT).code(1).complains("ociVersion");
    sandbox.runtime(["state", "c"]).code(1);
}

#[test]
fn a_managers_sockets_are_the_programs_first_descriptors() {
    let sandbox = sandbox();
    let bundle = script(&sandbox, "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4");
    let (one, two) = (sandbox.work().join("one"), sandbox.work().join("two"));
    std::fs::write(&one, "first\n").unwrap();
    std::fs::write(&two, "second\n").unwrap();
    let runtime =
        sandbox.runtime_command(["run", "--preserve-fds", "1", "-b", bundle.directory.to_str().unwrap(), "c"]);
    let launch = |pid: &str| {
        let mut command = sandbox.command("sh");
        let script = format!("exec 3<\"$1\" 4<\"$2\"; shift 2; LISTEN_FDS=1 LISTEN_PID={pid} exec \"$@\"");
        command.args(["-c", &script, "sh"]).args([&one, &two]).arg(runtime.get_program()).args(runtime.get_args());
        corten_testkit::run::finish(command, None, LIMIT)
    };
    launch("$$").ok().prints("1 1\nfirst\nsecond");
    // What was meant for another process is not passed on.
    let other = launch("1");
    assert!(other.stdout.starts_with("\nfirst"), "{}", other.transcript());
}
