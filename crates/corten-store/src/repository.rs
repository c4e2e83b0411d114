//! The store as a registry sees it: repositories, each with the blobs and manifests that belong to it.
//!
//! A blob is in the store once and belongs to every repository that it was pushed to, and to those that a reference in the
//! store leads to it from; a repository's content cannot be reached through another. Tags are the store's references.

use std::collections::BTreeSet;
use std::time::Duration;

use corten_types::image_spec::{Document, MANIFEST_SIZE_BYTES_MAX};
use corten_types::{Digest, Error, ErrorKind, Reference, Result};

use crate::add::{NewImageRequest, RawDocument, Unpack};
use crate::database::{DocumentRow, Kind, NewDocument, NewTarget, RepositoryManifest, RepositoryUsage};
use crate::garbage::Collected;
use crate::lease::Lease;
use crate::store::{Store, now_ns};

/// Manifests that one index leads to, at most.
const MEMBERS_MAX: usize = 1000;

/// A repository of a registry over this store.
#[derive(Debug, Clone, Copy)]
pub struct Repository<'s> {
    pub(crate) store: &'s Store,
    pub(crate) name: &'s str,
}

/// What [`Repository::put_manifest`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Done,
    /// Nothing, because this is not in the repository.
    Missing(Vec<Digest>),
}

/// A manifest that is pushed.
#[derive(Debug, Clone)]
pub struct NewManifest<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What it says of itself.
    pub row: RepositoryManifest,
    /// Blobs that it needs.
    pub blobs: &'a [Digest],
    /// Manifests that it lists.
    pub members: &'a [Digest],
    /// Tags that point to it from now on.
    pub tags: &'a [Reference],
}

/// How [`Store::collect_repositories`] chooses.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Pushed blobs that no manifest needs.
    pub blobs_for: Duration,
    /// Manifests that no tag, index or subject keeps; for ever where it is absent.
    pub untagged_for: Option<Duration>,
}

/// What [`Store::collect_repositories`] did.
#[derive(Debug, Clone, Default)]
pub struct CollectedLinks {
    /// Blobs that belong to a repository no more.
    pub blobs: usize,
    /// Manifests that do not.
    pub manifests: usize,
    /// What the store gave back.
    pub store: Collected,
}

impl Store {
    /// The repository `REGISTRY/PATH`; it need not exist.
    pub fn repository<'s>(&'s self, name: &'s str) -> Repository<'s> {
        Repository { store: self, name }
    }

