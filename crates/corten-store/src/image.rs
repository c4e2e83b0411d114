//! An image as the store knows it: a manifest, its configuration and layers, and the names that point to it.

use corten_types::image_spec::{Descriptor, ImageConfig};
use corten_types::{Digest, Reference};

use crate::database::Kind;

/// One image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration: docker's image identifier.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// What its names point to: the manifest, or an index that it is a member of.
    pub target: Digest,
    /// The configuration, parsed; the original bytes are the blob `id`.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// Bytes of all unpacked layers: docker's SIZE.
    pub size: u64,
    /// When it was stored here, nanoseconds since 1970.
    pub added_ns: i64,
    /// References by tag, sorted.
    pub repo_tags: Vec<Reference>,
    /// References by digest, sorted.
    pub repo_digests: Vec<Reference>,
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob, as the manifest names it.
    pub blob: Descriptor,
    /// Digest of the plain tar.
    pub diff_id: Digest,
    /// Identity of this layer on top of those below: the name of its directory.
    pub chain_id: Digest,
}

/// What a reference points to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// What it is.
    pub kind: Kind,
    /// Its media type.
    pub media_type: String,
    /// Its size, bytes.
    pub size: u64,
    /// Kind of artifact, where it is one.
    pub artifact_type: Option<String>,
    /// What it is about.
    pub subject: Option<Digest>,
    /// When it was stored here, nanoseconds since 1970.
    pub added_ns: i64,
    /// What points to it, sorted.
    pub references: Vec<Reference>,
}

impl Target {
    /// The names that stay when `reference` goes: a digest of its repository goes with the repository's last tag.
    pub fn names_beside(&self, reference: &Reference) -> Vec<Reference> {
        let others = || self.references.iter().filter(|other| *other != reference);
        let has_tag = others().any(|other| other.repository() == reference.repository() && other.tag().is_some());
        others()
            .filter(|other| has_tag || other.digest().is_none() || other.repository() != reference.repository())
            .cloned()
            .collect()
    }
}
