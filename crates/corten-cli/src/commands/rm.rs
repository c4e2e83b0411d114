//! `corten rm`

use corten_types::Result;

use super::Context;
use crate::command_line::Parsed;
use crate::run::values::integer;
use crate::{Failure, WRONG_FLAGS};

/// Removes containers; one that fails does not keep the others.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let seconds = parsed.read_last("time", integer).map_err(|error| Failure::with_code(error, WRONG_FLAGS))?;
    let mut code = 0;
    for name in &parsed.operands {
        let bare = name.trim_start_matches('/');
        let stopped = match seconds.filter(|seconds| *seconds != 0 && parsed.is_on("force")) {
            Some(seconds) => engine.stop(bare, None, Some(seconds)),
            None => Ok(()),
        };
        match stopped.and_then(|()| engine.remove(bare, parsed.is_on("force"))) {
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
