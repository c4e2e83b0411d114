//! A container's output, kept: lines are cut out of the streams, put into the driver's form, and written.
//!
//! ```text
//! DIRECTORY/ID-json.log     json-file; container.log is `local`'s, ctr.log is `k8s-file`'s
//! DIRECTORY/NAME.1 …        what was rotated away, newest first; NAME.1.gz where it is compressed
//! ```

mod datagram;
mod file;
mod form;
mod lines;

use corten_types::shim::{Launch, LogDriver};
use corten_types::{Error, Result};
use rustix::process::Pid;
use serde::Serialize;

use crate::launch::Place;
pub(crate) use file::compress;
use form::Form;
pub(crate) use lines::Lines;

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One line, or a piece of one that is too long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    stream: Stream,
    /// With its line feed, where it ends a line.
    bytes: &'a [u8],
    time: (i64, u32),
}

impl Piece<'_> {
    fn is_whole(&self) -> bool {
        self.bytes.last() == Some(&b'\n')
    }

    /// Without the line feed.
    fn text(&self) -> &[u8] {
        self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes)
    }
}

/// Where the output goes.
#[derive(Debug)]
enum Target {
    None,
    File(Box<file::Log>, Form),
    Datagrams(Box<datagram::Log>),
}

/// The log of one container.
#[derive(Debug)]
pub(crate) struct Log {
    target: Target,
    records: Vec<u8>,
}

impl Log {
    /// Opens what the launch asks for; what is not there is refused.
    pub(crate) fn open(launch: &Launch, place: &Place) -> Result<Self> {
        let options = &launch.log;
        let target = match options.driver {
            LogDriver::None => Target::None,
            LogDriver::Journald | LogDriver::Syslog => {
                Target::Datagrams(Box::new(datagram::Log::open(options, &launch.id, &launch.attributes)?))
            }
            LogDriver::JsonFile | LogDriver::Local | LogDriver::K8sFile => {
                let name = options.file_name(&launch.id).ok_or_else(|| Error::invalid("this log has no file"))?;
                let log = file::Log::open(&place.directory, &launch.directory, name, options)?;
                Target::File(Box::new(log), Form::of(options))
            }
        };
        Ok(Self { target, records: Vec::new() })
    }

    /// Keeps nothing.
    pub(crate) fn none() -> Self {
        Self { target: Target::None, records: Vec::new() }
    }

    /// Takes what a stream gave.
    pub(crate) fn push(&mut self, lines: &mut Lines, bytes: &[u8], time: (i64, u32)) {
        match &mut self.target {
            Target::None => {}
            Target::File(log, form) => {
                let stamp = form.stamp(lines.stream(), time);
                lines.push(bytes, time, |piece| form.encode(&mut self.records, &stamp, piece));
                log.append(&self.records);
                self.records.clear();
                // Idle containers are many: a buffer that a burst left is given back.
                self.records.shrink_to(4096);
            }
            Target::Datagrams(log) => lines.push(bytes, time, |piece| log.send(piece)),
        }
    }

    /// Takes what is left of a last line without an end.
    pub(crate) fn finish(&mut self, lines: &mut Lines, time: (i64, u32)) {
        let rest = lines.rest();
        if rest.is_empty() {
            return;
        }
        let piece = Piece { stream: lines.stream(), bytes: &rest, time };
        match &mut self.target {
            Target::None => {}
            Target::File(log, form) => {
                let stamp = form.stamp(lines.stream(), time);
                form.encode(&mut self.records, &stamp, piece);
                log.append(&self.records);
                self.records.clear();
            }
            Target::Datagrams(log) => log.send(piece),
        }
    }

    /// A child that compresses has ended.
    pub(crate) fn reaped(&mut self, pid: Pid) {
        if let Target::File(log, _) = &mut self.target {
            log.reaped(pid);
        }
    }

    /// Pieces that were lost.
    pub(crate) fn drops(&self) -> u64 {
        match &self.target {
            Target::None => 0,
            Target::File(log, _) => log.drops(),
            Target::Datagrams(log) => log.drops(),
        }
    }

    /// Sends what still waits.
    pub(crate) fn flush(&mut self) {
        if let Target::Datagrams(log) = &mut self.target {
            log.flush();
        }
    }
}

#[cfg(test)]
mod tests;
