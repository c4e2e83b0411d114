//! Making a container: plan, record, clone, cgroup (or cgroup, clone); answer the child; record again. Undone in reverse
//! order on failure.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::Call as _;
use corten_types::runtime_spec::{self, Hooks, Linux, NamespaceKind, SPEC_SIZE_BYTES_MAX, Spec};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::process::{Pid, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_send_signal};

use super::init::{self, Then};
use super::plan::{self, InitPlan, Stdio};
use super::spawn::{self, Child, Origin};
use crate::cgroup::{self, Cgroup, Entry};
use crate::channel::{DESCRIPTORS_MAX, Message, Reply, failure};
use crate::namespaces::NamespacePlan;
use crate::notify::{self, NotifySocket};
use crate::process::ProcessPlan;
use crate::record::{Directory, Process, Record};
use crate::rootfs::{self, MountNamespace, RootfsPlan};
use crate::runtime::{Container, ContainerState, CreateRequest, Options, Started, Status};
use crate::sysctl::SysctlPlan;
use crate::{hooks, net_device, rdt, seccomp, terminal};

/// Whether the program runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It waits for `start`.
    Create,
    /// It runs; `create` and `start` in one.
    Run,
}

/// Makes the container. On failure nothing of it is left.
pub(crate) fn create(options: &Options, request: CreateRequest, mode: Mode) -> Result<(Started, Container)> {
    if !request.notify {
        return create_in(options, request, mode, &mut None);
    }
    // The source of a mount must be there when the mounts are planned.
    let directory = Directory::create(&options.root, &request.id)?;
    let mut reserved = Some(directory);
    let made = reserved.as_ref().map_or(Ok(()), Directory::make_notify);
    let started = made.and_then(|()| create_in(options, request, mode, &mut reserved));
    match (started, reserved.map(|unused| unused.remove())) {
        (Err(error), Some(Err(left))) => Err(error.hint(format!("some of it is left ({})", left.one_line()))),
        (started, _) => started,
    }
}

/// `reserved` is the container's directory where that is made already; taken once all is planned.
fn create_in(
    options: &Options,
    request: CreateRequest,
    mode: Mode,
    reserved: &mut Option<Directory>,
) -> Result<(Started, Container)> {
    super::check_preserved(request.listen_fds.saturating_add(request.preserve_fds))?;
    if reserved.is_none() {
        Directory::refuse_taken(&options.root, &request.id)?;
    }
    let bundle = std::path::absolute(&request.bundle).context(|| "cannot find the bundle")?;
    let json = read_config(&bundle)?;
    let mut spec = Spec::parse(&json)?;
    plan::check(&spec)?;
    adapt(&mut spec, options, &request);
    let no_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&no_linux);
    let namespaces = NamespacePlan::build(linux)?;
    let rdt = linux.intel_rdt.as_ref().map(|rdt| rdt::Plan::build(rdt, &request.id)).transpose()?;
    let console = match (&spec.process, &request.console_socket) {
        (Some(process), Some(path)) if process.terminal => Some(terminal::connect_console(path)?),
        (_, Some(_)) => return Err(Error::invalid("a console socket is named, but `process.terminal` is false")),
        _ => None,
    };

    let cgroup_request = cgroup::Request {
        cgroups_path: &linux.cgroups_path,
        id: &request.id,
        systemd: options.systemd_cgroup,
        rootless: options.is_rootless(),
        resources: linux.resources.as_ref(),
        devices: &linux.devices,
        annotations: &spec.annotations,
    };
    let cgroup = Cgroup::plan(&cgroup_request)?;
    let mut init_plan = build_plan(&spec, linux, &namespaces, &bundle, &cgroup, &request)?;
    init_plan.process.notes.extend(super::steps(None, "init: closing the pipe to signal completion"));
    init_plan.stdio = {
        let process = spec.process.as_ref();
        let size = process.and_then(|process| process.console_size.clone());
        Stdio::new(process.is_some_and(|process| process.terminal), size, request.stdio, request.keep_line_feeds)
    };
    if request.no_new_keyring {
        init_plan.keyring = None;
    }

    let directory = match reserved.take() {
        Some(directory) => directory,
        None => Directory::create(&options.root, &request.id)?,
    };
    let hooks = spec.hooks.clone().unwrap_or_default();
    let record = Record {
        id: request.id.clone(),
        bundle,
        rootfs: init_plan.rootfs.rootfs().to_path_buf(),
        created: init_plan.state.created.clone(),
        owner_uid: rustix::process::getuid().as_raw(),
        annotations: spec.annotations.clone(),
        init: None,
        newborn: None,
        cgroup: Some(cgroup),
        host_mounts: !namespaces.has(NamespaceKind::Mount),
        rdt: rdt.as_ref().and_then(rdt::Plan::directory),
        poststart: hooks.poststart.clone(),
        poststop: hooks.poststop.clone(),
    };
    let answers = Answers { namespaces: &namespaces, linux, cgroup: &cgroup_request, console: console.as_ref() };
    let mut making = Making {
        directory,
        record,
        child: None,
        hooks: &hooks,
        mode,
        terminal: None,
        notify: None,
        notes: std::mem::take(&mut init_plan.process.notes),
        warnings: Vec::new(),
        limits_set: false,
        entry: None,
    };
    let made = making.directory.write_config(&json).and_then(|()| making.make(&mut init_plan, rdt.as_ref(), &answers));
    match made.and_then(|()| write_pid_file(request.pid_file.as_deref(), making.pid()?)) {
        Ok(()) => making.finish(),
        Err(error) => Err(making.abort(error)),
    }
}

