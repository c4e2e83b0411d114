//! Removing whole trees by descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use super::Entry;

/// Depth below which a subtree is moved up and removed there, so that neither stack nor descriptors run out.
const DEPTH_MAX: u32 = 256;
/// How often a directory that somebody else fills again while it is emptied is tried.
const ATTEMPTS_MAX: u32 = 16;

/// One removal.
struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// Subtrees moved up so far; names the next one.
    moved: u64,
}

pub(super) fn remove_all(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EPERM is what POSIX and some file systems say of a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let top = match open_dir(dir, name) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let mut removal = Removal { top: top.as_fd(), moved: 0 };
    let mut attempts = 0;
    while attempts < ATTEMPTS_MAX {
        let moved_before = removal.moved;
        removal.empty(top.as_fd(), 0)?;
        if removal.moved > moved_before {
            continue;
        }
        attempts += 1;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::NOTEMPTY)
}

impl Removal<'_> {
    fn empty(&mut self, dir: BorrowedFd<'_>, depth: u32) -> Result<()> {
        for Entry { name, kind } in entries(dir)? {
            if kind != FileType::Directory {
                match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if depth >= DEPTH_MAX {
                self.move_up(dir, &name)?;
                continue;
            }
            let child = match open_dir(dir, &name) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            self.empty(child.as_fd(), depth + 1)?;
            drop(child);
            match rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) {
                // What is not empty was filled meanwhile; the next attempt sees it.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            self.moved += 1;
            let up = CString::new(format!(".corten-removing-{}", self.moved)).map_err(|_| Errno::INVAL)?;
            match rustix::fs::renameat(dir, name, self.top, &up) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // The tree holds a file of that name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }
}

/// Opens a directory for listing; EXDEV where a mount covers it.
fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
        result => return result,
    }
    let child = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if rustix::fs::fstat(&child)?.st_dev != rustix::fs::fstat(dir)?.st_dev {
        return Err(Errno::XDEV);
    }
    Ok(child)
}

/// The names in `dir`, which must be open for reading.
pub(super) fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Entry>> {
    let mut list = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            kind = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
        }
        list.push(Entry { name: name.to_owned(), kind });
    }
    Ok(list)
}
