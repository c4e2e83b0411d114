//! `corten info`

use corten_docker::system::{info, info_text};
use corten_types::Result;

use super::{Context, formatted};
use crate::Failure;
use crate::command_line::Parsed;

/// Shows what this machine and this engine are.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let (facts, version) = (engine.info()?, engine.version());
    let text = match parsed.last("format").filter(|format| !format.is_empty()) {
        Some(format) => formatted("", format, &info(&facts, &version))?,
        None => info_text(&facts, &version),
    };
    context.print(&text)?;
    Ok(0)
}
