//! Two directory trees, compared by everything that a container can see of them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

/// Directories within directories: each holds two descriptors.
const DEPTH_MAX: usize = 1000;
const BUFFER_SIZE: usize = 128 * 1024;
const XATTR_SIZE_BYTES_MAX: usize = 64 * 1024;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The second tree alone has it.
    Added,
    /// Both have it, and it is not the same.
    Changed,
    /// The first tree alone has it.
    Removed,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path, from the root, with a slash before it.
    pub path: Vec<u8>,
    /// How.
    pub change: Change,
    /// What of it changed: `content`, `mode`, `owner`, …; empty for what is added or removed.
    pub what: &'static str,
}

/// What counts. Times of directories never do: they move with everything that is made in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// What a container sees.
    Image,
    /// That, and overlay's own marks.
    Layer,
    /// Names and bytes alone.
    Bytes,
}

/// Compares the trees of two directories; paths in order.
pub(crate) fn compare(first: OwnedFd, second: OwnedFd, rules: Rules) -> Result<Vec<Difference>> {
    let mut walk = Walk { rules, found: Vec::new(), buffers: [vec![0; BUFFER_SIZE], vec![0; BUFFER_SIZE]] };
    walk.directories(&first, &second, &mut Vec::new(), 0)?;
    Ok(walk.found)
}

struct Walk {
    rules: Rules,
    found: Vec<Difference>,
    buffers: [Vec<u8>; 2],
}

impl Walk {
    fn directories(&mut self, first: &OwnedFd, second: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("directories lie deeper than {DEPTH_MAX}")));
        }
        let (before, after) = (names(first)?, names(second)?);
        let all: std::collections::BTreeSet<&CString> = before.keys().chain(after.keys()).collect();
        for name in all {
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            match (before.get(name), after.get(name)) {
                (Some(_), None) => self.note(path, Change::Removed, ""),
                (None, Some(_)) => self.note(path, Change::Added, ""),
                _ => self.both(first, second, name, path, depth)?,
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn note(&mut self, path: &[u8], change: Change, what: &'static str) {
        self.found.push(Difference { path: path.to_vec(), change, what });
    }

    fn both(
        &mut self,
        first: &OwnedFd,
        second: &OwnedFd,
        name: &CString,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let stat = |dir| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).call(|| format!("statat({name:?})"));
        let (before, after) = (stat(first)?, stat(second)?);
        let kind = FileType::from_raw_mode(before.st_mode);
        if let Some(what) = self.attributes(kind, &before, &after) {
            self.note(path, Change::Changed, what);
            if FileType::from_raw_mode(after.st_mode) != kind {
                return Ok(());
            }
        } else if kind == FileType::Symlink {
            let link = |dir| readlinkat(dir, name, Vec::new()).call(|| format!("readlinkat({name:?})"));
            if link(first)? != link(second)? {
                self.note(path, Change::Changed, "target");
            }
        }
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |dir| openat(dir, name, flags, Mode::empty()).call(|| format!("openat({name:?})"));
        let (first, second) = (open(first)?, open(second)?);
        let is_noted = self.found.last().is_some_and(|last| last.path == *path);
        if !is_noted && self.xattrs(&first)? != self.xattrs(&second)? {
            self.note(path, Change::Changed, "attributes");
        }
        if kind == FileType::Directory {
            return self.directories(&first, &second, path, depth + 1);
        }
        let is_noted = self.found.last().is_some_and(|last| last.path == *path);
        if !is_noted && !self.same_content(&first, &second)? {
            self.note(path, Change::Changed, "content");
        }
        Ok(())
    }

    fn attributes(&self, kind: FileType, before: &Stat, after: &Stat) -> Option<&'static str> {
        let is_file = kind == FileType::RegularFile;
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if FileType::from_raw_mode(after.st_mode) != kind {
            Some("type")
        } else if (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid) {
            Some("owner")
        } else if kind != FileType::Symlink && before.st_mode != after.st_mode {
            Some("mode")
        } else if is_device && before.st_rdev != after.st_rdev {
            Some("device")
        } else if is_file && before.st_size != after.st_size {
            Some("content")
        } else if self.rules != Rules::Bytes && is_file && time(before) != time(after) {
            Some("time")
        } else {
            None
        }
    }

    fn xattrs(&self, file: &OwnedFd) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut names = vec![0u8; XATTR_SIZE_BYTES_MAX];
        let length = match rustix::fs::flistxattr(file, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            result => result.call(|| "flistxattr")?,
        };
        let mut found = BTreeMap::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let is_overlays = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
            if name.starts_with(b"security.selinux") || is_overlays && self.rules == Rules::Image {
                continue;
            }
            let mut value = vec![0u8; XATTR_SIZE_BYTES_MAX];
            let length = rustix::fs::fgetxattr(file, name, &mut value[..]).call(|| "fgetxattr")?;
            value.truncate(length);
            found.insert(name.to_vec(), value);
        }
        Ok(found)
    }

    fn same_content(&mut self, first: &OwnedFd, second: &OwnedFd) -> Result<bool> {
        let mut offset = 0;
        loop {
            let [one, other] = &mut self.buffers;
            let count = read_full(first, one, offset)?;
            if read_full(second, other, offset)? != count || one[..count] != other[..count] {
                return Ok(false);
            }
            if count < BUFFER_SIZE {
                return Ok(true);
            }
            offset += count as u64;
        }
    }
}

fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::pread(file, &mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call(|| "pread"),
        }
    }
    Ok(length)
}

fn names(dir: &OwnedFd) -> Result<BTreeMap<CString, ()>> {
    let mut found = BTreeMap::new();
    for entry in Dir::read_from(dir.as_fd()).call(|| "getdents")? {
        let entry = entry.call(|| "getdents")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.insert(entry.file_name().to_owned(), ());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn everything_that_can_be_seen_counts() {
        let dir = tempfile::tempdir().unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH;
        for tree in ["a", "b"] {
            let path = dir.path().join(tree);
            for name in ["", "d", "d/e"] {
                std::fs::create_dir(path.join(name)).unwrap();
            }
            for name in ["same", "content", "mode", "d/e/deep"] {
                std::fs::write(path.join(name), "text").unwrap();
                let file = std::fs::File::options().write(true).open(path.join(name)).unwrap();
                file.set_modified(time).unwrap();
            }
            std::os::unix::fs::symlink(tree, path.join("link")).unwrap();
        }
        std::fs::write(dir.path().join("a/gone"), "").unwrap();
        std::fs::write(dir.path().join("b/new"), "").unwrap();
        std::fs::write(dir.path().join("b/content"), "tExt").unwrap();
        let file = std::fs::File::options().write(true).open(dir.path().join("b/content")).unwrap();
        file.set_modified(time).unwrap();
        std::fs::set_permissions(dir.path().join("b/mode"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::remove_file(dir.path().join("b/d/e/deep")).unwrap();
        let open = |tree: &str| OwnedFd::from(std::fs::File::open(dir.path().join(tree)).unwrap());
        let found: Vec<String> = compare(open("a"), open("b"), Rules::Image)
            .unwrap()
            .into_iter()
            .map(|one| format!("{:?} {} {}", one.change, String::from_utf8(one.path).unwrap(), one.what))
            .collect();
        assert_eq!(
            found,
            [
                "Changed /content content",
                "Removed /d/e/deep ",
                "Removed /gone ",
                "Changed /link target",
                "Changed /mode mode",
                "Added /new ",
            ]
        );
        assert!(compare(open("a"), open("a"), Rules::Layer).unwrap().is_empty());
    }
}
