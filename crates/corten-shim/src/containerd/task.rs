//! Tasks: containers with their processes, from `Create` to `Delete`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::overlay::{Kept, Overlay};
use corten_runtime::rdt::Schemata;
use corten_runtime::runtime::{CreateRequest as RuntimeCreate, ExecRequest as RuntimeExec, Options, Runtime, Started};
use corten_sys::{Call, signal};
use corten_types::runtime_spec::{Process as SpecProcess, Spec, parse_document};
use corten_types::{Context, Error, ErrorKind, Result};
use prost::Message;
use rustix::fs::{CWD, Mode};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree};

use super::messages::{
    Any, CreateRequest, DeleteResponse, ExecRequest, Mount, RuncOptions, StateResponse, Status, WaitResponse,
};
use super::stdio::{Paths, Streams};

const CONFIG_SIZE_BYTES_MAX: u64 = 32 * 1024 * 1024;
const SIGKILL: i32 = 9;

/// A process of a task.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pidfd: Option<OwnedFd>,
    pub(super) paths: Paths,
    pub(super) streams: Streams,
    has_started: bool,
    /// Its end: the code and when.
    pub(super) exit: Option<(u32, (i64, u32))>,
    /// What `Start` executes, for a further process.
    document: Option<Box<SpecProcess>>,
}

impl Process {
    fn status(&self) -> Status {
        match (self.exit.is_some(), self.has_started) {
            (true, _) => Status::Stopped,
            (false, true) => Status::Running,
            (false, false) => Status::Created,
        }
    }

    pub(super) fn wait_response(&self) -> Option<WaitResponse> {
        self.exit.map(|(exit_status, time)| WaitResponse { exit_status, exited_at: Some(time.into()) })
    }

    fn delete_response(&self) -> DeleteResponse {
        let (exit_status, exited_at) = self.exit.map_or((0, None), |(code, time)| (code, Some(time.into())));
        DeleteResponse { pid: self.pid, exit_status, exited_at }
    }

    /// Takes over a process that was made.
    fn take(&mut self, mut started: Started) -> Result<()> {
        if let Some(main) = started.terminal.take() {
            self.streams = Streams::open_terminal(&self.paths, main)?;
        }
        self.pid = started.pid.as_raw_nonzero().get().unsigned_abs();
        self.pidfd = Some(started.pidfd);
        Ok(())
    }
}

/// A container.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: String,
    bundle: PathBuf,
    runtime: Runtime,
    pub(super) init: Process,
    pub(super) executed: BTreeMap<String, Process>,
    is_paused: bool,
    /// Who has the program's streams.
    owner: (u32, u32),
    has_root: bool,
    _kept: Option<Kept>,
}

/// The runtime with its records in `root`.
pub(super) fn runtime(root: PathBuf, systemd_cgroup: bool) -> Runtime {
    Runtime::new(Options { root, systemd_cgroup, rootless: None })
}