/// What a service manager adds to the configuration: its sockets (sd_listen_fds(3)), and its wish to know of readiness.
fn adapt(spec: &mut Spec, options: &Options, request: &CreateRequest) {
    if request.notify {
        notify::add_to(spec, &options.root.join(&request.id));
    }
    if let Some(process) = spec.process.as_mut().filter(|_| request.listen_fds > 0) {
        process.env.extend([format!("LISTEN_FDS={}", request.listen_fds), "LISTEN_PID=1".to_owned()]);
    }
}

fn build_plan(
    spec: &Spec,
    linux: &Linux,
    namespaces: &NamespacePlan,
    bundle: &Path,
    cgroup: &Cgroup,
    request: &CreateRequest,
) -> Result<InitPlan> {
    let no_hooks = Hooks::default();
    let hooks = spec.hooks.as_ref().unwrap_or(&no_hooks);
    let process = spec.process.as_ref().ok_or_else(|| Error::invalid("`process` is missing in `config.json`"))?;
    let process = ProcessPlan::build(process, linux)?;
    check_mapped(&process, namespaces)?;
    let rootfs = RootfsPlan::build(&rootfs::Request {
        spec,
        bundle,
        mount_namespace: match (namespaces.is_new(NamespaceKind::Mount), namespaces.joins(NamespaceKind::Mount)) {
            (true, _) => MountNamespace::New,
            (_, true) => MountNamespace::Joined,
            _ => MountNamespace::Host,
        },
        new_user_namespace: namespaces.has(NamespaceKind::User),
        new_cgroup_namespace: namespaces.has(NamespaceKind::Cgroup),
        cgroup_paths: &cgroup.paths(),
        no_pivot: request.no_pivot,
    })?;
    let state = ContainerState {
        oci_version: runtime_spec::VERSION.to_owned(),
        id: request.id.clone(),
        pid: 0,
        status: Status::Creating,
        bundle: bundle.to_path_buf(),
        rootfs: rootfs.rootfs().to_path_buf(),
        created: crate::time::now(),
        owner: String::new(),
        annotations: spec.annotations.clone(),
    };
    Ok(InitPlan {
        hostname: plan::uts_name("hostname", &spec.hostname, namespaces)?,
        domainname: plan::uts_name("domainname", &spec.domainname, namespaces)?,
        keyring: CString::new(format!("_ses.{}", request.id)).ok(),
        net_devices: !linux.net_devices.is_empty(),
        runtime_hooks: !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty(),
        create_container: hooks.create_container.clone(),
        start_container: hooks.start_container.clone(),
        rootfs,
        sysctl: SysctlPlan::build(&linux.sysctl, namespaces)?,
        process,
        stdio: Stdio::Inherit,
        preserve_fds: request.listen_fds + request.preserve_fds,
        state,
    })
}

