//! Unpacked layers: made once, shared by every image and container.
//!
//! A layer that describes all its directories is the same on top of any other: its name under `layers/` is its diff id.
//! One with members in directories that it does not describe takes their looks from the layers below, and is bound to
//! them: its name is its chain id.
//!
//! A layer's files are not synced one by one. Its row notes the boot it was unpacked in; until the row says that it was
//! synced, another boot unpacks it again from its blob, which is durable before any row.

pub mod apply;
mod compare;
pub mod decode;
mod directory;
mod erofs;
pub mod form;
pub(crate) mod members;
pub mod owner;
pub(crate) mod wrapping;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use corten_fs::Root;
use corten_fs::overlay::Overlay;
use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::image_spec::Compression;
use corten_types::{Context, Digest, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

use crate::blob::digest_of;
use crate::database::Database;
use crate::disk::{Disk, Temporary, exists};
use crate::growing::LayerBytes;
use crate::lease::Lease;
use crate::lock::NamedLock;
use decode::Decoder;
use directory::Directories;
use erofs::Images;
use form::{Draft, Finished, Form, LayerForm};
use owner::Owners;

pub(crate) use directory::copy_attributes;

/// What is noted about an unpacked layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerRow {
    /// Its name under `layers/`.
    pub(crate) key: String,
    /// Bytes of regular files.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// Whether it says what the root directory looks like.
    pub(crate) has_root: bool,
    /// Whether it hides all below it.
    pub(crate) opaque_root: bool,
    pub(crate) squashed: u64,
    pub(crate) devices_skipped: u64,
    pub(crate) boot: String,
    pub(crate) synced: bool,
    pub(crate) form: Form,
    /// Bytes on the disk, where that is known without counting.
    pub(crate) disk_size: Option<u64>,
    /// The digest of an image's index.
    pub(crate) index: Option<Digest>,
}

/// A layer whose looks depend on those below, unpacked but for that.
pub(crate) struct Bound {
    temporary: Temporary,
    draft: Box<dyn Draft>,
    blob: Digest,
    pub(crate) diff_id: Digest,
}

/// What unpacking gave.
pub(crate) enum Unpacked {
    /// The layer is stored under its diff id.
    Shared(Digest),
    /// It waits for the layers below it.
    Bound(Box<Bound>),
}

impl Unpacked {
    pub(crate) fn diff_id(&self) -> Digest {
        match self {
            Self::Shared(diff_id) => *diff_id,
            Self::Bound(bound) => bound.diff_id,
        }
    }
}

/// The unpacked layers of a store.
pub(crate) struct Layers<'s> {
    disk: &'s Disk,
    database: &'s Database,
    owners: Owners,
    form: OnceLock<(Form, String)>,
    boot: String,
    limits: decode::Limits,
    /// Keeps what is found and stored; collection is shut out in another way where there is none.
    lease: Option<&'s Lease>,
}

impl<'s> Layers<'s> {
    pub(crate) fn new(disk: &'s Disk, database: &'s Database, limits: decode::Limits) -> Result<Self> {
        let boot = corten_fs::root::read_ambient(Path::new("/proc/sys/kernel/random/boot_id"), 100)?;
        let boot = String::from_utf8_lossy(&boot).trim().to_owned();
        let owners = Owners::of_this_process()?;
        Ok(Self { disk, database, owners, form: OnceLock::new(), boot, limits, lease: None })
    }

    /// The form that new layers take, and why.
    pub(crate) fn form(&self) -> &(Form, String) {
        self.form.get_or_init(|| self.choose_form())
    }

    fn choose_form(&self) -> (Form, String) {
        if let Some(form) = self.disk.layer_form() {
            return (form, "asked for".to_owned());
        }
        if self.owners.in_user_namespace() || !rustix::process::geteuid().is_root() {
            return (Form::Directory, "only root mounts EROFS images".to_owned());
        }
        match corten_fs::erofs::is_supported(self.disk.path()) {
            Ok(()) => (Form::Erofs, "fastest here: this kernel mounts EROFS images from files".to_owned()),
            Err(error) => (Form::Directory, format!("no EROFS images here: {}", error.one_line())),
        }
    }

