//! The seam between engine and supervisor: starts a `corten shim` and speaks to it. Shim v2's protocol takes this file's place.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio as ProcessStdio};
use std::time::Instant;

use corten_fs::{Lock, Root};
use corten_sys::{Call, channel};
use corten_types::shim::{Decoder, Event, Launch, Request, SOCKET, encode};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

/// A connection to a supervisor.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    beside: Vec<OwnedFd>,
}

/// Streams that a supervisor opened for this process.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// The program's input, or the terminal's main side.
    pub(crate) stdin: Option<OwnedFd>,
    /// What it prints.
    pub(crate) stdout: Option<OwnedFd>,
    /// What it prints on standard error.
    pub(crate) stderr: Option<OwnedFd>,
}

/// A launched container.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The first process.
    pub(crate) pid: i32,
    /// What was asked to be attached.
    pub(crate) opened: Opened,
    /// The line to its supervisor.
    pub(crate) connection: Connection,
}

/// What waiting gave.
#[derive(Debug)]
pub(crate) enum Waited {
    /// An event.
    Event(Event),
    /// The supervisor is gone.
    Gone,
    /// The time is over.
    Nothing,
}

/// Starts a supervisor, hands it the launch with the liveness lock and the streams, and waits for its answer.
pub(crate) fn launch(executable: &Path, launch: Launch, alive: &Lock, streams: &[BorrowedFd<'_>]) -> Result<Launched> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call(|| "socketpair(AF_UNIX)")?;
    let id = launch.id.clone();
    Command::new(executable)
        .args(["shim", &id])
        .env_clear()
        .stdin(ProcessStdio::from(theirs))
        .stdout(ProcessStdio::null())
        .spawn()
        .map_err(|error| {
            let call = format!("posix_spawn({executable:?}), which is clone3 and execve");
            Error::syscall(call, error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()))
        })
        .context(|| format!("cannot start the supervisor `{} shim`", executable.display()))?;
    let mut connection = Connection { socket: ours, decoder: Decoder::default(), beside: Vec::new() };
    let frame = encode(&Request::Launch(Box::new(launch)))?;
    let descriptors: Vec<_> = [alive.as_fd()].into_iter().chain(streams.iter().copied()).collect();
    channel::send(&connection.socket, &frame, &descriptors).call(|| "sendmsg(<shim>)")?;
    let mut opened = Opened::default();
    loop {
        match connection.wait()? {
            Some(Event::Attached { stdin, stdout, stderr }) => opened = connection.opened(stdin, stdout, stderr),
            Some(Event::Started { pid }) => return Ok(Launched { pid, opened, connection }),
            Some(Event::Failed(failure)) => return Err(failure.into()),
            Some(_) => {}
            None => return Err(Error::new(ErrorKind::Internal, "the supervisor ended before the container started")),
        }
    }
}

impl Connection {
    /// Connects to the supervisor whose run directory is `run`; `None` where nobody listens.
    pub(crate) fn open(run: &Root) -> Result<Option<Self>> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .call(|| "socket(AF_UNIX)")?;
        let directory = run.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        // The path may be longer than an address holds, so it is named through its directory.
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        let address = SocketAddrUnix::new(path.as_str()).call(|| "sockaddr_un")?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(Some(Self { socket, decoder: Decoder::default(), beside: Vec::new() })),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(errno).call(|| format!("connect({path:?})")),
        }
    }

    /// For poll.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Asks something.
    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        self.send_with(request, &[])
    }

    /// Asks something, with descriptors beside it.
    pub(crate) fn send_with(&mut self, request: &Request, beside: &[BorrowedFd<'_>]) -> Result<()> {
        match channel::send(&self.socket, &encode(request)?, beside) {
            // It has ended, or is just ending: its last event says so.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            result => result.call(|| "sendmsg(<shim>)"),
        }
    }

    /// Asks something and waits until it is done; `None` where the supervisor is gone or the container ended first.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Option<()>> {
        self.send(request)?;
        while let Some(event) = self.wait()? {
            match event {
                Event::Done => return Ok(Some(())),
                Event::Failed(failure) => return Err(failure.into()),
                Event::Exited { restarts: false, .. } => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The descriptors that came with [`Event::Attached`].
    pub(crate) fn opened(&mut self, stdin: bool, stdout: bool, stderr: bool) -> Opened {
        let mut beside = std::mem::take(&mut self.beside).into_iter();
        let mut next = |came: bool| if came { beside.next() } else { None };
        Opened { stdin: next(stdin), stdout: next(stdout), stderr: next(stderr) }
    }

    /// A descriptor that came alone.
    pub(crate) fn take_beside(&mut self) -> Option<OwnedFd> {
        self.beside.pop()
    }

    /// The next event, for which it waits until `moment`.
    pub(crate) fn wait_until(&mut self, moment: Instant) -> Result<Waited> {
        loop {
            if let Some(event) = self.next()? {
                return Ok(Waited::Event(event));
            }
            let left = moment.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(Waited::Nothing),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).call(|| "poll"),
            }
            if !self.receive()? {
                return Ok(Waited::Gone);
            }
        }
    }

    /// Kills the process that listens at the other end.
    pub(crate) fn kill_supervisor(&self) -> Result<()> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket).call(|| "getsockopt(SO_PEERCRED)")?;
        match rustix::process::kill_process(peer.pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).call(|| "kill(<supervisor>, SIGKILL)"),
        }
    }

    /// Reads what is there, waiting for something; false at the end.
    pub(crate) fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        match channel::receive(&self.socket, &mut buffer) {
            Ok((count, beside)) => {
                self.decoder.push(&buffer[..count]);
                self.beside.extend(beside);
                Ok(count > 0)
            }
            Err(Errno::CONNRESET) => Ok(false),
            Err(errno) => Err(errno).call(|| "recvmsg(<shim>)"),
        }
    }

    /// The next event that has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Event>> {
        self.decoder.next_message()
    }

    /// The next event; `None` once the supervisor is gone.
    pub(crate) fn wait(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.next()? {
                return Ok(Some(event));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }
}
