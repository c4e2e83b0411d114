//! From the store into a registry: blobs as they came, then the manifests that name them, then the tag.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use corten_store::import::platform;
use corten_store::{Compress, Store};
use corten_types::image_spec::{Descriptor, Document, Platform};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};

use super::Client;
use super::progress::{Step, Watch};
use super::session::{Access, Session};
use super::upload::Placed;

/// Blobs that go at once: docker's number.
const BLOBS_AT_ONCE: usize = 5;
/// Indexes within indexes that are followed.
const DEPTH_MAX: usize = 4;
/// Most references that are looked through for a repository to mount from.
const SOURCES_MAX: usize = 64;

/// What [`Client::push`] sends.
#[derive(Clone, Copy)]
pub struct PushRequest<'a> {
    /// What of the store: a name or a digest.
    pub source: &'a str,
    /// Where to; by tag.
    pub reference: &'a Reference,
    /// One platform's image alone.
    pub platform: Option<&'a Platform>,
    /// How layers are compressed that are plain here.
    pub compress: Option<Compress>,
    /// Hears of the blobs.
    pub watch: Watch<'a>,
}

/// What a push did.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// What the tag points to there.
    pub digest: Digest,
    /// The size of that manifest or index, bytes.
    pub size: u64,
    /// Of an index of which not everything is here, one image alone went: (index, manifest).
    pub reduced: Option<(Digest, Digest)>,
}

/// A manifest or an index to send.
struct Outgoing {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Plan {
    /// Members before the index that names them.
    documents: Vec<Outgoing>,
    blobs: Vec<Descriptor>,
}

impl Client {
    /// Sends an image, an index or an artifact.
    pub fn push(&self, store: &Store, request: &PushRequest<'_>) -> Result<Pushed> {
        self.push_whole(store, request).context(|| format!("cannot push `{}`", request.reference.familiar()))
    }

    fn push_whole(&self, store: &Store, request: &PushRequest<'_>) -> Result<Pushed> {
        let tag = request.reference.tag().ok_or_else(|| {
            Error::invalid("cannot push a digest reference").hint("give it a tag first: `corten tag IMAGE NAME:TAG`")
        })?;
        let lease = store.lease(&format!("push {}", request.reference.familiar()))?;
        let target = store.target(request.source)?;
        let (mut plan, mut reduced, mut top) = (Plan::default(), None, target.digest);
        if let Some(wanted) = request.platform {
            top = store.resolve_platform(request.source, Some(wanted))?.manifest;
        }
        if let Err(error) = plan.add(store, &top, None, 0) {
            // As docker: where only one platform's image is here, that one goes.
            let images = store.images_of(&top).unwrap_or_default();
            let [only] = images.as_slice() else {
                let known: Vec<String> = images.iter().map(|image| platform::text(&image.config.platform)).collect();
                let error = error.context("not all platforms of the image are here");
                return Err(match known.is_empty() {
                    true => error,
                    false => error.hint(format!("push one with `--platform`: {}", known.join(", "))),
                });
            };
            reduced = Some((top, only.manifest));
            (plan, top) = (Plan::default(), only.manifest);
            plan.add(store, &top, None, 0)?;
        }
        if let (Some(compress), Some(document)) = (request.compress, plan.documents.last()) {
            let (compressed, media_type) = store.compressed(&lease, &top, &document.media_type, compress)?;
            if compressed != top {
                (plan, top) = (Plan::default(), compressed);
                plan.add(store, &top, Some(&media_type), 0)?;
            }
        }
        for digest in plan.blobs.iter().map(|blob| &blob.digest).chain(plan.documents.iter().map(|d| &d.digest)) {
            if !lease.keep(digest)? {
                return Err(Error::new(ErrorKind::NotFound, format!("blob {digest} is not here any more")));
            }
        }
        let sources = sources(store, request.reference, &plan)?;
        let session = self.registry(request.reference, Access::Write)?;
        send_blobs(store, &session, &plan.blobs, &sources, request)?;
        let count = plan.documents.len();
        for (index, document) in plan.documents.iter().enumerate() {
            let name = if index + 1 == count { tag.to_owned() } else { document.digest.to_string() };
            session.put_manifest(&name, &document.media_type, &document.bytes)?;
        }
        // As docker does: the image has a digest there now, and its blobs can be mounted into other repositories. (Of a member
        // of an index that is none of the store's own targets nothing is noted.)
        if top == target.digest {
            store.note_elsewhere(request.reference, &top)?;
        }
        let size = plan.documents.last().map_or(0, |document| document.bytes.len() as u64);
        Ok(Pushed { digest: top, size, reduced })
    }
}

impl Plan {
    fn add(&mut self, store: &Store, digest: &Digest, media_type: Option<&str>, depth: usize) -> Result<()> {
        if depth >= DEPTH_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("indexes lie more than {DEPTH_MAX} deep")));
        }
        if self.documents.iter().any(|known| known.digest == *digest) {
            return Ok(());
        }
        let bytes = store.document_bytes(digest)?;
        let stored = store.target(&digest.to_string()).ok().map(|target| target.media_type);
        let claimed = media_type.map(str::to_owned).or(stored).unwrap_or_default();
        match Document::parse(&bytes, Some(&claimed))? {
            Document::Index(index) => {
                for member in &index.manifests {
                    self.add(store, &member.digest, Some(&member.media_type), depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    if is_foreign(blob) || self.blobs.iter().any(|known| known.digest == blob.digest) {
                        continue;
                    }
                    if !store.has_blob(&blob.digest)? {
                        return Err(Error::new(ErrorKind::NotFound, format!("blob {} is not here", blob.digest)));
                    }
                    self.blobs.push(blob.clone());
                }
            }
        }
        self.documents.push(Outgoing { digest: *digest, media_type: claimed, bytes });
        Ok(())
    }
}

