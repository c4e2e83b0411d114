//! Where a mount goes: a descriptor of a directory or file beneath the rootfs, made where it is missing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use corten_fs::Root;
use corten_sys::Call as _;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// `PROC_SUPER_MAGIC`
pub(super) const PROC_MAGIC: u32 = 0x9fa0;

/// Files in /proc that may be covered: what lxcfs emulates, as other runtimes allow.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What a mount has to do with /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// It is a procfs, fresh or bound.
    Procfs,
    /// Anything else.
    Other,
}

/// What a missing mount point becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    File,
}

/// An opened mount point.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    /// Absolute inside the container.
    pub(super) path: PathBuf,
    /// It was there before.
    pub(super) existed: bool,
    followed: bool,
}

impl Place {
    /// A place that was made or looked at otherwise, without a symlink.
    pub(super) fn made(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path, existed: true, followed: false }
    }
}

/// The rootfs as mount points see it.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) root: Root,
    /// The same directory, refusing symlinks.
    pub(super) plain: Root,
}

impl Places {
    pub(super) fn new(root: Root) -> Result<Self> {
        let plain = root.try_clone()?.beneath();
        Ok(Self { root, plain })
    }

    /// The mount point `path`, made where missing; symlinks lead where they would lead inside the container.
    pub(super) fn open(&self, path: &Path, shape: Shape, shows: Shows) -> Result<Place> {
        let place = match self.plain.try_open(relative(path), OFlags::PATH, Mode::empty()) {
            Ok(fd) => Place { fd, path: path.to_owned(), existed: true, followed: false },
            Err(Errno::NOENT) => match self.create(&self.plain, relative(path), shape) {
                Ok(fd) => Place { fd, path: path.to_owned(), existed: false, followed: false },
                Err(error) if error.errno() == Some(Errno::LOOP.raw_os_error()) => self.follow(path, shape)?,
                Err(error) => return Err(error),
            },
            Err(Errno::LOOP) => self.follow(path, shape)?,
            Err(errno) => return Err(errno).call(|| self.call_text(path)),
        };
        self.check(&place, shows)?;
        Ok(place)
    }

