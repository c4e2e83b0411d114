//! What closes the container's file system: read-only paths, masks, the console, the last read-only flags.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_sys::Call as _;
use corten_sys::mount as attr;
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attach::{Change, Filesystem, Mounter, Source, detached, move_onto};
use super::mounts::Made;
use super::options::Attributes;
use super::place::{PROC_MAGIC, Place, Places, file_system, file_type, relative};

/// `DEVPTS_SUPER_MAGIC`
const DEVPTS_MAGIC: u32 = 0x1cd1;
/// Major numbers of Unix98 terminals' slave sides.
const PTY_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

const READ_ONLY: Attributes = Attributes { set: attr::RDONLY, clear: 0 };

/// The container's tree, /proc and /sys being the mounts that were made for it.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    places: &'a Places,
    proc: Option<Root>,
    sys: Option<Root>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(places: &'a Places, made: &mut Made) -> Self {
        let root = |mount: Option<OwnedFd>, label: &str| mount.map(|mount| Root::from_fd(mount, label));
        Self { places, proc: root(made.proc.take(), "/proc"), sys: root(made.sys.take(), "/sys") }
    }

    /// An O_PATH descriptor of what `path` leads to; `None` where nothing is.
    fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let (root, rest) = match (&self.proc, &self.sys, path.strip_prefix("/proc"), path.strip_prefix("/sys")) {
            (Some(proc), _, Ok(rest), _) => (proc, rest),
            (_, Some(sys), _, Ok(rest)) => (sys, rest),
            _ => (&self.places.root, path),
        };
        match root.try_open(relative(rest), OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno).call(|| format!("openat2(<{}>, {rest:?}, O_PATH)", root.label().display())),
        }
    }
}

pub(super) fn make_read_only(mounter: &mut Mounter, tree: &Tree<'_>, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let step = || format!("cannot make `{}` read-only", path.display());
        let Some(place) = tree.find(path).context(step)? else { continue };
        bind_read_only(mounter, tree, path, &place).context(step)?;
    }
    Ok(())
}

fn bind_read_only(mounter: &mut Mounter, tree: &Tree<'_>, path: &Path, place: &OwnedFd) -> Result<()> {
    let reopen = || tree.find(path)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "it is gone"));
    let mut bind = |recursive| {
        let change = Change { attributes: READ_ONLY, recursive, ..Change::default() };
        mounter.bind_onto(Source::Place(place.as_fd()), true, &[change], place.as_fd(), &reopen)
    };
    match bind(true) {
        // Kernels before 5.12 change one mount at a time: the upper one, which the first try has bound already.
        Err(error) if error.errno() == Some(Errno::NOSYS.raw_os_error()) => {
            let change = Change { attributes: READ_ONLY, ..Change::default() };
            mounter.change(reopen()?.as_fd(), &change)
        }
        result => result.map(drop),
    }
}

/// Covers files by the null device and directories by one empty read-only tmpfs.
pub(super) fn mask(mounter: &mut Mounter, tree: &Tree<'_>, paths: &[PathBuf], label: &str) -> Result<()> {
    let mut masks = Masks { label, null: None, directory: None };
    for path in paths {
        let step = || format!("cannot mask `{}`", path.display());
        let Some(place) = tree.find(path).context(step)? else { continue };
        let place = Place::made(place, path.clone());
        masks.cover(mounter, tree, &place).context(step)?;
    }
    Ok(())
}

struct Masks<'a> {
    label: &'a str,
    null: Option<OwnedFd>,
    directory: Option<OwnedFd>,
}

impl Masks<'_> {
    fn cover(&mut self, mounter: &mut Mounter, tree: &Tree<'_>, place: &Place) -> Result<()> {
        let reopen = || tree.find(&place.path)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "it is gone"));
        if file_type(place.fd.as_fd())? != FileType::Directory {
            if self.null.is_none() {
                self.null = Some(null_device(&tree.places.root)?);
            }
            if let Some(null) = &self.null {
                mounter.bind_onto(Source::Place(null.as_fd()), false, &[], place.fd.as_fd(), &reopen)?;
            }
            return Ok(());
        }
        if let Some(directory) = &self.directory {
            return mounter
                .bind_onto(Source::Place(directory.as_fd()), false, &[], place.fd.as_fd(), &reopen)
                .map(drop);
        }
        let empty = self.empty();
        let mount = match detached(&empty, attr::RDONLY)? {
            Some(mount) if move_onto(mount.as_fd(), place.fd.as_fd())? => mount,
            _ => mounter.mount(&empty, attr::RDONLY, tree.places, place)?,
        };
        self.directory = Some(mount);
        Ok(())
    }

    fn empty(&self) -> Filesystem {
        let mut data = vec!["nr_blocks=1".to_owned(), "nr_inodes=2".to_owned(), "mode=755".to_owned()];
        if !self.label.is_empty() {
            data.push(format!("context={}", self.label));
        }
        Filesystem { kind: "tmpfs".into(), source: "tmpfs".into(), data, ..Filesystem::default() }
    }
}

