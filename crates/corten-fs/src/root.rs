//! A directory held by descriptor; every path is resolved beneath it and cannot leave it.
//!
//! Two resolvers give the same answers: openat2(2), and for kernels or outer sandboxes without it a walk component by
//! component over O_PATH descriptors ([`walk`]). Neither trusts `/proc`.

mod remove;
mod walk;

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// How often a resolution that raced with a rename (EAGAIN) is tried again before the walk takes over.
const RACE_RETRIES_MAX: u32 = 64;

/// What may happen on the way of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// As after chroot(2): symlinks are followed, absolute ones and `..` stop at the root. For the trees of containers.
    InRoot,
    /// No symlink, no `..` above the root, nothing absolute. For Corten's own state.
    Beneath,
}

/// Which resolver is used. Only tests have a reason to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// openat2(2), and the walk where the kernel or a sandbox refuses it.
    Openat2,
    /// The walk alone.
    Walk,
}

/// A directory and everything beneath it.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    label: PathBuf,
    scope: Scope,
    resolver: Resolver,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without slashes.
    pub name: CString,
    /// What it is; symlinks are not followed.
    pub kind: FileType,
}

impl Root {
    /// Opens the directory at `path` of the host; the path itself is trusted (symlinks are followed).
    pub fn open_ambient(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open({path:?}, O_PATH | O_DIRECTORY)"))?;
        Ok(Self::from_fd(dir, path))
    }

    /// Takes a descriptor of a directory; `label` is what errors call it.
    pub fn from_fd(dir: OwnedFd, label: impl Into<PathBuf>) -> Self {
        Self { dir, label: label.into(), scope: Scope::InRoot, resolver: Resolver::Openat2 }
    }

    /// The same directory with [`Scope::Beneath`].
    #[must_use]
    pub fn beneath(self) -> Self {
        Self { scope: Scope::Beneath, ..self }
    }

    /// The same directory with another resolver.
    #[must_use]
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// A second handle of the same directory.
    pub fn try_clone(&self) -> Result<Self> {
        let dir = self.dir.try_clone()?;
        Ok(Self { dir, label: self.label.clone(), scope: self.scope, resolver: self.resolver })
    }

