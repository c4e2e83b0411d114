//! The program's streams: read once, kept in the log, passed on to whoever is attached.
//!
//! A client gets a pipe of its own for each stream and the writing end of the program's input itself (or the terminal's
//! main side), so that the supervisor copies each byte of output once and no byte of input.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_log::{Lines, LogStream as Stream};
use corten_sys::Call;
use corten_types::shim::{Attach, Launch, Streams as Wanted};
use corten_types::{Error, ErrorKind, Result};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::launch::{self, Place};
use crate::log::Log;

/// Bytes read at a time from a stream that is quiet, and from one that is not.
const READ_SIZES_BYTES: (usize, usize) = (4 * 1024, 64 * 1024);
/// Room of a busy stream's pipe, where the kernel grants it.
const PIPE_SIZE_BYTES: usize = 256 * 1024;

/// One stream of the program.
struct Output {
    source: OwnedFd,
    stream: Stream,
    lines: Lines,
    /// It gave as much as was asked for: its pipe was made larger.
    is_busy: bool,
}

/// What reading a stream gave.
#[derive(PartialEq, Eq)]
enum Progress {
    Something,
    NothingNow,
    End,
}

/// A client's end of one stream.
struct Spout {
    pipe: OwnedFd,
    stream: Stream,
    /// What its reader has not taken yet.
    pending: Vec<u8>,
    /// Nothing more comes: closed as soon as everything was taken.
    ends: bool,
}

/// Every stream of one container.
pub(crate) struct Streams {
    wanted: Wanted,
    outputs: Vec<Output>,
    spouts: Vec<Spout>,
    /// The writing end of the program's input.
    input: Option<OwnedFd>,
    /// The terminal's main side.
    terminal: Option<OwnedFd>,
    log: Log,
    /// What was read last; small while all is quiet, for idle containers are many.
    buffer: Vec<u8>,
}

/// Descriptors for a client that attaches: input, output, error.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Opened {
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsFd::as_fd).collect()
    }
}

impl Streams {
    /// The streams of a launch, and what the program gets of them (`None` with a terminal, which the runtime makes).
    pub(crate) fn open(
        launch: &Launch,
        place: &Place,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Self, Option<[OwnedFd; 3]>)> {
        let mut streams = Self {
            wanted: launch.streams,
            outputs: Vec::new(),
            spouts: Vec::new(),
            input: None,
            terminal: None,
            log: Log::none(),
            buffer: Vec::new(),
        };
        if launch.streams == Wanted::Inherited {
            let stdio = descriptors.try_into();
            let missing = |_| Error::invalid("three streams must come beside a launch that inherits them");
            return Ok((streams, Some(stdio.map_err(missing)?)));
        }
        streams.log = Log::open(launch, place)?;
        let stdio = streams.renew(launch)?;
        Ok((streams, stdio))
    }

    /// New pipes for another start.
    pub(crate) fn renew(&mut self, launch: &Launch) -> Result<Option<[OwnedFd; 3]>> {
        if has_terminal(launch) {
            return Ok(None);
        }
        if self.wanted == Wanted::Inherited {
            return Ok(Some([launch::null()?, launch::null()?, launch::null()?]));
        }
        let (out_source, out) = pipe()?;
        let (error_source, error) = pipe()?;
        self.outputs = vec![Output::new(out_source, Stream::Stdout)?, Output::new(error_source, Stream::Stderr)?];
        let input = if launch.open_stdin {
            let (input, writer) = pipe()?;
            self.input = Some(non_blocking(writer)?);
            input
        } else {
            launch::null()?
        };
        Ok(Some([input, out, error]))
    }

    /// The terminal's main side, once the program has it.
    pub(crate) fn take_terminal(&mut self, main: Option<OwnedFd>, launch: &Launch) -> Result<()> {
        if let Some(main) = main {
            self.outputs = vec![Output::new(main.try_clone()?, Stream::Stdout)?];
            self.terminal = Some(main);
            if launch.open_stdin {
                self.input = None;
            }
        }
        Ok(())
    }

