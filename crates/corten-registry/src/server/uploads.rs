//! Uploads: blobs on their way in, in one request or in many, hashed and written while they come.

use std::sync::Arc;

use corten_store::{PartialIngest, Store};
use corten_types::digest::Algorithm;
use corten_types::{Digest, ErrorKind};
use hyper::body::Bytes;
use hyper::{Method, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::Registry;
use super::auth::Need;
use super::blobs::CONTENT_DIGEST;
use super::config::Action;
use super::failure::{Code, Failure};
use super::handle::Asked;
use super::metrics::Counted;
use super::quota::{Held, Reservation};
use super::range;
use super::receive::Receiver;
use super::reply::{self, Reply};
use super::route::{Name, shown};
use super::sessions::{Session, State};

/// Bytes that are gathered before a thread writes them.
const BATCH: usize = 256 * 1024;

const UPLOAD_ID: header::HeaderName = header::HeaderName::from_static("docker-upload-uuid");
/// Headers of an answer that leads on.
const RANGE: header::HeaderName = header::RANGE;

impl Registry {
    /// `POST /v2/NAME/blobs/uploads/`
    pub(super) async fn start_upload(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        receiver: &mut Receiver,
    ) -> Result<Reply, Failure> {
        self.check_writable()?;
        self.check_own(name)?;
        if let (Some(digest), Some(from)) = (asked.query.get("mount"), asked.query.get("from"))
            && let Some(reply) = self.mount(asked, name, &parse(digest)?, from).await?
        {
            return Ok(reply);
        }
        let expected = asked.query.get("digest").map(parse).transpose()?;
        let algorithm = match asked.query.get("digest-algorithm") {
            None => None,
            Some("sha256") => Some(Algorithm::Sha256),
            Some("sha512") => Some(Algorithm::Sha512),
            Some(other) => {
                let message = "digests are sha256 or sha512";
                return Err(Failure::because(Code::DigestInvalid, message).detail(shown(other)));
            }
        };
        let session = self.new_session(name).await?;
        let Some(expected) = expected.filter(|digest| brings_all(receiver, digest)) else {
            if let Some(algorithm) = algorithm {
                self.choose_algorithm(&session, algorithm).await?;
            }
            return Ok(self.go_on(StatusCode::ACCEPTED, name, &session, 0));
        };
        let mut state = self.hold(&session).await?;
        let brought = self.bring(asked, &session, &mut state, receiver, Some(expected.algorithm())).await;
        let finished = match brought {
            Ok(reservation) => self.finish(name, &session, &mut state, expected, reservation).await,
            Err(failure) => Err(failure),
        };
        if finished.is_err() {
            // Its id was never told: nobody can go on.
            self.give_up(&session, &mut state).await?;
        }
        finished
    }

    /// Everything that is done to a session: `GET`, `HEAD`, `PATCH`, `PUT`, `DELETE /v2/NAME/blobs/uploads/ID`
    pub(super) async fn upload(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        id: &str,
        receiver: &mut Receiver,
    ) -> Result<Reply, Failure> {
        self.check_writable()?;
        let (own, wanted) = (self.own(name), id.to_owned());
        let found = self.blocking(move |registry| Ok(registry.sessions.find(&wanted, &own)?)).await?;
        let session = found.ok_or_else(|| Failure::new(Code::BlobUploadUnknown))?;
        let mut state = self.hold(&session).await?;
        match asked.method {
            Method::GET | Method::HEAD => {
                let size = self.size(&session, &mut state).await?;
                Ok(self.go_on(StatusCode::NO_CONTENT, name, &session, size))
            }
            Method::DELETE => {
                self.give_up(&session, &mut state).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            Method::PATCH => {
                self.check_place(asked, name, &session, &mut state, receiver).await?;
                let _coming = self.bring(asked, &session, &mut state, receiver, None).await?;
                let size = self.size(&session, &mut state).await?;
                Ok(self.go_on(StatusCode::ACCEPTED, name, &session, size))
            }
            _ => {
                let expected = asked.query.get("digest");
                let expected =
                    expected.ok_or_else(|| Failure::because(Code::DigestInvalid, "the query names no digest"))?;
                let expected = parse(expected)?;
                self.check_place(asked, name, &session, &mut state, receiver).await?;
                let coming = self.bring(asked, &session, &mut state, receiver, None).await?;
                self.finish(name, &session, &mut state, expected, coming).await
            }
        }
    }

    /// Makes a blob of another repository one of this one's, where the client may read it there.
    async fn mount(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        digest: &Digest,
        from: &str,
    ) -> Result<Option<Reply>, Failure> {
        // What cannot be mounted is uploaded: as with docker-registry, no word about why.
        let Ok(from) = Name::parse(from) else { return Ok(None) };
        if !self.gate.allows(&asked.identity, Need::Repository(&from, Action::Pull)) {
            return Ok(None);
        }
        let (repository, wanted) = (name.clone(), *digest);
        let mounted = self.blocking(move |registry| {
            let lease = registry.store.lease("mount")?;
            let is_here = lease.keep(&wanted)?;
            let Some(size) = registry.find_blob(&from, &wanted)?.filter(|_| is_here) else { return Ok(false) };
            registry.commit(&repository, &wanted, size, || {
                registry.store.repository(&registry.own(&repository)).link_blob(&lease, &wanted)
            })?;
            Ok(true)
        });
        Ok(mounted.await?.then(|| created(name, digest)))
    }

    async fn new_session(self: &Arc<Self>, name: &Name) -> Result<Arc<Session>, Failure> {
        let own = self.own(name);
        let count_max = self.config.limits.sessions_max;
        let started = self.blocking(move |registry| Ok(registry.sessions.start(&own, count_max)?));
        started.await?.ok_or_else(|| Failure::busy("too many uploads are open"))
    }

    /// The session's state, for one request alone.
    async fn hold<'s>(self: &Arc<Self>, session: &'s Session) -> Result<tokio::sync::MutexGuard<'s, State>, Failure> {
        let state = session.state.try_lock().map_err(|_| {
            Failure::because(Code::BlobUploadInvalid, "another request works on this upload")
                .status(StatusCode::CONFLICT)
        })?;
        if state.is_over { Err(Failure::new(Code::BlobUploadUnknown)) } else { Ok(state) }
    }

    /// The session's bytes, opened where they are not.
    async fn partial(self: &Arc<Self>, session: &Arc<Session>, state: &mut State) -> Result<PartialIngest, Failure> {
        match state.partial.take() {
            Some(partial) => Ok(partial),
            None => {
                let session = Arc::clone(session);
                self.blocking(move |registry| Ok(registry.sessions.open_bytes(&session)?)).await
            }
        }
    }

    async fn size(self: &Arc<Self>, session: &Arc<Session>, state: &mut State) -> Result<u64, Failure> {
        let partial = self.partial(session, state).await?;
        let size = partial.size();
        state.partial = Some(partial);
        Ok(size)
    }

    async fn choose_algorithm(self: &Arc<Self>, session: &Arc<Session>, algorithm: Algorithm) -> Result<(), Failure> {
        let mut state = self.hold(session).await?;
        let partial = self.partial(session, &mut state).await?;
        state.partial = Some(partial.with_algorithm(algorithm));
        Ok(())
    }

    /// Refuses a chunk that does not begin where the last one ended, or is not as long as it says.
    async fn check_place(
        self: &Arc<Self>,
        asked: &Asked,
        name: &Name,
        session: &Arc<Session>,
        state: &mut State,
        receiver: &Receiver,
    ) -> Result<(), Failure> {
        let Some(header) = asked.header(header::CONTENT_RANGE) else { return Ok(()) };
        let (first, last) = range::chunk(header).ok_or_else(|| {
            Failure::because(Code::BlobUploadInvalid, "`Content-Range` does not read FIRST-LAST")
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
        })?;
        let size = self.size(session, state).await?;
        if first != size {
            let message = format!("the chunk begins at {first}, the upload goes on at {size}");
            let id = &session.id;
            return Err(Failure::because(Code::RangeInvalid, message)
                .header(header::LOCATION, &location(name, id))
                .header(RANGE, &so_far(size))
                .header(UPLOAD_ID, id));
        }
        if receiver.length().is_some_and(|length| length != last - first + 1) {
            return Err(Failure::new(Code::SizeInvalid));
        }
        Ok(())
    }

    /// Takes a request's body in: a thread writes one batch while the next one comes.
    async fn bring(
        self: &Arc<Self>,
        asked: &Asked,
        session: &Arc<Session>,
        state: &mut State,
        receiver: &mut Receiver,
        algorithm: Option<Algorithm>,
    ) -> Result<Reservation, Failure> {
        let _running = self.upload_place()?;
        let _counted = Counted::new(&self.metrics.uploads);
        let mut coming = self.reserve(asked).await?;
        let mut partial = self.partial(session, state).await?;
        if let Some(algorithm) = algorithm {
            partial = partial.with_algorithm(algorithm);
        }
        let mut size = partial.size();
        let size_max = self.config.limits.blob_size_max.0;
        let announced = receiver.length().unwrap_or(0);
        let room = self.grow(&mut coming, size).and_then(|()| fits(size.saturating_add(announced), size_max));
        let mut writer = Writer::new(partial);
        let mut received = room;
        while received.is_ok() {
            let piece = match receiver.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(failure) => {
                    received = Err(failure);
                    break;
                }
            };
            size += piece.len() as u64;
            received = fits(size, size_max).and_then(|()| self.grow(&mut coming, piece.len() as u64));
            if received.is_ok() {
                received = writer.write(piece).await;
            }
        }
        // What came is kept whatever happened: the client may go on from there.
        let (partial, written) = writer.end().await;
        state.partial = partial;
        let session = Arc::clone(session);
        self.blocking(move |registry| Ok(registry.sessions.touch(&session)?)).await?;
        received.and(written).map(|()| coming)
    }

    /// A place among the requests that bring content.
    pub(super) fn upload_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| Failure::busy("too many uploads at once"))
    }

    /// Room under the quotas for what a request brings.
    async fn reserve(self: &Arc<Self>, asked: &Asked) -> Result<Reservation, Failure> {
        let (super::route::Endpoint::Upload(name, _) | super::route::Endpoint::Uploads(name)) = &asked.endpoint else {
            return Err(Failure::new(Code::Unsupported));
        };
        let mut held = Held::default();
        if self.ledger.limits(name.as_str()) {
            let own = self.own(name);
            held = self.blocking(move |registry| registry.held(&own)).await?;
        }
        Ok(self.ledger.reserve(name.as_str(), held))
    }

    /// What counts against quotas.
    pub(super) fn held(&self, own: &str) -> Result<Held, Failure> {
        let repository = self.reader.repository(own).usage()?.bytes;
        Ok(Held { repository, total: self.reader.repositories_size()? })
    }

    fn grow(&self, coming: &mut Reservation, bytes: u64) -> Result<(), Failure> {
        coming.grow(bytes).inspect_err(|_| self.metrics.note_over_quota())
    }

    /// Verifies what came and makes it the repository's.
    async fn finish(
        self: &Arc<Self>,
        name: &Name,
        session: &Arc<Session>,
        state: &mut State,
        expected: Digest,
        coming: Reservation,
    ) -> Result<Reply, Failure> {
        let partial = self.partial(session, state).await?;
        state.is_over = true;
        let (repository, session) = (name.clone(), Arc::clone(session));
        self.blocking(move |registry| {
            // Given back only once it counts as held.
            let _coming = coming;
            let committed = registry.name_blob(&repository, partial, &expected);
            // Right or wrong, these bytes are used up, as docker-registry has it; a failure of the disk is not theirs.
            registry.sessions.end(&session)?;
            committed
        })
        .await?;
        Ok(created(name, &expected))
    }

    fn name_blob(&self, name: &Name, partial: PartialIngest, expected: &Digest) -> Result<(), Failure> {
        let staged = partial.with_algorithm(expected.algorithm()).finish()?;
        if staged.digest() != *expected {
            return Err(Failure::new(Code::DigestInvalid).detail(serde_json::json!({
                "expected": expected.to_string(), "received": staged.digest().to_string(), "size": staged.size(),
            })));
        }
        let lease = self.store.lease("push")?;
        staged.commit(&lease, expected)?;
        let own = self.own(name);
        self.commit(name, expected, staged.size(), || self.store.repository(&own).link_blob(&lease, expected))
    }

    /// Makes a blob the repository's, unless a quota forbids it now that others are done.
    fn commit(
        &self,
        name: &Name,
        digest: &Digest,
        size: u64,
        link: impl FnOnce() -> corten_types::Result<()>,
    ) -> Result<(), Failure> {
        if !self.ledger.limits(name.as_str()) {
            return Ok(link()?);
        }
        let _one_by_one = self.committing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = self.own(name);
        if self.store.repository(&own).blob(digest)?.is_none() {
            let held = self.held(&own)?;
            // A ledger of its own: what still comes is not counted against what is here already.
            let alone = Arc::new(super::quota::Ledger::new(&self.config.quota));
            self.grow(&mut alone.reserve(name.as_str(), held), size)?;
        }
        Ok(link()?)
    }

    /// Ends a session and throws away what came.
    async fn give_up(self: &Arc<Self>, session: &Arc<Session>, state: &mut State) -> Result<(), Failure> {
        let was_over = std::mem::replace(&mut state.is_over, true);
        let partial = if was_over { None } else { Some(self.partial(session, state).await?) };
        let session = Arc::clone(session);
        self.blocking(move |registry| {
            if let Some(partial) = partial {
                partial.discard();
            }
            Ok(registry.sessions.end(&session)?)
        })
        .await
    }

    /// An answer that leads on.
    fn go_on(&self, status: StatusCode, name: &Name, session: &Session, size: u64) -> Reply {
        let mut reply = reply::empty(status);
        reply::set(&mut reply, header::LOCATION, &location(name, &session.id));
        reply::set(&mut reply, RANGE, &so_far(size));
        reply::set(&mut reply, UPLOAD_ID, &session.id);
        if status != StatusCode::NO_CONTENT {
            reply::set(&mut reply, header::CONTENT_LENGTH, "0");
        }
        reply
    }
}

