//! The streams of a task: FIFOs that containerd made and the client reads.
//!
//! Without a terminal the process has the outputs' FIFOs themselves, so that no byte is copied. The shim keeps the other ends
//! open: a reader that goes away and comes back ends nothing. The input comes through a pipe, into which the kernel moves it:
//! a FIFO that nobody has opened for writing yet would be at its end at once.

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use crate::launch::null;
use crate::streams::non_blocking;

/// Bytes copied at a time between a terminal and its FIFOs.
const COPY_SIZE_BYTES: usize = 16 * 1024;
/// Bytes moved at a time into a process's input.
const MOVE_SIZE_BYTES: usize = 64 * 1024;

/// Where a process's streams lead: paths, empty for nowhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) terminal: bool,
}

/// What the shim holds of a process's streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// What feeds its input, until that is at its end or somebody closes it.
    feed: Option<Feed>,
    /// The writing end of a terminal's FIFO, so that it has no end.
    _input: Option<OwnedFd>,
    /// The other ends of its outputs.
    _outputs: Vec<OwnedFd>,
    /// The terminal.
    pub(super) relay: Option<Relay>,
}

impl Streams {
    /// Opens the FIFOs for a process that has them as its own.
    pub(super) fn open(paths: &Paths, owner: (u32, u32)) -> Result<(Self, [OwnedFd; 3])> {
        let (stdin, feed) = Feed::open(&paths.stdin)?;
        let (stdout, held) = open_output(&paths.stdout, owner)?;
        let (stderr, held_too) = open_output(&paths.stderr, owner)?;
        let outputs = [held, held_too].into_iter().flatten().collect();
        Ok((Self { feed, _input: None, _outputs: outputs, relay: None }, [stdin, stdout, stderr]))
    }

    /// Opens the FIFOs that stand before a terminal.
    pub(super) fn open_terminal(paths: &Paths, main: OwnedFd) -> Result<Self> {
        let (stdin, input) = open_input(&paths.stdin)?;
        let (stdout, held) = open_output(&paths.stdout, (0, 0))?;
        let relay = Relay {
            main: Some(non_blocking(main)?),
            input: if paths.stdin.is_empty() { None } else { Some(non_blocking(stdin)?) },
            output: non_blocking(stdout)?,
            typed: Vec::new(),
            printed: Vec::new(),
        };
        Ok(Self { feed: None, _input: input, _outputs: held.into_iter().collect(), relay: Some(relay) })
    }

    /// Nothing more is typed.
    pub(super) fn close_input(&mut self) {
        // What was typed before is still passed on.
        if let Some(feed) = &mut self.feed {
            feed.closes = true;
        }
        self.serve();
    }

    /// Adds what is to be watched.
    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        if let Some(relay) = &self.relay {
            relay.watch(polled);
        }
        if let Some(feed) = &self.feed {
            polled.push(match feed.is_full {
                true => PollFd::new(&feed.pipe, PollFlags::OUT),
                false => PollFd::new(&feed.fifo, PollFlags::IN),
            });
        }
    }

    /// Moves what can be moved now.
    pub(super) fn serve(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.serve();
            if !relay.owes() {
                self.relay = None;
            }
        }
        if self.feed.as_mut().is_some_and(|feed| !feed.serve()) {
            self.feed = None;
        }
    }
}

/// Moves a FIFO's bytes into the pipe that is the process's input.
#[derive(Debug)]
struct Feed {
    fifo: OwnedFd,
    pipe: OwnedFd,
    is_full: bool,
    /// It ends as soon as nothing is there.
    closes: bool,
}

impl Feed {
    /// The process's input, and what feeds it.
    fn open(path: &str) -> Result<(OwnedFd, Option<Self>)> {
        if path.is_empty() {
            return Ok((null()?, None));
        }
        let fifo = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if !is_fifo(&fifo)? {
            return Ok((blocking(fifo)?, None));
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)")?;
        Ok((reader, Some(Self { fifo, pipe: non_blocking(writer)?, is_full: false, closes: false })))
    }

