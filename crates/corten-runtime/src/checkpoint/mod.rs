//! Checkpoint and restore by criu.
//!
//! ```text
//! IMAGES/*.img               criu's
//! IMAGES/descriptors.json    what the first process's standard descriptors were, so that others take their place
//! IMAGES/corten-mounts.json  mounts from outside, see [`mounts`]
//! ```

mod mounts;
mod restore;
mod rpc;

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use corten_types::runtime_spec::{Linux, NamespaceKind};
use corten_types::{Context as _, Error, ErrorKind, Result};

pub use restore::RestoreRequest;
use rpc::{Action, Criu, Launch, Message};

use crate::runtime::{Runtime, Status};

const DESCRIPTORS: &str = "descriptors.json";
const MOUNTS: &str = "corten-mounts.json";
const DUMP_LOG: &str = "dump.log";

/// Largest of our own files in an image directory, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 1 << 20;

/// How cgroups are saved and brought back (criu(8), `--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Not at all.
    Ignore = 0,
    /// Properties of those that criu made.
    Soft = 3,
    /// Properties of all.
    Full = 4,
    /// As full, and they must not exist yet.
    Strict = 5,
    /// What criu thinks best.
    Default = 6,
}

/// What checkpoint and restore have in common.
#[derive(Debug)]
pub struct CriuOptions {
    /// The program, absolute.
    pub program: PathBuf,
    /// The program's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Directory of the images.
    pub image_path: PathBuf,
    /// Directory of the log; absent, the images'.
    pub work_path: Option<PathBuf>,
    /// Established TCP connections are taken along.
    pub tcp_established: bool,
    /// Unix sockets to the outside are taken along.
    pub external_unix_sockets: bool,
    /// The session leader may be outside.
    pub shell_job: bool,
    /// File locks are taken along.
    pub file_locks: bool,
    /// Pages that an incremental image repeats are removed.
    pub auto_dedup: bool,
    /// Memory is brought on demand (userfaultfd(2)).
    pub lazy_pages: bool,
    /// Cgroups.
    pub cgroups_mode: CgroupsMode,
}

/// What `checkpoint` needs.
#[derive(Debug)]
pub struct CheckpointRequest {
    /// The container.
    pub id: String,
    /// Common settings.
    pub criu: CriuOptions,
    /// Images of an earlier pre-dump, relative to the images' directory.
    pub parent_path: Option<PathBuf>,
    /// The container goes on running.
    pub leave_running: bool,
    /// Connections that are not established yet are left out.
    pub tcp_skip_in_flight: bool,
    /// Removed files may be linked back.
    pub link_remap: bool,
    /// Memory only; the container goes on running.
    pub pre_dump: bool,
    /// Receives a zero byte once lazy pages are served.
    pub status: Option<File>,
    /// Address and port that memory is sent to.
    pub page_server: Option<(String, u16)>,
}

impl Runtime {
    /// Saves a running container; afterwards it is gone, unless it was to go on.
    pub fn checkpoint(&self, request: CheckpointRequest) -> Result<Vec<String>> {
        let id = request.id.clone();
        let container = self.open_locked(&id)?;
        let status = container.status()?;
        if !matches!(status, Status::Running | Status::Paused) {
            let message = format!("container cannot be checkpointed in {} state: `{id}`", status.as_str());
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let init = container.record.init.ok_or_else(|| Error::new(ErrorKind::Conflict, "container not running"))?;
        let linux = container.spec()?.linux.unwrap_or_default();
        let dump = Dump { request, pid: init.pid, rootfs: &container.record.rootfs, linux: &linux };
        let freezer = container.cgroup()?.paths();
        dump.run(freezer.get("freezer").or_else(|| freezer.get("")).map(String::as_str))
            .context(|| format!("cannot checkpoint container `{id}`"))?;
        if dump.request.leave_running || dump.request.pre_dump {
            return Ok(Vec::new());
        }
        container.destroy()
    }
}

struct Dump<'a> {
    request: CheckpointRequest,
    pid: i32,
    rootfs: &'a Path,
    linux: &'a Linux,
}

