//! What is on disk of a container, and the lock around its changes.
//!
//! ```text
//! ROOT/ID/state.json    the record; written beside, renamed
//! ROOT/ID/config.json   the configuration as it was when the container was created
//! ROOT/ID/start         FIFO on which the created container waits; gone once it was started
//! ROOT/ID/notify/       socket for a service manager, where there is one
//! ```
//! The directory itself carries the lock (flock(2)). Run state is volatile: nothing here is synced.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::Call as _;
use corten_types::runtime_spec::{Hook, SPEC_SIZE_BYTES_MAX, VERSION};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::notify::{self, NotifySocket};
use crate::runtime::{ContainerState, Status};

const STATE: &str = "state.json";
const STATE_NEW: &str = ".state.json.new";
const CONFIG: &str = "config.json";
const START: &str = "exec.fifo";

/// Longest id, bytes (a file name).
const ID_LENGTH_MAX: usize = 255;

/// A container as it was created.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) owner_uid: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// The first process; absent while the container is being made.
    pub(crate) init: Option<Process>,
    /// The same while the container is being made, where no cgroup tells which processes are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) newborn: Option<Process>,
    pub(crate) cgroup: Option<Cgroup>,
    /// Whether its mounts are in the host's own mount namespace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) host_mounts: bool,
    /// Directory of the resctrl file system that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rdt: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
}

impl Record {
    /// The state as of an ended container; the caller knows better of a living one.
    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            oci_version: VERSION.to_owned(),
            id: self.id.clone(),
            pid: 0,
            status: Status::Stopped,
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            owner: String::new(),
            annotations: self.annotations.clone(),
        }
    }
}

/// A process, told from a later one of the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub(crate) start_time: u64,
}

impl Process {
    /// The living process `pid`; `None` when it has ended (a zombie has ended too).
    pub(crate) fn find(pid: i32) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(format!("/proc/{pid}/stat"), flags, Mode::empty()).ok()?;
        // The kernel gives all of it at once; the fields that count are in the first half.
        let mut stat = [0; 1024];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut stat)).ok()?;
        let (state, start_time) = parse_stat(&stat[..length])?;
        (!matches!(state, b'Z' | b'X')).then_some(Self { pid, start_time })
    }

    /// Whether it still lives.
    pub(crate) fn lives(self) -> bool {
        Self::find(self.pid) == Some(self)
    }
}

/// State letter and start time; the name in between may contain anything.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = stat.get(after_name..)?.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let start_time = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some((state, start_time))
}

/// An id is one file name of plain characters (runc's rule).
pub(crate) fn check_id(id: &str) -> Result<()> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
    if id.is_empty() || id == "." || id == ".." || id.len() > ID_LENGTH_MAX || !plain {
        let shown: String = id.chars().take(64).flat_map(char::escape_default).collect();
        return Err(Error::invalid(format!("invalid container id: `{shown}`"))
            .hint("an id has letters, digits and `_`, `+`, `-`, `.`, at most 255 of them"));
    }
    Ok(())
}

/// The directory of one container, held open.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    parent: OwnedFd,
    id: String,
}

