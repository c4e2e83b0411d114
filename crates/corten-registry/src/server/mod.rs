//! The registry server: distribution 1.1 over a store. Tokio lives here and nowhere else; every call of the store is made
//! on a thread that may block.
//!
//! ```text
//! connection   listening, TLS, time-outs            route, range    what a request means, from its bytes alone
//! handle       one request, from gate to log        auth/           who asks, and what they may do
//! blobs, uploads, manifests, listing                the endpoints
//! sessions, quota, collect                          what outlives a request
//! upstream     registries that are read through     reply, receive  bodies, in bounded pieces
//! ```
//!
//! A repository `team/app` of the registry that is called `localhost:5000` is the store's `localhost:5000/team/app`: its
//! tags are the store's references, so that what is tagged so is served, and what is pushed can be run.

pub mod admin;
mod auth;
mod blobs;
mod collect;
pub mod config;
mod connection;
mod failure;
mod handle;
mod listing;
mod log;
mod manifests;
mod metrics;
mod quota;
mod range;
mod receive;
mod reply;
mod route;
mod sessions;
mod uploads;
mod upstream;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use corten_store::{Repository, Store};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};
use tokio::sync::{Semaphore, watch};

pub use config::{Address, Config};

use auth::Gate;
use connection::Listener;
use failure::{Code, Failure};
use log::AccessLog;
use metrics::Metrics;
use quota::Ledger;
use route::Name;
use sessions::Sessions;
use upstream::Upstream;

/// Threads for the store's calls; more requests wait for one.
const BLOCKING_THREADS_MAX: usize = 64;
/// Of these, those that may wait for other registries.
const WAITING_ELSEWHERE_MAX: usize = 24;
/// How long running requests are waited for, where nothing else was said.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What every request works with.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Config,
    /// What the registry is called in references.
    name: String,
    /// Whether the engine's images are served by the names that they have.
    shares_images: bool,
    store: Arc<Store>,
    /// A second connection to the same store, so that reading does not wait for a write to be on the disk.
    reader: Arc<Store>,
    gate: Gate,
    metrics: Metrics,
    log: AccessLog,
    sessions: Sessions,
    ledger: Arc<Ledger>,
    uploads: Arc<Semaphore>,
    upstreams: Vec<Upstream>,
    /// Requests that may wait for other registries at once.
    waiting_elsewhere: Arc<Semaphore>,
    /// Held by who commits under a quota.
    committing: std::sync::Mutex<()>,
}

/// A server that listens and does not answer yet.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    registry: Arc<Registry>,
    listeners: Vec<Listener>,
    metrics: Option<Listener>,
    addresses: Vec<Address>,
    tls: Option<Arc<connection::Certificate>>,
    stop: watch::Sender<bool>,
}

/// Ends a server from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Asks the server to finish what runs and end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// What a server is made of.
pub struct Options {
    /// The configuration, checked by [`Server::bind`].
    pub config: Config,
    /// The store that is served.
    pub store: corten_store::Options,
    /// Where the lines of the access log go.
    pub log: Option<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("config", &self.config).field("store", &self.store).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the store, reads keys and certificates, and starts to listen.
    pub fn bind(options: Options) -> Result<Self> {
        let config = options.config;
        config.check()?;
        let store = Arc::new(Store::open(options.store.clone())?);
        let reader = Arc::new(Store::open(options.store)?);
        let gate = Gate::new(&config)?;
        let tls = config.tls.as_ref().map(connection::Certificate::load).transpose()?.map(Arc::new);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("registry")
            .build()
            .context(|| "cannot start the server's threads")?;
        let (listeners, metrics) = runtime.block_on(listen(&config))?;
        let addresses: Vec<Address> = listeners.iter().map(Listener::address).collect::<Result<_>>()?;
        let registry = Registry {
            name: config.registry_name(&addresses)?,
            shares_images: config.share_images.unwrap_or(config.data.is_none()),
            sessions: Sessions::open(&store)?,
            ledger: Arc::new(Ledger::new(&config.quota)),
            uploads: Arc::new(Semaphore::new(config.limits.uploads_max)),
            upstreams: config.upstream.iter().map(Upstream::new).collect(),
            waiting_elsewhere: Arc::new(Semaphore::new(WAITING_ELSEWHERE_MAX)),
            metrics: Metrics::new(),
            log: options.log.map(AccessLog::to).unwrap_or_default(),
            committing: std::sync::Mutex::new(()),
            store,
            reader,
            gate,
            config,
        };
        let stop = watch::Sender::new(false);
        Ok(Self { runtime, registry: Arc::new(registry), listeners, metrics, addresses, tls, stop })
    }

