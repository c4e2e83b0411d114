//! `corten import`

use std::fs::File;

use corten_engine::ImportRequest;
use corten_types::{Context as _, Error, ErrorKind, Reference, Result};

use super::{Context, platform};
use crate::Failure;
use crate::command_line::Parsed;

/// Makes an image of a root file system's archive.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let source = parsed.operands[0].as_str();
    let reference = parsed.operands.get(1).map(|name| Reference::parse(name)).transpose()?;
    if reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(Error::invalid("cannot import digest reference").into());
    }
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    if is_url {
        let message = format!("cannot import from `{source}`: archives are not fetched");
        let hint = format!("`curl -fL {source} | corten import -`");
        return Err(Error::new(ErrorKind::Unsupported, message).hint(hint).into());
    }
    let archive: File = match source {
        "-" => rustix::stdio::stdin().try_clone_to_owned().context(|| "cannot duplicate standard input")?.into(),
        path => File::open(context.environment.absolute(path)).context(|| format!("cannot open `{path}`"))?,
    };
    let message = match parsed.last("message") {
        None | Some("") => format!("Imported from {source}"),
        Some(message) => message.to_owned(),
    };
    let request = ImportRequest { changes: parsed.list("change"), message, platform: platform(parsed)?, reference };
    let engine = context.engine()?;
    let imported = engine.import_image(archive, request).context(|| format!("cannot import `{source}`"))?;
    engine.do_chores_in_background()?;
    context.print(&format!("{}\n", imported.id))?;
    Ok(0)
}
