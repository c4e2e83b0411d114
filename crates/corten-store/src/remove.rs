//! Names that move and go, and images that go with their last one.

use std::collections::BTreeSet;

use corten_types::image_spec::Platform;
use corten_types::{Digest, Error, ErrorKind, Reference, Result};

use crate::database::{DocumentRow, Kind, Move};
use crate::garbage::{self, Collected};
use crate::snapshot;
use crate::store::{Store, now_ns};

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// References that no longer exist.
    pub untagged: Vec<Reference>,
    /// The image, where nothing names it any more: its identifier (an index's or artifact's is its own digest).
    pub deleted: Option<Digest>,
    /// What went with it.
    pub collected: Collected,
}

impl Store {
    /// Points `reference` at an image, an index or an artifact; the move is remembered in the reference's history.
    pub fn tag(&self, target: &Digest, reference: &Reference) -> Result<()> {
        self.tag_because(target, reference, "tag")
    }

    /// As [`Store::tag`], with the word that the history shows.
    pub fn tag_because(&self, target: &Digest, reference: &Reference, cause: &str) -> Result<()> {
        if reference.digest().is_some() {
            return Err(Error::invalid(format!("`{reference}` names a digest; a tag is wanted")));
        }
        let row = self.lookup(&target.to_string())?;
        self.database().move_reference(reference, Some(&row.digest), now_ns(), cause)
    }

    /// Notes that a repository elsewhere has what is here: `NAME@DIGEST`, as a pull notes it.
    pub fn note_elsewhere(&self, repository: &Reference, target: &Digest) -> Result<()> {
        let reference = repository.with_digest(*target);
        if self.database().reference(&reference)?.is_some() {
            return Ok(());
        }
        let row = self.lookup(&target.to_string())?;
        self.database().move_reference(&reference, Some(&row.digest), now_ns(), "push")
    }

    /// Removes a reference; the image stays. What it pointed to.
    pub fn untag(&self, reference: &Reference) -> Result<Digest> {
        let target = self
            .database()
            .reference(reference)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no image `{}`", reference.familiar())))?;
        self.removing(|| self.database().move_reference(reference, None, now_ns(), "untag"))?;
        Ok(target)
    }

    /// Where a reference pointed, newest first; empty where it never pointed anywhere.
    pub fn history(&self, reference: &Reference) -> Result<Vec<Move>> {
        self.database().history(reference)
    }

    /// Points a reference to what it pointed to `steps` moves ago, removals not counted; what that is.
    pub fn rollback(&self, reference: &Reference, steps: usize) -> Result<Digest> {
        let moves = self.history(reference)?;
        let name = reference.familiar();
        let Some(current) = moves.first() else {
            return Err(Error::new(ErrorKind::NotFound, format!("`{name}` never pointed anywhere"))
                .hint("`corten images` lists the names there are"));
        };
        let mut before: Vec<Digest> = moves.iter().filter_map(|step| step.target).collect();
        // Where the name was removed, one step back is what it had then.
        let index = if current.target.is_some() { steps } else { steps - 1 };
        before.dedup();
        let Some(target) = before.get(index).copied() else {
            let message = format!("`{name}` moved {} times, not {steps}", before.len().saturating_sub(1));
            return Err(Error::new(ErrorKind::NotFound, message).hint(format!("`corten image log {name}` shows them")));
        };
        let gone = |error: Error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("{target}, which `{name}` pointed to, is gone"))
                    .hint(format!("it was removed or pruned; `corten image log {name}` shows what is here"))
            }
            _ => error,
        };
        self.tag_because(&target, reference, "rollback").map_err(gone)?;
        Ok(target)
    }

    /// Removes an image that nothing names and no container uses.
    pub(crate) fn retire(&self, manifest: &Digest) -> Result<()> {
        if self.database().references_of(manifest)?.is_empty() && !self.is_used(&BTreeSet::from([*manifest]))? {
            self.database().remove(manifest, now_ns())?;
            self.collect_garbage()?;
        }
        Ok(())
    }

    /// Removes what `name` means as docker's `rmi` does: one of several names is only untagged, the last name or an
    /// identifier deletes the image. `Conflict` while a container uses it, or while several repositories name an
    /// identifier, unless `force`.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let mut removed = self.remove_named(name, force)?;
        if removed.deleted.is_some() {
            removed.collected = self.collect_garbage()?;
        }
        Ok(removed)
    }

    /// As [`Store::remove`]; what the image consisted of stays until the next collection.
    pub fn remove_named(&self, name: &str, force: bool) -> Result<Removed> {
        let row = self.top_of(self.lookup(name)?)?;
        let target = self.target_of(row.clone())?;
        let references = &target.references;
        let named = Reference::meanings(name).find(|reference| references.contains(reference));
        if let Some(reference) = &named {
            let staying = target.names_beside(reference);
            if !staying.is_empty() {
                let mut untagged = references.clone();
                untagged.retain(|reference| !staying.contains(reference));
                for reference in &untagged {
                    self.untag(reference)?;
                }
                return Ok(Removed { untagged, ..Removed::default() });
            }
        }
        let images = self.images_of(&row.digest)?;
        let id = images.first().map_or(row.digest, |image| image.id);
        let mut repositories: Vec<String> = references.iter().map(Reference::repository).collect();
        repositories.dedup();
        if named.is_none() && repositories.len() > 1 && !force {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("image `{}` is named in several repositories", id.short()),
            )
            .hint("remove its names one by one, or all with `--force`"));
        }
        let is_used = self.is_used(&images.iter().map(|image| image.manifest).collect())?;
        if is_used {
            if !force {
                return Err(Error::new(ErrorKind::Conflict, format!("image `{}` is used by a container", id.short()))
                    .hint("remove the container first (`corten ps -a`), or use `--force`"));
            }
            // A container's layers stay; their blobs may go, so they must not be needed after a power cut.
            self.sync()?;
        }
        let untagged = self.removing(|| self.database().remove(&row.digest, now_ns()))?;
        Ok(Removed { untagged, deleted: Some(id), ..Removed::default() })
    }

    /// Removes one image of an index; the index and its names stay while another of its images is here. What it consisted
    /// of stays until the next collection.
    pub fn remove_platform(&self, name: &str, platform: &Platform) -> Result<Removed> {
        let row = self.top_of(self.lookup(name)?)?;
        let image = self.resolve_platform(name, Some(platform))?;
        if row.kind != Kind::Index || self.images_of(&row.digest)?.len() < 2 {
            return self.remove_named(name, true);
        }
        self.database().remove_member(&row.digest, &image.manifest)?;
        Ok(Removed { deleted: Some(image.id), ..Removed::default() })
    }

    /// What stays by itself of what keeps a document: itself, or an index that it is a member of.
    fn top_of(&self, row: DocumentRow) -> Result<DocumentRow> {
        if row.top {
            return Ok(row);
        }
        Ok(self.database().parents(&row.digest)?.into_iter().next().unwrap_or(row))
    }

    /// Whether a container uses one of these manifests.
    pub(crate) fn is_used(&self, manifests: &BTreeSet<Digest>) -> Result<bool> {
        for key in snapshot::keys(self.disk())? {
            let manifest = snapshot::read(self.disk(), &key).ok().and_then(|record| record.manifest());
            if manifest.is_some_and(|manifest| manifests.contains(&manifest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes blobs and layers that no image, container, pin and lease needs; pulls and starts go on beside it.
    pub fn collect_garbage(&self) -> Result<Collected> {
        self.removing(|| garbage::collect(self.disk(), self.database()))
    }
}
