//! Where a request goes: an origin (scheme, host, port), to which credentials belong, and a path.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corten_types::{Error, Result};

/// Longest URL that is followed, bytes.
const LENGTH_MAX: usize = 16 * 1024;

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// The host in lower case, an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// An origin from `HOST[:PORT]`.
    pub fn new(scheme: Scheme, authority: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("`{}` is not `HOST[:PORT]`", shown(authority)));
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                address.parse::<Ipv6Addr>().map_err(|_| wrong())?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
                (address, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(fits) {
            return Err(wrong());
        }
        let port = match port {
            None => scheme.default_port(),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port })
    }

    /// The host as an address, where it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether it is this machine by docker's rule: `localhost` or an address of 127.0.0.0/8 or ::1.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// `HOST[:PORT]`, the port left out where it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// An origin with path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Where.
    pub origin: Origin,
    /// Starts with `/`; the query with its `?` is part of it.
    pub path: String,
}

impl Url {
    /// Parses an absolute URL. One with a user name or a fragment is refused.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("`{}` is not a URL to follow: {why}", shown(text)));
        if text.len() > LENGTH_MAX || text.bytes().any(|byte| !(0x21..=0x7e).contains(&byte)) {
            return Err(wrong("it is too long or has characters that no URL has"));
        }
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        let (scheme, skipped) = if lower.starts_with("https://") {
            (Scheme::Https, 8)
        } else if lower.starts_with("http://") {
            (Scheme::Http, 7)
        } else {
            return Err(wrong("it is neither http nor https"));
        };
        let rest = text[skipped..].split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("it carries a user name"));
        }
        let origin = Origin::new(scheme, authority)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { origin, path })
    }

    /// What a `Location` of this URL's answer means: absolute, of the same scheme, or of the same origin.
    pub fn join(&self, location: &str) -> Result<Self> {
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.origin.scheme.as_str()));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{}{location}", self.origin));
        }
        if location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
            return Self::parse(location);
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let folder = if location.starts_with('?') { path } else { &path[..=path.rfind('/').unwrap_or_default()] };
        Self::parse(&format!("{}{folder}{location}", self.origin))
    }

    /// The same URL with one more parameter.
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(&encode(name));
        self.path.push('=');
        self.path.push_str(&encode(value));
        self
    }

    /// Without the query, in which services put signatures: fit for a message.
    pub fn shown(&self) -> String {
        format!("{}{}", self.origin, self.path.split('?').next().unwrap_or_default())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// Percent-encodes what is not unreserved.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A word from outside made fit for a message: escaped and cut.
pub(crate) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        cut.push('…');
    }
    cut
}

/// What an address is, as far as following a foreign URL to it is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// This machine.
    Loopback,
    /// This link: the address range in which clouds put their metadata services, too.
    Link,
    /// A metadata service with an address of its own.
    Metadata,
    /// Nothing that a URL may mean.
    Nowhere,
    /// Everything else.
    Ordinary,
}

/// Where `address` leads. An IPv4 address inside an IPv6 one is judged as what it is.
pub(crate) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => {
            let embedded = address.to_ipv4_mapped().or_else(|| nat64(address));
            if let Some(embedded) = embedded {
                return reach_v4(embedded);
            }
            if address.is_loopback() {
                Reach::Loopback
            } else if address.is_unicast_link_local() {
                Reach::Link
            } else if address.is_unspecified() || address.is_multicast() {
                Reach::Nowhere
            } else if address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
                Reach::Metadata
            } else {
                Reach::Ordinary
            }
        }
    }
}

/// RFC 6052's well-known prefix and 6to4: both carry an IPv4 address.
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let words = address.segments();
    let pair = match words {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    pair.map(|(high, low)| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    })
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    if address.is_loopback() {
        Reach::Loopback
    } else if address.is_link_local() {
        Reach::Link
    } else if matches!(address.octets(), [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192]) {
        Reach::Metadata
    } else if address.octets()[0] == 0 || address.is_multicast() || address.is_broadcast() {
        Reach::Nowhere
    } else {
        Reach::Ordinary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_strictly() {
        let url = Url::parse("HTTPS://Host.Example:8443/v2/?a=b#c").unwrap();
        assert_eq!(url.to_string(), "https://host.example:8443/v2/?a=b");
        assert_eq!(url.shown(), "https://host.example:8443/v2/");
        assert_eq!(Url::parse("http://[::1]:5000").unwrap().to_string(), "http://[::1]:5000/");
        assert_eq!(Url::parse("https://a:443/x").unwrap().to_string(), "https://a/x");
        for text in [
            "",
            "ftp://a/",
            "file:///etc/passwd",
            "https://",
            "https://user:pw@host/",
            "https://a b/",
            "https://a:99999/",
            "https://a:/",
            "https://a:0/",
            "https://[::1/",
            "http://a\nb/",
            "//host/x",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_location_is_seen_from_where_it_came() {
        let base = Url::parse("https://r.example/v2/a/blobs/uploads/?x=1").unwrap();
        for (location, means) in [
            ("/v2/b", "https://r.example/v2/b"),
            ("next?y=2", "https://r.example/v2/a/blobs/uploads/next?y=2"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("http://cdn.example/x", "http://cdn.example/x"),
            ("?z", "https://r.example/v2/a/blobs/uploads/?z"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), means);
        }
        assert!(base.join("gopher://x/").is_err());
        assert_eq!(base.with_parameter("digest", "sha256:ab").path, "/v2/a/blobs/uploads/?x=1&digest=sha256%3Aab");
    }

    #[test]
    fn addresses_that_no_foreign_url_may_reach_are_known() {
        for (address, expected) in [
            ("127.0.0.1", Reach::Loopback),
            ("127.9.9.9", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("64:ff9b::7f00:1", Reach::Loopback),
            ("2002:7f00:1::", Reach::Loopback),
            ("169.254.169.254", Reach::Link),
            ("::ffff:169.254.169.254", Reach::Link),
            ("fe80::1", Reach::Link),
            ("fd00:ec2::254", Reach::Metadata),
            ("100.100.100.200", Reach::Metadata),
            ("0.0.0.0", Reach::Nowhere),
            ("::", Reach::Nowhere),
            ("224.0.0.1", Reach::Nowhere),
            ("192.168.1.1", Reach::Ordinary),
            ("8.8.8.8", Reach::Ordinary),
        ] {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }
}
