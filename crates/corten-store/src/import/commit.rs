//! From found to stored: layers verified against the configuration, blobs named, then the rows, in that order.

use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Descriptor, ImageConfig};
use corten_types::{Context, Digest, Error, ErrorKind, Result};

use super::unpack::Unpacker;
use super::{Content, Imported, LoadedImage};
use crate::add::{self, NewImageRequest, RawDocument, Unpack, check_layers};
use crate::blob::{Ingest, Staged, digest_of};
use crate::disk::Disk;
use crate::layer::{LayerRow, Layers, Unpacked, chain_ids};
use crate::lease::Lease;
use crate::store::Store;

impl Imported {
    /// Stores the image; its references are moved to it.
    pub(crate) fn commit(
        self,
        store: &Store,
        lease: &Lease,
        unpacker: &Unpacker<'_>,
        cause: &str,
    ) -> Result<LoadedImage> {
        let name = match self.references.first() {
            Some(reference) => reference.familiar(),
            None => self.config_digest.short(),
        };
        self.store(store, lease, unpacker, cause).context(|| format!("cannot load image `{name}`"))
    }

    fn store(self, store: &Store, lease: &Lease, unpacker: &Unpacker<'_>, cause: &str) -> Result<LoadedImage> {
        // First all that can be wrong with it: nothing is named before.
        let config = ImageConfig::parse(&self.config)?;
        let chain = chain_ids(&config.rootfs.diff_ids)?;
        check_layers(&config, self.layers.len())?;
        let mut rows: Vec<LayerRow> = Vec::with_capacity(self.layers.len());
        for (position, (_, content)) in self.layers.iter().enumerate() {
            let unpacked = unpacker.take(&content.digest(), || file(store.disk(), content));
            let (diff_id, chain_id) = (&config.rootfs.diff_ids[position], &chain[position]);
            let row = unpacked
                .and_then(|unpacked| settle(unpacker.layers(), unpacked, diff_id, chain_id, &rows))
                .context(|| format!("cannot unpack layer {}", position + 1))?;
            rows.push(row);
        }
        name_all(store, lease, &self.layers)?;
        store.put_blob_unsynced(lease, &self.config_digest, &self.config)?;
        let primary = raw(&self.manifest, &self.media_type);
        let (mut target, mut members) = (primary, Vec::new());
        if let Some(index) = &self.index {
            target = raw(&index.bytes, &index.media_type);
            members.push(primary);
            for part in &index.others {
                name_all(store, lease, &part.contents)?;
                members.push(raw(&part.bytes, &part.media_type));
            }
            members.extend(index.nested.iter().map(|(bytes, media_type)| raw(bytes, media_type)));
        }
        let manifest = digest_of(Algorithm::Sha256, &self.manifest)?;
        let (references, members) = (self.references.as_slice(), members.as_slice());
        let request = NewImageRequest { target, members, references, unpack: Unpack::Now, attached: false, cause };
        let target = add::add(store, lease, unpacker, &request)?.digest;
        Ok(LoadedImage { id: self.config_digest, manifest, target, references: self.references })
    }
}

fn raw<'a>(bytes: &'a [u8], media_type: &'a str) -> RawDocument<'a> {
    RawDocument { bytes, media_type, algorithm: Algorithm::Sha256 }
}

/// Gives contents their names in the store.
fn name_all(store: &Store, lease: &Lease, contents: &[(Descriptor, Content)]) -> Result<()> {
    for (descriptor, content) in contents {
        match content {
            Content::Stored(..) => drop(lease.keep(&descriptor.digest)?),
            Content::Staged(staged) => staged.name(lease, &descriptor.digest)?,
            Content::Bytes(_, bytes) => store.put_blob_unsynced(lease, &descriptor.digest, bytes)?,
        }
    }
    Ok(())
}

/// The row of an unpacked layer in its chain.
pub(crate) fn settle(
    layers: &Layers<'_>,
    unpacked: Unpacked,
    diff_id: &Digest,
    chain_id: &Digest,
    below: &[LayerRow],
) -> Result<LayerRow> {
    if unpacked.diff_id() != *diff_id {
        let message = format!("expected {diff_id}, the content unfolds to {}", unpacked.diff_id());
        return Err(Error::new(ErrorKind::Corrupt, message).hint("the image is damaged; it was not stored"));
    }
    match unpacked {
        Unpacked::Bound(bound) => layers.bind(bound, chain_id, below),
        Unpacked::Shared(_) => layers
            .find(diff_id, chain_id)?
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("layer {diff_id} vanished while it was stored"))),
    }
}

fn file(disk: &Disk, content: &Content) -> Result<Arc<std::fs::File>> {
    match content {
        Content::Stored(_, _, file) => Ok(Arc::clone(file)),
        Content::Staged(staged) => Ok(Arc::clone(&staged.file)),
        Content::Bytes(digest, bytes) => Ok(Arc::clone(&stage(disk, digest, bytes)?.file)),
    }
}

fn stage(disk: &Disk, digest: &Digest, bytes: &[u8]) -> Result<Staged> {
    let mut ingest = Ingest::new(disk, digest.algorithm())?;
    ingest.append(bytes).map_err(|error| crate::disk::storing(error.into(), "a blob"))?;
    ingest.finish()
}
