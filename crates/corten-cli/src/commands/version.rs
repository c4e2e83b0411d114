//! `corten version`

use corten_docker::system::{version, version_text};
use corten_types::Result;

use super::{Context, formatted};
use crate::Failure;
use crate::command_line::Parsed;

/// Shows the version.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let facts = corten_engine::Version::current();
    let text = match parsed.last("format").filter(|format| !format.is_empty()) {
        Some(format) => formatted("version", format, &version(&facts))?,
        None => version_text(&facts),
    };
    context.print(&text)?;
    Ok(0)
}
