//! The registry client as files and environment set it up.
//!
//! ```text
//! logins        REGISTRY_AUTH_FILE, or DOCKER_CONFIG/config.json, ~/.docker/config.json, containers' auth.json
//! registries    CORTEN_REGISTRIES_CONF, or ~/.config/corten/registries.conf, /etc/corten/registries.conf;
//!               without any, containers' registries.conf, for its [[registry]] tables alone
//! policy        CORTEN_POLICY, or ~/.config/corten/policy.toml, /etc/corten/policy.toml
//! certificates  ~/.config/corten, /etc/corten, ~/.config/containers, /etc/containers, /etc/docker, each with certs.d
//! ```

use std::path::{Path, PathBuf};

use corten_registry::client::credentials::Credentials;
use corten_registry::client::helper::Helpers;
use corten_registry::client::{Client, Options, Policy, Proxies, Registries};
use corten_types::{Context, Error, ErrorKind, Result};

use crate::Environment;
use crate::command_line::{Parsed, boolean};

/// Largest file of rules, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The client, with what the flags `--mirror` and `--tls-verify` add where the command has them.
pub(crate) fn client(environment: &Environment, parsed: &Parsed) -> Result<Client> {
    let mut registries = rules(environment)?;
    if parsed.command.long("mirror").is_some() {
        // The first that is named is asked first.
        for mirror in parsed.all("mirror") {
            registries.add_mirror(mirror)?;
        }
    }
    let unverified = parsed.optional("tls-verify").and_then(boolean) == Some(false);
    if unverified || parsed.optional("insecure").and_then(boolean) == Some(true) {
        registries.allow_insecure();
    }
    let options = Options {
        credentials: credentials(environment),
        registries,
        certificate_directories: certificate_directories(environment),
        proxies: proxies(environment),
        ..Options::default()
    };
    Ok(Client::new(options))
}

/// What must be signed.
pub(crate) fn policy(environment: &Environment) -> Result<Policy> {
    if let Some(path) = environment.path("CORTEN_POLICY") {
        let path = environment.absolute(path);
        let text = read(&path)?.ok_or_else(|| missing("CORTEN_POLICY", &path))?;
        return Policy::parse(&text, &path.display().to_string(), base(&path));
    }
    for directory in corten_directories(environment) {
        let path = directory.join("policy.toml");
        if let Some(text) = read(&path)? {
            return Policy::parse(&text, &path.display().to_string(), base(&path));
        }
    }
    Ok(Policy::default())
}

/// Logins, and the helpers that keep them.
pub(crate) fn credentials(environment: &Environment) -> Credentials {
    let directories = environment.text("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let helpers = Helpers {
        directories: directories.split(':').filter(|path| path.starts_with('/')).map(PathBuf::from).collect(),
        environment: environment.variables.clone(),
    };
    if let Some(file) = environment.path("REGISTRY_AUTH_FILE") {
        return Credentials { files: vec![environment.absolute(file)], helpers };
    }
    let mut files = Vec::new();
    match environment.path("DOCKER_CONFIG") {
        Some(directory) => files.push(environment.absolute(directory).join("config.json")),
        None => files.extend(home(environment).map(|home| home.join(".docker/config.json"))),
    }
    let runtime = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    files.extend(runtime.map(|directory| directory.join("containers/auth.json")));
    if environment.uid == 0 {
        files.push(PathBuf::from("/run/containers/0/auth.json"));
    }
    files.extend(configuration_home(environment).map(|directory| directory.join("containers/auth.json")));
    Credentials { files, helpers }
}

fn rules(environment: &Environment) -> Result<Registries> {
    if let Some(path) = environment.path("CORTEN_REGISTRIES_CONF") {
        let path = environment.absolute(path);
        let text = read(&path)?.ok_or_else(|| missing("CORTEN_REGISTRIES_CONF", &path))?;
        let mut registries = Registries::default();
        registries.add(&text, &path.display().to_string(), true)?;
        return Ok(registries);
    }
    for directory in corten_directories(environment) {
        if let Some(registries) = rules_of(&directory, true)? {
            return Ok(registries);
        }
    }
    let containers = [
        configuration_home(environment).map(|directory| directory.join("containers")),
        Some(PathBuf::from("/etc/containers")),
    ];
    for directory in containers.into_iter().flatten() {
        if let Some(registries) = rules_of(&directory, false)? {
            return Ok(registries);
        }
    }
    Ok(Registries::default())
}

/// `registries.conf` and the files of `registries.conf.d` beside it, in the order of their names.
fn rules_of(directory: &Path, with_short_names: bool) -> Result<Option<Registries>> {
    let mut registries = Registries::default();
    let mut found = false;
    let mut add = |path: &Path| -> Result<()> {
        if let Some(text) = read(path)? {
            registries.add(&text, &path.display().to_string(), with_short_names)?;
            found = true;
        }
        Ok(())
    };
    add(&directory.join("registries.conf"))?;
    let mut parts: Vec<PathBuf> = match std::fs::read_dir(directory.join("registries.conf.d")) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    parts.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    parts.sort();
    for part in parts {
        add(&part)?;
    }
    Ok(found.then_some(registries))
}

fn certificate_directories(environment: &Environment) -> Vec<PathBuf> {
    let own = configuration_home(environment);
    let below = |name: &str| own.as_ref().map(|home| home.join(name));
    let places = [
        below("corten"),
        Some("/etc/corten".into()),
        below("containers"),
        Some("/etc/containers".into()),
        Some("/etc/docker".into()),
    ];
    places.into_iter().flatten().map(|directory| directory.join("certs.d")).collect()
}

fn proxies(environment: &Environment) -> Proxies {
    let value = |names: [&str; 2]| names.iter().find_map(|name| environment.text(name)).map(str::to_owned);
    Proxies {
        http: value(["HTTP_PROXY", "http_proxy"]),
        https: value(["HTTPS_PROXY", "https_proxy"]),
        none: value(["NO_PROXY", "no_proxy"]),
    }
}

/// Corten's own: the user's, then the machine's.
fn corten_directories(environment: &Environment) -> Vec<PathBuf> {
    let own = configuration_home(environment).map(|directory| directory.join("corten"));
    own.into_iter().chain([PathBuf::from("/etc/corten")]).collect()
}

fn home(environment: &Environment) -> Option<PathBuf> {
    environment.path("HOME").filter(|path| path.is_absolute())
}

fn configuration_home(environment: &Environment) -> Option<PathBuf> {
    let named = environment.path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    named.or_else(|| home(environment).map(|home| home.join(".config")))
}

fn base(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn missing(variable: &str, path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("`{variable}` names `{}`, which is not there", path.display()))
}

fn read(path: &Path) -> Result<Option<String>> {
    let named = || format!("cannot read `{}`", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::from(error)).context(named),
    };
    let mut text = String::new();
    let mut bounded = std::io::Read::take(file, FILE_SIZE_BYTES_MAX + 1);
    std::io::Read::read_to_string(&mut bounded, &mut text).context(named)?;
    if text.len() as u64 > FILE_SIZE_BYTES_MAX {
        return Err(Error::new(ErrorKind::Exhausted, "it is larger than 4 MiB").context(named()));
    }
    Ok(Some(text))
}
