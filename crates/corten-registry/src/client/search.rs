//! Searching: what Docker Hub and registries that speak its old API offer.

use corten_types::{Context, Error, ErrorKind, Reference, Result};
use serde::Deserialize;

use super::Client;
use super::session::{Access, Session};
use super::transport::{Call, Method};
use super::url::Url;

/// Largest answer, bytes.
const ANSWER_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Where Docker Hub is searched.
const DOCKER_HUB: &str = "index.docker.io";

/// One repository that was found.
#[derive(Debug, Clone, Deserialize)]
pub struct SearchResult {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it says of itself.
    #[serde(default)]
    pub description: String,
    /// How many like it.
    #[serde(default)]
    pub star_count: u64,
    /// Docker's own choice.
    #[serde(default)]
    pub is_official: bool,
    /// Built by the registry (no more).
    #[serde(default)]
    pub is_automated: bool,
}

impl Client {
    /// Repositories whose name or description has `term`, which may start with a registry: `quay.io/term`.
    pub fn search(&self, term: &str, limit: u32) -> Result<Vec<SearchResult>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Vec<SearchResult>,
        }
        let (host, words) = match term.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("docker.io", term),
        };
        let some = Reference::parse(&format!("{host}/x"))?;
        let mut endpoint = self.options().registries.registry(&some);
        endpoint.repository.clear();
        if host == "docker.io" {
            DOCKER_HUB.clone_into(&mut endpoint.authority);
        }
        let what = || format!("cannot search `{host}`");
        let session = Session::open(self, endpoint, Access::Registry).context(what)?;
        let url = Url { origin: session.origin.clone(), path: "/v1/search".into() }
            .with_parameter("q", words)
            .with_parameter("n", &limit.to_string());
        let answer = session.send(Call::new(Method::Get, url)).context(what)?;
        match answer.status {
            200 => {}
            404 | 405 | 410 | 501 => {
                return Err(Error::new(ErrorKind::Unsupported, format!("registry `{host}` offers no search"))
                    .hint("search on its web page; its tags are pulled with `corten pull -a`"));
            }
            _ => return Err(answer.into_error(&what())),
        }
        let body = answer.read(ANSWER_SIZE_BYTES_MAX, "list of results").context(what)?;
        let found: Answer = serde_json::from_slice(&body).map_err(|_| {
            Error::new(ErrorKind::Unsupported, format!("registry `{host}` offers no search that Corten understands"))
        })?;
        let mut results = found.results;
        results.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(results)
    }
}
