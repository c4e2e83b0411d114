//! One request and its answer: connections per origin, time-outs, retries with back-off, bounded bodies.
//!
//! Redirects are not followed here; [`super::session`] does that by hand, because a secret must not go along.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use corten_types::{Context, Error, ErrorKind, Result};
use rustls::pki_types::CertificateDer;
use ureq::config::Config;
use ureq::http::{HeaderMap, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, NextTimeout, TcpConnector};
use ureq::{Agent, Body, SendBody};

use super::Options;
use super::certificates::{self, Certificates};
use super::resolve::Names;
use super::secret::Secret;
use super::tls::{self, Tls};
use super::url::{Origin, Reach, Scheme, Url, reach, shown};

/// Largest head of an answer, bytes.
const HEADER_SIZE_BYTES_MAX: usize = 64 * 1024;
/// Longest Retry-After that is waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Most of an error's body that is read, bytes.
const ERROR_SIZE_BYTES_MAX: u64 = 64 * 1024;
/// Most addresses of one host that ureq takes.
const ADDRESSES_MAX: usize = 16;

/// How a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What is sent along; each can be sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// A part of a file; the function hears of the bytes as they go.
    File {
        file: &'a File,
        offset: u64,
        size: u64,
        sent: Sent<'a>,
    },
}

/// Hears of bytes that went out.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a>(pub(crate) &'a (dyn Fn(u64) + Send + Sync));

impl std::fmt::Debug for Sent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sent")
    }
}

/// On whose word a request is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// The user named this origin.
    Named,
    /// A registry's answer names it: it leads to no address that only this machine can reach, except where the registry
    /// of this name is itself.
    Foreign(String),
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// `Authorization`; it goes to this URL and nowhere else.
    pub(crate) authorization: Option<Secret<String>>,
    pub(crate) payload: Payload<'a>,
    pub(crate) trust: Trust,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, payload: Payload::None, trust: Trust::Named }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) url: Url,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The whole body, where it is at most `size_bytes_max`.
    pub(crate) fn read(self, size_bytes_max: u64, what: &str) -> Result<Vec<u8>> {
        let url = self.url.shown();
        let too_large = || {
            let limit = if size_bytes_max >= 1 << 20 {
                format!("{} MiB", size_bytes_max >> 20)
            } else {
                format!("{} KiB", size_bytes_max >> 10)
            };
            Error::new(ErrorKind::Exhausted, format!("the {what} at `{url}` is larger than {limit}"))
        };
        if self.number("content-length").is_some_and(|length| length > size_bytes_max) {
            return Err(too_large());
        }
        let expected = self.number("content-length");
        let mut content = Vec::new();
        let mut reader = self.body.into_reader().take(size_bytes_max + 1);
        reader.read_to_end(&mut content).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("the {what} at `{url}` broke off")).caused_by(error)
        })?;
        if content.len() as u64 > size_bytes_max {
            return Err(too_large());
        }
        if expected.is_some_and(|expected| expected != content.len() as u64) {
            return Err(Error::new(ErrorKind::Internal, format!("the {what} at `{url}` broke off")));
        }
        Ok(content)
    }

    /// An answer that is an error, as one: the registry's own words with it.
    pub(crate) fn into_error(self, what: &str) -> Error {
        let (status, url) = (self.status, self.url.shown());
        let kind = match status {
            401 | 403 => ErrorKind::Denied,
            404 => ErrorKind::NotFound,
            405 | 501 => ErrorKind::Unsupported,
            400 | 413 | 416 => ErrorKind::Invalid,
            409 => ErrorKind::Conflict,
            429 => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        };
        let mut body = Vec::new();
        // Whatever came of it is enough for a message.
        let _read = self.body.into_reader().take(ERROR_SIZE_BYTES_MAX).read_to_end(&mut body);
        let words = error_words(&body).unwrap_or_else(|| reason(status).to_owned());
        Error::new(kind, what.to_owned()).caused_by(Error::new(kind, format!("{url} answered {status}: {words}")))
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "bad request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        413 => "too large",
        416 => "range not satisfiable",
        429 => "too many requests",
        500 => "internal server error",
        502 => "bad gateway",
        503 => "service unavailable",
        504 => "gateway time-out",
        _ => "not what was expected",
    }
}