/// The program's ids must exist in the new user namespace.
fn check_mapped(process: &ProcessPlan, namespaces: &NamespacePlan) -> Result<()> {
    if !namespaces.is_new(NamespaceKind::User) {
        return Ok(());
    }
    for (field, id, mapped) in [
        ("uid", process.uid(), namespaces.maps.host_uid(process.uid())),
        ("gid", process.gid(), namespaces.maps.host_gid(process.gid())),
    ] {
        if mapped.is_none() {
            return Err(Error::invalid(format!(
                "`process.user.{field}` is {id}, which `linux.{field}Mappings` does not map"
            )));
        }
    }
    Ok(())
}

fn read_config(bundle: &Path) -> Result<Vec<u8>> {
    let path = bundle.join("config.json");
    corten_fs::root::read_ambient(&path, SPEC_SIZE_BYTES_MAX).map_err(|error| {
        let missing = error.kind() == ErrorKind::NotFound;
        let error = error.context(format!("cannot read `{}`", path.display()));
        if missing { error.hint("name a bundle with `--bundle DIR`; `spec` writes a template there") } else { error }
    })
}

/// Written beside and renamed: who watches for the file never reads half a number.
pub(crate) fn write_pid_file(path: Option<&Path>, pid: Pid) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let what = || format!("cannot write the pid file `{}`", path.display());
    let name = path.file_name().ok_or_else(|| Error::invalid("it has no file name").context(what()))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    let beside = path.with_file_name(beside);
    std::fs::write(&beside, pid.as_raw_nonzero().to_string()).context(what)?;
    std::fs::rename(&beside, path).context(what)
}

/// A container in the making, and how to undo it.
struct Making<'a> {
    directory: Directory,
    record: Record,
    child: Option<Child>,
    hooks: &'a Hooks,
    mode: Mode,
    terminal: Option<OwnedFd>,
    notify: Option<NotifySocket>,
    notes: Vec<String>,
    warnings: Vec<String>,
    limits_set: bool,
    /// What the child, cloned before its cgroups were made, is still to be given.
    entry: Option<Entry>,
}

/// What the parent needs to answer the child.
struct Answers<'a> {
    namespaces: &'a NamespacePlan,
    linux: &'a Linux,
    cgroup: &'a cgroup::Request<'a>,
    console: Option<&'a OwnedFd>,
}

