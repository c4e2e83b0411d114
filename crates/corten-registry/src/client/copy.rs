//! Copies between registries, the store and directories, byte for byte: skopeo's `copy`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use corten_store::import::platform;
use corten_store::{NewImageRequest, RawDocument, Receiver, Store, Turn, Unpack};
use corten_types::image_spec::{Descriptor, Document, Platform};
use corten_types::{Context, Error, ErrorKind, Reference, Result};
use rustix::fs::{Mode, OFlags};

use super::Client;
use super::layout::{self, Form, Layout};
use super::manifests::{Fetched, digest_of};
use super::policy::Policy;
use super::progress::{Step, Watch};
use super::session::{Access, Session};

/// Indexes within indexes that are followed; most manifests of a copy.
const DEPTH_MAX: usize = 4;
const DOCUMENTS_MAX: usize = 512;

/// Where an image is, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `docker://NAME[:TAG|@DIGEST]`
    Registry(Reference),
    /// `store:NAME`
    Store(String),
    /// `oci:DIR[:TAG]`
    Oci(PathBuf, Option<String>),
    /// `dir:DIR`
    Dir(PathBuf),
    /// `oci-archive:FILE[:TAG]`
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME:TAG]`
    DockerArchive(PathBuf, Option<String>),
}

impl Place {
    /// Reads skopeo's form; paths are seen from `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self> {
        let split = |rest: &str| match rest.split_once(':') {
            Some((path, tag)) if !tag.is_empty() => (base.join(path), Some(tag.to_owned())),
            _ => (base.join(rest.trim_end_matches(':')), None),
        };
        let place = match text.split_once(':') {
            Some(("docker", rest)) => {
                let name = rest.strip_prefix("//").ok_or_else(|| Error::invalid(format!("`{text}` lacks `//`")))?;
                Self::Registry(Reference::parse(name)?)
            }
            Some(("store" | "containers-storage" | "docker-daemon", rest)) => Self::Store(rest.to_owned()),
            Some(("oci", rest)) => {
                let (path, tag) = split(rest);
                Self::Oci(path, tag)
            }
            Some(("oci-archive", rest)) => {
                let (path, tag) = split(rest);
                Self::OciArchive(path, tag)
            }
            Some(("docker-archive", rest)) => {
                let (path, tag) = split(rest);
                Self::DockerArchive(path, tag)
            }
            Some(("dir", rest)) => Self::Dir(base.join(rest)),
            _ => {
                return Err(Error::invalid(format!("`{}` says not where it is", super::url::shown(text))).hint(
                    "write docker://NAME, store:NAME, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or dir:DIR",
                ));
            }
        };
        Ok(place)
    }
}

/// What [`Client::copy`] copies.
#[derive(Clone, Copy)]
pub struct CopyRequest<'a> {
    /// From where.
    pub from: &'a Place,
    /// To where.
    pub to: &'a Place,
    /// Every platform of an index; without, this machine's or `platform`'s image alone.
    pub all: bool,
    /// The image of an index that is copied.
    pub platform: Option<&'a Platform>,
    /// What must be signed.
    pub policy: &'a Policy,
    /// A directory for blobs between two registries.
    pub scratch: &'a Path,
    /// Hears of the blobs.
    pub watch: Watch<'a>,
}

