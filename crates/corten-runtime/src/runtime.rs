//! The operations of the runtime specification (runtime.md) and of runc's command line.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use corten_sys::Call as _;
use corten_sys::signal;
use corten_types::runtime_spec::{NamespaceKind, Process, Resources, Spec};
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, OomWatch, Stats};
use crate::hooks;
use crate::launch::create::{self, Mode};
use crate::launch::exec;
use crate::notify::NotifySocket;
use crate::rdt::{self, Schemata};
use crate::record::{self, Directory, Record};

/// Longest wait for a killed process to end, seconds.
const KILL_SECONDS_MAX: i64 = 10;

const SIGKILL: i32 = 9;

/// Settings that hold for every container of one runtime.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the containers' state, one directory each.
    pub root: PathBuf,
    /// Cgroups are made by systemd (`--systemd-cgroup`).
    pub systemd_cgroup: bool,
    /// Whether cgroup failures are tolerated; `None` decides by the effective uid (`--rootless`).
    pub rootless: Option<bool>,
}

impl Options {
    /// Whether a cgroup that cannot be made is tolerated.
    pub(crate) fn is_rootless(&self) -> bool {
        self.rootless.unwrap_or_else(|| !rustix::process::geteuid().is_root() || in_user_namespace())
    }
}

/// Whether our own ids are mapped: root here then is not the host's.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().ne(["0", "0", "4294967295"]))
}

/// What `create` needs.
#[derive(Debug, Default)]
pub struct CreateRequest {
    /// Name of the container, unique under the root.
    pub id: String,
    /// Directory with `config.json`.
    pub bundle: PathBuf,
    /// Unix socket that receives the terminal's main side.
    pub console_socket: Option<PathBuf>,
    /// File that receives the pid.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the program keeps.
    pub preserve_fds: u32,
    /// Standard descriptors of the program; `None` inherits the caller's. Ignored with a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// The program's terminal does not turn line feeds into new lines: another terminal behind it will.
    pub keep_line_feeds: bool,
    /// MS_MOVE and chroot in place of pivot_root (a root on ramfs).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// How many of a service manager's sockets there are from descriptor 3 on, before those of `preserve_fds`; the program
    /// gets them with `LISTEN_FDS`.
    pub listen_fds: u32,
    /// The program gets a `NOTIFY_SOCKET`, whose other end is [`Started::notify`] or [`Runtime::notify_socket`].
    pub notify: bool,
}

/// A process that `create` or `exec` made; a child of the caller.
#[derive(Debug)]
pub struct Started {
    /// In the caller's pid namespace.
    pub pid: Pid,
    /// Becomes readable when the process ends; for waitid(P_PIDFD).
    pub pidfd: OwnedFd,
    /// The terminal's main side, where one was asked for and no console socket was named.
    pub terminal: Option<OwnedFd>,
    /// Where the program says that it is ready, if it runs and that was asked for.
    pub notify: Option<NotifySocket>,
    /// What was taken differently than written, for the log.
    pub warnings: Vec<String>,
    /// What was decided, for a debug log.
    pub notes: Vec<String>,
}

/// What `exec` needs.
#[derive(Debug, Default)]
pub struct ExecRequest {
    /// The container.
    pub id: String,
    /// The whole process document; see [`Runtime::exec_process`] for the container's defaults.
    pub process: Process,
    /// As in [`CreateRequest`].
    pub console_socket: Option<PathBuf>,
    /// As in [`CreateRequest`].
    pub pid_file: Option<PathBuf>,
    /// As in [`CreateRequest`].
    pub preserve_fds: u32,
    /// As in [`CreateRequest`].
    pub stdio: Option<[OwnedFd; 3]>,
    /// As in [`CreateRequest`].
    pub keep_line_feeds: bool,
    /// Start even while the container is paused.
    pub ignore_paused: bool,
    /// Cgroup below the container's: `PATH` or `CONTROLLER[,CONTROLLER]:PATH`, as runc's `--cgroup`.
    pub cgroups: Vec<String>,
}

/// Where a container is in its life (runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Waiting for `start`.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped,
}

/// A container as `state` and `list` show it (runc's JSON).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    /// Version of the specification.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// Its first process; 0 once stopped.
    pub pid: i32,
    /// Where it is in its life.
    pub status: Status,
    /// Absolute bundle directory.
    pub bundle: PathBuf,
    /// Absolute root directory.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// User name of the creator.
    pub owner: String,
    /// From the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Status {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The runtime over one root directory.
