//! A repository at one endpoint: requests are authorised as the registry asks, and redirects are followed by hand.
//!
//! What proves who one is belongs to an origin (scheme, host, port). It goes along with no redirect to another one.

use std::sync::PoisonError;
use std::time::Duration;

use corten_types::{Context, Error, ErrorKind, Result};

use super::Client;
use super::challenge::{self, Challenge};
use super::credentials::Login;
use super::registries::Endpoint;
use super::secret::Secret;
use super::token::{self, Granted, Wish};
use super::transport::{Answer, Call, Method, Trust};
use super::url::{Origin, Scheme, Url, shown};

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 8;

/// What one means to do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Pull.
    Read,
    /// Push and pull.
    Write,
    /// Delete, push and pull.
    Delete,
    /// Nothing in a repository: log in, search.
    Registry,
}

/// A repository at an endpoint. Shared by threads.
#[derive(Debug, Clone)]
pub struct Session<'c> {
    pub(crate) client: &'c Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) origin: Origin,
    /// `HOST[:PORT]` as the user wrote it: Docker Hub answers elsewhere.
    named: String,
    scopes: String,
    /// Whether tokens are asked for together with something to renew them.
    pub(crate) offline: bool,
}

/// What proves who one is to a registry.
#[derive(Debug)]
pub(crate) struct Proof {
    /// `Authorization`
    pub(crate) header: Secret<String>,
    /// How long it does.
    pub(crate) life: Option<Duration>,
    /// What the token service gives the next one for.
    pub(crate) refresh: Option<Secret<String>>,
}

impl Proof {
    fn lasting(header: Secret<String>) -> Self {
        Self { header, life: None, refresh: None }
    }
}

impl<'c> Session<'c> {
    /// A session; an insecure registry is asked which of https and http it speaks.
    pub(crate) fn open(client: &'c Client, endpoint: Endpoint, access: Access) -> Result<Self> {
        let named = match endpoint.authority.as_str() {
            "registry-1.docker.io" => "docker.io".to_owned(),
            other => other.to_owned(),
        };
        let origin = client.origin(&endpoint)?;
        let scopes = scope(&endpoint.repository, access);
        Ok(Self { client, endpoint, origin, named, scopes, offline: false })
    }

    /// The same, with leave to mount blobs of `repository`.
    #[must_use]
    pub(crate) fn with_source(mut self, repository: &str) -> Self {
        if repository != self.endpoint.repository {
            self.scopes = format!("{} {}", self.scopes, scope(repository, Access::Read));
        }
        self
    }

