//! The way into the rootfs: a mount of its own, then the process's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::Call as _;
use corten_sys::mount::{self as attr, MountAttr};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::MountNamespace;
use super::attach::{Change, Filesystem, Mounter, Source, move_onto};
use super::options::{Propagation, ms};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Keeps mounts of the new namespace from the host, and puts the rootfs on a mount of its own; that mount.
pub(super) fn attach_root(
    mounter: &mut Mounter,
    rootfs: &Path,
    namespace: MountNamespace,
    propagation: Option<Propagation>,
) -> Result<OwnedFd> {
    let mut wanted = propagation.unwrap_or(Propagation { kind: ms::SLAVE, recursive: true });
    // Until every source is bound; see `RootfsPlan::seal`.
    if wanted.kind == ms::UNBINDABLE {
        wanted.kind = ms::PRIVATE;
    }
    if namespace != MountNamespace::Host {
        change_root(mounter, wanted).context(|| "cannot set the propagation of the new mount namespace")?;
    }
    let open = || {
        rustix::fs::open(rootfs, DIRECTORY, Mode::empty()).call(|| format!("open({rootfs:?}, O_PATH | O_DIRECTORY)"))
    };
    let place = open().context(|| format!("cannot open the rootfs `{}`", rootfs.display()))?;
    if namespace != MountNamespace::Host && !wanted.unshares_all() {
        unshare_parent(mounter, &place, wanted).context(|| "cannot make the rootfs's parent mount private")?;
    }
    let mount = mounter
        .bind_onto(Source::Place(place.as_fd()), true, &[], place.as_fd(), &open)
        .context(|| format!("cannot bind the rootfs `{}` on itself", rootfs.display()))?;
    if namespace == MountNamespace::Host {
        let change = Change { propagation: ms::PRIVATE, recursive: true, ..Change::default() };
        mounter.change(mount.as_fd(), &change)?;
    }
    Ok(mount)
}

fn change_root(mounter: &mut Mounter, propagation: Propagation) -> Result<()> {
    let attr = MountAttr { propagation: propagation.kind, recursive: propagation.recursive, ..MountAttr::default() };
    if attr::mount_setattr(CWD, c"/", &attr).is_ok() {
        return Ok(());
    }
    let root = rustix::fs::open("/", DIRECTORY, Mode::empty()).call(|| "open(\"/\", O_PATH)")?;
    let change = Change { propagation: propagation.kind, recursive: propagation.recursive, ..Change::default() };
    mounter.change(root.as_fd(), &change)
}

/// pivot_root(2) wants the mount above the rootfs not to be shared, and nothing of ours may propagate to the host.
fn unshare_parent(mounter: &mut Mounter, rootfs: &OwnedFd, wanted: Propagation) -> Result<()> {
    let propagation = if wanted.kind == ms::SLAVE { ms::SLAVE } else { ms::PRIVATE };
    let change = Change { propagation, ..Change::default() };
    let mut here = rootfs.try_clone()?;
    loop {
        match mounter.change(here.as_fd(), &change) {
            // No mount point; the one that holds it is further up.
            Err(error) if error.errno() == Some(Errno::INVAL.raw_os_error()) => {
                let up = rustix::fs::openat(&here, c"..", DIRECTORY, Mode::empty()).call(|| "openat(\"..\")")?;
                let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
                if inode(&up).call(|| "fstat")? == inode(&here).call(|| "fstat")? {
                    return Err(error);
                }
                here = up;
            }
            result => return result,
        }
    }
}

