//! One cgroup directory, held by descriptor, and the files in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_fs::Root;
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, XattrFlags};
use rustix::io::Errno;

use super::layout::Version;

const CGROUP_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Largest cgroup file that is read, bytes; `cgroup.procs` of a million processes is smaller.
const FILE_SIZE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The note of [`Directory::mark`].
const MARK: &str = "user.corten";

/// Cgroups nested deeper than this below a container's are not followed.
const DEPTH_MAX: u32 = 256;

/// An open cgroup directory.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: String,
}

/// Opens the mount point of a hierarchy and makes sure that it is one: something may be mounted over it.
pub(super) fn open_mount(mount: &str, version: Version) -> Result<Root> {
    let root = Root::open_ambient(Path::new(mount))?.beneath();
    let kind = rustix::fs::fstatfs(root.as_fd()).call(|| format!("fstatfs(<{mount}>)"))?.f_type;
    let expected = match version {
        Version::V1 => CGROUP_MAGIC,
        Version::V2 => CGROUP2_MAGIC,
    };
    if kind == expected {
        return Ok(root);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("`{mount}` is not the cgroup file system that the mount table says"),
    ))
}

impl Directory {
    /// Opens the cgroup `path` beneath the mount `root`: no symlink, no way out.
    pub(super) fn open(root: &Root, path: &str) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = root.try_open(Path::new(path), flags, Mode::empty())?;
        Ok(Self { fd, path: join(&root.label().to_string_lossy(), path) })
    }

    /// A second handle.
    pub(super) fn try_clone(&self) -> Result<Self> {
        let fd =
            rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).call(|| format!("fcntl(<{}>, F_DUPFD_CLOEXEC)", self.path))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// Opens the child cgroup `name`.
    pub(super) fn child(&self, name: &str) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Self { fd, path: join(&self.path, name) })
    }

    /// Absolute path, for people.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The descriptor (O_PATH).
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens the file `name`, which has no slash.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes `value` in one call: the kernel takes each write as a whole.
    pub(super) fn write(&self, name: &str, value: &str) -> rustix::io::Result<()> {
        write_value(&self.file(name, OFlags::WRONLY)?, value)
    }

    /// As [`Directory::write`], with the failed call as the error.
    pub(super) fn set(&self, name: &str, value: &str) -> Result<()> {
        self.write(name, value).call(|| self.write_text(name, value))
    }

    /// How a write reads in an error.
    pub(super) fn write_text(&self, name: &str, value: &str) -> String {
        format!("write([{}]<{}/{name}>, {:?})", self.fd.as_raw_fd(), self.path, value)
    }

    /// The content of the file `name`.
    pub(super) fn read(&self, name: &str) -> rustix::io::Result<String> {
        read_to_end(&self.file(name, OFlags::RDONLY)?)
    }

    /// As [`Directory::read`], with the failed call as the error.
    pub(super) fn get(&self, name: &str) -> Result<String> {
        self.read(name).call(|| format!("read(<{}/{name}>)", self.path))
    }

    /// The value of `key` in a file of `KEY VALUE` lines.
    pub(super) fn keyed(&self, name: &str, key: &str) -> rustix::io::Result<Option<u64>> {
        Ok(keyed(&self.read(name)?, key))
    }

    /// The names of the cgroups right below.
    pub(super) fn children(&self) -> rustix::io::Result<Vec<String>> {
        // The link count says it at once: two, and one for every child.
        if rustix::fs::fstat(&self.fd)?.st_nlink <= 2 {
            return Ok(Vec::new());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(&list, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// Notes on the directory that Corten made it, so that whoever is its last user knows to remove it.
    pub(super) fn mark(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.file(".", flags).and_then(|list| rustix::fs::fsetxattr(&list, MARK, b"1", XattrFlags::empty())) {
            // Without the note (an old kernel) an empty directory stays.
            Ok(()) | Err(_) => {}
        }
    }

    /// Whether it is empty and [`Directory::mark`] was here.
    pub(super) fn is_marked(&self) -> bool {
        let empty = rustix::fs::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink <= 2);
        // By name, in one call: at worst an empty directory is left, or removed that is nobody's.
        empty && rustix::fs::getxattr(&self.path, MARK, &mut [0u8; 8][..]).is_ok()
    }

    /// Calls `visit` for this cgroup and every one below, children last.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Self) -> Result<()>) -> Result<()> {
        self.walk_to(DEPTH_MAX, visit)
    }

    fn walk_to(&self, depth: u32, visit: &mut dyn FnMut(&Self) -> Result<()>) -> Result<()> {
        visit(self)?;
        if depth == 0 {
            return Ok(());
        }
        let children = match self.children() {
            Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            result => result.call(|| format!("getdents(<{}>)", self.path))?,
        };
        for name in children {
            match self.child(&name) {
                Ok(child) => child.walk_to(depth - 1, visit)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).call(|| format!("open(<{}/{name}>)", self.path)),
            }
        }
        Ok(())
    }

    /// Removes every cgroup below this one. One with processes stays, and so do those above it.
    pub(super) fn remove_children(&self, depth: u32) -> rustix::io::Result<()> {
        for name in self.children()? {
            match rustix::fs::unlinkat(&self.fd, name.as_str(), AtFlags::REMOVEDIR) {
                Err(Errno::BUSY) if depth > 0 => {
                    self.child(&name)?.remove_children(depth - 1)?;
                    match rustix::fs::unlinkat(&self.fd, name.as_str(), AtFlags::REMOVEDIR) {
                        Err(Errno::NOENT | Errno::BUSY) | Ok(()) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                Err(Errno::NOENT | Errno::BUSY) | Ok(()) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The processes of this very cgroup, as the caller's pid namespace names them.
    pub(super) fn pids(&self) -> Result<Vec<i32>> {
        let text = match self.read("cgroup.procs") {
            // A threaded cgroup lists its threads only.
            Err(Errno::OPNOTSUPP) => self.read("cgroup.threads"),
            result => result,
        };
        let text = match text {
            Err(Errno::NOENT | Errno::NODEV) => return Ok(Vec::new()),
            result => result.call(|| format!("read(<{}/cgroup.procs>)", self.path))?,
        };
        // 0 is a process outside the caller's pid namespace.
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
    }

    /// The processes of this cgroup and of all below.
    pub(super) fn all_pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        self.walk(&mut |directory| {
            pids.append(&mut directory.pids()?);
            Ok(())
        })?;
        Ok(pids)
    }
}

/// One write of the whole value.
pub(super) fn write_value(file: &OwnedFd, value: &str) -> rustix::io::Result<()> {
    loop {
        match rustix::io::write(file, value.as_bytes()) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// The value of `key` in `KEY VALUE` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The whole of an open file, up to a bound.
pub(super) fn read_to_end(file: &OwnedFd) -> rustix::io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < FILE_SIZE_BYTES_MAX {
        match rustix::io::read(file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `path` beneath `base`.
pub(super) fn join(base: &str, path: &str) -> String {
    if path.is_empty() { base.to_owned() } else { format!("{}/{path}", base.trim_end_matches('/')) }
}
