//! Where a reference is fetched from: mirrors, rewrites, insecure and blocked registries, for any registry. The format is
//! containers-registries.conf(5), version 2.
//!
//! Corten's own file decides everything. Where there is none, the file of podman and its kin is read for its
//! `[[registry]]` tables alone: short names then mean what docker means by them, whatever that file says.

use std::collections::BTreeMap;

use corten_types::{Error, ErrorKind, Reference, Result};
use serde::Deserialize;

use super::transport::origin_of;
use super::url::{Origin, Scheme};

/// Where Docker Hub's registry answers.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Most registries that a short name is looked for in.
const SEARCH_MAX: usize = 8;

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    rules: Vec<Rule>,
    aliases: BTreeMap<String, String>,
    search: Vec<String>,
    /// `--mirror`: tried before all else.
    mirrors: Vec<Place>,
    /// `--tls-verify=false`.
    all_insecure: bool,
}

/// A `[[registry]]`.
#[derive(Debug, Clone)]
struct Rule {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Place>,
    by_digest_only: bool,
    token_hosts: Vec<String>,
}

/// `HOST[:PORT][/PATH]`, and how to speak to it.
#[derive(Debug, Clone)]
struct Place {
    location: String,
    insecure: bool,
    wants: Wants,
    /// What it stands for; empty: the repository keeps its whole path.
    by_prefix: bool,
}

/// For which references a mirror is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    All,
    Digests,
    Tags,
}

/// One place to ask for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `HOST[:PORT]`
    pub authority: String,
    /// The repository there.
    pub repository: String,
    /// TLS is not verified, and plain HTTP is tried where TLS fails.
    pub insecure: bool,
    /// Not the registry itself.
    pub mirror: bool,
    /// Further hosts whose token service may see this registry's credentials.
    pub token_hosts: Vec<String>,
}

impl Endpoint {
    /// The registry over TLS.
    pub(crate) fn https(&self) -> Result<Origin> {
        origin_of(Scheme::Https, &self.authority)
    }

    /// The registry in the clear.
    pub(crate) fn http(&self) -> Result<Origin> {
        origin_of(Scheme::Http, &self.authority)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    unqualified_search_registries: Vec<String>,
    #[serde(default)]
    registry: Vec<RegistryTable>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1 had tables here.
    #[serde(default)]
    registries: Option<toml::Table>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    token_hosts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

impl Registries {
    /// Adds what `text` says; a later text wins where both name a prefix. `name` is for messages.
    pub fn add(&mut self, text: &str, name: &str, with_short_names: bool) -> Result<()> {
        let wrong = |why: String| Error::invalid(format!("cannot read `{name}`: {why}"));
        let file: File = toml::from_str(text).map_err(|error| wrong(error.message().to_owned()))?;
        if file.registries.is_some() {
            return Err(wrong("it is of version 1".into()).hint("version 2 has `[[registry]]` tables"));
        }
        for table in file.registry {
            let rule = Rule::new(table).map_err(wrong)?;
            self.rules.retain(|known| known.prefix != rule.prefix);
            self.rules.push(rule);
        }
        // The longest prefix counts.
        self.rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        if with_short_names {
            self.aliases.extend(file.aliases);
            if !file.unqualified_search_registries.is_empty() {
                self.search = file.unqualified_search_registries;
                self.search.truncate(SEARCH_MAX);
            }
        }
        Ok(())
    }

    /// Asks `url` (`[http[s]://]HOST[:PORT][/PATH]`) before everything else.
    pub fn add_mirror(&mut self, url: &str) -> Result<()> {
        let (location, insecure) = match url.split_once("://") {
            Some(("http", rest)) => (rest, true),
            Some(("https", rest)) => (rest, false),
            Some(_) => {
                return Err(Error::invalid(format!("the mirror `{url}` is neither http nor https")));
            }
            None => (url, false),
        };
        let location = location.trim_end_matches('/').to_owned();
        origin_of(Scheme::Https, location.split('/').next().unwrap_or_default())?;
        self.mirrors.push(Place { location, insecure, wants: Wants::All, by_prefix: false });
        Ok(())
    }

    /// Verifies no certificate, and falls back to plain HTTP, for every registry.
    pub fn allow_insecure(&mut self) {
        self.all_insecure = true;
    }

    /// Whether certificates of `authority` go unverified.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let host_of = |location: &str| location.split('/').next().unwrap_or_default().to_owned();
        let same = |place: &Place| place.insecure && host_of(&place.location) == authority;
        self.all_insecure
            || Origin::new(Scheme::Https, authority).is_ok_and(|origin| origin.is_local())
            || self.mirrors.iter().any(same)
            || self
                .rules
                .iter()
                .any(|rule| (rule.insecure && host_of(&rule.location) == authority) || rule.mirrors.iter().any(same))
    }

    /// What a name without a registry may mean, in order: an alias, the registries to search, or Docker Hub.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>> {
        let whole = Reference::parse(name)?;
        let first = name.split('/').next().unwrap_or_default();
        let has_registry =
            name.contains('/') && (first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase());
        if has_registry || (self.aliases.is_empty() && self.search.is_empty()) {
            return Ok(vec![whole]);
        }
        let end = name.find(['@', ':']).unwrap_or(name.len());
        let (bare, suffix) = name.split_at(end);
        if let Some(alias) = self.aliases.get(bare).filter(|alias| !alias.is_empty()) {
            return Ok(vec![Reference::parse(&format!("{alias}{suffix}"))?]);
        }
        if self.search.is_empty() {
            return Ok(vec![whole]);
        }
        self.search.iter().map(|registry| Reference::parse(&format!("{registry}/{name}"))).collect()
    }

