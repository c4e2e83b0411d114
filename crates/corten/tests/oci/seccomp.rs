//! System call filters of whole containers, and the agent that answers for them.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;

use corten_sys::seccomp::{answer, receive};
use corten_types::runtime_spec::{Seccomp, SeccompRule};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

fn notifying(sandbox: &Sandbox, bundle: &mut Bundle, names: &[&str]) -> UnixListener {
    let (path, listener) = sandbox.listen("agent");
    let rule = SeccompRule {
        names: names.iter().map(ToString::to_string).collect(),
        action: "SCMP_ACT_NOTIFY".into(),
        ..SeccompRule::default()
    };
    bundle.linux().seccomp = Some(Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        listener_path: path.to_str().unwrap().into(),
        syscalls: vec![rule],
        ..Seccomp::default()
    });
    bundle.write();
    listener
}

/// The notify descriptor of the next connection.
fn accept(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut state = [0; 64];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut state)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut list) => list.next(),
        _ => None,
    });
    received.unwrap()
}

/// Lets every call run until the container is gone; how many there were.
fn let_run(listener: &UnixListener) -> usize {
    let notify = accept(listener);
    let calls = std::iter::from_fn(|| receive(notify.as_fd()).ok());
    calls.filter(|call| answer(notify.as_fd(), call.id, None).is_ok()).count()
}

#[test]
fn an_agent_may_answer_for_what_the_runtime_itself_calls() {
    for no_new_privileges in [true, false] {
        let sandbox = sandbox();
        let mut bundle = script(&sandbox, "echo fine");
        bundle.process().no_new_privileges = no_new_privileges;
        let names = ["execve", "openat", "open", "read", "close", "fcntl", "chdir", "capset", "sendmsg", "recvmsg"];
        let listener = notifying(&sandbox, &mut bundle, &names);
        let agent = thread::spawn(move || let_run(&listener));
        run(&sandbox, &bundle).ok().prints("fine");
        assert!(agent.join().unwrap() > 3);
    }
}

#[test]
fn a_container_that_waits_for_a_mute_agent_can_be_deleted() {
    let sandbox = sandbox();
    let mut bundle = script(&sandbox, "echo never");
    let listener = notifying(&sandbox, &mut bundle, &["recvmsg", "chdir"]);
    let mut command = sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut runtime = command.spawn().unwrap();
    let notify = accept(&listener);
    receive(notify.as_fd()).unwrap();
    runtime.kill().unwrap();
    runtime.wait().unwrap();
    delete(&sandbox);
    sandbox.runtime(["state", "c"]).code(1);
}
