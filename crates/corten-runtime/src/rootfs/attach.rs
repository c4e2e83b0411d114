//! Making mounts: detached by the mount calls that work on descriptors (fsopen, open_tree, mount_setattr, move_mount), and
//! where a kernel or an outer sandbox lacks one of them by mount(2), its paths then being numbers in a verified
//! /proc/self/fd.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::Call as _;
use corten_sys::mount::{self as attr, MountAttr};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use super::options::Attributes;
use super::place::{PROC_MAGIC, Place, Places, file_system, file_type};

/// Longest value that fsconfig(2) takes, bytes.
const FSCONFIG_BYTES_MAX: usize = 255;
/// Longest option string that mount(2) takes, bytes (one page).
const MOUNT_DATA_BYTES_MAX: usize = 4095;
/// `SYSFS_MAGIC`
const SYSFS_MAGIC: u32 = 0x6265_6572;
/// Inode of the root of every procfs.
const PROC_ROOT_INODE: u64 = 1;

/// A file system to mount.
#[derive(Debug, Clone, Default)]
pub(super) struct Filesystem {
    pub(super) kind: String,
    pub(super) source: String,
    /// As fsconfig(2) names them.
    pub(super) super_flags: Vec<&'static str>,
    /// `MS_*` that only mount(2) takes.
    pub(super) classic_flags: u32,
    /// `key` or `key=value`.
    pub(super) data: Vec<String>,
}

/// A change to a mount.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change<'a> {
    pub(super) attributes: Attributes,
    /// `MS_*` or 0.
    pub(super) propagation: u64,
    pub(super) recursive: bool,
    pub(super) user_namespace: Option<BorrowedFd<'a>>,
}

