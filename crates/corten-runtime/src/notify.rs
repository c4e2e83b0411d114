//! Readiness for a service manager (sd_notify(3)), as runc passes it on: a socket of the container's own, and what came
//! in there told to the manager with the container's pid.
//!
//! ```text
//! ROOT/ID/notify/             bound into the container at /run/notify
//! ROOT/ID/notify/notify.sock  made by `run` or `start`, whoever waits for the readiness
//! ```

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::Call as _;
use corten_types::runtime_spec::{Mount, Spec};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::Pid;

pub(crate) const DIRECTORY: &str = "notify";
/// From the state directory.
pub(crate) const SOCKET_PATH: &str = "notify/notify.sock";
const PLACE: &str = "/run/notify";
const SOCKET_INSIDE: &str = "/run/notify/notify.sock";

/// Longest message that is read.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Longest wait for the manager's word that it has read everything, seconds (runc's).
const BARRIER_SECONDS_MAX: i64 = 30;

/// Makes the socket's directory known to the container.
pub(crate) fn add_to(spec: &mut Spec, state_directory: &Path) {
    spec.mounts.push(Mount {
        destination: PLACE.to_owned(),
        source: state_directory.join(DIRECTORY).to_string_lossy().into_owned(),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.env.push(format!("NOTIFY_SOCKET={SOCKET_INSIDE}"));
    }
}

/// The socket on which a container says that it is ready.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
}

impl NotifySocket {
    /// Makes the socket in a container's state directory; anybody inside may write to it.
    pub(crate) fn bind(state: BorrowedFd<'_>) -> Result<Self> {
        // Short whatever the directory's name is: a socket's address has room for 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET_PATH}", state.as_raw_fd());
        let socket = datagram_socket()?;
        let address = SocketAddrUnix::new(path.as_str()).call(|| format!("sockaddr_un({path:?})"))?;
        rustix::net::bind(&socket, &address)
            .call(|| format!("bind({path:?})"))
            .context(|| "cannot make the notify socket")?;
        rustix::fs::chmodat(state, SOCKET_PATH, Mode::from_raw_mode(0o777), AtFlags::empty())
            .call(|| format!("fchmodat(<state>, {SOCKET_PATH:?}, 0777)"))?;
        Ok(Self { socket })
    }

    /// Whether the container has said that it is ready, in what there is to read now: the line that says so.
    pub fn ready(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let mut lines = buffer[..length].split(|byte| *byte == b'\n');
                    if let Some(line) = lines.find(|line| line.starts_with(b"READY=")) {
                        return Ok(Some(line.to_vec()));
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(errno).call(|| "recv(<notify>)"),
            }
        }
    }

    /// Waits until the container is ready, or its process has ended; the line that says so.
    pub fn wait(&self, process: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
        loop {
            let mut list = [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut list, None)).call(|| "poll(<notify>)")?;
            let ended = !list[1].revents().is_empty();
            if let Some(line) = self.ready()? {
                return Ok(Some(line));
            }
            if ended {
                return Ok(None);
            }
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The service manager's socket (`NOTIFY_SOCKET`).
#[derive(Debug)]
pub struct ServiceManager {
    socket: OwnedFd,
}

impl ServiceManager {
    /// Connects to `address`, a path, or a name in the kernel after `@`.
    pub fn connect(address: &Path) -> Result<Self> {
        let what = || format!("cannot connect to the service manager at {address:?} (NOTIFY_SOCKET)");
        let target = match address.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(address),
        };
        let target = target.call(|| format!("sockaddr_un({address:?})")).context(what)?;
        let socket = datagram_socket()?;
        rustix::net::connect(&socket, &target).call(|| format!("connect({address:?})")).context(what)?;
        Ok(Self { socket })
    }

    /// Passes readiness on, and the process to watch from now on.
    pub fn tell(&self, ready: &[u8], pid: Pid) -> Result<()> {
        let main = format!("MAINPID={}\n", pid.as_raw_nonzero());
        for message in [[ready, b"\n"].concat(), main.into_bytes()] {
            rustix::net::send(&self.socket, &message, SendFlags::NOSIGNAL).call(|| "send(<NOTIFY_SOCKET>)")?;
        }
        Ok(())
    }

    /// Waits until the manager has read all of it (sd_notify_barrier(3)): who ends right after a message may be gone
    /// before the manager asks whose it was. False where the manager does not answer.
    pub fn wait_until_read(&self) -> Result<bool> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sent = [theirs.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&sent)) {
            return Err(Error::new(ErrorKind::Internal, "no room for a descriptor"));
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::NOSIGNAL)
            .call(|| "sendmsg(<NOTIFY_SOCKET>, \"BARRIER=1\")")?;
        drop(theirs);
        let mut list = [PollFd::new(&ours, PollFlags::IN)];
        let limit = Timespec { tv_sec: BARRIER_SECONDS_MAX, tv_nsec: 0 };
        Ok(rustix::io::retry_on_intr(|| poll(&mut list, Some(&limit))).call(|| "poll(<barrier>)")? > 0)
    }
}

fn datagram_socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX, SOCK_DGRAM)")
}