/// The `code` and `message` of a registry's error, or a plain text that is short.
fn error_words(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        message: String,
    }
    let parsed: Body = serde_json::from_slice(body).ok()?;
    let words = parsed.errors.iter().take(3).map(|error| match (error.code.as_str(), error.message.as_str()) {
        (Some(code), "") => code.to_lowercase().replace('_', " "),
        (Some(code), message) => format!("{}: {message}", code.to_lowercase().replace('_', " ")),
        (None, message) => message.to_owned(),
    });
    let words: Vec<String> = words.filter(|words| !words.is_empty()).collect();
    let words = if words.is_empty() { parsed.details.or(parsed.message)? } else { words.join("; ") };
    Some(shown(&words))
}

/// Connections of one client.
#[derive(Debug)]
pub(crate) struct Transport {
    options: Options,
    names: OnceLock<Names>,
    agents: Mutex<HashMap<(Origin, Trust), Agent>>,
    system_roots: OnceLock<Vec<CertificateDer<'static>>>,
    pause: Pause,
}

/// Sleeping that an end of the work interrupts.
#[derive(Debug, Default)]
struct Pause {
    cancelled: Mutex<bool>,
    changed: Condvar,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            names: OnceLock::new(),
            agents: Mutex::default(),
            system_roots: OnceLock::new(),
            pause: Pause::default(),
        }
    }

    /// Ends every wait; what is tried again after this fails at once.
    pub(crate) fn cancel(&self) {
        *held(&self.pause.cancelled) = true;
        self.pause.changed.notify_all();
    }

    /// Waits, unless the work has been ended: `false`.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut cancelled = held(&self.pause.cancelled);
        while !*cancelled {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let (guard, _) = self.pause.changed.wait_timeout(cancelled, left).unwrap_or_else(PoisonError::into_inner);
            cancelled = guard;
        }
        false
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::load(&self.options.hosts, &self.options.resolv_conf))
    }

    /// Sends, and again after a lost connection or an answer that asks for patience.
    pub(crate) fn send(&self, call: &Call<'_>) -> Result<Answer> {
        let mut attempt = 0;
        // Of a file a part may have arrived: its sender asks how much before it goes on.
        let again = !matches!(call.payload, Payload::File { .. });
        loop {
            let result = self.send_once(call);
            let wait = match &result {
                Ok(answer) if is_busy(answer.status) => retry_after(answer),
                Err(failure) if failure.again => None,
                _ => return result.map_err(|failure| failure.error),
            };
            if !again || attempt >= self.options.retries || !self.wait(wait.unwrap_or_else(|| self.back_off(attempt))) {
                return result.map_err(|failure| failure.error);
            }
            attempt += 1;
        }
    }

    /// Doubles from the first wait on, with a part by chance so that many clients do not come back at once.
    pub(crate) fn back_off(&self, attempt: u32) -> Duration {
        let whole = self.options.retry_wait.saturating_mul(1 << attempt.min(8)).min(Duration::from_secs(20));
        let mut byte = [0u8; 1];
        // Without randomness the wait is only less spread.
        let _filled = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
        whole / 2 + whole * u32::from(byte[0]) / 512
    }

    /// Whether an origin answers at all, whatever it says.
    pub(crate) fn probe(&self, call: &Call<'_>) -> Result<()> {
        self.send_once(call).map(drop).map_err(|failure| failure.error)
    }

    fn send_once(&self, call: &Call<'_>) -> std::result::Result<Answer, Failure> {
        let final_failure = |error| Failure { error, again: false };
        let agent = self.agent(&call.url.origin, &call.trust).map_err(final_failure)?;
        let mut request = ureq::http::Request::builder().method(call.method.as_str()).uri(call.url.to_string());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = &call.authorization {
            request = request.header("Authorization", authorization.reveal());
        }
        let malformed = |_| final_failure(Error::invalid(format!("`{}` cannot be asked for", call.url.shown())));
        let result = match call.payload {
            Payload::None if matches!(call.method, Method::Get | Method::Head) => {
                agent.run(request.body(()).map_err(malformed)?)
            }
            Payload::None => agent.run(request.header("Content-Length", 0).body(()).map_err(malformed)?),
            Payload::Bytes(bytes) => agent.run(request.body(bytes).map_err(malformed)?),
            Payload::File { file, offset, size, sent } => {
                let request = request.header("Content-Length", size);
                let mut part = FilePart { file, offset, left: size, sent };
                agent.run(request.body(SendBody::from_reader(&mut part)).map_err(malformed)?)
            }
        };
        match result {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                Ok(Answer { url: call.url.clone(), status: parts.status.as_u16(), headers: parts.headers, body })
            }
            Err(error) => Err(self.failure(error, &call.url)),
        }
    }

    /// A request that got no answer, in words.
    fn failure(&self, error: ureq::Error, url: &Url) -> Failure {
        let headline = format!("cannot reach `{}`", url.origin);
        let failed = |cause: Error, again| Failure { error: cause.context(headline.clone()), again };
        let internal = |why: String| Error::new(ErrorKind::Internal, why);
        match error {
            ureq::Error::Other(inner) => match inner.downcast::<Error>() {
                Ok(inner) if inner.kind() == ErrorKind::Denied => Failure { error: *inner, again: false },
                Ok(inner) => {
                    let again = inner.kind() == ErrorKind::Internal;
                    failed(*inner, again)
                }
                Err(inner) => failed(internal(shown(&inner.to_string())), false),
            },
            ureq::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(inner) => {
                    failed(tls::failure(inner, &url.origin, &self.certificate_directory(&url.origin)), false)
                }
                // Nobody listens: waiting seldom helps, and a wrong name should be said at once.
                None => {
                    let again = error.kind() != io::ErrorKind::ConnectionRefused;
                    Failure { error: Error::new(ErrorKind::Internal, headline).caused_by(error), again }
                }
            },
            ureq::Error::Rustls(error) => {
                failed(tls::failure(&error, &url.origin, &self.certificate_directory(&url.origin)), false)
            }
            ureq::Error::Timeout(which) => {
                failed(internal(format!("nothing came within the time limit ({which})")), true)
            }
            ureq::Error::LargeResponseHeader(..) => {
                let message = format!("the head of the answer of `{}` is larger than 64 KiB", url.origin);
                Failure { error: Error::new(ErrorKind::Exhausted, message), again: false }
            }
            ureq::Error::ConnectProxyFailed(why) => {
                failed(internal(format!("the proxy refused: {}", shown(&why))), false)
            }
            other => {
                let again = matches!(other, ureq::Error::ConnectionFailed | ureq::Error::BodyStalled);
                failed(internal(shown(&other.to_string())), again)
            }
        }
    }

    fn agent(&self, origin: &Origin, trust: &Trust) -> Result<Agent> {
        let key = (origin.clone(), trust.clone());
        if let Some(agent) = held(&self.agents).get(&key) {
            return Ok(agent.clone());
        }
        let proxy = self.options.proxies.choose(origin)?;
        if let Trust::Foreign(registry) = trust {
            self.refuse_literal(origin, registry)?;
        }
        let guard = Guard {
            names: self.names().clone(),
            host: origin.host.clone(),
            registry: match trust {
                Trust::Named => None,
                // Through a proxy it is the proxy that looks names up.
                Trust::Foreign(_) if proxy.is_some() => None,
                Trust::Foreign(registry) => Some(registry.clone()),
            },
        };
        let options = &self.options;
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(options.user_agent.as_str())
            .accept_encoding("identity")
            .accept("*/*")
            .max_response_header_size(HEADER_SIZE_BYTES_MAX)
            .timeout_resolve(Some(options.connect_limit))
            .timeout_connect(Some(options.connect_limit))
            .timeout_per_read(Some(options.stall_limit))
            .timeout_per_write(Some(options.stall_limit))
            .max_idle_connections_per_host(8)
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(self.tls(origin)?);
        let agent = Agent::with_parts(config, connector, guard);
        held(&self.agents).insert(key, agent.clone());
        Ok(agent)
    }

    fn tls(&self, origin: &Origin) -> Result<Tls> {
        let own = match origin.scheme {
            Scheme::Http => Certificates::default(),
            Scheme::Https => Certificates::load(&self.options.certificate_directories, origin)?,
        };
        let system = self.system_roots.get_or_init(certificates::system_roots);
        let unverified = self.options.registries.is_insecure(&origin.authority());
        Tls::new(origin, own, system, unverified)
            .context(|| format!("cannot use the certificates for `{}`", origin.authority()))
    }

    /// Where certificates for an origin belong.
    fn certificate_directory(&self, origin: &Origin) -> String {
        let first = self.options.certificate_directories.first();
        let below = first.map_or_else(|| "certs.d".to_owned(), |directory| directory.display().to_string());
        format!("{below}/{}", origin.authority())
    }

    /// A foreign URL that names an address outright is judged even where a proxy would connect.
    fn refuse_literal(&self, origin: &Origin, registry: &str) -> Result<()> {
        let guard = Guard { names: self.names().clone(), host: origin.host.clone(), registry: Some(registry.into()) };
        let literal = origin.address().or_else(|| origin.is_local().then_some(IpAddr::from([127, 0, 0, 1])));
        match literal {
            Some(address) if !guard.allows(address) => Err(guard.refusal(address)),
            _ => Ok(()),
        }
    }
}

