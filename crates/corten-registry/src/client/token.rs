//! Tokens: what was got from whom, for what, and until when.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use corten_types::{Context, Error, ErrorKind, Result};
use serde::Deserialize;

use super::credentials::Login;
use super::registries::Endpoint;
use super::secret::Secret;
use super::transport::{Answer, Call, Method, Payload, Transport, Trust};
use super::url::{Origin, Scheme, Url, encode, shown};

/// Largest reply of a token service, bytes.
const REPLY_SIZE_BYTES_MAX: u64 = 1024 * 1024;
/// Longest token that is sent, bytes.
const TOKEN_LENGTH_MAX: usize = 32 * 1024;
/// A token's life where its service names none (the token specification's own number).
const LIFE_DEFAULT_SECONDS: u64 = 60;
/// A token this close to its end is not used any more.
const MARGIN: Duration = Duration::from_secs(5);
/// Who Corten says it is to OAuth 2.
const CLIENT_ID: &str = "corten";

/// Parents and siblings that are known to serve tokens for a registry: (registry, token service).
const KNOWN: &[(&str, &str)] = &[("registry.gitlab.com", "gitlab.com")];

/// What proves who one is, by registry and scope.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    kept: Mutex<HashMap<(Origin, String), Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    header: Secret<String>,
    until: Option<Instant>,
}

/// What a token service is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
    /// Separated by spaces.
    pub(crate) scopes: &'a str,
    /// Whether something to renew it with is wanted, too.
    pub(crate) offline: bool,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// A token service's reply, checked.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) header: Secret<String>,
    pub(crate) refresh: Option<Secret<String>>,
    life: Duration,
}

impl Tokens {
    /// What to send to `origin` for `scopes`, where it is known and still good.
    pub(crate) fn get(&self, origin: &Origin, scopes: &str) -> Option<Secret<String>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(&(origin.clone(), scopes.to_owned()))?;
        found.until.is_none_or(|until| Instant::now() < until).then(|| found.header.clone())
    }

    /// Keeps the answer of `ask`, unless somebody else was faster: `stale` is what was just refused.
    pub(crate) fn renew(
        &self,
        origin: &Origin,
        scopes: &str,
        stale: Option<&Secret<String>>,
        ask: impl FnOnce() -> Result<(Secret<String>, Option<Duration>)>,
    ) -> Result<Secret<String>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (origin.clone(), scopes.to_owned());
        if let Some(found) = kept.get(&key)
            && stale != Some(&found.header)
            && found.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(found.header.clone());
        }
        // Held while asking: of many threads with an old token, one asks.
        let (header, life) = ask()?;
        let until = life.map(|life| Instant::now() + life);
        kept.insert(key, Kept { header: header.clone(), until });
        Ok(header)
    }
}

impl Granted {
    /// The header, and how long it may be used.
    pub(crate) fn kept(self) -> (Secret<String>, Option<Duration>) {
        // Nine tenths, so that a request that starts late in a token's life still ends in it.
        (self.header, Some((self.life * 9 / 10).max(MARGIN)))
    }
}

