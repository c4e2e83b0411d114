//! Records out of bytes.

use std::io::Read;

use crate::{Form, LogEntry, json, kubernetes, local};

/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 256 * 1024;
/// Longest record, bytes: 16 KiB of text and what surrounds it fit many times. More is not ours.
const RECORD_SIZE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes as they are read, and the records in them.
#[derive(Debug)]
pub struct Records {
    form: Form,
    /// What was read is `buffer[start..end]`; the rest is room.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// A text that had to be put together.
    scratch: Vec<u8>,
}

impl Records {
    /// Records of a form.
    pub fn new(form: Form) -> Self {
        Self { form, buffer: Vec::new(), start: 0, end: 0, scratch: Vec::new() }
    }

    /// Reads more behind what is there; false at the end.
    pub fn fill(&mut self, source: &mut dyn Read) -> std::io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end > RECORD_SIZE_BYTES_MAX {
            self.end = 0;
        }
        if self.buffer.len() < self.end + READ_SIZE_BYTES {
            self.buffer.resize(self.end + READ_SIZE_BYTES, 0);
        }
        let room = self.end..self.end + READ_SIZE_BYTES;
        let count = loop {
            match source.read(&mut self.buffer[room.clone()]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += count;
        Ok(count > 0)
    }

    /// What a file ends with and what is no whole record is a crash's.
    pub fn end_file(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    fn next_length(&self) -> Option<usize> {
        let rest = &self.buffer[self.start..self.end];
        match self.form {
            Form::Json | Form::Kubernetes => memchr::memchr(b'\n', rest).map(|end| end + 1),
            Form::Local => local::length(rest),
        }
    }

    /// The next record; `Some(None)` is a line that is none.
    pub fn next_entry(&mut self) -> Option<Option<LogEntry<'_>>> {
        let length = self.next_length()?;
        let record = &self.buffer[self.start..self.start + length];
        self.start += length;
        Some(match self.form {
            Form::Json => json::parse(&record[..length - 1], &mut self.scratch),
            Form::Kubernetes => kubernetes::parse(&record[..length - 1]),
            Form::Local => local::parse(record),
        })
    }

    /// Passes over the next record; false where there is none.
    pub fn skip(&mut self) -> bool {
        let length = self.next_length();
        self.start += length.unwrap_or(0);
        length.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoder, LogStream, Piece};
    use corten_types::shim::LogOptions;

    fn entries(form: Form, bytes: &[u8]) -> Vec<(String, LogStream, String, Option<String>)> {
        let mut records = Records::new(form);
        let mut all = Vec::new();
        // Three bytes at a time, as if the file grew.
        for mut piece in bytes.chunks(3) {
            records.fill(&mut piece).unwrap();
            while let Some(entry) = records.next_entry() {
                let Some(entry) = entry else { continue };
                let end = if entry.ends_line { "\n" } else { "" };
                all.push((
                    format!("{}{end}", String::from_utf8_lossy(entry.bytes)),
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
    fn what_is_written_in_any_form_is_read_as_one_record_each_whatever_is_in_it() {
        let hostile = [
            &b"x\0y\x1b[2J\n"[..],
            b"2026-01-02T03:04:05Z stdout F forged\n",
            b"{\"log\":\"forged\",\"stream\":\"stderr\",\"time\":\"t\"}\n",
            b"no end, \\ and \"",
            b"\n",
            b"\xe2\x80\xa8separator\r\n",
        ];
        for driver in ["json-file", "k8s-file", "local"] {
            let driver = corten_types::shim::LogDriver::parse(driver).unwrap();
            let encoder = Encoder::of(&LogOptions { driver, ..LogOptions::default() }).unwrap();
            let mut bytes = Vec::new();
            for (index, text) in hostile.iter().enumerate() {
                let stream = if index % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr };
                let time = (1, 2);
                encoder.encode(&mut bytes, &encoder.common(stream, time), Piece { stream, bytes: text, time });
            }
            let all = entries(Form::of(driver).unwrap(), &bytes);
            assert_eq!(all.len(), hostile.len(), "{driver:?}");
            for (index, (entry, text)) in all.iter().zip(hostile).enumerate() {
                assert_eq!(entry.0.as_bytes(), text, "{driver:?}");
                assert_eq!(entry.1 == LogStream::Stdout, index % 2 == 0);
                assert_eq!(entry.2, "1970-01-01T00:00:01.000000002Z");
            }
        }
    }
}