impl Making<'_> {
    fn make(&mut self, plan: &mut InitPlan, rdt: Option<&rdt::Plan>, answers: &Answers<'_>) -> Result<()> {
        // From here on `delete --force` finds what there is, should this process be killed.
        self.directory.write(&self.record)?;
        if self.mode == Mode::Run {
            self.notify = self.directory.bind_notify()?;
        }
        let request = answers.cgroup;
        let cgroup = self.cgroup_mut()?;
        // The child is then cloned first and makes its network namespace meanwhile.
        let is_early =
            answers.namespaces.network_can_wait() && !request.rootless && cgroup.hierarchy_count() <= DESCRIPTORS_MAX;
        let made = if is_early { cgroup.create_birthplace(request) } else { cgroup.create(request) };
        made.context(|| "cannot make the cgroup")?;
        if let Some(rdt) = rdt {
            rdt.create()?;
        }
        self.clone_child(plan, answers.namespaces, is_early)?;
        if is_early {
            let cgroup = self.cgroup_mut()?;
            cgroup.create(request).context(|| "cannot make the cgroup")?;
            self.entry = Some(cgroup.entry()?);
        }
        self.answer(answers, &plan.rootfs)?;
        let child = self.child()?;
        if let Some(rdt) = rdt {
            rdt.add(child.pid)?;
        }
        plan.process.apply_outside(child.pid, self.limits_set)?;
        if self.record.init.is_none() {
            self.prepare_record()?;
        }
        self.directory.commit()?;
        self.release()
    }

    /// Writes the record with the child in it; nobody sees it yet.
    fn prepare_record(&mut self) -> Result<()> {
        self.record.init = Process::find(self.pid()?.as_raw_nonzero().get());
        self.record.newborn = None;
        self.directory.prepare(&self.record)
    }

    fn clone_child(&mut self, plan: &mut InitPlan, namespaces: &NamespacePlan, is_early: bool) -> Result<()> {
        let then = match self.mode {
            Mode::Create => Then::Wait(self.directory.make_start()?),
            Mode::Run => Then::Run,
        };
        let cgroup = self.cgroup_mut()?;
        let entry = if is_early { cgroup.birth_entry()? } else { cgroup.entry()? };
        let needs_scope = cgroup.needs_pid();
        let body = |origin: Origin<'_>| init::first_process(plan, namespaces, then, origin);
        self.child = Some(spawn::first_process(namespaces, &entry, needs_scope, is_early, body)?);
        Ok(())
    }

    /// Answers the child until it is ready.
    fn answer(&mut self, answers: &Answers<'_>, rootfs: &RootfsPlan) -> Result<()> {
        loop {
            let Some((message, descriptor)) = self.child()?.channel.receive()? else {
                return Err(Error::new(ErrorKind::Internal, "the container's first process ended before it was ready")
                    .hint("was it killed? the kernel's log may know (out of memory)"));
            };
            match (message, descriptor) {
                (Message::Born, _) => {
                    self.attend_birth(answers)?;
                    // While the child prepares; an intermediate process is not the one to be recorded.
                    if !answers.namespaces.needs_intermediate() {
                        self.prepare_record()?;
                    }
                    continue;
                }
                (Message::First { pid }, Some(pidfd)) => {
                    self.adopt(pid, pidfd)?;
                    continue;
                }
                (Message::Terminal, Some(main)) => {
                    self.pass_terminal(main, answers.console)?;
                    continue;
                }
                (Message::MapIds { mount }, Some(tree)) => rootfs.map_ids(mount, tree.as_fd())?,
                (Message::NetDevices, _) => net_device::move_all(&answers.linux.net_devices, self.child()?.pid)?,
                (Message::RuntimeHooks, _) => self.run_runtime_hooks()?,
                (Message::SeccompListener { fd }, _) => self.pass_listener(fd, answers.linux)?,
                (Message::Ready { warnings, limits_set }, _) => {
                    self.warnings = warnings;
                    self.limits_set = limits_set;
                    return Ok(());
                }
                (Message::Failed { kind, errno, chain, hints }, _) => return Err(failure(&kind, errno, chain, hints)),
                (message, None) => {
                    return Err(Error::new(ErrorKind::Internal, format!("{message:?} came without its descriptor")));
                }
            }
            self.child()?.channel.reply(Reply::Continue)?;
        }
    }

    /// What only the parent can do for the process that was just cloned.
    fn attend_birth(&mut self, answers: &Answers<'_>) -> Result<()> {
        let pid = self.child()?.pid;
        self.note_newborn()?;
        if answers.namespaces.is_new(NamespaceKind::User) {
            answers.namespaces.maps.write(pid)?;
        }
        let cgroup = self.cgroup_mut()?;
        if cgroup.needs_pid() {
            cgroup.start_scope(pid, answers.cgroup)?;
        }
        let files: Vec<BorrowedFd<'_>> = self.entry.iter().flat_map(Entry::files).collect();
        self.child()?.channel.reply_with(Reply::Continue, &files)
    }

    /// The intermediate process made the container's first one and ends.
    fn adopt(&mut self, pid: i32, pidfd: OwnedFd) -> Result<()> {
        let pid = Pid::from_raw(pid).ok_or_else(|| Error::new(ErrorKind::Internal, "a child without a pid"))?;
        let child = self.child.as_mut().ok_or_else(no_child)?;
        let intermediate = std::mem::replace(&mut child.pidfd, pidfd);
        child.pid = pid;
        spawn::reap(&intermediate);
        self.note_newborn()
    }

    /// Without a cgroup only the record says which process to end, should this one be killed while that one waits for
    /// somebody else (a hook, an agent that answers for its system calls).
    fn note_newborn(&mut self) -> Result<()> {
        if !self.cgroup_mut()?.is_none() {
            return Ok(());
        }
        self.record.newborn = Process::find(self.child()?.pid.as_raw_nonzero().get());
        self.directory.write(&self.record)
    }

    fn pass_terminal(&mut self, main: OwnedFd, console: Option<&OwnedFd>) -> Result<()> {
        match console {
            Some(socket) => terminal::send_descriptor(socket, b"/dev/ptmx", main.as_fd()),
            None => {
                self.terminal = Some(main);
                Ok(())
            }
        }
    }

    fn run_runtime_hooks(&self) -> Result<()> {
        let state = self.state(Status::Creating)?;
        hooks::run("prestart", &self.hooks.prestart, &state, None)?;
        hooks::run("createRuntime", &self.hooks.create_runtime, &state, None)
    }

    fn pass_listener(&self, fd: i32, linux: &Linux) -> Result<()> {
        pass_listener(self.child()?, fd, linux.seccomp.as_ref(), &self.state(Status::Creating)?)
    }

    /// Lets the child go on; where it runs at once, waits until it became the program.
    fn release(&mut self) -> Result<()> {
        let child = self.child()?;
        child.channel.reply(Reply::Go)?;
        if self.mode == Mode::Create {
            return Ok(());
        }
        match child.channel.receive()? {
            Some((Message::Failed { kind, errno, chain, hints }, _)) => Err(failure(&kind, errno, chain, hints)),
            _ => hooks::run("poststart", &self.hooks.poststart, &self.state(Status::Running)?, None),
        }
    }

    fn finish(self) -> Result<(Started, Container)> {
        let child = self.child.ok_or_else(no_child)?;
        let started = Started {
            pid: child.pid,
            pidfd: child.pidfd,
            terminal: self.terminal,
            notify: self.notify,
            warnings: self.warnings,
            notes: self.notes,
        };
        Ok((started, Container { directory: self.directory, record: self.record }))
    }

    /// Takes everything back; what cannot be taken back is told beside the failure.
    fn abort(self, error: Error) -> Error {
        if let Some(child) = &self.child {
            let _already_gone = pidfd_send_signal(&child.pidfd, Signal::KILL);
            spawn::reap(&child.pidfd);
        }
        match destroy(&self.directory, &self.record) {
            Ok(_) => error,
            Err(left) => error.hint(format!("some of it is left ({}); `delete --force` removes it", left.one_line())),
        }
    }

    fn state(&self, status: Status) -> Result<ContainerState> {
        let pid = self.child()?.pid.as_raw_nonzero().get();
        Ok(ContainerState { pid, status, ..self.record.state() })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(self.child()?.pid)
    }

    fn child(&self) -> Result<&Child> {
        self.child.as_ref().ok_or_else(no_child)
    }

    fn cgroup_mut(&mut self) -> Result<&mut Cgroup> {
        self.record.cgroup.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "a container without a cgroup"))
    }
}