    /// Every repository that something was pushed to or that a reference is in, sorted.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.database().linked_repositories()?.into_iter().collect();
        for name in self.database().reference_names()? {
            let end = name.find('@').unwrap_or(name.len());
            let end = name[..end].rfind(':').filter(|colon| !name[*colon..end].contains('/')).unwrap_or(end);
            if !names.contains(&name[..end]) {
                names.insert(name[..end].to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Bytes of all that was pushed to repositories, each blob counted once.
    pub fn repositories_size(&self) -> Result<u64> {
        self.database().usage_of_all()
    }

    /// Forgets what was pushed and is not needed, then collects what nothing in the store needs.
    pub fn collect_repositories(&self, keep: Keep) -> Result<CollectedLinks> {
        let before = |age: Duration| now_ns().saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let (blobs, manifests) =
            self.database().forget_unneeded_links(before(keep.blobs_for), keep.untagged_for.map(before))?;
        let store = self.collect_garbage()?;
        Ok(CollectedLinks { blobs, manifests, store })
    }
}

impl Repository<'_> {
    /// The size of a blob of this repository; `None` where it has it not, though the store may.
    pub fn blob(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.store.database().linked_blob(self.name, digest)? {
            Some((size, _)) => Ok(Some(size)),
            None if self.store.database().reaches_blob(self.name, digest)? => self.store.blob_size(digest),
            None => Ok(None),
        }
    }

    /// Makes a blob that the store has one of this repository's.
    pub fn link_blob(&self, lease: &Lease, digest: &Digest) -> Result<()> {
        if !lease.keep(digest)? {
            return Err(Error::new(ErrorKind::NotFound, format!("the store has no blob {digest}")));
        }
        let size = self.store.blob_size(digest)?.unwrap_or(0);
        self.store.database().link_blob(self.name, digest, size, now_ns())
    }

    /// Notes that somebody who pushes counts on a blob that is here: collection gives him `fresh_for` longer to name it.
    pub fn touch_blob(&self, digest: &Digest, fresh_for: Duration) -> Result<()> {
        let fresh_ns = i64::try_from(fresh_for.as_nanos()).unwrap_or(i64::MAX);
        match self.store.database().linked_blob(self.name, digest)? {
            Some((size, seen_ns)) if now_ns().saturating_sub(seen_ns) > fresh_ns => {
                self.store.database().link_blob(self.name, digest, size, now_ns())
            }
            _ => Ok(()),
        }
    }

    /// Takes a blob out of the repository; whether it was there. `Conflict` where a manifest of the repository needs it.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        let database = self.store.database();
        if database.is_needed_in(self.name, digest)? || database.reaches_blob(self.name, digest)? {
            return Err(Error::new(ErrorKind::Conflict, format!("a manifest of `{}` needs {digest}", self.name)));
        }
        database.unlink_blob(self.name, digest)
    }

    /// A manifest of this repository: its media type.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<String>> {
        match self.store.database().linked_manifest(self.name, digest)? {
            Some(row) => Ok(Some(row.media_type)),
            None => self.store.database().reached_document(self.name, digest),
        }
    }

    /// Every manifest that was pushed, newest first.
    pub fn manifests(&self) -> Result<Vec<RepositoryManifest>> {
        self.store.database().linked_manifests(self.name)
    }

