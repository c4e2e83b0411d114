//! Go's text/template with docker's functions, over [`Value`]s: what `--format` takes.
//!
//! Steps, depth and output are bounded, because a format may come from a file that somebody else wrote.

mod display;
mod execute;
pub(crate) mod format;
mod functions;
mod lex;
mod literal;
mod parse;
mod value;

use std::fmt;

use corten_types::Error;

pub use self::format::quote;
pub use self::value::{Method, MethodFunction, Object, ObjectKind, Value};

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    name: String,
    trees: parse::Trees,
}

/// Why a template cannot be parsed or executed, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError(String);

impl TemplateError {
    /// [`Template::parse`] puts the template's name in front.
    fn parse(line: usize, message: impl Into<String>) -> Self {
        Self(format!(":{line}: {}", message.into()))
    }

    fn execute(message: String) -> Self {
        Self(message)
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

impl From<TemplateError> for Error {
    fn from(error: TemplateError) -> Self {
        Self::invalid(format!("template parsing error: {error}"))
    }
}

impl Template {
    /// Parses `text`; messages name the template `name`, which is empty for most of docker's commands.
    pub fn parse(name: &str, text: &str) -> Result<Self, TemplateError> {
        let trees = parse::parse(text).map_err(|error| TemplateError(format!("template: {name}{error}")))?;
        Ok(Self { name: name.to_owned(), trees })
    }

    /// The text that the template makes of `value`.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        execute::execute(&self.name, &self.trees, value, functions::Mode::Row)
    }

    /// The text that the template makes of a table's header: functions leave the names as they are.
    pub fn render_header(&self, value: &Value) -> Result<String, TemplateError> {
        execute::execute(&self.name, &self.trees, value, functions::Mode::Header)
    }
}
