//! What an operator asks of a registry's store without a server: what is there, how much, and what can go.

use corten_store::repository::CollectedLinks;
use corten_store::{RepositoryUsage, Store};
use corten_types::{Digest, Error, ErrorKind, Result};

use super::config::Collection;

/// Tags that are read at a time.
const TAGS_PAGE: usize = 10_000;

/// One repository.
#[derive(Debug, Clone)]
pub struct Listed {
    /// `REGISTRY/PATH`.
    pub repository: String,
    /// Its tags.
    pub tags: usize,
    /// What was pushed to it.
    pub usage: RepositoryUsage,
    /// The newest push, nanoseconds since 1970.
    pub pushed_ns: Option<i64>,
}

/// One tag, or a manifest without one.
#[derive(Debug, Clone)]
pub struct ListedManifest {
    /// The tag.
    pub tag: Option<String>,
    /// What it points to.
    pub digest: Digest,
    /// The manifest's type.
    pub media_type: String,
    /// Kind of artifact.
    pub artifact_type: Option<String>,
    /// When it was pushed, nanoseconds since 1970; absent where the engine made it.
    pub pushed_ns: Option<i64>,
}

/// Every repository that something was pushed to, or that a tag of the registry `name` (where given) is in.
pub fn repositories(store: &Store, name: Option<&str>) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for repository in store.repositories()? {
        let shelf = store.repository(&repository);
        let usage = shelf.usage()?;
        let is_own = name.is_some_and(|name| repository.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
        if !is_own && usage.manifests == 0 && usage.blobs == 0 {
            continue;
        }
        let pushed_ns = shelf.manifests()?.first().map(|manifest| manifest.pushed_ns);
        let tags = shelf.tags("", usize::MAX >> 1)?.len();
        listed.push(Listed { repository: repository.clone(), tags, usage, pushed_ns });
    }
    Ok(listed)
}

/// The tags of a repository and its manifests without a tag. `wanted` is its whole name, or its end where that is one
/// repository's alone.
pub fn manifests(store: &Store, wanted: &str) -> Result<Vec<ListedManifest>> {
    let repository = resolve(store, wanted)?;
    let shelf = store.repository(&repository);
    let pushed = shelf.manifests()?;
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let page = shelf.tags(&after, TAGS_PAGE)?;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        for (tag, digest) in page {
            let row = pushed.iter().find(|row| row.digest == digest);
            listed.push(ListedManifest {
                tag: Some(tag),
                digest,
                media_type: shelf.manifest(&digest)?.unwrap_or_default(),
                artifact_type: row.and_then(|row| row.artifact_type.clone()),
                pushed_ns: row.map(|row| row.pushed_ns),
            });
        }
    }
    for row in pushed {
        if !listed.iter().any(|known| known.digest == row.digest) {
            listed.push(ListedManifest {
                tag: None,
                digest: row.digest,
                media_type: row.media_type,
                artifact_type: row.artifact_type,
                pushed_ns: Some(row.pushed_ns),
            });
        }
    }
    Ok(listed)
}

fn resolve(store: &Store, wanted: &str) -> Result<String> {
    let all = store.repositories()?;
    if let Some(exact) = all.iter().find(|name| *name == wanted) {
        return Ok(exact.clone());
    }
    let suffix = format!("/{wanted}");
    let mut ending = all.iter().filter(|name| name.split_once('/').is_some_and(|(_, path)| path == &suffix[1..]));
    match (ending.next(), ending.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(one), Some(other)) => {
            Err(Error::new(ErrorKind::Conflict, format!("`{wanted}` is a repository of several registries"))
                .hint(format!("write `{one}` or `{other}`")))
        }
        _ => Err(Error::new(ErrorKind::NotFound, format!("there is no repository `{}`", wanted.escape_debug()))
            .hint("`corten registry ls` lists them")),
    }
}

/// Collects what nobody needs; beside a running server, uploads, pulls and starts of containers.
pub fn collect(store: &Store, config: &Collection) -> Result<CollectedLinks> {
    super::collect::collect(store, config)
}
