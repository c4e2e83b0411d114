//! The conversation of the parent with the process it cloned: small messages on a socket pair, kept in order.
//!
//! The child asks, the parent answers [`Reply::Continue`]; a failure on either side travels as data and ends both. The
//! child's last descriptor closes on exec, so the end of the stream after [`Reply::Go`] means: the program runs.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::Call as _;
use corten_types::{Error, ErrorKind, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// Longest message, bytes: an error with its chain.
const MESSAGE_SIZE_BYTES_MAX: usize = 16 * 1024;

/// Most descriptors beside one message: as many as there may be cgroup hierarchies.
pub(crate) const DESCRIPTORS_MAX: usize = 64;

/// What the child tells the parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The process is there and waits for what only the parent can do: id maps, a systemd scope, cgroups in the making.
    Born,
    /// The container's first process, made by an intermediate one; its pidfd comes along.
    First { pid: i32 },
    /// A tree, which comes along, wants the id map of a mount: only outside of the user namespace is a right to that.
    MapIds { mount: usize },
    /// The network namespace is there and waits for its interfaces.
    NetDevices,
    /// The prestart and createRuntime hooks are due.
    RuntimeHooks,
    /// The terminal's main side comes along.
    Terminal,
    /// The seccomp notify descriptor, by its number in the child.
    SeccompListener { fd: i32 },
    /// All is prepared; what the runtime should mention comes along.
    Ready { warnings: Vec<String>, limits_set: bool },
    /// A step failed; the child ends.
    Failed { kind: String, errno: Option<i32>, chain: Vec<String>, hints: Vec<String> },
}

impl Message {
    pub(crate) fn failed(error: &Error) -> Self {
        let mut chain = error.chain();
        for line in &mut chain {
            line.truncate(line.floor_char_boundary(2048));
        }
        chain.truncate(16);
        Self::Failed {
            kind: error.kind().as_str().to_owned(),
            errno: error.errno(),
            chain,
            hints: error.hints().iter().take(4).cloned().collect(),
        }
    }
}

/// What the parent answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Reply {
    /// Go on with the next step.
    Continue,
    /// The container is recorded: wait for start, or execute the program at once.
    Go,
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends: the parent's, the child's.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (parent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .call(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
        Ok((Self(parent), Self(child)))
    }

    pub(crate) fn send(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        self.send_bytes(&bytes, descriptor.as_slice())
    }

    pub(crate) fn reply(&self, reply: Reply) -> Result<()> {
        self.reply_with(reply, &[])
    }

    /// As [`Channel::reply`], with at most [`DESCRIPTORS_MAX`] descriptors beside it.
    pub(crate) fn reply_with(&self, reply: Reply, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_bytes(if reply == Reply::Go { b"G" } else { b"C" }, descriptors)
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>> {
        let mut buffer = [0; MESSAGE_SIZE_BYTES_MAX];
        let (length, mut descriptors) = self.receive_bytes(&mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        let descriptor = descriptors.pop();
        let message = serde_json::from_slice(&buffer[..length])
            .map_err(|error| Error::new(ErrorKind::Internal, format!("malformed message of the child: {error}")))?;
        Ok(Some((message, descriptor)))
    }

    /// Waits for the parent's answer; an error when the parent is gone.
    pub(crate) fn wait(&self, expected: Reply) -> Result<()> {
        self.wait_with(expected).map(drop)
    }

    /// As [`Channel::wait`]; gives the descriptors beside the answer.
    pub(crate) fn wait_with(&self, expected: Reply) -> Result<Vec<OwnedFd>> {
        let mut byte = [0];
        let (length, descriptors) = self.receive_bytes(&mut byte)?;
        let wanted = if expected == Reply::Go { b'G' } else { b'C' };
        if length == 1 && byte[0] == wanted {
            return Ok(descriptors);
        }
        Err(Error::new(ErrorKind::Internal, "the runtime ended before the container was ready"))
    }

    /// Asks the parent for something and waits until it is done.
    pub(crate) fn ask(&self, message: &Message) -> Result<()> {
        self.send(message, None)?;
        self.wait(Reply::Continue)
    }

    /// As [`Channel::ask`], with a descriptor.
    pub(crate) fn ask_with(&self, message: &Message, descriptor: BorrowedFd<'_>) -> Result<()> {
        self.send(message, Some(descriptor))?;
        self.wait(Reply::Continue)
    }

    /// As [`Channel::ask`], by write(2): under a filter that notifies, any other call would wait for an agent that has no
    /// descriptor yet.
    pub(crate) fn ask_by_write(&self, message: &Message) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        rustix::io::write(&self.0, &bytes).call(|| "write(<channel>)")?;
        self.wait(Reply::Continue)
    }

    fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Error::new(ErrorKind::Internal, "too many descriptors for one message"));
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            .call(|| "sendmsg(<channel>)")
            .map(drop)
    }

    fn receive_bytes(&self, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(errno) => return Err(Error::syscall("recvmsg(<channel>)", errno.raw_os_error())),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                descriptors.extend(list);
            }
        }
        Ok((length, descriptors))
    }
}

/// The error that a [`Message::Failed`] carries.
pub(crate) fn failure(kind: &str, errno: Option<i32>, chain: Vec<String>, hints: Vec<String>) -> Error {
    Error::from_parts(ErrorKind::parse(kind), errno, chain, hints)
}
