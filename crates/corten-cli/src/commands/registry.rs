//! `corten registry serve`, `ls`, `usage`, `gc`

use std::io::Write;
use std::path::Path;

use corten_docker::registry::{ManifestRow, RepositoryRow, View, manifests, repositories, usage as usage_table};
use corten_docker::units::human_size;
use corten_engine::store::store::{Options as StoreOptions, Store};
use corten_registry::server::config::{Span, Tls};
use corten_registry::server::{Config, Options, Server, admin};
use corten_types::{Context as _, Error, Result};

use super::{Context, now};
use crate::Failure;
use crate::command_line::{Parsed, boolean};

/// Serves until a signal ends it.
pub(crate) fn serve(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut config = configuration(context, parsed)?;
    let path = |name: &str| parsed.last(name).map(|path| context.environment.absolute(path));
    let text = |name: &str| parsed.last(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let addresses = parsed.list("listen");
    if !addresses.is_empty() {
        config.listen = addresses;
    }
    config.tls = match (path("tls-cert"), path("tls-key")) {
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate, key, client_ca: config.tls.and_then(|tls| tls.client_ca) })
        }
        (None, None) => config.tls,
        _ => return Err(Error::invalid("`--tls-cert` and `--tls-key` belong together").into()),
    };
    config.name = text("name").or(config.name);
    config.auth.htpasswd = path("htpasswd").or(config.auth.htpasswd);
    config.metrics_listen = text("metrics-listen").or(config.metrics_listen);
    config.allow_anonymous |= parsed.is_on("allow-anonymous");
    config.allow_plain_http |= parsed.is_on("allow-plain-http");
    config.read_only |= parsed.is_on("read-only");
    config.share_images = parsed.last("share-images").and_then(boolean).or(config.share_images);
    config.check()?;
    let log = match parsed.last("access-log").map(str::to_owned).or_else(|| config.access_log.clone()) {
        None => None,
        Some(log) if log == "-" => Some(Box::new(std::io::stderr()) as Box<dyn Write + Send>),
        Some(log) => Some(append_to(&context.environment.absolute(&log))?),
    };
    let store = store_options(context, &config)?;
    let server = Server::bind(Options { config, store, log })?;
    let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    context.print(&format!("Registry {} listens on {}\n", server.name(), addresses.join(", ")))?;
    server.run()?;
    Ok(0)
}

/// Lists repositories, or the tags of one.
pub(crate) fn list(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let config = configuration(context, parsed)?;
    let view = view(parsed);
    let store = store(context, &config)?;
    let text = match parsed.operands.first() {
        Some(wanted) => {
            let rows: Vec<ManifestRow> = admin::manifests(&store, wanted)?
                .into_iter()
                .map(|row| ManifestRow {
                    tag: row.tag,
                    digest: row.digest.to_string(),
                    kind: row
                        .artifact_type
                        .filter(|kind| !kind.contains(".config.") && !kind.contains("container.image"))
                        .unwrap_or(row.media_type),
                    pushed_ns: row.pushed_ns,
                })
                .collect();
            manifests(&rows, &view, now())?
        }
        None => repositories(&rows(&store, &config)?, &view, now())?,
    };
    context.print(&text)?;
    Ok(0)
}

/// Shows what repositories hold.
pub(crate) fn usage(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let config = configuration(context, parsed)?;
    let view = View { format: format(parsed), ..View::default() };
    let store = store(context, &config)?;
    let text = usage_table(&rows(&store, &config)?, store.repositories_size()?, &view, now())?;
    context.print(&text)?;
    Ok(0)
}

/// Removes what no repository needs.
pub(crate) fn collect(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut config = configuration(context, parsed)?;
    let span = |name: &str| {
        parsed.read_last(name, |text| Span::parse(text).ok_or_else(|| "write 90s, 15m, 24h or 30d".to_owned()))
    };
    if let Some(grace) = span("grace")? {
        config.collection.grace = grace;
    }
    config.collection.untagged_after = span("untagged-after")?.or(config.collection.untagged_after);
    let collected = admin::collect(&store(context, &config)?, &config.collection)?;
    context.print(&format!(
        "Unlinked blobs: {}\nRemoved manifests: {}\nDeleted blobs: {}\nTotal reclaimed space: {}\n",
        collected.blobs,
        collected.manifests,
        collected.store.blobs.len(),
        human_size(collected.store.bytes, 4)
    ))?;
    Ok(0)
}

/// The configuration file, with the flags that all of these commands have.
fn configuration(context: &Context<'_>, parsed: &Parsed) -> Result<Config> {
    let mut config = match parsed.last("config") {
        Some(path) => Config::load(&context.environment.absolute(path))?,
        None => Config::default(),
    };
    if let Some(data) = parsed.last("data") {
        config.data = Some(context.environment.absolute(data));
    }
    Ok(config)
}

fn store_options(context: &Context<'_>, config: &Config) -> Result<StoreOptions> {
    let root = match &config.data {
        Some(data) => data.clone(),
        None => context.settings.store_root(context.environment)?,
    };
    Ok(StoreOptions { root })
}

fn store(context: &Context<'_>, config: &Config) -> Result<Store> {
    Store::open(store_options(context, config)?)
}

fn rows(store: &Store, config: &Config) -> Result<Vec<RepositoryRow>> {
    let name = match &config.name {
        None if config.data.is_some() => Some("localhost"),
        name => name.as_deref(),
    };
    let row = |listed: admin::Listed| RepositoryRow {
        repository: listed.repository,
        tags: listed.tags,
        manifests: listed.usage.manifests,
        blobs: listed.usage.blobs,
        bytes: listed.usage.bytes,
        pushed_ns: listed.pushed_ns,
    };
    Ok(admin::repositories(store, name)?.into_iter().map(row).collect())
}

fn view(parsed: &Parsed) -> View {
    View { format: format(parsed), quiet: parsed.is_on("quiet"), no_trunc: parsed.is_on("no-trunc") }
}

fn format(parsed: &Parsed) -> Option<String> {
    parsed.last("format").filter(|format| !format.is_empty()).map(str::to_owned)
}

fn append_to(path: &Path) -> Result<Box<dyn Write + Send>> {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    Ok(Box::new(file.context(|| format!("cannot write the access log `{}`", path.display()))?))
}
