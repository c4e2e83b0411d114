//! `corten rm`

use corten_types::Result;

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// Removes containers; one that fails does not keep the others.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let mut code = 0;
    for name in &parsed.operands {
        match engine.remove(name.trim_start_matches('/'), parsed.is_on("force")) {
            Ok(()) => context.print(&format!("{name}\n"))?,
            // As docker: what is not there need not be forced away.
            Err(error) if parsed.is_on("force") && error.kind() == corten_types::ErrorKind::NotFound => {
                context.report(&error);
            }
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}