    fn of_form(&self, form: Form) -> Box<dyn LayerForm> {
        let directories = Directories { owners: self.owners.clone() };
        match form {
            Form::Directory => Box::new(directories),
            Form::Erofs => Box::new(Images { directories }),
        }
    }

    /// Layers that are found or stored from now on are kept by `lease`.
    pub(crate) fn kept_by(self, lease: &'s Lease) -> Self {
        Self { lease: Some(lease), ..self }
    }

    fn keep(&self, key: &str) -> Result<()> {
        self.lease.map_or(Ok(()), |lease| lease.keep_layer(key))
    }

    /// The usable unpacked layer, if there is one: by diff id or, where it is bound to those below, by chain id.
    pub(crate) fn find(&self, diff_id: &Digest, chain_id: &Digest) -> Result<Option<LayerRow>> {
        match self.usable(&diff_id.hex())? {
            None if chain_id != diff_id => self.usable(&chain_id.hex()),
            found => Ok(found),
        }
    }

    fn usable(&self, key: &str) -> Result<Option<LayerRow>> {
        self.keep(key)?;
        let Some(row) = self.database.layer(key)? else { return Ok(None) };
        let survived = row.synced || row.boot == self.boot;
        let owners_fit = row.squashed == 0 || self.owners.squashes();
        let readable = row.form == Form::Directory || corten_fs::erofs::is_known();
        let is_there = || self.disk.root().exists(format!("layers/{key}/{}", row.form.lower()));
        if survived && owners_fit && readable && is_there()? {
            return Ok(Some(row));
        }
        Ok(None)
    }

    /// A layer's tree, for looking into it.
    pub(crate) fn open(&self, row: &LayerRow) -> Result<Root> {
        self.of_form(row.form).open(&self.directory(&row.key))
    }

    fn directory(&self, key: &str) -> PathBuf {
        self.disk.path().join("layers").join(key)
    }

    /// Unpacked layers, lowest first, as one read-only tree.
    pub(crate) fn overlay(&self, rows: &[LayerRow]) -> Overlay {
        let start = rows.iter().rposition(|row| row.opaque_root).unwrap_or(0);
        let mut seen = std::collections::HashSet::new();
        let visible = rows[start..].iter().rev().filter(|row| seen.insert(&row.key));
        Overlay {
            lower: visible.map(|row| self.directory(&row.key).join(row.form.lower())).collect(),
            user_xattr: self.user_xattr(),
            ..Overlay::default()
        }
    }

    /// Unpacks a blob, unless that was done before. One process does it at a time; the others find it done.
    pub(crate) fn unpack(&self, blob: &Digest, bytes: &LayerBytes) -> Result<Unpacked> {
        let locks = self.disk.part("locks")?;
        let _one_at_a_time = NamedLock::acquire(locks.as_fd(), &format!("blob-{}", blob.hex()))?;
        if let Some(diff_id) = self.database.diff_id_of(blob)?
            && self.usable(&diff_id.hex())?.is_some()
        {
            return Ok(Unpacked::Shared(diff_id));
        }
        let temporary = self.disk.temporary("layer")?;
        let (draft, diff_id) = self.extract(blob, bytes, &temporary)?;
        let bound = Bound { temporary, draft, blob: *blob, diff_id };
        if !bound.draft.applied().implicit.is_empty() {
            self.database.note_blob(blob, &diff_id)?;
            return Ok(Unpacked::Bound(Box::new(bound)));
        }
        let key = diff_id.hex();
        self.store(bound, &key, &[])?;
        Ok(Unpacked::Shared(diff_id))
    }

