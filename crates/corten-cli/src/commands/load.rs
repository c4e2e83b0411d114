//! `corten load`

use std::fs::File;

use corten_types::{Context as _, Error, Result};

use super::{Context, platform};
use crate::Failure;
use crate::command_line::Parsed;
use crate::terminal::is_terminal;

/// Loads images from an archive.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let path = parsed.last("input").filter(|path| !path.is_empty());
    let mut archive: File = match path {
        Some(path) => File::open(context.environment.absolute(path)).context(|| format!("cannot open `{path}`"))?,
        None if is_terminal(rustix::stdio::stdin()) => {
            return Err(Error::invalid("requested load from stdin, but stdin is empty")
                .hint("name the archive: `corten load -i FILE`")
                .into());
        }
        None => {
            let stdin = rustix::stdio::stdin().try_clone_to_owned();
            stdin.context(|| "cannot duplicate standard input")?.into()
        }
    };
    let platform = platform(parsed)?;
    let engine = context.engine()?;
    let loaded = engine.store().load_platform(&mut archive, platform.as_ref()).context(|| match path {
        Some(path) => format!("cannot load `{path}`"),
        None => "cannot load the archive on standard input".to_owned(),
    })?;
    engine.do_chores_in_background()?;
    for image in loaded {
        for name in &image.references {
            context.print(&format!("Loaded image: {}\n", name.familiar()))?;
        }
        if image.references.is_empty() {
            context.print(&format!("Loaded image ID: {}\n", image.id))?;
        }
    }
    Ok(0)
}
