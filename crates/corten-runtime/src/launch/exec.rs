//! One more process in a running container.

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call as _;
use corten_sys::clone::{CloneRequest, Side, clone, exit_now};
use corten_sys::{exec, namespace, signal};
use corten_types::runtime_spec::{CpuAffinity, Linux, NamespaceKind, Spec};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_dumpable_behavior, setsid,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::create::{pass_listener, write_pid_file};
use super::init::apply_process;
use super::plan::Stdio;
use super::spawn::{self, Child, Origin, clone_into, fail};
use crate::cgroup::{Cgroup, Entry};
use crate::channel::{Channel, Message, Reply, failure};
use crate::namespaces::{self, become_root_inside};
use crate::process::{ProcessPlan, limits};
use crate::record::{Process, Record};
use crate::runtime::{ContainerState, ExecRequest, Started, Status};
use crate::{procfs, terminal};

/// What the child walks.
#[derive(Debug)]
struct ExecPlan {
    /// `CLONE_NEW*` of the namespaces to join.
    kinds: u64,
    /// The container's first process.
    target: OwnedFd,
    process: ProcessPlan,
    stdio: Stdio,
    preserve_fds: u32,
    affinity: [Option<CpuSet>; 2],
}

/// Starts the process and returns once the program runs.
pub(crate) fn exec(record: &Record, spec: &Spec, cgroup: &Cgroup, request: ExecRequest) -> Result<Started> {
    super::check_preserved(request.preserve_fds)?;
    let no_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&no_linux);
    let init = record.init.ok_or_else(|| gone(&record.id))?;
    let target = open_target(init).ok_or_else(|| gone(&record.id))?;
    let console = match &request.console_socket {
        Some(path) if request.process.terminal => Some(terminal::connect_console(path)?),
        Some(_) => return Err(Error::invalid("a console socket is named, but the process has no terminal")),
        None => None,
    };
    let mut plan = ExecPlan {
        kinds: kinds(linux),
        target,
        process: ProcessPlan::build(&request.process, linux)?,
        stdio: Stdio::new(
            request.process.terminal,
            request.process.console_size.clone(),
            request.stdio,
            request.keep_line_feeds,
        ),
        preserve_fds: request.preserve_fds,
        affinity: affinity(request.process.exec_cpu_affinity.as_ref())?,
    };
    plan.process.notes.extend(super::steps(plan.affinity[0].as_ref(), "setns_init: about to exec"));
    let entry = cgroup.exec_entry(&request.cgroups, Pid::from_raw(init.pid));
    let entry = entry.context(|| "error adding pid of the new process to cgroups")?;
    let child = spawn_into(&mut plan, &entry)?;
    let mut parent = Parent { child, terminal: None, warnings: Vec::new() };
    let outcome = parent.converse(&plan, linux, console.as_ref(), record, request.pid_file.as_deref());
    match outcome {
        Ok(()) => Ok(Started {
            pid: parent.child.pid,
            pidfd: parent.child.pidfd,
            terminal: parent.terminal,
            notify: None,
            warnings: parent.warnings,
            notes: plan.process.notes,
        }),
        Err(error) => {
            let _already_gone = pidfd_send_signal(&parent.child.pidfd, Signal::KILL);
            spawn::reap(&parent.child.pidfd);
            Err(error)
        }
    }
}

fn gone(id: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("cannot exec in a stopped container: `{id}`"))
}

/// A pidfd that surely is the recorded process's: checked after it was opened.
pub(crate) fn open_target(process: Process) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    process.lives().then_some(pidfd)
}

/// What the container does not share with us; it has no `path` that could now lead elsewhere.
fn kinds(linux: &Linux) -> u64 {
    linux.namespaces.iter().map(|entry| namespaces::flag(entry.kind)).fold(0, |all, kind| all | kind)
}

fn affinity(wanted: Option<&CpuAffinity>) -> Result<[Option<CpuSet>; 2]> {
    let Some(wanted) = wanted else { return Ok([None, None]) };
    let set = |field: &str, text: &str| -> Result<Option<CpuSet>> {
        if text.is_empty() {
            return Ok(None);
        }
        let mut set = CpuSet::new();
        for cpu in limits::list(&format!("process.execCPUAffinity.{field}"), text, CpuSet::MAX_CPU - 1)? {
            set.set(cpu);
        }
        Ok(Some(set))
    };
    Ok([set("initial", &wanted.initial)?, set("final", &wanted.last)?])
}

/// Clones straight into the container's pid namespace, or by an intermediate process where only the container's user
/// namespace gives the right to enter, or where this process could not choose its own again.
fn spawn_into(plan: &mut ExecPlan, entry: &Entry) -> Result<Child> {
    let single = spawn::single_threaded()?;
    let (ours, theirs) = Channel::pair()?;
    let enters_pid = plan.kinds & namespace::NEWPID != 0;
    let direct = !enters_pid || (plan.kinds & namespace::NEWUSER == 0 && spawn::may_come_back());
    let target = plan.target.try_clone().context(|| "cannot duplicate a descriptor")?;
    let pid_namespace = (enters_pid && direct).then_some((target.as_fd(), namespace::NEWPID));
    match clone_into(&single, 0, entry, pid_namespace)? {
        (Side::Parent { pid, pidfd }, _) => Ok(Child { pid, pidfd, channel: ours }),
        (Side::Child, born_inside) => {
            drop(ours);
            let origin = Origin {
                channel: theirs,
                entry: Some(entry),
                born_inside,
                needs_parent: false,
                settled: false,
                is_early: false,
            };
            let entered = enter(plan, &origin, direct);
            if let Err(error) = entered {
                fail(&origin.channel, &error);
            }
            if !direct {
                match clone(&single, &CloneRequest { flags: namespace::PARENT, cgroup: None })
                    .call(|| "clone3(CLONE_PARENT)")
                {
                    Ok(Side::Child) => {}
                    Ok(Side::Parent { pid, pidfd }) => {
                        let first = Message::First { pid: pid.as_raw_nonzero().get() };
                        exit_now(i32::from(origin.channel.send(&first, Some(pidfd.as_fd())).is_err()));
                    }
                    Err(error) => fail(&origin.channel, &error),
                }
            }
            run(plan, &origin.channel)
        }
    }
}

