//! Path resolution by hand: one O_PATH descriptor a component, symlinks read and expanded here, `..` answered from the
//! stack of directories that led here. Also what makes missing directories, which openat2(2) cannot.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::{RACE_RETRIES_MAX, Root, Scope};

/// As many symlinks as the kernel follows (path_resolution(7)).
const SYMLINKS_MAX: u32 = 40;
/// Longest path, bytes (PATH_MAX).
const PATH_BYTES_MAX: usize = 4096;

/// What is asked of the last component, and what is made on the way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Last {
    /// A last symlink is followed.
    Follow,
    /// A last symlink is the answer.
    NoFollow,
    /// Missing directories are made, the last included.
    Directory(Mode),
    /// Missing directories are made, the last excepted; a last symlink is followed.
    Parents(Mode),
}

/// Where a walk ended.
#[derive(Debug)]
pub(super) struct Place {
    /// Directory that holds `name`.
    pub(super) parent: Rc<OwnedFd>,
    /// The last name; `.` for the root itself or what `..` led to.
    pub(super) name: CString,
    /// O_PATH descriptor of the thing; `None` where it does not exist.
    pub(super) found: Option<OwnedFd>,
}

impl Place {
    pub(super) fn into_found(self) -> Result<OwnedFd> {
        self.found.ok_or(Errno::NOENT)
    }
}

impl Root {
    pub(super) fn walk_open(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let exclusive = flags.contains(OFlags::CREATE | OFlags::EXCL);
        let last = if flags.contains(OFlags::NOFOLLOW) || exclusive { Last::NoFollow } else { Last::Follow };
        for _ in 0..RACE_RETRIES_MAX {
            let place = self.walk(path, last)?;
            if place.found.is_none() && !flags.contains(OFlags::CREATE) {
                return Err(Errno::NOENT);
            }
            // By name once more: a descriptor for use cannot be had of an O_PATH one without /proc.
            match rustix::fs::openat(&place.parent, &place.name, flags | OFlags::NOFOLLOW, mode) {
                // It was no symlink a moment ago.
                Err(Errno::LOOP) if matches!(last, Last::Follow) => {}
                Err(Errno::NOENT) if flags.contains(OFlags::CREATE) => {}
                Ok(fd) if flags.contains(OFlags::PATH) && matches!(last, Last::Follow) && is_symlink(fd.as_fd())? => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Resolves `path` and says where it leads.
    pub(super) fn walk(&self, path: &Path, last: Last) -> Result<Place> {
        let mut todo: VecDeque<CString> = VecDeque::new();
        let absolute = push_front(&mut todo, path.as_os_str().as_bytes())?;
        if absolute && self.scope == Scope::Beneath {
            return Err(Errno::XDEV);
        }
        let mut trail = vec![Rc::new(self.dir.try_clone().map_err(|_| Errno::MFILE)?)];
        let mut symlinks = 0;
        while let Some(name) = todo.pop_front() {
            let here = Rc::clone(trail.last().ok_or(Errno::NOENT)?);
            if name.as_bytes() == b"." {
                continue;
            }
            if name.as_bytes() == b".." {
                match (trail.len(), self.scope) {
                    (1, Scope::Beneath) => return Err(Errno::XDEV),
                    (1, Scope::InRoot) => {}
                    _ => drop(trail.pop()),
                }
                continue;
            }
            let is_last = todo.is_empty();
            let found = match open_component(here.as_fd(), &name) {
                Err(Errno::NOENT) => match last {
                    Last::Directory(mode) => Some(make(here.as_fd(), &name, mode)?),
                    Last::Parents(mode) if !is_last => Some(make(here.as_fd(), &name, mode)?),
                    _ if is_last => None,
                    _ => return Err(Errno::NOENT),
                },
                result => Some(result?),
            };
            let Some(found) = found else { return Ok(Place { parent: here, name, found }) };
            let kind = file_type(found.as_fd())?;
            if kind == FileType::Symlink && !(is_last && matches!(last, Last::NoFollow)) {
                symlinks += 1;
                if symlinks > SYMLINKS_MAX || self.scope == Scope::Beneath {
                    return Err(Errno::LOOP);
                }
                let target = read_link(found.as_fd())?;
                if push_front(&mut todo, &target)? {
                    trail.truncate(1);
                }
                continue;
            }
            if is_last && !matches!(last, Last::Directory(_)) {
                return Ok(Place { parent: here, name, found: Some(found) });
            }
            if kind != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            trail.push(Rc::new(found));
        }
        let parent = trail.pop().ok_or(Errno::NOENT)?;
        let found = Some(parent.try_clone().map_err(|_| Errno::MFILE)?);
        Ok(Place { parent, name: c".".to_owned(), found })
    }
}

/// Puts the components of `path` before what is still to do; whether it was absolute. A trailing slash becomes `.`,
/// which asks for a directory.
fn push_front(todo: &mut VecDeque<CString>, path: &[u8]) -> Result<bool> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    if path.ends_with(b"/") {
        todo.push_front(c".".to_owned());
    }
    for name in path.rsplit(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        todo.push_front(CString::new(name).map_err(|_| Errno::INVAL)?);
    }
    Ok(path.starts_with(b"/"))
}

fn open_component(dir: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make(dir: BorrowedFd<'_>, name: &CString, mode: Mode) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

fn is_symlink(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(file_type(fd)? == FileType::Symlink)
}

/// The content of a symlink; ELOOP for a magic link, which leads anywhere whatever its content says.
fn read_link(link: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let target = rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes();
    if target.is_empty() {
        return Err(Errno::NOENT);
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
    match u32::try_from(rustix::fs::fstatfs(link)?.f_type) {
        // PROC_SUPER_MAGIC: `self`, `mounts` and their like are relative and plain; `exe`, `fd/3`, `ns/net` are not.
        Ok(0x9fa0) if target.starts_with(b"/") || !target.iter().all(plain) => Err(Errno::LOOP),
        // SECURITYFS_MAGIC and AAFS_MAGIC hold the one magic link outside procfs (AppArmor's `policy`).
        Ok(0x7363_6673 | 0x5a3c_69f0) => Err(Errno::LOOP),
        _ => Ok(target),
    }
}
