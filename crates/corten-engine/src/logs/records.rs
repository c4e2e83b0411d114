//! Records out of bytes, in the three forms that a supervisor writes.

use std::borrow::Cow;
use std::io::Read;

/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 256 * 1024;
/// Longest record, bytes: 16 KiB of text and what surrounds it fit many times. More is not ours.
const RECORD_SIZE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a local record before its text.
const LOCAL_HEADER_SIZE_BYTES: usize = 17;

/// Which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Local,
    Kubernetes,
}

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp<'a> {
    /// RFC 3339 as it was written; read only where somebody asks.
    Text(&'a str),
    /// Seconds and nanoseconds since 1970.
    Moment((i64, u32)),
}

impl Stamp<'_> {
    /// Seconds and nanoseconds since 1970.
    pub fn moment(&self) -> Option<(i64, u32)> {
        match self {
            Self::Moment(moment) => Some(*moment),
            Self::Text(text) => {
                let time = text.parse::<jiff::Timestamp>().ok()?;
                Some((time.as_second(), u32::try_from(time.subsec_nanosecond()).unwrap_or(0)))
            }
        }
    }

    /// RFC 3339 with nine digits, as `logs -t` shows it.
    pub fn text(&self) -> String {
        self.moment().map(|(seconds, nanos)| corten_types::time::rfc3339(seconds, nanos)).unwrap_or_default()
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// When.
    pub stamp: Stamp<'a>,
    /// Where.
    pub stream: LogStream,
    /// The text; with its line feed where it ends a line.
    pub bytes: Cow<'a, [u8]>,
    /// The JSON of what `--details` shows.
    pub details: Option<&'a str>,
}

/// Bytes as they are read, and the records in them.
pub(super) struct Records {
    form: Form,
    buffer: Vec<u8>,
    start: usize,
}

impl Records {
    pub(super) fn new(form: Form) -> Self {
        Self { form, buffer: Vec::new(), start: 0 }
    }

    /// Reads more behind what is there; false at the end.
    pub(super) fn fill(&mut self, source: &mut dyn Read) -> std::io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.len() > RECORD_SIZE_BYTES_MAX {
            self.buffer.clear();
        }
        let held = self.buffer.len();
        self.buffer.resize(held + READ_SIZE_BYTES, 0);
        let count = loop {
            match source.read(&mut self.buffer[held..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.buffer.truncate(held + *count.as_ref().unwrap_or(&0));
        Ok(count? > 0)
    }

    /// What a file ends with and what is no whole record is a crash's.
    pub(super) fn end_file(&mut self) {
        self.buffer.clear();
        self.start = 0;
    }

    /// Passes over every whole record; how many.
    pub(super) fn count_entries(&mut self) -> usize {
        let mut count = 0;
        while let Some(length) = self.next_length() {
            self.start += length;
            count += 1;
        }
        count
    }

    fn next_length(&self) -> Option<usize> {
        let rest = &self.buffer[self.start..];
        match self.form {
            Form::Json | Form::Kubernetes => line_feed(rest).map(|end| end + 1),
            Form::Local => {
                let length = usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?;
                let whole = LOCAL_HEADER_SIZE_BYTES.checked_add(length)?;
                (rest.len() >= whole).then_some(whole)
            }
        }
    }

    /// The next record; a line that is none is passed over.
    pub(super) fn next_entry(&mut self) -> Option<LogEntry<'_>> {
        loop {
            let length = self.next_length()?;
            let (from, to) = (self.start, self.start + length);
            self.start = to;
            if parse(self.form, &self.buffer[from..to]).is_some() {
                return parse(self.form, &self.buffer[from..to]);
            }
        }
    }
}

fn line_feed(bytes: &[u8]) -> Option<usize> {
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

fn parse(form: Form, record: &[u8]) -> Option<LogEntry<'_>> {
    match form {
        Form::Json => json(record),
        Form::Kubernetes => kubernetes(record),
        Form::Local => local(record),
    }
}

/// `{"log":"…","stream":"…"[,"attrs":{…}],"time":"…"}`, as our own writer and docker's put it.
fn json(record: &[u8]) -> Option<LogEntry<'_>> {
    let body = record.strip_prefix(b"{\"log\":\"")?;
    let (bytes, rest) = string(body)?;
    let rest = rest.strip_prefix(b",\"stream\":\"")?;
    let (stream, rest) = if let Some(rest) = rest.strip_prefix(b"stdout\"") {
        (LogStream::Stdout, rest)
    } else {
        (LogStream::Stderr, rest.strip_prefix(b"stderr\"")?)
    };
    let (details, rest) = match rest.strip_prefix(b",\"attrs\":") {
        Some(rest) => {
            let end = find(rest, b",\"time\":\"")?;
            (std::str::from_utf8(&rest[..end]).ok(), &rest[end..])
        }
        None => (None, rest),
    };
    let time = rest.strip_prefix(b",\"time\":\"")?;
    let end = time.iter().position(|byte| *byte == b'"')?;
    let stamp = Stamp::Text(std::str::from_utf8(&time[..end]).ok()?);
    Some(LogEntry { stamp, stream, bytes, details })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).rposition(|window| window == wanted)
}

