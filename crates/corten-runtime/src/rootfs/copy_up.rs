//! `tmpcopyup`: what a tmpfs covers is copied into it, file by file, with modes, owners, times and attributes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use corten_sys::Call as _;
use corten_types::{Error, Result};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, copy_file_range,
};
use rustix::io::Errno;

/// Deepest directory that is copied.
const DEPTH_MAX: u32 = 200;

/// Copies what is in `from` into `to`, both open for reading, and `from`'s own owner and times.
pub(super) fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    copy_entries(from, to, 0)?;
    let stat = rustix::fs::fstat(from).call(|| "fstat")?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).call(|| "fchown")?;
    copy_xattrs(from, to)
}

fn copy_entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid(format!("directories are nested deeper than {DEPTH_MAX}")));
    }
    for entry in Dir::read_from(from).call(|| "getdents")? {
        let entry = entry.call(|| "getdents")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth).map_err(|error| error.context(format!("{name:?}")))?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).call(|| "fstatat")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let reading = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode).call(|| "mkdirat")?;
            let flags = reading | OFlags::DIRECTORY;
            let source = rustix::fs::openat(from, name, flags, Mode::empty()).call(|| "openat")?;
            let copy = rustix::fs::openat(to, name, flags, Mode::empty()).call(|| "openat")?;
            copy_entries(source.as_fd(), copy.as_fd(), depth + 1)?;
            copy_xattrs(source.as_fd(), copy.as_fd())?;
        }
        FileType::RegularFile => {
            let source = rustix::fs::openat(from, name, reading, Mode::empty()).call(|| "openat")?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(to, name, flags, mode).call(|| "openat(O_CREAT)")?;
            copy_content(source.as_fd(), copy.as_fd())?;
            copy_xattrs(source.as_fd(), copy.as_fd())?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).call(|| "readlinkat")?;
            rustix::fs::symlinkat(&target, to, name).call(|| "symlinkat")?;
        }
        // A socket's file is of no use without its process.
        FileType::Socket => return Ok(()),
        _ => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).call(|| "mknodat")?,
    }
    copy_owner_and_times(to, name, kind, &stat)
}

fn copy_owner_and_times(to: BorrowedFd<'_>, name: &CStr, kind: FileType, stat: &Stat) -> Result<()> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    if stat.st_uid != 0 || stat.st_gid != 0 {
        rustix::fs::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).call(|| "fchownat")?;
        // chown(2) takes the set-id bits away.
        if kind != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
                .call(|| "fchmodat")?;
        }
    }
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW).call(|| "utimensat")
}

fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    loop {
        match copy_file_range(from, None, to, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Between some file systems the kernel does not copy by itself.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return copy_by_hand(from, to),
            Err(errno) => return Err(errno).call(|| "copy_file_range"),
        }
    }
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = rustix::io::read(from, &mut buffer).call(|| "read")?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let written = rustix::io::write(to, rest).call(|| "write")?;
            rest = &rest[written..];
        }
    }
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = [0u8; 4096];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno).call(|| "flistxattr"),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Labels belong to the mount, and POSIX ACLs and user attributes are what images carry.
        if name.starts_with(b"security.selinux") {
            continue;
        }
        let mut value = vec![0; 65_536];
        let size = rustix::fs::fgetxattr(from, name, &mut value).call(|| "fgetxattr")?;
        match rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno).call(|| "fsetxattr"),
        }
    }
    Ok(())
}
