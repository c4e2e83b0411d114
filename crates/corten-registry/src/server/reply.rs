//! Answers: nothing, bytes, or part of a file, sent as fast as the client reads and never more than a piece ahead.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{HeaderMap, Response, StatusCode, header};
use rustix::io::{IoSliceMut, ReadWriteFlags};
use tokio::task::JoinHandle;

use super::failure::Failure;

/// Bytes read from a file at a time.
const PIECE: usize = 256 * 1024;

/// An answer before it is sent.
pub(crate) type Reply = Response<ReplyBody>;

/// What an answer carries.
#[derive(Debug)]
pub(crate) struct ReplyBody {
    content: Content,
    /// Told at the end, however it comes.
    on_end: Option<End>,
}

#[derive(Debug)]
enum Content {
    Empty,
    Bytes(Bytes),
    File(FilePart),
}

/// Part of a file.
#[derive(Debug)]
struct FilePart {
    file: Arc<File>,
    offset: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// What is told when an answer's last byte went, or its client.
pub(crate) struct End {
    started: Instant,
    sent: u64,
    tell: Option<Box<dyn FnOnce(Instant, u64) + Send + Sync>>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(self.started, self.sent);
        }
    }
}

impl ReplyBody {
    /// Says when the answer is over: when it began, and the bytes that went.
    pub(crate) fn when_over(&mut self, started: Instant, tell: impl FnOnce(Instant, u64) + Send + Sync + 'static) {
        self.on_end = Some(End { started, sent: 0, tell: Some(Box::new(tell)) });
    }

    fn of(content: Content) -> Self {
        Self { content, on_end: None }
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(ReplyBody::of(Content::Empty));
    *reply.status_mut() = status;
    reply
}

/// An answer of a few bytes.
pub(crate) fn bytes(status: StatusCode, content_type: &str, content: impl Into<Bytes>) -> Reply {
    let content = content.into();
    let length = content.len();
    let mut reply = Response::new(ReplyBody::of(Content::Bytes(content)));
    *reply.status_mut() = status;
    set(&mut reply, header::CONTENT_LENGTH, &length.to_string());
    set(&mut reply, header::CONTENT_TYPE, content_type);
    reply
}

/// An answer of JSON.
pub(crate) fn json(value: &serde_json::Value) -> Reply {
    bytes(StatusCode::OK, "application/json", value.to_string())
}

/// An answer of part of a file, from `offset` to before `end`.
pub(crate) fn file(status: StatusCode, file: File, offset: u64, end: u64) -> Reply {
    let part = FilePart { file: Arc::new(file), offset, end, reading: None };
    let mut reply = Response::new(ReplyBody::of(Content::File(part)));
    *reply.status_mut() = status;
    set(&mut reply, header::CONTENT_LENGTH, &end.saturating_sub(offset).to_string());
    reply
}

/// A refusal.
pub(crate) fn failure(failure: &Failure) -> Reply {
    let mut reply = bytes(failure.status, "application/json; charset=utf-8", failure.body());
    for (name, value) in failure.headers.iter() {
        reply.headers_mut().append(name.clone(), value.clone());
    }
    reply
}

/// The same answer without its body, as HEAD wants it.
pub(crate) fn without_body(reply: Reply) -> Reply {
    let (parts, _) = reply.into_parts();
    Response::from_parts(parts, ReplyBody::of(Content::Empty))
}

/// Sets a header; text that no header can carry is left out.
pub(crate) fn set(reply: &mut Reply, name: header::HeaderName, value: &str) {
    insert(reply.headers_mut(), name, value);
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = header::HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let piece = match &mut this.content {
            Content::Empty => return Poll::Ready(None),
            Content::Bytes(bytes) => Ok(std::mem::take(bytes)),
            Content::File(part) => match part.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(piece)) => piece,
            },
        };
        if matches!(&this.content, Content::Bytes(_)) {
            this.content = Content::Empty;
        }
        if let (Ok(piece), Some(end)) = (&piece, &mut this.on_end) {
            end.sent += piece.len() as u64;
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::File(part) => part.offset >= part.end && part.reading.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::File(part) => SizeHint::with_exact(part.end.saturating_sub(part.offset)),
        }
    }
}

impl FilePart {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.reading.is_none() {
            if self.offset >= self.end {
                return Poll::Ready(None);
            }
            let length = usize::try_from(self.end - self.offset).unwrap_or(PIECE).min(PIECE);
            // What is in the page cache is taken here; what the disk must bring, another thread waits for.
            if let Some(piece) = read_cached(&self.file, self.offset, length) {
                return Poll::Ready(Some(Ok(self.take(piece))));
            }
            let (file, offset) = (Arc::clone(&self.file), self.offset);
            self.reading = Some(tokio::task::spawn_blocking(move || read(&file, offset, length)));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = match Pin::new(reading).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read.unwrap_or_else(|error| Err(io::Error::other(error))),
        };
        self.reading = None;
        Poll::Ready(Some(read.map(|piece| self.take(piece))))
    }

    fn take(&mut self, piece: Bytes) -> Bytes {
        self.offset += piece.len() as u64;
        piece
    }
}

fn read_cached(file: &File, offset: u64, length: usize) -> Option<Bytes> {
    let mut buffer = vec![0; length];
    let count = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut buffer)], offset, ReadWriteFlags::NOWAIT).ok()?;
    buffer.truncate(count);
    (count > 0).then(|| buffer.into())
}

fn read(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    let count = file.read_at(&mut buffer, offset)?;
    if count == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob's file became shorter"));
    }
    buffer.truncate(count);
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn collect(mut body: ReplyBody) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                all.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            all
        })
    }

    #[test]
    fn a_part_of_a_file_is_sent_and_counted() {
        let content: Vec<u8> = (0..PIECE * 3).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let mut temporary = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut temporary, &content).unwrap();
        let end = PIECE * 2 + 100;
        let reply = file(StatusCode::PARTIAL_CONTENT, temporary, 10, end as u64);
        assert_eq!(reply.headers()[header::CONTENT_LENGTH], (end - 10).to_string());
        let sent = Arc::new(AtomicU64::new(0));
        let mut body = reply.into_body();
        let told = Arc::clone(&sent);
        body.when_over(Instant::now(), move |_, bytes| told.store(bytes, Ordering::Relaxed));
        assert_eq!(collect(body), content[10..end]);
        assert_eq!(sent.load(Ordering::Relaxed), (end - 10) as u64);
    }

    #[test]
    fn a_file_that_shrank_ends_the_connection_and_not_the_answer() {
        let reply = file(StatusCode::OK, tempfile::tempfile().unwrap(), 0, 10);
        let mut body = reply.into_body();
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let frame = runtime.block_on(async { std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await });
        assert!(frame.unwrap().is_err());
    }

    #[test]
    fn head_has_the_headers_alone() {
        let reply = without_body(bytes(StatusCode::OK, "text/plain", "abc"));
        assert_eq!(reply.headers()[header::CONTENT_LENGTH], "3");
        assert!(collect(reply.into_body()).is_empty());
    }
}
