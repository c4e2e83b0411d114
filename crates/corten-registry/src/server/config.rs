//! The server's configuration file, and what it decides. Every key is in docs/guides/registry.md.

mod units;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_types::{Context, Error, Reference, Result};
use serde::Deserialize;

pub use units::{ByteCount, Span};

/// Longest configuration file, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 1024 * 1024;
/// The port where an address names none, as docker-registry's.
const DEFAULT_PORT: u16 = 5000;

/// Everything that can be said in the configuration file; command-line flags override single fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `ADDRESS:PORT` or `unix:PATH`, each.
    pub listen: Vec<String>,
    /// Another address for `/metrics` alone, without authentication.
    pub metrics_listen: Option<String>,
    /// The registry's host (and port) in references: what a push is called in the store.
    pub name: Option<String>,
    /// A store of the server's own; without it, the engine's.
    pub data: Option<PathBuf>,
    /// Serve the engine's images by the names that they have, for reading. Without a word: yes, over the engine's store.
    pub share_images: Option<bool>,
    /// Refuse every write.
    pub read_only: bool,
    /// Refuse deletion.
    pub no_delete: bool,
    /// Serve everybody who reaches an address that is not this machine's alone, without authentication.
    pub allow_anonymous: bool,
    /// Serve such an address without TLS.
    pub allow_plain_http: bool,
    /// Certificate and key.
    pub tls: Option<Tls>,
    /// Who is who.
    pub auth: Auth,
    /// Who may do what; without any, everybody who is known may do everything.
    pub rights: Vec<Right>,
    /// Limits.
    pub limits: Limits,
    /// Quotas.
    pub quota: Quotas,
    /// Collection of what nobody needs.
    pub collection: Collection,
    /// Registries that are read through.
    pub upstream: Vec<Upstream>,
    /// The access log: a file's path or `-` for standard error; without it there is none.
    pub access_log: Option<String>,
    /// How long running requests are waited for at the end.
    pub stop_timeout: Option<Span>,
}

/// Certificate and key, PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Clients must show a certificate that one of these signed.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Who is who: by password or by token, not both.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// A file as `htpasswd -B` writes it.
    pub htpasswd: Option<PathBuf>,
    /// What a browser or client shows for the password.
    pub realm: Option<String>,
    /// Tokens of an authorization server.
    pub token: Option<Token>,
}

/// Tokens (RFC 7519) that an authorization server signs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Where a client gets a token.
    pub realm: String,
    /// This registry's name there: the token's `aud`.
    pub service: String,
    /// The authorization server's name: the token's `iss`.
    pub issuer: String,
    /// Its public keys or certificates, PEM.
    pub keys: Vec<PathBuf>,
}

/// What users may do in repositories.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// Names or patterns; `*` is every user with a password, `anonymous` is everybody without one.
    pub users: Vec<String>,
    /// Names or patterns: `*` within a part of the name, `**` across parts.
    pub repositories: Vec<String>,
    /// `pull`, `push`, `delete`.
    pub actions: Vec<Action>,
}

/// One thing to do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read manifests, blobs, tags.
    Pull,
    /// Write them.
    Push,
    /// Remove them.
    Delete,
}

impl Action {
    /// The word, as in a token's scope.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Limits on what one client can make the server do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; more wait.
    pub connections_max: usize,
    /// Requests that bring content, at once; more are told to come back.
    pub uploads_max: usize,
    /// Upload sessions that are open, in one repository and in all.
    pub sessions_max: usize,
    /// Largest blob.
    pub blob_size_max: ByteCount,
    /// Bytes of a request's headers.
    pub header_size_max: ByteCount,
    /// How long a client may be silent.
    pub idle_timeout: Span,
    /// Bytes a second that an upload must bring on average, after the first `idle_timeout`.
    pub upload_rate_min: ByteCount,
    /// How long an upload session is kept that nobody continues.
    pub session_timeout: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2048,
            uploads_max: 512,
            sessions_max: 4096,
            blob_size_max: ByteCount(100 << 30),
            header_size_max: ByteCount(32 << 10),
            idle_timeout: Span(Duration::from_secs(60)),
            upload_rate_min: ByteCount(1 << 10),
            session_timeout: Span(Duration::from_hours(24)),
        }
    }
}

/// Bytes that repositories may hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// All of them, each blob counted once.
    pub total: Option<ByteCount>,
    /// Single ones; the first pattern that fits counts.
    pub repository: Vec<RepositoryQuota>,
}

/// Bytes that a repository may hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryQuota {
    /// Names or patterns; each repository has the quota for itself.
    pub repositories: Vec<String>,
    /// The quota.
    pub size: ByteCount,
}

/// Collection of what nobody needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collection {
    /// How often; zero: never by itself.
    pub interval: Span,
    /// A blob that no manifest names is kept so long.
    pub grace: Span,
    /// A manifest that no tag, index or subject names is kept so long; without a word: for ever.
    pub untagged_after: Option<Span>,
}

