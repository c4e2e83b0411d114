//! criu's protocol: one protobuf message a packet over a socket pair, with `criu swrk` on the other side.
//!
//! Encoded by hand: a dozen scalar fields do not want a code generator.

use std::ffi::CString;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::clone::{CloneRequest, Side, clone, exit_now};
use corten_sys::{Call, namespace};
use corten_types::{Error, ErrorKind, Result};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use rustix::process::Pid;

/// Largest packet that criu sends, bytes.
const PACKET_SIZE_BYTES_MAX: usize = 40 * 1024;

/// What criu is asked for (`criu_req_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Saves the processes.
    Dump = 1,
    /// Brings them back.
    Restore = 2,
    /// Saves memory only.
    PreDump = 4,
}

const NOTIFY: u64 = 6;

/// A protobuf message under construction.
#[derive(Debug, Default, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A number or a truth value.
    pub(super) fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    /// A switch; `false` is the default of every one and is left out.
    pub(super) fn switch(&mut self, field: u32, on: bool) {
        if on {
            self.number(field, 1);
        }
    }

    /// A text.
    pub(super) fn text(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message inside.
    pub(super) fn message(&mut self, field: u32, value: &Self) {
        self.text(field, &value.0);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }
}

/// One field of a message that was received.
#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order; `None` where it is malformed.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        found.push((key >> 3, value));
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What criu says (`criu_resp`).
#[derive(Debug, Default, PartialEq, Eq)]
struct Response {
    action: u64,
    success: bool,
    script: String,
    pid: i32,
    errno: i32,
    message: String,
}

impl Response {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, Value::Number(action)) => response.action = action,
                (2, Value::Number(success)) => response.success = success != 0,
                // criu_restore_resp { pid = 1 }
                (4, Value::Bytes(inside)) => {
                    for (field, value) in fields(inside)? {
                        if let (1, Value::Number(pid)) = (field, value) {
                            response.pid = pid_of(pid);
                        }
                    }
                }
                // criu_notify { script = 1, pid = 2 }
                (5, Value::Bytes(inside)) => {
                    for (field, value) in fields(inside)? {
                        match (field, value) {
                            (1, Value::Bytes(script)) => response.script = String::from_utf8_lossy(script).into_owned(),
                            (2, Value::Number(pid)) => response.pid = pid_of(pid),
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => response.errno = i32::try_from(errno).unwrap_or(0),
                (9, Value::Bytes(text)) => response.message = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
        Some(response)
    }
}

/// 0 for what is no process: criu says -1 where it restored none.
fn pid_of(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(0)
}

/// A moment at which criu waits for its caller.
#[derive(Debug)]
pub(super) struct Notification<'a> {
    /// `post-dump`, `setup-namespaces`, `post-restore`, `orphan-pts-master`, ….
    pub script: &'a str,
    /// The first process, where the moment has one.
    pub pid: i32,
    /// What was sent along.
    pub descriptor: Option<OwnedFd>,
}

/// How criu is started.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The program, absolute.
    pub program: &'a Path,
    /// The program's environment.
    pub environment: &'a [CString],
    /// Becomes a mount point in a mount namespace of criu's own: it demands one as the root of a restore.
    pub root: Option<&'a Path>,
    /// Standard descriptors; `None` are the caller's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Kept open, under their own numbers.
    pub inherited: Vec<BorrowedFd<'a>>,
    /// Kept open likewise, and opened anew once the mount namespace is criu's own: it mounts beneath them.
    pub directories: Vec<(BorrowedFd<'a>, &'a Path)>,
}

/// A running `criu swrk`.
#[derive(Debug)]
pub(super) struct Criu {
    socket: OwnedFd,
    pub(super) pid: Pid,
    pidfd: OwnedFd,
}

impl Criu {
    /// Starts the program.
    pub(super) fn start(launch: &Launch<'_>) -> Result<Self> {
        let (control, theirs) = packet_sockets()?;
        let program = CString::new(launch.program.as_os_str().as_bytes())
            .map_err(|_| Error::invalid("the checkpoint program's path contains a NUL character"))?;
        let single = crate::launch::spawn::single_threaded()?;
        match clone(&single, &CloneRequest::default()).call(|| "clone3(0)")? {
            Side::Parent { pid, pidfd } => {
                drop(theirs);
                let received = receive_socket(&control);
                if received.is_err() {
                    crate::launch::spawn::reap(&pidfd);
                }
                Ok(Self { socket: received?, pid, pidfd })
            }
            Side::Child => {
                let error = become_criu(launch, &program, &theirs);
                let _nobody_listens = rustix::net::send(&theirs, error.one_line().as_bytes(), SendFlags::NOSIGNAL);
                exit_now(127)
            }
        }
    }