    /// Where it listens, ports as the kernel chose them.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What the registry is called in references.
    pub fn name(&self) -> &str {
        &self.registry.name
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Answers until a [`Stopper`], SIGTERM or SIGINT says otherwise; then finishes what runs, within the limit.
    pub fn run(self) -> Result<()> {
        let Self { runtime, registry, listeners, metrics, tls, stop, addresses: _ } = self;
        let limit = registry.config.stop_timeout.map_or(STOP_TIMEOUT, |span| span.0);
        let limits = registry.config.limits.clone();
        let run = async {
            // A program that writes to a client who went away is ended by default: the error is enough.
            let _pipe = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe())
                .context(|| "cannot wait for SIGPIPE")?;
            let signals = tokio::spawn(stop_on_signals(stop.clone())?);
            let background = tokio::spawn(collect::background(Arc::clone(&registry), stop.subscribe()));
            let registry_answer = Arc::new(handle::Front::Registry(Arc::clone(&registry)));
            let metrics_answer = Arc::new(handle::Front::Metrics(Arc::clone(&registry)));
            let serving = listeners
                .into_iter()
                .map(|listener| (listener, Arc::clone(&registry_answer), tls.clone()))
                .chain(metrics.map(|listener| (listener, metrics_answer, None)))
                .collect();
            connection::serve(serving, &limits, stop.subscribe(), limit).await;
            signals.abort();
            background.abort();
            Ok(())
        };
        let ended = runtime.block_on(run);
        runtime.shutdown_timeout(limit);
        ended
    }
}

async fn listen(config: &Config) -> Result<(Vec<Listener>, Option<Listener>)> {
    let mut listeners = Vec::new();
    for address in config.addresses()? {
        listeners.push(Listener::bind(&address).await?);
    }
    let metrics = match &config.metrics_listen {
        None => None,
        Some(text) => {
            let address = Address::parse(text)?.into_iter().next();
            let address = address.ok_or_else(|| Error::invalid("`metrics_listen` is no address"))?;
            Some(Listener::bind(&address).await?)
        }
    };
    Ok((listeners, metrics))
}

/// Registers the signals at once; the future waits for one.
fn stop_on_signals(stop: watch::Sender<bool>) -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context(|| "cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context(|| "cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    })
}

impl Registry {
    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let registry = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&registry)).await {
            Ok(result) => result,
            Err(error) => {
                Err(Error::new(ErrorKind::Internal, "a thread of the registry ended").caused_by(error).into())
            }
        }
    }

    /// What a repository is called in the store.
    fn own(&self, name: &Name) -> String {
        format!("{}/{}", self.name, name.as_str())
    }

    /// What a repository's tag is called in the store.
    fn tag(&self, name: &Name, tag: &str) -> Result<Reference, Failure> {
        Reference::parse_name(&self.own(name))
            .and_then(|reference| reference.with_tag(tag))
            .map_err(|_| Failure::new(Code::NameInvalid).detail(route::shown(name.as_str())))
    }

    /// The repositories of the store that a name means for reading: the registry's own first, then the engine's image of
    /// that name, as docker reads it.
    fn shelves(&self, name: &Name) -> Vec<String> {
        let mut shelves = vec![self.own(name)];
        if self.shares_images
            && let Ok(image) = Reference::parse_name(name.as_str())
            && image.repository() != shelves[0]
        {
            shelves.push(image.repository());
        }
        shelves
    }

    /// The first of what a name means that answers.
    fn first<T>(&self, name: &Name, look: impl Fn(Repository<'_>) -> Result<Option<T>>) -> Result<Option<T>> {
        for shelf in self.shelves(name) {
            if let Some(found) = look(self.reader.repository(&shelf))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The size of a blob, where the repository has it.
    fn find_blob(&self, name: &Name, digest: &Digest) -> Result<Option<u64>> {
        self.first(name, |repository| repository.blob(digest))
    }

    /// The type of a manifest, where the repository has it.
    fn find_manifest(&self, name: &Name, digest: &Digest) -> Result<Option<String>> {
        self.first(name, |repository| repository.manifest(digest))
    }

    /// What a tag points to.
    fn find_tag(&self, name: &Name, tag: &str) -> Result<Option<Digest>> {
        for shelf in self.shelves(name) {
            let reference = Reference::parse_name(&shelf)?.with_tag(tag)?;
            if let Some(target) = self.reader.repository(&shelf).tag(&reference)? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// Whether there is anything by that name.
    fn exists(&self, name: &Name) -> Result<bool> {
        let found = self.first(name, |repository| {
            let has_tags = !repository.tags("", 1)?.is_empty();
            let usage = repository.usage()?;
            Ok((has_tags || usage.manifests > 0 || usage.blobs > 0).then_some(()))
        })?;
        Ok(found.is_some())
    }

    /// Refuses writes where there are none.
    fn check_writable(&self) -> Result<(), Failure> {
        if self.config.read_only {
            return Err(Failure::because(Code::Unsupported, "the registry is read-only"));
        }
        Ok(())
    }

    fn check_deletable(&self) -> Result<(), Failure> {
        self.check_writable()?;
        if self.config.no_delete {
            return Err(Failure::because(Code::Unsupported, "the registry deletes nothing"));
        }
        Ok(())
    }
}