impl Default for Collection {
    fn default() -> Self {
        Self { interval: Span(Duration::from_hours(1)), grace: Span(Duration::from_hours(24)), untagged_after: None }
    }
}

/// A registry that is read through.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Repositories below this name come from there: `docker.io` for `docker.io/library/debian`.
    pub prefix: String,
    /// The registry, as it stands in a reference: `docker.io`, `quay.io`, `localhost:5001`.
    pub registry: String,
    /// Speak to it without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// A file as docker's `config.json`, with the login there.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// How long what a tag means is believed without asking again.
    #[serde(default)]
    pub tags_valid_for: Option<Span>,
    /// Most bytes that are kept of it; what was not asked for the longest makes room.
    #[serde(default)]
    pub size_max: Option<ByteCount>,
    /// What nobody asked for this long goes.
    #[serde(default)]
    pub unused_after: Option<Span>,
}

impl Config {
    /// Parses the file's content.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            let at = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
            Error::invalid(format!("line {at}: {}", error.message()))
                .hint("docs/guides/registry.md lists the keys of the registry's configuration")
        })
    }

    /// Reads the file at `path`; relative paths in it start at its directory.
    pub fn load(path: &Path) -> Result<Self> {
        let named = || format!("cannot read the registry's configuration `{}`", path.display());
        let bytes = corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX).context(named)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::invalid("it is not UTF-8")).context(named)?;
        let mut config = Self::parse(&text).context(named)?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("/")));
        Ok(config)
    }

    /// Makes relative paths absolute.
    fn resolve_paths(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        self.data.as_mut().map(resolve);
        self.auth.htpasswd.as_mut().map(resolve);
        if let Some(tls) = &mut self.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
            tls.client_ca.as_mut().map(resolve);
        }
        if let Some(token) = &mut self.auth.token {
            token.keys.iter_mut().for_each(resolve);
        }
        for upstream in &mut self.upstream {
            upstream.credentials.as_mut().map(resolve);
        }
        if let Some(log) = self.access_log.as_mut().filter(|log| *log != "-") {
            *log = base.join(&*log).to_string_lossy().into_owned();
        }
    }

    /// The addresses, resolved.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        if self.listen.is_empty() {
            return Ok(vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]);
        }
        let parsed: Result<Vec<Vec<Address>>> = self.listen.iter().map(|text| Address::parse(text)).collect();
        Ok(parsed?.into_iter().flatten().collect())
    }

    /// Refuses what contradicts itself, or what opens more than was said in so many words.
    pub fn check(&self) -> Result<()> {
        if self.auth.htpasswd.is_some() && self.auth.token.is_some() {
            return Err(Error::invalid("both passwords (`htpasswd`) and tokens (`auth.token`) are configured")
                .hint("choose one: a client can follow one challenge only"));
        }
        let has_auth = self.auth.htpasswd.is_some() || self.auth.token.is_some();
        let addresses = self.addresses()?;
        if let Some(open) = addresses.iter().find(|address| !address.is_this_machine_s()) {
            if !has_auth && !self.allow_anonymous && self.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
                return Err(Error::invalid(format!(
                    "`{open}` can be reached by other machines, and nothing says who may"
                ))
                .hint("name a password file with `--htpasswd FILE`, or say `--allow-anonymous` to serve everybody"));
            }
            if self.tls.is_none() && !self.allow_plain_http {
                return Err(Error::invalid(format!("`{open}` can be reached by other machines, and there is no TLS"))
                    .hint("`--tls-cert FILE --tls-key FILE`, or `--allow-plain-http` where a proxy in front has it"));
            }
        }
        if !has_auth && !self.rights.is_empty() {
            return Err(Error::invalid("`rights` are configured, but nothing says who is who")
                .hint("name a password file: `[auth] htpasswd = \"FILE\"`"));
        }
        if self.auth.token.is_some() && !self.rights.is_empty() {
            return Err(Error::invalid("`rights` are configured beside tokens, which carry their own")
                .hint("leave the rights to the authorization server"));
        }
        for right in &self.rights {
            if right.users.is_empty() || right.repositories.is_empty() || right.actions.is_empty() {
                return Err(Error::invalid("an entry of `rights` names no users, no repositories or no actions"));
            }
        }
        for upstream in &self.upstream {
            upstream.check()?;
        }
        if let Some(name) = &self.name {
            let fits = Reference::parse_name(&format!("{name}/x")).is_ok_and(|parsed| parsed.domain() == name);
            if !fits || name == "docker.io" {
                return Err(Error::invalid(format!("`{name}` is not a registry's name"))
                    .hint("a name reads `HOST[:PORT]`, with a dot or a port, or `localhost`"));
            }
        }
        Ok(())
    }

    /// What the registry is called in references: as told; `localhost` in a store of its own; else by its address.
    pub fn registry_name(&self, addresses: &[Address]) -> Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        if self.data.is_some() {
            return Ok("localhost".to_owned());
        }
        let tcp = addresses.iter().find_map(|address| match address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        });
        match tcp {
            Some(address) if address.ip().is_loopback() => Ok(format!("localhost:{}", address.port())),
            Some(address) if !address.ip().is_unspecified() => Ok(address.to_string()),
            Some(address) => Err(Error::invalid(format!("nothing says what the registry at `{address}` is called"))
                .hint(format!("`--name HOST:{}`, as clients will write it", address.port()))),
            None => Ok("localhost".to_owned()),
        }
    }
}

