//! `corten rmi`

use corten_types::Result;

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// Removes images or their names; one that fails does not keep the others.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let mut code = 0;
    for name in &parsed.operands {
        match engine.store().remove(name, parsed.is_on("force")) {
            Ok(removed) => {
                for reference in &removed.untagged {
                    context.print(&format!("Untagged: {}\n", reference.familiar()))?;
                }
                if let Some(digest) = &removed.deleted {
                    context.print(&format!("Deleted: {digest}\n"))?;
                }
            }
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}
