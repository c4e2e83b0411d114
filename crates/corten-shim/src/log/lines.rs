//! Lines out of a stream that arrives in any pieces; a line longer than 16 KiB is cut, never inside a letter.

use super::{Piece, Stream};

/// Longest piece of one record, bytes (docker's).
pub(super) const PIECE_SIZE_BYTES_MAX: usize = 16 * 1024;

/// What a stream gave since its last whole line.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Lines {
    pub(crate) fn of(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    /// Takes what was read and gives every whole line and every full piece.
    pub(super) fn push(&mut self, mut bytes: &[u8], time: (i64, u32), mut give: impl FnMut(Piece<'_>)) {
        let stream = self.stream;
        // The first line may have begun in an earlier read; the rest is taken from where it lies.
        while !self.pending.is_empty() && !bytes.is_empty() {
            let room = PIECE_SIZE_BYTES_MAX - self.pending.len().min(PIECE_SIZE_BYTES_MAX);
            let window = &bytes[..bytes.len().min(room.max(1))];
            let taken = window.iter().position(|byte| *byte == b'\n').map_or(window.len(), |end| end + 1);
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
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

/// Length of the first line with its end, or of a full piece of a longer one.
fn next_piece(bytes: &[u8]) -> Option<usize> {
    let window = &bytes[..bytes.len().min(PIECE_SIZE_BYTES_MAX)];
    match memchr(window) {
        Some(end) => Some(end + 1),
        None if window.len() == PIECE_SIZE_BYTES_MAX => Some(whole_letters(window)),
        None => None,
    }
}

/// The first line feed, eight bytes at a time.
fn memchr(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk) ^ (ONES * 0x0a);
        let found = word.wrapping_sub(ONES) & !word & TOPS;
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes[at..].iter().position(|byte| *byte == b'\n').map(|place| at + place)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_feed_is_found_wherever_it_is() {
        for length in 0..40 {
            let mut bytes = vec![b'\x0b'; length];
            assert_eq!(memchr(&bytes), None);
            for place in (0..length).rev() {
                bytes[place] = b'\n';
                assert_eq!(memchr(&bytes), Some(place), "{length} {place}");
            }
        }
    }
}