/// The inside of a JSON string up to its quotation mark, and what follows that.
fn string(bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut text: Vec<u8> = Vec::new();
    let mut at = 0;
    loop {
        let special = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))? + at;
        if bytes[special] == b'"' {
            if text.is_empty() {
                return Some((Cow::Borrowed(&bytes[at..special]), &bytes[special + 1..]));
            }
            text.extend_from_slice(&bytes[at..special]);
            return Some((Cow::Owned(text), &bytes[special + 1..]));
        }
        if text.capacity() == 0 {
            text.reserve(special + 128);
        }
        text.extend_from_slice(&bytes[at..special]);
        let (letter, taken) = escaped(&bytes[special + 1..])?;
        match letter {
            Letter::Byte(byte) => text.push(byte),
            Letter::Char(letter) => text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        at = special + 1 + taken;
        // The usual end of a line: nothing follows but the quotation mark.
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

/// `TIME STREAM P|F TEXT`
fn kubernetes(record: &[u8]) -> Option<LogEntry<'_>> {
    let mut words = record.splitn(4, |byte| *byte == b' ');
    let stamp = Stamp::Text(std::str::from_utf8(words.next()?).ok()?);
    let stream = match words.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let (tag, text) = (words.next()?, words.next()?);
    let bytes = match tag {
        b"F" => text,
        b"P" => text.strip_suffix(b"\n")?,
        _ => return None,
    };
    Some(LogEntry { stamp, stream, bytes: Cow::Borrowed(bytes), details: None })
}

fn local(record: &[u8]) -> Option<LogEntry<'_>> {
    let (header, text) = record.split_at_checked(LOCAL_HEADER_SIZE_BYTES)?;
    let seconds = i64::from_le_bytes(header[4..12].try_into().ok()?);
    let nanos = u32::from_le_bytes(header[12..16].try_into().ok()?);
    let flags = header[16];
    let stream = if flags & 1 == 0 { LogStream::Stdout } else { LogStream::Stderr };
    let bytes = if flags & 2 == 0 { Cow::Owned([text, b"\n"].concat()) } else { Cow::Borrowed(text) };
    Some(LogEntry { stamp: Stamp::Moment((seconds, nanos)), stream, bytes, details: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(form: Form, bytes: &[u8]) -> Vec<(String, LogStream, String, Option<String>)> {
        let mut records = Records::new(form);
        let mut all = Vec::new();
        // Three bytes at a time, as if the file grew.
        for mut piece in bytes.chunks(3) {
            records.fill(&mut piece).unwrap();
            while let Some(entry) = records.next_entry() {
                all.push((
                    String::from_utf8_lossy(&entry.bytes).into_owned(),
                    entry.stream,
                    entry.stamp.text(),
                    entry.details.map(str::to_owned),
                ));
            }
        }
        all
    }

    #[test]
    fn docker_s_records_are_read() {
        let bytes = br#"{"log":"a\"\u00e9\u003c\ud83d\ude00\n","stream":"stderr","attrs":{"a":"b"},"time":"2026-01-02T03:04:05.5Z"}
no record
{"log":"","stream":"stdout","time":"2026-01-02T03:04:05Z"}
"#;
        let all = entries(Form::Json, bytes);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].0, "a\"é<😀\n");
        assert_eq!((all[0].1, all[0].2.as_str()), (LogStream::Stderr, "2026-01-02T03:04:05.500000000Z"));
        assert_eq!(all[0].3.as_deref(), Some("{\"a\":\"b\"}"));
        assert_eq!(all[1].0, "");
    }

    #[test]
    fn kubernetes_records_are_read() {
        let all = entries(Form::Kubernetes, b"2026-01-02T03:04:05Z stdout P par\n2026-01-02T03:04:05Z stderr F t x\n");
        assert_eq!((all[0].0.as_str(), all[1].0.as_str()), ("par", "t x\n"));
    }

    #[test]
    fn local_records_are_read_whatever_is_in_them() {
        let mut bytes = Vec::new();
        for (flags, text) in [(0u8, &b"x\ny\0"[..]), (3, b"cut")] {
            bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
            bytes.extend(1i64.to_le_bytes());
            bytes.extend(2u32.to_le_bytes());
            bytes.push(flags);
            bytes.extend(text);
        }
        let all = entries(Form::Local, &bytes);
        assert_eq!((all[0].0.as_str(), all[0].1), ("x\ny\0\n", LogStream::Stdout));
        assert_eq!((all[1].0.as_str(), all[1].1), ("cut", LogStream::Stderr));
        assert_eq!(all[0].2, "1970-01-01T00:00:01.000000002Z");
    }
}