#[derive(Debug)]
pub struct Runtime {
    options: Options,
}

impl Runtime {
    /// A runtime; touches nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Makes the container and its process, which waits for [`Runtime::start`].
    pub fn create(&self, request: CreateRequest) -> Result<Started> {
        self.make(request, Mode::Create).map(|(started, _)| started)
    }

    /// `create` and `start` as one, without the wait in between. Returns once the program runs.
    pub fn run(&self, request: CreateRequest) -> Result<Started> {
        self.make(request, Mode::Run).map(|(started, _)| started)
    }

    /// As [`Runtime::run`], for who stays until the end and then removes the container.
    pub fn run_and_hold(&self, request: CreateRequest) -> Result<(Started, Held)> {
        let (started, mut container) = self.make(request, Mode::Run)?;
        container.directory.unlock();
        if let Some(cgroup) = &mut container.record.cgroup {
            cgroup.let_go();
        }
        Ok((started, Held(container)))
    }

    fn make(&self, request: CreateRequest, mode: Mode) -> Result<(Started, Container)> {
        record::check_id(&request.id)?;
        let id = request.id.clone();
        create::create(&self.options, request, mode).map_err(|error| {
            // These say it all, and others look for their words.
            if error.kind() == ErrorKind::AlreadyExists {
                error
            } else {
                error.context(format!("cannot create container `{id}`"))
            }
        })
    }

    /// Lets the waiting process execute the program; runs the poststart hooks.
    pub fn start(&self, id: &str) -> Result<()> {
        let container = self.open_locked(id)?;
        match container.status()? {
            Status::Created => {}
            Status::Stopped => {
                return Err(conflict(format!("cannot start a container that has stopped: `{id}`")));
            }
            status => {
                return Err(conflict(format!("cannot start a container in the {} state: `{id}`", status.as_str())));
            }
        }
        // Before: a short program has ended by the time that the hooks are told its pid.
        let state = ContainerState { status: Status::Running, ..container.state()? };
        if !container.directory.release_start()? {
            return Err(conflict(format!("cannot start a container that has stopped: `{id}`")));
        }
        hooks::run("poststart", &container.record.poststart, &state, None).inspect_err(|_| {
            let _also_failed = container.kill_and_wait().and_then(|()| container.destroy());
        })
    }

    /// Makes the socket on which the container, before its start, will say that it is ready; `None` where it was created
    /// without one.
    pub fn notify_socket(&self, id: &str) -> Result<Option<NotifySocket>> {
        let container = self.open_locked(id)?;
        if container.status()? == Status::Created { container.directory.bind_notify() } else { Ok(None) }
    }

    /// A descriptor of the container's first process, and its pid; an error where it has ended.
    pub fn first_process(&self, id: &str) -> Result<(Pid, OwnedFd)> {
        let container = self.open(id)?;
        let ended = || conflict(format!("container not running: `{id}`"));
        let init = container.record.init.ok_or_else(ended)?;
        let pidfd = exec::open_target(init).ok_or_else(ended)?;
        Ok((Pid::from_raw(init.pid).ok_or_else(ended)?, pidfd))
    }

    /// The container's state.
    pub fn state(&self, id: &str) -> Result<ContainerState> {
        self.open(id)?.state()
    }

    /// Every container under the root, by id. One that cannot be read is passed over.
    pub fn list(&self) -> Result<Vec<ContainerState>> {
        let ids = record::ids(&self.options.root)?;
        Ok(ids.iter().filter_map(|id| self.open(id).and_then(|container| container.state()).ok()).collect())
    }