/// Looks names up, and keeps foreign URLs away from addresses that only this machine can reach. The connection goes to
/// the very addresses that were judged.
#[derive(Debug)]
struct Guard {
    names: Names,
    host: String,
    registry: Option<String>,
}

impl Guard {
    fn allows(&self, address: IpAddr) -> bool {
        let Some(registry) = &self.registry else { return true };
        let place = reach(address);
        if place == Reach::Ordinary {
            return true;
        }
        // A registry on this machine may send to this machine; one at a link-local address to itself alone.
        let its_own = self.names.resolve(registry).unwrap_or_default();
        match place {
            Reach::Loopback => its_own.iter().any(|own| reach(*own) == Reach::Loopback),
            _ => its_own.contains(&address),
        }
    }

    fn refusal(&self, address: IpAddr) -> Error {
        let (host, registry) = (shown(&self.host), shown(self.registry.as_deref().unwrap_or_default()));
        Error::new(ErrorKind::Denied, format!("registry `{registry}` sends to `{host}` ({address}), which is refused"))
            .hint("a registry may not send to loopback, link-local or metadata addresses; nothing was sent there")
    }
}

impl Resolver for Guard {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let addresses = self.names.resolve(&host).map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut resolved = self.empty();
        let mut refused = None;
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            // Another host is the proxy that the user chose.
            if host != self.host || self.allows(address) {
                resolved.push(SocketAddr::new(address, port));
            } else {
                refused = Some(address);
            }
        }
        match refused {
            Some(address) if resolved.is_empty() => Err(ureq::Error::Other(Box::new(self.refusal(address)))),
            _ => Ok(resolved),
        }
    }
}

