//! The container's first process, from the clone to the program: a list of named steps, each of which was checked before.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use corten_sys::Call as _;
use corten_sys::{exec, namespace, process, signal};
use corten_types::runtime_spec::NamespaceKind;
use corten_types::{Error, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};

use super::plan::{InitPlan, Stdio};
use super::spawn::{Origin, bring_loopback_up, fail, settle};
use crate::channel::{Channel, Message, Reply};
use crate::namespaces::NamespacePlan;
use crate::runtime::Status;
use crate::{hooks, procfs, terminal};

/// Exit code of a first process that could not become the program after `start` (as runc's).
const FAILED_AFTER_START: i32 = 255;

/// Signals that end a container that waits for its start, as they end runc's: hang-up, interrupt, quit, terminate.
const ENDING: [i32; 4] = [1, 2, 3, 15];

/// What happens once all is prepared.
#[derive(Debug)]
pub(crate) enum Then {
    /// Wait until `start` writes into this FIFO.
    Wait(OwnedFd),
    /// Execute at once.
    Run,
}

/// Runs the steps; ends in the program or in the process's end.
pub(crate) fn first_process(plan: &mut InitPlan, namespaces: &NamespacePlan, then: Then, origin: Origin<'_>) -> ! {
    let start = match &then {
        Then::Wait(start) => Some(start.as_fd()),
        Then::Run => None,
    };
    let program = prepare(plan, namespaces, &origin, start).and_then(|(program, warnings)| {
        let limits_set = plan.process.apply_limits();
        origin.channel.send(&Message::Ready { warnings, limits_set }, None)?;
        origin.channel.wait(Reply::Go)?;
        Ok(program)
    });
    let channel = origin.channel;
    let program = match program {
        Ok(program) => program,
        Err(error) => fail(&channel, &error),
    };
    match then {
        Then::Run => fail(&channel, &become_program(plan, &program)),
        Then::Wait(start) => {
            drop(channel);
            let error = wait_for_start(&start).map_or_else(|error| error, |()| become_program(plan, &program));
            // Nobody listens but the container's own log.
            let _lost = rustix::io::write(rustix::stdio::stderr(), format!("{}\n", error.one_line()).as_bytes());
            corten_sys::clone::exit_now(FAILED_AFTER_START);
        }
    }
}

/// Everything before the container counts as created. Gives the program's path and the warnings.
fn prepare(
    plan: &mut InitPlan,
    namespaces: &NamespacePlan,
    origin: &Origin<'_>,
    start: Option<BorrowedFd<'_>>,
) -> Result<(CString, Vec<String>)> {
    let channel = &origin.channel;
    exec::close_on_exec_from(3 + plan.preserve_fds).call(|| "close_range(CLOSE_RANGE_CLOEXEC)")?;
    signal::reset_all();
    plan.process.apply_oom_score();
    settle(namespaces, origin)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    setsid().call(|| "setsid()")?;
    if namespaces.is_new(NamespaceKind::Cgroup) {
        namespace::unshare(namespace::NEWCGROUP).call(|| "unshare(CLONE_NEWCGROUP)")?;
    }
    join_keyring(plan.keyring.as_ref())?;
    set_up_network(plan, namespaces, origin)?;
    set_names(plan)?;
    plan.rootfs.prepare_with(&|mount, tree| channel.ask_with(&Message::MapIds { mount }, tree))?;
    if plan.runtime_hooks {
        channel.ask(&Message::RuntimeHooks)?;
    }
    hooks::run("createContainer", &plan.create_container, &state_inside(plan, Status::Creating), None)?;
    plan.rootfs.enter()?;
    set_up_stdio(plan, channel)?;
    plan.sysctl.apply()?;
    plan.rootfs.seal()?;
    // Above all the lock of the container's directory. Before a filter that may know no close_range.
    let kept = [channel.as_fd(), plan.process.launcher.as_fd()];
    close_all_but(start.into_iter().chain(kept), 3 + plan.preserve_fds)?;
    if start.is_some() {
        // The first process of a pid namespace ignores what it does not handle; who ends a container that waits for its
        // start must not have to know. Before a filter that may know no sigaction.
        signal::end_on(&ENDING);
    }
    let procfs = if plan.process.needs_procfs() { Some(procfs::mount_or_verify()?) } else { None };
    apply_process(&mut plan.process, procfs.as_ref(), channel)?;
    let program = plan.process.find_program()?;
    let mut warnings = plan.rootfs.warnings().to_vec();
    warnings.append(&mut plan.process.warnings);
    Ok((program, warnings))
}

