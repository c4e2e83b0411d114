//! A blob as a stream that does not break: what was lost is asked for again from where it stopped.

use std::io::{self, Read};

use corten_types::image_spec::Descriptor;
use corten_types::{Context, Error, ErrorKind, Result};
use ureq::BodyReader;

use super::session::Session;
use super::transport::{Answer, Call, Method, Trust};
use super::url::Url;

/// Most foreign places that a layer may name.
const URLS_MAX: usize = 8;

/// A blob's bytes from an offset on. What they hash to is for the reader to verify; there are never more of them than
/// were announced.
pub struct BlobReader<'s> {
    session: &'s Session<'s>,
    blob: Descriptor,
    offset: u64,
    end: u64,
    body: Option<BodyReader<'static>>,
    /// Attempts since the last byte.
    fruitless: u32,
    /// Whether a registry that knows no ranges is an error.
    strict: bool,
}

impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader")
            .field("blob", &self.blob.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl<'s> Session<'s> {
    /// The bytes of `blob` from `offset` on.
    pub fn blob(&'s self, blob: &Descriptor, offset: u64) -> BlobReader<'s> {
        self.blob_part(blob, offset, blob.size)
    }

    /// The bytes of `blob` from `offset` up to `end`.
    pub(crate) fn blob_part(&'s self, blob: &Descriptor, offset: u64, end: u64) -> BlobReader<'s> {
        BlobReader { session: self, blob: blob.clone(), offset, end, body: None, fruitless: 0, strict: false }
    }

    /// A small blob, whole and verified.
    pub fn small_blob(&self, blob: &Descriptor, size_bytes_max: u64, what: &str) -> Result<Vec<u8>> {
        if blob.size > size_bytes_max {
            let limit = size_bytes_max >> 20;
            return Err(Error::new(ErrorKind::Exhausted, format!("the {what} is larger than {limit} MiB")));
        }
        let mut content = Vec::new();
        // A reader's lifetime is the session's.
        let mut reader = BlobReader {
            session: self,
            blob: blob.clone(),
            offset: 0,
            end: blob.size,
            body: None,
            fruitless: 0,
            strict: false,
        };
        reader
            .read_to_end(&mut content)
            .map_err(|error| error.downcast::<Error>().unwrap_or_else(Error::from))
            .context(|| format!("cannot fetch the {what}"))?;
        let found = super::manifests::digest_of(blob.digest.algorithm(), &content);
        if found != blob.digest {
            let message = format!("the {what} does not match its digest");
            let cause = format!("expected {}, received {found} after {} bytes", blob.digest, content.len());
            return Err(Error::new(ErrorKind::Corrupt, message)
                .caused_by(Error::new(ErrorKind::Corrupt, cause))
                .hint("nothing was stored; retry, or try another mirror with `--mirror URL`"));
        }
        Ok(content)
    }

    /// Whether the repository has a blob.
    pub fn has_blob(&self, digest: &corten_types::Digest) -> Result<bool> {
        let what = || format!("cannot look for blob {digest} in `{}`", self.endpoint.repository);
        let answer = self.send(Call::new(Method::Head, self.url(&format!("blobs/{digest}")))).context(what)?;
        match answer.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.denied(answer.into_error(&what()))),
        }
    }
}

impl BlobReader<'_> {
    /// As it is, but a registry that knows no ranges is an error.
    pub(crate) fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Whether it goes to the end of the blob.
    pub(crate) fn is_whole(&self) -> bool {
        self.end == self.blob.size
    }

    fn open(&mut self) -> Result<BodyReader<'static>> {
        let digest = self.blob.digest;
        let what = || format!("cannot fetch blob {digest}");
        let answer = self.session.send(self.call(self.session.url(&format!("blobs/{digest}")))).context(what)?;
        if answer.status == 404 && !self.blob.urls.is_empty() {
            return self.open_foreign().context(what);
        }
        self.accept(answer).context(what)
    }

    /// A layer that is kept elsewhere: no login goes there, and no address that only this machine can reach is asked.
    fn open_foreign(&mut self) -> Result<BodyReader<'static>> {
        let mut last = None;
        for url in self.blob.urls.clone().iter().take(URLS_MAX) {
            let attempt = Url::parse(url).and_then(|url| {
                let mut call = self.call(url);
                call.trust = Trust::Foreign(self.session.origin.host.clone());
                self.session.send(call).and_then(|answer| self.accept(answer))
            });
            match attempt {
                Ok(body) => return Ok(body),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::NotFound, "it is nowhere")))
    }

    fn call(&self, url: Url) -> Call<'static> {
        let call = Call::new(Method::Get, url);
        if self.offset == 0 && self.end == self.blob.size {
            return call;
        }
        call.header("Range", format!("bytes={}-{}", self.offset, self.end.saturating_sub(1)))
    }

    fn accept(&mut self, answer: Answer) -> Result<BodyReader<'static>> {
        let wrong = |why: String| Err(Error::new(ErrorKind::Corrupt, why));
        match answer.status {
            200 => {
                if let Some(length) = answer.number("content-length").filter(|length| *length != self.blob.size) {
                    return wrong(format!("{} bytes were announced, the registry has {length}", self.blob.size));
                }
                if self.strict {
                    return Err(Error::new(ErrorKind::Unsupported, "the registry stopped to give ranges"));
                }
                // Then that is what comes.
                self.end = self.blob.size;
                let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
                // A registry that does not know ranges sends everything again.
                let skipped = io::copy(&mut (&mut body).take(self.offset), &mut io::sink())?;
                if skipped != self.offset {
                    return Err(Error::new(ErrorKind::Internal, "the connection was lost"));
                }
                Ok(body)
            }
            206 => {
                let range = answer.header("content-range").unwrap_or_default();
                let start = range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()?.trim().parse().ok());
                if start != Some(self.offset) {
                    return wrong(format!("bytes from {} on were asked for, `{range}` came", self.offset));
                }
                Ok(answer.body.into_with_config().limit(u64::MAX).reader())
            }
            _ => Err(self.session.denied(answer.into_error("the registry does not give it"))),
        }
    }

    /// Whether it is worth another attempt; waits where the last one was fruitless.
    fn try_again(&mut self) -> bool {
        let transport = &self.session.client.transport;
        let attempt = self.fruitless;
        self.fruitless += 1;
        // After progress at once: a registry that cuts connections is no reason to be slow.
        attempt == 0 || (attempt <= transport.options().retries && transport.wait(transport.back_off(attempt - 1)))
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.body.is_none() && self.offset < self.end {
                match self.open() {
                    Ok(body) => self.body = Some(body),
                    Err(error) if error.kind() == ErrorKind::Internal && self.try_again() => continue,
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            let most = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
            if most == 0 {
                return self.end_of_blob().map(|()| 0);
            }
            let Some(body) = &mut self.body else { return Ok(0) };
            match body.read(&mut buffer[..most]) {
                Ok(count) if count > 0 => {
                    self.offset += count as u64;
                    self.fruitless = 0;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                lost => {
                    self.body = None;
                    if self.try_again() {
                        continue;
                    }
                    let message =
                        format!("blob {} broke off after {} of {} bytes", self.blob.digest, self.offset, self.end);
                    let error = Error::new(ErrorKind::Internal, message);
                    let error = match lost {
                        Err(cause) => error.caused_by(cause),
                        Ok(_) => error,
                    };
                    return Err(io::Error::other(error.hint("what has arrived is kept; run the command again")));
                }
            }
        }
    }
}

impl BlobReader<'_> {
    /// Nothing may follow a whole blob. (Of a part, the rest of the answer is nobody's business.)
    fn end_of_blob(&mut self) -> io::Result<()> {
        let Some(mut body) = self.body.take().filter(|_| self.end == self.blob.size) else { return Ok(()) };
        match body.read(&mut [0; 1]) {
            Ok(count) if count > 0 => {
                let message =
                    format!("blob {} is larger than the announced {} bytes", self.blob.digest, self.blob.size);
                Err(io::Error::other(Error::new(ErrorKind::Corrupt, message)))
            }
            _ => Ok(()),
        }
    }
}
