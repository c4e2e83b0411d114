//! `corten help`, `corten completion`, `corten man`: what is made from the table of flags.

use corten_types::{Context as _, Error, Result};

use super::Context;
use crate::Failure;
use crate::command_line::{Parsed, find, render};

/// Shows help of a command, or of all.
pub(crate) fn help(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let words = &parsed.operands;
    let text = match find(words) {
        Some((command, _)) => render::help(command),
        None => {
            let is_group = |word: &String| crate::command_line::tables::GROUPS.iter().any(|group| group.name == word);
            if let Some(word) = words.first().filter(|word| !is_group(word)) {
                return Err(Error::invalid(format!("unknown help topic: {word}")).hint("`corten --help`").into());
            }
            render::help_of_program(words)
        }
    };
    context.print(&text)?;
    Ok(0)
}

/// Prints completions for a shell.
pub(crate) fn completion(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let text = render::completion(&parsed.operands[0])?;
    context.print(&text)?;
    Ok(0)
}

/// Writes man pages.
pub(crate) fn man(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let directory = context.environment.absolute(&parsed.operands[0]);
    for (name, page) in render::man_pages()? {
        let path = directory.join(name);
        std::fs::write(&path, page).context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(0)
}