    /// Sends the request and answers notifications through `notified` until it is done; the restored process's pid.
    pub(super) fn converse(
        self,
        action: Action,
        options: &Message,
        mut notified: impl FnMut(Notification<'_>) -> Result<()>,
    ) -> Result<i32> {
        let mut request = Message::default();
        request.number(1, action as u64);
        request.message(2, options);
        let outcome = self.send(&request).and_then(|()| self.exchange(action, &mut notified));
        // A pre-dump leaves criu waiting for more; closing the socket ends it.
        drop(self.socket);
        crate::launch::spawn::reap(&self.pidfd);
        outcome
    }

    fn exchange(&self, action: Action, notified: &mut dyn FnMut(Notification<'_>) -> Result<()>) -> Result<i32> {
        loop {
            let (response, descriptor) = self.receive()?;
            if !response.success {
                let mut error = Error::new(ErrorKind::Internal, format!("criu failed with errno {}", response.errno));
                if !response.message.is_empty() {
                    error = error.caused_by(response.message);
                }
                return Err(error);
            }
            if response.action != NOTIFY {
                return if response.action == action as u64 { Ok(response.pid) } else { Err(malformed()) };
            }
            notified(Notification { script: &response.script, pid: response.pid, descriptor })?;
            let mut answer = Message::default();
            answer.number(1, NOTIFY);
            answer.switch(3, true);
            self.send(&answer)?;
        }
    }

    fn send(&self, message: &Message) -> Result<()> {
        match rustix::net::send(&self.socket, &message.0, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(ended()),
            result => result.call(|| "send(criu)").map(drop),
        }
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut bytes = vec![0; PACKET_SIZE_BYTES_MAX];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // With a request of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Err(ended()),
                result => break result.call(|| "recvmsg(criu)")?,
            }
        };
        let mut descriptor = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut rights) = message {
                descriptor = rights.next().or(descriptor);
            }
        }
        if got.bytes == 0 {
            return Err(ended());
        }
        Response::parse(&bytes[..got.bytes]).map(|response| (response, descriptor)).ok_or_else(malformed)
    }
}

fn packet_sockets() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .call(|| "socketpair(SOCK_SEQPACKET)")
}

/// Our end of the conversation, or why there is none.
fn receive_socket(control: &OwnedFd) -> Result<OwnedFd> {
    let mut bytes = vec![0; PACKET_SIZE_BYTES_MAX];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(control, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })
    .call(|| "recvmsg(<checkpoint program>)")?;
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    let mut length = got.bytes;
    if received.is_some() {
        // The other end closes when the program is executed.
        let (more, _) = rustix::io::retry_on_intr(|| rustix::net::recv(control, &mut bytes[..], RecvFlags::empty()))
            .call(|| "recv(<checkpoint program>)")?;
        length = more;
    }
    received.filter(|_| length == 0).ok_or_else(|| {
        let reason = String::from_utf8_lossy(&bytes[..length]).into_owned();
        Error::new(ErrorKind::Internal, "cannot start the checkpoint program").caused_by(reason)
    })
}

fn ended() -> Error {
    Error::new(ErrorKind::Internal, "criu ended without an answer")
}

fn malformed() -> Error {
    Error::new(ErrorKind::Internal, "criu sent an answer that cannot be read")
}

/// In the new process. Returns only a failure.
///
/// criu looks descriptors up in the process that made the socket pair: this very one, whose directories lie in criu's own
/// mount namespace.
fn become_criu(launch: &Launch<'_>, program: &CString, control: &OwnedFd) -> Error {
    let mut pair = None;
    let prepared = (|| {
        corten_sys::signal::reset_all();
        if let Some(root) = launch.root {
            make_mount_point(root)?;
            for (fd, path) in &launch.directories {
                reopen(*fd, path)?;
            }
        }
        let (ours, socket) = packet_sockets()?;
        crate::terminal::send_descriptor(control, b"socket", ours.as_fd())?;
        let socket = pair.insert(socket);
        if let Some(stdio) = launch.stdio {
            crate::terminal::set_stdio(stdio)?;
        }
        let directories = launch.directories.iter().map(|(fd, _)| *fd);
        for fd in launch.inherited.iter().copied().chain(directories).chain([socket.as_fd()]) {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).call(|| "fcntl(F_SETFD)")?;
        }
        let number = CString::new(socket.as_raw_fd().to_string()).map_err(|_| malformed())?;
        Ok([program.clone(), c"swrk".to_owned(), number])
    })();
    match prepared {
        Ok(arguments) => {
            let errno = corten_sys::exec::execve(program, &arguments, launch.environment);
            Error::syscall(format!("execve({program:?})"), errno.raw_os_error())
        }
        Err(error) => error,
    }
}

/// The directory of the same path in the mount namespace that this process has now, under the descriptor's number.
fn reopen(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open({path:?})"))?;
    corten_sys::exec::replace(fd, opened.as_fd()).call(|| format!("dup3(<{}>)", path.display()))
}

fn make_mount_point(root: &Path) -> Result<()> {
    namespace::unshare(namespace::NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).call(|| "mount(\"/\", MS_REC|MS_SLAVE)")?;
    mount_bind_recursive(root, root).call(|| format!("mount({root:?}, MS_BIND|MS_REC)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_protobuf_says() {
        let mut inside = Message::default();
        inside.text(1, b"mnt");
        let mut message = Message::default();
        message.number(1, 300);
        message.switch(3, true);
        message.switch(4, false);
        message.message(23, &inside);
        assert_eq!(message.0, [0x08, 0xac, 0x02, 0x18, 0x01, 0xba, 0x01, 0x05, 0x0a, 0x03, b'm', b'n', b't']);
    }

    #[test]
    fn a_notification_is_read_and_garbage_refused() {
        let mut notify = Message::default();
        notify.text(1, b"post-restore");
        notify.number(2, 4711);
        let mut message = Message::default();
        message.number(1, NOTIFY);
        message.switch(2, true);
        message.message(5, &notify);
        let response = Response::parse(&message.0).unwrap();
        assert_eq!((response.script.as_str(), response.pid, response.success), ("post-restore", 4711, true));
        for end in 1..message.0.len() {
            Response::parse(&message.0[..end]);
        }
        assert_eq!(Response::parse(&[0xff; 20]), None);
    }
}
