//! What a request asks for, from its path alone: names have slashes, so the path is read from its end.

use corten_types::{Digest, Reference};
use hyper::Method;
use hyper::header;

use super::failure::{Code, Failure};

/// Longest path that is looked at, bytes.
const PATH_LENGTH_MAX: usize = 1024;
/// A host that no reference can have: it makes [`Reference`] judge a repository's name alone.
const NO_HOST: &str = "registry.invalid";

/// A repository's name: `team/app`. Checked: no `..`, no upper case, no empty part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(String);

impl Name {
    /// Checks the name.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::new(Code::NameInvalid).detail(shown(text));
        if text.contains([':', '@']) {
            return Err(wrong());
        }
        let reference = Reference::parse_name(&format!("{NO_HOST}/{text}")).map_err(|_| wrong())?;
        if reference.path() != text {
            return Err(wrong());
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum By {
    Tag(String),
    Digest(Digest),
    /// Neither a tag nor a digest: nothing can be there.
    Nothing(String),
}

impl By {
    fn parse(text: &str) -> Result<Self, Failure> {
        if text.contains(':') {
            return match Digest::parse(text) {
                Ok(digest) => Ok(Self::Digest(digest)),
                Err(error) => Err(Failure::because(Code::DigestInvalid, error.message()).detail(shown(text))),
            };
        }
        Ok(if is_tag(text) { Self::Tag(text.to_owned()) } else { Self::Nothing(shown(text)) })
    }
}

/// Whether `text` is a tag.
pub(crate) fn is_tag(text: &str) -> bool {
    Reference::parse_name(NO_HOST).is_ok_and(|reference| reference.with_tag(text).is_ok())
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags(Name),
    /// `/v2/NAME/manifests/TAG` or `…/DIGEST`
    Manifest(Name, By),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(Name, Digest),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(Name),
    /// `/v2/NAME/blobs/uploads/ID`
    Upload(Name, String),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(Name, Digest),
    /// `/metrics`
    Metrics,
}

impl Endpoint {
    /// Reads a path (percent signs and all).
    pub(crate) fn parse(path: &str) -> Result<Self, Failure> {
        let unknown = || Failure::because(Code::NameUnknown, "there is nothing at this path");
        if path.len() > PATH_LENGTH_MAX {
            return Err(Failure::because(Code::NameInvalid, "the path is too long"));
        }
        let path = decode(path).ok_or_else(|| Failure::because(Code::NameInvalid, "the path is not ASCII"))?;
        match path.as_str() {
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            "/metrics" => return Ok(Self::Metrics),
            _ => {}
        }
        let rest = path.strip_prefix("/v2/").ok_or_else(unknown)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let name = |count: usize| Name::parse(&parts[..parts.len() - count].join("/"));
        let digest = |text: &str| {
            Digest::parse(text)
                .map_err(|error| Failure::because(Code::DigestInvalid, error.message()).detail(shown(text)))
        };
        match parts.as_slice() {
            [_, .., "blobs", "uploads", ""] => Ok(Self::Uploads(name(3)?)),
            [_, .., "blobs", "uploads", id] => Ok(Self::Upload(name(3)?, (*id).to_owned())),
            [_, .., "blobs", "uploads"] => Ok(Self::Uploads(name(2)?)),
            [_, .., "tags", "list"] => Ok(Self::Tags(name(2)?)),
            [_, .., "manifests", by] => Ok(Self::Manifest(name(2)?, By::parse(by)?)),
            [_, .., "blobs", text] => Ok(Self::Blob(name(2)?, digest(text)?)),
            [_, .., "referrers", text] => Ok(Self::Referrers(name(2)?, digest(text)?)),
            _ => Err(unknown()),
        }
    }

    /// The methods that an endpoint has.
    fn methods(&self) -> &'static [Method] {
        const READ: &[Method] = &[Method::GET, Method::HEAD];
        match self {
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Referrers(..) | Self::Metrics => READ,
            Self::Manifest(..) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::Blob(..) => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Uploads(_) => &[Method::POST],
            Self::Upload(..) => &[Method::GET, Method::HEAD, Method::PATCH, Method::PUT, Method::DELETE],
        }
    }

    /// Refuses a method that the endpoint does not have.
    pub(crate) fn check(&self, method: &Method) -> Result<(), Failure> {
        let methods = self.methods();
        if methods.contains(method) {
            return Ok(());
        }
        let allow: Vec<&str> = methods.iter().map(Method::as_str).collect();
        Err(Failure::new(Code::Unsupported).header(header::ALLOW, &allow.join(", ")))
    }

    /// What the endpoint is called in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
            Self::Metrics => "metrics",
        }
    }
}

/// The values of a query, decoded, in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands behind the `?`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let wrong =
            || Failure::because(Code::Unsupported, "the query is malformed").status(hyper::StatusCode::BAD_REQUEST);
        let mut pairs = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            pairs.push((decode(key).ok_or_else(wrong)?, decode(&value).ok_or_else(wrong)?));
        }
        Ok(Self(pairs))
    }

    /// The first value of `key`, where it is not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).find(|value| !value.is_empty())
    }

    /// Every value of `key`.
    pub(crate) fn all<'a, 'k>(&'a self, key: &'k str) -> impl Iterator<Item = &'a str> + use<'a, 'k> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Percent-decoding; `None` where the result is not printable ASCII.