enum Source<'s> {
    Session(Session<'s>, String),
    Store(&'s Store, String),
    Layout(Layout),
}

/// Everything that a copy moves: members before the index that names them, the top last.
#[derive(Default)]
struct Parts {
    documents: Vec<Fetched>,
    blobs: Vec<Descriptor>,
}

impl Client {
    /// Copies; the digest of what is there now. Archives are not read or written here: the caller goes by a store.
    pub fn copy(&self, store: &Store, request: &CopyRequest<'_>) -> Result<corten_types::Digest> {
        let source = self.source(store, request.from)?;
        let mut top = source.top()?;
        if let (Source::Session(session, _), Place::Registry(reference)) = (&source, request.from) {
            request.policy.check(session, reference, &top.digest)?;
        }
        if !request.all
            && let Document::Index(index) = Document::parse(&top.bytes, Some(&top.media_type))?
        {
            let chosen = platform::select(&index.manifests, request.platform).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the index has no image for this platform")
                    .hint("copy every platform with `--all`, or choose one with `--platform`")
            })?;
            top = source.member(chosen)?;
        }
        let digest = top.digest;
        let mut parts = Parts::default();
        parts.collect(&source, top, 0)?;
        match request.to {
            Place::Registry(reference) => self.to_registry(&source, &parts, reference, request),
            Place::Store(name) => to_store(store, &source, &parts, &Reference::parse(name)?, request),
            Place::Oci(directory, tag) => {
                to_layout(&source, &parts, &Layout::create(directory, Form::Oci, tag.clone())?, request.watch)
            }
            Place::Dir(directory) => {
                to_layout(&source, &parts, &Layout::create(directory, Form::Dir, None)?, request.watch)
            }
            Place::OciArchive(..) | Place::DockerArchive(..) => {
                Err(Error::new(ErrorKind::Internal, "an archive is written from a store"))
            }
        }?;
        Ok(digest)
    }

    fn source<'s>(&'s self, store: &'s Store, place: &Place) -> Result<Source<'s>> {
        Ok(match place {
            Place::Registry(reference) => {
                let name = match (reference.digest(), reference.tag()) {
                    (Some(digest), _) => digest.to_string(),
                    (None, tag) => tag.unwrap_or("latest").to_owned(),
                };
                Source::Session(self.registry(reference, Access::Read)?, name)
            }
            Place::Store(name) => Source::Store(store, name.clone()),
            Place::Oci(directory, tag) => Source::Layout(Layout::open(directory, Form::Oci, tag.clone())?),
            Place::Dir(directory) => Source::Layout(Layout::open(directory, Form::Dir, None)?),
            Place::OciArchive(..) | Place::DockerArchive(..) => {
                return Err(Error::new(ErrorKind::Internal, "an archive is read into a store"));
            }
        })
    }

    fn to_registry(
        &self,
        source: &Source<'_>,
        parts: &Parts,
        reference: &Reference,
        request: &CopyRequest<'_>,
    ) -> Result<()> {
        let tag = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let session = self.registry(reference, Access::Write)?;
        for blob in &parts.blobs {
            (request.watch)(&blob.digest, Step::Preparing);
            let mount = match source {
                Source::Session(from, _) if from.endpoint.authority == session.endpoint.authority => {
                    Some(from.endpoint.repository.clone()).filter(|from| *from != session.endpoint.repository)
                }
                _ => None,
            };
            let file = match source {
                Source::Store(store, _) => store.open_blob(&blob.digest)?,
                Source::Layout(layout) => layout.blob(&blob.digest)?,
                // Nothing is fetched that is there already.
                Source::Session(..) if session.has_blob(&blob.digest)? => {
                    (request.watch)(&blob.digest, Step::There);
                    continue;
                }
                Source::Session(..) => spool(source, blob, request)?,
            };
            let placed = match &mount {
                Some(from) => session.clone().with_source(from).place_blob(blob, &file, Some(from), request.watch)?,
                None => session.place_blob(blob, &file, None, request.watch)?,
            };
            let step = match placed {
                super::upload::Placed::Existed => Step::There,
                super::upload::Placed::Mounted(from) => Step::Mounted { from },
                super::upload::Placed::Uploaded => Step::Pushed,
            };
            (request.watch)(&blob.digest, step);
        }
        let count = parts.documents.len();
        for (index, document) in parts.documents.iter().enumerate() {
            let name = if index + 1 == count { tag.clone() } else { document.digest.to_string() };
            session.put_manifest(&name, &document.media_type, &document.bytes)?;
        }
        Ok(())
    }
}

impl Source<'_> {
    fn top(&self) -> Result<Fetched> {
        match self {
            Self::Session(session, name) => session.manifest(name),
            Self::Store(store, name) => {
                let target = store.target(name)?;
                let bytes = store.document_bytes(&target.digest)?;
                Ok(Fetched { bytes, media_type: target.media_type, digest: target.digest })
            }
            Self::Layout(layout) => layout.top(),
        }
    }

    fn member(&self, descriptor: &Descriptor) -> Result<Fetched> {
        let fetched = match self {
            Self::Session(session, _) => session.manifest(&descriptor.digest.to_string())?,
            Self::Store(store, _) => {
                let bytes = store.document_bytes(&descriptor.digest).map_err(|error| {
                    error.hint("not every platform is here: `corten pull --all-platforms`, or copy without `--all`")
                })?;
                Fetched { bytes, media_type: descriptor.media_type.clone(), digest: descriptor.digest }
            }
            Self::Layout(layout) => layout.member(descriptor)?,
        };
        Ok(Fetched { media_type: descriptor.media_type.clone(), ..fetched })
    }

    /// Every byte of a blob, verified when the last one came.
    fn read(&self, blob: &Descriptor, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut hash = super::manifests::Hash::new(blob.digest.algorithm());
        let mut checked = |bytes: &[u8]| {
            hash.update(bytes);
            sink(bytes)
        };
        match self {
            Self::Session(session, _) => session.transfer(blob, 0, &mut checked)?,
            Self::Store(store, _) => layout::drain(store.open_blob(&blob.digest)?, blob.size, &mut checked)?,
            Self::Layout(layout) => layout::drain(layout.blob(&blob.digest)?, blob.size, &mut checked)?,
        }
        let found = hash.finish();
        if found != blob.digest {
            return Err(Error::new(ErrorKind::Corrupt, format!("blob {} is damaged: it is {found}", blob.digest)));
        }
        Ok(())
    }
}

