//! A container's root: an image's layers below, a writable directory of its own above.
//!
//! ```text
//! snapshots/KEY/snapshot   what lies below, and whether the tree is thrown away
//! snapshots/KEY/upper      receives what changes
//! snapshots/KEY/work       the kernel's
//! snapshots/KEY/lower      an empty directory for an image without layers; the frame of the host's root
//! snapshots/KEY/parts/…    upper and work of directories of the host's root, see `host.rs`
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_fs::overlay::{Overlay, Upper};
use corten_sys::Call;
use corten_types::runtime_spec::parse_document;
use corten_types::{Context, Digest, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::host;
use crate::image::Image;
use crate::layer::form::Form;
use crate::layer::{LayerRow, Layers, copy_attributes, open_root};

/// What lies below a container's writable layer.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// An image's layers.
    Image(&'a Image),
    /// This machine's own `/` (its root file system; what is mounted below it is not part of it).
    Host,
}

/// What [`crate::Store::prepare`] needs.
#[derive(Debug, Clone, Copy)]
pub struct PrepareRequest<'a> {
    /// Name of the snapshot, unique in the store: the container's identifier.
    pub key: &'a str,
    /// What lies below.
    pub base: Base<'a>,
    /// The tree goes with the container (`--rm`): fsync inside costs nothing and keeps nothing.
    pub throwaway: bool,
}

/// A prepared root.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub key: String,
    /// The manifest of its image; none for the host's root.
    pub manifest: Option<Digest>,
    /// How to mount it.
    pub overlay: Overlay,
}

/// The file `snapshot`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    manifest: Option<Digest>,
    /// Keys of unpacked layers, topmost first.
    pub(crate) layers: Vec<String>,
    /// The form of each; directories where it is not said.
    #[serde(default)]
    forms: Vec<String>,
    user_xattr: bool,
    throwaway: bool,
    /// Directories of the host's root that are overlays of their own.
    #[serde(default)]
    parts: Vec<PathBuf>,
}

/// Makes the snapshot of `request` over `layers` (lowest first).
pub(crate) fn prepare(
    disk: &Disk,
    request: &PrepareRequest<'_>,
    rows: &[LayerRow],
    layers: Option<&Layers<'_>>,
    user_xattr: bool,
) -> Result<Snapshot> {
    check_key(request.key)?;
    let start = rows.iter().rposition(|row| row.opaque_root).unwrap_or(0);
    // A layer that an image has twice shows the same from the upper place alone, and overlay takes no directory twice.
    let mut seen = HashSet::new();
    let visible: Vec<&LayerRow> = rows[start..].iter().rev().filter(|row| seen.insert(&row.key)).collect();
    let mut record = Record {
        manifest: match request.base {
            Base::Image(image) => Some(image.manifest),
            Base::Host => None,
        },
        layers: visible.iter().map(|row| row.key.clone()).collect(),
        forms: visible.iter().map(|row| row.form.as_str().to_owned()).collect(),
        user_xattr,
        throwaway: request.throwaway,
        parts: Vec::new(),
    };
    let temporary = disk.temporary("snapshot")?;
    let upper = temporary.create_dir("upper", 0o755)?;
    match request.base {
        Base::Host => copy_root(Path::new("/"), &upper, user_xattr)?,
        Base::Image(_) => {
            let topmost = rows.iter().rev().find(|row| row.has_root);
            if let Some((row, layers)) = topmost.zip(layers) {
                looks(copy_attributes(&open_root(&layers.open(row)?)?, &upper), user_xattr)?;
            }
        }
    }
    temporary.create_dir("work", 0o700)?;
    if record.layers.is_empty() && record.manifest.is_some() {
        temporary.create_dir("lower", 0o755)?;
    } else if record.manifest.is_none() && user_xattr {
        record.parts = host::frame(&temporary)?;
    }
    let text =
        serde_json::to_vec(&record).map_err(|error| Error::invalid("cannot write a snapshot").caused_by(error))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(temporary.as_fd(), "snapshot", flags, Mode::RUSR | Mode::WUSR).call(|| "openat(\"snapshot\")")?;
    write_all(&file, &text).call(|| "write(<snapshot>)")?;
    drop(file);
    if !temporary.commit(&disk.part("snapshots")?, request.key)? {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("a snapshot `{}` exists already", request.key)));
    }
    Ok(record.snapshot(disk, request.key))
}

/// The merged root looks as the upper directory does.
pub(crate) fn copy_root(path: &Path, upper: &std::os::fd::OwnedFd, user_namespace: bool) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open({path:?}, O_DIRECTORY)"))?;
    looks(copy_attributes(&from, upper), user_namespace)
}

/// An owner may be an id that a user namespace does not show: the directory looks as it can.
fn looks(result: Result<()>, user_namespace: bool) -> Result<()> {
    match result {
        Err(error) if user_namespace && error.errno().is_some() => Ok(()),
        result => result,
    }
}

/// Reads a snapshot's record.
pub(crate) fn read(disk: &Disk, key: &str) -> Result<Record> {
    check_key(key)?;
    let path = format!("snapshots/{key}/snapshot");
    let text = match disk.root().read(&path, 1024 * 1024) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no snapshot `{key}`")));
        }
        result => result?,
    };
    parse_document(&text, &path).map_err(|error: Error| error.with_kind(ErrorKind::Corrupt))
}

/// The names of all snapshots.
pub(crate) fn keys(disk: &Disk) -> Result<Vec<String>> {
    let snapshots: Root = disk.part("snapshots")?;
    Ok(snapshots.list(".")?.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
}

/// Removes a snapshot: into the trash.
pub(crate) fn remove(disk: &Disk, key: &str) -> Result<()> {
    check_key(key)?;
    disk.discard(&format!("snapshots/{key}")).context(|| format!("cannot remove the snapshot `{key}`"))
}

impl Record {
    /// The manifest of the image below.
    pub(crate) fn manifest(&self) -> Option<Digest> {
        self.manifest
    }

    pub(crate) fn snapshot(&self, disk: &Disk, key: &str) -> Snapshot {
        let dir = disk.path().join("snapshots").join(key);
        let forms = self.forms.iter().map(|form| Form::parse(form).unwrap_or(Form::Directory));
        let forms = forms.chain(std::iter::repeat(Form::Directory));
        let layers = disk.path().join("layers");
        let mut lower: Vec<PathBuf> =
            self.layers.iter().zip(forms).map(|(key, form)| layers.join(key).join(form.lower())).collect();
        if lower.is_empty() {
            let framed = self.manifest.is_some() || !self.parts.is_empty();
            lower.push(if framed { dir.join("lower") } else { PathBuf::from("/") });
        }
        let overlay = Overlay {
            lower,
            upper: Some(Upper { dir: dir.join("upper"), work: dir.join("work") }),
            user_xattr: self.user_xattr,
            volatile: self.throwaway,
            parts: self.parts.clone(),
            extra: Vec::new(),
        };
        Snapshot { key: key.to_owned(), manifest: self.manifest, overlay }
    }
}

/// A key becomes a file name.
fn check_key(key: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if (1..=200).contains(&key.len()) && key.bytes().all(fits) && !key.starts_with('.') {
        return Ok(());
    }
    Err(Error::invalid(format!("`{}` cannot name a snapshot", key.escape_debug())))
}