/// What a bind mount shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// A path of the process's own mount namespace, trusted.
    Path(&'a Path),
    /// A file or directory on a mount of the process's own mount namespace.
    Place(BorrowedFd<'a>),
    /// A detached tree, and the path it was cloned from for kernels that cannot move it.
    Tree(BorrowedFd<'a>, &'a Path),
}

/// Makes mounts, by the best means that work here.
#[derive(Debug, Default)]
pub(super) struct Mounter {
    /// /proc/self/fd, once mount(2) had to be used.
    descriptors: Option<OwnedFd>,
}

impl Mounter {
    /// A second one, which knows the same means.
    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self { descriptors: self.descriptors.as_ref().map(OwnedFd::try_clone).transpose()? })
    }

    /// Mounts `fs` with `attributes` onto `place`; a descriptor of what is mounted.
    pub(super) fn mount(
        &mut self,
        fs: &Filesystem,
        attributes: u64,
        places: &Places,
        place: &Place,
    ) -> Result<OwnedFd> {
        if let Some(mount) = detached(fs, attributes)?
            && move_onto(mount.as_fd(), place.fd.as_fd())?
        {
            return Ok(mount);
        }
        self.mount_classic(fs, attributes, place)?;
        let mount = places.reopen(place)?;
        // Found again by its path: it must be what was mounted.
        let magic = match fs.kind.as_str() {
            "proc" => Some(PROC_MAGIC),
            "sysfs" => Some(SYSFS_MAGIC),
            _ => None,
        };
        if magic.is_some() && magic != Some(file_system(mount.as_fd())?) {
            return Err(Error::new(ErrorKind::Denied, "another file system was mounted there meanwhile"));
        }
        if attributes & attr::RDONLY != 0 {
            let attributes = Attributes { set: attr::RDONLY, clear: 0 };
            self.change(mount.as_fd(), &Change { attributes, ..Change::default() })?;
        }
        Ok(mount)
    }

    fn mount_classic(&mut self, fs: &Filesystem, attributes: u64, place: &Place) -> Result<()> {
        let data = fs.data.join(",");
        if data.len() > MOUNT_DATA_BYTES_MAX {
            return Err(Error::invalid(format!("its options are {} bytes, the kernel takes 4095", data.len())));
        }
        let data = CString::new(data).map_err(|_| Errno::INVAL).call(|| "mount")?;
        // Read-only comes afterwards, for the mount alone: the file system may be shared with the host (sysfs, cgroup).
        let mut flags = classic_flags(attributes & !attr::RDONLY) | MountFlags::from_bits_retain(fs.classic_flags);
        for name in &fs.super_flags {
            flags |= match *name {
                "ro" => MountFlags::RDONLY,
                "sync" => MountFlags::SYNCHRONOUS,
                "dirsync" => MountFlags::DIRSYNC,
                "lazytime" => MountFlags::LAZYTIME,
                "mand" => MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
                _ => MountFlags::empty(),
            };
        }
        let target = self.number(place.fd.as_fd())?;
        rustix::mount::mount(fs.source.as_str(), &target, fs.kind.as_str(), flags, Some(data.as_c_str()))
            .call(|| format!("mount({:?}, <{}>, {:?}, {flags:?}, {data:?})", fs.source, place.path.display(), fs.kind))
    }

    /// Binds `source` onto `place`, with `changes` made before it can be seen; a descriptor of what is mounted.
    pub(super) fn bind(
        &mut self,
        source: Source<'_>,
        recursive: bool,
        changes: &[Change<'_>],
        places: &Places,
        place: &Place,
    ) -> Result<OwnedFd> {
        self.bind_onto(source, recursive, changes, place.fd.as_fd(), &|| places.reopen(place))
    }

    /// As [`Mounter::bind`]; `reopen` looks the mount point up again after mount(2).
    pub(super) fn bind_onto(
        &mut self,
        source: Source<'_>,
        recursive: bool,
        changes: &[Change<'_>],
        place: BorrowedFd<'_>,
        reopen: &dyn Fn() -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        let tree = match source {
            Source::Tree(tree, _) => Some(tree.try_clone_to_owned()?),
            Source::Place(fd) => clone_tree(fd, Path::new(""), recursive)?,
            Source::Path(path) => clone_tree(CWD, path, recursive)?,
        };
        if let Some(tree) = tree {
            let mut late = Vec::new();
            for change in changes {
                match set_attributes(tree.as_fd(), change) {
                    Err(Errno::NOSYS) => late.push(change),
                    result => result.map_err(|errno| change_error(errno, change))?,
                }
            }
            if move_onto(tree.as_fd(), place)? {
                for change in late {
                    self.change_classic(tree.as_fd(), change)?;
                }
                return Ok(tree);
            }
        }
        self.bind_classic(source, recursive, place)?;
        let mount = reopen()?;
        for change in changes {
            self.change(mount.as_fd(), change)?;
        }
        Ok(mount)
    }

    fn bind_classic(&mut self, source: Source<'_>, recursive: bool, place: BorrowedFd<'_>) -> Result<()> {
        let opened = match source {
            Source::Place(fd) => fd.try_clone_to_owned()?,
            Source::Path(path) | Source::Tree(_, path) => {
                rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .call(|| format!("open({path:?}, O_PATH)"))?
            }
        };
        let target = self.number(place)?;
        let source = self.number(opened.as_fd())?;
        let bound = if recursive {
            rustix::mount::mount_bind_recursive(&source, &target)
        } else {
            rustix::mount::mount_bind(&source, &target)
        };
        bound.call(|| format!("mount([{source}], [{target}], MS_BIND)"))
    }

    /// Changes an attached mount.
    pub(super) fn change(&mut self, mount: BorrowedFd<'_>, change: &Change<'_>) -> Result<()> {
        match set_attributes(mount, change) {
            Err(Errno::NOSYS) => self.change_classic(mount, change),
            result => result.map_err(|errno| change_error(errno, change)),
        }
    }

    fn change_classic(&mut self, mount: BorrowedFd<'_>, change: &Change<'_>) -> Result<()> {
        if change.user_namespace.is_some() || (change.recursive && !change.attributes.is_empty()) {
            return Err(change_error(Errno::NOSYS, change)
                .hint("recursive and id-mapped mount options need mount_setattr(2), Linux 5.12"));
        }
        let target = self.number(mount)?;
        if change.propagation != 0 {
            let recursive = if change.recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
            let kind = u32::try_from(change.propagation).unwrap_or(0);
            let flags = MountPropagationFlags::from_bits_retain(kind) | recursive;
            rustix::mount::mount_change(&target, flags).call(|| format!("mount([{target}], {flags:?})"))?;
        }
        if !change.attributes.is_empty() {
            let now = current_attributes(mount)?;
            let flags = classic_flags((now & !change.attributes.clear) | change.attributes.set) | MountFlags::BIND;
            rustix::mount::mount_remount(&target, flags, c"")
                .call(|| format!("mount([{target}], MS_REMOUNT | {flags:?})"))?;
        }
        Ok(())
    }

    /// The name of `fd` in the working directory, which becomes /proc/self/fd.
    fn number(&mut self, fd: BorrowedFd<'_>) -> Result<String> {
        if self.descriptors.is_none() {
            self.descriptors = Some(own_descriptors()?);
        }
        if let Some(directory) = &self.descriptors {
            rustix::process::fchdir(directory).call(|| "fchdir(</proc/self/fd>)")?;
        }
        Ok(fd.as_raw_fd().to_string())
    }

    /// Whether the working directory was left in /proc/self/fd.
    pub(super) fn moved_directory(&self) -> bool {
        self.descriptors.is_some()
    }
}

/// A new instance of `fs`, attached nowhere; `None` where this kernel or these options need mount(2).
pub(super) fn detached(fs: &Filesystem, attributes: u64) -> Result<Option<OwnedFd>> {
    if needs_classic(fs) {
        return Ok(None);
    }
    let context = match rustix::mount::fsopen(fs.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
        Err(Errno::NODEV) => {
            let error = Error::syscall(format!("fsopen({:?})", fs.kind), Errno::NODEV.raw_os_error());
            return Err(error.with_kind(ErrorKind::Unsupported).hint("`/proc/filesystems` lists what this kernel has"));
        }
        result => result.call(|| format!("fsopen({:?})", fs.kind))?,
    };
    let context = context.as_fd();
    configure(context, fs)?;
    rustix::mount::fsconfig_create(context)
        .call(|| format!("fsconfig(<{}>, FSCONFIG_CMD_CREATE)", fs.kind))
        .map_err(|error| with_messages(context, error))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    match rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes) {
        Err(Errno::NOSYS) => Ok(None),
        result => result.call(|| format!("fsmount(<{}>, {attributes:?})", fs.kind)).map(Some),
    }
}

