//! The store's directory: its parts, what is in the making there, and what waits to be deleted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_sys::Call;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, flock};
use rustix::io::Errno;

use crate::layer::form::Form;
use crate::lock::retry;
use crate::partial;

/// The directories of a store, made together.
const PARTS: [&str; 9] =
    ["blobs", "blobs/sha256", "blobs/sha512", "ingest", "layers", "locks", "snapshots", "trash", "leases"];
/// The part that is made last: where it is, all are.
const LAST_PART: &str = "leases";

/// What is set aside for removals on a full disk: the database's log and its index want names and room.
const RESERVE: &str = "reserve";
const RESERVE_FILES: usize = 4;
const RESERVE_FILE_SIZE: usize = 128 * 1024;

/// A store's directory, held by descriptor.
#[derive(Debug)]
pub(crate) struct Disk {
    root: Root,
    path: PathBuf,
    layer_form: OnceLock<Form>,
}

impl Disk {
    /// Opens the directory, making it and its parts where they are absent.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let root = match Root::open_ambient(&path) {
            Ok(root) => root,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let slash = Root::open_ambient(Path::new("/"))?;
                slash.create_dir_all(path.strip_prefix("/").unwrap_or(&path), private())?;
                Root::open_ambient(&path)?
            }
            Err(error) => return Err(error),
        };
        let disk = Self { root: root.beneath(), path, layer_form: OnceLock::new() };
        if !disk.root.exists(LAST_PART)? {
            disk.make_parts()?;
            // A disk that is full already has none.
            disk.make_reserve().unwrap_or_default();
        }
        Ok(disk)
    }

    fn make_parts(&self) -> Result<()> {
        for part in PARTS {
            match self.root.create_dir(part, private()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.context(format!("cannot make the store at `{}`", self.path.display()))),
            }
        }
        Ok(())
    }

    /// The form that new layers take, where somebody asked for one.
    pub(crate) fn layer_form(&self) -> Option<Form> {
        self.layer_form.get().copied()
    }

    /// Asks for a form; the first who asks decides.
    pub(crate) fn set_layer_form(&self, form: Form) {
        self.layer_form.set(form).unwrap_or_default();
    }

    /// The directory's absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// One of its parts.
    pub(crate) fn part(&self, name: &str) -> Result<Root> {
        self.root.sub_root(name)
    }

    /// A new directory in `ingest`, locked while it is in the making, removed unless it is moved away.
    pub(crate) fn temporary(&self, prefix: &str) -> Result<Temporary> {
        let ingest = self.part("ingest")?;
        let _sweeper_waits = self.hold_sweeper(&ingest)?;
        let name = format!("{prefix}-{}", random_name()?);
        ingest.create_dir(&name, private())?;
        let dir = ingest.open(&name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        retry(|| flock(&dir, FlockOperation::LockExclusive)).call(|| "flock(<ingest>, LOCK_EX)")?;
        Ok(Temporary { ingest, name, dir })
    }

    /// While it is held, nothing of `ingest` is swept: between making a name and locking it.
    pub(crate) fn hold_sweeper(&self, ingest: &Root) -> Result<OwnedFd> {
        let dir = ingest.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        retry(|| flock(&dir, FlockOperation::LockShared)).call(|| "flock(<ingest>, LOCK_SH)")?;
        Ok(dir)
    }

    /// Removes what a killed process left in `ingest`: what nobody holds locked.
    pub(crate) fn sweep(&self) -> Result<()> {
        let ingest = self.part("ingest")?;
        let entries = ingest.list(".")?;
        if entries.is_empty() {
            return Ok(());
        }
        let dir = ingest.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(()); // Somebody is making something: the next open sweeps.
        }
        for entry in ingest.list(".")? {
            let name = entry.name.to_string_lossy().into_owned();
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let Ok(held) = ingest.open(&name, flags, Mode::empty()) else { continue };
            if name.starts_with(partial::PREFIX) {
                let stat = rustix::fs::fstat(&held).call(|| "fstat(<ingest>)")?;
                let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
                if !partial::is_stale(SystemTime::UNIX_EPOCH + seconds) {
                    continue;
                }
            }
            if flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok() {
                ingest.remove_all(&name).context(|| "cannot remove what an interrupted load left")?;
            }
        }
        Ok(())
    }

    /// Sets aside what removals need on a full disk: some names and some room.
    pub(crate) fn make_reserve(&self) -> Result<()> {
        match self.root.create_dir(RESERVE, private()) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for number in 0..RESERVE_FILES {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            match self.root.open(format!("{RESERVE}/{number}"), flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => write_all(&file, &vec![0; RESERVE_FILE_SIZE]).call(|| "write(<reserve>)")?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves `path` to the trash: gone at once, deleted later. Its absence is no error.
    pub(crate) fn discard(&self, path: &str) -> Result<()> {
        let to = format!("trash/{}", random_name()?);
        match self.root.rename(path, to, RenameFlags::empty()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Deletes what is in the trash.
    pub(crate) fn empty_trash(&self) -> Result<()> {
        let trash = self.part("trash")?;
        for entry in trash.list(".")? {
            trash.remove_all(Path::new(&*entry.name.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// Gives up what was set aside in the store `root`, where its disk is full; whether that helps.
pub(crate) fn give_up_reserve(root: &Root) -> Result<bool> {
    let free = rustix::fs::fstatvfs(root.as_fd()).call(|| "fstatvfs(<store>)")?;
    let is_full = free.f_bavail * free.f_frsize < RESERVE_FILE_SIZE as u64 || free.f_files > 0 && free.f_favail < 8;
    if !is_full || !root.exists(RESERVE)? {
        return Ok(false);
    }
    root.remove_all(RESERVE)?;
    Ok(true)
}

/// A directory in the making.
#[derive(Debug)]
pub(crate) struct Temporary {
    ingest: Root,
    name: String,
    dir: OwnedFd,
}

impl Temporary {
    /// Makes a directory inside and opens it for reading, so that attributes can be set on it.
    pub(crate) fn create_dir(&self, name: &str, mode: u32) -> Result<OwnedFd> {
        rustix::fs::mkdirat(&self.dir, name, private()).call(|| format!("mkdirat({name:?})"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).call(|| format!("openat({name:?})"))?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).call(|| format!("fchmod({name:?})"))?;
        Ok(dir)
    }

    /// Where it lies for now.
    pub(crate) fn path(&self, disk: &Disk) -> PathBuf {
        disk.path().join("ingest").join(&self.name)
    }

    /// The directory, for names inside it.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Gives the directory its name `to` in `dir`; `false` where that name is taken (and this directory is removed).
    pub(crate) fn commit(self, dir: &Root, to: &str) -> Result<bool> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(self.ingest.as_fd(), &*self.name, dir.as_fd(), to, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            // A file system without RENAME_NOREPLACE: an empty or absent target is all that rename replaces.
            Err(Errno::INVAL) => match rustix::fs::renameat(self.ingest.as_fd(), &*self.name, dir.as_fd(), to) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
                result => result.map(|()| true).call(|| format!("renameat({:?}, {to:?})", self.name)),
            },
            Err(errno) => Err(errno).call(|| format!("renameat2({:?}, {to:?}, RENAME_NOREPLACE)", self.name)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Moved away, or left to the next sweep.
        self.ingest.remove_all(&self.name).unwrap_or_default();
    }
}

/// A name in `ingest` or `trash`.
pub(crate) fn random_name() -> Result<String> {
    let mut bytes = [0u8; 12];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).call(|| "getrandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether `name` in `dir` exists, whatever it is.
pub(crate) fn exists(dir: &Root, name: &str) -> bool {
    rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Modes of the store's own directories.
fn private() -> Mode {
    Mode::RWXU
}

/// An error that names the store, for what a full disk or a read-only one does to it.
pub(crate) fn storing(error: Error, what: &str) -> Error {
    let full = error.kind() == ErrorKind::Exhausted;
    let error = error.context(format!("cannot store {what}"));
    if full { error.hint("make room: `corten image prune`, or remove images with `corten rmi`") } else { error }
}