/// Whether a layer is one that registries do not keep.
fn is_foreign(blob: &Descriptor) -> bool {
    !blob.urls.is_empty() && (blob.media_type.contains("nondistributable") || blob.media_type.contains("foreign"))
}

/// For each blob a repository of the same registry that has it: images that came from there, or went there.
fn sources(store: &Store, to: &Reference, plan: &Plan) -> Result<HashMap<Digest, String>> {
    let mut wanted: BTreeSet<Digest> = plan.blobs.iter().map(|blob| blob.digest).collect();
    let mut found = HashMap::new();
    let others = store.references()?.into_iter().filter(|(other, _)| {
        // What has a digest was pulled or pushed: a tag alone says nothing of the registry.
        other.domain() == to.domain() && other.path() != to.path() && other.digest().is_some()
    });
    for (other, target) in others.take(SOURCES_MAX) {
        let mut there = Plan::default();
        // One that is here in part has what is here.
        let _whole = there.add(store, &target, None, 0);
        for blob in there.blobs {
            if wanted.remove(&blob.digest) {
                found.insert(blob.digest, other.path().to_owned());
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// All blobs, several at once; the first failure ends the others.
fn send_blobs(
    store: &Store,
    session: &Session<'_>,
    blobs: &[Descriptor],
    sources: &HashMap<Digest, String>,
    request: &PushRequest<'_>,
) -> Result<()> {
    let watch = request.watch;
    for blob in blobs {
        watch(&blob.digest, Step::Preparing);
    }
    let (next, failed, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..BLOBS_AT_ONCE.min(blobs.len()) {
            scope.spawn(|| {
                while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let source = sources.get(&blob.digest).map(String::as_str);
                    let placed = store.open_blob(&blob.digest).and_then(|file| match source {
                        Some(from) => session.clone().with_source(from).place_blob(blob, &file, Some(from), watch),
                        None => session.place_blob(blob, &file, None, watch),
                    });
                    match placed {
                        Ok(Placed::Existed) => watch(&blob.digest, Step::There),
                        Ok(Placed::Mounted(from)) => watch(&blob.digest, Step::Mounted { from }),
                        Ok(Placed::Uploaded) => watch(&blob.digest, Step::Pushed),
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