impl Dump<'_> {
    fn run(&self, freezer: Option<&str>) -> Result<()> {
        let criu = &self.request.criu;
        let places = Places::open(criu)?;
        let mut options = common_options(criu, &places, DUMP_LOG);
        self.add_options(&mut options, freezer)?;
        if !self.request.pre_dump {
            self.add_mounts(&mut options)?;
            self.write_descriptors()?;
        }
        let environment = environment(criu)?;
        let launch = Launch {
            program: &criu.program,
            environment: &environment,
            root: None,
            stdio: None,
            inherited: Vec::new(),
            directories: places.directories().collect(),
        };
        let action = if self.request.pre_dump { Action::PreDump } else { Action::Dump };
        let mut status = self.request.status.as_ref();
        let outcome = Criu::start(&launch)?.converse(action, &options, |notification| {
            if notification.script == "status-ready"
                && let Some(mut status) = status.take()
            {
                std::io::Write::write_all(&mut status, b"\0").context(|| "cannot write to the status descriptor")?;
            }
            Ok(())
        });
        outcome.map(drop).map_err(|error| explained(error, criu, DUMP_LOG))
    }

    fn add_options(&self, options: &mut Message, freezer: Option<&str>) -> Result<()> {
        let request = &self.request;
        options.number(2, u64::from(self.pid.unsigned_abs()));
        options.switch(3, request.leave_running);
        options.text(13, self.rootfs.as_os_str().as_encoded_bytes());
        options.switch(18, request.link_remap);
        options.switch(46, request.tcp_skip_in_flight);
        if let Some(parent) = &request.parent_path {
            options.text(14, parent.as_os_str().as_encoded_bytes());
            options.switch(15, true);
        }
        if let Some((address, port)) = &request.page_server {
            let mut server = Message::default();
            server.text(1, address.as_bytes());
            server.number(2, u64::from(*port));
            options.message(11, &server);
        }
        if let Some(freezer) = freezer {
            options.text(44, freezer.as_bytes());
        }
        for (kind, name, key) in EXTERNAL_NAMESPACES {
            if let Some(path) = joined_path(self.linux, kind) {
                let place = std::fs::metadata(path).context(|| format!("cannot find namespace `{path}`"))?;
                let inode = std::os::unix::fs::MetadataExt::ino(&place);
                options.text(37, format!("{name}[{inode}]:{key}").as_bytes());
            }
        }
        Ok(())
    }

    fn add_mounts(&self, options: &mut Message) -> Result<()> {
        let externals = mounts::external(self.pid)?;
        for external in &externals {
            let place = external.destination.as_os_str().as_encoded_bytes();
            options.message(23, &pair(place, place));
        }
        self.write(MOUNTS, &serde_json::to_vec(&externals).unwrap_or_default())
    }

    fn write_descriptors(&self) -> Result<()> {
        let link = |number: u32| -> Result<String> {
            let path = format!("/proc/{}/fd/{number}", self.pid);
            let target = std::fs::read_link(&path).context(|| format!("cannot read `{path}`"))?;
            Ok(target.to_string_lossy().into_owned())
        };
        let links = (0..3).map(link).collect::<Result<Vec<_>>>()?;
        self.write(DESCRIPTORS, &serde_json::to_vec(&links).unwrap_or_default())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.request.criu.image_path.join(name);
        std::fs::write(&path, bytes).context(|| format!("cannot write `{}`", path.display()))
    }
}

/// Namespaces that criu leaves alone when they belong to somebody else, and what it calls them.
const EXTERNAL_NAMESPACES: [(NamespaceKind, &str, &str); 2] =
    [(NamespaceKind::Network, "net", "extRootNetNS"), (NamespaceKind::Pid, "pid", "extRootPidNS")];

/// The path of a namespace that the container joined.
fn joined_path(linux: &Linux, kind: NamespaceKind) -> Option<&str> {
    let found = linux.namespaces.iter().find(|namespace| namespace.kind == kind)?;
    (!found.path.is_empty()).then_some(found.path.as_str())
}

/// The directories, held open: criu opens them behind our /proc/PID/fd.
struct Places<'a> {
    images: (File, &'a Path),
    work: Option<(File, &'a Path)>,
}

impl<'a> Places<'a> {
    fn open(criu: &'a CriuOptions) -> Result<Self> {
        let directory = |path: &'a PathBuf| -> Result<(File, &'a Path)> {
            match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(Error::syscall(format!("mkdir({path:?})"), errno.raw_os_error())),
            }
            let file = File::open(path).context(|| format!("cannot open `{}`", path.display()))?;
            Ok((file, path.as_path()))
        };
        Ok(Self { images: directory(&criu.image_path)?, work: criu.work_path.as_ref().map(directory).transpose()? })
    }

    fn directories(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &Path)> {
        [Some(&self.images), self.work.as_ref()].into_iter().flatten().map(|(file, path)| (file.as_fd(), *path))
    }
}

/// Fields of criu's `criu_opts` that both actions set.
fn common_options(criu: &CriuOptions, places: &Places<'_>, log: &str) -> Message {
    let mut options = Message::default();
    let number = |(file, _): &(File, &Path)| u64::from(file.as_fd().as_raw_fd().unsigned_abs());
    options.number(1, number(&places.images));
    options.switch(4, criu.external_unix_sockets);
    options.switch(5, criu.tcp_established);
    options.switch(7, criu.shell_job);
    options.switch(8, criu.file_locks);
    options.number(9, 4);
    options.text(10, log.as_bytes());
    options.switch(12, true);
    options.switch(16, criu.auto_dedup);
    if let Some(work) = &places.work {
        options.number(17, number(work));
    }
    options.switch(24, true);
    options.number(34, criu.cgroups_mode as u64);
    // The network's devices are whoever configured them to bring back.
    options.number(38, corten_sys::namespace::NEWNET);
    options.switch(48, criu.lazy_pages);
    options.switch(50, true);
    options
}

/// A message of two texts, the form of `ext_mount_map` and of `join_namespace`.
fn pair(first: &[u8], second: &[u8]) -> Message {
    let mut message = Message::default();
    message.text(1, first);
    message.text(2, second);
    message
}

fn environment(criu: &CriuOptions) -> Result<Vec<CString>> {
    let variable = |(name, value): &(OsString, OsString)| {
        let mut text = name.clone();
        text.push("=");
        text.push(value);
        CString::new(text.into_vec()).map_err(|_| Error::invalid("a variable contains a NUL character"))
    };
    criu.environment.iter().map(variable).collect()
}

/// The failure with what criu wrote about it.
fn explained(error: Error, criu: &CriuOptions, log: &str) -> Error {
    let path = criu.work_path.as_ref().unwrap_or(&criu.image_path).join(log);
    let text = corten_fs::root::read_ambient(&path, 64 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let said = text.lines().find(|line| line.contains("Error"));
    let error = match said {
        Some(line) => Error::new(error.kind(), format!("{}: {}", error.one_line(), line.trim())),
        None => error,
    };
    error.hint(format!("criu's log is `{}`", path.display()))
}
