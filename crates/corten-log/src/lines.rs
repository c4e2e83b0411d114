//! Lines out of a stream that arrives in any pieces; a line longer than 16 KiB is cut, never inside a letter.

use crate::LogStream;

/// Longest piece of one record, bytes (docker's).
pub const PIECE_SIZE_BYTES_MAX: usize = 16 * 1024;

/// One line, or a piece of one that is too long.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Where it came from.
    pub stream: LogStream,
    /// With its line feed, where it ends a line.
    pub bytes: &'a [u8],
    /// When, seconds and nanoseconds since 1970.
    pub time: (i64, u32),
}

impl Piece<'_> {
    /// Whether a line ends here.
    pub fn is_whole(&self) -> bool {
        self.bytes.last() == Some(&b'\n')
    }

    /// Without the line feed.
    pub fn text(&self) -> &[u8] {
        self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes)
    }
}

/// What a stream gave since its last whole line.
#[derive(Debug)]
pub struct Lines {
    stream: LogStream,
    pending: Vec<u8>,
}

impl Lines {
    /// The lines of a stream.
    pub fn of(stream: LogStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Which stream.
    pub fn stream(&self) -> LogStream {
        self.stream
    }

    /// Takes what was read and gives every whole line and every full piece.
    pub fn push(&mut self, mut bytes: &[u8], time: (i64, u32), mut give: impl FnMut(Piece<'_>)) {
        let stream = self.stream;
        // The first line may have begun in an earlier read; the rest is taken from where it lies.
        while !self.pending.is_empty() && !bytes.is_empty() {
            let room = PIECE_SIZE_BYTES_MAX - self.pending.len().min(PIECE_SIZE_BYTES_MAX);
            let window = &bytes[..bytes.len().min(room.max(1))];
            let taken = memchr::memchr(b'\n', window).map_or(window.len(), |end| end + 1);
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let Some(length) = next_piece(&self.pending) {
                give(Piece { stream, bytes: &self.pending[..length], time });
                self.pending.drain(..length);
            }
        }
        while let Some(length) = next_piece(bytes) {
            give(Piece { stream, bytes: &bytes[..length], time });
            bytes = &bytes[length..];
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.is_empty() {
            self.pending.shrink_to(1024);
        }
    }

    /// What is left of a last line without an end.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

/// Length of the first line with its end, or of a full piece of a longer one.
fn next_piece(bytes: &[u8]) -> Option<usize> {
    let window = &bytes[..bytes.len().min(PIECE_SIZE_BYTES_MAX)];
    match memchr::memchr(b'\n', window) {
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
