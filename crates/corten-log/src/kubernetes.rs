//! CRI's records: `TIME STREAM P|F TEXT`.

use crate::{LogEntry, LogStream, Piece, Stamp};

pub(crate) fn encode(records: &mut Vec<u8>, common: &[u8], piece: Piece<'_>) {
    records.extend_from_slice(common);
    records.extend_from_slice(if piece.is_whole() { b"F " } else { b"P " });
    records.extend_from_slice(piece.text());
    records.push(b'\n');
}

/// One record, without its line feed.
pub(crate) fn parse(record: &[u8]) -> Option<LogEntry<'_>> {
    let end = memchr::memchr(b' ', record)?;
    let (stamp, rest) = (std::str::from_utf8(&record[..end]).ok()?, &record[end + 1..]);
    let (stream, rest) = match rest.strip_prefix(b"stdout ") {
        Some(rest) => (LogStream::Stdout, rest),
        None => (LogStream::Stderr, rest.strip_prefix(b"stderr ")?),
    };
    let (ends_line, bytes) = match rest.strip_prefix(b"F ") {
        Some(text) => (true, text),
        None => (false, rest.strip_prefix(b"P ")?),
    };
    Some(LogEntry { stamp: Stamp::Text(stamp), stream, bytes, ends_line, details: None })
}
