//! A container's output, kept: lines are cut out of the streams, put into the driver's form, and written.
//!
//! ```text
//! DIRECTORY/ID-json.log     json-file; container.log is `local`'s, ctr.log is `k8s-file`'s
//! DIRECTORY/NAME.1 …        what was rotated away, newest first; NAME.1.gz where it is compressed
//! ```

mod datagram;
mod file;

use corten_log::{Encoder, Lines, Piece};
use corten_types::shim::{Launch, LogDriver};
use corten_types::{Error, Result};
use rustix::process::Pid;

use crate::launch::Place;
pub(crate) use file::compress;

/// Where the output goes.
#[derive(Debug)]
enum Target {
    None,
    File(Box<file::Log>, Encoder),
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
                let encoder = Encoder::of(options).ok_or_else(|| Error::invalid("this log has no form"))?;
                let name = options.file_name(&launch.id).ok_or_else(|| Error::invalid("this log has no file"))?;
                let log = file::Log::open(&place.directory, &launch.directory, name, options)?;
                Target::File(Box::new(log), encoder)
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
            Target::File(log, encoder) => {
                let common = encoder.common(lines.stream(), time);
                lines.push(bytes, time, |piece| encoder.encode(&mut self.records, &common, piece));
                log.append(&self.records);
                self.records.clear();
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
            Target::File(log, encoder) => {
                let common = encoder.common(lines.stream(), time);
                encoder.encode(&mut self.records, &common, piece);
                log.append(&self.records);
                self.records.clear();
            }
            Target::Datagrams(log) => log.send(piece),
        }
    }

    /// Nothing comes at this moment: the buffer that a burst left is given back, for idle containers are many.
    pub(crate) fn rest(&mut self) {
        self.records = Vec::new();
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