impl Upstream {
    fn check(&self) -> Result<()> {
        let wrong =
            |what: &str, value: &str| Error::invalid(format!("`{what} = \"{value}\"` of an upstream is not right"));
        let parsed = Reference::parse_name(&format!("registry.invalid/{}/x", self.prefix));
        if parsed.is_err() || self.prefix.contains([':', '@']) {
            return Err(wrong("prefix", &self.prefix).hint("it is the start of a repository's name: `docker.io`"));
        }
        if Reference::parse_name(&format!("{}/x/y", self.registry)).is_ok_and(|parsed| parsed.domain() == self.registry)
        {
            return Ok(());
        }
        Err(wrong("registry", &self.registry).hint("it is a registry's host: `docker.io`, `quay.io`, `localhost:5001`"))
    }
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// Reads `HOST:PORT`, `:PORT`, `PORT`, `HOST` or `unix:PATH`; a name may have several addresses.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        let wrong = || {
            Error::invalid(format!("`{text}` is not an address to listen on"))
                .hint("`127.0.0.1:5000`, `[::1]:5000`, `:5000` for every address, or `unix:/run/registry.sock`")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(vec![Self::Unix(path.into())]) } else { Err(wrong()) };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(vec![Self::Tcp(address)]);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![Self::Tcp((address, DEFAULT_PORT).into())]);
        }
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            return Ok(vec![Self::Tcp((IpAddr::from([0, 0, 0, 0]), port).into())]);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (text, DEFAULT_PORT),
        };
        if host == "localhost" {
            return Ok(vec![Self::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))]);
        }
        Err(wrong())
    }

    /// Whether other machines cannot reach it.
    fn is_this_machine_s(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    #[test]
    fn a_whole_file_is_read() {
        let config = config(
            r#"
            listen = ["127.0.0.1:5001", "unix:/run/r.sock"]
            [auth]
            htpasswd = "users"
            [[rights]]
            users = ["ci-*"]
            repositories = ["team/**"]
            actions = ["pull", "push"]
            [limits]
            blob_size_max = "1GiB"
            idle_timeout = "5s"
            [quota]
            total = "10GB"
            [[quota.repository]]
            repositories = ["**"]
            size = 1000
            [collection]
            interval = "0s"
            untagged_after = "30d"
            [[upstream]]
            prefix = "docker.io"
            registry = "docker.io"
            "#,
        );
        config.check().unwrap();
        assert_eq!(config.addresses().unwrap().len(), 2);
        assert_eq!(config.limits.blob_size_max.0, 1 << 30);
        assert_eq!(config.quota.total.unwrap().0, 10_000_000_000);
        assert_eq!(config.rights[0].actions, [Action::Pull, Action::Push]);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = Config::parse("listen = []\nlisen = []\n").unwrap_err();
        assert!(error.message().contains("line 2") && error.message().contains("lisen"), "{}", error.message());
    }

    #[test]
    fn other_machines_are_served_only_where_that_was_said() {
        for (text, why) in [
            ("listen = [\":5000\"]", "nothing says who may"),
            ("listen = [\":5000\"]\nallow_anonymous = true", "no TLS"),
            ("listen = [\":5000\"]\n[auth]\nhtpasswd = \"x\"", "no TLS"),
            ("[[rights]]\nusers=[\"a\"]\nrepositories=[\"a\"]\nactions=[\"pull\"]", "who is who"),
            ("name = \"no/name\"", "not a registry's name"),
            ("name = \"word\"", "not a registry's name"),
            ("[[upstream]]\nprefix = \"A\"\nregistry = \"docker.io\"", "`prefix"),
            ("[[upstream]]\nprefix = \"a\"\nregistry = \"http://x\"", "`registry"),
        ] {
            let error = config(text).check().unwrap_err();
            assert!(error.message().contains(why), "{text}: {}", error.message());
        }
        for text in [
            "",
            "listen = [\"127.0.0.1:1\", \"[::1]:1\", \"localhost:1\", \"unix:/x\"]",
            "listen = [\":5000\"]\nallow_anonymous = true\nallow_plain_http = true",
        ] {
            config(text).check().unwrap();
        }
    }

    #[test]
    fn the_registry_is_called_as_clients_call_it() {
        let called = |text: &str| {
            let config = config(text);
            config.registry_name(&config.addresses().unwrap())
        };
        assert_eq!(called("").unwrap(), "localhost:5000");
        assert_eq!(called("data = \"/x\"").unwrap(), "localhost");
        assert_eq!(called("name = \"r.example:5\"").unwrap(), "r.example:5");
        assert_eq!(called("listen = [\"192.0.2.1:80\"]").unwrap(), "192.0.2.1:80");
        assert!(called("listen = [\":80\"]").is_err());
    }
}
