//! Which namespaces the container gets: new ones, joined ones, and in which order (config-linux.md, "Namespaces").

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call as _;
use corten_sys::namespace::{self, setns};
use corten_types::runtime_spec::{Linux, Namespace, NamespaceKind};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::idmap::IdMaps;

/// `CLONE_NEW*` flag of a kind.
pub(crate) fn flag(kind: NamespaceKind) -> u64 {
    match kind {
        NamespaceKind::Pid => namespace::NEWPID,
        NamespaceKind::Network => namespace::NEWNET,
        NamespaceKind::Mount => namespace::NEWNS,
        NamespaceKind::Ipc => namespace::NEWIPC,
        NamespaceKind::Uts => namespace::NEWUTS,
        NamespaceKind::User => namespace::NEWUSER,
        NamespaceKind::Cgroup => namespace::NEWCGROUP,
        NamespaceKind::Time => namespace::NEWTIME,
    }
}

/// The name of a kind in `config.json`.
pub(crate) fn name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Pid => "pid",
        NamespaceKind::Network => "network",
        NamespaceKind::Mount => "mount",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::User => "user",
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Time => "time",
    }
}

/// One namespace to join, held open since before the clone.
#[derive(Debug)]
pub(crate) struct Joined {
    kind: NamespaceKind,
    file: OwnedFd,
}

/// The namespaces of one container, checked.
#[derive(Debug, Default)]
pub(crate) struct NamespacePlan {
    /// `CLONE_NEW*` of the new ones.
    new: u64,
    joined: Vec<Joined>,
    /// Maps of a new user namespace.
    pub(crate) maps: IdMaps,
    /// Lines for /proc/self/timens_offsets.
    pub(crate) time_offsets: Option<String>,
}

impl NamespacePlan {
    /// Checks the configuration and opens every namespace to join.
    pub(crate) fn build(linux: &Linux) -> Result<Self> {
        let mut plan = Self { maps: IdMaps::build(linux)?, ..Self::default() };
        let mut seen = 0;
        for (index, entry) in linux.namespaces.iter().enumerate() {
            let bit = flag(entry.kind);
            if seen & bit != 0 {
                return Err(Error::invalid(format!(
                    "`linux.namespaces[{index}]` names the `{}` namespace twice",
                    name(entry.kind)
                )));
            }
            seen |= bit;
            if entry.path.is_empty() {
                plan.new |= bit;
            } else {
                plan.joined.push(open(entry, index)?);
            }
        }
        plan.check(linux)?;
        plan.time_offsets = time_offsets(linux, plan.is_new(NamespaceKind::Time))?;
        Ok(plan)
    }

    /// Whether the container gets a new namespace of this kind.
    pub(crate) fn is_new(&self, kind: NamespaceKind) -> bool {
        self.new & flag(kind) != 0
    }

    /// Whether the container joins a namespace of this kind.
    pub(crate) fn joins(&self, kind: NamespaceKind) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }

    /// Whether the container has a namespace of this kind other than ours.
    pub(crate) fn has(&self, kind: NamespaceKind) -> bool {
        self.is_new(kind) || self.joins(kind)
    }

    /// Flags of the clone that makes the container's first process.
    ///
    /// A cgroup namespace is unshared later, since its root is the cgroup of the process at that moment; so is a time
    /// namespace, whose offsets are set before anyone lives in it.
    pub(crate) fn clone_flags(&self) -> u64 {
        self.new & !(namespace::NEWCGROUP | namespace::NEWTIME)
    }

    /// Whether the first process can make its network namespace itself, while its parent makes the cgroups: not where the
    /// namespace belongs to a user namespace that has yet to be entered or mapped.
    pub(crate) fn network_can_wait(&self) -> bool {
        self.is_new(NamespaceKind::Network) && !self.is_new(NamespaceKind::User) && !self.needs_intermediate()
    }

    /// Whether a process between us and the container's first one must prepare the ground: a namespace that only
    /// children enter (time), or a joined user namespace that must own the new ones.
    pub(crate) fn needs_intermediate(&self) -> bool {
        self.is_new(NamespaceKind::Time) || self.joins(NamespaceKind::User)
    }

    /// The pid namespace to join; only children of the caller of setns enter it.
    pub(crate) fn joined_pid(&self) -> Option<&OwnedFd> {
        self.joined.iter().find(|joined| joined.kind == NamespaceKind::Pid).map(|joined| &joined.file)
    }

    /// Joins, from the child. What the caller's own user namespace may not join is tried again inside the joined one.
    pub(crate) fn join(&self) -> Result<()> {
        let mut later = Vec::new();
        for joined in self.joined.iter().filter(|joined| joined.kind != NamespaceKind::User) {
            match setns(joined.file.as_fd(), flag(joined.kind)) {
                Err(Errno::PERM) if self.joins(NamespaceKind::User) => later.push(joined),
                result => result.call(|| call(joined))?,
            }
        }
        if let Some(user) = self.joined.iter().find(|joined| joined.kind == NamespaceKind::User) {
            setns(user.file.as_fd(), flag(user.kind)).call(|| call(user))?;
            become_root_inside();
        }
        for joined in later {
            setns(joined.file.as_fd(), flag(joined.kind)).call(|| call(joined))?;
        }
        Ok(())
    }

    fn check(&self, linux: &Linux) -> Result<()> {
        let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        if self.is_new(NamespaceKind::User) && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
            return Err(Error::invalid(
                "a new user namespace needs `linux.uidMappings` and `linux.gidMappings`; at least one is empty",
            ));
        }
        if mapped && !self.has(NamespaceKind::User) {
            return Err(Error::invalid(
                "`linux.uidMappings` or `linux.gidMappings` is set, but `linux.namespaces` has no `user` namespace",
            ));
        }
        if self.joins(NamespaceKind::User) && self.is_new(NamespaceKind::User) {
            return Err(Error::invalid("`linux.namespaces` both joins and makes a `user` namespace"));
        }
        if !linux.net_devices.is_empty() && !self.has(NamespaceKind::Network) {
            return Err(Error::invalid("`linux.netDevices` needs a `network` namespace of the container's own"));
        }
        Ok(())
    }
}