/// Cgroup, then every namespace at once, the user namespace first (setns(2) with a pidfd).
fn enter(plan: &mut ExecPlan, origin: &Origin<'_>, direct: bool) -> Result<()> {
    exec::close_on_exec_from(3 + plan.preserve_fds).call(|| "close_range(CLOSE_RANGE_CLOEXEC)")?;
    signal::reset_all();
    plan.process.apply_oom_score();
    set_dumpable_behavior(DumpableBehavior::NotDumpable).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    if let Some(set) = &plan.affinity[0] {
        sched_setaffinity(None, set).call(|| "sched_setaffinity(<initial>)")?;
    }
    if let Some(entry) = origin.entry {
        // runc's words, as above: its users look for them.
        entry.join_self(origin.born_inside).context(|| "error adding pid of the new process to cgroups")?;
    }
    spawn::use_every_cpu();
    let kinds = if direct { plan.kinds & !namespace::NEWPID } else { plan.kinds };
    if kinds != 0 {
        namespace::setns(plan.target.as_fd(), kinds).call(|| format!("setns(<container>, {kinds:#x})"))?;
    }
    if kinds & namespace::NEWUSER != 0 {
        become_root_inside();
    }
    Ok(())
}

/// The rest of the child: ends in the program or in the process's end.
fn run(plan: &mut ExecPlan, channel: &Channel) -> ! {
    let prepared = (|| {
        setsid().call(|| "setsid()")?;
        match &plan.stdio {
            Stdio::Inherit => {}
            Stdio::Given(list) => terminal::set_stdio([list[0].as_fd(), list[1].as_fd(), list[2].as_fd()])?,
            Stdio::Terminal { size, keep_line_feeds } => {
                let pair = terminal::open(size.as_ref(), *keep_line_feeds)?;
                channel.send(&Message::Terminal, Some(pair.main.as_fd()))?;
                terminal::take(&pair.peer)?;
            }
        }
        if let Some(set) = &plan.affinity[1] {
            sched_setaffinity(None, set).call(|| "sched_setaffinity(<final>)")?;
        }
        let procfs = if plan.process.needs_procfs() { Some(procfs::mount_or_verify()?) } else { None };
        apply_process(&mut plan.process, procfs.as_ref(), channel)?;
        let program = plan.process.find_program()?;
        let limits_set = plan.process.apply_limits();
        let warnings = std::mem::take(&mut plan.process.warnings);
        channel.send(&Message::Ready { warnings, limits_set }, None)?;
        channel.wait(Reply::Go)?;
        Ok(program)
    })();
    match prepared {
        Ok(program) => fail(channel, &plan.process.execute(&program)),
        Err(error) => fail(channel, &error),
    }
}

/// The parent's side of the conversation.
struct Parent {
    child: Child,
    terminal: Option<OwnedFd>,
    warnings: Vec<String>,
}

impl Parent {
    fn converse(
        &mut self,
        plan: &ExecPlan,
        linux: &Linux,
        console: Option<&OwnedFd>,
        record: &Record,
        pid_file: Option<&std::path::Path>,
    ) -> Result<()> {
        let mut ready = false;
        loop {
            match self.child.channel.receive()? {
                None if ready => return Ok(()),
                None => return Err(Error::new(ErrorKind::Internal, "the process ended before it was ready")),
                Some((Message::First { pid }, Some(pidfd))) => {
                    let intermediate = std::mem::replace(&mut self.child.pidfd, pidfd);
                    self.child.pid = Pid::from_raw(pid).unwrap_or(self.child.pid);
                    spawn::reap(&intermediate);
                }
                Some((Message::Terminal, Some(main))) => match console {
                    Some(socket) => terminal::send_descriptor(socket, b"/dev/ptmx", main.as_fd())?,
                    None => self.terminal = Some(main),
                },
                Some((Message::SeccompListener { fd }, _)) => {
                    let pid = record.init.map_or(0, |init| init.pid);
                    let state = ContainerState { pid, status: Status::Running, ..record.state() };
                    pass_listener(&self.child, fd, linux.seccomp.as_ref(), &state)?;
                    self.child.channel.reply(Reply::Continue)?;
                }
                Some((Message::Ready { warnings, limits_set }, _)) => {
                    self.warnings = warnings;
                    plan.process.apply_outside(self.child.pid, limits_set)?;
                    write_pid_file(pid_file, self.child.pid)?;
                    self.child.channel.reply(Reply::Go)?;
                    ready = true;
                }
                Some((Message::Failed { kind, errno, chain, hints }, _)) => {
                    return Err(failure(&kind, errno, chain, hints));
                }
                Some((message, _)) => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("unexpected message of the child: {message:?}"),
                    ));
                }
            }
        }
    }
}

/// Whether the container has a namespace of this kind of its own.
pub(crate) fn has_namespace(spec: &Spec, kind: NamespaceKind) -> bool {
    spec.linux.as_ref().is_some_and(|linux| linux.namespaces.iter().any(|entry| entry.kind == kind))
}