    /// A root of the same scope at the directory `path` beneath this one.
    pub fn sub_root(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let dir = self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { dir, label: self.label.join(path), scope: self.scope, resolver: self.resolver })
    }

    /// What errors call this directory: the path it was opened at.
    pub fn label(&self) -> &Path {
        &self.label
    }

    /// Opens `path` (openat2(2)); close-on-exec is added. O_NOFOLLOW opens a last symlink itself (with O_PATH) or fails.
    pub fn open(&self, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.try_open(path, flags, mode).call(|| self.openat2_text(path, flags))
    }

    /// An O_PATH descriptor of what `path` resolves to.
    pub fn open_path(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open(path, OFlags::PATH, Mode::empty())
    }

    /// As [`Root::open`], the bare error number kept for callers that decide by it.
    pub fn try_open(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if self.resolver == Resolver::Openat2 {
            // The kernel refuses a mode for a file that is not made (EINVAL).
            let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) { mode } else { Mode::empty() };
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            for _ in 0..RACE_RETRIES_MAX {
                match rustix::fs::openat2(&self.dir, path, flags, mode, self.resolve_flags()) {
                    Err(Errno::AGAIN) => {}
                    // EPERM may be the answer of a sandbox's filter or of the file; the walk tells which.
                    Err(Errno::NOSYS | Errno::PERM) => break,
                    result => return result,
                }
            }
        }
        self.walk_open(path, flags, mode)
    }

    /// The directory `path`, made with its parents (mode `mode`, umask applied) where missing, as an O_PATH descriptor.
    ///
    /// A dangling symlink on the way is followed and its target made, inside the root.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.try_open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => self
                .walk(path, walk::Last::Directory(mode))
                .and_then(walk::Place::into_found)
                .call(|| format!("mkdir -p([{}]<{}>, {path:?})", self.dir.as_raw_fd(), self.label.display())),
            result => result.call(|| self.openat2_text(path, flags)),
        }
    }

    /// Opens the file `path`, made empty with its parent directories (mode 755) where missing.
    pub fn open_or_create_file(&self, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        match self.try_open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            result => return result.call(|| self.openat2_text(path, flags)),
        }
        let create = || {
            let place = self.walk(path, walk::Last::Parents(Mode::from_raw_mode(0o755)))?;
            if place.found.is_none() {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
                match rustix::fs::openat(&place.parent, &place.name, flags, mode) {
                    Ok(_) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
            }
            rustix::fs::openat(&place.parent, &place.name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        create().call(|| format!("open([{}]<{}>, {path:?}, O_CREAT)", self.dir.as_raw_fd(), self.label.display()))
    }

    /// The directory that holds the last name of `path`, and that name. The last name itself is not looked at.
    pub fn parent(&self, path: impl AsRef<Path>) -> Result<(OwnedFd, CString)> {
        let path = path.as_ref();
        let (parent, name) =
            split(path).ok_or_else(|| Error::invalid(format!("`{}` does not end in a name", path.display())))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir = self.try_open(parent, flags, Mode::empty()).call(|| self.openat2_text(parent, flags))?;
        Ok((dir, name))
    }

    /// Makes one directory.
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: Mode) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        rustix::fs::mkdirat(&dir, &name, mode).call(|| self.text("mkdirat", path.as_ref()))
    }

    /// Makes a symlink at `path` with the content `target`, which is not looked at.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        rustix::fs::symlinkat(target.as_ref(), &dir, &name).call(|| self.text("symlinkat", path.as_ref()))
    }

    /// Makes a device node, FIFO or socket; the umask applies.
    pub fn mknod(&self, path: impl AsRef<Path>, kind: FileType, mode: Mode, device: Dev) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        rustix::fs::mknodat(&dir, &name, kind, mode, device).call(|| self.text("mknodat", path.as_ref()))
    }

    /// The content of the symlink at `path`.
    pub fn readlink(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let link = self.open(&path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let content = rustix::fs::readlinkat(&link, c"", Vec::new()).call(|| self.text("readlinkat", path.as_ref()))?;
        Ok(PathBuf::from(OsStr::from_bytes(content.as_bytes())))
    }

    /// Attributes of what `path` resolves to.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let file = self.open_path(&path)?;
        rustix::fs::fstat(file).call(|| self.text("fstat", path.as_ref()))
    }

    /// Attributes of `path`; a last symlink is not followed.
    pub fn stat_nofollow(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let file = self.open(&path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        rustix::fs::fstat(file).call(|| self.text("fstat", path.as_ref()))
    }

    /// Whether `path` resolves to something.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        match self.try_open(path.as_ref(), OFlags::PATH, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno).call(|| self.openat2_text(path.as_ref(), OFlags::PATH)),
        }
    }

    /// The content of the regular file `path`, refused where it is longer than `size_bytes_max` or no regular file
    /// (a FIFO would block for ever).
    pub fn read(&self, path: impl AsRef<Path>, size_bytes_max: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        read_bounded(file.as_fd(), size_bytes_max)
            .map_err(|error| error.context(format!("cannot read `{}`", self.label.join(strip(path)).display())))
    }

    /// Removes the file, symlink or node `path`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        rustix::fs::unlinkat(&dir, &name, AtFlags::empty()).call(|| self.text("unlinkat", path.as_ref()))
    }

    /// Removes the empty directory `path`.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        rustix::fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR).call(|| self.text("rmdir", path.as_ref()))
    }

    /// Removes `path` and everything beneath it; follows no symlink, crosses no mount. Its absence is no error.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (dir, name) = match self.parent(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result?,
        };
        remove::remove_all(dir.as_fd(), &name).call(|| self.text("unlinkat", path))
    }

    /// Renames `from` to `to`, both beneath this root (renameat2(2)).
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, flags: RenameFlags) -> Result<()> {
        let (from_dir, from_name) = self.parent(&from)?;
        let (to_dir, to_name) = self.parent(&to)?;
        let renamed = if flags.is_empty() {
            rustix::fs::renameat(&from_dir, &from_name, &to_dir, &to_name)
        } else {
            rustix::fs::renameat_with(&from_dir, &from_name, &to_dir, &to_name, flags)
        };
        renamed.call(|| format!("{} to {:?}", self.text("renameat2", from.as_ref()), to.as_ref()))
    }

    /// The names in the directory `path`, without `.` and `..`, in the order the file system gives them.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<Entry>> {
        let path = path.as_ref();
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        remove::entries(dir.as_fd()).call(|| self.text("getdents", path))
    }

    fn resolve_flags(&self) -> ResolveFlags {
        match self.scope {
            Scope::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            Scope::Beneath => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        }
    }

    fn openat2_text(&self, path: &Path, flags: OFlags) -> String {
        let scope = match self.scope {
            Scope::InRoot => "RESOLVE_IN_ROOT",
            Scope::Beneath => "RESOLVE_BENEATH",
        };
        let (fd, label) = (self.dir.as_raw_fd(), self.label.display());
        let mut names = String::new();
        for (name, _) in flags.iter_names() {
            names.push_str(if names.is_empty() { "O_" } else { " | O_" });
            names.push_str(name);
        }
        if names.is_empty() {
            names.push_str("O_RDONLY");
        }
        format!("openat2([{fd}]<{label}>, {path:?}, {names}, {scope})")
    }

    fn text(&self, call: &str, path: &Path) -> String {
        format!("{call}([{}]<{}>, {path:?})", self.dir.as_raw_fd(), self.label.display())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The content of an open regular file, refused where it is longer than `size_bytes_max` or no regular file.
pub fn read_bounded(file: BorrowedFd<'_>, size_bytes_max: u64) -> Result<Vec<u8>> {
    let stat = rustix::fs::fstat(file).call(|| "fstat")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid("it is not a regular file"));
    }
    let too_long = || Error::invalid(format!("it is longer than {size_bytes_max} bytes"));
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > size_bytes_max {
        return Err(too_long());
    }
    // One byte more than the limit tells a file that grows (or, as in procfs, states no size) from one that fits.
    let limit = usize::try_from(size_bytes_max).unwrap_or(usize::MAX).saturating_add(1);
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1).max(512));
    while content.len() < limit {
        if content.len() == content.capacity() {
            content.reserve(content.len().max(4096));
        }
        let room = (content.capacity() - content.len()).min(limit - content.len());
        let start = content.len();
        content.resize(start + room, 0);
        let count = match rustix::io::read(file, &mut content[start..]) {
            Ok(count) => count,
            Err(Errno::INTR) => {
                content.truncate(start);
                continue;
            }
            result => result.call(|| "read")?,
        };
        content.truncate(start + count);
        if count == 0 {
            return Ok(content);
        }
    }
    Err(too_long())
}

/// Opens a file of the host by a trusted path and reads it, as [`read_bounded`].
pub fn read_ambient(path: &Path, size_bytes_max: u64) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).call(|| format!("open({path:?}, O_RDONLY)"))?;
    read_bounded(file.as_fd(), size_bytes_max)
        .map_err(|error| error.context(format!("cannot read `{}`", path.display())))
}

fn strip(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The parent and the last name; `None` where the last component is no name (`/`, `.`, `..`).
fn split(path: &Path) -> Option<(&Path, CString)> {
    let name = path.file_name()?;
    // `Path` passes over a last `.`, which asks for the directory itself.
    let mut last = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').filter(|component| !component.is_empty());
    if last.next() == Some(b".") {
        return None;
    }
    Some((path.parent()?, CString::new(name.as_bytes()).ok()?))
}
