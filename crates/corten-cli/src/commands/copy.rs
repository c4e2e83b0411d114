//! `corten copy`: skopeo's, with the store as one more place.

use corten_engine::store::import::platform;
use corten_engine::store::{self, Store};
use corten_registry::client::{CopyRequest, Place};
use corten_types::{Error, ErrorKind, Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::progress::{Output, Progress};
use crate::registries;

/// Copies an image between registries, the store, directories and archives.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let base = context.environment.working_directory.clone();
    let from = Place::parse(&parsed.operands[0], &base)?;
    let to = Place::parse(&parsed.operands[1], &base)?;
    if matches!(to, Place::OciArchive(..) | Place::DockerArchive(..)) {
        let error = Error::new(ErrorKind::Unsupported, "an archive is not written by `copy`");
        return Err(error.hint("pull the image and write it with `corten save -o FILE NAME`").into());
    }
    let progress = Progress::new(parsed, Output::Out)?;
    let platform = parsed.last("platform").filter(|text| !text.is_empty()).map(platform::parse).transpose()?;
    let engine = context.engine()?;
    let client = registries::client(context.environment, parsed)?;
    let policy = registries::policy(context.environment)?;
    let scratch = engine.options().root.clone();
    let store = engine.store();
    let from = match from {
        Place::OciArchive(file, tag) => imported(store, &store::Source::OciArchive { file, tag })?,
        Place::DockerArchive(file, name) => {
            let reference = name.as_deref().map(Reference::parse).transpose()?;
            imported(store, &store::Source::DockerArchive { file, reference })?
        }
        place => place,
    };
    let request = CopyRequest {
        from: &from,
        to: &to,
        all: parsed.is_on("all"),
        platform: platform.as_ref(),
        policy: &policy,
        scratch: &scratch,
        watch: &|digest, step| progress.step(digest, step),
    };
    let digest = client.copy(store, &request);
    progress.finish();
    let digest = digest
        .map_err(|error| error.context(format!("cannot copy `{}` to `{}`", parsed.operands[0], parsed.operands[1])))?;
    progress.line(&format!("Digest: {digest}"))?;
    Ok(0)
}

/// An archive's image goes by the store: kept there by its digest, as what is run from an archive is.
fn imported(store: &Store, source: &store::Source) -> Result<Place> {
    Ok(Place::Store(store.import(source)?.manifest.to_string()))
}