    /// The places to pull `reference` from, in order; the registry itself comes last.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let repository = reference.repository();
        let mut found: Vec<Endpoint> = self.mirrors.iter().map(|place| place.endpoint(reference, "", true)).collect();
        let rule = self.rule(&repository);
        if let Some(rule) = rule {
            if rule.blocked {
                let message = format!("registry `{}` is blocked", rule.prefix);
                return Err(Error::new(ErrorKind::Denied, message).hint("registries.conf says `blocked = true`"));
            }
            let by_digest = reference.digest().is_some();
            let fits = |place: &&Place| match place.wants {
                Wants::All => by_digest || !rule.by_digest_only,
                Wants::Digests => by_digest,
                Wants::Tags => !by_digest,
            };
            found.extend(rule.mirrors.iter().filter(fits).map(|place| place.endpoint(reference, &rule.prefix, true)));
        }
        found.push(self.registry(reference));
        for endpoint in &mut found {
            endpoint.insecure |= self.is_insecure(&endpoint.authority);
            endpoint.https()?;
        }
        Ok(found)
    }

    /// The registry itself: where pushes go.
    pub fn registry(&self, reference: &Reference) -> Endpoint {
        let repository = reference.repository();
        let mut endpoint = match self.rule(&repository) {
            Some(rule) => {
                let place = Place {
                    location: rule.location.clone(),
                    insecure: rule.insecure,
                    wants: Wants::All,
                    by_prefix: true,
                };
                Endpoint { token_hosts: rule.token_hosts.clone(), ..place.endpoint(reference, &rule.prefix, false) }
            }
            None => Endpoint {
                authority: reference.domain().to_owned(),
                repository: reference.path().to_owned(),
                insecure: false,
                mirror: false,
                token_hosts: Vec::new(),
            },
        };
        if endpoint.authority == DOCKER_HUB {
            DOCKER_HUB_HOST.clone_into(&mut endpoint.authority);
        }
        endpoint.insecure |= self.is_insecure(&endpoint.authority);
        endpoint
    }

    fn rule(&self, repository: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(repository))
    }
}

impl Rule {
    fn new(table: RegistryTable) -> Result<Self, String> {
        let trim = |text: String| text.trim_end_matches('/').to_owned();
        let (mut prefix, mut location) = (trim(table.prefix), trim(table.location));
        if prefix.is_empty() && location.is_empty() {
            return Err("a `[[registry]]` has neither `prefix` nor `location`".into());
        }
        if prefix.is_empty() {
            prefix.clone_from(&location);
        }
        if location.is_empty() && !prefix.starts_with("*.") {
            location.clone_from(&prefix);
        }
        for text in [&prefix, &location] {
            if text.contains("://") {
                return Err(format!("`{text}` carries a scheme; `HOST[:PORT][/PATH]` is wanted"));
            }
        }
        let mirrors = table.mirror.into_iter().map(|mirror| {
            let wants = match mirror.pull_from_mirror.as_str() {
                "" | "all" => Wants::All,
                "digest-only" => Wants::Digests,
                "tag-only" => Wants::Tags,
                other => return Err(format!("`pull-from-mirror = \"{other}\"` is not known")),
            };
            let location = trim(mirror.location);
            if location.is_empty() || location.contains("://") {
                return Err(format!("mirror `{location}` is not `HOST[:PORT][/PATH]`"));
            }
            Ok(Place { location, insecure: mirror.insecure, wants, by_prefix: true })
        });
        Ok(Self {
            mirrors: mirrors.collect::<Result<_, _>>()?,
            prefix,
            location,
            insecure: table.insecure,
            blocked: table.blocked,
            by_digest_only: table.mirror_by_digest_only,
            token_hosts: table.token_hosts,
        })
    }