/// The header of basic authentication.
pub(crate) fn basic(user: &str, password: &Secret<String>) -> Secret<String> {
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

/// A token, told the login only where `realm` may know it.
pub(crate) fn ask(
    transport: &Transport,
    registry: &Origin,
    endpoint: &Endpoint,
    named: &str,
    wish: Wish<'_>,
    login: Option<&Login>,
) -> Result<Granted> {
    let (realm, is_named) = check_realm(registry, endpoint, named, wish.realm, login.is_some())?;
    let trust = if is_named { Trust::Named } else { Trust::Foreign(registry.host.clone()) };
    let what = || format!("cannot get a token from `{}`", realm.shown());
    let answer = match login {
        Some(Login::IdentityToken(refresh)) => post(
            transport,
            &realm,
            trust,
            wish,
            &[("grant_type", "refresh_token"), ("refresh_token", refresh.reveal())],
        )
        .context(what)?,
        Some(Login::Password { user, password }) => {
            let answer = get(transport, &realm, trust.clone(), wish, Some((user, password))).context(what)?;
            // A service that knows OAuth 2 alone.
            if matches!(answer.status, 404 | 405) {
                let form = [("grant_type", "password"), ("username", user), ("password", password.reveal())];
                post(transport, &realm, trust, wish, &form).context(what)?
            } else {
                answer
            }
        }
        Some(Login::RegistryToken(_)) | None => get(transport, &realm, trust, wish, None).context(what)?,
    };
    if answer.status != 200 {
        let error = answer.into_error(&what());
        let hint = format!("log in: `corten login {}`", endpoint_name(named));
        return Err(if error.kind() == ErrorKind::Denied { error.hint(hint) } else { error });
    }
    let body = answer.read(REPLY_SIZE_BYTES_MAX, "reply of the token service")?;
    granted(&body).context(what)
}

/// The registry as `login` names it.
pub(crate) fn endpoint_name(named: &str) -> &str {
    if named == "docker.io" { "" } else { named }
}

/// Whether a token service may be asked at all, and whether it belongs to the registry: only then it sees a login.
fn check_realm(
    registry: &Origin,
    endpoint: &Endpoint,
    named: &str,
    realm: &str,
    with_login: bool,
) -> Result<(Url, bool)> {
    let url = Url::parse(realm).context(|| format!("registry `{registry}` names no usable token service"))?;
    let same_host = url.origin.host == registry.host;
    if url.origin.scheme == Scheme::Http && (registry.scheme == Scheme::Https || !same_host) {
        let message = format!("registry `{registry}` wants a token from `{}`, in the clear", url.origin);
        return Err(Error::new(ErrorKind::Denied, message).hint("nothing was sent; a token service must be https"));
    }
    if same_host || belongs(&url.origin.host, registry, endpoint, named) {
        return Ok((url, true));
    }
    if with_login {
        let message = format!("registry `{registry}` wants the login sent to `{}`, which is not its own", url.origin);
        return Err(Error::new(ErrorKind::Denied, message).hint(format!(
            "nothing was sent; if you trust it, say `token-hosts = [\"{}\"]` for `{}` in registries.conf",
            shown(&url.origin.host),
            endpoint.authority
        )));
    }
    Ok((url, false))
}

/// A token service belongs to a registry where it is a host below the name that the user wrote, or was said to.
fn belongs(host: &str, registry: &Origin, endpoint: &Endpoint, named: &str) -> bool {
    let domain = named.split(':').next().unwrap_or_default();
    // An address or a name of one word has nothing below it that is its own.
    let below = |domain: &str| {
        domain.contains('.')
            && domain.parse::<std::net::IpAddr>().is_err()
            && host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    (!endpoint.mirror && below(domain))
        || below(&registry.host)
        || endpoint.token_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
        || KNOWN.contains(&(registry.host.as_str(), host))
}

fn get(
    transport: &Transport,
    realm: &Url,
    trust: Trust,
    wish: Wish<'_>,
    login: Option<(&String, &Secret<String>)>,
) -> Result<Answer> {
    let mut url = realm.clone();
    if let Some(service) = wish.service {
        url = url.with_parameter("service", service);
    }
    for scope in wish.scopes.split(' ').filter(|scope| !scope.is_empty()) {
        url = url.with_parameter("scope", scope);
    }
    if let Some((user, _)) = login {
        url = url.with_parameter("account", user);
        url = url.with_parameter("client_id", CLIENT_ID);
        if wish.offline {
            url = url.with_parameter("offline_token", "true");
        }
    }
    let mut call = Call::new(Method::Get, url);
    call.trust = trust;
    call.authorization = login.map(|(user, password)| basic(user, password));
    transport.send(&call)
}

fn post(transport: &Transport, realm: &Url, trust: Trust, wish: Wish<'_>, grant: &[(&str, &str)]) -> Result<Answer> {
    let service = wish.service.unwrap_or_default();
    let access = if wish.offline { "offline" } else { "" };
    let common = [("access_type", access), ("service", service), ("client_id", CLIENT_ID), ("scope", wish.scopes)];
    let fields: Vec<String> = grant
        .iter()
        .chain(&common)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    let form = fields.join("&");
    let mut call = Call::new(Method::Post, realm.clone())
        .header("Content-Type", "application/x-www-form-urlencoded")
        .payload(Payload::Bytes(form.as_bytes()));
    call.trust = trust;
    transport.send(&call)
}

fn granted(body: &[u8]) -> Result<Granted> {
    // The parser's message could quote the token.
    let wrong = |why: &str| Error::invalid(format!("the token service's reply {why}"));
    let reply: Reply = serde_json::from_slice(body).map_err(|_| wrong("is not what the specification asks for"))?;
    let token = reply.token.filter(|token| !token.is_empty()).or(reply.access_token).unwrap_or_default();
    if token.is_empty() {
        return Err(wrong("has no token"));
    }
    if token.len() > TOKEN_LENGTH_MAX || token.bytes().any(|byte| !(0x21..=0x7e).contains(&byte)) {
        return Err(wrong("has a token that cannot be sent"));
    }
    Ok(Granted {
        header: Secret::new(format!("Bearer {token}")),
        refresh: reply.refresh_token.filter(|token| !token.is_empty()).map(Secret::new),
        life: Duration::from_secs(reply.expires_in.unwrap_or(LIFE_DEFAULT_SECONDS).clamp(1, 7 * 86_400)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(registry: &str, named: &str, realm: &str, with_login: bool) -> Result<bool> {
        let origin = Url::parse(registry).unwrap().origin;
        let endpoint = Endpoint {
            authority: origin.authority(),
            repository: "a".into(),
            insecure: false,
            mirror: false,
            token_hosts: vec!["said.example".into()],
        };
        check_realm(&origin, &endpoint, named, realm, with_login).map(|(_, own)| own)
    }

    #[test]
    fn a_login_goes_to_the_registry_s_own_token_service_alone() {
        for (registry, named, realm) in [
            ("https://registry-1.docker.io", "docker.io", "https://auth.docker.io/token"),
            ("https://r.example", "r.example", "https://r.example/token"),
            ("https://r.example", "r.example", "https://r.example:8443/token"),
            ("https://r.example", "r.example", "https://auth.r.example/token"),
            ("https://r.example", "r.example", "https://said.example/token"),
            ("https://registry.gitlab.com", "registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("http://localhost:5000", "localhost:5000", "http://localhost:5001/token"),
        ] {
            assert!(check(registry, named, realm, true).unwrap(), "{registry} {realm}");
        }
        for (registry, named, realm) in [
            ("https://r.example", "r.example", "https://evil.test/token"),
            ("https://r.example", "r.example", "https://evilr.example/token"),
            ("https://r.example", "r.example", "https://example/token"),
            ("https://r.example", "r.example", "https://other.example/token"),
            ("https://r.example", "r.example", "http://r.example/token"),
            ("http://localhost:5000", "localhost:5000", "http://evil.test/token"),
            ("https://10.0.0.1", "10.0.0.1", "https://x.10.0.0.1/token"),
            ("https://r.example", "r.example", "https://r.example@evil.test/token"),
            ("https://r.example", "r.example", "file:///etc/shadow"),
        ] {
            assert!(check(registry, named, realm, true).is_err(), "{registry} {realm}");
        }
        assert!(!check("https://r.example", "r.example", "https://evil.test/token", false).unwrap());
    }

    #[test]
    fn a_reply_is_checked_and_never_quoted() {
        let granted = |text: &str| super::granted(text.as_bytes());
        assert_eq!(granted(r#"{"token":"t","access_token":"u"}"#).unwrap().header.reveal(), "Bearer t");
        assert_eq!(granted(r#"{"access_token":"u","expires_in":10}"#).unwrap().life, Duration::from_secs(10));
        for text in ["", "{}", r#"{"token":"hush\r\nX: y"}"#, r#"{"token":["hush"]}"#] {
            let error = granted(text).unwrap_err().report();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn one_of_many_threads_renews_a_token() {
        let (tokens, asked) = (Tokens::default(), std::sync::atomic::AtomicU32::new(0));
        let origin = Origin::new(Scheme::Https, "r.example").unwrap();
        let stale = Secret::new("old".to_owned());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let renewed = tokens.renew(&origin, "s", Some(&stale), || {
                        asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok((Secret::new("new".to_owned()), None))
                    });
                    assert_eq!(renewed.unwrap().reveal(), "new");
                });
            }
        });
        assert_eq!(asked.into_inner(), 1);
    }
}
