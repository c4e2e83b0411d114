//! The engine: one root, one run root, and how they are laid out.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use corten_fs::{Root, append};
use corten_store::Store;
use corten_sys::Call;
use corten_types::event::{EVENTS, EVENTS_SIZE_BYTES_MAX, EventRecord};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

/// Where an engine keeps things and what it starts.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Durable state: `/var/lib/corten`, rootless `$XDG_DATA_HOME/corten`.
    pub root: PathBuf,
    /// Run state: `/run/corten`, rootless `$XDG_RUNTIME_DIR/corten`.
    pub run_root: PathBuf,
    /// The `corten` binary: started as `corten shim` and `corten runtime`, and the layer of `hello`.
    pub executable: PathBuf,
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Set where [`crate::enter_rootless`] was called.
    pub rootless: Option<crate::Rootless>,
}

/// What `create` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// What was asked and cannot be had, one sentence each; a front end prints `WARNING: …`.
    pub warnings: Vec<String>,
}

/// Containers and images under one root. Several processes may use the same root at once.
#[derive(Debug)]
pub struct Engine {
    pub(crate) options: EngineOptions,
    /// `ROOT`
    pub(crate) root: Root,
    /// `ROOT/containers`
    pub(crate) containers: Root,
    /// `ROOT/names`
    pub(crate) names: Root,
    /// `RUN/containers`
    pub(crate) running: Root,
    store: Store,
}

impl Engine {
    /// Opens the engine, making its directories (mode 0700) where they are missing.
    pub fn open(options: EngineOptions) -> Result<Self> {
        for path in [&options.root, &options.run_root, &options.executable] {
            if !path.is_absolute() {
                return Err(Error::invalid(format!("`{}` is not an absolute path", path.display())));
            }
        }
        let root = own_directory(&options.root)?;
        let run = own_directory(&options.run_root)?;
        let below = |of: &Root, name: &str| -> Result<Root> {
            of.create_dir_all(name, Mode::RWXU)?;
            of.sub_root(name)
        };
        let (containers, names) = (below(&root, "containers")?, below(&root, "names")?);
        let running = below(&run, "containers")?;
        below(&run, "runtime")?;
        let store = Store::open(corten_store::store::Options { root: options.root.join("store") })?;
        Ok(Self { options, root, containers, names, running, store })
    }

    /// New layers take this form, whatever is fastest here.
    #[must_use]
    pub fn with_layer_form(self, form: corten_store::Form) -> Self {
        Self { store: self.store.with_layer_form(form), ..self }
    }

    /// The images: load, list, inspect, remove.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Loads images from an archive (docker's or an OCI layout in a tar).
    pub fn load(&self, archive: impl Read + Send) -> Result<Vec<corten_store::LoadedImage>> {
        self.store.load(archive)
    }

    /// Tells everybody who follows what happened to a container. A full disk costs the line, never the deed.
    pub(crate) fn tell(&self, id: &str, action: impl Into<String>, attributes: BTreeMap<String, String>) {
        let record = EventRecord::container(id, action, attributes);
        let Ok(json) = serde_json::to_vec(&record) else { return };
        append::line(&self.root, EVENTS, &json, EVENTS_SIZE_BYTES_MAX).ok();
    }

    /// Where the engine keeps things and what it starts.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    pub(crate) fn container_path(&self, id: &str) -> PathBuf {
        self.options.root.join("containers").join(id)
    }

    pub(crate) fn run_path(&self, id: &str) -> PathBuf {
        self.options.run_root.join("containers").join(id)
    }

    pub(crate) fn snapshot_path(&self, id: &str) -> PathBuf {
        self.options.root.join("store/snapshots").join(id)
    }

    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.options.run_root.join("runtime")
    }
}

/// Opens a directory of the engine's own, made where missing. One that others could write to is refused: they could put
/// links where the engine expects its files.
fn own_directory(path: &Path) -> Result<Root> {
    let whole = Root::open_ambient(Path::new("/"))?;
    let place = path.strip_prefix("/").unwrap_or(path);
    let directory = whole
        .create_dir_all(place, Mode::RWXU)
        .and_then(|_| whole.open(place, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()))
        .context(|| format!("cannot use the directory `{}`", path.display()))?;
    let stat = rustix::fs::fstat(&directory).call(|| format!("fstat({path:?})"))?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    if !own || stat.st_mode & 0o022 != 0 {
        let reason = if own { "others may write to it" } else { "it belongs to another user" };
        return Err(Error::new(ErrorKind::Denied, format!("`{}` cannot hold state: {reason}", path.display()))
            .hint("name another directory with `--root` and `--run-root`, or change its owner and mode (0700)"));
    }
    Ok(Root::from_fd(directory, path).beneath())
}