    /// The mount point `path` for a file system that other programs trust to be there: nothing on the way may be a symlink.
    pub(super) fn open_ordinary(&self, path: &Path, shows: Shows) -> Result<Place> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let refused = || {
            let path = path.display();
            let found = format!("`{path}` in the rootfs is, or lies behind, a symlink or a file");
            Error::new(ErrorKind::Denied, format!("{found}; this file system must be mounted on ordinary directory"))
                .hint(format!("make `{path}` a directory in the image"))
        };
        let place = match self.plain.try_open(relative(path), flags, Mode::empty()) {
            Ok(fd) => Place { fd, path: path.to_owned(), existed: true, followed: false },
            Err(Errno::NOENT) => {
                let fd = self.create(&self.plain, relative(path), Shape::Directory)?;
                Place { fd, path: path.to_owned(), existed: false, followed: false }
            }
            // With O_DIRECTORY the kernel says ENOTDIR of a last symlink.
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(refused()),
            Err(errno) => return Err(errno).call(|| self.call_text(path)),
        };
        self.check(&place, shows)?;
        Ok(place)
    }

    /// The same place once more, after a mount on it by mount(2): now what is mounted there.
    pub(super) fn reopen(&self, place: &Place) -> Result<OwnedFd> {
        let root = if place.followed { &self.root } else { &self.plain };
        let fd = root.open(relative(&place.path), OFlags::PATH, Mode::empty())?;
        if mount_identity(fd.as_fd())? == mount_identity(place.fd.as_fd())? {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("`{}` was moved while it was mounted on", place.path.display()),
            ));
        }
        Ok(fd)
    }

    fn follow(&self, path: &Path, shape: Shape) -> Result<Place> {
        let (fd, existed) = match self.root.try_open(path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => (fd, true),
            Err(Errno::NOENT) => (self.create(&self.root, path, shape)?, false),
            Err(errno) => return Err(errno).call(|| self.call_text(path)),
        };
        Ok(Place { fd, path: path.to_owned(), existed, followed: true })
    }

    fn create(&self, root: &Root, path: &Path, shape: Shape) -> Result<OwnedFd> {
        if shape == Shape::Directory
            && let Some(made) = create_last(root, path)
        {
            return Ok(made);
        }
        match shape {
            Shape::Directory => root.create_dir_all(path, Mode::from_raw_mode(0o755)),
            Shape::File => root.open_or_create_file(path, OFlags::PATH, Mode::from_raw_mode(0o644)),
        }
    }

    /// Refuses a mount onto the root, and onto or inside /proc by anything that is no procfs.
    fn check(&self, place: &Place, shows: Shows) -> Result<()> {
        let refused = |what: &str| {
            let error = Error::new(ErrorKind::Denied, format!("`{}` {what}", place.path.display()));
            Err(error.hint("the container's own /proc would be hidden or replaced"))
        };
        if place.path == Path::new("/proc") {
            return if shows == Shows::Procfs { Ok(()) } else { refused("can be covered by a procfs only") };
        }
        if place.path.starts_with("/proc")
            && (place.followed || !PROC_FILES.iter().any(|file| place.path == Path::new(file)))
        {
            return refused("is inside /proc");
        }
        if !place.followed {
            return Ok(());
        }
        if file_system(place.fd.as_fd())? == PROC_MAGIC {
            return refused("leads into /proc");
        }
        let here = identity(place.fd.as_fd())?;
        if here == identity(self.root.as_fd())? {
            return Err(Error::new(ErrorKind::Denied, format!("`{}` leads to the root", place.path.display())));
        }
        match self.plain.try_open(Path::new("proc"), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(proc) if identity(proc.as_fd())? == here => refused("leads to /proc"),
            _ => Ok(()),
        }
    }

    fn call_text(&self, path: &Path) -> String {
        format!("openat2(<{}>, {path:?}, O_PATH, RESOLVE_IN_ROOT)", self.root.label().display())
    }
}

/// The usual case in few calls: the last directory alone is missing. `None` where it is not so simple.
fn create_last(root: &Root, path: &Path) -> Option<OwnedFd> {
    let (parent, name) = (path.parent()?, path.file_name()?);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let parent = root.try_open(parent, flags, Mode::empty()).ok()?;
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).ok()?;
    rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// The path without its leading slash; `.` for the root.
pub(super) fn relative(path: &Path) -> &Path {
    match path.strip_prefix("/") {
        Ok(rest) if rest.as_os_str().is_empty() => Path::new("."),
        Ok(rest) => rest,
        Err(_) => path,
    }
}

/// Makes a path absolute and takes `.` and `..` out by their letters, as other runtimes do.
pub(super) fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The type of file system that `fd` lies on, as statfs(2) numbers it.
pub(super) fn file_system(fd: BorrowedFd<'_>) -> Result<u32> {
    let found = rustix::fs::fstatfs(fd).call(|| "fstatfs")?;
    Ok(u32::try_from(found.f_type & 0xffff_ffff).unwrap_or(0))
}

/// What kind of file `fd` is.
pub(super) fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd).call(|| "fstat")?.st_mode))
}

fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).call(|| "fstat")?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The mount and the inode.
fn mount_identity(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let mask = rustix::fs::StatxFlags::MNT_ID | rustix::fs::StatxFlags::INO;
    let stat = rustix::fs::statx(fd, c"", rustix::fs::AtFlags::EMPTY_PATH, mask).call(|| "statx(STATX_MNT_ID)")?;
    Ok((stat.stx_mnt_id, stat.stx_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_absolute_and_cannot_climb() {
        for (given, expected) in
            [("/a//b/./c/", "/a/b/c"), ("a", "/a"), ("../../etc", "/etc"), ("/proc/../..", "/"), ("", "/")]
        {
            assert_eq!(clean(given), Path::new(expected));
        }
        assert_eq!(relative(Path::new("/")), Path::new("."));
        assert_eq!(relative(Path::new("/a/b")), Path::new("a/b"));
    }
}
