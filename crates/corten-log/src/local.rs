//! Compact records: `LENGTH SECONDS NANOSECONDS FLAGS TEXT LENGTH`, numbers little-endian: 4, 8, 4, 1 and 4 bytes. The length
//! is the text's; it stands at both ends, so that the last records are found from behind.

use crate::{LogEntry, LogStream, Piece, Stamp};

/// Bytes before the text.
const HEADER_SIZE_BYTES: usize = 17;
/// Bytes behind it.
pub(crate) const TRAILER_SIZE_BYTES: usize = 4;
/// Bit of the flags: standard error.
const STDERR: u8 = 1;
/// Bit of the flags: the line goes on in the next record.
const PARTIAL: u8 = 2;

pub(crate) fn encode(records: &mut Vec<u8>, piece: Piece<'_>) {
    let text = piece.text();
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut flags = if piece.stream == LogStream::Stderr { STDERR } else { 0 };
    if !piece.is_whole() {
        flags |= PARTIAL;
    }
    records.extend_from_slice(&length);
    records.extend_from_slice(&piece.time.0.to_le_bytes());
    records.extend_from_slice(&piece.time.1.to_le_bytes());
    records.push(flags);
    records.extend_from_slice(text);
    records.extend_from_slice(&length);
}

/// Length of the record at the front; `None` while it is incomplete.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let whole = whole(bytes)?;
    (bytes.len() >= whole).then_some(whole)
}

/// Length of the record whose first or last four bytes are these.
pub(crate) fn whole(bytes: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    length.checked_add(HEADER_SIZE_BYTES + TRAILER_SIZE_BYTES)
}

pub(crate) fn parse(record: &[u8]) -> Option<LogEntry<'_>> {
    let (header, rest) = record.split_at_checked(HEADER_SIZE_BYTES)?;
    let seconds = i64::from_le_bytes(header[4..12].try_into().ok()?);
    let nanos = u32::from_le_bytes(header[12..16].try_into().ok()?);
    let flags = header[16];
    let stream = if flags & STDERR == 0 { LogStream::Stdout } else { LogStream::Stderr };
    let bytes = rest.get(..rest.len().checked_sub(TRAILER_SIZE_BYTES)?)?;
    Some(LogEntry {
        stamp: Stamp::Moment((seconds, nanos)),
        stream,
        bytes,
        ends_line: flags & PARTIAL == 0,
        details: None,
    })
}