fn configure(context: BorrowedFd<'_>, fs: &Filesystem) -> Result<()> {
    let flag = |name: &str| {
        rustix::mount::fsconfig_set_flag(context, name)
            .call(|| format!("fsconfig(<{}>, FSCONFIG_SET_FLAG, {name:?})", fs.kind))
    };
    let string = |key: &str, value: &str| {
        rustix::mount::fsconfig_set_string(context, key, value)
            .call(|| format!("fsconfig(<{}>, FSCONFIG_SET_STRING, {key:?}, {value:?})", fs.kind))
    };
    let apply = || {
        if !fs.source.is_empty() {
            string("source", &fs.source)?;
        }
        fs.super_flags.iter().try_for_each(|name| flag(name))?;
        fs.data.iter().try_for_each(|option| match option.split_once('=') {
            Some((key, value)) => string(key, value),
            None => flag(option),
        })
    };
    apply().map_err(|error| with_messages(context, error))
}

/// Adds what the file system wrote into its context's log.
fn with_messages(context: BorrowedFd<'_>, mut error: Error) -> Error {
    let mut buffer = [0u8; 512];
    while let Ok(count @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..count]);
        // Each message starts with its level: `e tmpfs: Unknown parameter 'x'`.
        error = error.hint(format!("the kernel says: {}", line.get(2..).unwrap_or(&line).trim()));
    }
    error
}

fn needs_classic(fs: &Filesystem) -> bool {
    let long = |text: &str| text.len() > FSCONFIG_BYTES_MAX;
    fs.classic_flags != 0
        // A subtype (`fuse.sshfs`) is an argument of mount(2) alone.
        || fs.kind.contains('.')
        || long(&fs.source)
        || fs.data.iter().any(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            // A list in one string, as mount(8) takes it; SELinux contexts hold commas of their own.
            long(key) || long(value) || (option.contains([',', '\\']) && !key.ends_with("context"))
        })
}

/// A detached copy of the tree at `path`; `None` where open_tree(2) is missing or refused.
pub(super) fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<Option<OwnedFd>> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    match rustix::mount::open_tree(dir, path, flags) {
        Ok(tree) => Ok(Some(tree)),
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno).call(|| format!("open_tree([{}], {path:?}, {flags:?})", dir.as_raw_fd())),
    }
}

/// Attaches a detached mount; false where move_mount(2) is missing or refused.
pub(super) fn move_onto(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<bool> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match rustix::mount::move_mount(mount, c"", place, c"", flags) {
        Ok(()) => Ok(true),
        Err(Errno::NOSYS | Errno::PERM) => Ok(false),
        // As mount(2) says it.
        Err(Errno::INVAL) if is_directory(mount) != is_directory(place) => {
            Err(Errno::NOTDIR).call(|| format!("move_mount([{}], [{}])", mount.as_raw_fd(), place.as_raw_fd()))
        }
        Err(errno) => Err(errno).call(|| format!("move_mount([{}], [{}])", mount.as_raw_fd(), place.as_raw_fd())),
    }
}

fn is_directory(fd: BorrowedFd<'_>) -> bool {
    file_type(fd).is_ok_and(|kind| kind == FileType::Directory)
}

/// Changes a mount that is attached nowhere.
pub(super) fn set_detached(tree: BorrowedFd<'_>, change: &Change<'_>) -> Result<()> {
    set_attributes(tree, change).map_err(|errno| change_error(errno, change))
}

fn set_attributes(mount: BorrowedFd<'_>, change: &Change<'_>) -> rustix::io::Result<()> {
    let attr = MountAttr {
        set: change.attributes.set,
        clear: change.attributes.clear,
        propagation: change.propagation,
        user_namespace: change.user_namespace,
        recursive: change.recursive,
    };
    attr::mount_setattr(mount, c"", &attr)
}

