//! `corten rmi`

use corten_engine::RemoveRequest;
use corten_types::Result;

use super::{Context, platform};
use crate::Failure;
use crate::command_line::Parsed;

/// Removes images or their names; one that fails does not keep the others.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let platform = platform(parsed)?;
    let engine = context.engine()?;
    let force = parsed.is_on("force");
    let prune = !parsed.is_on("no-prune");
    let request = |name| RemoveRequest { name, force, platform: platform.as_ref(), prune };
    let mut code = 0;
    for name in &parsed.operands {
        match engine.remove_image(&request(name)) {
            Ok(removed) => {
                for reference in &removed.untagged {
                    context.print(&format!("Untagged: {}\n", reference.familiar()))?;
                }
                if let Some(digest) = &removed.deleted {
                    context.print(&format!("Deleted: {digest}\n"))?;
                }
            }
            // As docker's: with `--force` what is gone already is no failure.
            Err(error) if force && error.kind() == corten_types::ErrorKind::NotFound && platform.is_none() => {
                context.report(&error);
            }
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    engine.do_chores_in_background()?;
    Ok(code)
}