/// Identity, limits, filter; a notify descriptor goes to the parent before anything else is called.
pub(super) fn apply_process(
    process: &mut crate::process::ProcessPlan,
    procfs: Option<&OwnedFd>,
    channel: &Channel,
) -> Result<()> {
    process.apply(procfs, &|listener| {
        let fd = listener.as_fd().as_raw_fd();
        channel.ask_by_write(&Message::SeccompListener { fd })
    })
}

/// A session keyring of the container's own, so that it sees no key of ours (session-keyring(7)).
fn join_keyring(name: Option<&CString>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    // KEY_USR_SEARCH for everybody who owns it, as runc sets.
    const KEEP: u32 = 0xffff_ffff;
    const SEARCH: u32 = 0x0008_0000;
    match process::join_session_keyring(name) {
        Ok(serial) => process::set_key_permissions(serial, KEEP, SEARCH).call(|| "keyctl(KEYCTL_SETPERM)"),
        // A kernel without keyrings, or a filter around us that hides them: nothing to protect.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => Ok(()),
        Err(errno) => Err(Error::syscall("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", errno.raw_os_error())
            .hint("`--no-new-keyring` keeps the caller's; the quota is the sysctl kernel.keys.maxkeys")),
    }
}

fn set_up_network(plan: &InitPlan, namespaces: &NamespacePlan, origin: &Origin<'_>) -> Result<()> {
    if namespaces.is_new(NamespaceKind::Network) && !origin.is_early {
        bring_loopback_up()?;
    }
    if plan.net_devices { origin.channel.ask(&Message::NetDevices) } else { Ok(()) }
}

fn set_names(plan: &InitPlan) -> Result<()> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name).call(|| format!("sethostname(\"{}\")", String::from_utf8_lossy(name)))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name).call(|| format!("setdomainname(\"{}\")", String::from_utf8_lossy(name)))?;
    }
    Ok(())
}

fn set_up_stdio(plan: &InitPlan, channel: &Channel) -> Result<()> {
    match &plan.stdio {
        Stdio::Inherit => Ok(()),
        Stdio::Given(list) => terminal::set_stdio([list[0].as_fd(), list[1].as_fd(), list[2].as_fd()]),
        Stdio::Terminal { size, keep_line_feeds } => {
            let pair = terminal::open(size.as_ref(), *keep_line_feeds)?;
            plan.rootfs.mount_console(pair.peer.as_fd())?;
            channel.send(&Message::Terminal, Some(pair.main.as_fd()))?;
            terminal::take(&pair.peer)
        }
    }
}

/// The state as the container sees it: its own pid.
fn state_inside(plan: &InitPlan, status: Status) -> crate::runtime::ContainerState {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    crate::runtime::ContainerState { pid, status, ..plan.state.clone() }
}

/// Closes every descriptor from `first` on but these; nothing of the plan that holds one is used afterwards.
fn close_all_but<'a>(kept: impl Iterator<Item = BorrowedFd<'a>>, first: u32) -> Result<()> {
    let mut numbers: Vec<u32> = kept.map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    numbers.sort_unstable();
    let mut from = first;
    for number in numbers.into_iter().filter(|number| *number >= first) {
        if number > from {
            exec::close_range(from, number - 1).call(|| "close_range(<inherited>)")?;
        }
        from = number + 1;
    }
    exec::close_range(from, u32::MAX).call(|| "close_range(<inherited>)")
}

/// Its descriptor stays open until the program is executed: so `start` sees when that is.
fn wait_for_start(start: &OwnedFd) -> Result<()> {
    let mut byte = [0];
    rustix::io::retry_on_intr(|| rustix::io::read(start, &mut byte)).call(|| "read(<start>)").map(drop)
}

/// The startContainer hooks, then the program. Returns only a failure.
fn become_program(plan: &InitPlan, program: &CString) -> Error {
    let state = state_inside(plan, Status::Created);
    match hooks::run("startContainer", &plan.start_container, &state, Some(plan.process.inside())) {
        Ok(()) => plan.process.execute(program),
        Err(error) => error,
    }
}
