//! Manifests: reading them by tag or digest, pushing, deleting.

use std::sync::Arc;

use corten_store::repository::{Needs, NewManifest, Put};
use corten_store::{RepositoryManifest, Store};
use corten_types::digest::Algorithm;
use corten_types::image_spec::{Document, MANIFEST_SIZE_BYTES_MAX, media_type};
use corten_types::{Digest, ErrorKind, Reference};
use hyper::{Method, StatusCode, header};

use super::Registry;
use super::blobs::CONTENT_DIGEST;
use super::failure::{Code, Failure};
use super::handle::Asked;
use super::quota::Ledger;
use super::receive::Receiver;
use super::reply::{self, Reply};
use super::route::{By, Name, is_tag, shown};

const SUBJECT: header::HeaderName = header::HeaderName::from_static("oci-subject");
const TAG: header::HeaderName = header::HeaderName::from_static("oci-tag");
/// Tags that one push may set.
const TAGS_MAX: usize = 100;

/// A manifest that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

impl Registry {
    /// `GET`, `HEAD`, `PUT`, `DELETE /v2/NAME/manifests/TAG` or `…/DIGEST`
    pub(super) async fn manifest(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        by: &By,
        receiver: &mut Receiver,
    ) -> Result<Reply, Failure> {
        match asked.method {
            Method::PUT => self.put_manifest(asked, name, by, receiver).await,
            Method::DELETE => self.delete_manifest(name, by).await,
            _ => self.read_manifest(asked, name, by).await,
        }
    }

    async fn read_manifest(self: &Arc<Self>, asked: &Asked, name: &Name, by: &By) -> Result<Reply, Failure> {
        let accepts = Accepts::new(asked);
        let _patience = self.patience(name).await?;
        let (repository, wanted) = (name.clone(), by.clone());
        let found = self.blocking(move |registry| registry.choose(&repository, &wanted, &accepts)).await?;
        let etag = format!("\"{}\"", found.digest);
        let is_known = asked.header(header::IF_NONE_MATCH).is_some_and(|known| {
            known
                .split(',')
                .any(|known| matches!(known.trim(), known if known == etag || known == found.digest.to_string()))
        });
        let mut reply = if is_known {
            reply::empty(StatusCode::NOT_MODIFIED)
        } else {
            reply::bytes(StatusCode::OK, &found.media_type, found.bytes)
        };
        reply::set(&mut reply, header::ETAG, &etag);
        reply::set(&mut reply, CONTENT_DIGEST, &found.digest.to_string());
        Ok(reply)
    }

    /// The manifest that is asked for, in a form that the client accepts, as docker-registry chooses: a tag of docker's
    /// list means the image for linux/amd64 to a client that knows no lists.
    fn choose(&self, name: &Name, by: &By, accepts: &Accepts) -> Result<Found, Failure> {
        let found = self.look_up(name, by)?;
        if accepts.takes(&found.media_type) {
            return Ok(found);
        }
        let refused = |what: &str| {
            let message = format!("{what} found, but accept header does not support it");
            Failure::because(Code::ManifestUnknown, message).detail(found.media_type.clone())
        };
        match (found.media_type.as_str(), by) {
            (media_type::MANIFEST, _) => Err(refused("OCI manifest")),
            (media_type::INDEX, _) => Err(refused("OCI index")),
            (media_type::DOCKER_LIST, By::Tag(_)) => {
                let Ok(Document::Index(index)) = Document::parse(&found.bytes, Some(&found.media_type)) else {
                    return Err(refused("list"));
                };
                let default = index.manifests.iter().find(|member| {
                    member.platform.as_ref().is_some_and(|one| one.os == "linux" && one.architecture == "amd64")
                });
                let default = default.ok_or_else(|| refused("list"))?;
                let found = self.look_up(name, &By::Digest(default.digest))?;
                if accepts.takes(&found.media_type) { Ok(found) } else { Err(refused("manifest")) }
            }
            // Docker's own manifests are given to whoever asks.
            _ => Ok(found),
        }
    }

    fn look_up(&self, name: &Name, by: &By) -> Result<Found, Failure> {
        if let Some((upstream, there)) = self.upstream(name)? {
            return self.read_through(upstream, &there, name, by);
        }
        let unknown = |what: String| Failure::new(Code::ManifestUnknown).detail(what);
        let digest = match by {
            By::Digest(digest) => *digest,
            By::Tag(tag) => match self.find_tag(name, tag)? {
                Some(digest) => digest,
                None if !self.exists(name)? => {
                    return Err(Failure::new(Code::NameUnknown).detail(name.as_str()));
                }
                None => return Err(unknown(tag.clone())),
            },
            By::Nothing(text) => return Err(unknown(text.clone())),
        };
        let media_type = self.find_manifest(name, &digest)?.ok_or_else(|| unknown(digest.to_string()))?;
        let bytes = self.reader.read_blob_bounded(&digest, MANIFEST_SIZE_BYTES_MAX)?;
        Ok(Found { digest, media_type, bytes })
    }

