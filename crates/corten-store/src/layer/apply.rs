//! A layer's tar becomes a directory in overlay's form: members made beneath a [`Root`], whiteouts turned into what
//! overlay reads.
//!
//! The directory belongs to nobody else while it is filled. A member's parent is resolved as after chroot, so a symlink
//! of the layer itself leads inside the layer at most; the last name is never followed. A later member replaces an
//! earlier one of the same path, as docker does it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_fs::tar::{Archive, Entry, Kind, Segment, Time};
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::members::{Wish, is_wanted, normalise, shown, wish};
use super::owner::Owners;

/// Bytes of directory paths that are remembered to set their times at the end.
const REMEMBERED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Members after which the stream is looked at again.
pub(super) const CHECKED_EVERY: u64 = 1024;
/// A run of zeros of at least this size becomes a hole.
const HOLE_SIZE_MIN: usize = 64 * 1024;

/// What was made of a layer.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Members.
    pub entries: u64,
    /// Bytes of regular files.
    pub size: u64,
    /// Whether the layer says what its root directory looks like.
    pub has_root: bool,
    /// Whether the layer hides all below it.
    pub opaque_root: bool,
    /// Directories that members lie in without being members: they look like those of the layers below.
    pub implicit: BTreeSet<Vec<u8>>,
    /// Members given to the one id there is.
    pub squashed: u64,
    /// Device nodes left out, which a user namespace cannot make.
    pub devices_skipped: u64,
}

/// Unpacks `archive` into the empty directory `dir`; `check` sees the stream and how many members were made of it.
pub fn apply<R: BufRead>(
    archive: &mut Archive<R>,
    dir: OwnedFd,
    owners: &Owners,
    check: impl Fn(&R, u64) -> Result<()>,
) -> Result<Applied> {
    let mut extractor = Extractor::new(dir, owners)?;
    while let Some(entry) = archive.next_entry()? {
        extractor
            .member(&entry, archive)
            .map_err(|error| error.context(format!("cannot unpack `{}`", shown(&entry.path))))?;
        extractor.applied.entries += 1;
        if extractor.applied.entries.is_multiple_of(CHECKED_EVERY) {
            check(archive.get_ref(), extractor.applied.entries)?;
        }
    }
    extractor.finish()
}

struct Extractor<'a> {
    root: Root,
    owners: &'a Owners,
    user_namespace: bool,
    is_root: bool,
    umask: u32,
    /// The directory that the last member lay in.
    parent: Option<Parent>,
    /// Directories and the times they get at the end.
    directories: Vec<(Box<[u8]>, Time)>,
    remembered_bytes: usize,
    applied: Applied,
}

struct Parent {
    path: Vec<u8>,
    dir: OwnedFd,
    /// New files inherit its group.
    setgid: bool,
}

/// Where a member goes: a directory and a name in it.
struct Place<'p> {
    path: &'p [u8],
    name: &'p OsStr,
}

impl<'a> Extractor<'a> {
    fn new(dir: OwnedFd, owners: &'a Owners) -> Result<Self> {
        Ok(Self {
            root: Root::from_fd(dir, "layer"),
            owners,
            user_namespace: owners.in_user_namespace(),
            is_root: rustix::process::geteuid().is_root(),
            umask: umask()?,
            parent: None,
            directories: Vec::new(),
            remembered_bytes: 0,
            applied: Applied::default(),
        })
    }

    fn member<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<()> {
        let path = normalise(&entry.path)?;
        let (parent, name) = match wish(&path, &entry.kind)? {
            Wish::Nothing => return Ok(()),
            Wish::Root => return self.root_entry(entry),
            Wish::Opaque(directory) => return self.opaque(directory),
            Wish::Whiteout(directory, name) => return self.whiteout(directory, name),
            Wish::Make(directory, name) => (directory, name),
        };
        self.enter(parent)?;
        let place = Place { path: &path, name: OsStr::from_bytes(name) };
        match &entry.kind {
            Kind::File | Kind::Sparse(_) => self.file(entry, &place, archive),
            Kind::Directory => self.directory(entry, &place),
            Kind::Symlink(target) => self.symlink(entry, &place, target),
            Kind::HardLink(target) => self.hard_link(&place, target),
            Kind::CharDevice { major, minor } => self.node(entry, &place, FileType::CharacterDevice, (*major, *minor)),
            Kind::BlockDevice { major, minor } => self.node(entry, &place, FileType::BlockDevice, (*major, *minor)),
            Kind::Fifo => self.node(entry, &place, FileType::Fifo, (0, 0)),
        }
    }