fn change_error(errno: Errno, change: &Change<'_>) -> Error {
    let Attributes { set, clear } = change.attributes;
    let recursive = if change.recursive { ", AT_RECURSIVE" } else { "" };
    let call =
        format!("mount_setattr(set {set:#x}, clear {clear:#x}, propagation {:#x}{recursive})", change.propagation);
    let error = Error::syscall(call, errno.raw_os_error());
    match errno {
        Errno::PERM if clear != 0 => {
            error.hint("flags of a mount made outside the user namespace are locked; leave them as they are")
        }
        Errno::INVAL if change.user_namespace.is_some() => {
            error.hint("the source's file system may not support id-mapped mounts")
        }
        _ => error,
    }
}

/// /proc/self/fd of the host's procfs, checked to be that.
fn own_descriptors() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || {
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).call(|| "open(\"/proc\")")?;
        let inode = rustix::fs::fstat(&proc).call(|| "fstat(\"/proc\")")?.st_ino;
        let descriptors =
            rustix::fs::openat(&proc, "self/fd", flags, Mode::empty()).call(|| "open(\"/proc/self/fd\")")?;
        if file_system(proc.as_fd())? != PROC_MAGIC
            || inode != PROC_ROOT_INODE
            || file_system(descriptors.as_fd())? != PROC_MAGIC
        {
            return Err(Error::new(ErrorKind::Denied, "what is mounted at `/proc` is not a procfs"));
        }
        Ok(descriptors)
    };
    open().context(|| "this kernel lacks open_tree(2) and its family, and mount(2) needs the host's /proc")
}

fn classic_flags(attributes: u64) -> MountFlags {
    let mut flags = MountFlags::empty();
    for (bit, flag) in [
        (attr::RDONLY, MountFlags::RDONLY),
        (attr::NOSUID, MountFlags::NOSUID),
        (attr::NODEV, MountFlags::NODEV),
        (attr::NOEXEC, MountFlags::NOEXEC),
        (attr::NODIRATIME, MountFlags::NODIRATIME),
        (attr::NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ] {
        flags.set(flag, attributes & bit != 0);
    }
    flags
        | match attributes & attr::ATIME_MASK {
            attr::NOATIME => MountFlags::NOATIME,
            attr::STRICTATIME => MountFlags::STRICTATIME,
            _ => MountFlags::RELATIME,
        }
}

/// The attributes of a mount, from statfs(2).
fn current_attributes(mount: BorrowedFd<'_>) -> Result<u64> {
    let now = u64::try_from(rustix::fs::fstatfs(mount).call(|| "fstatfs")?.f_flags).unwrap_or(0);
    let mut attributes = 0;
    for (shown, bit) in [
        (0x1, attr::RDONLY),
        (0x2, attr::NOSUID),
        (0x4, attr::NODEV),
        (0x8, attr::NOEXEC),
        (0x800, attr::NODIRATIME),
        (0x2000, attr::NOSYMFOLLOW),
    ] {
        if now & shown != 0 {
            attributes |= bit;
        }
    }
    // ST_NOATIME, ST_RELATIME; strictatime shows as neither.
    Ok(attributes
        | match (now & 0x400 != 0, now & 0x1000 != 0) {
            (true, _) => attr::NOATIME,
            (false, true) => attr::RELATIME,
            (false, false) => attr::STRICTATIME,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fs(kind: &str, data: &[&str]) -> Filesystem {
        let data = data.iter().map(ToString::to_string).collect();
        Filesystem { kind: kind.to_owned(), data, ..Filesystem::default() }
    }

    #[test]
    fn what_fsconfig_cannot_carry_goes_to_mount() {
        assert!(!needs_classic(&fs("tmpfs", &["size=64m", "mode=755"])));
        assert!(!needs_classic(&fs("tmpfs", &["context=system_u:object_r:x:s0:c1,c2"])));
        assert!(needs_classic(&fs("overlay", &["lowerdir=/a,upperdir=/b"])));
        assert!(needs_classic(&fs("overlay", &[&format!("lowerdir=/{}", "a".repeat(300))])));
        assert!(needs_classic(&fs("fuse.sshfs", &[])));
    }

    #[test]
    fn attributes_become_flags_of_mount() {
        let flags = classic_flags(attr::RDONLY | attr::NOSYMFOLLOW | attr::NOATIME);
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOSYMFOLLOW | MountFlags::NOATIME);
        assert_eq!(classic_flags(attr::STRICTATIME), MountFlags::STRICTATIME);
        assert_eq!(classic_flags(0), MountFlags::RELATIME);
    }
}
