//! `corten tag`

use corten_types::{Error, Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// Gives an image a further name.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (source, target) = (&parsed.operands[0], &parsed.operands[1]);
    let target = Reference::parse(target).map_err(|error| error.context("invalid reference format"))?;
    if target.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference").into());
    }
    let engine = context.engine()?;
    let source = engine.store().target(source)?;
    engine.store().tag(&source.digest, &target)?;
    Ok(0)
}
