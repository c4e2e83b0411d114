//! The store as a place for blobs: what an image is made of, and what others keep beside images.

use std::fs::File;

use corten_types::digest::Algorithm;
use corten_types::{Digest, Reference, Result};

use crate::blob::{self, Ingest};
use crate::disk::storing;
use crate::lease::Lease;
use crate::partial::PartialIngest;
use crate::store::Store;

impl Store {
    /// Keeps what is brought in from being collected, for as long as the lease lives. `owner` says in words for whom.
    pub fn lease(&self, owner: &str) -> Result<Lease> {
        Lease::take(self.disk(), owner)
    }

    /// Starts to write a blob that will be named by a digest of `algorithm`.
    pub fn ingest(&self, algorithm: Algorithm) -> Result<Ingest> {
        Ingest::new(self.disk(), algorithm)
    }

    /// Starts or continues to write content that comes in parts, under a key of the caller's. `Conflict` while another
    /// holds the same key, in this process or another.
    pub fn resume_ingest(&self, key: &str) -> Result<PartialIngest> {
        PartialIngest::open(self.disk(), key)
    }

    /// Whether the store has a blob. Without a [`Lease`] it may be collected the moment after.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        blob::exists(self.disk(), digest)
    }

    /// The size of a blob; `None` where the store does not have it.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        blob::size(self.disk(), digest)
    }

    /// A blob, for reading. What was opened stays readable though the blob be removed.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        blob::open(self.disk(), digest)
    }

    /// The content of a small blob, verified as it is read.
    pub fn read_blob_bounded(&self, digest: &Digest, size_bytes_max: u64) -> Result<Vec<u8>> {
        blob::read(self.disk(), digest, size_bytes_max)
    }

    /// Stores a small blob, durably.
    pub fn put_blob(&self, lease: &Lease, expected: &Digest, content: &[u8]) -> Result<()> {
        self.put_blob_unsynced(lease, expected, content)?;
        blob::sync_names(self.disk(), expected.algorithm())
    }

    /// As [`Store::put_blob`]; the caller syncs the name.
    pub(crate) fn put_blob_unsynced(&self, lease: &Lease, expected: &Digest, content: &[u8]) -> Result<()> {
        if lease.keep(expected)? {
            return Ok(());
        }
        let mut ingest = Ingest::new(self.disk(), expected.algorithm())?;
        ingest.append(content).map_err(|error| storing(error.into(), "a blob"))?;
        ingest.finish()?.name(lease, expected)
    }

    /// The digest of `content`.
    pub fn digest_of(algorithm: Algorithm, content: &[u8]) -> Result<Digest> {
        blob::digest_of(algorithm, content)
    }

    /// Keeps blobs for `owner` until they are unpinned, whether an image needs them or not.
    pub fn pin(&self, owner: &str, digests: &[Digest]) -> Result<()> {
        self.database().pin(owner, digests)
    }

    /// Gives back what [`Store::pin`] kept; the next collection removes it unless something else needs it.
    pub fn unpin(&self, owner: &str, digests: &[Digest]) -> Result<()> {
        self.database().unpin(owner, digests)
    }

    /// Gives back all that `owner` keeps.
    pub fn unpin_all(&self, owner: &str) -> Result<()> {
        self.database().unpin_all(owner)
    }

    /// What `owner` keeps, sorted.
    pub fn pins(&self, owner: &str) -> Result<Vec<Digest>> {
        self.database().pins(owner)
    }

    /// Every reference with the digest that it points to, sorted.
    pub fn references(&self) -> Result<Vec<(Reference, Digest)>> {
        self.database().references()
    }
}
