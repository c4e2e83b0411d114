//! From blobs to an image: documents checked, layers unpacked and compared with the configuration, then the rows, in that
//! order.

use std::collections::BTreeSet;
use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{
    CONFIG_SIZE_BYTES_MAX, Descriptor, Document, ImageConfig, Manifest, layer_compression, media_type,
};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};

use crate::blob::{self, digest_of};
use crate::database::{DocumentRow, Kind, NewDocument, NewImagePart, NewTarget};
use crate::growing::LayerBytes;
use crate::image::Target;
use crate::import::unpack::{Unpacker, with_unpacker};
use crate::import::{platform, settle};
use crate::layer::{LayerRow, Layers, chain_ids, decode};
use crate::lease::Lease;
use crate::store::{Store, now_ns};

/// A manifest or an index as it came, byte for byte.
#[derive(Debug, Clone, Copy)]
pub struct RawDocument<'a> {
    /// Its bytes; the digest is theirs.
    pub bytes: &'a [u8],
    /// The type that its carrier gave.
    pub media_type: &'a str,
    /// The algorithm of the digest that it is known by.
    pub algorithm: Algorithm,
}

/// Whether an image's layers are unpacked as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// At once: they are known to be what the configuration says, and the first container starts at once. Of an index with
    /// several members, those that this machine can run.
    Now,
    /// When the first container needs them: for other platforms, mirrors and copies.
    Later,
}

/// What [`Store::add_image`] stores.
#[derive(Debug, Clone, Copy)]
pub struct NewImageRequest<'a> {
    /// What references point to: a manifest, or an index.
    pub target: RawDocument<'a>,
    /// Those manifests (and indexes within) of an index that are here; nothing for a manifest.
    pub members: &'a [RawDocument<'a>],
    /// Names that point to it from now on; by tag, by digest.
    pub references: &'a [Reference],
    /// Whether layers are unpacked now.
    pub unpack: Unpack,
    /// It stays only as long as its `subject` does: a signature that came with an image.
    pub attached: bool,
    /// What the history of the references says: `pull`, `copy`, `build`, …
    pub cause: &'a str,
}

impl Store {
    /// Stores an image, an index of images or an artifact whose blobs are here, kept by `lease`.
    pub fn add_image(&self, lease: &Lease, request: &NewImageRequest<'_>) -> Result<Target> {
        let layers = Layers::new(self.disk(), self.database(), decode::Limits::default())?.kept_by(lease);
        with_unpacker(&layers, |unpacker| add(self, lease, unpacker, request))
    }
}

pub(crate) fn add(
    store: &Store,
    lease: &Lease,
    unpacker: &Unpacker<'_>,
    request: &NewImageRequest<'_>,
) -> Result<Target> {
    let only_fitting = request.members.len() > 1;
    let adding = Adding { store, lease, unpacker, unpack: request.unpack, only_fitting, now_ns: now_ns() };
    let mut target = adding.document(&request.target)?;
    target.row.top = !(request.attached && target.row.subject.is_some());
    let members: Vec<NewDocument> =
        request.members.iter().map(|member| adding.document(member)).collect::<Result<_>>()?;
    adding.check_members(request, &members)?;
    let algorithms: BTreeSet<Algorithm> =
        members.iter().chain([&target]).flat_map(|document| &document.blobs).map(Digest::algorithm).collect();
    for algorithm in algorithms {
        blob::sync_names(store.disk(), algorithm)?;
    }
    store.database().add(NewTarget {
        target: &target,
        members: &members,
        references: request.references,
        cause: request.cause,
    })?;
    store.target_of(target.row)
}

struct Adding<'a> {
    store: &'a Store,
    lease: &'a Lease,
    unpacker: &'a Unpacker<'a>,
    unpack: Unpack,
    /// Of several images only those are unpacked that this machine can run.
    only_fitting: bool,
    now_ns: i64,
}

