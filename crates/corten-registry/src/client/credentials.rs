//! Who one is at which registry: docker's config.json and its kin, and credential helpers.
//!
//! ```text
//! {
//!   "auths": { "HOST": { "auth": base64("USER:PASSWORD"), "identitytoken": "…" }, "HOST/PATH": … },
//!   "credsStore": "NAME",                    a helper for every registry
//!   "credHelpers": { "HOST": "NAME" }        a helper for one
//! }
//! ```
//! Unknown fields are kept as they are when a login is written.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use corten_fs::Root;
use corten_fs::atomic::{self, Durability};
use corten_types::{Context, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::helper::Helpers;
use super::secret::Secret;

/// Docker Hub's name in these files.
pub const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";
/// Largest file, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What proves who one is.
#[derive(Debug, Clone)]
pub enum Login {
    /// User name and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret<String>,
    },
    /// A refresh token of the registry's token service.
    IdentityToken(Secret<String>),
    /// A token for the registry itself.
    RegistryToken(Secret<String>),
}

/// Where logins are kept.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Files to look into, in order; the first is the one that logins are written to.
    pub files: Vec<PathBuf>,
    /// The helpers.
    pub helpers: Helpers,
}

/// Where a login was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// With a helper.
    Helper(String),
    /// In a file, readable for whoever can read it.
    File(PathBuf),
}

impl Credentials {
    /// The login for a repository, `HOST[:PORT]/PATH`: of all entries that fit, the longest of the first file that has one.
    pub fn find(&self, repository: &str) -> Result<Option<Login>> {
        let host = repository.split('/').next().unwrap_or_default();
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            let found = self
                .find_in(&file, host, repository)
                .context(|| format!("cannot use the logins in `{}`", path.display()))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn find_in(&self, file: &Map<String, Value>, host: &str, repository: &str) -> Result<Option<Login>> {
        let server = server_name(host);
        if let Some(helper) = helper_of(file, host)
            && let Some(login) = self.helpers.get(&helper, &server)?
        {
            return Ok(Some(login));
        }
        let Some(auths) = file.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let fitting = auths.iter().filter_map(|(key, entry)| {
            let bare = bare_key(key);
            let fits = bare == host || canonical(&bare) == canonical(host) || is_above(&bare, repository);
            fits.then_some((bare.len(), entry))
        });
        let mut fitting: Vec<_> = fitting.collect();
        fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        for (_, entry) in fitting {
            if let Some(login) = login_of(entry)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Keeps a login for `host`.
    pub fn keep(&self, host: &str, login: &Login) -> Result<Kept> {
        let path = self.first()?;
        let mut file = read(path)?.unwrap_or_default();
        let server = server_name(host);
        if let Some(helper) = helper_of(&file, host) {
            self.helpers.store(&helper, &server, login)?;
            return Ok(Kept::Helper(helper));
        }
        let entry = match login {
            Login::Password { user, password } => {
                json!({"auth": BASE64_STANDARD.encode(format!("{user}:{}", password.reveal()))})
            }
            Login::IdentityToken(token) => {
                json!({"auth": BASE64_STANDARD.encode("<token>:"), "identitytoken": token.reveal()})
            }
            Login::RegistryToken(token) => json!({"registrytoken": token.reveal()}),
        };
        let auths = file.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut().ok_or_else(|| Error::invalid("`auths` is no object").context(named(path)))?;
        auths.retain(|key, _| canonical(&bare_key(key)) != canonical(host));
        auths.insert(server, entry);
        write(path, &file)?;
        Ok(Kept::File(path.clone()))
    }

    /// Forgets the login for `host`; whether there was one.
    pub fn forget(&self, host: &str) -> Result<bool> {
        let path = self.first()?;
        let Some(mut file) = read(path)? else { return Ok(false) };
        let server = server_name(host);
        let mut forgot = false;
        if let Some(helper) = helper_of(&file, host) {
            forgot = self.helpers.get(&helper, &server)?.is_some();
            if forgot {
                self.helpers.erase(&helper, &server)?;
            }
        }
        if let Some(auths) = file.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| canonical(&bare_key(key)) != canonical(host));
            if auths.len() != before {
                forgot = true;
                write(path, &file)?;
            }
        }
        Ok(forgot)
    }

    fn first(&self) -> Result<&PathBuf> {
        self.files.first().ok_or_else(|| {
            Error::invalid("there is no file for logins: neither `HOME` nor `DOCKER_CONFIG` is set")
                .hint("name one with `REGISTRY_AUTH_FILE`")
        })
    }
}

/// `HOST` as these files name it.
fn server_name(host: &str) -> String {
    if canonical(host) == "docker.io" { DOCKER_HUB_SERVER.to_owned() } else { host.to_owned() }
}

/// Docker Hub goes by several names.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        _ => host,
    }
}

/// A key without scheme; docker's have nothing after the host, those of containers-auth.json(5) may.
fn bare_key(key: &str) -> String {
    let stripped = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    match stripped {
        Some(rest) => rest.split('/').next().unwrap_or_default().to_owned(),
        None => {
            let path = key.trim_end_matches('/');
            path.strip_suffix("/v1").or_else(|| path.strip_suffix("/v2")).unwrap_or(path).to_owned()
        }
    }
}