    /// Manifests about `subject`, by digest: what was pushed, and what references of the store lead to.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<RepositoryManifest>> {
        let database = self.store.database();
        let mut rows = database.linked_referrers(self.name, subject)?;
        for (digest, media_type) in database.reached_referrers(self.name, subject)? {
            if rows.iter().any(|row| row.digest == digest) {
                continue;
            }
            let bytes = self.store.read_blob_bounded(&digest, MANIFEST_SIZE_BYTES_MAX)?;
            let says = Needs::of(&Document::parse(&bytes, Some(&media_type))?);
            rows.push(RepositoryManifest {
                digest,
                media_type,
                size: bytes.len() as u64,
                artifact_type: says.artifact_type,
                subject: says.subject,
                annotations: says.annotations,
                pushed_ns: 0,
            });
        }
        rows.sort_by_key(|row| row.digest.to_string());
        Ok(rows)
    }

    /// What a tag points to.
    pub fn tag(&self, tag: &Reference) -> Result<Option<Digest>> {
        self.store.database().reference(tag)
    }

    /// Tags after `after`, sorted, with what they point to.
    pub fn tags(&self, after: &str, count_max: usize) -> Result<Vec<(String, Digest)>> {
        self.store.database().tags(self.name, after, count_max)
    }

    /// What was pushed.
    pub fn usage(&self) -> Result<RepositoryUsage> {
        self.store.database().usage(self.name)
    }

    /// Stores a manifest, all of whose blobs and members must be in the repository, and moves tags to it.
    pub fn put_manifest(&self, lease: &Lease, new: &NewManifest<'_>) -> Result<Put> {
        // What only a reference leads to becomes the repository's own: the reference may go.
        for (needs, are_members) in [(new.blobs, false), (new.members, true)] {
            for need in needs {
                self.adopt(lease, need, are_members)?;
            }
        }
        self.store.put_blob(lease, &new.row.digest, new.bytes)?;
        let missing = self.store.database().link_manifest(self.name, &new.row, new.blobs, new.members)?;
        if !missing.is_empty() {
            return Ok(Put::Missing(missing));
        }
        if !new.tags.is_empty() {
            self.name_image(lease, new)?;
        }
        Ok(Put::Done)
    }

    fn adopt(&self, lease: &Lease, digest: &Digest, is_manifest: bool) -> Result<()> {
        let database = self.store.database();
        if !is_manifest {
            let is_adoptable =
                database.linked_blob(self.name, digest)?.is_none() && database.reaches_blob(self.name, digest)?;
            return if is_adoptable { self.link_blob(lease, digest) } else { Ok(()) };
        }
        if database.linked_manifest(self.name, digest)?.is_some() {
            return Ok(());
        }
        let Some(media_type) = database.reached_document(self.name, digest)? else { return Ok(()) };
        lease.keep(digest)?;
        let bytes = self.store.read_blob_bounded(digest, MANIFEST_SIZE_BYTES_MAX)?;
        let needs = Needs::of(&Document::parse(&bytes, Some(&media_type))?);
        for blob in &needs.blobs {
            self.adopt(lease, blob, false)?;
        }
        for member in &needs.members {
            self.adopt(lease, member, true)?;
        }
        let row = RepositoryManifest {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
            artifact_type: needs.artifact_type,
            subject: needs.subject,
            annotations: needs.annotations,
            pushed_ns: now_ns(),
        };
        // Members of an index for many platforms need not be here: what is missing is no member of ours.
        let _missing = database.link_manifest(self.name, &row, &needs.blobs, &[])?;
        Ok(())
    }

    /// Points the store's references at what was pushed, so that it is an image as any other.
    fn name_image(&self, lease: &Lease, new: &NewManifest<'_>) -> Result<()> {
        let mut before = BTreeSet::new();
        for tag in new.tags {
            before.extend(self.tag(tag)?.filter(|target| *target != new.row.digest));
        }
        let mut documents = Vec::new();
        self.members(new.members, &mut documents)?;
        let members: Vec<RawDocument<'_>> = documents
            .iter()
            .map(|(digest, media_type, bytes)| RawDocument { bytes, media_type, algorithm: digest.algorithm() })
            .collect();
        let request = NewImageRequest {
            target: RawDocument {
                bytes: new.bytes,
                media_type: &new.row.media_type,
                algorithm: new.row.digest.algorithm(),
            },
            members: &members,
            references: new.tags,
            unpack: Unpack::Later,
            attached: false,
            cause: "push",
        };
        match self.store.add_image(lease, &request) {
            Ok(_) => {}
            // Layers that are kept elsewhere, a configuration that is none of an image: the registry keeps what it was
            // given, and the store keeps it as something that it cannot run.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Unsupported
                ) =>
            {
                self.store.add_opaque(lease, &request, new.blobs)?;
            }
            Err(error) => return Err(error),
        }
        for target in before {
            self.store.forget_unnamed(&target)?;
        }
        Ok(())
    }

    /// The manifests that indexes lead to and that this repository has.
    fn members(&self, digests: &[Digest], found: &mut Vec<(Digest, String, Vec<u8>)>) -> Result<()> {
        for digest in digests {
            if found.iter().any(|(known, _, _)| known == digest) {
                continue;
            }
            if found.len() >= MEMBERS_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("an index leads to more than {MEMBERS_MAX} manifests"),
                ));
            }
            let Some(media_type) = self.manifest(digest)? else { continue };
            let bytes = self.store.read_blob_bounded(digest, MANIFEST_SIZE_BYTES_MAX)?;
            let needs = Needs::of(&Document::parse(&bytes, Some(&media_type))?);
            found.push((*digest, media_type, bytes));
            self.members(&needs.members, found)?;
        }
        Ok(())
    }

    /// Removes a tag; whether it was there.
    pub fn remove_tag(&self, tag: &Reference) -> Result<bool> {
        if self.tag(tag)?.is_none() {
            return Ok(false);
        }
        let target = self.store.untag(tag)?;
        self.store.forget_unnamed(&target)?;
        Ok(true)
    }

    /// Takes a manifest out of the repository, with the tags that point to it; whether it was there.
    pub fn remove_manifest(&self, digest: &Digest) -> Result<bool> {
        let mut was_there = false;
        for reference in self.store.database().references_of(digest)? {
            if reference.repository() == self.name {
                self.store.untag(&reference)?;
                was_there = true;
            }
        }
        was_there |= self.store.database().unlink_manifest(self.name, digest)?;
        if was_there {
            self.store.forget_unnamed(digest)?;
        }
        Ok(was_there)
    }
}

