//! Manifests, tags and referrers of a repository.

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Descriptor, Index, MANIFEST_SIZE_BYTES_MAX, media_type};
use corten_types::{Context, Digest, Error, ErrorKind, Result};
use serde::Deserialize;

use super::session::Session;
use super::transport::{Answer, Call, Method, Payload};
use super::url::{Url, encode, shown};

/// Everything that is read as a manifest.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1";
/// Largest page of tags, bytes; most tags of a repository.
const PAGE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const TAGS_MAX: usize = 1_000_000;

/// A manifest or an index as it came.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// `Content-Type`.
    pub media_type: String,
    /// What they hash to.
    pub digest: Digest,
}

impl Fetched {
    /// What points to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.bytes.len() as u64,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// A running hash.
pub(crate) struct Hash {
    algorithm: Algorithm,
    context: ring::digest::Context,
}

impl Hash {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let function = match algorithm {
            Algorithm::Sha256 => &ring::digest::SHA256,
            Algorithm::Sha512 => &ring::digest::SHA512,
        };
        Self { algorithm, context: ring::digest::Context::new(function) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        // The function gives what the algorithm wants.
        Digest::from_bytes(self.algorithm, self.context.finish().as_ref()).unwrap_or_else(|_| unreachable!())
    }
}

/// The hash of `bytes`.
pub fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hash = Hash::new(algorithm);
    hash.update(bytes);
    hash.finish()
}

