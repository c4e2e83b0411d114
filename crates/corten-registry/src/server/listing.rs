//! Lists: repositories, tags, referrers; in pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_store::RepositoryManifest;
use corten_types::image_spec::media_type;
use corten_types::{Digest, Reference};
use hyper::{StatusCode, header};
use serde_json::{Value, json};

use super::Registry;
use super::failure::{Code, Failure};
use super::handle::Asked;
use super::reply::{self, Reply};
use super::route::{Name, encode};

/// Entries of one page, where the client asks for more or does not say.
const PAGE_MAX: usize = 1000;
/// Bytes of one page of referrers: less than the 4 MiB that clients take.
const REFERRERS_SIZE_MAX: usize = 3 * 1024 * 1024;

const FILTERS_APPLIED: header::HeaderName = header::HeaderName::from_static("oci-filters-applied");

/// Which page is asked for.
#[derive(Debug, Clone)]
struct Page {
    last: String,
    count: usize,
    /// The count that the client named, for the link to the next page.
    named: Option<usize>,
}

impl Page {
    fn of(asked: &Asked) -> Result<Self, Failure> {
        let wrong = || Failure::new(Code::PaginationNumberInvalid);
        let named: Option<u64> =
            asked.query.get("n").map(|count| count.parse::<u64>().map_err(|_| wrong())).transpose()?;
        let named = named.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let count = named.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        Ok(Self { last: asked.query.get("last").unwrap_or_default().to_owned(), count, named })
    }

    /// Where the next page is.
    fn next(&self, path: &str, last: &str) -> String {
        let count = self.named.map_or_else(|| self.count.to_string(), |count| count.to_string());
        format!("<{path}?last={}&n={count}>; rel=\"next\"", encode(last))
    }
}

impl Registry {
    /// `GET /v2/_catalog`
    pub(super) async fn catalog(self: &Arc<Self>, asked: &Asked) -> Result<Reply, Failure> {
        let (page, identity) = (Page::of(asked)?, asked.identity.clone());
        let at = page.clone();
        let (names, more) = self
            .blocking(move |registry| {
                let mut names: Vec<String> = Vec::new();
                let mut all: Vec<Name> = registry.repository_names()?;
                all.retain(|name| name.as_str() > at.last.as_str() && registry.gate.shows(&identity, name));
                let more = all.len() > at.count;
                names.extend(all.into_iter().take(at.count).map(|name| name.as_str().to_owned()));
                Ok((names, more))
            })
            .await?;
        let mut reply = reply::json(&json!({ "repositories": names }));
        if let Some(last) = names.last().filter(|_| more) {
            reply::set(&mut reply, header::LINK, &page.next("/v2/_catalog", last));
        }
        Ok(reply)
    }

