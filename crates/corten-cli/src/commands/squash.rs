//! `corten image squash`

use corten_types::{Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// Makes an image of one layer of one with several.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let reference = parsed.last("tag").map(Reference::parse).transpose()?;
    let compress = super::compress(parsed)?;
    let engine = context.engine()?;
    let made = engine.squash_image(&parsed.operands[0], reference, compress)?;
    engine.do_chores_in_background()?;
    context.print(&format!("{}\n", made.id))?;
    Ok(0)
}
