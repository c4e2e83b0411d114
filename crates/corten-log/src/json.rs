//! Docker's records: `{"log":"…","stream":"…"[,"attrs":{…}],"time":"…"}`, one a line.

use corten_types::time::rfc3339;

use crate::{LogEntry, LogStream, Stamp};

/// Bytes that are looked at together.
const CHUNK_SIZE_BYTES: usize = 16;

/// Appends one record; `common` is what follows its text.
pub(crate) fn encode(records: &mut Vec<u8>, common: &[u8], bytes: &[u8]) {
    records.extend_from_slice(b"{\"log\":\"");
    escape(records, bytes);
    records.extend_from_slice(common);
}

/// Go leaves out trailing zeros of the fraction.
pub(crate) fn go_time(time: (i64, u32)) -> String {
    let text = rfc3339(time.0, time.1);
    let body = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{body}Z")
}

/// The inside of a JSON string, as Go's encoder of docker's log writes it: what is no UTF-8 becomes U+FFFD.
fn escape(records: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let plain = plain_length(bytes);
        records.extend_from_slice(&bytes[..plain]);
        bytes = &bytes[plain..];
        let Some(byte) = bytes.first() else { return };
        let taken = match byte {
            b'\n' => put(records, b"\\n"),
            b'\r' => put(records, b"\\r"),
            b'\t' => put(records, b"\\t"),
            b'"' => put(records, b"\\\""),
            b'\\' => put(records, b"\\\\"),
            0..=0x1f | 0x7f | b'<' | b'>' | b'&' => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                put(records, &[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)])
            }
            _ => letter(records, bytes),
        };
        bytes = &bytes[taken..];
    }
}

/// How many bytes at the front stand for themselves.
fn plain_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<CHUNK_SIZE_BYTES>() {
        // Without a branch for each byte: the compiler makes a few wide comparisons of it.
        if chunk.iter().fold(false, |found, byte| found | needs_care(*byte)) {
            break;
        }
        at += CHUNK_SIZE_BYTES;
    }
    at + bytes[at..].iter().position(|byte| needs_care(*byte)).unwrap_or(bytes.len() - at)
}

fn needs_care(byte: u8) -> bool {
    // As a signed number, whatever is beyond ASCII is small too; `<` and `>` differ in one bit.
    (byte.cast_signed() < 0x20)
        | (byte == 0x7f)
        | (byte == b'"')
        | (byte == b'\\')
        | (byte & 0xfd == b'<')
        | (byte == b'&')
}

fn put(records: &mut Vec<u8>, text: &[u8]) -> usize {
    records.extend_from_slice(text);
    1
}

/// One letter beyond ASCII, or one byte that begins none.
fn letter(records: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let window = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        // Line separators end a line for JavaScript: Go escapes them.
        Some(separator @ ('\u{2028}' | '\u{2029}')) => {
            records.extend_from_slice(format!("\\u{:04x}", u32::from(separator)).as_bytes());
            separator.len_utf8()
        }
        Some(letter) => {
            records.extend_from_slice(&bytes[..letter.len_utf8()]);
            letter.len_utf8()
        }
        None => put(records, b"\\ufffd"),
    }
}

/// One record, as our own writer and docker's put it; `scratch` takes a text that has to be put together.
pub(crate) fn parse<'a>(record: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<LogEntry<'a>> {
    let body = record.strip_prefix(b"{\"log\":\"")?;
    let special = memchr::memchr2(b'"', b'\\', body)?;
    let (bytes, ends_line, rest) = match &body[special..] {
        [b'"', rest @ ..] => (&body[..special], false, rest),
        // The usual end of a line: nothing follows but the quotation mark.
        [b'\\', b'n', b'"', rest @ ..] => (&body[..special], true, rest),
        _ => {
            let rest = unescape(body, special, scratch)?;
            let ends_line = scratch.last() == Some(&b'\n');
            scratch.truncate(scratch.len() - usize::from(ends_line));
            (scratch.as_slice(), ends_line, rest)
        }
    };
    let rest = rest.strip_prefix(b",\"stream\":\"std")?;
    let (stream, rest) = match rest.strip_prefix(b"out\"") {
        Some(rest) => (LogStream::Stdout, rest),
        None => (LogStream::Stderr, rest.strip_prefix(b"err\"")?),
    };
    let (details, rest) = match rest.strip_prefix(b",\"attrs\":") {
        Some(rest) => {
            let end = memchr::memmem::rfind(rest, b",\"time\":\"")?;
            (std::str::from_utf8(&rest[..end]).ok(), &rest[end..])
        }
        None => (None, rest),
    };
    let time = rest.strip_prefix(b",\"time\":\"")?;
    let stamp = std::str::from_utf8(&time[..memchr::memchr(b'"', time)?]).ok()?;
    Some(LogEntry { stamp: Stamp::Text(stamp), stream, bytes, ends_line, details })
}

/// Puts the text of a JSON string together, of which the first special byte is known; what follows its quotation mark.
fn unescape<'a>(body: &'a [u8], mut special: usize, text: &mut Vec<u8>) -> Option<&'a [u8]> {
    text.clear();
    let mut at = 0;
    loop {
        text.extend_from_slice(&body[at..special]);
        if body[special] == b'"' {
            return Some(&body[special + 1..]);
        }
        let (letter, taken) = escaped(&body[special + 1..])?;
        match letter {
            Letter::Byte(byte) => text.push(byte),
            Letter::Char(letter) => text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        at = special + 1 + taken;
        special = at + memchr::memchr2(b'"', b'\\', body.get(at..)?)?;
    }
}

enum Letter {
    Byte(u8),
    Char(char),
}

fn escaped(bytes: &[u8]) -> Option<(Letter, usize)> {
    let byte = match bytes.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        b'u' => return unicode(&bytes[1..]).map(|(letter, taken)| (Letter::Char(letter), taken + 1)),
        other => *other,
    };
    Some((Letter::Byte(byte), 1))
}

fn unicode(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |bytes: &[u8]| u32::from_str_radix(std::str::from_utf8(bytes.get(..4)?).ok()?, 16).ok();
    let first = unit(bytes)?;
    if (0xd800..0xdc00).contains(&first)
        && bytes.get(4..6) == Some(b"\\u")
        && let Some(second @ 0xdc00..0xe000) = bytes.get(6..).and_then(unit)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((char::from_u32(code)?, 10));
    }
    Some((char::from_u32(first).unwrap_or('\u{fffd}'), 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_or_becomes_the_replacement_letter() {
        for length in [0, 1, 15, 16, 17, 40] {
            for byte in 0..=u8::MAX {
                let mut bytes = vec![b'x'; length];
                bytes.push(byte);
                bytes.extend_from_slice(b"after");
                let mut record = Vec::new();
                encode(&mut record, b"\",\"stream\":\"stdout\",\"time\":\"t\"}", &bytes);
                let value: serde_json::Value = serde_json::from_slice(&record).unwrap();
                assert_eq!(value["log"], String::from_utf8_lossy(&bytes).into_owned(), "{byte:x}");
                let mut scratch = Vec::new();
                let entry = parse(&record, &mut scratch).unwrap();
                assert_eq!(entry.bytes, String::from_utf8_lossy(&bytes).as_bytes(), "{byte:x}");
            }
        }
    }
}
