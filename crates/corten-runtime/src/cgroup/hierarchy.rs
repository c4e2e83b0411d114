//! The container's cgroup in one hierarchy: made, opened, removed.

use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use corten_fs::Root;
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, Mode};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::directory::{Directory, join, open_mount};
use super::layout::{Mounted, Version};

/// How long removal waits for processes that are ending, milliseconds.
const REMOVE_TIMEOUT_MS: u64 = 3000;

/// How often making a directory is tried again when one above it goes away meanwhile.
const RACES_MAX: u32 = 64;

/// Nested cgroups below a container's are removed to this depth.
const DEPTH_MAX: u32 = 256;

/// A container's cgroup in one hierarchy.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// v1: what the hierarchy is for; empty for cgroup2.
    pub(super) controllers: Vec<String>,
    mount: String,
    /// Beneath the mount point, without slashes around; never empty.
    pub(super) path: String,
    /// The cgroup of the process that plans, beneath the mount point.
    #[serde(skip)]
    own: String,
    /// How many of the path's last components are made for this container.
    #[serde(default)]
    missing: usize,
    /// How many of them this process has made so far.
    #[serde(skip)]
    made: usize,
    #[serde(skip)]
    root: OnceLock<Root>,
    /// The directory above; kept from making to removal.
    #[serde(skip)]
    parent: Option<Directory>,
    #[serde(skip)]
    directory: OnceLock<Directory>,
}

impl Hierarchy {
    pub(super) fn new(mounted: &Mounted, path: String) -> Self {
        Self {
            version: mounted.version,
            controllers: mounted.controllers.clone(),
            mount: mounted.mount.clone(),
            path,
            own: mounted.own.clone(),
            missing: 0,
            made: 0,
            root: OnceLock::new(),
            parent: None,
            directory: OnceLock::new(),
        }
    }

    /// The same place with nothing open yet.
    pub(super) fn again(&self) -> Self {
        let mounted = Mounted {
            version: self.version,
            controllers: self.controllers.clone(),
            mount: self.mount.clone(),
            own: self.own.clone(),
        };
        Self { missing: self.missing, ..Self::new(&mounted, self.path.clone()) }
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Absolute path.
    pub(super) fn absolute(&self) -> String {
        join(&self.mount, &self.path)
    }

    /// The mount; opened once.
    pub(super) fn root(&self) -> Result<&Root> {
        keep(&self.root, || open_mount(&self.mount, self.version))
    }

    /// The open directory; opened once.
    pub(super) fn directory(&self) -> Result<&Directory> {
        keep(&self.directory, || self.open(&self.path))
    }

    pub(super) fn open(&self, path: &str) -> Result<Directory> {
        let call = || format!("openat2(<{}>, {path:?}, O_PATH | O_DIRECTORY, RESOLVE_BENEATH)", self.mount);
        Directory::open(self.root()?, path).call(call)
    }

    /// Finds out what is missing, and refuses a directory that something else uses.
    pub(super) fn survey(&mut self) -> Result<()> {
        let path = self.path.clone();
        let (mut at, mut missing) = (path.as_str(), 0);
        loop {
            match Directory::open(self.root()?, at) {
                Ok(directory) => {
                    self.missing = missing;
                    if missing == 0 {
                        refuse_used(&directory)?;
                        keep(&self.directory, || Ok(directory))?;
                    } else if missing == 1 {
                        self.parent = Some(directory);
                    }
                    return Ok(());
                }
                Err(Errno::NOENT) if !at.is_empty() => {
                    missing += 1;
                    at = above(at).0;
                }
                Err(errno) => return Err(errno).call(|| format!("openat2(<{}>, {at:?})", self.mount)),
            }
        }
    }

    /// Makes what is missing.
    pub(super) fn make(&mut self) -> Result<()> {
        if self.directory.get().is_none() {
            let directory = self.make_directory(true)?;
            keep(&self.directory, || Ok(directory))?;
        }
        match self.has("cpuset") {
            true if self.made > 0 => {
                let (processors, nodes) = inherit_processors(self.root()?, above(&self.path).0)?;
                self.directory()?.set("cpuset.cpus", processors.trim())?;
                self.directory()?.set("cpuset.mems", nodes.trim())
            }
            true => inherit_processors(self.root()?, &self.path).map(drop),
            false => Ok(()),
        }
    }

    /// The directory is systemd's, or made beside those that systemd makes; moves `pid` into a v1 hierarchy.
    pub(super) fn adopt(&mut self, pid: Pid) -> Result<()> {
        (self.directory, self.parent) = (OnceLock::new(), None);
        let directory = self.make_directory(false)?;
        keep(&self.directory, || Ok(directory))?;
        if self.has("cpuset") {
            inherit_processors(self.root()?, &self.path)?;
        }
        match self.version {
            Version::V1 => self.directory()?.set("cgroup.procs", &pid.as_raw_nonzero().to_string()),
            Version::V2 => Ok(()),
        }
    }

    fn make_directory(&mut self, refuse: bool) -> Result<Directory> {
        let path = self.path.clone();
        let name = above(&path).1;
        let mut tries = RACES_MAX;
        loop {
            let parent = match self.parent.take() {
                Some(parent) => parent,
                None => self.make_above(above(&path).0)?,
            };
            match self.mkdir(&parent, name) {
                // The end of another container took the parent away.
                Err(Errno::NOENT | Errno::NODEV) if tries > 0 => tries -= 1,
                Err(errno) => return Err(errno).call(|| format!("mkdirat(<{}>, {name:?})", parent.path())),
                Ok(fresh) => {
                    let directory =
                        parent.child(name).call(|| format!("open(<{}>, {name:?}, O_DIRECTORY)", parent.path()))?;
                    if !fresh && refuse {
                        refuse_used(&directory)?;
                    }
                    self.parent = Some(parent);
                    return Ok(directory);
                }
            }
        }
    }

    fn make_above(&mut self, path: &str) -> Result<Directory> {
        let mut tries = RACES_MAX;
        'again: loop {
            let mut parent = self.open("")?;
            for name in path.split('/').filter(|name| !name.is_empty()) {
                let made = self.mkdir(&parent, name);
                match made.and_then(|_| parent.child(name)) {
                    Ok(child) => {
                        if made == Ok(true) {
                            child.mark();
                        }
                        parent = child;
                    }
                    Err(Errno::NOENT | Errno::NODEV) if tries > 0 => {
                        tries -= 1;
                        continue 'again;
                    }
                    Err(errno) => return Err(errno).call(|| format!("mkdirat(<{}>, {name:?})", parent.path())),
                }
            }
            return Ok(parent);
        }
    }

