//! Blobs: reading them, whole or in part, and taking them out of a repository.

use std::sync::Arc;

use corten_types::{Digest, ErrorKind};
use hyper::{Method, StatusCode, header};

use super::Registry;
use super::failure::{Code, Failure};
use super::handle::Asked;
use super::range::{Part, part};
use super::reply::{self, Reply};
use super::route::Name;

/// The header that names what a body is.
pub(super) const CONTENT_DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");

impl Registry {
    /// `GET`, `HEAD`, `DELETE /v2/NAME/blobs/DIGEST`
    pub(super) async fn blob(self: &Arc<Self>, asked: &Asked, name: &Name, digest: &Digest) -> Result<Reply, Failure> {
        match asked.method {
            Method::DELETE => self.delete_blob(name, digest).await,
            _ => self.read_blob(asked, name, digest).await,
        }
    }

    async fn read_blob(self: &Arc<Self>, asked: &Asked, name: &Name, digest: &Digest) -> Result<Reply, Failure> {
        let _patience = self.patience(name).await?;
        let (repository, wanted) = (name.clone(), *digest);
        let fresh_for = self.config.collection.grace.0 / 8;
        let is_head = asked.method == Method::HEAD;
        let found = self.blocking(move |registry| {
            let found = match registry.upstream(&repository)? {
                Some((upstream, there)) => registry.blob_through(upstream, &there, &repository, &wanted, !is_head)?,
                None => registry.find_blob(&repository, &wanted)?,
            };
            let Some(size) = found else { return Ok(None) };
            if is_head {
                // Whoever pushes asks so, and leaves out what is here.
                registry.store.repository(&registry.own(&repository)).touch_blob(&wanted, fresh_for)?;
            }
            let file = match registry.reader.has_blob(&wanted)? {
                true => Some(registry.reader.open_blob(&wanted)?),
                // One of another registry, which a look at its head does not fetch.
                false if is_head => None,
                false => return Ok(None),
            };
            Ok(Some((file, size)))
        });
        let (file, size) = found.await?.ok_or_else(|| Failure::new(Code::BlobUnknown).detail(digest.to_string()))?;
        let etag = format!("\"{digest}\"");
        let mut reply = if asked.header(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&etag)) {
            reply::empty(StatusCode::NOT_MODIFIED)
        } else {
            // A range of something else than the client thinks it has is no help to it (RFC 9110, 13.1.5).
            let is_same = asked.header(header::IF_RANGE).is_none_or(|known| known == etag);
            let wanted = part(asked.header(header::RANGE).filter(|_| is_same), size);
            match (file, wanted) {
                (None, _) => {
                    let mut reply = reply::empty(StatusCode::OK);
                    reply::set(&mut reply, header::CONTENT_LENGTH, &size.to_string());
                    reply
                }
                (Some(file), Part::Whole) => reply::file(StatusCode::OK, file, 0, size),
                (Some(file), Part::Bytes(first, last)) => {
                    let mut reply = reply::file(StatusCode::PARTIAL_CONTENT, file, first, last + 1);
                    reply::set(&mut reply, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
                    reply
                }
                (Some(_), Part::Outside) => {
                    return Err(Failure::because(Code::RangeInvalid, "the blob has no such bytes")
                        .header(header::CONTENT_RANGE, &format!("bytes */{size}")));
                }
            }
        };
        reply::set(&mut reply, header::CONTENT_TYPE, "application/octet-stream");
        reply::set(&mut reply, header::ACCEPT_RANGES, "bytes");
        reply::set(&mut reply, header::ETAG, &etag);
        reply::set(&mut reply, header::CACHE_CONTROL, "max-age=31536000");
        reply::set(&mut reply, CONTENT_DIGEST, &digest.to_string());
        Ok(reply)
    }

    async fn delete_blob(self: &Arc<Self>, name: &Name, digest: &Digest) -> Result<Reply, Failure> {
        self.check_deletable()?;
        self.check_own(name)?;
        let (repository, unwanted) = (name.clone(), *digest);
        self.blocking(move |registry| {
            let own = registry.own(&repository);
            match registry.store.repository(&own).remove_blob(&unwanted) {
                Ok(true) => Ok(reply::empty(StatusCode::ACCEPTED)),
                Ok(false) => Err(Failure::new(Code::BlobUnknown).detail(unwanted.to_string())),
                Err(error) if error.kind() == ErrorKind::Conflict => Err(Failure::because(
                    Code::Unsupported,
                    "a manifest of the repository needs the blob: delete that first",
                )),
                Err(error) => Err(error.into()),
            }
        })
        .await
        .map(|mut reply| {
            reply::set(&mut reply, header::CONTENT_LENGTH, "0");
            reply::set(&mut reply, CONTENT_DIGEST, &digest.to_string());
            reply
        })
    }
}