/// A request that got no answer.
struct Failure {
    error: Error,
    /// Whether it may work the next time.
    again: bool,
}

fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(answer: &Answer) -> Option<Duration> {
    let value = answer.header("retry-after")?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(value).ok()?;
            let left = date.timestamp().duration_since(jiff::Timestamp::now());
            Duration::try_from(left).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Reads a part of a file without moving its place.
struct FilePart<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
    sent: Sent<'a>,
}

impl Read for FilePart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        (self.sent.0)(count as u64);
        Ok(count)
    }
}

/// Checks that an endpoint's name can be one, before anything is sent.
pub(crate) fn origin_of(scheme: Scheme, authority: &str) -> Result<Origin> {
    Origin::new(scheme, authority).context(|| format!("cannot use registry `{}`", shown(authority)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(registry: &str, host: &str) -> Guard {
        let hosts = "10.0.0.5 registry.test\n127.0.0.1 inside.test\n169.254.169.254 meta.test\n169.254.7.7 link.test";
        Guard { names: Names::parse(hosts, ""), host: host.into(), registry: Some(registry.into()) }
    }

    #[test]
    fn a_registry_elsewhere_sends_nobody_to_what_only_this_machine_reaches() {
        for (registry, host, allowed) in [
            ("registry.test", "registry.test", true),
            ("registry.test", "192.0.2.1", true),
            ("registry.test", "inside.test", false),
            ("registry.test", "127.0.0.1", false),
            ("registry.test", "::1", false),
            ("registry.test", "::ffff:127.0.0.1", false),
            ("registry.test", "meta.test", false),
            ("registry.test", "link.test", false),
            // One on this machine may send to this machine, not to the metadata service.
            ("inside.test", "127.0.0.1", true),
            ("inside.test", "meta.test", false),
            ("link.test", "link.test", true),
            ("link.test", "meta.test", false),
        ] {
            let guard = guard(registry, host);
            let addresses = guard.names.resolve(host).unwrap();
            assert_eq!(addresses.iter().all(|address| guard.allows(*address)), allowed, "{registry} to {host}");
        }
    }

    #[test]
    fn what_a_registry_asks_for_is_waited_for_within_limits() {
        let wait = |value: &str| {
            let headers = HeaderMap::from_iter([(ureq::http::header::RETRY_AFTER, value.parse().unwrap())]);
            let url = Url::parse("http://r.example/").unwrap();
            retry_after(&Answer { url, status: 429, headers, body: Body::builder().data("") })
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Wed, 21 Oct 2415 07:28:00 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("soon"), None);
    }
}
