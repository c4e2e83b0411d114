//! What goes wrong, in the distribution specification's words: a status, a code, a message.

use corten_types::{Error, ErrorKind};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

/// The codes of the specification, and docker-registry's where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    RangeInvalid,
    PaginationNumberInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unknown,
}

impl Code {
    /// The word in the body, the usual status, and the usual message.
    fn entry(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", S::NOT_FOUND, "blob unknown to registry"),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", S::BAD_REQUEST, "blob upload invalid"),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", S::NOT_FOUND, "blob upload unknown to registry"),
            Self::DigestInvalid => ("DIGEST_INVALID", S::BAD_REQUEST, "provided digest did not match uploaded content"),
            Self::ManifestBlobUnknown => {
                ("MANIFEST_BLOB_UNKNOWN", S::BAD_REQUEST, "manifest references a manifest or blob unknown to registry")
            }
            Self::ManifestInvalid => ("MANIFEST_INVALID", S::BAD_REQUEST, "manifest invalid"),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", S::NOT_FOUND, "manifest unknown"),
            Self::NameInvalid => ("NAME_INVALID", S::BAD_REQUEST, "invalid repository name"),
            Self::NameUnknown => ("NAME_UNKNOWN", S::NOT_FOUND, "repository name not known to registry"),
            Self::SizeInvalid => ("SIZE_INVALID", S::BAD_REQUEST, "provided length did not match content length"),
            Self::TagInvalid => ("TAG_INVALID", S::BAD_REQUEST, "manifest tag did not match URI"),
            Self::RangeInvalid => ("RANGE_INVALID", S::RANGE_NOT_SATISFIABLE, "invalid content range"),
            Self::PaginationNumberInvalid => {
                ("PAGINATION_NUMBER_INVALID", S::BAD_REQUEST, "invalid number of results requested")
            }
            Self::Unauthorized => ("UNAUTHORIZED", S::UNAUTHORIZED, "authentication required"),
            Self::Denied => ("DENIED", S::FORBIDDEN, "requested access to the resource is denied"),
            Self::Unsupported => ("UNSUPPORTED", S::METHOD_NOT_ALLOWED, "the operation is unsupported"),
            Self::TooManyRequests => ("TOOMANYREQUESTS", S::TOO_MANY_REQUESTS, "too many requests"),
            Self::Unknown => ("UNKNOWN", S::INTERNAL_SERVER_ERROR, "unknown error"),
        }
    }
}

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    /// Boxed: a result carries a failure by value.
    pub(crate) headers: Box<HeaderMap>,
    entries: Vec<Entry>,
    /// What the operator reads in the log and the client does not see.
    pub(crate) cause: Option<Error>,
}

#[derive(Debug, Serialize)]
struct Entry {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    detail: Value,
}

impl Failure {
    /// The code's usual answer.
    pub(crate) fn new(code: Code) -> Self {
        let (word, status, message) = code.entry();
        let entries = vec![Entry { code: word, message: message.to_owned(), detail: Value::Null }];
        Self { status, headers: Box::default(), entries, cause: None }
    }

    /// With a message of its own.
    pub(crate) fn because(code: Code, message: impl Into<String>) -> Self {
        let mut failure = Self::new(code);
        if let Some(entry) = failure.entries.first_mut() {
            entry.message = message.into();
        }
        failure
    }

    /// One code, several things that it is said of.
    pub(crate) fn each(code: Code, details: impl IntoIterator<Item = Value>) -> Self {
        let (word, status, message) = code.entry();
        let entries =
            details.into_iter().map(|detail| Entry { code: word, message: message.to_owned(), detail }).collect();
        Self { status, headers: Box::default(), entries, cause: None }
    }

    /// Says more as data.
    #[must_use]
    pub(crate) fn detail(mut self, detail: impl Into<Value>) -> Self {
        if let Some(entry) = self.entries.first_mut() {
            entry.detail = detail.into();
        }
        self
    }

    /// Another status than the code's usual one.
    #[must_use]
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// A header beside the body; text that no header can carry is left out.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// Too much at once: come back later.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::because(Code::TooManyRequests, message).header(header::RETRY_AFTER, "1")
    }

    /// The body, as the specification writes it.
    pub(crate) fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            errors: &'a [Entry],
        }
        serde_json::to_vec(&Body { errors: &self.entries }).unwrap_or_default()
    }
}

/// A failure of the server itself. The client learns the status alone: paths and calls are the operator's.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = match error.kind() {
            // A full disk (or quota of the file system) is said: the client cannot mend it, its user can ask.
            ErrorKind::Exhausted => {
                Self::because(Code::Denied, "the registry's storage is full").status(StatusCode::INSUFFICIENT_STORAGE)
            }
            _ => Self::new(Code::Unknown),
        };
        failure.cause = Some(error);
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_specification_s() {
        let failure = Failure::new(Code::BlobUnknown).detail("sha256:1");
        assert_eq!(failure.status, 404);
        assert_eq!(
            String::from_utf8(failure.body()).unwrap(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry","detail":"sha256:1"}]}"#
        );
        let both = Failure::each(Code::ManifestBlobUnknown, ["a".into(), "b".into()]);
        assert_eq!(both.body().iter().filter(|byte| **byte == b'{').count(), 3, "two entries in a body");
        assert_eq!(Failure::busy("x").headers[header::RETRY_AFTER], "1");
    }

    #[test]
    fn what_the_server_knows_of_itself_stays_in_its_log() {
        let failure = Failure::from(Error::syscall("open(\"/secret/place\")", 5));
        assert_eq!(failure.status, 500);
        assert!(!String::from_utf8(failure.body()).unwrap().contains("secret"));
        assert!(failure.cause.unwrap().message().contains("secret"));
        assert_eq!(Failure::from(Error::syscall("write", 28)).status, 507);
    }
}