/// The container's /dev/null, checked to be the null device and nothing that a link leads to.
pub(super) fn null_device(root: &Root) -> Result<OwnedFd> {
    let step = "the container's `/dev/null` cannot be used";
    let null = root.open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).context(|| step)?;
    if !is_null(null.as_fd())? {
        return Err(Error::new(ErrorKind::Denied, "the container's `/dev/null` is not the null device"));
    }
    Ok(null)
}

fn is_null(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).call(|| "fstat")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(kind == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3))
}

/// Standard descriptors that are the host's null device become the container's: the host's could be reached through it.
pub(super) fn reopen_null(root: &Root) -> Result<()> {
    let mut null = None;
    for number in 0..3 {
        let is_null = match number {
            0 => is_null(rustix::stdio::stdin()),
            1 => is_null(rustix::stdio::stdout()),
            _ => is_null(rustix::stdio::stderr()),
        };
        if !matches!(is_null, Ok(true)) {
            continue;
        }
        if null.is_none() {
            let file = root.open("/dev/null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY, Mode::empty())?;
            if !self::is_null(file.as_fd())? {
                return Err(Error::new(ErrorKind::Denied, "the container's `/dev/null` is not the null device"));
            }
            null = Some(file);
        }
        if let Some(null) = &null {
            match number {
                0 => rustix::stdio::dup2_stdin(null),
                1 => rustix::stdio::dup2_stdout(null),
                _ => rustix::stdio::dup2_stderr(null),
            }
            .call(|| format!("dup2(<null>, {number})"))?;
        }
    }
    Ok(())
}

/// Binds a terminal's slave side at /dev/console.
pub(super) fn mount_console(mounter: &mut Mounter, places: &Places, pty: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(pty).call(|| "fstat(<terminal>)")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_pty = kind == FileType::CharacterDevice
        && PTY_MAJORS.contains(&rustix::fs::major(stat.st_rdev))
        && file_system(pty)? == DEVPTS_MAGIC;
    if !is_pty {
        return Err(Error::new(ErrorKind::Denied, "the terminal is not of a devpts"));
    }
    let (directory, name) = places.root.parent("/dev/console")?;
    if file_system(directory.as_fd())? == PROC_MAGIC {
        return Err(Error::new(ErrorKind::Denied, "`/dev` leads into /proc"));
    }
    let open = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&directory, &name, flags, Mode::empty())
    };
    let place = match open() {
        Err(Errno::NOENT) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            rustix::fs::openat(&directory, &name, flags, Mode::from_raw_mode(0o620))
                .call(|| "openat(\"console\", O_CREAT | O_EXCL)")?;
            open().call(|| "openat(\"console\", O_PATH)")?
        }
        result => result.call(|| "openat(\"console\", O_PATH)")?,
    };
    match file_type(place.as_fd())? {
        FileType::RegularFile | FileType::CharacterDevice => {}
        kind => return Err(Error::new(ErrorKind::Denied, format!("`/dev/console` in the rootfs is a {kind:?}"))),
    }
    let reopen = || open().call(|| "openat(\"console\", O_PATH)");
    mounter.bind_onto(Source::Place(pty), false, &[], place.as_fd(), &reopen).map(drop)
}

/// The last read-only flags: mounts that had to be written first, then the root.
pub(super) fn finish(mounter: &mut Mounter, places: &Places, made: &mut Made, root_read_only: bool) -> Result<()> {
    let change = Change { attributes: READ_ONLY, ..Change::default() };
    for (mount, destination) in made.read_only_last.drain(..) {
        mounter.change(mount.as_fd(), &change).context(|| format!("cannot make `{destination}` read-only"))?;
    }
    if root_read_only {
        mounter.change(places.root.as_fd(), &change).context(|| "cannot make the root read-only")?;
    }
    Ok(())
}