impl Parts {
    fn collect(&mut self, source: &Source<'_>, document: Fetched, depth: usize) -> Result<()> {
        if depth >= DEPTH_MAX || self.documents.len() >= DOCUMENTS_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "the index is too deep or too large"));
        }
        if self.documents.iter().any(|known| known.digest == document.digest) {
            return Ok(());
        }
        // Whoever gave it, what is copied is what its digest says.
        if digest_of(document.digest.algorithm(), &document.bytes) != document.digest {
            return Err(Error::new(ErrorKind::Corrupt, format!("manifest {} is damaged", document.digest)));
        }
        match Document::parse(&document.bytes, Some(&document.media_type))? {
            Document::Index(index) => {
                for member in &index.manifests {
                    let fetched =
                        source.member(member).context(|| format!("cannot copy manifest {}", member.digest))?;
                    self.collect(source, fetched, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    if !self.blobs.iter().any(|known| known.digest == blob.digest) {
                        self.blobs.push(blob.clone());
                    }
                }
            }
        }
        self.documents.push(document);
        Ok(())
    }
}

/// A blob in a file without a name, between two registries.
fn spool(source: &Source<'_>, blob: &Descriptor, request: &CopyRequest<'_>) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(request.scratch, flags, Mode::RUSR | Mode::WUSR)
        .map_err(std::io::Error::from)
        .context(|| format!("cannot make a file in `{}`", request.scratch.display()))?;
    let mut file = File::from(file);
    let mut current = 0;
    source.read(blob, &mut |bytes| {
        current += bytes.len() as u64;
        (request.watch)(&blob.digest, Step::Downloading { current, total: blob.size });
        file.write_all(bytes).map_err(Error::from)
    })?;
    Ok(file)
}

fn to_layout(source: &Source<'_>, parts: &Parts, layout: &Layout, watch: Watch<'_>) -> Result<()> {
    for blob in &parts.blobs {
        if layout.has(blob) {
            watch(&blob.digest, Step::Exists);
            continue;
        }
        layout.put(&blob.digest, |file| {
            let mut current = 0;
            source.read(blob, &mut |bytes| {
                current += bytes.len() as u64;
                watch(&blob.digest, Step::Downloading { current, total: blob.size });
                file.write_all(bytes).map_err(Error::from)
            })
        })?;
        watch(&blob.digest, Step::Downloaded);
    }
    let Some((top, members)) = parts.documents.split_last() else { return Ok(()) };
    for member in members {
        layout.put_member(member)?;
    }
    layout.put_top(top)
}

fn to_store(
    store: &Store,
    source: &Source<'_>,
    parts: &Parts,
    reference: &Reference,
    request: &CopyRequest<'_>,
) -> Result<()> {
    let Some((top, members)) = parts.documents.split_last() else { return Ok(()) };
    fn raw(document: &Fetched) -> RawDocument<'_> {
        RawDocument { bytes: &document.bytes, media_type: &document.media_type, algorithm: document.digest.algorithm() }
    }
    store.receive(&format!("copy {}", reference.familiar()), |receiver: &Receiver<'_>| {
        for blob in &parts.blobs {
            match receiver.blob(blob)? {
                Turn::Present => (request.watch)(&blob.digest, Step::Exists),
                Turn::Fetch(mut incoming) => {
                    // What an earlier run left is another source's.
                    if incoming.offset() > 0 {
                        incoming.restart()?;
                        let Turn::Fetch(fresh) = receiver.blob(blob)? else { continue };
                        incoming = fresh;
                    }
                    source.read(blob, &mut |bytes| {
                        incoming.append(bytes)?;
                        let current = incoming.offset();
                        (request.watch)(&blob.digest, Step::Downloading { current, total: blob.size });
                        Ok(())
                    })?;
                    incoming.finish()?;
                    (request.watch)(&blob.digest, Step::Downloaded);
                }
            }
        }
        let members: Vec<RawDocument<'_>> = members.iter().map(raw).collect();
        receiver.commit(&NewImageRequest {
            target: raw(top),
            members: &members,
            references: std::slice::from_ref(reference),
            unpack: Unpack::Later,
            attached: false,
            cause: "copy",
        })
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_skopeo_writes_them() {
        let place = |text: &str| Place::parse(text, Path::new("/base"));
        assert_eq!(place("docker://a/b:1").unwrap(), Place::Registry(Reference::parse("a/b:1").unwrap()));
        assert_eq!(place("oci:dir:tag").unwrap(), Place::Oci("/base/dir".into(), Some("tag".into())));
        assert_eq!(place("oci:/dir").unwrap(), Place::Oci("/dir".into(), None));
        assert_eq!(place("dir:x").unwrap(), Place::Dir("/base/x".into()));
        let archive = Place::DockerArchive("/base/f.tar".into(), Some("a:1".into()));
        assert_eq!(place("docker-archive:f.tar:a:1").unwrap(), archive);
        for wrong in ["a/b", "docker:a", "ftp:x", ""] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
