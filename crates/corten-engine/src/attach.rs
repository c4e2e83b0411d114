//! A running program seen by a process that is attached to it: streams, signals, the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_fs::atomic::write_all;
use corten_sys::{Call, signal};
use corten_types::shim::{Event, Request};
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::detach_keys::{DetachKeys, Typed};
use crate::launch::{Connection, Opened};

const SIGWINCH: i32 = 28;
/// Not forwarded: what cannot be caught, what the process raises itself, and what means the caller alone
/// (SIGKILL, SIGSTOP, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGPIPE, SIGCHLD, SIGURG).
const OWN: [i32; 12] = [9, 19, 4, 5, 6, 7, 8, 11, 31, 13, 17, 23];
/// Most typed bytes that wait for the program to read them.
const PENDING_SIZE_BYTES_MAX: usize = 64 * 1024;
/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 64 * 1024;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 and the signal's number for one that was killed.
    pub code: u8,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
}

/// How being attached ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parted {
    /// The program ended.
    Exited(Exit),
    /// The user typed the keys; the program goes on.
    Detached,
}

/// The signals of the calling process as data: blocked and collected from here on, forwarded by [`Running::attach`].
///
/// Take it before [`crate::Engine::start`], so that none is lost in between.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks and collects everything that is forwarded to a container (docker's sig-proxy), and SIGWINCH.
    pub fn watch() -> Result<Self> {
        let watched: Vec<i32> = (1..=signal::MAX).filter(|number| !OWN.contains(number)).collect();
        signal::block_all_and_watch(&watched).map(Self).call(|| "signalfd")
    }

    /// Collects changes of the window's size alone; every other signal does to the caller what it always does.
    pub fn watch_size() -> Result<Self> {
        signal::block_and_watch(&[SIGWINCH]).map(Self).call(|| "signalfd")
    }
}

/// The caller's side: its streams. A terminal is in raw mode (the caller's duty).
#[derive(Debug, Clone)]
pub struct Console<'a> {
    /// Where what the user types comes from.
    pub input: Option<BorrowedFd<'a>>,
    /// Where the program's output goes.
    pub output: BorrowedFd<'a>,
    /// Where its standard error goes.
    pub error: BorrowedFd<'a>,
    /// The keys that detach; they count with a terminal alone.
    pub detach_keys: DetachKeys,
}

/// Whose end is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    Container,
    Process,
}

/// A program that runs, and the line to its supervisor.
#[derive(Debug)]
pub struct Running {
    /// The container.
    pub id: String,
    /// The process on the host.
    pub pid: i32,
    pub(crate) connection: Connection,
    pub(crate) opened: Opened,
    pub(crate) terminal: bool,
    pub(crate) awaited: Awaited,
}

/// What one turn of the loop found ready.
#[derive(Default)]
struct Ready {
    socket: bool,
    signals: bool,
    output: bool,
    error: bool,
    room: bool,
    typed: bool,
}

