//! Waiting for a process: its signals, its terminal, its end.

use std::ffi::CStr;
use std::io::{IoSlice, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_runtime::notify::{NotifySocket, ServiceManager};
use corten_runtime::runtime::Started;
use corten_sys::{Call, signal};
use corten_types::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::termios::{OptionalActions, OutputModes, Termios};

use super::Context;
use super::arguments::Arguments;

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// Signals blocked, to be read as data; made before the process so that none is lost.
#[derive(Debug)]
pub(super) struct Foreground {
    signals: OwnedFd,
    /// Told once the program is ready, where there is one.
    manager: Option<ServiceManager>,
}

impl Foreground {
    /// From here on no signal interrupts this process; with `subreaper` orphans of the container become its children.
    pub(super) fn begin(subreaper: bool, manager: Option<ServiceManager>) -> Result<Self> {
        if subreaper {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        let all: Vec<i32> = (1..=signal::MAX).collect();
        let signals = signal::block_all_and_watch(&all).call(|| "signalfd")?;
        Ok(Self { signals, manager })
    }

    /// Forwards signals and the terminal until the process ends; its exit code, 128 + n for signal n.
    pub(super) fn follow(self, started: Started) -> Result<u8> {
        let mut relay = started.terminal.map(Relay::begin).transpose()?;
        let mut readiness = self.manager.as_ref().zip(started.notify);
        // A child that ended before the signals were blocked has left no SIGCHLD behind.
        let mut code = reap(started.pid)?;
        while code.is_none() {
            let ready = self.wait(relay.as_ref(), readiness.as_ref().map(|(_, socket)| socket))?;
            if let Some(relay) = &mut relay {
                relay.turn(ready)?;
            }
            if let Some((manager, socket)) = &readiness
                && let Some(line) = socket.ready()?
            {
                // This process stays, forwards signals and has the exit code: it is the one to watch, as in runc.
                manager.tell(&line, rustix::process::getpid())?;
                readiness = None;
            }
            while let Some((number, _)) = signal::read_signal(self.signals.as_fd()).call(|| "read(signalfd)")? {
                match number {
                    SIGCHLD => code = code.or(reap(started.pid)?),
                    SIGWINCH if relay.is_some() => relay.iter().for_each(Relay::resize),
                    // The process may end at any moment; its exit code tells.
                    other => signal::pidfd_send_signal(started.pidfd.as_fd(), other).unwrap_or_default(),
                }
            }
        }
        if let Some(relay) = relay {
            relay.finish();
        }
        Ok(code.unwrap_or_default())
    }

    /// Sleeps until a signal or the terminal wants attention.
    fn wait(&self, relay: Option<&Relay>, notify: Option<&NotifySocket>) -> Result<Ready> {
        let stdin = rustix::stdio::stdin();
        let terminal = relay.filter(|relay| relay.terminal_open);
        let input = relay.filter(|relay| relay.stdin_open && relay.pending.is_empty());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(relay) = terminal {
            let output = if relay.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&relay.terminal, PollFlags::IN | output));
        }
        if input.is_some() {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        let ours = fds.len();
        fds.extend(notify.map(|socket| PollFd::new(socket, PollFlags::IN)));
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call(|| "poll"),
            }
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (first, last) = (fds.get(1).is_some_and(is_ready), fds.get(ours - 1).is_some_and(is_ready));
        Ok(Ready { terminal: terminal.is_some() && first, stdin: input.is_some() && last })
    }
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    terminal: bool,
    stdin: bool,
}

