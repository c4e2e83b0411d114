//! The streams of a task: FIFOs that containerd made and the client reads.
//!
//! Without a terminal the process has the FIFOs themselves, so that no byte is copied. The shim keeps the other ends open:
//! a reader that goes away and comes back ends nothing.

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::launch::null;
use crate::streams::non_blocking;

/// Bytes copied at a time between a terminal and its FIFOs.
const COPY_SIZE_BYTES: usize = 16 * 1024;

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
    /// The writing end of its input, until somebody closes that.
    input: Option<OwnedFd>,
    /// The other ends of its outputs.
    _outputs: Vec<OwnedFd>,
    /// The terminal.
    pub(super) relay: Option<Relay>,
}

impl Streams {
    /// Opens the FIFOs for a process that has them as its own.
    pub(super) fn open(paths: &Paths, owner: (u32, u32)) -> Result<(Self, [OwnedFd; 3])> {
        let (stdin, input) = open_input(&paths.stdin)?;
        let (stdout, held) = open_output(&paths.stdout, owner)?;
        let (stderr, held_too) = open_output(&paths.stderr, owner)?;
        let outputs = [held, held_too].into_iter().flatten().collect();
        Ok((Self { input, _outputs: outputs, relay: None }, [stdin, stdout, stderr]))
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
        Ok(Self { input, _outputs: held.into_iter().collect(), relay: Some(relay) })
    }

    /// Nothing more is typed.
    pub(super) fn close_input(&mut self) {
        self.input = None;
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
