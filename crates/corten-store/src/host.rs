//! The host's root as a lower directory in a user namespace.
//!
//! The kernel refuses `/` there, since mounts lie beneath it that the namespace may not undo: what they cover must stay
//! covered. So the root is a frame, made of `/`'s own names: symlinks and files are copied, mount points are empty
//! directories, and every directory without mounts beneath becomes a part, an overlay of its own. A directory with mounts
//! somewhere beneath is a frame again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};

use crate::disk::Temporary;
use crate::snapshot::copy_root;

/// Most parts: each is a mount.
const PARTS_MAX: usize = 256;
/// Largest file of a frame, bytes; a larger one is left out.
const FILE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Makes the frame in `temporary/lower`, and room for each part; the parts.
pub(crate) fn frame(temporary: &Temporary) -> Result<Vec<PathBuf>> {
    let mounts = mount_points()?;
    temporary.create_dir("lower", 0o755)?;
    temporary.create_dir("parts", 0o700)?;
    let here = Root::from_fd(temporary.as_fd().try_clone_to_owned()?, "snapshot").beneath();
    let mut framer = Framer {
        host: Root::open_ambient(Path::new("/"))?,
        lower: here.sub_root("lower")?,
        rooms: here.sub_root("parts")?,
        mounts,
        parts: Vec::new(),
    };
    framer.directory(Path::new(""))?;
    Ok(framer.parts)
}

struct Framer {
    host: Root,
    lower: Root,
    rooms: Root,
    mounts: BTreeSet<PathBuf>,
    parts: Vec<PathBuf>,
}

impl Framer {
    fn directory(&mut self, path: &Path) -> Result<()> {
        let entries = match self.host.list(path) {
            // A directory that this user may not read stays empty.
            Err(error) if error.kind() == ErrorKind::Denied => return Ok(()),
            result => result?,
        };
        for entry in entries {
            let path = path.join(OsString::from_vec(entry.name.into_bytes()));
            match entry.kind {
                FileType::Directory => self.subdirectory(&path)?,
                FileType::Symlink => self.lower.symlink(self.host.readlink(&path)?, &path)?,
                FileType::RegularFile => self.file(&path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn subdirectory(&mut self, path: &Path) -> Result<()> {
        self.lower.create_dir_all(path, Mode::from_raw_mode(0o755))?;
        let absolute = Path::new("/").join(path);
        if self.mounts.contains(&absolute) {
            return Ok(());
        }
        if self.mounts.iter().any(|mount| mount.starts_with(&absolute)) {
            return self.directory(path);
        }
        if self.parts.len() >= PARTS_MAX {
            let message = format!("this host's root has more than {PARTS_MAX} directories beside mounts");
            return Err(Error::new(ErrorKind::Exhausted, message).hint("run as root, where `/` is one lower directory"));
        }
        for name in ["upper", "work"] {
            self.rooms.create_dir_all(path.join(name), Mode::RWXU)?;
        }
        let upper = self.rooms.open(path.join("upper"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        match copy_root(&absolute, &upper, true) {
            // Not readable by this user; it is not readable inside either.
            Err(error) if error.kind() != ErrorKind::Denied => return Err(error),
            _ => {}
        }
        self.parts.push(path.to_owned());
        Ok(())
    }

    fn file(&self, path: &Path) -> Result<()> {
        let Ok(content) = self.host.read(path, FILE_SIZE_BYTES_MAX) else { return Ok(()) };
        let mode = Mode::from_raw_mode(self.host.stat_nofollow(path)?.st_mode & 0o777);
        let file = self.lower.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)?;
        write_all(file.as_fd(), &content).call(|| "write(<frame>)")
    }
}

/// Where something is mounted, from /proc/self/mountinfo.
fn mount_points() -> Result<BTreeSet<PathBuf>> {
    let table = corten_fs::root::read_ambient(Path::new("/proc/self/mountinfo"), 16 * 1024 * 1024)?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path != Path::new("/"))
        .collect())
}

/// Spaces and the like are `\040` there.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &after[3..];
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(b"/a\\040b\\134c\\0"), Path::new("/a b\\c\\0"));
    }
}
