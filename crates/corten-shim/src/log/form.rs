//! The forms of a record in a file.

use std::collections::BTreeMap;

use corten_types::shim::{LogDriver, LogOptions};
use corten_types::time::rfc3339;

use super::{Piece, Stream};

/// How a record is written.
#[derive(Debug)]
pub(super) enum Form {
    /// Docker's json-file; the words between stream and time.
    Json(String),
    /// `LENGTH SECONDS NANOSECONDS FLAGS BYTES`, numbers little-endian: 4, 8, 4 and 1 bytes, then the text.
    Local,
    /// `TIME STREAM P|F TEXT`
    Kubernetes,
}

/// Bit of a local record's flags: standard error.
pub(super) const LOCAL_STDERR: u8 = 1;
/// Bit of a local record's flags: the line goes on in the next record.
pub(super) const LOCAL_PARTIAL: u8 = 2;

impl Form {
    pub(super) fn of(options: &LogOptions) -> Self {
        match options.driver {
            LogDriver::Local => Self::Local,
            LogDriver::K8sFile => Self::Kubernetes,
            _ => Self::Json(json_attributes(&options.attributes)),
        }
    }

    /// What every record of one read has in common.
    pub(super) fn stamp(&self, stream: Stream, time: (i64, u32)) -> String {
        let word = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        match self {
            Self::Json(attributes) => {
                // Go leaves out trailing zeros of the fraction.
                format!("\",\"stream\":\"{word}\"{attributes},\"time\":\"{}\"}}\n", go_time(time))
            }
            Self::Kubernetes => format!("{} {word} ", rfc3339(time.0, time.1)),
            Self::Local => String::new(),
        }
    }

    /// Appends one record.
    pub(super) fn encode(&self, records: &mut Vec<u8>, stamp: &str, piece: Piece<'_>) {
        match self {
            Self::Json(_) => {
                records.extend_from_slice(b"{\"log\":\"");
                escape(records, piece.bytes);
                records.extend_from_slice(stamp.as_bytes());
            }
            Self::Kubernetes => {
                records.extend_from_slice(stamp.as_bytes());
                records.extend_from_slice(if piece.is_whole() { b"F " } else { b"P " });
                records.extend_from_slice(piece.text());
                records.push(b'\n');
            }
            Self::Local => {
                let length = u32::try_from(piece.text().len()).unwrap_or(u32::MAX);
                let mut flags = if piece.stream == Stream::Stderr { LOCAL_STDERR } else { 0 };
                if !piece.is_whole() {
                    flags |= LOCAL_PARTIAL;
                }
                records.extend_from_slice(&length.to_le_bytes());
                records.extend_from_slice(&piece.time.0.to_le_bytes());
                records.extend_from_slice(&piece.time.1.to_le_bytes());
                records.push(flags);
                records.extend_from_slice(piece.text());
            }
        }
    }
}

fn go_time(time: (i64, u32)) -> String {
    let text = rfc3339(time.0, time.1);
    let body = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{body}Z")
}

/// `,"attrs":{…}`, or nothing.
fn json_attributes(attributes: &BTreeMap<String, String>) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    serde_json::to_string(attributes).map(|json| format!(",\"attrs\":{json}")).unwrap_or_default()
}

/// The inside of a JSON string, as Go's encoder of docker's log writes it: what is no UTF-8 becomes U+FFFD.
fn escape(records: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let plain = bytes.iter().position(|byte| NEEDS_CARE[usize::from(*byte)]).unwrap_or(bytes.len());
        records.extend_from_slice(&bytes[..plain]);
        bytes = &bytes[plain..];
        let Some(byte) = bytes.first() else { return };
        let taken = match byte {
            b'\n' => put(records, b"\\n"),
            b'\r' => put(records, b"\\r"),
            b'\t' => put(records, b"\\t"),
            b'"' => put(records, b"\\\""),
            b'\\' => put(records, b"\\\\"),
            0..=0x1f | 0x7f | b'<' | b'>' | b'&' => put(records, format!("\\u{byte:04x}").as_bytes()),
            _ => letter(records, bytes),
        };
        bytes = &bytes[taken..];
    }
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

const NEEDS_CARE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20
            || byte >= 0x7f
            || byte == b'"' as usize
            || byte == b'\\' as usize
            || byte == b'<' as usize
            || byte == b'>' as usize
            || byte == b'&' as usize;
        byte += 1;
    }
    table
};
