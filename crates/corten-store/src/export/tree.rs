//! A directory tree as a tar: what `export` writes of a container's root.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_fs::tar::{Builder, Kind, Member, Time};
use corten_sys::Call;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

/// Directories within directories: each holds a descriptor.
const DEPTH_MAX: usize = 2000;
/// Longest extended attribute, and list of their names, that the kernel has.
const XATTR_SIZE_BYTES_MAX: usize = 64 * 1024;

/// Writes everything below `root` as members of `tar`; paths are relative, without a leading `./`. Sockets are left out,
/// as tar has no form for them. A file that changes meanwhile is an error.
pub fn append_tree<W: Write>(tar: &mut Builder<W>, root: BorrowedFd<'_>) -> Result<()> {
    let mut walk = Walk { tar, links: HashMap::new() };
    walk.directory(root.try_clone_to_owned()?, &mut Vec::new(), 0)
}

struct Walk<'t, W> {
    tar: &'t mut Builder<W>,
    /// The first name of every file with several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, dir: OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("directories lie deeper than {DEPTH_MAX}")));
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).call(|| "getdents")? {
            let entry = entry.call(|| "getdents")?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for name in names {
            let length = path.len();
            path.extend_from_slice(name.to_bytes());
            let shown = String::from_utf8_lossy(path).into_owned();
            let below = self.member(&dir, &name, path).context(|| format!("cannot export `{shown}`"))?;
            if let Some(below) = below {
                path.push(b'/');
                self.directory(below, path, depth + 1)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// Writes one member; a directory is opened for what is in it.
    fn member(&mut self, dir: &OwnedFd, name: &CStr, path: &[u8]) -> Result<Option<OwnedFd>> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).call(|| format!("statat({name:?})"))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below =
                    openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty()).call(|| format!("openat({name:?})"))?;
                let path = [path, b"/"].concat();
                let xattrs = xattrs(&below)?;
                let header = Member { xattrs: &xattrs, ..member(&path, Kind::Directory, &stat) };
                self.tar.append(&header, &[][..])?;
                return Ok(Some(below));
            }
            FileType::RegularFile => {
                if let Some(first) = self.first_name(path, &stat) {
                    self.tar.append(&member(path, Kind::HardLink(first), &stat), &[][..])?;
                    return Ok(None);
                }
                let file = openat(dir, name, flags, Mode::empty()).call(|| format!("openat({name:?})"))?;
                let stat = fstat(&file).call(|| "fstat")?;
                let xattrs = xattrs(&file)?;
                self.tar.append(&Member { xattrs: &xattrs, ..member(path, Kind::File, &stat) }, File::from(file))?;
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).call(|| format!("readlinkat({name:?})"))?;
                self.tar.append(&member(path, Kind::Symlink(target.into_bytes()), &stat), &[][..])?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let kind = match kind {
                    FileType::CharacterDevice => Kind::CharDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                };
                self.tar.append(&member(path, kind, &stat), &[][..])?;
            }
            FileType::Fifo => self.tar.append(&member(path, Kind::Fifo, &stat), &[][..])?,
            _ => {}
        }
        Ok(None)
    }

    /// The name under which a file was written already.
    fn first_name(&mut self, path: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        match self.links.entry((stat.st_dev, stat.st_ino)) {
            std::collections::hash_map::Entry::Occupied(known) => Some(known.get().clone()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(path.to_vec());
                None
            }
        }
    }
}

fn member<'a>(path: &'a [u8], kind: Kind, stat: &Stat) -> Member<'a> {
    let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    Member {
        uid: u64::from(stat.st_uid),
        gid: u64::from(stat.st_gid),
        // As docker and GNU tar write it by default: whole seconds.
        mtime: Time { seconds: stat.st_mtime, nanoseconds: 0 },
        ..Member::new(path, kind, stat.st_mode & 0o7777, size)
    }
}

/// Extended attributes, but those of overlay and of the host's security module.
fn xattrs(file: impl AsFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; XATTR_SIZE_BYTES_MAX];
    let length = match rustix::fs::flistxattr(&file, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result.call(|| "flistxattr")?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") || name.starts_with(b"security.selinux")
        {
            continue;
        }
        let mut value = vec![0u8; XATTR_SIZE_BYTES_MAX];
        match rustix::fs::fgetxattr(&file, name, &mut value[..]) {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            // It went meanwhile, or this user namespace may not read it.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno).call(|| "fgetxattr"),
        }
    }
    Ok(found)
}