    /// Moves what is there; false at the end.
    fn serve(&mut self) -> bool {
        loop {
            // Asked first: without a writer so far there is nothing to read, but no end either.
            let mut polled = [PollFd::new(&self.fifo, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let found = poll(&mut polled, Some(&now)).map_or(PollFlags::empty(), |_| polled[0].revents());
            if !found.contains(PollFlags::IN) {
                return !self.closes && !found.contains(PollFlags::HUP);
            }
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            match splice(&self.fifo, None, &self.pipe, None, MOVE_SIZE_BYTES, flags) {
                Ok(1..) => self.is_full = false,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.is_full = true;
                    return true;
                }
                // The process reads no more.
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

/// The reading end for the process, and the writing end that keeps it open.
fn open_input(path: &str) -> Result<(OwnedFd, Option<OwnedFd>)> {
    if path.is_empty() {
        return Ok((null()?, None));
    }
    let reader = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    if !is_fifo(&reader)? {
        return Ok((blocking(reader)?, None));
    }
    let writer = open(path, OFlags::WRONLY | OFlags::NONBLOCK)?;
    Ok((blocking(reader)?, Some(writer)))
}

/// The writing end for the process, and the reading end that keeps it alive.
fn open_output(path: &str, owner: (u32, u32)) -> Result<(OwnedFd, Option<OwnedFd>)> {
    if path.is_empty() {
        return Ok((null()?, None));
    }
    if let Some(file) = path.strip_prefix("file://") {
        return Ok((open(file, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?, None));
    }
    if path.contains("://") {
        return Err(Error::new(ErrorKind::Unsupported, format!("output cannot be sent to `{path}`"))
            .hint("a FIFO or `file://PATH` can be had"));
    }
    let reader = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    if !is_fifo(&reader)? {
        return Ok((open(path, OFlags::WRONLY | OFlags::APPEND)?, None));
    }
    if owner != (0, 0) {
        // So that the program can open /dev/stdout by its name; where that is not allowed, it cannot.
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        rustix::fs::fchown(&reader, Some(uid), Some(gid)).ok();
    }
    Ok((open(path, OFlags::WRONLY)?, Some(reader)))
}

fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(0o640))
        .call(|| format!("open({path:?})"))
        .context(|| format!("cannot open the stream `{path}`"))
}

fn is_fifo(descriptor: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(descriptor).call(|| "fstat(<stream>)")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn blocking(descriptor: OwnedFd) -> Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&descriptor).call(|| "fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(&descriptor, flags - OFlags::NONBLOCK).call(|| "fcntl(F_SETFL)")?;
    Ok(descriptor)
}

/// Copies between a terminal and its FIFOs.
#[derive(Debug)]
pub(super) struct Relay {
    /// The terminal's main side, until its other side is closed.
    pub(super) main: Option<OwnedFd>,
    input: Option<OwnedFd>,
    output: OwnedFd,
    typed: Vec<u8>,
    printed: Vec<u8>,
}

impl Relay {
    /// Adds what is to be watched.
    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        let Some(main) = &self.main else {
            if !self.printed.is_empty() {
                polled.push(PollFd::new(&self.output, PollFlags::OUT));
            }
            return;
        };
        if self.printed.is_empty() {
            polled.push(PollFd::new(main, PollFlags::IN));
        } else {
            polled.push(PollFd::new(&self.output, PollFlags::OUT));
        }
        match &self.input {
            _ if !self.typed.is_empty() => polled.push(PollFd::new(main, PollFlags::OUT)),
            Some(input) => polled.push(PollFd::new(input, PollFlags::IN)),
            None => {}
        }
    }

    /// Moves what can be moved now.
    pub(super) fn serve(&mut self) {
        let mut buffer = [0; COPY_SIZE_BYTES];
        if let (Some(main), true) = (&self.main, self.printed.is_empty()) {
            match rustix::io::read(main, &mut buffer) {
                Ok(count @ 1..) => self.printed.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // EIO: nobody has the other side open any more.
                Ok(_) | Err(_) => self.main = None,
            }
        }
        write_some(&self.output, &mut self.printed);
        let Some(main) = &self.main else { return };
        if let (Some(input), true) = (&self.input, self.typed.is_empty()) {
            match rustix::io::read(input, &mut buffer) {
                Ok(count @ 1..) => self.typed.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(_) | Err(_) => self.input = None,
            }
        }
        write_some(main, &mut self.typed);
    }

    /// Whether something is still to be shown.
    pub(super) fn owes(&self) -> bool {
        self.main.is_some() || !self.printed.is_empty()
    }
}

fn write_some(target: impl AsFd, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    match rustix::io::write(target, bytes) {
        Ok(count) => drop(bytes.drain(..count)),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => bytes.clear(),
    }
}