    fn matches(&self, repository: &str) -> bool {
        match self.prefix.strip_prefix('*') {
            Some(suffix) => repository.split('/').next().is_some_and(|host| host.ends_with(suffix)),
            None => repository.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl Place {
    /// The repository here: the prefix replaced by the location.
    fn endpoint(&self, reference: &Reference, prefix: &str, mirror: bool) -> Endpoint {
        let repository = reference.repository();
        let whole = if self.location.is_empty() {
            // A wildcard without a location keeps the registry that was named.
            repository
        } else if self.by_prefix && !prefix.starts_with('*') {
            format!("{}{}", self.location, repository.strip_prefix(prefix).unwrap_or_default())
        } else {
            format!("{}/{}", self.location, reference.path())
        };
        let (authority, path) = whole.split_once('/').unwrap_or((&whole, ""));
        Endpoint {
            authority: authority.to_owned(),
            repository: path.to_owned(),
            insecure: self.insecure,
            mirror,
            token_hosts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
unqualified-search-registries = ["quay.io", "docker.io"]
[aliases]
"tool" = "registry.example/team/tool"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "quay.io/team"
location = "inside.example/quay/team"
token-hosts = ["auth.example"]
[[registry]]
prefix = "*.evil.example"
blocked = true
"#;

    fn places(registries: &Registries, name: &str) -> Vec<String> {
        let endpoints = registries.endpoints(&Reference::parse(name).unwrap()).unwrap();
        endpoints.iter().map(|endpoint| format!("{}/{}", endpoint.authority, endpoint.repository)).collect()
    }

    fn registries() -> Registries {
        let mut registries = Registries::default();
        registries.add(CONF, "registries.conf", true).unwrap();
        registries
    }

    #[test]
    fn mirrors_come_first_and_prefixes_are_rewritten() {
        let registries = registries();
        assert_eq!(places(&registries, "app"), ["mirror.example/hub/library/app", "registry-1.docker.io/library/app"]);
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(places(&registries, &format!("app@{digest}"))[1], "digests.example/library/app");
        assert_eq!(places(&registries, "quay.io/team/a"), ["inside.example/quay/team/a"]);
        assert_eq!(places(&registries, "quay.io/teamwork/a"), ["quay.io/teamwork/a"]);
        assert_eq!(places(&registries, "localhost:5000/a"), ["localhost:5000/a"]);
        let endpoint = registries.registry(&Reference::parse("quay.io/team/a").unwrap());
        assert_eq!(endpoint.token_hosts, ["auth.example"]);
        let blocked = registries.endpoints(&Reference::parse("very.evil.example/a").unwrap()).unwrap_err();
        assert_eq!((blocked.kind(), blocked.message()), (ErrorKind::Denied, "registry `*.evil.example` is blocked"));
    }

    #[test]
    fn insecure_is_what_was_said_to_be() {
        let mut registries = registries();
        let insecure = |registries: &Registries, host: &str| registries.is_insecure(host);
        assert!(insecure(&registries, "mirror.example") && insecure(&registries, "127.0.0.1:5000"));
        assert!(insecure(&registries, "localhost:5000") && !insecure(&registries, "localhost.example"));
        assert!(!insecure(&registries, "quay.io") && !insecure(&registries, "10.0.0.1:5000"));
        registries.allow_insecure();
        assert!(insecure(&registries, "quay.io"));
    }

    #[test]
    fn short_names_mean_docker_hub_unless_a_file_says_otherwise() {
        let names = |registries: &Registries, name: &str| -> Vec<String> {
            registries.candidates(name).unwrap().iter().map(Reference::to_string).collect()
        };
        assert_eq!(names(&Registries::default(), "app:1"), ["docker.io/library/app:1"]);
        assert_eq!(names(&registries(), "app:1"), ["quay.io/app:1", "docker.io/library/app:1"]);
        assert_eq!(names(&registries(), "tool:1"), ["registry.example/team/tool:1"]);
        assert_eq!(names(&registries(), "localhost/app"), ["localhost/app:latest"]);
        let mut without = Registries::default();
        without.add(CONF, "x", false).unwrap();
        assert_eq!(names(&without, "tool"), ["docker.io/library/tool:latest"]);
    }

    #[test]
    fn a_mirror_of_the_command_line_is_asked_first() {
        let mut registries = registries();
        registries.add_mirror("http://near:5000/").unwrap();
        assert_eq!(places(&registries, "app")[0], "near:5000/library/app");
        assert!(registries.is_insecure("near:5000"));
        assert!(registries.add_mirror("ftp://x").is_err() && registries.add_mirror("https://").is_err());
    }

    #[test]
    fn a_wrong_file_is_named_with_the_reason() {
        let why = |text: &str| Registries::default().add(text, "f.conf", true).unwrap_err().one_line();
        assert!(why("[[registry]]").contains("neither `prefix` nor `location`"));
        assert!(why("[[registry]]\nlocation='https://x'").contains("carries a scheme"));
        assert!(why("[registries.search]\nregistries=[]").contains("version 1"));
        assert!(why("x = ").starts_with("cannot read `f.conf`"));
    }
}
