//! `save`: an archive that is docker's modern one, an OCI layout with docker's `manifest.json` and `repositories` beside.
//!
//! Every blob is written as it came, so that the digests of manifests and configurations survive; it is hashed once more
//! while it is copied, so that damage is never passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use corten_fs::tar::{Builder, Kind as Form, Member};
use corten_types::image_spec::{Descriptor, Document, MANIFEST_SIZE_BYTES_MAX, Platform, media_type};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};
use serde_json::{Value, json};

use crate::blob::{self, FileReader, Hasher};
use crate::database::{DocumentRow, Kind};
use crate::image::Image;
use crate::import::blob_path;
use crate::lease::Lease;
use crate::store::Store;

/// Bytes that are hashed at a time.
const BUFFER_SIZE: usize = 256 * 1024;

/// What [`Store::save`] writes.
#[derive(Debug, Clone, Copy)]
pub struct SaveRequest<'a> {
    /// Names as `docker save` takes them: references, repositories (all their tags), identifiers.
    pub names: &'a [String],
    /// Only the image for this platform, where a name is for several.
    pub platform: Option<&'a Platform>,
}

/// One entry of the archive: a document and the names it has there.
struct Entry {
    document: DocumentRow,
    references: Vec<Reference>,
    /// What `manifest.json` shows of it.
    image: Option<Image>,
}

impl Store {
    /// Writes images as an archive that docker, podman, skopeo and `corten load` read.
    pub fn save(&self, request: &SaveRequest<'_>, out: &File) -> Result<()> {
        let lease = self.lease("save")?;
        let mut entries: Vec<Entry> = Vec::new();
        for name in request.names {
            for entry in self.entries(name, request.platform).context(|| format!("cannot save `{name}`"))? {
                match entries.iter_mut().find(|known| known.document.digest == entry.document.digest) {
                    Some(known) => {
                        known.references.extend(entry.references);
                        known.references.sort();
                        known.references.dedup();
                    }
                    None => entries.push(entry),
                }
            }
        }
        let mut blobs = BTreeSet::new();
        for entry in &entries {
            self.blobs_below(&lease, &entry.document, request.platform.is_none(), &mut blobs)?;
        }
        self.write_archive(&entries, &blobs, out)
    }

    /// What `name` means to `save`: a repository without a tag means all its tags.
    fn entries(&self, name: &str, platform: Option<&Platform>) -> Result<Vec<Entry>> {
        let bare = Reference::parse_name(name).ok().filter(|name| name.tag().is_none() && name.digest().is_none());
        if let Some(bare) = bare {
            let of_repository = |known: &Reference| known.repository() == bare.repository() && known.tag().is_some();
            let known: Vec<(Reference, Digest)> =
                self.references()?.into_iter().filter(|(known, _)| of_repository(known)).collect();
            if !known.is_empty() {
                return known
                    .into_iter()
                    .map(|(reference, target)| self.entry(&target.to_string(), vec![reference], platform))
                    .collect();
            }
        }
        let document = self.lookup(name)?;
        let mut references = self.database().references_of(&document.digest)?;
        references.retain(|known| known.digest().is_none() && Reference::meanings(name).any(|meant| meant == *known));
        Ok(vec![self.entry(name, references, platform)?])
    }

    fn entry(&self, name: &str, references: Vec<Reference>, platform: Option<&Platform>) -> Result<Entry> {
        let mut document = self.lookup(name)?;
        if document.kind == Kind::Artifact {
            return Ok(Entry { document, references, image: None });
        }
        let image = match platform {
            Some(_) => {
                let image = self.resolve_platform(name, platform)?;
                if document.kind == Kind::Index {
                    let missing = || Error::new(ErrorKind::Conflict, "the image was removed meanwhile");
                    document = self.database().document(&image.manifest)?.ok_or_else(missing)?;
                }
                Some(image)
            }
            // Of an index that has none for this machine, `manifest.json` shows the first.
            None => match self.resolve(name) {
                Ok(image) => Some(image),
                Err(_) => self.images_of(&document.digest)?.into_iter().next(),
            },
        };
        Ok(Entry { document, references, image })
    }

