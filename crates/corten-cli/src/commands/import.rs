//! `corten import`

use std::fs::File;
use std::io::Read;

use corten_engine::ImportRequest;
use corten_types::{Context as _, Error, Reference, Result};

use super::{Context, platform};
use crate::Failure;
use crate::command_line::Parsed;
use crate::registries;

/// Makes an image of a root file system's archive.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let source = parsed.operands[0].as_str();
    let reference = parsed.operands.get(1).map(|name| Reference::parse(name)).transpose()?;
    if reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(Error::invalid("cannot import digest reference").into());
    }
    let message = match parsed.last("message") {
        None | Some("") => format!("Imported from {source}"),
        Some(message) => message.to_owned(),
    };
    let (platform, compress) = (platform(parsed)?, super::compress(parsed)?);
    let request = ImportRequest { changes: parsed.list("change"), message, platform, compress, reference };
    let archive = open(context, parsed, source)?;
    let engine = context.engine()?;
    let imported = engine.import_image(archive, request).context(|| format!("cannot import `{source}`"))?;
    engine.do_chores_in_background()?;
    context.print(&format!("{}\n", imported.id))?;
    Ok(0)
}

/// The archive: a file, standard input or what a URL leads to.
fn open(context: &Context<'_>, parsed: &Parsed, source: &str) -> Result<Box<dyn Read + Send>> {
    if source.starts_with("http://") || source.starts_with("https://") {
        return registries::client(context.environment, parsed)?.fetch(source);
    }
    let archive: File = match source {
        "-" => rustix::stdio::stdin().try_clone_to_owned().context(|| "cannot duplicate standard input")?.into(),
        path => File::open(context.environment.absolute(path)).context(|| format!("cannot open `{path}`"))?,
    };
    Ok(Box::new(archive))
}