    fn extract(&self, blob: &Digest, bytes: &LayerBytes, temporary: &Temporary) -> Result<(Box<dyn Draft>, Digest)> {
        let plain_digest_is_known = blob.algorithm() == Algorithm::Sha256;
        let stream = Decoder::new(bytes.reader(), plain_digest_is_known, self.limits)?.ahead()?;
        let plain = match bytes {
            LayerBytes::Whole(file) if stream.compression() == Compression::None => Some(&**file),
            _ => None,
        };
        let unpacked = self.of_form(self.form().0).unpack(stream, plain, temporary);
        let (draft, diff_id) = unpacked.context(|| format!("layer {blob}"))?;
        bytes.verified()?;
        Ok((draft, diff_id.unwrap_or(*blob)))
    }

    /// Stores a layer that depends on those below it, given lowest first.
    pub(crate) fn bind(&self, bound: Box<Bound>, chain_id: &Digest, below: &[LayerRow]) -> Result<LayerRow> {
        let key = chain_id.hex();
        let below: Vec<Root> = below
            .iter()
            .rev()
            .map(|row| self.open(row))
            .collect::<Result<_>>()
            .context(|| "cannot open the layers below")?;
        self.store(*bound, &key, &below)
    }

    fn store(&self, bound: Bound, key: &str, below: &[Root]) -> Result<LayerRow> {
        let Bound { temporary, draft, blob, diff_id } = bound;
        let Finished { form, applied, disk_size, index } = draft.finish(below)?;
        let row = LayerRow {
            key: key.to_owned(),
            size: applied.size,
            entries: applied.entries,
            has_root: applied.has_root,
            opaque_root: applied.opaque_root,
            squashed: applied.squashed,
            devices_skipped: applied.devices_skipped,
            boot: self.boot.clone(),
            synced: false,
            form,
            disk_size,
            index,
        };
        let locks = self.disk.part("locks")?;
        let _one_at_a_time = NamedLock::acquire(locks.as_fd(), &format!("layer-{key}"))?;
        if let Some(found) = self.usable(key)? {
            self.database.note_blob(&blob, &diff_id)?;
            return Ok(found);
        }
        let layers = self.disk.part("layers")?;
        if exists(&layers, key) {
            // Renamed by a process that was killed before it wrote the row, or not to be trusted any more.
            self.database.remove_layer(key)?;
            self.disk.discard(&format!("layers/{key}"))?;
        }
        if !temporary.commit(&layers, key)? {
            return Err(Error::new(ErrorKind::Conflict, format!("layer `{key}` appeared while it was being stored")));
        }
        self.database.add_layer(&row, &diff_id, &blob)?;
        Ok(row)
    }

    /// Whether layers of this boot are not durable yet.
    pub(crate) fn is_unsynced(&self) -> Result<bool> {
        Ok(!self.database.unsynced_layers(&self.boot)?.is_empty())
    }

    /// Makes the layers of this boot durable, where some are not.
    pub(crate) fn sync(&self) -> Result<()> {
        let keys = self.database.unsynced_layers(&self.boot)?;
        if keys.is_empty() {
            return Ok(());
        }
        let dir = self.disk.root().open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        rustix::fs::syncfs(dir).call(|| "syncfs(<store>)")?;
        self.database.mark_synced(&keys)
    }

    /// Whether overlay's own attributes are the user form here.
    pub(crate) fn user_xattr(&self) -> bool {
        self.owners.in_user_namespace()
    }
}

/// A root directory, open for reading its attributes.
pub(crate) fn open_root(root: &Root) -> Result<OwnedFd> {
    root.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Chain ids of a list of diff ids, lowest first (image specification, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Result<Vec<Digest>> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => *diff_id,
            Some(below) => digest_of(Algorithm::Sha256, format!("{below} {diff_id}").as_bytes())?,
        };
        chain.push(next);
    }
    Ok(chain)
}
