//! One file a command.

pub(crate) mod artifact;
pub(crate) mod check;
pub(crate) mod copy;
pub(crate) mod disk;
pub(crate) mod documents;
pub(crate) mod exec;
pub(crate) mod foreground;
pub(crate) mod generate;
pub(crate) mod history;
pub(crate) mod image_mount;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod manage;
pub(crate) mod manifest;
pub(crate) mod monitor;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod references;
pub(crate) mod registry;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod squash;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod tag;
pub(crate) mod version;
pub(crate) mod why;

use std::io::Write;

use corten_docker::template::{Template, Value};
use corten_engine::Engine;
use corten_engine::store::Compress;
use corten_types::image_spec::Platform;
use corten_types::{Error, Result};
use jiff::Timestamp;

use crate::Environment;
use crate::Failure;
use crate::command_line::Parsed;
use crate::output;
use crate::settings::Settings;

/// What every command works with.
pub(crate) struct Context<'a> {
    /// What was given from outside.
    pub(crate) environment: &'a Environment,
    /// Where the engine is.
    pub(crate) settings: Settings,
    /// Standard output.
    pub(crate) out: &'a mut dyn Write,
    /// Standard error.
    pub(crate) err: &'a mut dyn Write,
}

impl Context<'_> {
    /// Opens the engine.
    pub(crate) fn engine(&self) -> Result<Engine> {
        self.settings.engine(self.environment)
    }

    /// Writes to standard output.
    pub(crate) fn print(&mut self, text: &str) -> Result<()> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|error| Error::from(error).context("cannot write to standard output"))
    }

    /// Writes a line to standard error.
    pub(crate) fn warn(&mut self, text: &str) {
        // Where standard error is gone nobody can be told.
        let _written = self.err.write_all(format!("{text}\n").as_bytes());
    }

    /// Reports an error of one of several operands; the command goes on.
    pub(crate) fn report(&mut self, error: &Error) {
        let text = output::report(error, output::has_colours(self.environment));
        let _written = self.err.write_all(text.as_bytes());
    }
}

/// The moment that "3 minutes ago" is counted from.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// The platform of `--platform`, where it is given.
pub(crate) fn platform(parsed: &Parsed) -> Result<Option<Platform>> {
    match parsed.list("platform").as_slice() {
        [] => Ok(None),
        [one] if one.is_empty() => Ok(None),
        [one] => corten_engine::store::platform::parse(one).map(Some),
        _ => Err(Error::invalid("`--platform` is given several times").hint("name one platform a command")),
    }
}

/// How plain layers are compressed, where `--compression-format` says so.
pub(crate) fn compress(parsed: &Parsed) -> Result<Option<Compress>> {
    let given = |flag| parsed.last(flag).filter(|text: &&str| !text.is_empty());
    match (given("compression-format"), given("compression-level")) {
        (Some(format), level) => Compress::parse(format, level).map(Some),
        (None, Some(_)) => Err(Error::invalid("`--compression-level` is given without `--compression-format`")
            .hint("the forms are `gzip` and `zstd`")),
        (None, None) => Ok(None),
    }
}

/// Docker's exit code for a template that cannot be parsed.
const WRONG_TEMPLATE: u8 = 64;

/// Renders `value` by `--format`: JSON or a template named `name` in messages.
pub(crate) fn formatted(name: &str, format: &str, value: &Value) -> Result<String, Failure> {
    if format == "json" {
        return Ok(value.to_json() + "\n");
    }
    let template = Template::parse(name, format).map_err(|error| Failure::with_code(error, WRONG_TEMPLATE))?;
    // Docker's words here have nothing in front.
    Ok(template.render(value).map_err(|error| Error::invalid(error.to_string()))? + "\n")
}
