//! Images from archives and directories: docker-archive (`docker save`, old and new), oci-archive, OCI layout.
//!
//! An importer reads through [`Files`], which does not say where the files lie, and gives [`Imported`] images. Large files
//! are hashed as they pass and unpacked beside that, before it is known which image they belong to; nothing has a name in
//! the store before all of it was verified.

pub(crate) mod archive;
mod commit;
mod docker;
pub(crate) mod layout;
mod oci;
pub mod platform;
mod rootfs;
mod source;
pub(crate) mod unpack;

use std::fs::File;
use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Descriptor, Platform};
use corten_types::{Digest, Error, Reference, Result};

use crate::blob::Staged;

pub(crate) use commit::settle;
pub(crate) use docker::descriptor;
pub(crate) use platform::this_machine;
pub use rootfs::RootfsRequest;
pub use source::Source;

/// One image that `load` brought in.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// What the names point to: the manifest, or an index around it.
    pub target: Digest,
    /// The names that the archive gave it, now pointing to it.
    pub references: Vec<Reference>,
}

/// The files of an archive or a directory.
pub(crate) trait Files {
    /// The content of a small file; `None` where there is none of this name.
    fn read(&mut self, name: &str, size_bytes_max: u64) -> Result<Option<Vec<u8>>>;

    /// A file as content for the store, hashed with `algorithm`. A blob that the store has already is not read again
    /// where the file's name is its digest.
    fn content(&mut self, name: &str, algorithm: Algorithm) -> Result<Option<Content>>;
}

/// Content for the store.
#[derive(Clone)]
pub(crate) enum Content {
    /// It is there already.
    Stored(Digest, u64, Arc<File>),
    /// It waits for its name.
    Staged(Arc<Staged>),
    /// It is small.
    Bytes(Digest, Vec<u8>),
}

impl Content {
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Stored(digest, ..) | Self::Bytes(digest, _) => *digest,
            Self::Staged(staged) => staged.digest,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Stored(_, size, _) => *size,
            Self::Bytes(_, bytes) => bytes.len() as u64,
            Self::Staged(staged) => staged.size,
        }
    }
}

/// One image, found and not stored yet.
pub(crate) struct Imported {
    /// The manifest's bytes.
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
    /// The configuration's bytes and digest.
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: Digest,
    /// Layers, lowest first.
    pub(crate) layers: Vec<(Descriptor, Content)>,
    pub(crate) references: Vec<Reference>,
    /// The index that it came in and that is kept with it.
    pub(crate) index: Option<ImportedIndex>,
}

/// An index around an image.
pub(crate) struct ImportedIndex {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
    /// Indexes within it, as bytes and media type.
    pub(crate) nested: Vec<(Vec<u8>, String)>,
    /// What else of it is there.
    pub(crate) others: Vec<ImportedPart>,
}

/// A manifest that is kept and not unpacked.
pub(crate) struct ImportedPart {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
    /// Its configuration and layers.
    pub(crate) contents: Vec<(Descriptor, Content)>,
}

/// Which images of a source are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want<'a> {
    /// All, with their names; of every platform, or of one.
    All(Option<&'a Platform>),
    /// One: the one of this name, or the only one.
    One(Option<&'a str>),
}

/// Every wanted image of `files`, whatever form they have.
pub(crate) fn images(files: &mut dyn Files, want: Want<'_>) -> Result<Vec<Imported>> {
    // Docker writes both forms since version 25; the OCI one keeps the original manifests.
    if files.read("oci-layout", 4096)?.is_some() && files.read("index.json", 4 << 20)?.is_some() {
        return oci::images(files, want);
    }
    if files.read("manifest.json", 4 << 20)?.is_some() {
        return docker::images(files, want);
    }
    Err(Error::invalid("it holds no image: neither `manifest.json` nor `oci-layout` and `index.json`")
        .hint("an archive from `docker save`, `podman save` or `skopeo copy` is wanted; a root file system is run with `--rootfs DIR`"))
}

/// The path of a blob in an OCI layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest that a path of an OCI layout names, if it is the path of a blob.
pub(crate) fn blob_of_path(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}