impl Task {
    /// Makes the container; its program waits for [`Task::start`].
    pub(super) fn create(request: &CreateRequest, state: PathBuf) -> Result<Self> {
        if !request.checkpoint.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "a task cannot be created from a checkpoint here"));
        }
        let bundle = PathBuf::from(&request.bundle);
        let options = options_of(request.options.as_ref())?;
        let json = Root::open_ambient(&bundle)?.beneath().read("config.json", CONFIG_SIZE_BYTES_MAX)?;
        let spec: Spec = parse_document(&json, "config.json")?;
        let user = spec.process.unwrap_or_default().user;
        let root = if options.root.is_empty() { state } else { Path::new(&options.root).to_path_buf() };
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let mut task = Self {
            id: request.id.clone(),
            bundle,
            runtime: runtime(root, options.systemd_cgroup),
            init: Process { paths, ..Process::default() },
            executed: BTreeMap::new(),
            is_paused: false,
            owner: (user.uid, user.gid),
            has_root: !request.rootfs.is_empty(),
            _kept: None,
        };
        let made = task.make(request, &options);
        if made.is_err() {
            task.unmount().ok();
        }
        made.map(|()| task)
    }

    fn make(&mut self, request: &CreateRequest, options: &RuncOptions) -> Result<()> {
        for one in &request.rootfs {
            self._kept = mount_root(one, &self.bundle.join("rootfs"))
                .context(|| format!("cannot mount the root of `{}`", request.id))?;
        }
        let stdio = self.open_streams(None)?;
        let started = self.runtime.create(RuntimeCreate {
            id: request.id.clone(),
            bundle: self.bundle.clone(),
            stdio,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            ..RuntimeCreate::default()
        })?;
        self.init.take(started).inspect_err(|_| drop(self.runtime.delete(&request.id, true)))
    }

    /// The streams of the program or of a further process; `None` with a terminal, which is made with the process.
    fn open_streams(&mut self, exec_id: Option<&str>) -> Result<Option<[OwnedFd; 3]>> {
        let owner = self.owner;
        let process = match exec_id {
            None => &mut self.init,
            Some(_) => self.process_mut(exec_id.unwrap_or_default())?,
        };
        if process.paths.terminal {
            return Ok(None);
        }
        let (streams, stdio) = Streams::open(&process.paths, owner)?;
        process.streams = streams;
        Ok(Some(stdio))
    }

    /// The program, or the further process of that name.
    pub(super) fn process(&self, exec_id: &str) -> Result<&Process> {
        match exec_id {
            "" => Ok(&self.init),
            _ => self.executed.get(exec_id).ok_or_else(|| no_process(exec_id)),
        }
    }

    pub(super) fn process_mut(&mut self, exec_id: &str) -> Result<&mut Process> {
        match exec_id {
            "" => Ok(&mut self.init),
            _ => self.executed.get_mut(exec_id).ok_or_else(|| no_process(exec_id)),
        }
    }

    /// Remembers a further process, which [`Task::start`] starts.
    pub(super) fn add(&mut self, request: &ExecRequest) -> Result<()> {
        if request.exec_id.is_empty() || self.executed.contains_key(&request.exec_id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("process `{}` exists already", request.exec_id)));
        }
        let spec = request.spec.as_ref().ok_or_else(|| Error::invalid("a further process needs a document"))?;
        let document: SpecProcess = parse_document(&spec.value, "process")?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let document = Some(Box::new(SpecProcess { terminal: request.terminal, ..document }));
        self.executed.insert(request.exec_id.clone(), Process { paths, document, ..Process::default() });
        Ok(())
    }

    /// Lets the program run, or starts the further process; its pid.
    pub(super) fn start(&mut self, exec_id: &str) -> Result<u32> {
        if self.process(exec_id)?.status() != Status::Created {
            return Err(conflict("the process was started already"));
        }
        if exec_id.is_empty() {
            self.runtime.start(&self.id)?;
        } else {
            let stdio = self.open_streams(Some(exec_id))?;
            let id = self.id.clone();
            let process = self.process_mut(exec_id)?.document.take().map(|document| *document).unwrap_or_default();
            let started = self.runtime.exec(RuntimeExec { id, process, stdio, ..RuntimeExec::default() })?;
            self.process_mut(exec_id)?.take(started)?;
        }
        let process = self.process_mut(exec_id)?;
        process.has_started = true;
        Ok(process.pid)
    }

    pub(super) fn state(&self, exec_id: &str) -> Result<StateResponse> {
        let process = self.process(exec_id)?;
        let status = match process.status() {
            Status::Running if self.is_paused => Status::Paused,
            status => status,
        };
        let (exit_status, exited_at) = process.exit.map_or((0, None), |(code, time)| (code, Some(time.into())));
        Ok(StateResponse {
            id: if exec_id.is_empty() { self.id.clone() } else { exec_id.to_owned() },
            bundle: self.bundle.to_string_lossy().into_owned(),
            pid: process.pid,
            status: status as i32,
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status,
            exited_at,
            exec_id: exec_id.to_owned(),
        })
    }

    pub(super) fn kill(&self, exec_id: &str, number: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        let number = i32::try_from(number).map_err(|_| Error::invalid(format!("there is no signal {number}")))?;
        let finished = || Error::new(ErrorKind::NotFound, "process already finished");
        if process.exit.is_some() {
            return Err(finished());
        }
        if exec_id.is_empty() {
            return self.runtime.kill(&self.id, number, all);
        }
        let pidfd = process.pidfd.as_ref().ok_or_else(|| conflict("the process was not started yet"))?;
        signal::pidfd_send_signal(pidfd.as_fd(), number).map_err(|_| finished())
    }

    /// Removes a further process that has ended or never began.
    pub(super) fn delete_process(&mut self, exec_id: &str) -> Result<DeleteResponse> {
        let process = self.process(exec_id)?;
        if process.status() == Status::Running {
            return Err(conflict("a running process cannot be deleted"));
        }
        let response = process.delete_response();
        self.executed.remove(exec_id);
        Ok(response)
    }

    /// Removes what the container was; only one that has ended.
    pub(super) fn delete(&mut self) -> Result<DeleteResponse> {
        if self.init.status() == Status::Running {
            return Err(conflict(format!("task `{}` is running", self.id)));
        }
        self.runtime.delete(&self.id, true)?;
        self.unmount()?;
        Ok(self.init.delete_response())
    }

    /// The program has ended: nothing of the container outlives it.
    pub(super) fn end(&self) {
        self.runtime.kill(&self.id, SIGKILL, true).ok();
    }

    pub(super) fn freeze(&mut self, freezes: bool) -> Result<()> {
        if freezes {
            self.runtime.pause(&self.id)?
        } else {
            self.runtime.resume(&self.id)?
        }
        self.is_paused = freezes;
        Ok(())
    }

    pub(super) fn pids(&self) -> Result<Vec<i32>> {
        self.runtime.processes(&self.id)
    }

    pub(super) fn stats(&self) -> Result<Any> {
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Ok(super::stats::metrics(&self.runtime.stats(&self.id)?, is_v2))
    }

    pub(super) fn update(&self, resources: Option<&Any>) -> Result<()> {
        let any = resources.ok_or_else(|| Error::invalid("an update needs resources"))?;
        self.runtime.update(&self.id, &parse_document(&any.value, "resources")?, &Schemata::default())
    }

    fn unmount(&self) -> Result<()> {
        let path = self.bundle.join("rootfs");
        if !self.has_root {
            return Ok(());
        }
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).call(|| format!("umount2({path:?}, MNT_DETACH)")),
        }
    }
}