/// pivot_root(2); the old root is detached.
pub(super) fn pivot(mounter: &mut Mounter, root: BorrowedFd<'_>, may_be_shared: bool) -> Result<()> {
    let old = match may_be_shared {
        true => Some(rustix::fs::open("/", DIRECTORY, Mode::empty()).call(|| "open(\"/\", O_PATH)")?),
        false => None,
    };
    rustix::process::fchdir(root).call(|| "fchdir(<rootfs>)")?;
    // With both paths the same the old root comes to lie on the new one, and no directory is needed for it (pivot_root(2)).
    rustix::process::pivot_root(".", ".").call(|| "pivot_root(\".\", \".\")").map_err(|error| {
        if error.errno() == Some(Errno::INVAL.raw_os_error()) {
            return error.hint("a root on the kernel's initial ramfs cannot be pivoted; use `--no-pivot`");
        }
        error
    })?;
    if let Some(old) = old {
        // Taking it away would else take it from the host.
        let change = Change { propagation: ms::SLAVE, recursive: true, ..Change::default() };
        mounter.change(old.as_fd(), &change)?;
        rustix::process::fchdir(root).call(|| "fchdir(<rootfs>)")?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH).call(|| "umount2(\".\", MNT_DETACH)")?;
    rustix::process::chdir("/").call(|| "chdir(\"/\")")
}

/// chroot(2) alone.
pub(super) fn chroot(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).call(|| "fchdir(<rootfs>)")?;
    rustix::process::chroot(".").call(|| "chroot(\".\")")?;
    rustix::process::chdir("/").call(|| "chdir(\"/\")")
}

/// Moves the rootfs over `/`; the host's whole procfs and sysfs mounts are hidden first, since a process that finds one in
/// its mount namespace may mount its own without masks.
pub(super) fn move_root(mounter: &mut Mounter, root: BorrowedFd<'_>, rootfs: &Path) -> Result<()> {
    let mountinfo = corten_fs::root::read_ambient(Path::new("/proc/self/mountinfo"), 64 << 20)?;
    for path in whole_kernel_mounts(&String::from_utf8_lossy(&mountinfo), rootfs) {
        hide(mounter, &path).context(|| format!("cannot hide the host's `{}`", path.display()))?;
    }
    let top = rustix::fs::open("/", DIRECTORY, Mode::empty()).call(|| "open(\"/\", O_PATH)")?;
    if !move_onto(root, top.as_fd())? {
        rustix::process::fchdir(root).call(|| "fchdir(<rootfs>)")?;
        rustix::mount::mount_move(".", "/").call(|| "mount(\".\", \"/\", MS_MOVE)")?;
    }
    chroot(root)
}

fn hide(mounter: &mut Mounter, path: &Path) -> Result<()> {
    let fd = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
        // What held it is gone already.
        Err(Errno::NOENT) => return Ok(()),
        result => result.call(|| format!("open({path:?}, O_PATH)"))?,
    };
    mounter.change(fd.as_fd(), &Change { propagation: ms::SLAVE, recursive: true, ..Change::default() })?;
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::PERM) => {
            let cover = Filesystem { kind: "tmpfs".into(), source: "tmpfs".into(), ..Filesystem::default() };
            match super::attach::detached(&cover, attr::RDONLY)? {
                Some(mount) if move_onto(mount.as_fd(), fd.as_fd())? => Ok(()),
                _ => Err(Error::new(ErrorKind::Denied, "it can neither be unmounted nor covered")),
            }
        }
        Err(errno) => Err(errno).call(|| format!("umount2({path:?}, MNT_DETACH)")),
    }
}

/// Mount points of whole procfs and sysfs instances outside the rootfs (proc_pid_mountinfo(5)).
fn whole_kernel_mounts(mountinfo: &str, rootfs: &Path) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ').skip(3);
        let (root, path) = (fields.next()?, fields.next()?);
        let kind = back.split(' ').next()?;
        (root == "/" && matches!(kind, "proc" | "sysfs")).then(|| PathBuf::from(unescape(path)))
    };
    mountinfo.lines().filter_map(mount).filter(|path| !path.starts_with(rootfs)).collect()
}

/// Takes `\040` and its like back.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let octal = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_kernel_file_systems_are_found_in_mountinfo() {
        let mountinfo = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                         23 27 0:22 / /a\\040b rw shared:1 - sysfs sysfs rw\n\
                         24 27 0:21 /sys /proc/sys ro - proc proc rw\n\
                         25 27 0:21 / /r/proc rw - proc proc rw\n\
                         26 27 8:1 / / rw - ext4 /dev/vda rw\nbroken";
        let found = whole_kernel_mounts(mountinfo, Path::new("/r"));
        assert_eq!(found, [Path::new("/proc"), Path::new("/a b")]);
    }
}
