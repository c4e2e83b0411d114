//! Where the runtime's own messages go: standard error, and with `--log` the file that engines read the last error from.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use corten_runtime::runtime::Started;
use corten_types::{Error, Result};
use serde::Serialize;

use super::arguments::Arguments;
use crate::Environment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    form: Form,
    debug: bool,
}

/// One line of the JSON log, in logrus' order.
#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: &'a str,
}

impl Log {
    /// Text on standard error.
    pub(super) fn standard() -> Self {
        Self { file: None, form: Form::Text, debug: false }
    }

    /// What `--log`, `--log-format`, `--log-level` and `--debug` ask for.
    pub(super) fn open(globals: &Arguments, environment: &Environment) -> Result<Self> {
        let form = match globals.text("log-format") {
            None | Some("text") => Form::Text,
            Some("json") => Form::Json,
            Some(other) => {
                return Err(Error::invalid(format!("invalid log-format: {other}")).hint("use `text` or `json`"));
            }
        };
        let debug = match globals.text("log-level") {
            None => globals.is_set("debug"),
            Some("debug") => true,
            Some("error" | "warning" | "warn" | "info") => globals.is_set("debug"),
            Some(other) => {
                return Err(Error::invalid(format!("invalid log level `{other}`"))
                    .hint("use `error`, `warning`, `info` or `debug`"));
            }
        };
        let file = match globals.text("log") {
            None => None,
            Some(path) => {
                let path = environment.absolute(path);
                let open = std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(&path);
                let file =
                    open.map_err(|error| Error::from(error).context(format!("cannot open log file {path:?}")))?;
                Some(file)
            }
        };
        Ok(Self { file, form, debug })
    }

    /// A failure: into the log, and onto standard error for whoever watches.
    pub(super) fn error(&self, error: &Error) {
        if self.file.is_some() {
            self.line("error", &error.one_line());
            to_stderr(&error.one_line());
        } else if self.form == Form::Text && std::io::stderr().is_terminal() {
            to_stderr(&error.report());
        } else {
            self.line("error", &error.one_line());
        }
    }

    /// Something that does not stop the command.
    pub(super) fn warn(&self, message: &str) {
        self.line("warning", message);
    }

    /// Several of them.
    pub(super) fn warn_all(&self, messages: &[String]) {
        messages.iter().for_each(|message| self.warn(message));
    }

    /// A step, with `--debug`.
    pub(super) fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.line("debug", &message());
        }
    }

    /// What there is to say of a process that was started.
    pub(super) fn started(&self, started: &Started) {
        started.notes.iter().for_each(|note| self.debug(|| note.clone()));
        self.warn_all(&started.warnings);
    }

    fn line(&self, level: &str, message: &str) {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let text = match self.form {
            Form::Json => serde_json::to_string(&Line { level, msg: message, time: &time }).unwrap_or_default(),
            Form::Text => format!("time=\"{time}\" level={level} msg={}", quoted(message)),
        };
        match self.file.as_ref() {
            // A full disk must not turn a failure into another one.
            Some(mut file) => drop(file.write_all(format!("{text}\n").as_bytes())),
            None => to_stderr(&text),
        }
    }
}

fn to_stderr(text: &str) {
    drop(std::io::stderr().lock().write_all(format!("{text}\n").as_bytes()));
}

/// As logrus quotes: only what is not a bare word, control characters escaped.
fn quoted(message: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !message.is_empty() && message.chars().all(bare) {
        return message.to_owned();
    }
    let mut text = String::from('"');
    for c in message.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("two words"), "\"two words\"");
        assert_eq!(quoted("a\n\"b\"\u{1b}[1m"), "\"a\\n\\\"b\\\"\\x1b[1m\"");
    }

    #[test]
    fn a_json_line_has_the_fields_that_engines_read() {
        let line = serde_json::to_string(&Line { level: "error", msg: "no \"x\"", time: "t" }).unwrap();
        assert_eq!(line, r#"{"level":"error","msg":"no \"x\"","time":"t"}"#);
    }
}
