//! A running container seen by the process that started it: streams, signals, the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_fs::atomic::write_all;
use corten_sys::{Call, signal};
use corten_types::shim::{Event, Request};
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::launch::Connection;

const SIGWINCH: i32 = 28;
/// Not forwarded: what cannot be caught, what the process raises itself, and what means the caller alone
/// (SIGKILL, SIGSTOP, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGPIPE, SIGCHLD, SIGURG).
const OWN: [i32; 12] = [9, 19, 4, 5, 6, 7, 8, 11, 31, 13, 17, 23];
/// Most typed bytes that wait for the program to read them.
const PENDING_SIZE_BYTES_MAX: usize = 64 * 1024;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 and the signal's number for one that was killed.
    pub code: u8,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
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
}

/// The caller's terminal, in raw mode (the caller's duty).
#[derive(Debug, Clone, Copy)]
pub struct Terminal<'a> {
    /// Typed bytes; `None` without `-i`.
    pub input: Option<BorrowedFd<'a>>,
    /// Shown bytes; also asked for its size.
    pub output: BorrowedFd<'a>,
}

/// A started container. Dropping it leaves the container running.
#[derive(Debug)]
pub struct Running {
    /// The container.
    pub id: String,
    /// Its first process on the host.
    pub pid: i32,
    pub(crate) connection: Connection,
    pub(crate) terminal: Option<OwnedFd>,
}

/// What one turn of the loop found ready.
#[derive(Default)]
struct Ready {
    socket: bool,
    signals: bool,
    shown: bool,
    room: bool,
    typed: bool,
}

impl Running {
    /// Stays until the container has ended: relays the terminal, forwards signals and sizes.
    pub fn attach(mut self, terminal: Option<Terminal<'_>>, signals: Option<&Signals>) -> Result<Exit> {
        let mut input = terminal.and_then(|terminal| terminal.input);
        let output = terminal.map(|terminal| terminal.output);
        let mut main = self.terminal.take();
        let mut pending = Vec::new();
        loop {
            if let Some(exit) = self.next_exit()? {
                main.iter().for_each(|main| while show(main, output) == Shown::Something {});
                return Ok(exit);
            }
            let ready = self.poll(main.as_ref(), input, signals, &pending)?;
            if ready.signals {
                self.forward(signals, main.as_ref(), output)?;
            }
            if let Some(side) = &main {
                if ready.typed {
                    input = input.filter(|input| take(*input, &mut pending));
                }
                if ready.room && !pending.is_empty() {
                    give(side, &mut pending);
                }
                if ready.shown && show(side, output) == Shown::End {
                    main = None;
                }
            }
            if ready.socket && !self.connection.receive()? {
                return Err(self.lost());
            }
        }
    }

    fn next_exit(&mut self) -> Result<Option<Exit>> {
        while let Some(event) = self.connection.next()? {
            // A signal that came too late (`Failed`) is no matter: the end follows.
            if let Event::Exited { code, oom_killed } = event {
                return Ok(Some(Exit { code, oom_killed }));
            }
        }
        Ok(None)
    }

    fn poll(
        &self,
        main: Option<&OwnedFd>,
        input: Option<BorrowedFd<'_>>,
        signals: Option<&Signals>,
        pending: &[u8],
    ) -> Result<Ready> {
        let mut polled = vec![PollFd::new(self.connection.socket(), PollFlags::IN)];
        let signals_at = signals.map(|signals| push(&mut polled, signals.0.as_fd(), PollFlags::IN));
        let main_at = main.map(|main| {
            let room = if pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            push(&mut polled, main.as_fd(), PollFlags::IN | room)
        });
        let wants_input = main.is_some() && pending.len() < PENDING_SIZE_BYTES_MAX;
        let input_at = input.filter(|_| wants_input).map(|input| push(&mut polled, input, PollFlags::IN));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        let at = |index: Option<usize>| index.map_or(PollFlags::empty(), |index| polled[index].revents());
        Ok(Ready {
            socket: !at(Some(0)).is_empty(),
            signals: !at(signals_at).is_empty(),
            shown: at(main_at).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            room: at(main_at).contains(PollFlags::OUT),
            typed: !at(input_at).is_empty(),
        })
    }

    fn forward(
        &mut self,
        signals: Option<&Signals>,
        main: Option<&OwnedFd>,
        output: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let Some(signals) = signals else { return Ok(()) };
        while let Some((number, _)) = signal::read_signal(signals.0.as_fd()).call(|| "read(<signalfd>)")? {
            if number != SIGWINCH {
                self.connection.send(&Request::Signal(number))?;
            } else if let (Some(main), Some(output)) = (main, output)
                && let Ok(size) = rustix::termios::tcgetwinsize(output)
            {
                // A terminal that just hung up has no size any more.
                rustix::termios::tcsetwinsize(main, size).ok();
            }
        }
        Ok(())
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

/// What reading the terminal's main side gave.
#[derive(PartialEq, Eq)]
enum Shown {
    Something,
    NothingNow,
    /// EIO: every process has closed its side.
    End,
}

/// Passes on what the program wrote; without a terminal of the caller's it is dropped, for the program must not block.
fn show(main: &OwnedFd, output: Option<BorrowedFd<'_>>) -> Shown {
    let mut buffer = [0; 16 * 1024];
    match rustix::io::read(main, &mut buffer) {
        Ok(count @ 1..) => {
            // A caller whose terminal is gone hears of it by its own means.
            output.map(|output| write_all(output, &buffer[..count]).ok());
            Shown::Something
        }
        Err(Errno::AGAIN | Errno::INTR) => Shown::NothingNow,
        Ok(_) | Err(_) => Shown::End,
    }
}

/// Takes what was typed; false at the end.
fn take(input: BorrowedFd<'_>, pending: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match rustix::io::read(input, &mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            pending.extend_from_slice(&buffer[..count]);
            true
        }
        Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
    }
}

fn give(main: &OwnedFd, pending: &mut Vec<u8>) {
    if let Ok(count) = rustix::io::write(main, pending) {
        pending.drain(..count);
    }
}