    async fn put_manifest(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        by: &By,
        receiver: &mut Receiver,
    ) -> Result<Reply, Failure> {
        self.check_writable()?;
        self.check_own(name)?;
        let _place = self.upload_place()?;
        let size_max = usize::try_from(MANIFEST_SIZE_BYTES_MAX).unwrap_or(usize::MAX);
        let bytes = receiver.all(size_max).await?.ok_or_else(|| {
            let message = format!("a manifest has at most {} MiB", MANIFEST_SIZE_BYTES_MAX >> 20);
            Failure::because(Code::ManifestInvalid, message).status(StatusCode::PAYLOAD_TOO_LARGE)
        })?;
        // Parameters say nothing about a manifest.
        let claimed = asked.header(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or("");
        let pushed = Pushed::read(by, claimed.trim(), bytes)?;
        let mut tags = Vec::new();
        let more = asked.query.all("tag").map(str::to_owned);
        let named = if let By::Tag(tag) = by { Some(tag.clone()) } else { None };
        for tag in named.into_iter().chain(more) {
            if !is_tag(&tag) {
                return Err(Failure::new(Code::TagInvalid).detail(shown(&tag)));
            }
            let reference = self.tag(name, &tag)?;
            if !tags.contains(&reference) {
                tags.push(reference);
            }
        }
        if tags.len() > TAGS_MAX {
            let message = format!("one push sets at most {TAGS_MAX} tags");
            return Err(Failure::because(Code::TagInvalid, message).status(StatusCode::URI_TOO_LONG));
        }
        let (digest, subject) = (pushed.digest, pushed.needs.subject);
        let set: Vec<String> = asked.query.all("tag").map(str::to_owned).collect();
        let repository = name.clone();
        self.blocking(move |registry| registry.keep_manifest(&repository, &pushed, &tags)).await?;
        let mut reply = reply::empty(StatusCode::CREATED);
        reply::set(&mut reply, header::LOCATION, &format!("/v2/{}/manifests/{digest}", name.as_str()));
        reply::set(&mut reply, CONTENT_DIGEST, &digest.to_string());
        reply::set(&mut reply, header::CONTENT_LENGTH, "0");
        if let Some(subject) = subject {
            reply::set(&mut reply, SUBJECT, &subject.to_string());
        }
        if !set.is_empty() {
            reply::set(&mut reply, TAG, &set.join(", "));
        }
        Ok(reply)
    }

    fn keep_manifest(&self, name: &Name, pushed: &Pushed, tags: &[Reference]) -> Result<(), Failure> {
        let own = self.own(name);
        let repository = self.store.repository(&own);
        let lease = self.store.lease("push")?;
        // Layers that are kept elsewhere need not be here; where they are, they stay.
        let mut blobs = pushed.needs.blobs.clone();
        for digest in &pushed.needs.foreign {
            if repository.blob(digest)?.is_some() {
                blobs.push(*digest);
            }
        }
        let is_limited = self.ledger.limits(name.as_str());
        let _one_by_one = is_limited.then(|| self.committing.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        if is_limited && repository.manifest(&pushed.digest)?.is_none() {
            let alone = Arc::new(Ledger::new(&self.config.quota));
            let mut room = alone.reserve(name.as_str(), self.held(&own)?);
            room.grow(pushed.bytes.len() as u64).inspect_err(|_| self.metrics.note_over_quota())?;
        }
        let row = RepositoryManifest {
            digest: pushed.digest,
            media_type: pushed.media_type.clone(),
            size: pushed.bytes.len() as u64,
            artifact_type: pushed.needs.artifact_type.clone(),
            subject: pushed.needs.subject,
            annotations: pushed.needs.annotations.clone(),
            pushed_ns: now_ns(),
        };
        let new = NewManifest { bytes: &pushed.bytes, row, blobs: &blobs, members: &pushed.needs.members, tags };
        match repository.put_manifest(&lease, &new)? {
            Put::Done => Ok(()),
            Put::Missing(missing) => {
                let details = missing.iter().map(|digest| serde_json::json!({ "digest": digest.to_string() }));
                Err(Failure::each(Code::ManifestBlobUnknown, details))
            }
        }
    }

    async fn delete_manifest(self: &Arc<Self>, name: &Name, by: &By) -> Result<Reply, Failure> {
        self.check_deletable()?;
        self.check_own(name)?;
        let (repository, wanted) = (name.clone(), by.clone());
        self.blocking(move |registry| {
            let own = registry.own(&repository);
            let shelf = registry.store.repository(&own);
            let was_there = match &wanted {
                By::Tag(tag) => shelf.remove_tag(&registry.tag(&repository, tag)?)?,
                By::Digest(digest) => shelf.remove_manifest(digest)?,
                By::Nothing(_) => false,
            };
            if was_there {
                return Ok(());
            }
            let detail = match &wanted {
                By::Tag(text) | By::Nothing(text) => text.clone(),
                By::Digest(digest) => digest.to_string(),
            };
            if registry.look_up(&repository, &wanted).is_ok() {
                let message = "an image of the engine's by that name is served for reading: `corten rmi` removes it";
                return Err(Failure::because(Code::Unsupported, message).detail(detail));
            }
            Err(Failure::new(Code::ManifestUnknown).detail(detail))
        })
        .await?;
        let mut reply = reply::empty(StatusCode::ACCEPTED);
        reply::set(&mut reply, header::CONTENT_LENGTH, "0");
        Ok(reply)
    }
}

/// A manifest as it was pushed, understood.
#[derive(Debug)]
struct Pushed {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
    needs: Needs,
}

impl Pushed {
    fn read(by: &By, claimed: &str, bytes: Vec<u8>) -> Result<Self, Failure> {
        let algorithm = match by {
            By::Digest(digest) => digest.algorithm(),
            By::Tag(_) => Algorithm::Sha256,
            By::Nothing(text) => return Err(Failure::new(Code::TagInvalid).detail(text.clone())),
        };
        let digest = Store::digest_of(algorithm, &bytes)?;
        if let By::Digest(expected) = by
            && *expected != digest
        {
            let detail = serde_json::json!({"expected": expected.to_string(), "received": digest.to_string()});
            return Err(Failure::new(Code::DigestInvalid).detail(detail));
        }
        // Some clients send what curl does where they say nothing.
        let claimed =
            Some(claimed).filter(|kind| !matches!(*kind, "" | "application/json" | "application/octet-stream"));
        let document = Document::parse(&bytes, claimed).map_err(|error| {
            let status = match error.kind() {
                ErrorKind::Exhausted => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            Failure::because(Code::ManifestInvalid, error.one_line()).status(status)
        })?;
        let (said, default) = match &document {
            Document::Manifest(manifest) => (manifest.media_type.clone(), media_type::MANIFEST),
            Document::Index(index) => (index.media_type.clone(), media_type::INDEX),
        };
        let said = said.filter(|kind| !kind.is_empty());
        let media_type = claimed.map(str::to_owned).or(said).unwrap_or_else(|| default.to_owned());
        Ok(Self { digest, media_type, needs: Needs::of(&document), bytes })
    }
}

/// The types that a client takes.
#[derive(Debug, Clone)]
struct Accepts {
    /// None were named: anything will do.
    anything: bool,
    types: Vec<String>,
}

impl Accepts {
    fn new(asked: &Asked) -> Self {
        let values = asked.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Self::of(values.flat_map(|value| value.split(',')))
    }

    fn of<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let types: Vec<String> = values
            .map(|value| value.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
            .filter(|kind| !kind.is_empty())
            .collect();
        let anything = types.is_empty() || types.iter().any(|kind| matches!(kind.as_str(), "*/*" | "application/*"));
        Self { anything, types }
    }

    fn takes(&self, media_type: &str) -> bool {
        self.anything || self.types.iter().any(|kind| kind == media_type)
    }
}

fn now_ns() -> i64 {
    let (seconds, nanoseconds) = corten_types::time::now();
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_given_what_it_takes() {
        let accepts = |text: &'static str| Accepts::of(text.split(','));
        assert!(accepts("").takes(media_type::INDEX));
        assert!(accepts("text/html, */*;q=0.1").takes(media_type::INDEX));
        let docker = accepts("application/vnd.docker.distribution.manifest.v2+json, application/json");
        assert!(docker.takes(media_type::DOCKER_MANIFEST) && !docker.takes(media_type::INDEX));
        assert!(accepts("Application/vnd.OCI.image.index.v1+json; q=1").takes(media_type::INDEX));
    }

    #[test]
    fn a_manifest_keeps_the_type_that_it_came_with() {
        let bytes = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
        let tag = By::Tag("x".to_owned());
        let read = |claimed: &str| Pushed::read(&tag, claimed, bytes.clone());
        assert_eq!(read("").unwrap().media_type, media_type::INDEX);
        assert_eq!(read("application/json").unwrap().media_type, media_type::INDEX);
        assert_eq!(read(media_type::DOCKER_LIST).unwrap().media_type, media_type::DOCKER_LIST);
        assert_eq!(read(media_type::MANIFEST).unwrap_err().status, 400);
        assert_eq!(read("text/plain").unwrap_err().status, 400);
        let sha512 = Store::digest_of(Algorithm::Sha512, &bytes).unwrap();
        assert_eq!(Pushed::read(&By::Digest(sha512), "", bytes.clone()).unwrap().digest, sha512);
        let other = Store::digest_of(Algorithm::Sha256, b"other").unwrap();
        assert_eq!(Pushed::read(&By::Digest(other), "", bytes).unwrap_err().status, 400);
    }
}
