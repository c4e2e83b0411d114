//! The clone: one where the kernel allows, two where an intermediate process must first enter other namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::Call as _;
use corten_sys::clone::{CloneRequest, Side, SingleThreaded, clone, exit_now};
use corten_sys::{loopback, namespace};
use corten_types::runtime_spec::NamespaceKind;
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, WaitId, WaitIdOptions, set_dumpable_behavior};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use crate::cgroup::Entry;
use crate::channel::{Channel, Message, Reply};
use crate::namespaces::{NamespacePlan, become_root_inside, unshare_time};

/// A process that was cloned and now talks on its channel.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Channel,
}

/// What a child knows about how it came to be.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) channel: Channel,
    /// The cgroup, where it is still to be entered.
    pub(crate) entry: Option<&'a Entry>,
    pub(crate) born_inside: bool,
    /// The parent has something to do first: id maps, a systemd scope.
    pub(crate) needs_parent: bool,
    /// Id maps are written and the namespaces to join are joined.
    pub(crate) settled: bool,
    /// The network namespace is still to be made, and the cgroups come with the parent's answer.
    pub(crate) is_early: bool,
}

/// Clones the container's first process, which runs `body` and never returns. With `needs_scope` it waits for its systemd
/// scope. With `is_early` it makes its network namespace (most of what a clone costs) itself while the parent makes the
/// cgroups: [`NamespacePlan::network_can_wait`].
///
/// Until [`Message::First`] arrives (see [`settle`]) the child may be the intermediate one.
pub(crate) fn first_process(
    namespaces: &NamespacePlan,
    entry: &Entry,
    needs_scope: bool,
    is_early: bool,
    body: impl FnOnce(Origin<'_>),
) -> Result<Child> {
    let single = single_threaded()?;
    let (ours, theirs) = Channel::pair()?;
    let intermediate = namespaces.needs_intermediate();
    let flags = match (intermediate, is_early) {
        (true, _) => namespaces.clone_flags() & namespace::NEWUSER,
        (_, true) => namespaces.clone_flags() & !namespace::NEWNET,
        _ => namespaces.clone_flags(),
    };
    let pid_namespace = if intermediate { None } else { namespaces.joined_pid() };
    match clone_into(&single, flags, entry, pid_namespace.map(|file| (file.as_fd(), 0)))? {
        (Side::Parent { pid, pidfd }, _) => {
            drop(theirs);
            Ok(Child { pid, pidfd, channel: ours })
        }
        (Side::Child, born_inside) => {
            drop(ours);
            let needs_parent = needs_scope || namespaces.is_new(NamespaceKind::User);
            let entry = Some(entry);
            let mut origin = Origin { channel: theirs, entry, born_inside, needs_parent, settled: false, is_early };
            if intermediate {
                origin = match second_clone(&single, namespaces, origin) {
                    Ok(origin) => origin,
                    Err((channel, error)) => fail(&channel, &error),
                };
            }
            body(origin);
            exit_now(1)
        }
    }
}

/// Clones with the child's pid namespace chosen beforehand; tells whether the child was born in the cgroup.
pub(crate) fn clone_into(
    single: &SingleThreaded,
    flags: u64,
    entry: &Entry,
    pid_namespace: Option<(BorrowedFd<'_>, u64)>,
) -> Result<(Side, bool)> {
    let own = match pid_namespace {
        None => None,
        Some((target, kinds)) => Some(choose_pid_namespace(target, kinds)?),
    };
    let cgroup = entry.clone_into();
    let mut born_inside = cgroup.is_some();
    let mut side = clone(single, &CloneRequest { flags, cgroup });
    if born_inside && side.is_err() {
        // A domain that is threaded, or another user's: the child then joins by file.
        born_inside = false;
        side = clone(single, &CloneRequest { flags, cgroup: None });
    }
    if let (Some(own), Ok(Side::Parent { .. }) | Err(_)) = (own, &side) {
        namespace::setns(own.as_fd(), namespace::NEWPID).call(|| "setns(<own pid namespace>)")?;
        set_dumpable_behavior(DumpableBehavior::Dumpable).call(|| "prctl(PR_SET_DUMPABLE, 1)")?;
    }
    let side = side.call(|| format!("clone3({flags:#x})")).map_err(|error| explain(error, flags))?;
    Ok((side, born_inside))
}

fn own_pid_namespace() -> Result<OwnedFd> {
    rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| "open(\"/proc/self/ns/pid\")")
}

/// Whether this process, once it has chosen another pid namespace for its children, may choose its own again: not in a user
/// namespace that does not own it.
pub(crate) fn may_come_back() -> bool {
    own_pid_namespace().is_ok_and(|own| namespace::setns(own.as_fd(), namespace::NEWPID).is_ok())
}

/// Children of this process will live in the pid namespace of `target`; returns the way back.
///
/// A container's process may then look at the child at once, so nothing of it may be readable (CVE-2016-9962).
fn choose_pid_namespace(target: BorrowedFd<'_>, kinds: u64) -> Result<OwnedFd> {
    let own = own_pid_namespace()?;
    namespace::setns(target, kinds).call(|| "setns(<pid namespace>)")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    Ok(own)
}

/// In the intermediate process: settle, then clone the container's first process as a child of our parent.
fn second_clone<'a>(
    single: &SingleThreaded,
    namespaces: &NamespacePlan,
    origin: Origin<'a>,
) -> std::result::Result<Origin<'a>, (Channel, Error)> {
    let settled = (|| {
        settle(namespaces, &origin)?;
        if namespaces.is_new(NamespaceKind::Time) {
            unshare_time(namespaces.time_offsets.as_deref())?;
        }
        if namespaces.joined_pid().is_some() {
            set_dumpable_behavior(DumpableBehavior::NotDumpable).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        }
        let flags = (namespaces.clone_flags() & !namespace::NEWUSER) | namespace::PARENT;
        clone(single, &CloneRequest { flags, cgroup: None })
            .call(|| format!("clone3({flags:#x})"))
            .map_err(|error| explain(error, flags))
    })();
    match settled {
        Ok(Side::Child) => Ok(Origin { entry: None, settled: true, ..origin }),
        Ok(Side::Parent { pid, pidfd }) => {
            let told = origin.channel.send(&Message::First { pid: pid.as_raw_nonzero().get() }, Some(pidfd.as_fd()));
            exit_now(i32::from(told.is_err()))
        }
        Err(error) => Err((origin.channel, error)),
    }
}