    /// Whether the directory is new.
    fn mkdir(&mut self, parent: &Directory, name: &str) -> rustix::io::Result<bool> {
        match rustix::fs::mkdirat(parent.fd(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.made += 1;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Takes back what [`Hierarchy::make`] made; what was there before stays.
    pub(super) fn undo(&mut self) -> Result<()> {
        if self.made > 0 {
            self.remove(self.made, false)?;
            self.made = 0;
        }
        Ok(())
    }

    /// Removes the directory, what is nested in it, and those above it that were made for it and are empty.
    pub(super) fn destroy(&self) -> Result<()> {
        self.remove(self.missing.max(1), true)
    }

    /// Closes what only making and limiting need; [`Hierarchy::destroy`] will use what is left.
    pub(super) fn let_go(&mut self) {
        (self.directory, self.root) = (OnceLock::new(), OnceLock::new());
    }

    /// Removes the directory if nothing is in it; false where something may be.
    pub(super) fn remove_unused(&self) -> bool {
        let (above, name) = above(&self.path);
        let opened;
        let parent = match &self.parent {
            Some(parent) => parent,
            None => match self.open(above) {
                Ok(directory) => {
                    opened = directory;
                    &opened
                }
                Err(error) => return error.kind() == ErrorKind::NotFound,
            },
        };
        matches!(rustix::fs::unlinkat(parent.fd(), name, AtFlags::REMOVEDIR), Ok(()) | Err(Errno::NOENT))
    }

    fn remove(&self, count: usize, nested: bool) -> Result<()> {
        self.remove_one(&self.path, nested)?;
        let mut path = above(&self.path).0;
        // Containers come and go in any order: the last of those that share a cgroup removes it.
        let ours = |path: &str| match &self.parent {
            Some(parent) if path == above(&self.path).0 => Ok(parent.is_marked()),
            _ => Directory::open(self.root()?, path).call(|| path).map(|directory| directory.is_marked()),
        };
        for depth in 1.. {
            // One with others in it stays.
            let goes = !path.is_empty() && (depth < count || ours(path).unwrap_or(false));
            if !goes || self.remove_one(path, false).is_err() {
                break;
            }
            path = above(path).0;
        }
        Ok(())
    }

    fn remove_one(&self, path: &str, wait: bool) -> Result<()> {
        let (above, name) = above(path);
        let opened;
        let parent = match &self.parent {
            Some(parent) if path == self.path => parent,
            _ => match Directory::open(self.root()?, above) {
                Err(Errno::NOENT) => return Ok(()),
                result => {
                    opened = result.call(|| format!("openat2(<{}>, {above:?})", self.mount))?;
                    &opened
                }
            },
        };
        let mut deadline = None;
        loop {
            match rustix::fs::unlinkat(parent.fd(), name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) if wait => {
                    let until =
                        *deadline.get_or_insert_with(|| Instant::now() + Duration::from_millis(REMOVE_TIMEOUT_MS));
                    if !self.settle(parent, name, until)? {
                        return Err(self.still_busy(parent, name));
                    }
                }
                // A read-only mount answers so even for what does not exist.
                Err(_) if parent.child(name).err() == Some(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno).call(|| format!("rmdir(<{}/{name}>)", parent.path())),
            }
        }
    }

    /// After an EBUSY: removes nested cgroups and waits for a process to end. False once there is no time left.
    fn settle(&self, parent: &Directory, name: &str, until: Instant) -> Result<bool> {
        let directory = match parent.child(name) {
            Err(Errno::NOENT) => return Ok(true),
            result => result.call(|| format!("open(<{}/{name}>)", parent.path()))?,
        };
        directory.remove_children(DEPTH_MAX).call(|| format!("rmdir(<{}/*>)", directory.path()))?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let pids = directory.all_pids()?;
        match pids.first().and_then(|pid| Pid::from_raw(*pid)) {
            Some(pid) => wait_for_end(pid, left)?,
            // Empty, or left by a process that is not quite gone: the kernel tells nobody when it is.
            None if directory.children().is_ok_and(|children| children.is_empty()) => pause(Duration::from_millis(1)),
            None => {}
        }
        Ok(true)
    }

    fn still_busy(&self, parent: &Directory, name: &str) -> Error {
        let pids = parent.child(name).ok().and_then(|directory| directory.all_pids().ok()).unwrap_or_default();
        let list = pids.iter().take(8).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::syscall(format!("rmdir(<{}/{name}>)", parent.path()), Errno::BUSY.raw_os_error())
            .with_kind(ErrorKind::Conflict)
            .context(format!("cgroup `{}/{name}` still has processes: {list}", parent.path()))
            .hint("end them first, or `delete --force`")
    }

    /// Whether this process may move a child from its own cgroup2 into this one (cgroups(7), delegation).
    pub(super) fn may_enter(&self) -> Result<bool> {
        let root = self.root()?;
        let common = self.own.split('/').zip(self.path.split('/')).take_while(|(one, other)| one == other);
        let ancestor = common.map(|(one, _)| one).collect::<Vec<_>>().join("/");
        let file = join(&ancestor, "cgroup.procs");
        let file = file.trim_start_matches('/');
        Ok(rustix::fs::accessat(root, file, Access::WRITE_OK, AtFlags::EACCESS).is_ok())
    }
}

/// The parent of a path and its last name.
fn above(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn keep<T>(place: &OnceLock<T>, open: impl FnOnce() -> Result<T>) -> Result<&T> {
    if place.get().is_none() {
        let value = open()?;
        return Ok(place.get_or_init(|| value));
    }
    place.get().ok_or_else(|| Error::new(ErrorKind::Internal, "cannot keep a directory open"))
}

/// A cgroup that was there before must be nobody's: no process in it or below, and not frozen.
fn refuse_used(directory: &Directory) -> Result<()> {
    let pids = directory.all_pids()?;
    if !pids.is_empty() {
        let message =
            format!("container's cgroup is not empty: {} process(es) found in `{}`", pids.len(), directory.path());
        return Err(Error::new(ErrorKind::Conflict, message)
            .hint("it belongs to something else: choose another `linux.cgroupsPath`, or end those processes"));
    }
    let read = |file| directory.read(file).unwrap_or_default();
    if read("freezer.self_freezing").trim() == "1" || read("cgroup.freeze").trim() == "1" {
        let message = format!("container's cgroup unexpectedly frozen: `{}`", directory.path());
        return Err(Error::new(ErrorKind::Conflict, message).hint("thaw it, or choose another `linux.cgroupsPath`"));
    }
    Ok(())
}

/// Waits until the process has ended, at most `left`; not being able to watch it is no failure but a short pause.
fn wait_for_end(pid: Pid, left: Duration) -> Result<()> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => {
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), ..timeout };
            match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => Ok(()),
                Err(errno) => Err(errno).call(|| "poll(<pidfd>)"),
            }
        }
        Err(_) => {
            pause(Duration::from_millis(1));
            Ok(())
        }
    }
}