impl Adding<'_> {
    /// Names a document's bytes and checks all that it needs.
    fn document(&self, raw: &RawDocument<'_>) -> Result<NewDocument> {
        let digest = digest_of(raw.algorithm, raw.bytes)?;
        self.checked(raw, digest).context(|| format!("cannot store manifest {digest}"))
    }

    fn checked(&self, raw: &RawDocument<'_>, digest: Digest) -> Result<NewDocument> {
        let document = Document::parse(raw.bytes, Some(raw.media_type))?;
        let new = |kind, artifact_type, subject, blobs, image| NewDocument {
            row: DocumentRow {
                digest,
                kind,
                media_type: raw.media_type.to_owned(),
                artifact_type,
                subject,
                top: false,
                added_ns: self.now_ns,
            },
            size: raw.bytes.len() as u64,
            blobs,
            image,
        };
        let made = match document {
            Document::Index(index) => {
                let subject = index.subject.map(|subject| subject.digest);
                new(Kind::Index, index.artifact_type, subject, vec![digest], None)
            }
            Document::Manifest(manifest) => {
                let mut blobs = vec![digest];
                for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    self.require(descriptor)?;
                    blobs.push(descriptor.digest);
                }
                let subject = manifest.subject.as_ref().map(|subject| subject.digest);
                if is_image(&manifest) {
                    let image = self.image(&manifest)?;
                    new(Kind::Image, None, subject, blobs, Some(image))
                } else {
                    let kind = manifest.artifact_type.unwrap_or(manifest.config.media_type);
                    new(Kind::Artifact, Some(kind), subject, blobs, None)
                }
            }
        };
        self.store.put_blob_unsynced(self.lease, &digest, raw.bytes)?;
        Ok(made)
    }

    fn require(&self, descriptor: &Descriptor) -> Result<()> {
        if !self.lease.keep(&descriptor.digest)? {
            return Err(Error::new(ErrorKind::NotFound, format!("blob {} is missing", descriptor.digest)));
        }
        let size = blob::size(self.store.disk(), &descriptor.digest)?.unwrap_or(0);
        if size != descriptor.size {
            let (digest, said) = (descriptor.digest, descriptor.size);
            let message = format!("{digest} has {size} bytes where its descriptor says {said}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }

    fn image(&self, manifest: &Manifest) -> Result<NewImagePart> {
        let config = blob::read(self.store.disk(), &manifest.config.digest, CONFIG_SIZE_BYTES_MAX)?;
        let config = ImageConfig::parse(&config)?;
        check_layers(&config, manifest.layers.len())?;
        let diff_ids = &config.rootfs.diff_ids;
        let chain = chain_ids(diff_ids)?;
        let fits = platform::best(std::iter::once((&config.platform, ())), None).is_some();
        let size = match self.unpack {
            Unpack::Now if fits || !self.only_fitting => {
                Some(self.unpack_layers(&manifest.layers, diff_ids, &chain)?)
            }
            _ => None,
        };
        let layers = diff_ids.iter().copied().zip(chain).collect();
        Ok(NewImagePart { config: manifest.config.digest, size, layers })
    }

    /// Every layer unpacked, lowest first; the bytes of all. A blob must unfold to the diff id that the configuration
    /// names.
    fn unpack_layers(&self, layers: &[Descriptor], diff_ids: &[Digest], chain: &[Digest]) -> Result<u64> {
        let known = |position: usize| -> Result<Option<LayerRow>> {
            let (blob, diff_id) = (&layers[position].digest, &diff_ids[position]);
            if self.store.database().diff_id_of(blob)?.as_ref() != Some(diff_id) {
                return Ok(None);
            }
            self.unpacker.layers().find(diff_id, &chain[position])
        };
        for (position, layer) in layers.iter().enumerate() {
            if known(position)?.is_none() {
                let file = blob::open(self.store.disk(), &layer.digest)?;
                self.unpacker.start_bytes(&layer.digest, LayerBytes::Whole(Arc::new(file)));
            }
        }
        let mut rows: Vec<LayerRow> = Vec::with_capacity(layers.len());
        for (position, layer) in layers.iter().enumerate() {
            if let Some(row) = known(position)? {
                rows.push(row);
                continue;
            }
            let file = || blob::open(self.store.disk(), &layer.digest).map(Arc::new);
            let unpacked = self.unpacker.take(&layer.digest, file);
            let row = unpacked
                .and_then(|unpacked| {
                    settle(self.unpacker.layers(), unpacked, &diff_ids[position], &chain[position], &rows)
                })
                .context(|| format!("cannot unpack layer {}", position + 1))?;
            rows.push(row);
        }
        Ok(rows.iter().map(|row| row.size).sum())
    }

    /// Members are what the index, or an index within it, lists.
    fn check_members(&self, request: &NewImageRequest<'_>, members: &[NewDocument]) -> Result<()> {
        let mut listed: BTreeSet<Digest> = BTreeSet::new();
        for raw in request.members.iter().chain([&request.target]) {
            if let Document::Index(index) = Document::parse(raw.bytes, Some(raw.media_type))? {
                listed.extend(index.manifests.iter().map(|descriptor| descriptor.digest));
            }
        }
        match members.iter().find(|member| !listed.contains(&member.row.digest)) {
            Some(stray) => Err(Error::invalid(format!("manifest {} is not in the index", stray.row.digest))),
            None => Ok(()),
        }
    }
}

/// Whether a manifest is of an image that can be run: configuration and layers have an image's types. Signatures and
/// attestations name an image's configuration too, but their layers are something else.
pub(crate) fn is_image(manifest: &Manifest) -> bool {
    manifest.artifact_type.is_none()
        && matches!(manifest.config.media_type.as_str(), media_type::CONFIG | media_type::DOCKER_CONFIG)
        && manifest.layers.iter().all(|layer| layer_compression(&layer.media_type).is_ok())
}

/// A manifest has as many layers as its configuration.
pub(crate) fn check_layers(config: &ImageConfig, count: usize) -> Result<()> {
    let listed = config.rootfs.diff_ids.len();
    if listed != count {
        let message = format!("the configuration lists {listed} layers, the manifest {count}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}
