//! The client: from a reference to bytes and back.
//!
//! ```text
//! url, resolve, proxy, certificates, tls   where a request goes, and over what
//! transport                           one request and its answer: time-outs, retries, bounds
//! challenge, token, credentials, helper, login   who one is, and to whom that is told
//! session                             a repository at an endpoint: authorised, redirected by hand
//! registries                          mirrors, rewrites, short names
//! manifests, blob, transfer, upload   the protocol's nouns
//! pull, push                          from a registry into the store, and back
//! copy, layout, artifact, search      between registries, stores and directories; files; names
//! policy                              what must be signed, and by whom
//! ```
//!
//! Blocking, with threads where work is parallel. Everything a registry says is hostile: bounded, checked against digests,
//! and it never learns a secret that is not its own.

mod artifact;
mod blob;
mod certificates;
mod challenge;
mod copy;
pub mod credentials;
mod fetch;
pub mod helper;
mod layout;
pub mod lists;
mod login;
mod manifests;
pub mod policy;
mod progress;
pub mod proxy;
mod pull;
mod push;
pub mod registries;
mod resolve;
mod search;
pub mod secret;
mod session;
mod tls;
mod token;
mod transfer;
mod transport;
mod upload;
pub mod url;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use corten_types::{Reference, Result};

pub use artifact::{ArtifactFile, ArtifactRequest};
pub use blob::BlobReader;
pub use copy::{CopyRequest, Place};
pub use credentials::{Credentials, Login};
pub use manifests::{Fetched, digest_of};
pub use policy::Policy;
pub use progress::{Step, Watch};
pub use proxy::Proxies;
pub use pull::{Platforms, PullRequest, Pulled};
pub use push::{PushRequest, Pushed};
pub use registries::{Endpoint, Registries};
pub use search::SearchResult;
pub use secret::Secret;
pub use session::{Access, Session};
pub use transfer::Split;

/// What a client works with; the caller reads files and environment.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who one is, and where that is kept.
    pub credentials: Credentials,
    /// Mirrors, rewrites, short names.
    pub registries: Registries,
    /// `certs.d` directories, the first that has a registry counts.
    pub certificate_directories: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// Where names are looked up first, as /etc/hosts.
    pub hosts: PathBuf,
    /// Who is asked then, as /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// `User-Agent`.
    pub user_agent: String,
    /// How often a request is made again.
    pub retries: u32,
    /// The first wait before that; it doubles.
    pub retry_wait: Duration,
    /// Longest time for a connection.
    pub connect_limit: Duration,
    /// Longest time without a byte.
    pub stall_limit: Duration,
    /// When a blob is fetched in ranges.
    pub split: Split,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            registries: Registries::default(),
            certificate_directories: Vec::new(),
            proxies: Proxies::default(),
            hosts: PathBuf::from("/etc/hosts"),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            user_agent: format!("corten/{}", env!("CARGO_PKG_VERSION")),
            retries: 5,
            retry_wait: Duration::from_millis(250),
            connect_limit: Duration::from_secs(30),
            stall_limit: Duration::from_secs(60),
            split: Split::default(),
        }
    }
}

/// A client. Shared by threads; keeps connections and tokens.
#[derive(Debug)]
pub struct Client {
    transport: transport::Transport,
    tokens: token::Tokens,
    /// How each insecure registry turned out to speak.
    origins: Mutex<HashMap<String, url::Origin>>,
}

impl Client {
    /// A client that has asked for nothing yet.
    pub fn new(options: Options) -> Self {
        Self {
            transport: transport::Transport::new(options),
            tokens: token::Tokens::default(),
            origins: Mutex::default(),
        }
    }

    /// What it works with.
    pub fn options(&self) -> &Options {
        self.transport.options()
    }

    /// Ends every wait and every further attempt; for a user who gives up.
    pub fn cancel(&self) {
        self.transport.cancel();
    }

    /// The repository of `reference` at its registry, for pushes.
    pub fn registry(&self, reference: &Reference, access: Access) -> Result<Session<'_>> {
        Session::open(self, self.options().registries.registry(reference), access)
    }

    /// The first of the places of `reference` where `attempt` finds what it looks for. What goes wrong at a mirror is told
    /// only where the registry itself fails too.
    pub fn first_of<T>(
        &self,
        reference: &Reference,
        access: Access,
        mut attempt: impl FnMut(&Session<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut mirrors: Vec<String> = Vec::new();
        for endpoint in self.options().registries.endpoints(reference)? {
            let (mirror, authority) = (endpoint.mirror, endpoint.authority.clone());
            match Session::open(self, endpoint, access).and_then(|session| attempt(&session)) {
                Ok(found) => return Ok(found),
                Err(error) if mirror => mirrors.push(format!("mirror `{authority}`: {}", error.one_line())),
                Err(error) => return Err(mirrors.into_iter().fold(error, corten_types::Error::hint)),
            }
        }
        Err(corten_types::Error::invalid(format!("there is no place to fetch `{reference}` from")))
    }
}
