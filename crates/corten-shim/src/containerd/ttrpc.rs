//! ttrpc, as far as a shim needs it: requests with one answer each, over a unix socket.
//!
//! A frame is ten bytes (length and stream, big-endian, kind, flags) and a protobuf message.

use corten_types::{Error, ErrorKind};
use prost::Message;

/// Longest message (the protocol's).
const MESSAGE_SIZE_BYTES_MAX: usize = 4 * 1024 * 1024;
const HEADER_SIZE_BYTES: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// What a client asks.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
    #[prost(message, repeated, tag = "5")]
    pub(super) metadata: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// gRPC's status.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Bytes as they arrive, and the requests in them.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next request with its stream; an error is one that ends the connection.
    pub(super) fn next_request(&mut self) -> Result<Option<(u32, Request)>, Error> {
        loop {
            let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_SIZE_BYTES>() else { return Ok(None) };
            let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (length, stream, kind) = (usize::try_from(number(0)).unwrap_or(usize::MAX), number(4), header[8]);
            if length > MESSAGE_SIZE_BYTES_MAX {
                return Err(Error::new(ErrorKind::Exhausted, format!("a message of {length} bytes is too long")));
            }
            let Some(body) = rest.get(..length) else { return Ok(None) };
            let request = (kind == REQUEST).then(|| Request::decode(body));
            self.buffer.drain(..HEADER_SIZE_BYTES + length);
            match request {
                // Data of streams that are over already, or of kinds to come.
                None => {}
                Some(Ok(request)) => return Ok(Some((stream, request))),
                Some(Err(error)) => return Err(Error::invalid("a request cannot be decoded").caused_by(error)),
            }
        }
    }
}

/// The frame of a request.
pub(super) fn request(stream: u32, request: &Request) -> Vec<u8> {
    frame(stream, REQUEST, &request.encode_to_vec())
}

/// The frame of an answer.
pub(super) fn response(stream: u32, answer: Result<Vec<u8>, &Error>) -> Vec<u8> {
    let response = match answer {
        Ok(payload) => Response { status: Some(Status::default()), payload },
        Err(error) => {
            let message = error.one_line();
            Response { status: Some(Status { code: code(error.kind()), message }), payload: Vec::new() }
        }
    };
    frame(stream, RESPONSE, &response.encode_to_vec())
}

fn frame(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, 0]);
    frame.extend_from_slice(body);
    frame
}

/// gRPC's code of a kind of failure.
fn code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::Invalid => 3,
        ErrorKind::NotFound => 5,
        ErrorKind::AlreadyExists => 6,
        ErrorKind::Denied => 7,
        ErrorKind::Exhausted => 8,
        ErrorKind::Conflict => 9,
        ErrorKind::Unsupported => 12,
        ErrorKind::Corrupt => 15,
        ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable | ErrorKind::Internal => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_being_cut_anywhere() {
        let one = Request { service: "s".into(), method: "m".into(), payload: vec![1, 2], ..Request::default() };
        let mut bytes = request(3, &one);
        // A frame of another kind is passed over.
        bytes.extend(frame(5, 3, b"data"));
        bytes.extend(request(7, &one));
        let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
        for byte in bytes {
            decoder.push(&[byte]);
            while let Some((stream, found)) = decoder.next_request().unwrap() {
                assert_eq!(found, one);
                seen.push(stream);
            }
        }
        assert_eq!(seen, [3, 7]);
    }

    #[test]
    fn a_message_longer_than_the_limit_or_of_another_form_ends_the_connection() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0, 0, 0, 0, 0, 0, 1, REQUEST, 0]);
        assert!(decoder.next_request().is_err());
        let mut decoder = Decoder::default();
        decoder.push(&frame(1, REQUEST, &[0x0a, 0xff]));
        assert!(decoder.next_request().is_err());
    }
}
