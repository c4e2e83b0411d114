//! Unpacked layers: made once, shared by every image and container.
//!
//! A layer that describes all its directories is the same on top of any other: its name under `layers/` is its diff id.
//! One with members in directories that it does not describe takes their looks from the layers below, and is bound to
//! them: its name is its chain id.
//!
//! A layer's files are not synced one by one. Its row notes the boot it was unpacked in; until the row says that it was
//! synced, another boot unpacks it again from its blob, which is durable before any row.

pub mod apply;
pub mod decode;
pub mod owner;

use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::tar::{Archive, Limits};
use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::{Context, Digest, Error, ErrorKind, Result};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::blob::digest_of;
use crate::database::Database;
use crate::disk::{Disk, Temporary, exists};
use crate::growing::LayerBytes;
use crate::lease::Lease;
use crate::lock::NamedLock;
use apply::{Applied, apply};
use decode::Decoder;
use owner::Owners;

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
}

/// A layer whose looks depend on those below, unpacked but for that.
pub(crate) struct Bound {
    temporary: Temporary,
    applied: Applied,
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
    boot: String,
    limits: decode::Limits,
    /// Keeps what is found and stored; collection is shut out in another way where there is none.
    lease: Option<&'s Lease>,
}

impl<'s> Layers<'s> {
    pub(crate) fn new(disk: &'s Disk, database: &'s Database, limits: decode::Limits) -> Result<Self> {
        let boot = corten_fs::root::read_ambient(Path::new("/proc/sys/kernel/random/boot_id"), 100)?;
        let boot = String::from_utf8_lossy(&boot).trim().to_owned();
        Ok(Self { disk, database, owners: Owners::of_this_process()?, boot, limits, lease: None })
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
        if survived && owners_fit && self.disk.root().exists(format!("layers/{key}/fs"))? {
            return Ok(Some(row));
        }
        Ok(None)
    }

    /// Where a layer's tree lies.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.disk.path().join("layers").join(key).join("fs")
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
        let (applied, diff_id) = self.extract(blob, bytes, &temporary)?;
        let bound = Bound { temporary, applied, blob: *blob, diff_id };
        if !bound.applied.implicit.is_empty() {
            self.database.note_blob(blob, &diff_id)?;
            return Ok(Unpacked::Bound(Box::new(bound)));
        }
        let key = diff_id.hex();
        self.store(bound, &key)?;
        Ok(Unpacked::Shared(diff_id))
    }

    fn extract(&self, blob: &Digest, bytes: &LayerBytes, temporary: &Temporary) -> Result<(Applied, Digest)> {
        let plain_digest_is_known = blob.algorithm() == Algorithm::Sha256;
        let decoder = Decoder::new(bytes.reader(), plain_digest_is_known, self.limits)?;
        let dir = temporary.create_dir("fs", 0o755)?;
        let mut archive = Archive::new(decoder, Limits::default());
        let applied = apply(&mut archive, dir, &self.owners).map_err(|error| error.context(format!("layer {blob}")))?;
        let mut decoder = archive.into_inner();
        debug_assert!(decoder.fill_buf().is_ok_and(<[u8]>::is_empty), "the archive was read to its end");
        let diff_id = decoder.finish()?.unwrap_or(*blob);
        bytes.verified()?;
        Ok((applied, diff_id))
    }

    /// Stores a layer that depends on those below it, given lowest first.
    pub(crate) fn bind(&self, bound: Box<Bound>, chain_id: &Digest, below: &[LayerRow]) -> Result<LayerRow> {
        let key = chain_id.hex();
        let tree = Root::from_fd(bound.temporary.as_fd().try_clone_to_owned()?, "layer").sub_root("fs")?;
        let lower: Vec<Root> = below
            .iter()
            .rev()
            .map(|row| Root::open_ambient(&self.path(&row.key)))
            .collect::<Result<_>>()
            .context(|| "cannot open the layers below")?;
        for path in &bound.applied.implicit {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            copy_looks(&lower, &tree, path).map_err(|error| error.context(format!("`{}`", path.display())))?;
        }
        self.store(*bound, &key)
    }

    fn store(&self, bound: Bound, key: &str) -> Result<LayerRow> {
        let Bound { temporary, applied, blob, diff_id } = bound;
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

/// Gives the directory `path` of a layer the looks that it has in the topmost layer below that has it.
fn copy_looks(lower: &[Root], tree: &Root, path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Some(from) = lower.iter().find_map(|layer| layer.try_open(path, flags, Mode::empty()).ok()) else {
        return Ok(());
    };
    let to = tree.open(path, flags, Mode::empty())?;
    copy_attributes(&from, &to)
}

/// Owner, mode, attributes and times of a directory.
pub(crate) fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(from).call(|| "fstat")?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::fchown(to, Some(uid), Some(gid)) {
        // An owner that this user namespace does not show, as the host's own directories have there.
        Err(Errno::INVAL | Errno::PERM) => {}
        result => result.call(|| "fchown(<layer>)")?,
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).call(|| "fchmod(<layer>)")?;
    let mut names = vec![0u8; 64 * 1024];
    // A file system without attributes has none to copy.
    let length = rustix::fs::flistxattr(from, &mut names[..]).unwrap_or(0);
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") || name.starts_with(b"security.selinux")
        {
            continue;
        }
        let mut value = vec![0u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name, &mut value[..]).call(|| "fgetxattr(<layer>)")?;
        rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()).call(|| "fsetxattr(<layer>)")?;
    }
    let time =
        |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(to, &times).call(|| "futimens(<layer>)")
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
