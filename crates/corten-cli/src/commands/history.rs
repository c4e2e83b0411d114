//! `corten history`

use corten_docker::history::{View, list};
use corten_types::Result;

use super::{Context, now, platform};
use crate::Failure;
use crate::command_line::Parsed;

/// Shows how an image's layers came to be.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let platform = platform(parsed)?;
    let engine = context.engine()?;
    let image = engine.store().resolve_platform(&parsed.operands[0], platform.as_ref())?;
    let sizes = engine.store().layer_sizes(&image)?;
    let view = View {
        format: parsed.last("format").map(str::to_owned),
        quiet: parsed.is_on("quiet"),
        no_trunc: parsed.is_on("no-trunc"),
        human: parsed.last("human").is_none() || parsed.is_on("human"),
    };
    let text = list(&image, &sizes, &view, now())?;
    context.print(&text)?;
    Ok(0)
}