    /// `HOST[:PORT]` as the user wrote it.
    pub fn name(&self) -> &str {
        &self.named
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `/v2/REPOSITORY/REST` here.
    pub(crate) fn url(&self, rest: &str) -> Url {
        Url { origin: self.origin.clone(), path: format!("/v2/{}/{rest}", self.endpoint.repository) }
    }

    /// Sends with what the registry wants to see; follows redirects of GET and HEAD.
    pub(crate) fn send(&self, call: Call<'_>) -> Result<Answer> {
        let answer = self.authorised(call.clone())?;
        self.follow(call, answer)
    }

    fn authorised(&self, mut call: Call<'_>) -> Result<Answer> {
        let transport = &self.client.transport;
        if call.url.origin != self.origin {
            // Another host, named by an answer: it sees nothing that is the registry's.
            call.authorization = None;
            call.trust = Trust::Foreign(self.origin.host.clone());
            self.check_downgrade(&call.url)?;
            return transport.send(&call);
        }
        call.authorization = self.client.tokens.get(&self.origin, &self.scopes);
        let answer = transport.send(&call)?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let stale = call.authorization.take();
        let renewed = self.client.tokens.renew(&self.origin, &self.scopes, stale.as_ref(), || self.prove(&answer))?;
        call.authorization = Some(renewed);
        transport.send(&call)
    }

    /// What proves who one is, as the challenge asks.
    fn prove(&self, answer: &Answer) -> Result<(Secret<String>, Option<Duration>)> {
        let login = self.client.options().credentials.find(&format!("{}/{}", self.named, self.endpoint.repository))?;
        self.prove_with(answer, login.as_ref()).map(|proof| (proof.header, proof.life))
    }

    /// The same with a login of the caller's; the refresh token with it, where the service gave one.
    pub(crate) fn prove_with(&self, answer: &Answer, login: Option<&Login>) -> Result<Proof> {
        if let Some(Login::RegistryToken(token)) = login {
            return Ok(Proof::lasting(Secret::new(format!("Bearer {}", token.reveal()))));
        }
        let headers = answer.headers.get_all("www-authenticate").iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = headers.flat_map(challenge::parse).collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        if let Some(Challenge::Bearer { realm, service, scope, .. }) = bearer {
            let scopes = if self.scopes.is_empty() { scope.as_deref().unwrap_or_default() } else { &self.scopes };
            let offline = self.offline;
            let wish = Wish { realm, service: service.as_deref(), scopes, offline };
            let granted: Granted =
                token::ask(&self.client.transport, &self.origin, &self.endpoint, &self.named, wish, login)?;
            let refresh = granted.refresh.clone();
            let (header, life) = granted.kept();
            return Ok(Proof { header, life, refresh });
        }
        let asks_basic = challenges.contains(&Challenge::Basic);
        match login {
            Some(Login::Password { user, password }) if asks_basic => Ok(Proof::lasting(token::basic(user, password))),
            _ => {
                let why = if asks_basic { "it asks for a login" } else { "it asks for what Corten cannot give" };
                let login = format!("corten login {}", token::endpoint_name(&self.named));
                Err(Error::new(ErrorKind::Denied, format!("registry `{}` gives no access: {why}", self.named))
                    .hint(format!("log in: `{}`", login.trim_end())))
            }
        }
    }

    fn follow(&self, mut call: Call<'_>, mut answer: Answer) -> Result<Answer> {
        for _ in 0..REDIRECTS_MAX {
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308)
                || !matches!(call.method, Method::Get | Method::Head)
            {
                return Ok(answer);
            }
            let Some(location) = answer.header("location") else { return Ok(answer) };
            call.url = call.url.join(location).context(|| format!("registry `{}` redirects to nowhere", self.named))?;
            answer = self.authorised(call.clone())?;
        }
        let message = format!("registry `{}` redirects more than {REDIRECTS_MAX} times", self.named);
        Err(Error::new(ErrorKind::Exhausted, message))
    }

    /// What began over TLS stays over TLS.
    fn check_downgrade(&self, url: &Url) -> Result<()> {
        if self.origin.scheme == Scheme::Https && url.origin.scheme == Scheme::Http && !self.endpoint.insecure {
            let message = format!("registry `{}` sends to `{}`, in the clear", self.named, url.origin);
            return Err(Error::new(ErrorKind::Denied, message).hint("nothing was sent there"));
        }
        Ok(())
    }

    /// Where an upload goes on, as the registry's `Location` says.
    pub(crate) fn location(&self, answer: &Answer) -> Result<Url> {
        let location = answer.header("location").ok_or_else(|| {
            Error::invalid(format!("registry `{}` does not say where the upload goes on", self.named))
        })?;
        answer.url.join(location)
    }

    /// An error's headline in docker's words, where the repository is closed or missing.
    pub(crate) fn denied(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        let repository = shown(&self.endpoint.repository);
        error.context(format!("access to `{repository}` at `{}` is denied", self.named))
    }
}

impl Client {
    /// The origin of an endpoint.
    fn origin(&self, endpoint: &Endpoint) -> Result<Origin> {
        let https = endpoint.https()?;
        if !endpoint.insecure {
            return Ok(https);
        }
        let mut known = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = known.get(&endpoint.authority) {
            return Ok(origin.clone());
        }
        let ping = |origin: &Origin| {
            let url = Url { origin: origin.clone(), path: "/v2/".into() };
            self.transport.probe(&Call::new(Method::Get, url))
        };
        let origin = match ping(&https) {
            Ok(()) => https,
            Err(over_tls) => {
                let http = endpoint.http()?;
                ping(&http).map_err(|error| {
                    let refused = format!("with TLS: {}", over_tls.one_line());
                    error.hint(refused)
                })?;
                http
            }
        };
        known.insert(endpoint.authority.clone(), origin.clone());
        Ok(origin)
    }
}

/// `repository:NAME:ACTIONS`
fn scope(repository: &str, access: Access) -> String {
    match access {
        Access::Read => format!("repository:{repository}:pull"),
        Access::Write => format!("repository:{repository}:pull,push"),
        Access::Delete => format!("repository:{repository}:pull,push,delete"),
        Access::Registry => String::new(),
    }
}
