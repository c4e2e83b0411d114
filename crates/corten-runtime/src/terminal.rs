//! The program's terminal (config.md, "process.terminal"; runc's console socket).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_fs::Root;
use corten_sys::Call as _;
use corten_types::runtime_spec::ConsoleSize;
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// `DEVPTS_SUPER_MAGIC`
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both sides of a terminal from the container's own devpts.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) main: OwnedFd,
    pub(crate) peer: OwnedFd,
}

/// Opens a terminal beneath the root that the caller lives in. /dev/pts must be a devpts and its ptmx the real one; the
/// other side comes from the kernel, not by a path (TIOCGPTPEER).
pub(crate) fn open(size: Option<&ConsoleSize>, keep_line_feeds: bool) -> Result<Pair> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // No symbolic link is followed: /dev/pts/ptmx is there by that name or not at all.
    let root = Root::open_ambient(Path::new("/"))?.beneath();
    let ptmx = root
        .open("dev/pts/ptmx", OFlags::PATH, Mode::empty())
        .context(|| "cannot open a terminal: the container has no devpts at /dev/pts")?;
    let place = rustix::fs::fstatfs(&ptmx).call(|| "fstatfs(<ptmx>)")?;
    let node = rustix::fs::fstat(&ptmx).call(|| "fstat(<ptmx>)")?;
    let device = (rustix::fs::major(node.st_rdev), rustix::fs::minor(node.st_rdev));
    if place.f_type as i64 != DEVPTS_MAGIC
        || !FileType::from_raw_mode(node.st_mode).is_char_device()
        || device != (5, 2)
    {
        return Err(Error::new(ErrorKind::Denied, "/dev/pts/ptmx of the container is not the terminal multiplexer"));
    }
    let main = root.open("dev/pts/ptmx", flags, Mode::empty())?;
    let again = rustix::fs::fstat(&main).call(|| "fstat(<ptmx>)")?;
    if (again.st_dev, again.st_rdev) != (node.st_dev, node.st_rdev) {
        return Err(Error::new(ErrorKind::Denied, "/dev/pts/ptmx changed while it was opened"));
    }
    rustix::pty::unlockpt(&main).call(|| "unlockpt(<terminal>)")?;
    let peer = rustix::pty::ioctl_tiocgptpeer(&main, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .call(|| "ioctl(<terminal>, TIOCGPTPEER)")?;
    if let Some(size) = size.filter(|size| size.height != 0 || size.width != 0) {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&main, size).call(|| "ioctl(<terminal>, TIOCSWINSZ)")?;
    }
    if keep_line_feeds {
        let mut mode = tcgetattr(&main).call(|| "ioctl(<terminal>, TCGETS2)")?;
        mode.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&main, OptionalActions::Now, &mode).call(|| "ioctl(<terminal>, TCSETS2)")?;
    }
    Ok(Pair { main, peer })
}

/// Makes `peer` the controlling terminal and the standard descriptors of the caller, who leads a session.
pub(crate) fn take(peer: &OwnedFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(peer).call(|| "ioctl(<terminal>, TIOCSCTTY)")?;
    set_stdio([peer.as_fd(); 3])
}

/// Makes three descriptors the standard ones.
pub(crate) fn set_stdio(list: [BorrowedFd<'_>; 3]) -> Result<()> {
    rustix::stdio::dup2_stdin(list[0]).call(|| "dup2(<stdin>)")?;
    rustix::stdio::dup2_stdout(list[1]).call(|| "dup2(<stdout>)")?;
    rustix::stdio::dup2_stderr(list[2]).call(|| "dup2(<stderr>)")
}

/// Connects to the socket of the one who wants the terminal.
pub(crate) fn connect_console(path: &Path) -> Result<OwnedFd> {
    let what = || format!("cannot connect to the console socket `{}`", path.display());
    let address = SocketAddrUnix::new(path).call(|| "sockaddr_un").context(what)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).call(|| "socket(AF_UNIX)")?;
    connect(&socket, &address).call(|| format!("connect(\"{}\")", path.display())).context(what)?;
    Ok(socket)
}

/// Sends one descriptor with a few bytes along (unix(7), SCM_RIGHTS).
pub(crate) fn send_descriptor(socket: &OwnedFd, name: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let list = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&list));
    sendmsg(socket, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL)
        .call(|| "sendmsg(<console socket>, SCM_RIGHTS)")
        .map(drop)
}
