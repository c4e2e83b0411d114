//! Images that go: one by name, or all that nobody needs.

use std::collections::BTreeMap;

use corten_store::{Image, Kind, Removed, Target};
use corten_types::image_spec::Platform;
use corten_types::{Error, ErrorKind, Reference, Result};
use jiff::Timestamp;

use crate::container::Container;
use crate::engine::Engine;

/// Which images [`Engine::prune_images`] removes.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// Not only those without a name, but all that no container uses.
    pub all: bool,
    /// Only those made before.
    pub until: Option<Timestamp>,
    /// Only those with each of these labels; with a value where one is given.
    pub labels: Vec<(String, Option<String>)>,
    /// Only those without any of these.
    pub labels_not: Vec<(String, Option<String>)>,
}

/// What [`Engine::remove_image`] removes.
#[derive(Debug, Clone, Copy)]
pub struct RemoveRequest<'a> {
    /// A name or an identifier.
    pub name: &'a str,
    /// Even where several names or stopped containers need it.
    pub force: bool,
    /// Of several platforms, this one alone.
    pub platform: Option<&'a Platform>,
    /// Without it, what the image consisted of stays until the next removal or prune.
    pub prune: bool,
}

/// What [`Engine::prune_images`] removed.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Images, in the order they went.
    pub removed: Vec<Removed>,
    /// Bytes given back.
    pub bytes: u64,
}

impl Engine {
    /// Removes what `name` means, as docker's `rmi` does. An image that a container uses stays: `Conflict`, unless `force`
    /// and none of them runs. With `platform` only that image of several goes.
    pub fn remove_image(&self, request: &RemoveRequest<'_>) -> Result<Removed> {
        let mut removed = self.remove_named(request)?;
        if request.prune && removed.deleted.is_some() {
            removed.collected = self.store().collect_garbage()?;
        }
        Ok(removed)
    }

    fn remove_named(&self, request: &RemoveRequest<'_>) -> Result<Removed> {
        let RemoveRequest { name, force, platform, .. } = *request;
        if let Some(platform) = platform {
            let image = self.store().resolve_platform(name, Some(platform))?;
            self.check_unused(&image, force, false)?;
            return self.store().remove_platform(name, platform);
        }
        let target = self.store().target(name)?;
        let reference = Reference::parse(name).ok().filter(|reference| target.references.contains(reference));
        let is_last = reference.as_ref().is_none_or(|reference| target.names_beside(reference).is_empty());
        if is_last && target.kind != Kind::Artifact {
            for image in self.store().images_of(&target.digest)? {
                let running = self.check_unused(&image, force, reference.is_some())?;
                if let (true, Some(reference)) = (running, &reference) {
                    // As docker does: the name goes, what runs stays.
                    self.store().untag(reference)?;
                    return Ok(Removed { untagged: vec![reference.clone()], ..Removed::default() });
                }
            }
        }
        self.store().remove_named(name, force)
    }

    /// Whether a running container uses the image and its removal was forced by name; an error where a container forbids
    /// the removal.
    fn check_unused(&self, image: &Image, force: bool, by_name: bool) -> Result<bool> {
        let id = image.id.to_string();
        let users: Vec<Container> =
            self.containers()?.into_iter().filter(|container| container.config.image_id == id).collect();
        let Some(user) = users.iter().max_by_key(|user| user.life.state.is_alive()) else { return Ok(false) };
        let (name, is_running) = (&user.config.name, user.life.state.is_alive());
        match (force, is_running) {
            (true, false) => Ok(false),
            (true, true) if by_name => Ok(true),
            _ => {
                let kind = if is_running { "running container" } else { "container" };
                let message = format!("image `{}` is used by {kind} `{name}`", image.id.short());
                let hint = match is_running {
                    true => format!("remove the container first: `corten rm -f {name}`"),
                    false => format!("remove the container first (`corten rm {name}`), or use `--force`"),
                };
                Err(Error::new(ErrorKind::Conflict, message).hint(hint))
            }
        }
    }

    /// Removes images that nothing names, or all that no container uses.
    pub fn prune_images(&self, request: &PruneRequest) -> Result<Pruned> {
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        for container in self.containers()? {
            *used.entry(container.config.image_id).or_default() += 1;
        }
        let mut pruned = Pruned::default();
        for target in self.store().targets()? {
            let images = self.store().images_of(&target.digest)?;
            if !request.wants(&target, &images) || images.iter().any(|image| used.contains_key(&image.id.to_string())) {
                continue;
            }
            let removed = match self.store().remove(&target.digest.to_string(), true) {
                // Another process was faster, or a container was made meanwhile.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => continue,
                removed => removed?,
            };
            pruned.bytes += removed.collected.bytes;
            pruned.removed.push(removed);
        }
        // What an interrupted removal left.
        pruned.bytes += self.store().collect_garbage()?.bytes;
        Ok(pruned)
    }
}

impl PruneRequest {
    fn wants(&self, target: &Target, images: &[Image]) -> bool {
        if target.kind == Kind::Artifact || !self.all && !target.references.is_empty() {
            return false;
        }
        let has = |image: &Image, (name, value): &(String, Option<String>)| {
            let found = image.config.config.labels.get(name);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        images.iter().all(|image| {
            let created = image.config.created.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
            self.until.is_none_or(|until| created.is_some_and(|created| created < until))
                && self.labels.iter().all(|label| has(image, label))
                && !self.labels_not.iter().any(|label| has(image, label))
        })
    }
}