/// Enters the cgroup, waits for id maps and joins namespaces: once, in whichever child comes first.
pub(crate) fn settle(namespaces: &NamespacePlan, origin: &Origin<'_>) -> Result<()> {
    if origin.settled {
        return Ok(());
    }
    if origin.is_early {
        make_network()?;
    }
    if let Some(entry) = origin.entry {
        enter(entry, origin).context(|| "cannot enter the cgroup")?;
    }
    use_every_cpu();
    if origin.needs_parent && !origin.is_early {
        origin.channel.ask(&Message::Born)?;
    }
    if namespaces.is_new(NamespaceKind::User) {
        become_root_inside();
    }
    namespaces.join()
}

fn make_network() -> Result<()> {
    namespace::unshare(namespace::NEWNET)
        .call(|| "unshare(CLONE_NEWNET)")
        .map_err(|error| explain(error, namespace::NEWNET))?;
    bring_loopback_up()
}

pub(crate) fn bring_loopback_up() -> Result<()> {
    loopback::up().call(|| "ioctl(<lo>, SIOCSIFFLAGS)").context(|| "cannot bring the loopback interface up")
}

/// Into the cgroup, once the parent has made it.
fn enter(entry: &Entry, origin: &Origin<'_>) -> Result<()> {
    if !origin.is_early {
        return entry.join_self(origin.born_inside);
    }
    origin.channel.send(&Message::Born, None)?;
    let files = origin.channel.wait_with(Reply::Continue)?;
    Entry::of_files(entry, files)?.join_self(origin.born_inside)
}

/// Forgets the runtime's own CPU affinity: what the cgroup's cpuset allows, now or later, is the container's. Best effort,
/// as in runc.
pub(crate) fn use_every_cpu() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    let _as_it_was = sched_setaffinity(None, &all);
}

/// Reports a failure to the parent and ends.
pub(crate) fn fail(channel: &Channel, error: &Error) -> ! {
    let _parent_gone = channel.send(&Message::failed(error), None);
    exit_now(1)
}

/// Waits for the end of a child and forgets it.
pub(crate) fn reap(pidfd: &OwnedFd) {
    let _not_ours =
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
}

pub(crate) fn single_threaded() -> Result<SingleThreaded> {
    SingleThreaded::check().map_err(|_| {
        Error::new(
            ErrorKind::Internal,
            format!("thread {} is not the only one of the runtime", gettid().as_raw_nonzero()),
        )
    })
}

fn explain(error: Error, flags: u64) -> Error {
    match error.errno() {
        Some(1) if flags & namespace::NEWUSER == 0 => {
            error.hint("an ordinary user needs a `user` namespace in `linux.namespaces`")
        }
        Some(22) => error.hint("this kernel lacks one of the namespaces asked for; `features` lists them"),
        Some(28) => error.hint("too many namespaces: raise the sysctls user.max_*_namespaces"),
        _ => error,
    }
}