/// Takes uid and gid 0 of the user namespace that was entered; harmless where 0 is not mapped.
pub(crate) fn become_root_inside() {
    let _unmapped =
        rustix::thread::set_thread_res_gid(rustix::fs::Gid::ROOT, rustix::fs::Gid::ROOT, rustix::fs::Gid::ROOT);
    let _unmapped =
        rustix::thread::set_thread_res_uid(rustix::fs::Uid::ROOT, rustix::fs::Uid::ROOT, rustix::fs::Uid::ROOT);
}

fn call(joined: &Joined) -> String {
    format!("setns(<{} namespace>)", name(joined.kind))
}

fn open(entry: &Namespace, index: usize) -> Result<Joined> {
    let what = || format!("cannot join the `{}` namespace of `linux.namespaces[{index}]`", name(entry.kind));
    if !entry.path.starts_with('/') {
        return Err(Error::invalid(format!("`linux.namespaces[{index}].path` is not absolute: `{}`", entry.path)));
    }
    let file = rustix::fs::open(&entry.path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .call(|| format!("open(\"{}\")", entry.path))
        .context(what)?;
    match corten_sys::namespace::kind_of(file.as_fd()) {
        Ok(found) if found == flag(entry.kind) => Ok(Joined { kind: entry.kind, file }),
        Ok(_) => Err(Error::invalid(format!("`{}` is a namespace of another kind", entry.path)).context(what())),
        Err(_) => Err(Error::invalid(format!("`{}` is not a namespace", entry.path)).context(what())),
    }
}

fn time_offsets(linux: &Linux, new_time: bool) -> Result<Option<String>> {
    if linux.time_offsets.is_empty() {
        return Ok(None);
    }
    if !new_time {
        return Err(Error::invalid("`linux.timeOffsets` needs a new `time` namespace in `linux.namespaces`"));
    }
    let mut lines = String::new();
    for (clock, offset) in &linux.time_offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(format!("`linux.timeOffsets` knows no clock `{clock}`"))
                .hint("the clocks of a time namespace are `monotonic` and `boottime`"));
        }
        if offset.nanosecs > 999_999_999 {
            return Err(Error::invalid(format!("`linux.timeOffsets.{clock}.nanosecs` is above 999999999")));
        }
        lines.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    Ok(Some(lines))
}

/// Makes the time namespace for the caller's children and sets its clocks.
pub(crate) fn unshare_time(offsets: Option<&str>) -> Result<()> {
    namespace::unshare(namespace::NEWTIME).call(|| "unshare(CLONE_NEWTIME)").map_err(|error| {
        if error.errno() == Some(22) {
            error.with_kind(ErrorKind::Unsupported).hint("time namespaces need Linux 5.6")
        } else {
            error
        }
    })?;
    let Some(offsets) = offsets else { return Ok(()) };
    // Becoming root inside a user namespace made the files of our /proc directory somebody else's; no process that could
    // look at us is in sight yet.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .call(|| "prctl(PR_SET_DUMPABLE, 1)")?;
    std::fs::write("/proc/self/timens_offsets", offsets).context(|| "cannot set `linux.timeOffsets`")
}
