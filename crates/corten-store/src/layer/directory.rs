//! The form of plain directories, for every kernel and for user namespaces: see `apply.rs`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_fs::Root;
use corten_fs::tar::{Archive, Limits};
use corten_sys::Call;
use corten_types::{Context, Digest, Result};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::apply::{Applied, apply};
use super::decode::Decoder;
use super::form::{Draft, Finished, Form, LayerForm};
use super::owner::Owners;
use crate::disk::Temporary;

/// Layers as directories.
pub(crate) struct Directories {
    pub(crate) owners: Owners,
}

struct DirectoryDraft {
    tree: Root,
    applied: Applied,
}

impl LayerForm for Directories {
    fn unpack(
        &self,
        stream: Decoder<'static>,
        _plain: Option<&File>,
        into: &Temporary,
    ) -> Result<(Box<dyn Draft>, Option<Digest>)> {
        let dir = into.create_dir(Form::Directory.lower(), 0o755)?;
        let tree = Root::from_fd(dir.as_fd().try_clone_to_owned()?, "layer");
        let mut archive = Archive::new(stream, Limits::default());
        let applied = apply(&mut archive, dir, &self.owners, Decoder::check_members)?;
        let digest = archive.into_inner().finish()?;
        Ok((Box::new(DirectoryDraft { tree, applied }), digest))
    }

    fn open(&self, path: &Path) -> Result<Root> {
        Root::open_ambient(&path.join(Form::Directory.lower()))
    }
}

impl Draft for DirectoryDraft {
    fn applied(&self) -> &Applied {
        &self.applied
    }

    fn finish(self: Box<Self>, below: &[Root]) -> Result<Finished> {
        for path in &self.applied.implicit {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            copy_looks(below, &self.tree, path).context(|| format!("`{}`", path.display()))?;
        }
        Ok(Finished { form: Form::Directory, applied: self.applied, disk_size: None, index: None })
    }
}

/// The directory at `path` as it shows below: of the topmost layer that has one, unless a layer above hides it.
pub(super) fn find_below(below: &[Root], path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    for layer in below {
        match layer.try_open(path, flags, Mode::empty()) {
            Ok(found) => return Some(found),
            Err(Errno::NOENT) if !hides(layer, path) => {}
            // A whiteout or a file is in the way.
            Err(_) => return None,
        }
    }
    None
}

/// Whether a directory above `path` hides all that is below the layer.
fn hides(layer: &Root, path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).any(|above| {
        let Ok(directory) = layer.try_open(above, flags, Mode::empty()) else { return false };
        let is_set = |name: &std::ffi::CStr| rustix::fs::fgetxattr(&directory, name, &mut [0u8; 8][..]).is_ok();
        is_set(c"trusted.overlay.opaque") || is_set(c"user.overlay.opaque")
    })
}

/// Gives the directory `path` of a layer the looks that it has in the topmost layer below that has it.
fn copy_looks(below: &[Root], tree: &Root, path: &Path) -> Result<()> {
    let Some(from) = find_below(below, path) else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
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
    for (name, value) in xattrs(from)? {
        rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty()).call(|| "fsetxattr(<layer>)")?;
    }
    let time =
        |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(to, &times).call(|| "futimens(<layer>)")
}

/// The attributes of a directory that belong to what is in it, not to overlay or the machine's security module.
pub(super) fn xattrs(from: &OwnedFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 64 * 1024];
    // A file system without attributes has none to copy.
    let length = rustix::fs::flistxattr(from, &mut names[..]).unwrap_or(0);
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") || name.starts_with(b"security.selinux")
        {
            continue;
        }
        let mut value = vec![0u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name, &mut value[..]).call(|| "fgetxattr(<layer>)")?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}
