//! `corten copy`: skopeo's, with the store as one more place.

use std::path::PathBuf;

use corten_engine::store::import::platform;
use corten_engine::store::{self, Scratch, Store};
use corten_registry::client::{CopyRequest, Place};
use corten_types::{Error, Reference, Result};

use super::Context;
use super::save::Out;
use crate::Failure;
use crate::command_line::Parsed;
use crate::progress::{Output, Progress};
use crate::registries;

/// Copies an image between registries, the store, directories and archives.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let base = context.environment.working_directory.clone();
    let from = Place::parse(&parsed.operands[0], &base)?;
    let to = Place::parse(&parsed.operands[1], &base)?;
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
    let archive = Archive::of(&to, store, parsed.is_on("all"))?;
    let request = CopyRequest {
        from: &from,
        to: archive.as_ref().map_or(&to, |archive| &archive.layout),
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
    if let Some(archive) = archive {
        archive.write()?;
    }
    progress.line(&format!("Digest: {digest}"))?;
    Ok(0)
}

/// An archive's image goes by the store: kept there by its digest, as what is run from an archive is.
fn imported(store: &Store, source: &store::Source) -> Result<Place> {
    Ok(Place::Store(store.import(source)?.manifest.to_string()))
}

/// An archive to be: a layout that is made first, and then written as one file.
struct Archive {
    layout: Place,
    scratch: Scratch,
    file: PathBuf,
    /// The names that docker's description gives the image; nothing for an oci-archive.
    docker: Option<Vec<Reference>>,
}

impl Archive {
    fn of(to: &Place, store: &Store, all: bool) -> Result<Option<Self>> {
        let (file, tag, docker) = match to {
            Place::OciArchive(file, tag) => (file.clone(), tag.clone(), None),
            Place::DockerArchive(..) if all => {
                return Err(Error::invalid("a docker-archive holds the image of one platform, not `--all`"));
            }
            Place::DockerArchive(file, name) => {
                let name = name.as_deref().map(Reference::parse).transpose()?;
                (file.clone(), None, Some(name.into_iter().collect()))
            }
            _ => return Ok(None),
        };
        let scratch = store.scratch()?;
        let layout = Place::Oci(scratch.path().to_owned(), tag);
        Ok(Some(Self { layout, scratch, file, docker }))
    }

    fn write(self) -> Result<()> {
        let out = Out::at(&self.file)?;
        self.scratch
            .archive_layout(self.docker.as_deref(), out.file())
            .map_err(|error| error.context(format!("cannot write `{}`", self.file.display())))?;
        out.finish()
    }
}
