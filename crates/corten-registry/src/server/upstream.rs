//! Registries that are read through: what is asked for below their prefix is fetched once, verified, kept and served;
//! where the registry cannot be reached, what is here does.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_store::{RepositoryManifest, Turn};
use corten_types::image_spec::Descriptor;
use corten_types::{Digest, Error, ErrorKind, Reference, Result};
use hyper::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::Registry;
use super::config;
use super::failure::{Code, Failure};
use super::manifests::Found;
use super::route::{By, Name};
use crate::client::{Access, Client, Credentials, Options, Registries, Session};

/// Bytes that are handed on at a time.
const PIECE: usize = 256 * 1024;
/// How long after it was asked for a blob counts as just used.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// A registry that does not answer makes a client of ours wait: few attempts, for what is here may do.
const RETRIES: u32 = 1;

/// A registry that is read through.
#[derive(Debug)]
pub(super) struct Upstream {
    config: config::Upstream,
    client: Client,
    /// Bytes on their way here.
    coming: Mutex<u64>,
}

/// Bytes on their way; given back with it.
struct Coming<'u> {
    upstream: &'u Upstream,
    bytes: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut coming = self.upstream.coming.lock().unwrap_or_else(PoisonError::into_inner);
        *coming = coming.saturating_sub(self.bytes);
    }
}

impl Upstream {
    pub(super) fn new(config: &config::Upstream) -> Self {
        let mut registries = Registries::default();
        if config.plain_http {
            registries.allow_insecure();
        }
        let files = config.credentials.iter().cloned().collect();
        let credentials = Credentials { files, ..Credentials::default() };
        let options = Options { credentials, registries, retries: RETRIES, ..Options::default() };
        Self { config: config.clone(), client: Client::new(options), coming: Mutex::default() }
    }

    /// What a repository is called there.
    fn repository(&self, name: &Name) -> Option<Result<Reference>> {
        let path = name.as_str().strip_prefix(&self.config.prefix)?.strip_prefix('/')?;
        Some(Reference::parse_name(&format!("{}/{path}", self.config.registry)))
    }

    /// Asks there.
    fn ask<T>(&self, repository: &Reference, ask: impl FnMut(&Session<'_>) -> Result<T>) -> Result<T> {
        self.client.first_of(repository, Access::Read, ask)
    }
}

impl Registry {
    /// The registry that a name is read through from, and what it is called there.
    pub(super) fn upstream(&self, name: &Name) -> Result<Option<(&Upstream, Reference)>> {
        let found = self.upstreams.iter().find_map(|upstream| Some((upstream, upstream.repository(name)?)));
        found.map(|(upstream, repository)| Ok((upstream, repository?))).transpose()
    }

    /// Refuses to write where everything comes from elsewhere.
    pub(super) fn check_own(&self, name: &Name) -> Result<(), Failure> {
        if self.upstream(name)?.is_some() {
            return Err(Failure::because(Code::Unsupported, "the repository is read through from another registry"));
        }
        Ok(())
    }

    /// The manifest that is asked for, from here or from there. Blocks.
    pub(super) fn read_through(
        &self,
        upstream: &Upstream,
        there: &Reference,
        name: &Name,
        by: &By,
    ) -> Result<Found, Failure> {
        let own = self.own(name);
        let here = self.reader.repository(&own);
        let wanted = match by {
            By::Digest(digest) => digest.to_string(),
            By::Tag(tag) => tag.clone(),
            By::Nothing(text) => return Err(Failure::new(Code::ManifestUnknown).detail(text.clone())),
        };
        let known = match by {
            By::Digest(digest) => Some(*digest),
            By::Tag(tag) => match here.copied_tag(tag)? {
                Some((digest, age))
                    if age < upstream.config.tags_valid_for.map_or_else(Default::default, |span| span.0) =>
                {
                    Some(digest)
                }
                stale => match upstream.ask(there, |session| session.resolve(tag)) {
                    Ok(Some(found)) => {
                        self.store.repository(&own).note_copied_tag(tag, &found.digest)?;
                        Some(found.digest)
                    }
                    Ok(None) => return Err(Failure::new(Code::ManifestUnknown).detail(wanted)),
                    // Not there to be asked: what it said last.
                    Err(error) => match stale {
                        Some((digest, _)) => Some(digest),
                        None => return Err(unreachable(error)),
                    },
                },
            },
            By::Nothing(_) => None,
        };
        if let Some(digest) = known
            && let Some(media_type) = here.manifest(&digest)?
        {
            self.metrics.cache_hits.inc();
            self.store.repository(&own).touch_copy(&digest)?;
            let bytes = self.reader.read_blob_bounded(&digest, corten_types::image_spec::MANIFEST_SIZE_BYTES_MAX)?;
            return Ok(Found { digest, media_type, bytes });
        }
        self.metrics.cache_misses.inc();
        let digest = known.map_or(wanted, |digest| digest.to_string());
        let fetched = upstream.ask(there, |session| session.manifest(&digest)).map_err(unreachable)?;
        let lease = self.store.lease("read through")?;
        let shelf = self.store.repository(&own);
        shelf
            .copy_manifest(&lease, &fetched.digest, &fetched.media_type, &fetched.bytes)
            .map_err(|error| unreachable(error.context("the other registry's manifest cannot be kept")))?;
        Ok(Found { digest: fetched.digest, media_type: fetched.media_type, bytes: fetched.bytes })
    }

