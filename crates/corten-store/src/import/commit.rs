//! From found to stored: layers verified against the configuration, blobs named, then the rows, in that order.

use std::collections::BTreeSet;
use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Descriptor, ImageConfig};
use corten_types::{Context, Digest, Error, ErrorKind, Result};

use super::unpack::Unpacker;
use super::{Content, Imported, LoadedImage};
use crate::blob::{self, Ingest, Staged, digest_of};
use crate::database::{Database, ImageRow, NewImage};
use crate::disk::Disk;
use crate::layer::{LayerRow, Layers, Unpacked, chain_ids};

impl Imported {
    /// Stores the image; its references are moved to it.
    pub(crate) fn commit(
        self,
        disk: &Disk,
        database: &Database,
        unpacker: &Unpacker<'_>,
        cause: &str,
    ) -> Result<LoadedImage> {
        let name = match self.references.first() {
            Some(reference) => reference.familiar(),
            None => self.config_digest.short(),
        };
        self.store(disk, database, unpacker, cause).context(|| format!("cannot load image `{name}`"))
    }

    fn store(self, disk: &Disk, database: &Database, unpacker: &Unpacker<'_>, cause: &str) -> Result<LoadedImage> {
        let config = ImageConfig::parse(&self.config)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != self.layers.len() {
            let message =
                format!("the configuration lists {} layers, the manifest {}", diff_ids.len(), self.layers.len());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let chain = chain_ids(diff_ids)?;
        let layers = unpack_layers(unpacker, &self.layers, diff_ids, &chain, disk)?;
        let manifest = digest_of(Algorithm::Sha256, &self.manifest)?;

        let mut algorithms = BTreeSet::from([Algorithm::Sha256]);
        for (descriptor, content) in &self.layers {
            name(disk, content, &descriptor.digest)?;
            algorithms.insert(descriptor.digest.algorithm());
        }
        name(disk, &Content::Bytes(self.config_digest, self.config), &self.config_digest)?;
        algorithms.insert(self.config_digest.algorithm());
        name(disk, &Content::Bytes(manifest, self.manifest), &manifest)?;
        for algorithm in algorithms {
            blob::sync_names(disk, algorithm)?;
        }

        let row = ImageRow {
            manifest,
            config: self.config_digest,
            media_type: self.media_type,
            size: layers.iter().map(|layer| layer.size).sum(),
            added_ns: crate::store::now_ns(),
        };
        let mut blobs = vec![manifest, self.config_digest];
        blobs.extend(self.layers.iter().map(|(descriptor, _)| descriptor.digest));
        let layers = diff_ids.iter().copied().zip(chain).collect();
        database.add_image(&NewImage { row, blobs, layers }, &self.references, cause)?;
        Ok(LoadedImage { id: self.config_digest, manifest, references: self.references })
    }
}

/// Every layer unpacked, lowest first. A blob must unfold to the diff id that the configuration names.
fn unpack_layers(
    unpacker: &Unpacker<'_>,
    layers: &[(Descriptor, Content)],
    diff_ids: &[Digest],
    chain: &[Digest],
    disk: &Disk,
) -> Result<Vec<LayerRow>> {
    let mut rows: Vec<LayerRow> = Vec::with_capacity(layers.len());
    for (position, (_, content)) in layers.iter().enumerate() {
        let (diff_id, chain_id) = (&diff_ids[position], &chain[position]);
        let unpacked = unpacker.take(&content.digest(), || file(disk, content));
        let row = unpacked
            .and_then(|unpacked| settle(unpacker.layers(), unpacked, diff_id, chain_id, &rows))
            .context(|| format!("cannot unpack layer {}", position + 1))?;
        rows.push(row);
    }
    Ok(rows)
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

/// Gives content its name in the store.
fn name(disk: &Disk, content: &Content, expected: &Digest) -> Result<()> {
    match content {
        Content::Stored(..) => Ok(()),
        Content::Staged(staged) => staged.commit(disk, expected),
        Content::Bytes(digest, _) if blob::exists(disk, digest)? => Ok(()),
        Content::Bytes(digest, bytes) => stage(disk, digest, bytes)?.commit(disk, expected),
    }
}