    /// Sends `signal` to the first process, or to all of the cgroup.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let container = self.open(id)?;
        if all {
            return container.cgroup()?.signal_all(signal);
        }
        match container.status()? {
            // Without a pid namespace others outlive the first process.
            Status::Stopped if signal == SIGKILL && container.has_orphans()? => {
                return container.cgroup()?.signal_all(signal);
            }
            Status::Stopped | Status::Creating => return Err(conflict(format!("container not running: `{id}`"))),
            Status::Paused if signal == SIGKILL => {
                container.signal(signal)?;
                return container.cgroup()?.freeze(false);
            }
            _ => {}
        }
        if signal == SIGKILL && !container.has_own_pid_namespace()? {
            // Nothing ends with the first process here (pid_namespaces(7)).
            return container.cgroup()?.signal_all(signal);
        }
        container.signal(signal)
    }

    /// Removes a stopped container; with `force` kills it first and does not mind its absence. Gives warnings.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<String>> {
        record::check_id(id)?;
        let directory = match Directory::open(&self.options.root, id) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        if !force && directory.is_locked() && directory.read()?.is_none_or(|record| record.init.is_none()) {
            return Err(conflict(format!("cannot delete container `{id}` while it is being created")));
        }
        directory.lock()?;
        let Some(record) = directory.read()? else {
            // `create` was killed before it made anything but the directory.
            directory.remove()?;
            return Ok(Vec::new());
        };
        let container = Container { directory, record };
        match container.status()? {
            Status::Stopped | Status::Creating => {}
            Status::Created => container.kill_and_wait()?,
            _ if force => container.kill_and_wait()?,
            status => {
                return Err(conflict(format!(
                    "cannot delete container `{id}` that is not stopped: {}",
                    status.as_str()
                ))
                .hint(format!("`kill {id} KILL`, or `delete --force {id}`")));
            }
        }
        container.destroy()
    }

    /// The container's own process document, as defaults of an exec (runc's: args replaced, terminal off).
    pub fn exec_process(&self, id: &str) -> Result<Process> {
        let process = self.open(id)?.spec()?.process;
        let process =
            process.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("container `{id}` has no process")))?;
        Ok(Process { terminal: false, console_size: None, ..process })
    }

    /// Starts one more process in a running container. Returns once its program runs.
    pub fn exec(&self, request: ExecRequest) -> Result<Started> {
        let container = self.open(&request.id)?;
        let id = request.id.clone();
        match container.status()? {
            Status::Created | Status::Running => {}
            Status::Paused if request.ignore_paused => {}
            Status::Paused => {
                return Err(conflict(format!(
                    "cannot exec in a paused container (use --ignore-paused to override): `{id}`"
                )));
            }
            _ => return Err(conflict(format!("cannot exec in a stopped container: `{id}`"))),
        }
        exec::exec(&container.record, &container.spec()?, container.cgroup()?, request)
            .map_err(|error| error.context(format!("cannot exec in container `{id}`")))
    }

    /// Freezes every process.
    pub fn pause(&self, id: &str) -> Result<()> {
        let container = self.open_locked(id)?;
        match container.status()? {
            Status::Running | Status::Created => container.cgroup()?.freeze(true),
            status => Err(conflict(format!("container not running or created: `{id}` is {}", status.as_str()))),
        }
    }

    /// Thaws every process.
    pub fn resume(&self, id: &str) -> Result<()> {
        let container = self.open_locked(id)?;
        match container.status()? {
            Status::Paused => container.cgroup()?.freeze(false),
            status => Err(conflict(format!("container not paused: `{id}` is {}", status.as_str()))),
        }
    }

    /// Host pids of every process of the container: those of its cgroup, and where it has none (an ordinary user's), those
    /// of its pid namespace.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>> {
        let container = self.open(id)?;
        let cgroup = container.cgroup()?;
        match container.record.init {
            Some(init) if cgroup.hierarchy_count() == 0 && container.has_own_pid_namespace()? => {
                Ok(crate::procfs::of_pid_namespace(init.pid))
            }
            _ => cgroup.pids(),
        }
    }

    /// Changes limits while it lives.
    pub fn update(&self, id: &str, resources: &Resources, schemata: &Schemata<'_>) -> Result<()> {
        let container = self.open_locked(id)?;
        if container.status()? == Status::Stopped {
            return Err(conflict(format!("container not running: `{id}`")));
        }
        let spec = container.spec()?;
        let rdt = spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref());
        let rdt = rdt::Update::build(schemata, rdt, id)?;
        container.cgroup()?.update(resources)?;
        rdt.map_or(Ok(()), |rdt| rdt.apply())
    }

    /// Usage as `events --stats` shows it.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let container = self.open(id)?;
        if container.status()? == Status::Stopped {
            return Err(conflict(format!("container not running: `{id}`")));
        }
        container.cgroup()?.stats()
    }

    /// Watches for the kernel's out-of-memory killer.
    pub fn oom_watch(&self, id: &str) -> Result<OomWatch> {
        self.open(id)?.cgroup()?.oom_watch()
    }

    fn open(&self, id: &str) -> Result<Container> {
        let directory = Directory::open(&self.options.root, id)?;
        Container::read(directory, id)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn open_locked(&self, id: &str) -> Result<Container> {
        let directory = Directory::open(&self.options.root, id)?;
        directory.lock()?;
        Container::read(directory, id)
    }
}