    /// The size of a blob, which is fetched where it is not here and `fetches` says so. Blocks.
    pub(super) fn blob_through(
        &self,
        upstream: &Upstream,
        there: &Reference,
        name: &Name,
        digest: &Digest,
        fetches: bool,
    ) -> Result<Option<u64>, Failure> {
        let own = self.own(name);
        if let Some(size) = self.reader.repository(&own).blob(digest)? {
            self.metrics.cache_hits.inc();
            self.store.repository(&own).touch_blob(digest, FRESH_FOR)?;
            return Ok(Some(size));
        }
        // Only what a manifest of the repository names: the rest of the world is not fetched for whoever asks.
        let Some(wanted) = self.reader.repository(&own).wanted_blob(digest)? else { return Ok(None) };
        if !fetches {
            return Ok(Some(wanted.size));
        }
        self.metrics.cache_misses.inc();
        let _coming = self.make_room(upstream, wanted.size)?;
        self.fetch(upstream, there, name, &wanted).map_err(unreachable)?;
        Ok(Some(wanted.size))
    }

    /// Room for so many bytes among what is kept of a registry: what was not asked for the longest goes.
    fn make_room<'u>(&self, upstream: &'u Upstream, bytes: u64) -> Result<Coming<'u>, Failure> {
        let mut coming = upstream.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(max) = upstream.config.size_max.map(|count| count.0) {
            if bytes > max {
                let message = format!("the blob has {bytes} bytes, of its registry at most {max} are kept here");
                return Err(Failure::because(Code::SizeInvalid, message).status(StatusCode::INSUFFICIENT_STORAGE));
            }
            let prefix = format!("{}/{}", self.name, upstream.config.prefix);
            let over = (self.store.copies_size(&prefix)? + *coming + bytes).saturating_sub(max);
            if over > 0 {
                // A tenth more, so that not every blob that comes makes somebody look again.
                let gone = self.store.forget_oldest_copies(&prefix, over.saturating_add(max / 10))?;
                let collected = self.store.collect_garbage()?;
                self.store.empty_trash()?;
                self.metrics.collected_blobs.inc_by(collected.blobs.len() as u64);
                self.metrics.collected_bytes.inc_by(collected.bytes);
                if gone < over {
                    return Err(Failure::busy("what is on its way from the other registry leaves no room"));
                }
            }
        }
        *coming += bytes;
        Ok(Coming { upstream, bytes })
    }

    /// Forgets what nobody asked for as long as the configuration says; how many things. Blocks.
    pub(super) fn forget_unused(&self) -> Result<usize> {
        let mut count = 0;
        for upstream in &self.upstreams {
            if let Some(span) = upstream.config.unused_after {
                let prefix = format!("{}/{}", self.name, upstream.config.prefix);
                count += self.store.forget_unused_copies(&prefix, span.0)?;
            }
        }
        Ok(count)
    }

    /// Brings a blob in; many who ask at once cause one transfer, and one that broke off goes on where it stopped.
    fn fetch(&self, upstream: &Upstream, there: &Reference, name: &Name, wanted: &Descriptor) -> Result<()> {
        let own = self.own(name);
        self.store.receive("read through", |receiver| {
            if let Turn::Fetch(mut incoming) = receiver.blob(wanted)? {
                upstream.ask(there, |session| {
                    // A second place goes on where the first broke off.
                    let mut reader = session.blob(wanted, incoming.offset());
                    let mut piece = vec![0; PIECE];
                    loop {
                        match reader.read(&mut piece) {
                            Ok(0) => return Ok(()),
                            Ok(count) => incoming.append(&piece[..count])?,
                            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                            Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(Error::from)),
                        }
                    }
                })?;
                incoming.finish()?;
            }
            self.store.repository(&own).link_blob(receiver.lease(), &wanted.digest)
        })
    }

    /// A place among those who wait for other registries: what is here is served to others meanwhile.
    pub(super) async fn patience(&self, name: &Name) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        if self.upstream(name)?.is_none() {
            return Ok(None);
        }
        Ok(Arc::clone(&self.waiting_elsewhere).acquire_owned().await.ok())
    }

    /// What is about a manifest there; what is known here, where it cannot be asked. Blocks.
    pub(super) fn referrers_through(
        &self,
        upstream: &Upstream,
        there: &Reference,
        name: &Name,
        subject: &Digest,
    ) -> Result<Vec<RepositoryManifest>> {
        let Ok(found) = upstream.ask(there, |session| session.referrers(subject, None)) else {
            return self.reader.repository(&self.own(name)).referrers(subject);
        };
        let row = |descriptor: Descriptor| RepositoryManifest {
            digest: descriptor.digest,
            media_type: descriptor.media_type,
            size: descriptor.size,
            artifact_type: descriptor.artifact_type,
            subject: Some(*subject),
            annotations: serde_json::to_string(&descriptor.annotations).ok(),
            pushed_ns: 0,
        };
        let mut rows: Vec<RepositoryManifest> = found.into_iter().map(row).collect();
        rows.sort_by_key(|row| row.digest);
        Ok(rows)
    }

    /// The tags there; those that were asked for before, where it cannot be reached. Blocks.
    pub(super) fn tags_through(
        &self,
        upstream: &Upstream,
        there: &Reference,
        name: &Name,
    ) -> Result<Vec<String>, Failure> {
        match upstream.ask(there, |session| session.tags()) {
            Ok(tags) => Ok(tags),
            Err(error) => {
                let known = self.reader.repository(&self.own(name)).copied_tags()?;
                if known.is_empty() { Err(unreachable(error)) } else { Ok(known) }
            }
        }
    }
}

/// What an error there is here: nothing there is nothing here, all else is that registry's fault.
fn unreachable(error: Error) -> Failure {
    let mut failure = match error.kind() {
        ErrorKind::NotFound => Failure::new(Code::ManifestUnknown),
        ErrorKind::Exhausted => return error.into(),
        _ => Failure::because(Code::Unknown, "the registry behind this one does not answer as it should")
            .status(StatusCode::BAD_GATEWAY),
    };
    failure.cause = Some(error);
    failure
}