    /// Every repository that can be asked for, sorted.
    fn repository_names(&self) -> Result<Vec<Name>, Failure> {
        let prefix = format!("{}/", self.name);
        let mut names = Vec::new();
        for repository in self.reader.repositories()? {
            if let Some(path) = repository.strip_prefix(&prefix) {
                names.extend(Name::parse(path).ok());
            } else if self.shares_images {
                names.extend(shared_name(&repository));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// `GET /v2/NAME/tags/list`
    pub(super) async fn tags(self: &Arc<Self>, asked: &Asked, name: &Name) -> Result<Reply, Failure> {
        let (page, repository) = (Page::of(asked)?, name.clone());
        let at = page.clone();
        let _patience = self.patience(name).await?;
        let tags = self
            .blocking(move |registry| {
                // One more than fits tells whether there is a next page.
                let mut tags: BTreeMap<String, ()> = BTreeMap::new();
                if let Some((upstream, there)) = registry.upstream(&repository)? {
                    let all = registry.tags_through(upstream, &there, &repository)?;
                    tags.extend(all.into_iter().filter(|tag| *tag > at.last).map(|tag| (tag, ())));
                    return Ok(tags);
                }
                for shelf in registry.shelves(&repository) {
                    let found = registry.reader.repository(&shelf).tags(&at.last, at.count.saturating_add(1))?;
                    tags.extend(found.into_iter().map(|(tag, _)| (tag, ())));
                }
                if tags.is_empty() && !registry.exists(&repository)? {
                    return Err(Failure::new(Code::NameUnknown).detail(repository.as_str()));
                }
                Ok(tags)
            })
            .await?;
        let more = tags.len() > page.count;
        let tags: Vec<String> = tags.into_keys().take(page.count).collect();
        let mut reply = reply::json(&json!({ "name": name.as_str(), "tags": tags }));
        if let Some(last) = tags.last().filter(|_| more) {
            let path = format!("/v2/{}/tags/list", name.as_str());
            reply::set(&mut reply, header::LINK, &page.next(&path, last));
        }
        Ok(reply)
    }

    /// What is about a manifest on any of the shelves that a name means.
    fn referrers_here(&self, name: &Name, subject: &Digest) -> Result<Vec<RepositoryManifest>, Failure> {
        let mut rows: BTreeMap<String, RepositoryManifest> = BTreeMap::new();
        for shelf in self.shelves(name) {
            for row in self.reader.repository(&shelf).referrers(subject)? {
                rows.entry(row.digest.to_string()).or_insert(row);
            }
        }
        Ok(rows.into_values().collect())
    }

    /// `GET /v2/NAME/referrers/DIGEST`
    pub(super) async fn referrers(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        subject: &Digest,
    ) -> Result<Reply, Failure> {
        let page = Page::of(asked)?;
        let wanted = asked.query.get("artifactType").map(str::to_owned);
        let (repository, about) = (name.clone(), *subject);
        let _patience = self.patience(name).await?;
        let rows = self.blocking(move |registry| {
            Ok(match registry.upstream(&repository)? {
                Some((upstream, there)) => registry.referrers_through(upstream, &there, &repository, &about)?,
                None => registry.referrers_here(&repository, &about)?,
            })
        });
        let mut rows = rows.await?;
        if let Some(wanted) = &wanted {
            rows.retain(|row| row.artifact_type.as_ref() == Some(wanted));
        }
        let mut entries: Vec<Value> = Vec::new();
        let (mut size, mut next) = (0, None);
        for row in rows.into_iter().filter(|row| row.digest.to_string() > page.last) {
            let digest = row.digest.to_string();
            let mut entry = json!({ "mediaType": row.media_type, "digest": digest, "size": row.size });
            if let Some(kind) = row.artifact_type {
                entry["artifactType"] = kind.into();
            }
            let annotations = row.annotations.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            if let Some(Value::Object(annotations)) =
                annotations.filter(|found| found.as_object().is_some_and(|map| !map.is_empty()))
            {
                entry["annotations"] = annotations.into();
            }
            let length = entry.to_string().len();
            let is_full = entries.len() >= page.count || (size + length > REFERRERS_SIZE_MAX && !entries.is_empty());
            if is_full {
                next = entries.last().and_then(|entry| entry["digest"].as_str()).map(str::to_owned);
                break;
            }
            size += length;
            entries.push(entry);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries });
        let mut reply = reply::bytes(StatusCode::OK, media_type::INDEX, index.to_string());
        if let Some(last) = next {
            let filter = wanted.as_ref().map_or_else(String::new, |kind| format!("&artifactType={}", encode(kind)));
            let path = format!("/v2/{}/referrers/{subject}", name.as_str());
            let link = page.next(&path, &last).replace(">; rel", &format!("{filter}>; rel"));
            reply::set(&mut reply, header::LINK, &link);
        }
        if wanted.is_some() {
            reply::set(&mut reply, FILTERS_APPLIED, "artifactType");
        }
        Ok(reply)
    }
}

/// What the engine's repository is called here, if it can be: `library/app`, `quay.io/team/app`.
fn shared_name(repository: &str) -> Option<Name> {
    let reference = Reference::parse_name(repository).ok()?;
    let name = if reference.domain() == "docker.io" { reference.path() } else { repository };
    let name = Name::parse(name).ok()?;
    // The same way back, or a client would get something else.
    let back = Reference::parse_name(name.as_str()).ok()?;
    (back.repository() == repository).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_s_repositories_have_the_names_that_lead_back_to_them() {
        let name = |repository: &str| shared_name(repository).map(|name| name.as_str().to_owned());
        assert_eq!(name("docker.io/library/app").as_deref(), Some("library/app"));
        assert_eq!(name("docker.io/user/app").as_deref(), Some("user/app"));
        assert_eq!(name("quay.io/a/b").as_deref(), Some("quay.io/a/b"));
        assert_eq!(name("localhost/a").as_deref(), Some("localhost/a"));
        assert_eq!(name("localhost:5001/a"), None);
    }
}