fn no_child() -> Error {
    Error::new(ErrorKind::Internal, "a container without a process")
}

/// Hands the child's notify descriptor to the agent that the configuration names.
pub(super) fn pass_listener(
    child: &Child,
    fd: i32,
    profile: Option<&runtime_spec::Seccomp>,
    state: &ContainerState,
) -> Result<()> {
    let listener =
        pidfd_getfd(&child.pidfd, fd, PidfdGetfdFlags::empty()).call(|| format!("pidfd_getfd(<child>, {fd})"))?;
    let Some(profile) = profile else { return Ok(()) };
    let document = serde_json::json!({
        "ociVersion": runtime_spec::VERSION,
        "fds": ["seccompFd"],
        "pid": child.pid.as_raw_nonzero().get(),
        "metadata": profile.listener_metadata,
        "state": state,
    });
    let document = serde_json::to_vec(&document).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
    seccomp::send_listener(Path::new(&profile.listener_path), listener.as_fd(), &document)
}

/// Destroys what a record says of an ended container: processes, cgroup, mounts, then the record itself. Gives the
/// warnings of the poststop hooks.
pub(crate) fn destroy(directory: &Directory, record: &Record) -> Result<Vec<String>> {
    if let Some(cgroup) = &record.cgroup {
        cgroup.destroy().context(|| "cannot remove the cgroup")?;
    }
    if let Some(rdt) = &record.rdt {
        rdt::remove(rdt)?;
    }
    if record.host_mounts {
        rootfs::unmount_from_host(&record.rootfs)?;
    }
    directory.remove()?;
    Ok(hooks::run_all("poststop", &record.poststop, &record.state()))
}