    /// Makes `path` the current parent, with every directory that is missing on the way.
    fn enter(&mut self, path: &[u8]) -> Result<()> {
        if self.parent.as_ref().is_some_and(|parent| parent.path == path) {
            return Ok(());
        }
        let (dir, setgid) = self.open_directory(path)?;
        self.parent = Some(Parent { path: path.to_vec(), dir, setgid });
        Ok(())
    }

    fn open_directory(&mut self, path: &[u8]) -> Result<(OwnedFd, bool)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let text = || format!("openat2(<layer>, {:?}, RESOLVE_IN_ROOT)", as_path(path));
        let dir = match self.root.try_open(as_path(path), flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                self.make_parents(path)?;
                self.root.try_open(as_path(path), flags, Mode::empty()).call(text)?
            }
            result => result.call(text)?,
        };
        let stat = rustix::fs::fstat(&dir).call(|| "fstat")?;
        Ok((dir, stat.st_mode & 0o2000 != 0))
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<()> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let path = &path[..end];
            if self.root.exists(as_path(path))? {
                continue;
            }
            let (parent, name) = self.root.parent(as_path(path))?;
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(&parent, &name, mode)
                .call(|| format!("mkdirat(<layer>, {:?})", as_path(path)))
                .map_err(|error| match error.kind() {
                    ErrorKind::AlreadyExists => {
                        Error::invalid(format!("`{}` is a symlink to nowhere in this layer", shown(path)))
                    }
                    _ => error,
                })?;
            if 0o755 & self.umask != 0 {
                rustix::fs::chmodat(&parent, &name, mode, AtFlags::empty()).call(|| "fchmodat(<layer>)")?;
            }
            self.applied.implicit.insert(path.to_vec());
        }
        Ok(())
    }

    fn dir(&self) -> Result<(&OwnedFd, bool)> {
        let parent = self.parent.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "no parent directory"))?;
        Ok((&parent.dir, parent.setgid))
    }

    /// Runs `make` until the name is free: what is there is removed. Whether a whiteout was there.
    fn make<T>(
        &mut self,
        place: &Place<'_>,
        call: &str,
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<(T, bool)> {
        let mut was_whiteout = false;
        loop {
            match make(self.dir()?.0) {
                Ok(made) => return Ok((made, was_whiteout)),
                Err(Errno::EXIST) => was_whiteout |= self.clear(place)?,
                Err(errno) => return Err(errno).call(|| format!("{call}(<layer>, {:?})", as_path(place.path))),
            }
        }
    }

    /// Removes what an earlier member made at `place`; whether it was a whiteout.
    fn clear(&mut self, place: &Place<'_>) -> Result<bool> {
        let (dir, _) = self.dir()?;
        let stat = rustix::fs::statat(dir, place.name, AtFlags::SYMLINK_NOFOLLOW).call(|| "fstatat(<layer>)")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let root = Root::from_fd(dir.try_clone()?, "layer");
            root.remove_all(place.name)?;
            self.forget(place.path);
        } else {
            rustix::fs::unlinkat(dir, place.name, AtFlags::empty()).call(|| "unlinkat(<layer>)")?;
        }
        Ok(is_whiteout(&stat))
    }

    /// Forgets what was noted about a tree that is gone.
    fn forget(&mut self, path: &[u8]) {
        let gone = |known: &[u8]| known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        self.applied.implicit.retain(|known| !gone(known));
    }

    fn file<R: BufRead>(&mut self, entry: &Entry, place: &Place<'_>, archive: &mut Archive<R>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let (file, _) = self.make(place, "openat", |dir| rustix::fs::openat(dir, place.name, flags, mode))?;
        match &entry.kind {
            Kind::Sparse(segments) => write_segments(&file, archive, segments, entry.size)?,
            _ => write_content(&file, archive, entry.size)?,
        }
        self.applied.size += entry.stored_size;
        self.own(entry, file.as_fd())?;
        if entry.mode & (0o7000 | self.umask) != 0 {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).call(|| "fchmod(<layer>)")?;
        }
        self.set_xattrs(entry, file.as_fd())?;
        rustix::fs::futimens(&file, &times(entry.mtime)).call(|| "futimens(<layer>)")
    }

    fn directory(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        let made = rustix::fs::mkdirat(self.dir()?.0, place.name, mode);
        let was_whiteout = match made {
            Ok(()) => false,
            Err(Errno::EXIST) => self.directory_over(place, mode)?,
            Err(errno) => return Err(errno).call(|| format!("mkdirat(<layer>, {:?})", as_path(place.path))),
        };
        self.applied.implicit.remove(place.path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(self.dir()?.0, place.name, flags, Mode::empty()).call(|| "openat(<layer>)")?;
        self.own(entry, dir.as_fd())?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(entry.mode)).call(|| "fchmod(<layer>)")?;
        self.set_xattrs(entry, dir.as_fd())?;
        if was_whiteout {
            self.set_opaque(dir.as_fd())?;
        }
        self.remember(place.path, entry.mtime)?;
        let setgid = entry.mode & 0o2000 != 0;
        self.parent = Some(Parent { path: place.path.to_vec(), dir, setgid });
        Ok(())
    }

    /// A directory where something is: a directory stays, anything else makes way. Whether that was a whiteout.
    fn directory_over(&mut self, place: &Place<'_>, mode: Mode) -> Result<bool> {
        let (dir, _) = self.dir()?;
        let stat = rustix::fs::statat(dir, place.name, AtFlags::SYMLINK_NOFOLLOW).call(|| "fstatat(<layer>)")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(false);
        }
        self.make(place, "mkdirat", |dir| rustix::fs::mkdirat(dir, place.name, mode)).map(|((), whiteout)| whiteout)
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        let dir = self.root.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        self.own(entry, dir.as_fd())?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(entry.mode)).call(|| "fchmod(<layer>)")?;
        self.set_xattrs(entry, dir.as_fd())?;
        self.applied.has_root = true;
        self.remember(b"", entry.mtime)
    }

    fn symlink(&mut self, entry: &Entry, place: &Place<'_>, target: &[u8]) -> Result<()> {
        let target = as_path(target);
        self.make(place, "symlinkat", |dir| rustix::fs::symlinkat(target, dir, place.name))?;
        self.finish_name(entry, place)
    }

    fn hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> Result<()> {
        let target = normalise(target).map_err(|error| error.context("its link target leads outside"))?;
        if target == place.path {
            return Ok(());
        }
        let (from, name) = self.root.parent(as_path(&target)).map_err(|error| {
            error
                .with_kind(ErrorKind::Invalid)
                .context(format!("its link target `{}` is not in the layer", shown(&target)))
        })?;
        self.make(place, "linkat", |dir| rustix::fs::linkat(&from, &name, dir, place.name, AtFlags::empty()))
            .map_err(|error| error.context(format!("cannot link it to `{}`", shown(&target))))?;
        Ok(())
    }

    fn node(&mut self, entry: &Entry, place: &Place<'_>, kind: FileType, (major, minor): (u32, u32)) -> Result<()> {
        if self.user_namespace && kind != FileType::Fifo {
            self.applied.devices_skipped += 1;
            return Ok(());
        }
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let device = rustix::fs::makedev(major, minor);
        self.make(place, "mknodat", |dir| rustix::fs::mknodat(dir, place.name, kind, mode, device))?;
        self.finish_name(entry, place)?;
        if entry.mode & (0o7000 | self.umask) != 0 {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(self.dir()?.0, place.name, mode, AtFlags::empty()).call(|| "fchmodat(<layer>)")?;
        }
        rustix::fs::utimensat(self.dir()?.0, place.name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .call(|| "utimensat(<layer>)")
    }

    /// Owner and times of what has no descriptor.
    fn finish_name(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        if let Some((uid, gid)) = self.owner(entry)? {
            rustix::fs::chownat(self.dir()?.0, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .call(|| "fchownat(<layer>)")?;
        }
        rustix::fs::utimensat(self.dir()?.0, place.name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .call(|| "utimensat(<layer>)")
    }

    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> Result<()> {
        self.enter(parent)?;
        let path = [parent, b"/", hidden].concat();
        let name = OsStr::from_bytes(hidden);
        let made = rustix::fs::mknodat(self.dir()?.0, name, FileType::CharacterDevice, Mode::empty(), 0);
        match made {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.hide_below(name),
            Err(errno) => Err(errno).call(|| format!("mknodat(<layer>, {:?}, S_IFCHR, 0:0)", as_path(&path))),
        }
    }

    /// A whiteout hides what the layers below have, not what this layer has at the same place.
    fn hide_below(&mut self, name: &OsStr) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.dir()?.0, name, flags, Mode::empty()) {
            Ok(dir) => self.set_opaque(dir.as_fd()),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(errno).call(|| "openat(<layer>)"),
        }
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            // Overlay merges the roots of its layers whatever they say.
            self.applied.opaque_root = true;
            return Ok(());
        }
        self.enter(path)?;
        self.set_opaque(self.dir()?.0.as_fd())
    }

    fn set_opaque(&self, dir: impl AsFd) -> Result<()> {
        let name = if self.user_namespace { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" };
        rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty()).call(|| format!("fsetxattr(<layer>, {name:?})"))
    }

    /// The owner to set; `None` where a new file has it by itself.
    fn owner(&mut self, entry: &Entry) -> Result<Option<(Uid, Gid)>> {
        let (uid, gid, squashed) = self.owners.resolve(entry.uid, entry.gid)?;
        self.applied.squashed += u64::from(squashed);
        let inherits = self.parent.as_ref().is_some_and(|parent| parent.setgid);
        if (uid, gid) == (0, 0) && !inherits && self.is_root {
            return Ok(None);
        }
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    fn own(&mut self, entry: &Entry, file: impl AsFd) -> Result<()> {
        // A directory that was there already may have had another owner.
        let existing = entry.kind == Kind::Directory;
        let owner = match self.owner(entry)? {
            None if existing => Some((Uid::ROOT, Gid::ROOT)),
            owner => owner,
        };
        match owner {
            Some((uid, gid)) => rustix::fs::fchown(file, Some(uid), Some(gid)).call(|| "fchown(<layer>)"),
            None => Ok(()),
        }
    }

    fn set_xattrs(&self, entry: &Entry, file: impl AsFd) -> Result<()> {
        for (name, value) in &entry.xattrs {
            if !is_wanted(name) {
                continue;
            }
            match rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
                // A file system without them; only a capability would be missed.
                Err(Errno::OPNOTSUPP) if name != b"security.capability" => {}
                result => result.call(|| format!("fsetxattr(<layer>, {:?})", String::from_utf8_lossy(name)))?,
            }
        }
        Ok(())
    }

    fn remember(&mut self, path: &[u8], mtime: Time) -> Result<()> {
        self.remembered_bytes += path.len() + size_of::<(Box<[u8]>, Time)>();
        if self.remembered_bytes > REMEMBERED_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "layer has too many directories"));
        }
        self.directories.push((path.into(), mtime));
        Ok(())
    }

    /// Times of directories, deepest last come first: filling a directory changed its time.
    fn finish(mut self) -> Result<Applied> {
        for (path, mtime) in self.directories.drain(..).rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.root.try_open(as_path(&path), flags, Mode::empty()) {
                Ok(dir) => rustix::fs::futimens(&dir, &times(mtime)).call(|| "futimens(<layer>)")?,
                // A later member took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno).call(|| format!("openat2(<layer>, {:?})", as_path(&path))),
            }
        }
        Ok(self.applied)
    }
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn write_content<R: BufRead>(file: &OwnedFd, archive: &mut Archive<R>, size: u64) -> Result<()> {
    let mut hole_at_end = false;
    loop {
        let content = archive.fill()?;
        let count = content.len();
        if count == 0 {
            break;
        }
        hole_at_end = count >= HOLE_SIZE_MIN && content.iter().all(|byte| *byte == 0);
        if hole_at_end {
            let offset = i64::try_from(count).unwrap_or(0);
            rustix::fs::seek(file, rustix::fs::SeekFrom::Current(offset)).call(|| "lseek(<layer>)")?;
        } else {
            write_all(file, content)
                .call(|| "write(<layer>)")
                .map_err(|error| crate::disk::storing(error, "a layer"))?;
        }
        archive.consume(count);
    }
    if hole_at_end {
        rustix::fs::ftruncate(file, size).call(|| "ftruncate(<layer>)")?;
    }
    Ok(())
}