impl Directory {
    /// Makes the directory of a new container and locks it.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let parent = make_root(root)?;
        rustix::fs::mkdirat(&parent, id, Mode::from_raw_mode(0o700))
            .call(|| format!("mkdirat(<root>, \"{id}\")"))
            .map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => already_exists(id),
                _ => error.context(format!("cannot make the state directory of `{id}`")),
            })?;
        let directory = Self { fd: open_directory(&parent, id)?, parent, id: id.to_owned() };
        directory.lock()?;
        Ok(directory)
    }

    /// Refuses an id that is taken, before anything else is looked at.
    pub(crate) fn refuse_taken(root: &Path, id: &str) -> Result<()> {
        if Self::open(root, id).is_ok() { Err(already_exists(id)) } else { Ok(()) }
    }

    /// Opens the directory of an existing container.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("container does not exist: `{id}`"))
                .hint("`list` shows what is there")
        };
        let parent = match open_path(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            result => result?,
        };
        match open_directory(&parent, id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(missing()),
            result => Ok(Self { fd: result?, parent, id: id.to_owned() }),
        }
    }

    /// Waits for the lock; it goes with this value, or with the process.
    pub(crate) fn lock(&self) -> Result<()> {
        rustix::io::retry_on_intr(|| rustix::fs::flock(&self.fd, FlockOperation::LockExclusive))
            .call(|| format!("flock(<{}>, LOCK_EX)", self.id))
    }

    /// Lets others have the lock.
    pub(crate) fn unlock(&self) {
        let _never_locked = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }

    /// Whether somebody has removed it meanwhile.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        Ok(rustix::fs::fstat(&self.fd).call(|| format!("fstat(<{}>)", self.id))?.st_nlink == 0)
    }

    /// Whether somebody else holds the lock.
    pub(crate) fn is_locked(&self) -> bool {
        let result = rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive);
        if result.is_ok() {
            let _released = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
        }
        result.is_err()
    }

    /// The record; `None` where `create` was cut off before it wrote one.
    pub(crate) fn read(&self) -> Result<Option<Record>> {
        let what = || format!("cannot read the state of container `{}`", self.id);
        let Some(bytes) = self.read_file(STATE).context(what)? else { return Ok(None) };
        let record = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("`state.json` is damaged: {error}")))
            .context(what)?;
        Ok(Some(record))
    }

    /// Writes the record in one step.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        self.prepare(record)?;
        self.commit()
    }

    /// Writes the record beside; nobody sees it before [`Directory::commit`].
    pub(crate) fn prepare(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        self.write_file(STATE_NEW, &bytes)
    }

    /// Shows what [`Directory::prepare`] wrote.
    pub(crate) fn commit(&self) -> Result<()> {
        rustix::fs::renameat(&self.fd, STATE_NEW, &self.fd, STATE).call(|| "renameat(<state>, \"state.json\")")
    }

    /// Keeps the configuration: what happens to the bundle later does not matter (runtime.md, lifecycle step 2).
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<()> {
        self.write_file(CONFIG, json)
    }

    /// The kept configuration.
    pub(crate) fn read_config(&self) -> Result<Vec<u8>> {
        let gone = || Error::new(ErrorKind::Corrupt, format!("container `{}` has lost its configuration", self.id));
        self.read_file(CONFIG)?.ok_or_else(gone)
    }

    /// Makes the FIFO of a created container and opens it so that a read waits.
    pub(crate) fn make_start(&self) -> Result<OwnedFd> {
        rustix::fs::mknodat(&self.fd, START, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .call(|| "mknodat(<state>, \"start\", S_IFIFO)")?;
        // Open for both: the reader then is no orphan while nobody writes, and a read waits.
        rustix::fs::openat(&self.fd, START, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .call(|| "openat(<state>, \"start\")")
    }

    /// Makes the directory of the notify socket, which is bound into the container.
    pub(crate) fn make_notify(&self) -> Result<()> {
        let open = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&self.fd, notify::DIRECTORY, open).call(|| "mkdirat(<state>, \"notify\")")?;
        // Whatever the umask: users of the container must get through.
        rustix::fs::chmodat(&self.fd, notify::DIRECTORY, open, AtFlags::empty())
            .call(|| "fchmodat(<state>, \"notify\", 0755)")
    }

    /// Makes the notify socket; `None` where the container was created without one.
    pub(crate) fn bind_notify(&self) -> Result<Option<NotifySocket>> {
        if rustix::fs::accessat(&self.fd, notify::DIRECTORY, rustix::fs::Access::EXISTS, AtFlags::empty()).is_err() {
            return Ok(None);
        }
        NotifySocket::bind(self.fd.as_fd()).map(Some)
    }

    /// Whether the container was created and not started.
    pub(crate) fn waits_for_start(&self) -> bool {
        rustix::fs::accessat(&self.fd, START, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Lets the created container go on and waits until its program is executed; false when nobody waits any more.
    pub(crate) fn release_start(&self) -> Result<bool> {
        let fifo =
            rustix::fs::openat(&self.fd, START, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let waited = match fifo {
            Ok(fifo) => {
                rustix::io::write(&fifo, b"0").call(|| "write(<start>)")?;
                let mut list = [PollFd::new(&fifo, PollFlags::empty())];
                // POLLERR: the last reader has closed it, by executing the program or by its end.
                rustix::io::retry_on_intr(|| poll(&mut list, None)).call(|| "poll(<start>)")?;
                true
            }
            Err(rustix::io::Errno::NXIO) => false,
            Err(errno) => return Err(Error::syscall("openat(<state>, \"start\")", errno.raw_os_error())),
        };
        rustix::fs::unlinkat(&self.fd, START, AtFlags::empty()).call(|| "unlinkat(<state>, \"start\")")?;
        Ok(waited)
    }

    /// Removes the directory and all of its files.
    pub(crate) fn remove(&self) -> Result<()> {
        // Out of sight in one step, so that a kill in between leaves no half of a container.
        for name in [STATE, STATE_NEW, CONFIG, START] {
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => {
                    return Err(Error::syscall(format!("unlinkat(<state>, \"{name}\")"), errno.raw_os_error()));
                }
            }
        }
        for (name, flags) in [(notify::SOCKET_PATH, AtFlags::empty()), (notify::DIRECTORY, AtFlags::REMOVEDIR)] {
            match rustix::fs::unlinkat(&self.fd, name, flags) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => {
                    return Err(Error::syscall(format!("unlinkat(<state>, \"{name}\")"), errno.raw_os_error()));
                }
            }
        }
        rustix::fs::unlinkat(&self.parent, self.id.as_str(), AtFlags::REMOVEDIR)
            .call(|| format!("unlinkat(<root>, \"{}\", AT_REMOVEDIR)", self.id))
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => corten_fs::root::read_bounded(file.as_fd(), SPEC_SIZE_BYTES_MAX).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::syscall(format!("openat(<state>, \"{name}\")"), errno.raw_os_error())),
        }
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))
            .call(|| format!("openat(<state>, \"{name}\", O_CREAT)"))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).call(|| format!("write(<{name}>)"))?;
            rest = &rest[written..];
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing is not enough: the container's first process has a copy of the descriptor until it becomes the program.
        self.unlock();
    }
}

fn already_exists(id: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("container with given ID already exists: `{id}`"))
        .hint(format!("choose another id, or delete it: `delete {id}`"))
}

/// Names of the containers under the root, in order.
pub(crate) fn ids(root: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.context(|| format!("cannot list `{}`", root.display()))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("cannot list `{}`", root.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open(\"{}\", O_DIRECTORY)", path.display()))
}

fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    rustix::fs::openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("openat(<root>, \"{name}\", O_DIRECTORY)"))
}

/// The root directory is the caller's own choice, so it is made by path.
fn make_root(root: &Path) -> Result<OwnedFd> {
    match open_path(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(root).context(|| format!("cannot make `{}`", root.display()))?;
            open_path(root)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_start_time() {
        let stat = b"7 (a) S 1 2) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(stat), Some((b'Z', 4242)));
    }

    #[test]
    fn an_id_is_one_plain_file_name() {
        for good in ["a", "web-1", "a.b_c+d", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "a\n", "é", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