/// Whether a `POST` brings the whole blob: it has a body, or the blob has none.
fn brings_all(receiver: &Receiver, digest: &Digest) -> bool {
    receiver.length() != Some(0) || Store::digest_of(digest.algorithm(), b"").is_ok_and(|empty| empty == *digest)
}

fn fits(size: u64, size_max: u64) -> Result<(), Failure> {
    if size <= size_max {
        return Ok(());
    }
    let message = format!("a blob has at most {size_max} bytes here");
    Err(Failure::because(Code::SizeInvalid, message).status(StatusCode::PAYLOAD_TOO_LARGE))
}

fn created(name: &Name, digest: &Digest) -> Reply {
    let mut reply = reply::empty(StatusCode::CREATED);
    reply::set(&mut reply, header::LOCATION, &format!("/v2/{}/blobs/{digest}", name.as_str()));
    reply::set(&mut reply, CONTENT_DIGEST, &digest.to_string());
    reply::set(&mut reply, header::CONTENT_LENGTH, "0");
    reply
}

fn location(name: &Name, id: &str) -> String {
    format!("/v2/{}/blobs/uploads/{id}", name.as_str())
}

/// The first and the last byte that are here; docker-registry writes nothing at all as `0-0`, and so do we.
fn so_far(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn parse(digest: &str) -> Result<Digest, Failure> {
    Digest::parse(digest).map_err(|error| Failure::because(Code::DigestInvalid, error.message()).detail(shown(digest)))
}

/// Writes pieces, a batch at a time, on a thread that may block.
struct Writer {
    partial: Option<PartialIngest>,
    writing: Option<JoinHandle<(PartialIngest, corten_types::Result<()>)>>,
    batch: Vec<Bytes>,
    batch_size: usize,
}

impl Writer {
    fn new(partial: PartialIngest) -> Self {
        Self { partial: Some(partial), writing: None, batch: Vec::new(), batch_size: 0 }
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), Failure> {
        self.batch_size += piece.len();
        self.batch.push(piece);
        if self.batch_size >= BATCH { self.flush().await } else { Ok(()) }
    }

    /// Waits for the batch before, then hands over this one.
    async fn flush(&mut self) -> Result<(), Failure> {
        self.settle().await?;
        let Some(mut partial) = self.partial.take() else { return Err(lost()) };
        let batch = std::mem::take(&mut self.batch);
        self.batch_size = 0;
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let written = batch.iter().try_for_each(|piece| partial.append(piece));
            (partial, written)
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Failure> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let (partial, written) = writing.await.map_err(|_| lost())?;
        self.partial = Some(partial);
        written.map_err(|error| {
            let full = error.kind() == ErrorKind::Exhausted;
            let failure = Failure::from(error);
            if full { failure } else { failure.status(StatusCode::INTERNAL_SERVER_ERROR) }
        })
    }

    /// Writes the rest; the bytes again, where no thread lost them.
    async fn end(mut self) -> (Option<PartialIngest>, Result<(), Failure>) {
        let flushed = if self.batch.is_empty() { Ok(()) } else { self.flush().await };
        let settled = self.settle().await;
        (self.partial, flushed.and(settled))
    }
}

fn lost() -> Failure {
    Failure::because(Code::Unknown, "the upload was interrupted")
}
