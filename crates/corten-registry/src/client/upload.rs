//! Blobs on their way to a registry: looked for first, mounted from another repository where it has them there, sent whole,
//! and continued where the connection broke.

use std::fs::File;

use corten_types::image_spec::Descriptor;
use corten_types::{Context, Error, ErrorKind, Result};

use super::progress::{Step, Watch};
use super::session::Session;
use super::transport::{Answer, Call, Method, Payload, Sent, retry_after};
use super::url::Url;

/// How a blob came to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placed {
    Existed,
    Mounted(String),
    Uploaded,
}

impl Session<'_> {
    /// Sees to it that the repository has `blob`, whose bytes are `file`.
    pub(crate) fn place_blob(
        &self,
        blob: &Descriptor,
        file: &File,
        mount_from: Option<&str>,
        watch: Watch<'_>,
    ) -> Result<Placed> {
        self.place(blob, file, mount_from, watch).context(|| format!("cannot push blob {}", blob.digest))
    }

    fn place(&self, blob: &Descriptor, file: &File, mount_from: Option<&str>, watch: Watch<'_>) -> Result<Placed> {
        if self.has_blob(&blob.digest)? {
            return Ok(Placed::Existed);
        }
        let mut url = self.url("blobs/uploads/");
        if let Some(from) = mount_from {
            url = url.with_parameter("mount", &blob.digest.to_string()).with_parameter("from", from);
        }
        let mut answer = self.send(Call::new(Method::Post, url))?;
        if answer.status == 201 {
            return Ok(Placed::Mounted(mount_from.unwrap_or_default().to_owned()));
        }
        // A registry may refuse the mount and mean the upload: asked for without.
        if answer.status != 202 && mount_from.is_some() {
            answer = self.send(Call::new(Method::Post, self.url("blobs/uploads/")))?;
        }
        if answer.status != 202 {
            return Err(self.denied(answer.into_error("the registry takes no upload")));
        }
        self.upload(blob, file, self.location(&answer)?, watch)?;
        Ok(Placed::Uploaded)
    }

    /// Sends all in one request; what broke off is continued in chunks from where the registry says it is.
    fn upload(&self, blob: &Descriptor, file: &File, mut place: Url, watch: Watch<'_>) -> Result<()> {
        let transport = &self.client.transport;
        let (mut offset, mut fruitless) = (0, 0);
        loop {
            let result = self.attempt(blob, file, &place, offset, watch);
            let error = match result {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != ErrorKind::Internal => return Err(error),
                Err(error) => error,
            };
            if fruitless > transport.options().retries || !transport.wait(transport.back_off(fruitless)) {
                return Err(error);
            }
            fruitless += 1;
            let Some((next, has)) = self.status(&place)? else {
                // The registry forgot the upload: from the start.
                let answer = self.send(Call::new(Method::Post, self.url("blobs/uploads/")))?;
                if answer.status != 202 {
                    return Err(self.denied(answer.into_error("the registry takes no upload")));
                }
                (place, offset) = (self.location(&answer)?, 0);
                continue;
            };
            if has > offset {
                fruitless = 0;
            }
            (place, offset) = (next, has.min(blob.size));
        }
    }

    fn attempt(&self, blob: &Descriptor, file: &File, place: &Url, offset: u64, watch: Watch<'_>) -> Result<()> {
        let sent = std::sync::atomic::AtomicU64::new(offset);
        let count = |bytes: u64| {
            let current = sent.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            watch(&blob.digest, Step::Pushing { current, total: blob.size });
        };
        let rest = Payload::File { file, offset, size: blob.size - offset, sent: Sent(&count) };
        let mut place = place.clone();
        let mut payload = rest;
        if offset > 0 {
            if offset < blob.size {
                let call = Call::new(Method::Patch, place.clone())
                    .header("Content-Type", "application/octet-stream")
                    .header("Content-Range", format!("{offset}-{}", blob.size - 1))
                    .payload(rest);
                let answer = self.send(call)?;
                if !matches!(answer.status, 201 | 202 | 204) {
                    return Err(broken(self, answer, "the registry refuses a part of the upload"));
                }
                place = self.location(&answer)?;
            }
            payload = Payload::None;
        }
        let call = Call::new(Method::Put, place.with_parameter("digest", &blob.digest.to_string()))
            .header("Content-Type", "application/octet-stream")
            .payload(payload);
        let answer = self.send(call)?;
        if !matches!(answer.status, 201 | 202 | 204) {
            return Err(broken(self, answer, "the registry refuses the upload"));
        }
        Ok(())
    }

    /// How much of an upload the registry has; `None` where it knows nothing of it.
    fn status(&self, place: &Url) -> Result<Option<(Url, u64)>> {
        let answer = self.send(Call::new(Method::Get, place.clone()))?;
        match answer.status {
            204 | 202 | 200 => {
                let range = answer.header("range").unwrap_or("0-0").trim_start_matches("bytes=");
                let last: u64 = range.split_once('-').and_then(|(_, last)| last.trim().parse().ok()).unwrap_or(0);
                // "0-0" is what registries say of an empty upload, too; one byte is sent again then.
                let has = if last == 0 { 0 } else { last + 1 };
                let place = if answer.header("location").is_some() { self.location(&answer)? } else { place.clone() };
                Ok((has > 0).then_some((place, has)))
            }
            _ => Ok(None),
        }
    }
}

/// An upload that a registry refuses; what may go another time is `Internal`.
fn broken(session: &Session<'_>, answer: Answer, what: &str) -> Error {
    let again = matches!(answer.status, 404 | 408 | 416 | 429 | 499..);
    if let Some(wait) = retry_after(&answer).filter(|_| again) {
        session.client.transport.wait(wait);
    }
    let error = session.denied(answer.into_error(what));
    if again { error.with_kind(ErrorKind::Internal) } else { error }
}