fn no_process(exec_id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no process `{exec_id}`"))
}

fn conflict(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Conflict, text)
}

/// runc's options, where these are they.
fn options_of(any: Option<&Any>) -> Result<RuncOptions> {
    match any {
        Some(any) if any.type_url.trim_start_matches("type.googleapis.com/") == "containerd.runc.v1.Options" => {
            RuncOptions::decode(any.value.as_slice())
                .map_err(|error| Error::invalid("the options cannot be decoded").caused_by(error))
        }
        _ => Ok(RuncOptions::default()),
    }
}

/// Mounts what containerd's snapshotter prepared.
fn mount_root(one: &Mount, rootfs: &Path) -> Result<Option<Kept>> {
    let parent = Root::open_ambient(rootfs.parent().unwrap_or(Path::new("/")))?;
    let target = parent.beneath().create_dir_all("rootfs", Mode::from_raw_mode(0o711))?;
    let has = |word: &str| one.options.iter().any(|option| option == word);
    match one.kind.as_str() {
        "overlay" => {
            let options: Vec<String> =
                one.options.iter().filter(|option| !matches!(option.as_str(), "ro" | "rw")).cloned().collect();
            let overlay = Overlay::parse(&options)?;
            overlay.mount(target.as_fd()).map(Some)
        }
        "bind" => {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if has("rbind") {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            let clone = open_tree(CWD, one.source.as_str(), flags)
                .call(|| format!("open_tree({:?}, OPEN_TREE_CLONE)", one.source))?;
            if has("ro") {
                let attributes = corten_sys::mount::MountAttr { set: corten_sys::mount::RDONLY, ..Default::default() };
                corten_sys::mount::mount_setattr(clone.as_fd(), c"", &attributes)
                    .call(|| "mount_setattr(MOUNT_ATTR_RDONLY)")?;
            }
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(&clone, c"", &target, c"", flags).call(|| format!("move_mount({rootfs:?})"))?;
            Ok(None)
        }
        kind => {
            let mut flags = MountFlags::empty();
            let mut data = Vec::new();
            for option in &one.options {
                match option.as_str() {
                    "ro" => flags |= MountFlags::RDONLY,
                    "rw" => {}
                    "nodev" => flags |= MountFlags::NODEV,
                    "nosuid" => flags |= MountFlags::NOSUID,
                    "noexec" => flags |= MountFlags::NOEXEC,
                    other => data.push(other),
                }
            }
            let data =
                std::ffi::CString::new(data.join(",")).map_err(|_| Error::invalid("a mount option has a NUL"))?;
            mount(one.source.as_str(), rootfs, kind, flags, Some(data.as_c_str()))
                .call(|| format!("mount({:?}, {rootfs:?}, {kind:?})", one.source))?;
            Ok(None)
        }
    }
}