    /// Every blob that a document needs and that is here; members that are not here are left out.
    fn blobs_below(
        &self,
        lease: &Lease,
        document: &DocumentRow,
        members: bool,
        blobs: &mut BTreeSet<Digest>,
    ) -> Result<()> {
        let missing = |digest: &Digest| {
            Error::new(ErrorKind::Corrupt, format!("blob {digest} is missing")).hint("load or pull the image again")
        };
        if !lease.keep(&document.digest)? {
            return Err(missing(&document.digest));
        }
        blobs.insert(document.digest);
        let bytes = blob::read(self.disk(), &document.digest, MANIFEST_SIZE_BYTES_MAX)?;
        match Document::parse(&bytes, Some(&document.media_type))? {
            Document::Manifest(manifest) => {
                for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    if !lease.keep(&descriptor.digest)? {
                        return Err(missing(&descriptor.digest));
                    }
                    blobs.insert(descriptor.digest);
                }
            }
            Document::Index(index) => {
                for descriptor in index.manifests.iter().filter(|_| members) {
                    if let Some(member) = self.database().document(&descriptor.digest)? {
                        self.blobs_below(lease, &member, members, blobs)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_archive(&self, entries: &[Entry], blobs: &BTreeSet<Digest>, out: &File) -> Result<()> {
        let mut tar = Builder::new(out);
        let directory = |name: &'static str| Member::new(name.as_bytes(), Form::Directory, 0o755, 0);
        tar.append(&directory("blobs/"), &[][..])?;
        let mut folder = "";
        for digest in blobs {
            let name = if digest.algorithm().as_str() == "sha512" { "blobs/sha512/" } else { "blobs/sha256/" };
            if name != folder {
                tar.append(&directory(name), &[][..])?;
                folder = name;
            }
            self.write_blob(&mut tar, digest)?;
        }
        let mut small = |name: &str, value: &Value| -> Result<()> {
            let text =
                serde_json::to_vec(value).map_err(|error| Error::invalid("cannot write JSON").caused_by(error))?;
            tar.append(&Member::new(name.as_bytes(), Form::File, 0o644, text.len() as u64), text.as_slice())
        };
        small("index.json", &self.index_json(entries)?)?;
        small("manifest.json", &manifest_json(entries))?;
        small("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        let repositories = repositories_json(entries);
        if repositories.as_object().is_some_and(|map| !map.is_empty()) {
            small("repositories", &repositories)?;
        }
        tar.finish()?;
        Ok(())
    }

    /// Copies a blob inside the kernel while another thread hashes it.
    fn write_blob(&self, tar: &mut Builder<&File>, digest: &Digest) -> Result<()> {
        let file = blob::open(self.disk(), digest)?;
        let size = file.metadata()?.len();
        let path = blob_path(digest);
        let member = Member::new(path.as_bytes(), Form::File, 0o644, size);
        let shared = Arc::new(file.try_clone()?);
        let (copied, found) = std::thread::scope(|scope| {
            let hash = scope.spawn(|| hash(&shared, digest));
            let copied = tar.append(&member, file);
            (copied, hash.join())
        });
        copied?;
        let found = found.map_err(|_| Error::new(ErrorKind::Internal, "a thread that hashes a blob failed"))??;
        if found != *digest {
            return Err(Error::new(ErrorKind::Corrupt, format!("blob {digest} is damaged: its content is {found}"))
                .hint("`corten image fsck` names what is damaged; load or pull the image again"));
        }
        Ok(())
    }

    fn index_json(&self, entries: &[Entry]) -> Result<Value> {
        let mut manifests = Vec::new();
        for entry in entries {
            let document = &entry.document;
            let descriptor = |name: Option<&Reference>| -> Result<Value> {
                let annotations = name.map(annotations).unwrap_or_default();
                let platform = entry.image.as_ref().filter(|_| document.kind == Kind::Image);
                let descriptor = Descriptor {
                    media_type: document.media_type.clone(),
                    digest: document.digest,
                    size: blob::size(self.disk(), &document.digest)?.unwrap_or(0),
                    urls: Vec::new(),
                    annotations,
                    platform: platform.map(|image| image.config.platform.clone()),
                    artifact_type: document.artifact_type.clone(),
                };
                serde_json::to_value(descriptor).map_err(|error| Error::invalid("cannot write JSON").caused_by(error))
            };
            for reference in &entry.references {
                manifests.push(descriptor(Some(reference))?);
            }
            if entry.references.is_empty() {
                manifests.push(descriptor(None)?);
            }
        }
        Ok(json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests}))
    }
}

/// How an index says which name an image has: docker's annotation and the specification's.
pub(super) fn annotations(name: &Reference) -> BTreeMap<String, String> {
    let tag = name.tag().unwrap_or_default().to_owned();
    BTreeMap::from([
        ("io.containerd.image.name".to_owned(), name.to_string()),
        ("org.opencontainers.image.ref.name".to_owned(), tag),
    ])
}

fn hash(file: &Arc<File>, expected: &Digest) -> Result<Digest> {
    use std::io::Read;
    let mut reader = FileReader::new(Arc::clone(file));
    let mut hasher = Hasher::new(expected.algorithm());
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return hasher.finish(),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn manifest_json(entries: &[Entry]) -> Value {
    let item = |entry: &Entry| {
        let image = entry.image.as_ref()?;
        let tags: Vec<String> = entry.references.iter().map(Reference::familiar).collect();
        let layers: Vec<String> = image.layers.iter().map(|layer| blob_path(&layer.blob.digest)).collect();
        let sources: BTreeMap<String, &Descriptor> =
            image.layers.iter().map(|layer| (layer.diff_id.to_string(), &layer.blob)).collect();
        let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
        Some(json!({"Config": blob_path(&image.id), "RepoTags": tags, "Layers": layers, "LayerSources": sources}))
    };
    Value::Array(entries.iter().filter_map(item).collect())
}

/// The oldest of docker's files: repository, tag, topmost layer.
fn repositories_json(entries: &[Entry]) -> Value {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for entry in entries {
        let Some(top) = entry.image.as_ref().and_then(|image| image.layers.last()) else { continue };
        for reference in &entry.references {
            let tags = repositories.entry(reference.familiar_repository()).or_default();
            tags.insert(reference.tag().unwrap_or_default().to_owned(), top.blob.digest.hex());
        }
    }
    json!(repositories)
}
