//! Names of images as docker reads them: `hello` is `docker.io/library/hello:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, printable};
use crate::{Error, Result};

/// The registry that a name without one belongs to.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Where that registry keeps names of one word.
const OFFICIAL: &str = "library/";
/// Longest `DOMAIN/PATH`, in bytes.
const NAME_LENGTH_MAX: usize = 255;

/// A normalised image reference: registry, path, and a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises; a name with neither tag nor digest means `:latest`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reference = Self::parse_name(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".to_owned());
        }
        Ok(reference)
    }

    /// What a name that somebody typed may mean here, in order: what docker reads in it, then for a short one what podman
    /// and buildah call an image that came from no registry, `localhost/NAME`.
    pub fn meanings(text: &str) -> impl Iterator<Item = Self> {
        let own = Self::parse(text).ok();
        let is_short = own.as_ref().is_some_and(|own| own.domain() == DEFAULT_DOMAIN)
            && !text.split_once('/').is_some_and(|(first, _)| first.ends_with(DEFAULT_DOMAIN));
        let local = is_short.then(|| Self::parse(&format!("localhost/{text}")).ok()).flatten();
        own.into_iter().chain(local)
    }

    /// Parses and normalises, adding no tag.
    pub fn parse_name(text: &str) -> Result<Self> {
        parse(text).map_err(|why| {
            Error::invalid(format!("`{}` is not an image reference: {why}", printable(text)))
                .hint("a reference reads `[REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]`, the name in lower case")
        })
    }

    /// The registry's host, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/hello`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `DOMAIN/PATH` in full.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as docker shows it: without what normalisation added.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(word) if !word.contains('/') => word.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The reference as docker shows it: `hello:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    /// The same repository under another tag, without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid(format!("`{}` is not a tag", printable(tag)))
                .hint("a tag is up to 128 letters, digits, `_`, `.` and `-`, and starts with neither `.` nor `-`"));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository at a digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an image's identifier".to_owned());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|error| error.one_line())?)),
        None => (text, None),
    };
    let (domain, rest) = split_domain(rest);
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if path.chars().any(char::is_uppercase) {
        return Err("the repository's name must be lower case".to_owned());
    }
    if !is_domain(domain) {
        return Err(format!("`{}` is not a registry's host", printable(domain)));
    }
    if path.is_empty() || !path.split('/').all(is_path_component) {
        return Err(format!("`{}` is not a repository's name", printable(path)));
    }
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(format!("`{}` is not a tag", printable(tag)));
    }
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
        return Err(format!("the name is longer than {NAME_LENGTH_MAX} bytes"));
    }
    Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
}

/// The first word is a registry only where it cannot be a repository: a dot, a colon, `localhost` or a capital says so.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
                return false;
            }
            ("ip", port.strip_prefix(':').or(if port.is_empty() { None } else { Some("wrong") }))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port_fits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let component = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !word.starts_with('-')
            && !word.ends_with('-')
    };
    port_fits && host.split('.').all(component)
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(word: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = word.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes
        .split(is_word)
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

impl fmt::Display for Reference {
    /// The reference in full.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let at = |name: &str| format!("{name}@{DIGEST}");
        for (text, full, familiar) in [
            ("hello", "docker.io/library/hello:latest", "hello:latest"),
            ("hello:1", "docker.io/library/hello:1", "hello:1"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("library/app", "docker.io/library/app:latest", "app:latest"),
            ("docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("index.docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("localhost/busybox", "localhost/busybox:latest", "localhost/busybox:latest"),
            ("localhost:5000/a/b:2", "localhost:5000/a/b:2", "localhost:5000/a/b:2"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("a__b.c-d---e", "docker.io/library/a__b.c-d---e:latest", "a__b.c-d---e:latest"),
            (&at("app"), &at("docker.io/library/app"), &at("app")),
            (&at("app:1"), &at("docker.io/library/app:1"), &at("app:1")),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar));
            assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
        }
    }

    #[test]
    fn a_short_name_may_be_an_image_that_came_from_no_registry() {
        let meanings = |text| Reference::meanings(text).map(|meant| meant.to_string()).collect::<Vec<_>>();
        assert_eq!(meanings("app:1"), ["docker.io/library/app:1", "localhost/app:1"]);
        assert_eq!(meanings("user/app"), ["docker.io/user/app:latest", "localhost/user/app:latest"]);
        assert_eq!(meanings("docker.io/app"), ["docker.io/library/app:latest"]);
        assert_eq!(meanings("index.docker.io/app"), ["docker.io/library/app:latest"]);
        assert_eq!(meanings("ghcr.io/a/b"), ["ghcr.io/a/b:latest"]);
        assert!(meanings("not a name").is_empty());
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "App",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a@sha256:1",
            "a@b@c",
            "-a",
            "a_",
            "a___b",
            "a..b",
            "a b",
            "a:b:c",
            "ho_st.x/a",
            "host.:1/a",
            "host:x/a",
            "../../etc",
            "a\n",
            &DIGEST[7..],
            &"a".repeat(256),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