fn decode(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
                high << 4 | low
            }
            byte => byte,
        };
        if !byte.is_ascii_graphic() && byte != b' ' {
            return None;
        }
        decoded.push(char::from(byte));
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Percent-encoding of a query's value.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A hostile word made fit for an answer.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn paths_lead_to_endpoints_also_where_a_name_looks_like_one() {
        let digest = Digest::parse(DIGEST).unwrap();
        let tag = |tag: &str| By::Tag(tag.to_owned());
        for (path, endpoint) in [
            ("/v2", Endpoint::Base),
            ("/v2/", Endpoint::Base),
            ("/v2/_catalog", Endpoint::Catalog),
            ("/metrics", Endpoint::Metrics),
            ("/v2/app/tags/list", Endpoint::Tags(name("app"))),
            ("/v2/a/b/c/manifests/1.0", Endpoint::Manifest(name("a/b/c"), tag("1.0"))),
            ("/v2/manifests/manifests/manifests", Endpoint::Manifest(name("manifests"), tag("manifests"))),
            ("/v2/a/blobs/manifests/x", Endpoint::Manifest(name("a/blobs"), tag("x"))),
            ("/v2/tags/list/tags/list", Endpoint::Tags(name("tags/list"))),
            ("/v2/a/manifests/.x", Endpoint::Manifest(name("a"), By::Nothing(".x".to_owned()))),
            ("/v2/a/blobs/uploads/", Endpoint::Uploads(name("a"))),
            ("/v2/a/blobs/uploads", Endpoint::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/id-1", Endpoint::Upload(name("a"), "id-1".to_owned())),
        ] {
            assert_eq!(Endpoint::parse(path).unwrap(), endpoint, "{path}");
        }
        for (path, endpoint) in [
            (format!("/v2/a/blobs/{DIGEST}"), Endpoint::Blob(name("a"), digest)),
            (format!("/v2/a/blobs/{}", DIGEST.replace(':', "%3A")), Endpoint::Blob(name("a"), digest)),
            (format!("/v2/a/manifests/{DIGEST}"), Endpoint::Manifest(name("a"), By::Digest(digest))),
            (format!("/v2/a/referrers/{DIGEST}"), Endpoint::Referrers(name("a"), digest)),
        ] {
            assert_eq!(Endpoint::parse(&path).unwrap(), endpoint, "{path}");
        }
    }

    #[test]
    fn hostile_paths_lead_nowhere() {
        for (path, status) in [
            ("/", 404),
            ("/v3/", 404),
            ("/v2/app", 404),
            ("/v2/tags/list", 404),
            ("/v2//tags/list", 400),
            ("/v2/../../etc/tags/list", 400),
            ("/v2/a/../b/tags/list", 400),
            ("/v2/%2e%2e/tags/list", 400),
            ("/v2/a%2f..%2fb/manifests/x", 400),
            ("/v2/A/tags/list", 400),
            ("/v2/a:5/tags/list", 400),
            ("/v2/a@b/tags/list", 400),
            ("/v2/a%00b/tags/list", 400),
            ("/v2/a%zz/tags/list", 400),
            ("/v2/a/blobs/sha256:../../x", 404),
            ("/v2/a/blobs/sha256:ABC", 400),
            ("/v2/a/blobs/md5:00", 400),
            ("/v2/a/manifests/sha256:1", 400),
            ("/v2/a/referrers/x", 400),
        ] {
            assert_eq!(Endpoint::parse(path).unwrap_err().status.as_u16(), status, "{path}");
        }
        assert_eq!(Endpoint::parse(&format!("/v2/{}/tags/list", "a".repeat(300))).unwrap_err().status, 400);
        assert_eq!(Endpoint::parse(&"/v2".repeat(1000)).unwrap_err().status, 400);
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let blob = Endpoint::parse(&format!("/v2/a/blobs/{DIGEST}")).unwrap();
        blob.check(&Method::DELETE).unwrap();
        let failure = blob.check(&Method::PUT).unwrap_err();
        assert_eq!(failure.status, 405);
        assert_eq!(failure.headers[header::ALLOW], "GET, HEAD, DELETE");
    }

    #[test]
    fn queries_are_decoded_once() {
        let query = Query::parse(Some("digest=sha256%3Aab&tag=1&tag=2&n=&x=a%2525&y=a+b")).unwrap();
        assert_eq!(query.get("digest"), Some("sha256:ab"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((query.get("n"), query.get("x"), query.get("y")), (None, Some("a%25"), Some("a b")));
        assert!(Query::parse(Some("a=%")).is_err() && Query::parse(Some("a=%0a")).is_err());
        assert_eq!(encode("a b/c:d"), "a%20b/c%3Ad");
    }
}