impl Session<'_> {
    /// The manifest that a tag or a digest names; a digest is verified.
    pub fn manifest(&self, name: &str) -> Result<Fetched> {
        let what = || format!("cannot fetch manifest `{}` of `{}`", shown(name), self.endpoint.repository);
        let call =
            Call::new(Method::Get, self.url(&format!("manifests/{}", encode_name(name)))).header("Accept", ACCEPT);
        let answer = self.send(call).context(what)?;
        if answer.status != 200 {
            return Err(self.denied(answer.into_error(&what())));
        }
        fetched(answer, Digest::parse(name).ok()).context(what)
    }

    /// What a tag or a digest names, without fetching it; `None` where there is nothing.
    pub fn resolve(&self, name: &str) -> Result<Option<Descriptor>> {
        let what = || format!("cannot look for manifest `{}` of `{}`", shown(name), self.endpoint.repository);
        let call =
            Call::new(Method::Head, self.url(&format!("manifests/{}", encode_name(name)))).header("Accept", ACCEPT);
        let answer = self.send(call).context(what)?;
        match answer.status {
            404 => return Ok(None),
            200 => {}
            401 | 403 => return Err(self.denied(answer.into_error(&what()))),
            // The answer to a HEAD has no words, and some registries know no HEAD.
            _ => return self.manifest(name).map(|fetched| Some(fetched.descriptor())),
        }
        let digest = answer.header("docker-content-digest").map(Digest::parse).transpose().context(what)?;
        let (Some(digest), Some(size)) = (digest.or_else(|| Digest::parse(name).ok()), answer.number("content-length"))
        else {
            // A registry that says less is asked for the whole.
            return self.manifest(name).map(|fetched| Some(fetched.descriptor()));
        };
        let media_type = content_type(&answer);
        let fetched = Fetched { bytes: Vec::new(), media_type, digest };
        Ok(Some(Descriptor { size, ..fetched.descriptor() }))
    }

    /// Puts a manifest under a tag or its digest; its subject, where the registry kept a list of referrers for it.
    pub fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<Option<Digest>> {
        let what = || format!("cannot put manifest `{}` into `{}`", shown(name), self.endpoint.repository);
        let call = Call::new(Method::Put, self.url(&format!("manifests/{}", encode_name(name))))
            .header("Content-Type", media_type)
            .payload(Payload::Bytes(bytes));
        let answer = self.send(call).context(what)?;
        if !matches!(answer.status, 200..=202) {
            return Err(self.denied(answer.into_error(&what())));
        }
        if let Some(named) = answer.header("docker-content-digest") {
            let named = Digest::parse(named).context(what)?;
            let ours = digest_of(named.algorithm(), bytes);
            if named != ours {
                let message = format!("the registry stored {named}, {ours} was sent");
                return Err(Error::new(ErrorKind::Corrupt, message).context(what()));
            }
        }
        Ok(answer.header("oci-subject").and_then(|text| Digest::parse(text).ok()))
    }

    /// Removes a manifest.
    pub(crate) fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let what = || format!("cannot remove manifest {digest} from `{}`", self.endpoint.repository);
        let answer = self.send(Call::new(Method::Delete, self.url(&format!("manifests/{digest}")))).context(what)?;
        match answer.status {
            200 | 202 | 204 => Ok(()),
            _ => Err(self.denied(answer.into_error(&what()))),
        }
    }

    /// Every tag of the repository, sorted.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let what = || format!("cannot list the tags of `{}`", self.endpoint.repository);
        let mut tags = Vec::new();
        let mut next = Some(self.url("tags/list?n=1000"));
        while let Some(url) = next {
            let answer = self.send(Call::new(Method::Get, url.clone())).context(what)?;
            if answer.status != 200 {
                return Err(self.denied(answer.into_error(&what())));
            }
            next = next_page(&answer, &url)?.filter(|next| *next != url);
            let body = answer.read(PAGE_SIZE_BYTES_MAX, "list of tags")?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| Error::invalid(format!("the list of tags is malformed: {error}")).context(what()))?;
            let page = page.tags.unwrap_or_default();
            if page.is_empty() {
                break;
            }
            tags.extend(page);
            if tags.len() > TAGS_MAX {
                return Err(
                    Error::new(ErrorKind::Exhausted, format!("there are more than {TAGS_MAX} tags")).context(what())
                );
            }
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// Manifests whose subject is `digest`: by the referrers API, or by the tag that stands in for it.
    pub fn referrers(&self, digest: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let what = || format!("cannot list what refers to {digest} in `{}`", self.endpoint.repository);
        let mut url = self.url(&format!("referrers/{digest}"));
        if let Some(kind) = artifact_type {
            url = url.with_parameter("artifactType", kind);
        }
        let mut found = Vec::new();
        let mut next = Some(url);
        while let Some(url) = next {
            let answer =
                self.send(Call::new(Method::Get, url.clone()).header("Accept", media_type::INDEX)).context(what)?;
            if answer.status != 200 {
                // No API: the tag schema of the specification.
                if matches!(answer.status, 400 | 404 | 405) && found.is_empty() {
                    found = self.referrers_by_tag(digest)?.map(|(index, _)| index.manifests).unwrap_or_default();
                    break;
                }
                return Err(self.denied(answer.into_error(&what())));
            }
            next = next_page(&answer, &url)?.filter(|next| *next != url);
            let body = answer.read(MANIFEST_SIZE_BYTES_MAX, "list of referrers")?;
            let page: Index = serde_json::from_slice(&body)
                .map_err(|error| Error::invalid(format!("the list is malformed: {error}")).context(what()))?;
            found.extend(page.manifests);
            if found.len() > TAGS_MAX {
                return Err(Error::new(ErrorKind::Exhausted, "there are too many").context(what()));
            }
        }
        let wanted = |descriptor: &Descriptor| {
            artifact_type.is_none_or(|kind| descriptor.artifact_type.as_deref() == Some(kind))
        };
        Ok(found.into_iter().filter(wanted).collect())
    }

    /// The index under the tag that stands in for the referrers API, and its digest.
    pub(crate) fn referrers_by_tag(&self, digest: &Digest) -> Result<Option<(Index, Digest)>> {
        match self.manifest(&referrers_tag(digest)) {
            Ok(fetched) => {
                let index = serde_json::from_slice(&fetched.bytes)
                    .map_err(|error| Error::invalid(format!("the list of referrers is malformed: {error}")))?;
                Ok(Some((index, fetched.digest)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `sha256-HEX`
pub(crate) fn referrers_tag(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// A tag or a digest in a path; neither has characters that would lead elsewhere.
fn encode_name(name: &str) -> String {
    encode(name).replace("%3A", ":")
}

fn content_type(answer: &Answer) -> String {
    answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned()
}

fn fetched(answer: Answer, wanted: Option<Digest>) -> Result<Fetched> {
    let media_type = content_type(&answer);
    let named = answer.header("docker-content-digest").map(Digest::parse).transpose()?;
    let bytes = answer.read(MANIFEST_SIZE_BYTES_MAX, "manifest")?;
    for expected in wanted.iter().chain(&named) {
        let found = digest_of(expected.algorithm(), &bytes);
        if found != *expected {
            let message = format!("expected {expected}, received {found} after {} bytes", bytes.len());
            return Err(Error::new(ErrorKind::Corrupt, message)
                .hint("nothing was stored; retry, or try another mirror with `--mirror URL`"));
        }
    }
    let digest = wanted.or(named).unwrap_or_else(|| digest_of(Algorithm::Sha256, &bytes));
    Ok(Fetched { bytes, media_type, digest })
}

/// `Link: <URL>; rel="next"`
fn next_page(answer: &Answer, url: &Url) -> Result<Option<Url>> {
    let Some(link) = answer.header("link").filter(|link| link.contains("next")) else { return Ok(None) };
    let target = link.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(target, _)| target);
    target.map(|target| url.join(target)).transpose()
}
