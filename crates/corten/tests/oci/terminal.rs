//! Terminals: handed over through a socket, or relayed.

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use super::*;

/// The next descriptor sent to the socket, and the text along with it.
pub(crate) fn receive(listener: &UnixListener) -> (String, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    let mut text = [0; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags).unwrap();
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let rustix::net::RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    assert_eq!(fds.len(), 1);
    (String::from_utf8_lossy(&text[..got.bytes]).into_owned(), fds.remove(0))
}

fn read_until(terminal: &OwnedFd, wanted: &str) -> String {
    let mut text = String::new();
    let mut file = File::from(terminal.as_fd().try_clone_to_owned().unwrap());
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        match file.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    assert!(text.contains(wanted), "{text:?}");
    text
}

#[test]
fn the_terminal_is_handed_over_through_the_socket() {
    let sandbox = sandbox();
    let mut bundle = script(&sandbox, "tty; read line; echo \"got $line\"; sleep 1000");
    bundle.process().terminal = true;
    bundle.process().console_size = Some(corten_types::runtime_spec::ConsoleSize { height: 33, width: 101 });
    bundle.write();
    let (path, listener) = sandbox.listen("console.sock");
    let words = ["create", "-b", bundle.directory.to_str().unwrap(), "--console-socket", path.to_str().unwrap(), "c"];
    detached(&sandbox, &words).ok();
    let (_, terminal) = receive(&listener);
    let size = rustix::termios::tcgetwinsize(&terminal).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 101));
    sandbox.runtime(["start", "c"]).ok();
    read_until(&terminal, "/dev/");
    File::from(terminal.as_fd().try_clone_to_owned().unwrap()).write_all(b"hello\n").unwrap();
    read_until(&terminal, "got hello");
    delete(&sandbox);
}

#[test]
fn an_exec_gets_a_terminal_of_its_own() {
    let sandbox = sandbox();
    start(&sandbox, &sleeper(&sandbox));
    let (path, listener) = sandbox.listen("console.sock");
    let words =
        ["exec", "--tty", "--detach", "--console-socket", path.to_str().unwrap(), "c", "sh", "-c", "tty; sleep 1000"];
    detached(&sandbox, &words).ok();
    let (_, terminal) = receive(&listener);
    read_until(&terminal, "/dev/pts/");
    delete(&sandbox);
}

#[test]
fn a_terminal_without_a_receiver_is_refused_and_leaves_nothing() {
    let sandbox = sandbox();
    let mut bundle = sleeper(&sandbox);
    bundle.process().terminal = true;
    bundle.write();
    let directory = bundle.directory.to_str().unwrap();
    for words in [&["create", "-b", directory, "c"][..], &["run", "--detach", "-b", directory, "c"]] {
        let refused = detached(&sandbox, words);
        assert!(refused.code == 1 && refused.text.contains("console socket"), "{}", refused.text);
        sandbox.runtime(["state", "c"]).code(1);
    }
    let socket = sandbox.work().join("x.sock");
    let refused = sandbox.runtime(["run", "-b", directory, "--console-socket", socket.to_str().unwrap(), "c"]);
    refused.code(1).complains("console socket");
}

#[test]
fn the_foreground_relays_its_terminal() {
    let sandbox = sandbox();
    let mut bundle = script(&sandbox, "tty >/dev/null && echo is-a-tty; read line; echo \"got $line\"; exit 9");
    bundle.process().terminal = true;
    bundle.write();
    let main = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&main).unwrap();
    rustix::pty::unlockpt(&main).unwrap();
    let name = rustix::pty::ptsname(&main, Vec::new()).unwrap();
    let side = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let before = rustix::termios::tcgetattr(&side).unwrap();
    let mut command = sandbox.runtime_command(["run", "-b", bundle.directory.to_str().unwrap(), "c"]);
    command.stdin(side.try_clone().unwrap()).stdout(side.try_clone().unwrap()).stderr(side.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    read_until(&main, "is-a-tty");
    File::from(main.try_clone().unwrap()).write_all(b"hello\n").unwrap();
    let text = read_until(&main, "got hello");
    assert!(!text.contains("\r\r"), "{text:?}");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let after = rustix::termios::tcgetattr(&side).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
}