/// Collects every child that ended; the exit code of `wanted` when it is among them.
fn reap(wanted: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == wanted => code = Some(exit_code(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(errno) => return Err(errno).call(|| "wait4(-1)"),
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let number = status.exit_status().or_else(|| status.terminating_signal().map(|number| 128 + number));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(255)
}

/// The container's terminal joined to ours.
#[derive(Debug)]
struct Relay {
    terminal: OwnedFd,
    terminal_open: bool,
    stdin_open: bool,
    /// Read from standard input, not yet taken by the terminal.
    pending: Vec<u8>,
    /// Our terminal and its mode before.
    host: Option<(OwnedFd, Termios)>,
}

impl Relay {
    fn begin(terminal: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&terminal, true).call(|| "ioctl(terminal, FIONBIO)")?;
        let host = host_terminal()?;
        if let Some((host, before)) = &host {
            let mut raw = before.clone();
            raw.make_raw();
            // Line feeds become new lines here: the container's terminal leaves them alone.
            raw.output_modes.insert(OutputModes::OPOST);
            rustix::termios::tcsetattr(host, OptionalActions::Now, &raw).call(|| "tcsetattr(our terminal, raw)")?;
        }
        let relay = Self { terminal, terminal_open: true, stdin_open: true, pending: Vec::new(), host };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    fn resize(&self) {
        if let Some((host, _)) = &self.host
            && let Ok(size) = rustix::termios::tcgetwinsize(host)
        {
            // The terminal may be gone with its process.
            rustix::termios::tcsetwinsize(&self.terminal, size).ok();
        }
    }

    fn turn(&mut self, ready: Ready) -> Result<()> {
        if ready.stdin {
            self.read_input();
        }
        if !self.pending.is_empty() {
            match rustix::io::write(&self.terminal, &self.pending) {
                Ok(taken) => drop(self.pending.drain(..taken)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.pending.clear(),
            }
        }
        if ready.terminal {
            self.copy_output()?;
        }
        Ok(())
    }

    fn read_input(&mut self) {
        let mut buffer = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => self.stdin_open = false,
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.stdin_open = false,
        }
    }

    /// Copies one buffer; a terminal whose last user is gone answers EIO.
    fn copy_output(&mut self) -> Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match rustix::io::read(&self.terminal, &mut buffer) {
            Ok(0) => self.terminal_open = false,
            Ok(length) => {
                write_all(rustix::stdio::stdout(), &buffer[..length]);
                return Ok(true);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::IO) => self.terminal_open = false,
            Err(errno) => return Err(errno).call(|| "read(terminal)"),
        }
        Ok(false)
    }

    /// Copies what is still in the terminal; the mode of ours is restored on drop.
    fn finish(mut self) {
        while self.terminal_open && self.copy_output().unwrap_or(false) {}
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some((host, before)) = &self.host {
            // Nothing is left to do about a terminal that went away.
            rustix::termios::tcsetattr(host, OptionalActions::Now, before).ok();
        }
    }
}

/// The terminal that whoever started us looks at, if there is one.
fn host_terminal() -> Result<Option<(OwnedFd, Termios)>> {
    for fd in [rustix::stdio::stderr(), rustix::stdio::stdout(), rustix::stdio::stdin()] {
        if fd.is_terminal() {
            let mode = rustix::termios::tcgetattr(fd).call(|| "tcgetattr(our terminal)")?;
            let own = rustix::io::fcntl_dupfd_cloexec(fd, 3).call(|| "fcntl(F_DUPFD_CLOEXEC)")?;
            return Ok(Some((own, mode)));
        }
    }
    Ok(None)
}

/// Output that nobody reads any more is dropped, as by any program that ignores SIGPIPE.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None).ok();
            }
            Err(_) => return,
        }
    }
}

/// Refuses `--console-socket` where the terminal is ours.
pub(super) fn refuse_console_socket(given: bool) -> Result<()> {
    if given {
        return Err(Error::invalid("cannot use console socket if the runtime will not detach or allocate tty")
            .hint("add `--detach`, or leave out `--console-socket`"));
    }
    Ok(())
}

/// Refuses a terminal that nobody will hold once this process ends.
pub(super) fn check_detached(started: &Started, has_socket: bool) -> Result<()> {
    if started.terminal.is_some() && !has_socket {
        return Err(Error::invalid("cannot allocate tty if the runtime will detach without setting console socket")
            .hint("name a socket with `--console-socket`, or set `process.terminal` to false"));
    }
    Ok(())
}

/// The socket of `--pidfd-socket`, connected before anything is made.
#[derive(Debug)]
pub(super) struct PidfdReceiver {
    socket: Option<std::os::unix::net::UnixStream>,
    label: &'static CStr,
}

impl PidfdReceiver {
    /// Connects where the flag was given; `label` goes along with the descriptor.
    pub(super) fn connect(context: &Context<'_>, arguments: &Arguments, label: &'static CStr) -> Result<Self> {
        let socket = arguments.path("pidfd-socket").map(|path| {
            let path = context.environment.absolute(path);
            std::os::unix::net::UnixStream::connect(&path)
                .map_err(|error| Error::from(error).context(format!("cannot connect to pidfd socket {path:?}")))
        });
        Ok(Self { socket: socket.transpose()?, label })
    }

    /// Sends the descriptor.
    pub(super) fn deliver(&self, pidfd: &OwnedFd) -> Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let rights = [pidfd.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&rights));
        let text = [IoSlice::new(self.label.to_bytes())];
        rustix::net::sendmsg(socket, &text, &mut ancillary, rustix::net::SendFlags::NOSIGNAL)
            .call(|| "sendmsg(pidfd socket, SCM_RIGHTS)")?;
        Ok(())
    }
}
