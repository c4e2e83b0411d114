//! A request's body, taken in pieces of bounded size from a client that must not be too slow.

use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};

use super::config::Limits;
use super::failure::{Code, Failure};

/// A body that is being received.
#[derive(Debug)]
pub(crate) struct Receiver {
    body: Incoming,
    idle: Duration,
    rate_min: u64,
    started: Instant,
    received: u64,
}

impl Receiver {
    pub(crate) fn new(body: Incoming, limits: &Limits) -> Self {
        Self {
            body,
            idle: limits.idle_timeout.0,
            rate_min: limits.upload_rate_min.0.max(1),
            started: Instant::now(),
            received: 0,
        }
    }

    /// The bytes that the client announced.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            let frame = tokio::time::timeout(self.idle, frame).await.map_err(|_| too_slow())?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|_| {
                Failure::because(Code::BlobUploadInvalid, "the connection ended before the content did")
            })?;
            // Trailers are nothing to us.
            let Ok(data) = frame.into_data() else { continue };
            self.received += data.len() as u64;
            let allowed = self.idle + Duration::from_secs(self.received / self.rate_min);
            if self.started.elapsed() > allowed {
                return Err(too_slow());
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// The bytes that came.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Throws away what still comes, up to `size_max` bytes.
    pub(crate) async fn drain(&mut self, size_max: u64) {
        let before = self.received;
        while let Ok(Some(_)) = self.next().await {
            if self.received - before > size_max {
                return;
            }
        }
    }

    /// Everything, where it is no more than `size_max` bytes; `None` where it is.
    pub(crate) async fn all(&mut self, size_max: usize) -> Result<Option<Vec<u8>>, Failure> {
        if self.length().is_some_and(|length| length > size_max as u64) {
            return Ok(None);
        }
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > size_max {
                return Ok(None);
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(all))
    }
}

fn too_slow() -> Failure {
    Failure::because(Code::BlobUploadInvalid, "the client is too slow").status(StatusCode::REQUEST_TIMEOUT)
}
