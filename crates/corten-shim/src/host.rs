//! This machine's own root as a container's lower layer, inside a user namespace.
//!
//! There the kernel refuses an overlay over `/`, because mounts below it are locked: a view of `/` without them would show
//! what they hide. So every directory of the root that has no mount below it gets an overlay of its own, the others are
//! bound read-only, and what is the machine's alone stays empty.
//!
//! ```text
//! ROOTFS            tmpfs; the links of `/`
//! ROOTFS/NAME       overlay: lower /NAME, upper UPPER/NAME, work WORK/NAME; or /NAME itself, read-only
//! ```

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_fs::Root;
use corten_fs::overlay::{Overlay, Upper};
use corten_sys::Call;
use corten_sys::mount::{MountAttr, RDONLY, mount_setattr};
use corten_types::{Context, Result};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

/// Directories that a container gets from elsewhere, or that mean something on the machine alone.
const EMPTY: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "mnt", "lost+found"];

/// Whether `overlay` is one over this machine's root, which a user namespace cannot mount as it is.
pub(crate) fn is_host(overlay: &Overlay) -> bool {
    overlay.lower == [Path::new("/")]
}

/// Mounts a tree that looks like the machine's root at `rootfs`.
pub(crate) fn mount_tree(overlay: &Overlay, rootfs: &Path) -> Result<()> {
    mount("tmpfs", rootfs, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .call(|| format!("mount(\"tmpfs\", {rootfs:?})"))?;
    let (machine, tree) = (Root::open_ambient(Path::new("/"))?.beneath(), Root::open_ambient(rootfs)?.beneath());
    for entry in machine.list(".")? {
        let name = OsStr::from_bytes(entry.name.as_bytes());
        match entry.kind {
            FileType::Symlink => tree.symlink(machine.readlink(name)?, name)?,
            FileType::Directory => {
                let mode = if name == "tmp" { 0o1777 } else { 0o755 };
                tree.create_dir(name, Mode::from_raw_mode(0o755))?;
                rustix::fs::chmodat(&tree, name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
                    .call(|| format!("fchmodat({name:?}, {mode:o})"))?;
                if !EMPTY.iter().any(|empty| name == *empty) {
                    mount_directory(overlay, name, &tree)
                        .context(|| format!("cannot show the machine's `/{}`", name.display()))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn mount_directory(overlay: &Overlay, name: &OsStr, tree: &Root) -> Result<()> {
    let lower = Path::new("/").join(name);
    let Some(upper) = &overlay.upper else { return bind_read_only(&lower, name, tree) };
    let upper = Upper { dir: part(&upper.dir, name)?, work: part(&upper.work, name)? };
    let one = Overlay { lower: vec![lower.clone()], upper: Some(upper), ..overlay.clone() };
    match one.mount(tree.open_path(name)?.as_fd()) {
        // Locked mounts below, or a directory that this user may not read.
        Err(error) if matches!(error.errno().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::ACCESS)) => {
            bind_read_only(&lower, name, tree)
        }
        result => result.map(drop),
    }
}

/// A directory of the writable layer for one directory of the root.
fn part(directory: &Path, name: &OsStr) -> Result<std::path::PathBuf> {
    Root::open_ambient(directory)?.create_dir_all(name, Mode::from_raw_mode(0o755))?;
    Ok(directory.join(name))
}

/// Shows a directory with every mount below it, none of them writable.
fn bind_read_only(lower: &Path, name: &OsStr, tree: &Root) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let clone = open_tree(rustix::fs::CWD, lower, flags).call(|| format!("open_tree({lower:?}, OPEN_TREE_CLONE)"))?;
    let attributes = MountAttr { set: RDONLY, recursive: true, ..MountAttr::default() };
    mount_setattr(clone.as_fd(), c"", &attributes).call(|| format!("mount_setattr({lower:?}, MOUNT_ATTR_RDONLY)"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&clone, c"", tree.open_path(name)?, c"", flags).call(|| format!("move_mount({lower:?}, {name:?})"))
}
