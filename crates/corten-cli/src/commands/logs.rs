//! `corten logs`

use std::collections::BTreeMap;

use corten_engine::{LogEntry, LogQuery, LogStream};
use corten_types::{Error, Result};

use super::{Context, now};
use crate::command_line::Parsed;
use crate::run::time::when;
use crate::{Failure, WRONG_FLAGS};

/// Bytes that are written at a time.
const BUFFER_SIZE_BYTES: usize = 128 * 1024;

/// Shows what a container printed.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let moment = |name: &str| {
        let text = parsed.last(name).filter(|text| !text.is_empty());
        text.map(|text| when(text, now()))
            .transpose()
            .map_err(|why| Error::invalid(format!("invalid value for \"{name}\": {why}")))
    };
    let tail = match parsed.last("tail") {
        None | Some("all" | "") => None,
        Some(text) => match text.parse::<i64>() {
            Ok(count) => usize::try_from(count).ok(),
            Err(_) => return Err(Failure::with_code(Error::invalid(format!("invalid tail: {text}")), WRONG_FLAGS)),
        },
    };
    let query = LogQuery { since: moment("since")?, until: moment("until")?, tail, follows: parsed.is_on("follow") };
    let engine = context.engine()?;
    let printer = std::cell::RefCell::new(Printer {
        context,
        timestamps: parsed.is_on("timestamps"),
        details: parsed.is_on("details"),
        stream: LogStream::Stdout,
        buffer: Vec::new(),
    });
    engine.logs(&parsed.operands[0], &query, &mut |entry| printer.borrow_mut().take(entry), &mut || {
        printer.borrow_mut().flush()
    })?;
    printer.into_inner().flush()?;
    Ok(0)
}

/// Puts records on the stream that they came from.
struct Printer<'a, 'b> {
    context: &'a mut Context<'b>,
    timestamps: bool,
    details: bool,
    /// Where the buffer goes.
    stream: LogStream,
    buffer: Vec<u8>,
}

impl Printer<'_, '_> {
    fn take(&mut self, entry: &LogEntry<'_>) -> Result<()> {
        if entry.stream != self.stream || self.buffer.len() >= BUFFER_SIZE_BYTES {
            self.flush()?;
            self.stream = entry.stream;
        }
        if self.timestamps {
            self.buffer.extend_from_slice(entry.stamp.text().as_bytes());
            self.buffer.push(b' ');
        }
        if self.details {
            let attributes: BTreeMap<String, String> =
                entry.details.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
            let words: Vec<_> = attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            self.buffer.extend_from_slice(words.join(",").as_bytes());
            self.buffer.push(b' ');
        }
        self.buffer.extend_from_slice(entry.bytes);
        if entry.ends_line {
            self.buffer.push(b'\n');
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let target = if self.stream == LogStream::Stdout { &mut *self.context.out } else { &mut *self.context.err };
        let written = target.write_all(&self.buffer).and_then(|()| target.flush());
        self.buffer.clear();
        written.map_err(|error| Error::from(error).context("cannot write the log"))
    }
}