fn write_segments<R: BufRead>(file: &OwnedFd, archive: &mut Archive<R>, segments: &[Segment], size: u64) -> Result<()> {
    for segment in segments {
        let (mut offset, mut left) = (segment.offset, segment.length);
        while left > 0 {
            let content = archive.fill()?;
            let count = content.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(Error::invalid("a sparse file's content ends early"));
            }
            let mut rest = &content[..count];
            while !rest.is_empty() {
                let written = rustix::io::pwrite(file, rest, offset).call(|| "pwrite(<layer>)")?;
                offset += written as u64;
                rest = &rest[written..];
            }
            archive.consume(count);
            left -= count as u64;
        }
    }
    rustix::fs::ftruncate(file, size).call(|| format!("ftruncate(<layer>, {size})"))
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

/// The umask, read without changing it: it belongs to the whole process.
fn umask() -> Result<u32> {
    let status = corten_fs::root::read_ambient(Path::new("/proc/self/status"), 64 * 1024)?;
    let text = String::from_utf8_lossy(&status);
    let word = text.lines().find_map(|line| line.strip_prefix("Umask:")).map(str::trim);
    // Without the line every mode is set explicitly.
    Ok(word.and_then(|word| u32::from_str_radix(word, 8).ok()).unwrap_or(0o777))
}