impl Store {
    /// Stores a document that is kept for others and can be neither run nor listed with its members.
    fn add_opaque(&self, lease: &Lease, request: &NewImageRequest<'_>, needs: &[Digest]) -> Result<()> {
        let raw = &request.target;
        let digest = Self::digest_of(raw.algorithm, raw.bytes)?;
        let document = Document::parse(raw.bytes, Some(raw.media_type))?;
        let kind = if matches!(document, Document::Index(_)) { Kind::Index } else { Kind::Artifact };
        let says = Needs::of(&document);
        self.put_blob(lease, &digest, raw.bytes)?;
        let target = NewDocument {
            row: DocumentRow {
                digest,
                kind,
                media_type: raw.media_type.to_owned(),
                artifact_type: says.artifact_type,
                subject: says.subject,
                top: true,
                added_ns: now_ns(),
            },
            size: raw.bytes.len() as u64,
            blobs: std::iter::once(digest).chain(needs.iter().copied()).collect(),
            image: None,
        };
        let (references, cause) = (request.references, request.cause);
        self.database().add(NewTarget { target: &target, members: &[], references, cause })
    }

    /// Removes an image that nothing names and no container uses; what a repository has of it stays.
    fn forget_unnamed(&self, digest: &Digest) -> Result<()> {
        if !self.is_used(&BTreeSet::from([*digest]))? {
            self.database().remove_unnamed(digest, now_ns())?;
        }
        Ok(())
    }
}

/// What a manifest or an index needs and says.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Blobs that must be there.
    pub blobs: Vec<Digest>,
    /// Blobs that are kept elsewhere, by licence.
    pub foreign: Vec<Digest>,
    /// Manifests that an index lists.
    pub members: Vec<Digest>,
    /// What it is about.
    pub subject: Option<Digest>,
    /// Kind of artifact; an image's is its configuration's type.
    pub artifact_type: Option<String>,
    /// Annotations as JSON, where it is about something.
    pub annotations: Option<String>,
}

impl Needs {
    /// Reads them off a document.
    pub fn of(document: &Document) -> Self {
        let annotated = |has_subject: bool, annotations| {
            if has_subject { serde_json::to_string(annotations).ok() } else { None }
        };
        match document {
            Document::Index(index) => Self {
                members: index.manifests.iter().map(|descriptor| descriptor.digest).collect(),
                subject: index.subject.as_ref().map(|subject| subject.digest),
                artifact_type: index.artifact_type.clone().filter(|kind| !kind.is_empty()),
                annotations: annotated(index.subject.is_some(), &index.annotations),
                ..Self::default()
            },
            Document::Manifest(manifest) => {
                let (foreign, layers): (Vec<_>, Vec<_>) =
                    manifest.layers.iter().partition(|layer| is_foreign(&layer.media_type));
                let kind = manifest.artifact_type.clone().filter(|kind| !kind.is_empty());
                Self {
                    blobs: std::iter::once(&manifest.config).chain(layers).map(|blob| blob.digest).collect(),
                    foreign: foreign.into_iter().map(|layer| layer.digest).collect(),
                    subject: manifest.subject.as_ref().map(|subject| subject.digest),
                    artifact_type: kind.or_else(|| Some(manifest.config.media_type.clone())),
                    annotations: annotated(manifest.subject.is_some(), &manifest.annotations),
                    ..Self::default()
                }
            }
        }
    }
}

/// Layers that may not be given away and lie where their URLs say.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains("layer.nondistributable.") || media_type.contains("rootfs.foreign.")
}
