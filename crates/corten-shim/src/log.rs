//! A container's output in docker's json-file format: one record a line, lines longer than 16 KiB in pieces.

use std::os::fd::{AsFd, OwnedFd};

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_types::time::rfc3339;
use corten_types::{Context, Result};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

/// Longest piece of one record, bytes (docker's).
const PIECE_SIZE_BYTES_MAX: usize = 16 * 1024;

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Serialize)]
struct Record<'a> {
    log: &'a str,
    stream: Stream,
    time: &'a str,
}

/// The log's file.
#[derive(Debug)]
pub(crate) struct Log(OwnedFd);

/// What a stream gave since its last whole line.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Log {
    /// Opens `name` in the container's directory for appending.
    pub(crate) fn open(directory: &Root, name: &str) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
        directory
            .open(name, flags, Mode::from_raw_mode(0o640))
            .map(Self)
            .context(|| format!("cannot open the log `{name}`"))
    }

    fn append(&self, records: &[u8]) {
        // A full disk loses lines of the log; it must not stop the container.
        write_all(self.0.as_fd(), records).ok();
    }
}

impl Lines {
    pub(crate) fn of(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Takes what was read and writes every whole line and every full piece.
    pub(crate) fn push(&mut self, bytes: &[u8], log: &Log, now: (i64, u32)) {
        self.pending.extend_from_slice(bytes);
        let mut records = Vec::new();
        let mut start = 0;
        while let Some(length) = next_piece(&self.pending[start..]) {
            encode(&mut records, self.stream, &self.pending[start..start + length], now);
            start += length;
        }
        self.pending.drain(..start);
        log.append(&records);
    }

    /// Writes what is left of a last line without an end.
    pub(crate) fn finish(&mut self, log: &Log, now: (i64, u32)) {
        if !self.pending.is_empty() {
            let mut records = Vec::new();
            encode(&mut records, self.stream, &self.pending, now);
            self.pending.clear();
            log.append(&records);
        }
    }
}

/// Length of the first line with its end, or of a full piece of a longer one.
fn next_piece(bytes: &[u8]) -> Option<usize> {
    let window = &bytes[..bytes.len().min(PIECE_SIZE_BYTES_MAX)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => Some(end + 1),
        None if window.len() == PIECE_SIZE_BYTES_MAX => Some(whole_letters(window)),
        None => None,
    }
}

/// Length without a UTF-8 sequence that is cut at the end.
fn whole_letters(window: &[u8]) -> usize {
    let last = window.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80);
    match last {
        Some(back) if window[window.len() - 1 - back] >= 0xc0 => {
            let lead = window.len() - 1 - back;
            if std::str::from_utf8(&window[lead..]).is_ok() { window.len() } else { lead }
        }
        _ => window.len(),
    }
}

fn encode(records: &mut Vec<u8>, stream: Stream, piece: &[u8], now: (i64, u32)) {
    let record = Record { log: &String::from_utf8_lossy(piece), stream, time: &rfc3339(now.0, now.1) };
    if serde_json::to_writer(&mut *records, &record).is_ok() {
        records.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open_ambient(directory.path()).unwrap();
        let log = Log::open(&root, "log").unwrap();
        let mut lines = Lines::of(Stream::Stderr);
        for piece in pieces {
            lines.push(piece, &log, (0, 7));
        }
        lines.finish(&log, (0, 7));
        let content = String::from_utf8(root.read("log", 1 << 20).unwrap()).unwrap();
        let record = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["stream"], "stderr");
            (value["log"].as_str().unwrap().to_owned(), value["time"].as_str().unwrap().to_owned())
        };
        content.lines().map(record).collect()
    }

    #[test]
    fn every_line_is_a_record_however_it_arrives() {
        let records = logged(&[b"on", b"e\ntwo\n\n", b"thr\"ee\xff"]);
        let texts: Vec<&str> = records.iter().map(|record| record.0.as_str()).collect();
        assert_eq!(texts, ["one\n", "two\n", "\n", "thr\"ee\u{fffd}"]);
        assert_eq!(records[0].1, "1970-01-01T00:00:00.000000007Z");
    }

    #[test]
    fn a_long_line_comes_in_pieces_that_cut_no_letter() {
        let mut line = vec![b'x'; PIECE_SIZE_BYTES_MAX - 1];
        line.extend("é".as_bytes());
        line.extend(b"end\n");
        let records = logged(&[&line]);
        assert_eq!(records.iter().map(|record| record.0.len()).collect::<Vec<_>>(), [PIECE_SIZE_BYTES_MAX - 1, 6]);
        assert_eq!(records[1].0, "éend\n");
    }
}