fn is_above(key: &str, repository: &str) -> bool {
    key.contains('/') && repository.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn helper_of(file: &Map<String, Value>, host: &str) -> Option<String> {
    let own = file.get("credHelpers").and_then(Value::as_object).and_then(|helpers| {
        let fits = |key: &str| canonical(&bare_key(key)) == canonical(host);
        helpers.iter().find(|(key, _)| fits(key)).and_then(|(_, name)| name.as_str())
    });
    let all = file.get("credsStore").and_then(Value::as_str);
    own.or(all).filter(|name| !name.is_empty()).map(str::to_owned)
}

fn login_of(entry: &Value) -> Result<Option<Login>> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Login::IdentityToken(Secret::new(token.to_owned()))));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Login::RegistryToken(Secret::new(token.to_owned()))));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Ok(Some(Login::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) }));
    }
    let Some(auth) = text("auth") else { return Ok(None) };
    let wrong = || Error::invalid("an `auth` is not base64 of `USER:PASSWORD`").hint("log in again: `corten login`");
    let bytes = BASE64_STANDARD.decode(auth).or_else(|_| BASE64_STANDARD_NO_PAD.decode(auth)).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    let password = Secret::new(password.trim_end_matches('\0').to_owned());
    Ok(Some(Login::Password { user: user.to_owned(), password }))
}

fn named(path: &Path) -> String {
    format!("cannot read the logins in `{}`", path.display())
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    let content = match corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound || error.errno() == Some(20) => return Ok(None),
        Err(error) => return Err(error.context(named(path))),
    };
    if content.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Map::new()));
    }
    // The parser's message could quote a password.
    serde_json::from_slice(&content).map(Some).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Error::invalid(format!("it is not a JSON object ({place})")).context(named(path))
    })
}

fn write(path: &Path, file: &Map<String, Value>) -> Result<()> {
    // A link to the file stays one: what it points to is replaced.
    let target = std::fs::read_link(path)
        .map_or_else(|_| path.to_owned(), |target| path.parent().unwrap_or(Path::new("/")).join(target));
    let named = || format!("cannot write the login into `{}`", path.display());
    let (Some(directory), Some(name)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::invalid("it has no name").context(named()));
    };
    let whole = Root::open_ambient(Path::new("/"))?;
    let below = directory.strip_prefix("/").unwrap_or(directory);
    whole.create_dir_all(below, rustix::fs::Mode::RWXU).context(named)?;
    let root = Root::open_ambient(directory).context(named)?;
    let mut text = serde_json::to_vec_pretty(file)
        .map_err(|_| Error::new(ErrorKind::Internal, "it cannot be encoded").context(named()))?;
    text.push(b'\n');
    let place =
        root.open(".", rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())?;
    atomic::replace(&place, name, &text, 0o600, Durability::Durable).context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(content: &str) -> (tempfile::TempDir, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("docker/config.json");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        (directory, Credentials { files: vec![file], helpers: Helpers::default() })
    }

    fn user(credentials: &Credentials, repository: &str) -> Option<String> {
        match credentials.find(repository).unwrap() {
            Some(Login::Password { user, password }) => Some(format!("{user}:{}", password.reveal())),
            Some(Login::IdentityToken(token)) => Some(format!("token {}", token.reveal())),
            _ => None,
        }
    }

    #[test]
    fn the_longest_entry_that_fits_counts_and_no_other_host_s() {
        let (_directory, credentials) = credentials(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"https://r.example/v2/":{"auth":"cjpwdw=="},
                "r.example:5000":{"auth":"cG9ydDpwdw=="},"q.example/team":{"auth":"dGVhbTpwdw=="},
                "q.example":{"auth":"YWxsOnB3"},"t.example":{"identitytoken":"abc"},"e.example":{}}}"#,
        );
        let find = |repository: &str| user(&credentials, repository);
        assert_eq!(find("docker.io/library/a").as_deref(), Some("hub:pw"));
        assert_eq!(find("registry-1.docker.io/a").as_deref(), Some("hub:pw"));
        assert_eq!(find("r.example/a").as_deref(), Some("r:pw"));
        assert_eq!(find("r.example:5000/a").as_deref(), Some("port:pw"));
        assert_eq!(find("q.example/team/a").as_deref(), Some("team:pw"));
        assert_eq!(find("q.example/teamwork").as_deref(), Some("all:pw"));
        assert_eq!(find("t.example/a").as_deref(), Some("token abc"));
        for other in ["e.example/a", "r.example:5001/a", "evil-r.example/a", "r.example.evil/a"] {
            assert_eq!(find(other), None, "{other}");
        }
    }

    #[test]
    fn a_login_is_written_beside_what_was_there_and_forgotten_again() {
        let (_directory, credentials) =
            credentials(r#"{"HttpHeaders":{"X":"y"},"auths":{"a.example":{"auth":"YTpi"}}}"#);
        let login = Login::Password { user: "me".into(), password: Secret::new("p:w".into()) };
        let kept = credentials.keep("docker.io", &login).unwrap();
        assert_eq!(kept, Kept::File(credentials.files[0].clone()));
        assert_eq!(user(&credentials, "docker.io/x").as_deref(), Some("me:p:w"));
        assert_eq!(user(&credentials, "a.example/x").as_deref(), Some("a:b"));
        let text = std::fs::read_to_string(&credentials.files[0]).unwrap();
        assert!(text.contains("HttpHeaders") && text.contains(DOCKER_HUB_SERVER), "{text}");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&credentials.files[0]).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(credentials.forget("docker.io").unwrap() && !credentials.forget("docker.io").unwrap());
        assert_eq!(user(&credentials, "docker.io/x"), None);
    }

    #[test]
    fn a_damaged_file_is_named_and_its_content_is_not() {
        for text in [
            "{",
            "[]",
            r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#,
            r#"{"auths":{"r.example":{"auth":"???secret"}}}"#,
        ] {
            let (_directory, credentials) = credentials(text);
            let report = credentials.find("r.example/a").unwrap_err().report();
            assert!(
                report.contains("config.json") && !report.contains("secret") && !report.contains("c2Vj"),
                "{report}"
            );
        }
    }
}
