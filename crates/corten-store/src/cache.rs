//! Repositories that are copies of another registry's: manifests may be here before what they need, what a tag meant is
//! remembered with the time that it was asked for, and what nobody asks for makes room.

use std::time::Duration;

use corten_types::image_spec::{Descriptor, Document, MANIFEST_SIZE_BYTES_MAX};
use corten_types::{Digest, Result};

use crate::database::RepositoryManifest;
use crate::lease::Lease;
use crate::repository::{Needs, Repository};
use crate::store::{Store, now_ns};

/// What was asked for is noted again after this long: a row a minute is enough to tell what is used.
const NOTED_EVERY: Duration = Duration::from_mins(1);

impl Repository<'_> {
    /// What a tag of the other registry meant, and how long ago it was asked.
    pub fn copied_tag(&self, tag: &str) -> Result<Option<(Digest, Duration)>> {
        let row = self.store.database().copied_tag(self.name, tag)?;
        Ok(row.map(|(digest, asked_ns)| {
            let age_ns = u64::try_from(now_ns().saturating_sub(asked_ns)).unwrap_or(0);
            (digest, Duration::from_nanos(age_ns))
        }))
    }

    /// Notes what a tag of the other registry means now.
    pub fn note_copied_tag(&self, tag: &str, digest: &Digest) -> Result<()> {
        self.store.database().note_copied_tag(self.name, tag, digest, now_ns())
    }

    /// Tags that were asked for, sorted.
    pub fn copied_tags(&self) -> Result<Vec<String>> {
        self.store.database().copied_tags(self.name)
    }

    /// Notes that somebody asked for a manifest that is here.
    pub fn touch_copy(&self, digest: &Digest) -> Result<()> {
        let now_ns = now_ns();
        let stale_ns = now_ns.saturating_sub(nanoseconds(NOTED_EVERY));
        self.store.database().touch_copy(self.name, digest, stale_ns, now_ns)
    }

    /// Keeps a manifest of the other registry; what it needs is fetched when it is asked for.
    pub fn copy_manifest(&self, lease: &Lease, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<()> {
        let needs = Needs::of(&Document::parse(bytes, Some(media_type))?);
        self.store.put_blob(lease, digest, bytes)?;
        let row = RepositoryManifest {
            digest: *digest,
            media_type: media_type.to_owned(),
            size: bytes.len() as u64,
            artifact_type: needs.artifact_type,
            subject: needs.subject,
            annotations: needs.annotations,
            pushed_ns: now_ns(),
        };
        self.store.database().copy_manifest(self.name, &row, &needs.blobs, &needs.members)
    }

    /// What is known of a blob that a manifest of this repository needs.
    pub fn wanted_blob(&self, digest: &Digest) -> Result<Option<Descriptor>> {
        for manifest in self.store.database().needing(self.name, digest)? {
            let bytes = self.store.read_blob_bounded(&manifest, MANIFEST_SIZE_BYTES_MAX)?;
            let Document::Manifest(manifest) = Document::parse(&bytes, None)? else { continue };
            let found = std::iter::once(&manifest.config).chain(&manifest.layers).find(|blob| blob.digest == *digest);
            if let Some(found) = found {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }
}

impl Store {
    /// Bytes of all copies below `prefix` (`REGISTRY/PREFIX`), each counted once.
    pub fn copies_size(&self, prefix: &str) -> Result<u64> {
        self.database().copies_size(prefix)
    }

    /// Forgets the blobs below `prefix` that were not asked for the longest, `bytes` of them at least where there are as
    /// many; how many. A manifest that needs one stays: the blob is fetched again.
    pub fn forget_oldest_copies(&self, prefix: &str, bytes: u64) -> Result<u64> {
        self.database().forget_oldest_copies(prefix, bytes)
    }

    /// Forgets what is below `prefix` and was not asked for so long; how many things.
    pub fn forget_unused_copies(&self, prefix: &str, unused_for: Duration) -> Result<usize> {
        self.database().forget_unused_copies(prefix, now_ns().saturating_sub(nanoseconds(unused_for)))
    }
}

fn nanoseconds(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}