impl Running {
    /// Whether the program has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.terminal
    }

    /// Gives the terminal the size of the caller's.
    pub fn resize(&self, like: impl AsFd) {
        if let Some(main) = self.opened.stdin.as_ref().filter(|_| self.terminal)
            && let Ok(size) = rustix::termios::tcgetwinsize(like)
            && size.ws_row > 0
        {
            // A terminal that just hung up has no size any more.
            rustix::termios::tcsetwinsize(main, size).ok();
        }
    }

    /// Stays until the program has ended or the user detaches: relays streams, forwards signals and sizes.
    pub fn attach(mut self, console: Option<&Console<'_>>, signals: Option<&Signals>) -> Result<Parted> {
        let mut input = console.and_then(|console| console.input);
        if input.is_none() && !self.terminal {
            self.opened.stdin = None;
        }
        let mut keys = console.map(|console| console.detach_keys.matcher()).unwrap_or_default();
        let mut pending = Vec::new();
        let mut buffer = vec![0; READ_SIZE_BYTES];
        let mut exit = None;
        loop {
            if exit.is_none() {
                exit = self.next_exit()?;
            }
            if exit.is_some() && self.awaited == Awaited::Process && self.terminal {
                // A process in the background may hold the terminal open: what is there now is all.
                let output = console.map(|console| console.output);
                while pass_on(&mut self.opened.stdout, output, &mut buffer) == Passed::Something {}
                self.opened.stdout = None;
            }
            // What the program printed before its end comes to its end first.
            if let Some(exit) = exit
                && self.opened.stdout.is_none()
                && self.opened.stderr.is_none()
            {
                return Ok(Parted::Exited(exit));
            }
            let ready = self.poll(exit.is_some(), input, signals, &pending)?;
            if ready.signals {
                self.forward(signals, console)?;
            }
            if ready.typed
                && let Some(source) = input
            {
                match rustix::io::read(source, &mut buffer) {
                    Ok(count @ 1..) if self.terminal => {
                        if keys.take(&buffer[..count], &mut pending) == Typed::Detach {
                            return Ok(Parted::Detached);
                        }
                    }
                    Ok(count @ 1..) => pending.extend_from_slice(&buffer[..count]),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Ok(_) | Err(_) => input = None,
                }
            }
            if ready.room {
                self.give(&mut pending);
            }
            if input.is_none() && pending.is_empty() && !self.terminal {
                // The end of the caller's input is the end of the program's.
                self.opened.stdin = None;
            }
            let outputs = console.map(|console| (console.output, console.error));
            if ready.output {
                pass_on(&mut self.opened.stdout, outputs.map(|both| both.0), &mut buffer);
            }
            if ready.error {
                pass_on(&mut self.opened.stderr, outputs.map(|both| both.1), &mut buffer);
            }
            if ready.socket && exit.is_none() && !self.connection.receive()? {
                exit = self.next_exit()?;
                if exit.is_none() {
                    return Err(self.lost());
                }
            }
        }
    }

    fn next_exit(&mut self) -> Result<Option<Exit>> {
        while let Some(event) = self.connection.next()? {
            // A signal that came too late (`Failed`) is no matter: the end follows.
            match (event, self.awaited) {
                (Event::Exited { code, oom_killed, .. }, Awaited::Container) => {
                    return Ok(Some(Exit { code, oom_killed }));
                }
                (Event::ExecExited { code }, Awaited::Process) => return Ok(Some(Exit { code, oom_killed: false })),
                _ => {}
            }
        }
        Ok(None)
    }

    fn poll(
        &self,
        ended: bool,
        input: Option<BorrowedFd<'_>>,
        signals: Option<&Signals>,
        pending: &[u8],
    ) -> Result<Ready> {
        let mut polled = Vec::with_capacity(6);
        let socket_at = (!ended).then(|| push(&mut polled, self.connection.socket().as_fd(), PollFlags::IN));
        let signals_at = signals.map(|signals| push(&mut polled, signals.0.as_fd(), PollFlags::IN));
        let output_at = self.opened.stdout.as_ref().map(|pipe| push(&mut polled, pipe.as_fd(), PollFlags::IN));
        let error_at = self.opened.stderr.as_ref().map(|pipe| push(&mut polled, pipe.as_fd(), PollFlags::IN));
        let target = self.opened.stdin.as_ref().filter(|_| !ended);
        let room_at =
            target.filter(|_| !pending.is_empty()).map(|target| push(&mut polled, target.as_fd(), PollFlags::OUT));
        let wants_input = target.is_some() && pending.len() < PENDING_SIZE_BYTES_MAX;
        let input_at = input.filter(|_| wants_input).map(|input| push(&mut polled, input, PollFlags::IN));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !polled[at].revents().is_empty());
        Ok(Ready {
            socket: is_ready(socket_at),
            signals: is_ready(signals_at),
            output: is_ready(output_at),
            error: is_ready(error_at),
            room: is_ready(room_at),
            typed: is_ready(input_at),
        })
    }

    fn forward(&mut self, signals: Option<&Signals>, console: Option<&Console<'_>>) -> Result<()> {
        let Some(signals) = signals else { return Ok(()) };
        while let Some((number, _)) = signal::read_signal(signals.0.as_fd()).call(|| "read(<signalfd>)")? {
            match console {
                Some(console) if number == SIGWINCH => self.resize(console.output),
                _ if number == SIGWINCH => {}
                _ => self.connection.send(&Request::Signal { number, ends: false })?,
            }
        }
        Ok(())
    }

    /// Gives the program what was typed; one that closed its input gets no more.
    fn give(&mut self, pending: &mut Vec<u8>) {
        let Some(target) = &self.opened.stdin else { return };
        match rustix::io::write(target, pending) {
            Ok(count) => drop(pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                pending.clear();
                if !self.terminal {
                    self.opened.stdin = None;
                }
            }
        }
    }

    fn lost(&self) -> Error {
        let short = self.id.get(..12).unwrap_or(&self.id);
        Error::new(ErrorKind::Internal, format!("the supervisor of container `{short}` ended before its container"))
            .hint("the next `corten ps` repairs what it left")
    }
}

fn push<'a>(polled: &mut Vec<PollFd<'a>>, descriptor: BorrowedFd<'a>, flags: PollFlags) -> usize {
    polled.push(PollFd::from_borrowed_fd(descriptor, flags));
    polled.len() - 1
}

/// What reading a stream gave.
#[derive(PartialEq, Eq)]
enum Passed {
    Something,
    NothingNow,
    End,
}

/// Passes on what the program wrote; the pipe is closed at its end. Without a place to put it, it is dropped.
fn pass_on(pipe: &mut Option<OwnedFd>, target: Option<BorrowedFd<'_>>, buffer: &mut [u8]) -> Passed {
    let Some(source) = pipe else { return Passed::End };
    match rustix::io::read(source, &mut *buffer) {
        Ok(count @ 1..) => {
            // A caller whose terminal is gone hears of it by its own means.
            target.map(|target| write_all(target, &buffer[..count]).ok());
            Passed::Something
        }
        Err(Errno::AGAIN | Errno::INTR) => Passed::NothingNow,
        Ok(_) | Err(_) => {
            *pipe = None;
            Passed::End
        }
    }
}