/// A container that has a record.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) directory: Directory,
    pub(crate) record: Record,
}

impl Container {
    fn read(directory: Directory, id: &str) -> Result<Self> {
        let record = directory.read()?.ok_or_else(|| {
            conflict(format!("container `{id}` was never created whole"))
                .hint(format!("`delete --force {id}` removes what there is"))
        })?;
        Ok(Self { directory, record })
    }

    pub(crate) fn status(&self) -> Result<Status> {
        let Some(init) = self.record.init else {
            return Ok(if self.directory.is_locked() { Status::Creating } else { Status::Stopped });
        };
        if !init.lives() {
            return Ok(Status::Stopped);
        }
        if self.cgroup()?.is_frozen()? {
            return Ok(Status::Paused);
        }
        Ok(if self.directory.waits_for_start() { Status::Created } else { Status::Running })
    }

    fn state(&self) -> Result<ContainerState> {
        let status = self.status()?;
        let pid = match (status, self.record.init) {
            (Status::Stopped | Status::Creating, _) | (_, None) => 0,
            (_, Some(init)) => init.pid,
        };
        Ok(ContainerState { status, pid, owner: crate::owner::name(self.record.owner_uid), ..self.record.state() })
    }

    pub(crate) fn spec(&self) -> Result<Spec> {
        Spec::parse(&self.directory.read_config()?)
    }

    pub(crate) fn cgroup(&self) -> Result<&Cgroup> {
        let missing = || Error::new(ErrorKind::Corrupt, format!("container `{}` has no cgroup", self.record.id));
        self.record.cgroup.as_ref().ok_or_else(missing)
    }

    fn has_own_pid_namespace(&self) -> Result<bool> {
        Ok(exec::has_namespace(&self.spec()?, NamespaceKind::Pid))
    }

    fn has_orphans(&self) -> Result<bool> {
        let cgroup = self.cgroup()?;
        Ok(!self.has_own_pid_namespace()? && cgroup.exists() && !cgroup.pids()?.is_empty())
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let ended = || conflict(format!("container not running: `{}`", self.record.id));
        let target = self.record.init.and_then(exec::open_target).ok_or_else(ended)?;
        match signal::pidfd_send_signal(target.as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) => Err(ended()),
            result => result.call(|| format!("pidfd_send_signal(<container>, {signal})")),
        }
    }

    /// Kills the first process, thawed, and waits for its end.
    fn kill_and_wait(&self) -> Result<()> {
        self.end(self.record.init)
    }

    fn end(&self, process: Option<record::Process>) -> Result<()> {
        let Some(target) = process.and_then(exec::open_target) else { return Ok(()) };
        match signal::pidfd_send_signal(target.as_fd(), SIGKILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            result => result.call(|| "pidfd_send_signal(<container>, SIGKILL)")?,
        }
        let cgroup = self.cgroup()?;
        if cgroup.is_frozen().unwrap_or(false) {
            cgroup.freeze(false)?;
        }
        let timeout = Timespec { tv_sec: KILL_SECONDS_MAX, tv_nsec: 0 };
        let mut list = [PollFd::new(&target, PollFlags::IN)];
        let ended = rustix::io::retry_on_intr(|| poll(&mut list, Some(&timeout))).call(|| "poll(<container>)")?;
        if ended == 0 {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("container `{}` did not end {KILL_SECONDS_MAX} seconds after SIGKILL", self.record.id),
            ));
        }
        Ok(())
    }

    /// What outlived the first process ends too: without a pid namespace nothing else would end it.
    pub(crate) fn destroy(&self) -> Result<Vec<String>> {
        let cgroup = self.cgroup()?;
        if !cgroup.remove_unused() && cgroup.exists() {
            cgroup.signal_all(SIGKILL)?;
        }
        self.end(self.record.newborn)?;
        create::destroy(&self.directory, &self.record)
    }
}

/// A container and what its maker still has open of it.
#[derive(Debug)]
pub struct Held(Container);

impl Held {
    /// Removes the container, whose first process has ended and was waited for; nothing to do where somebody else has
    /// removed it. Gives warnings.
    pub fn delete(&self) -> Result<Vec<String>> {
        self.0.directory.lock()?;
        if self.0.directory.is_gone()? { Ok(Vec::new()) } else { self.0.destroy() }
    }
}

fn conflict(message: String) -> Error {
    Error::new(ErrorKind::Conflict, message)
}