    /// Opens streams for a client.
    pub(crate) fn attach(&mut self, wanted: Attach, launch: &Launch) -> Result<Opened> {
        if self.wanted == Wanted::Inherited {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the container's streams are those of the command that runs it (`--log-driver none`)",
            ));
        }
        let mut opened = Opened::default();
        if wanted.stdout {
            opened.stdout = Some(self.add_spout(Stream::Stdout)?);
        }
        if wanted.stderr && self.terminal.is_none() {
            opened.stderr = Some(self.add_spout(Stream::Stderr)?);
        }
        if let Some(main) = &self.terminal {
            // Also without input: the size is set through it.
            opened.stdin = Some(main.try_clone()?);
        } else if wanted.stdin {
            opened.stdin = match launch.stdin_once {
                true => self.input.take(),
                false => self.input.as_ref().map(OwnedFd::try_clone).transpose()?,
            };
        }
        Ok(opened)
    }

    fn add_spout(&mut self, stream: Stream) -> Result<OwnedFd> {
        let (reader, writer) = pipe()?;
        rustix::pipe::fcntl_setpipe_size(&writer, PIPE_SIZE_BYTES).ok();
        let ends = self.outputs.iter().all(|output| output.stream != stream);
        self.spouts.push(Spout { pipe: non_blocking(writer)?, stream, pending: Vec::new(), ends });
        Ok(reader)
    }

    /// What is to be watched: descriptors with what is awaited.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let outputs = self.outputs.iter().map(|output| {
            // Nobody's reader is outrun: the stream waits for the slowest.
            match self.spouts.iter().find(|spout| spout.stream == output.stream && !spout.pending.is_empty()) {
                // Not the stream itself without flags: a hang-up is told also to those who did not ask.
                Some(slow) => (slow.pipe.as_fd(), PollFlags::OUT),
                None => (output.source.as_fd(), PollFlags::IN),
            }
        });
        outputs.chain(self.spouts.iter().map(|spout| {
            let wanted = if spout.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            (spout.pipe.as_fd(), wanted)
        }))
    }

    /// Deals with what [`Streams::watched`] found ready, in the same order.
    pub(crate) fn serve(&mut self, ready: &[PollFlags]) {
        let (outputs, spouts) = ready.split_at(self.outputs.len().min(ready.len()));
        for (index, flags) in spouts.iter().enumerate().rev() {
            if !flags.is_empty() && !self.spouts[index].drain() {
                self.spouts.remove(index);
            }
        }
        for (index, flags) in outputs.iter().enumerate().rev() {
            let stream = self.outputs[index].stream;
            let full = self.spouts.iter().any(|spout| spout.stream == stream && !spout.pending.is_empty());
            if !flags.is_empty() && !full && self.read(index) == Progress::End {
                self.end_output(index);
            }
        }
    }

    /// Reads once.
    fn read(&mut self, index: usize) -> Progress {
        let output = &mut self.outputs[index];
        let size = if output.is_busy { READ_SIZES_BYTES.1 } else { READ_SIZES_BYTES.0 };
        if self.buffer.len() != size {
            self.buffer = vec![0; size];
        }
        match rustix::io::read(&output.source, &mut self.buffer) {
            Ok(count) if count > 0 => {
                let bytes = &self.buffer[..count];
                if count == size && !output.is_busy {
                    output.is_busy = true;
                    // The user's share of pipe memory may be used up: the usual size does as well. A terminal has none.
                    rustix::pipe::fcntl_setpipe_size(&output.source, PIPE_SIZE_BYTES).ok();
                }
                self.log.push(&mut output.lines, bytes, corten_types::time::now());
                let stream = output.stream;
                self.spouts.retain_mut(|spout| spout.stream != stream || spout.give(bytes));
                Progress::Something
            }
            Err(Errno::AGAIN | Errno::INTR) => Progress::NothingNow,
            // The end: no bytes from a pipe, EIO from a terminal.
            Ok(_) | Err(_) => Progress::End,
        }
    }

    fn end_output(&mut self, index: usize) {
        let mut output = self.outputs.remove(index);
        self.log.finish(&mut output.lines, corten_types::time::now());
        if self.outputs.iter().all(|other| other.stream != output.stream) {
            self.spouts.retain_mut(|spout| spout.stream != output.stream || spout.end());
        }
    }

    /// The program has ended: takes what the streams still hold, and lets go of everything that is not owed to a client.
    ///
    /// They may stay open in a process outside: what is there now is all.
    pub(crate) fn end(&mut self) {
        while let Some(index) = self.outputs.len().checked_sub(1) {
            while self.read(index) == Progress::Something {}
            self.end_output(index);
        }
        self.input = None;
        self.terminal = None;
        self.spouts.retain_mut(Spout::end);
        self.log.flush();
    }

    /// Nothing happened for a while: gives back the memory that a burst took.
    pub(crate) fn rest(&mut self) {
        if self.buffer.len() > READ_SIZES_BYTES.0 {
            self.buffer = Vec::new();
            self.log.rest();
            self.outputs.iter_mut().for_each(|output| output.is_busy = false);
        }
    }

    /// Whether a burst's memory is held.
    pub(crate) fn is_busy(&self) -> bool {
        self.buffer.len() > READ_SIZES_BYTES.0
    }

    /// Whether clients still have to take something.
    pub(crate) fn owes(&self) -> bool {
        self.spouts.iter().any(|spout| !spout.pending.is_empty())
    }

    /// The log.
    pub(crate) fn log(&mut self) -> &mut Log {
        &mut self.log
    }
}

impl Output {
    fn new(source: OwnedFd, stream: Stream) -> Result<Self> {
        Ok(Self { source: non_blocking(source)?, stream, lines: Lines::of(stream), is_busy: false })
    }
}

impl Spout {
    /// Passes bytes on; false where the reader is gone.
    fn give(&mut self, bytes: &[u8]) -> bool {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            return true;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.pipe, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.pending.extend_from_slice(rest);
                    return true;
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Passes on what waits; false where the reader is gone or has everything.
    fn drain(&mut self) -> bool {
        if self.pending.is_empty() {
            // Only a hang-up wakes us then.
            return false;
        }
        let waiting = std::mem::take(&mut self.pending);
        self.give(&waiting) && !(self.ends && self.pending.is_empty())
    }

    /// Nothing more comes; false where it can be closed.
    fn end(&mut self) -> bool {
        self.ends = true;
        !self.pending.is_empty()
    }
}

pub(crate) fn has_terminal(launch: &Launch) -> bool {
    launch.spec.process.as_ref().is_some_and(|process| process.terminal)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)")
}

pub(crate) fn non_blocking(descriptor: OwnedFd) -> Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&descriptor).call(|| "fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).call(|| "fcntl(F_SETFL, O_NONBLOCK)")?;
    Ok(descriptor)
}
