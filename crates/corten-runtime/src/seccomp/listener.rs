//! Handing the notify descriptor to a seccomp agent.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::Call;
use corten_types::{Context, Error, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};

/// Connects, sends `state` with the descriptor, closes: one state a connection, as the specification wants it.
pub(super) fn send(path: &Path, fd: BorrowedFd<'_>, state: &[u8]) -> Result<()> {
    // runc's words: tools look for them.
    deliver(path, fd, state).context(|| format!("failed to connect with seccomp agent at `{}`", path.display()))
}

fn deliver(path: &Path, fd: BorrowedFd<'_>, state: &[u8]) -> Result<()> {
    let address = match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        _ => SocketAddrUnix::new(path),
    };
    let address = address.map_err(|_| {
        Error::invalid(format!("`{}` is too long for a socket address", path.display()))
            .hint("set `linux.seccomp.listenerPath` to a path below 108 bytes")
    })?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX, SOCK_STREAM)")?;
    connect(&socket, &address).call(|| format!("connect(\"{}\")", path.display()))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut rest = state;
    while !rest.is_empty() {
        match sendmsg(&socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).call(|| format!("sendmsg(\"{}\")", path.display())),
        }
        // The descriptor goes with the first part alone.
        control.clear();
    }
    Ok(())
}