/// A pause where the kernel offers no event to wait for.
pub(super) fn pause(length: Duration) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(length.subsec_nanos()) };
    match poll(&mut [], Some(&timeout)) {
        // Whether it was cut short by a signal does not matter: every caller looks again.
        Ok(_) | Err(_) => {}
    }
}

/// A v1 cpuset starts without processors and memory nodes, and nothing can run in it: it takes those of the one above.
fn inherit_processors(root: &Root, path: &str) -> Result<(String, String)> {
    let directory = Directory::open(root, path).call(|| format!("openat2(<{}>, {path:?})", root.label().display()))?;
    let (mut processors, mut nodes) = (directory.get("cpuset.cpus")?, directory.get("cpuset.mems")?);
    let empty = |text: &String| text.trim().is_empty();
    if path.is_empty() || !empty(&processors) && !empty(&nodes) {
        return Ok((processors, nodes));
    }
    let (above_processors, above_nodes) = inherit_processors(root, above(path).0)?;
    for (file, mine, theirs) in
        [("cpuset.cpus", &mut processors, above_processors), ("cpuset.mems", &mut nodes, above_nodes)]
    {
        if empty(mine) {
            directory.set(file, theirs.trim())?;
            *mine = theirs;
        }
    }
    Ok((processors, nodes))
}
