//! A container's control groups: made, limited, entered, watched and removed.
//!
//! Works on cgroup v1 hierarchies, on cgroup2 alone, and on both side by side (the hybrid layout). A process joins the v1
//! hierarchies itself by `tasks` (see [`Entry::join_self`]); into cgroup2 it is born.
//!
//! ```text
//! /sys/fs/cgroup/CONTROLLER/PATH   v1: one directory in every hierarchy
//! /sys/fs/cgroup/unified/PATH      cgroup2 of a hybrid host
//! /sys/fs/cgroup/PATH              cgroup2 alone
//! ```
//!
//! PATH is `linux.cgroupsPath` beneath the mount point when absolute, beneath our own cgroup when relative (cgroup2 alone:
//! beneath its parent, which may have children because it has no processes), and the container's id when empty.

mod create;
mod device_program;
mod devices;
mod directory;
mod entry;
mod hierarchy;
mod layout;
mod limits;
mod oom;
mod processes;
mod stats;
mod systemd;

use std::collections::BTreeMap;

use corten_types::runtime_spec::{Device, Resources};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use entry::Entry;
pub use oom::{OomEvent, OomWatch};
pub use stats::{
    Blkio, BlkioEntry, Cpu, CpuSet, CpuUsage, Hugetlb, Memory, MemoryEntry, Pids, Pressure, PressureData, Stats,
    Throttling,
};

use devices::Policy;
use hierarchy::Hierarchy;
use layout::Version;
use limits::Setting;
use systemd::Scope;

/// What [`Cgroup::create`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `linux.cgroupsPath`; empty asks for the default.
    pub cgroups_path: &'a str,
    /// The container.
    pub id: &'a str,
    /// Whether systemd makes the cgroup.
    pub systemd: bool,
    /// Whether the lack of permission is tolerated where nothing was asked for.
    pub rootless: bool,
    /// `linux.resources`.
    pub resources: Option<&'a Resources>,
    /// `linux.devices`.
    pub devices: &'a [Device],
    /// `annotations`: `org.systemd.property.NAME` are properties of the unit, with the systemd driver.
    pub annotations: &'a BTreeMap<String, String>,
}

/// The control groups of one container; kept in its state. The default value is a container without any.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cgroup {
    /// v1 hierarchies first, cgroup2 last.
    hierarchies: Vec<Hierarchy>,
    /// Whether the creator was rootless.
    #[serde(default)]
    rootless: bool,
    /// The unit that makes the cgroup, with the systemd driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    /// [`Cgroup::create_birthplace`] was there.
    #[serde(skip)]
    has_birthplace: bool,
}

impl Cgroup {
    /// How many hierarchies there are.
    pub fn hierarchy_count(&self) -> usize {
        self.hierarchies.len()
    }

    /// Changes limits of the living container; what changed already is put back when a later change fails. Without device
    /// rules in `resources` the devices stay as they are.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let current = |controller: &str, file: &str| self.find(controller)?.directory().ok()?.read(file).ok();
        let settings = limits::settings(resources, self.unified(), &current)?;
        limits::check_usage(resources, &current)?;
        let policy = match &resources.devices[..] {
            [] => None,
            rules => Some(Policy::new(rules, &[])?),
        };
        self.check_controllers(&settings)?;
        if let Some(scope) = &self.scope {
            scope.update(resources, policy.as_ref(), self.unified())?;
        }
        let mut undo = Vec::new();
        let result = self
            .apply_settings(&settings, Some(&mut undo))
            .and_then(|()| policy.map_or(Ok(()), |policy| self.change_devices(&policy)));
        result.map_err(|error| match &limits::revert(&undo)[..] {
            [] => error,
            changed => error.hint(format!("these files keep their new values: {}", changed.join(", "))),
        })
    }

    fn change_devices(&self, policy: &Policy) -> Result<()> {
        let result = if self.unified() {
            self.home()?.directory().and_then(|directory| device_program::replace(directory.fd(), policy))
        } else {
            let target = devices::Controller::of(policy)?;
            self.require("devices")?.directory().and_then(|directory| {
                let current = devices::Controller::parse(&directory.get("devices.list")?);
                devices::write_changes(directory, &target.changes_from(Some(&current)))
            })
        };
        result.context(|| "cannot apply `linux.resources.devices`")
    }

    /// Gives the cgroup2 directory to `uid` and `gid` of the host, as the kernel's list of delegatable files says: for a
    /// container with a cgroup namespace that may write its cgroups.
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<()> {
        let Some(hierarchy) = self.hierarchies.iter().find(|one| one.version == Version::V2) else { return Ok(()) };
        let directory = hierarchy.directory()?;
        let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
        let listed = listed.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
        let (owner, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        for file in [""].into_iter().chain(listed.lines().filter(|name| !name.contains('/'))) {
            let flags = if file.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
            match rustix::fs::chownat(directory.fd(), file, Some(owner), Some(group), flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    let call = format!("fchownat(<{}>, {file:?}, {uid}, {gid})", directory.path());
                    return Err(Error::syscall(call, errno.raw_os_error()));
                }
            }
        }
        Ok(())
    }

    /// Whether the container has none at all, as an ordinary user's may.
    pub(crate) fn is_none(&self) -> bool {
        self.hierarchies.is_empty()
    }

    /// Whether the cgroup is still there.
    pub fn exists(&self) -> bool {
        self.home().is_ok_and(|home| home.open(&home.path).is_ok())
    }

    /// Removes the cgroup in the hierarchy that says which processes there are. False where that may still have one; where
    /// it is true, [`Cgroup::destroy`] has nobody to wait for.
    pub fn remove_unused(&self) -> bool {
        self.home().is_ok_and(Hierarchy::remove_unused)
    }

    /// Closes descriptors that a container's whole life is too long for.
    pub fn let_go(&mut self) {
        self.hierarchies.iter_mut().for_each(Hierarchy::let_go);
    }

    /// Removes the cgroup in every hierarchy, nested ones too; waits (bounded) for processes that are just ending. What is
    /// gone already is no error.
    pub fn destroy(&self) -> Result<()> {
        let stopped = self.scope.as_ref().map_or(Ok(()), Scope::stop);
        let mut first = None;
        for hierarchy in self.hierarchies.iter().rev() {
            if let Err(error) = hierarchy.destroy() {
                first.get_or_insert(error);
            }
        }
        // A unit that cannot be stopped does no harm once its cgroup is gone: systemd forgets it by itself.
        match (first, stopped) {
            (None, _) => Ok(()),
            (Some(error), Ok(())) => Err(error.context("cannot remove the container's cgroup")),
            (Some(error), Err(second)) => {
                Err(error.context("cannot remove the container's cgroup").hint(second.one_line()))
            }
        }
    }

    /// Absolute directory by controller; cgroup2 has the empty name, named hierarchies `name=…` (as in runc's state).
    pub fn paths(&self) -> BTreeMap<String, String> {
        let names = |hierarchy: &Hierarchy| match hierarchy.version {
            Version::V1 => hierarchy.controllers.clone(),
            Version::V2 => vec![String::new()],
        };
        self.hierarchies.iter().flat_map(|one| names(one).into_iter().map(|name| (name, one.absolute()))).collect()
    }

    /// Whether there is cgroup2 alone.
    fn unified(&self) -> bool {
        self.hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2)
    }

    /// The hierarchy of a controller; what v1 does not have, cgroup2 may.
    fn find(&self, controller: &str) -> Option<&Hierarchy> {
        let first = self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller));
        first.or_else(|| self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2))
    }

    fn require(&self, controller: &str) -> Result<&Hierarchy> {
        self.find(controller).ok_or_else(|| self.missing(&format!("the container has no `{controller}` cgroup")))
    }

    /// The hierarchy that says which processes there are: the one that the container can leave least easily.
    fn home(&self) -> Result<&Hierarchy> {
        let devices = self.hierarchies.iter().find(|hierarchy| hierarchy.has("devices"));
        devices.or(self.hierarchies.first()).ok_or_else(|| self.missing("the container has no cgroup"))
    }

    fn missing(&self, message: &str) -> Error {
        let error = Error::new(ErrorKind::Unsupported, message);
        if !self.rootless {
            return error;
        }
        error.hint(
            "as an ordinary user cgroups need a delegated cgroup2: start from `systemd-run --user --scope -p Delegate=yes`, \
             or use `--systemd-cgroup`",
        )
    }

    /// Makes sure before anything changes that there is a hierarchy for every setting.
    fn check_controllers(&self, settings: &[Setting]) -> Result<()> {
        for setting in settings {
            if self.find(&setting.controller).is_none() && !setting.optional {
                let message =
                    format!("cannot set `{}`: the container has no `{}` cgroup", setting.field, setting.controller);
                return Err(self.missing(&message));
            }
        }
        Ok(())
    }

    fn apply_settings<'a>(&'a self, settings: &[Setting], mut undo: Option<&mut Vec<limits::Undo<'a>>>) -> Result<()> {
        if settings.is_empty() {
            return Ok(());
        }
        for hierarchy in &self.hierarchies {
            let mine =
                |setting: &&Setting| self.find(&setting.controller).is_some_and(|one| std::ptr::eq(one, hierarchy));
            let mine: Vec<&Setting> = settings.iter().filter(mine).collect();
            if !mine.is_empty() {
                limits::apply(hierarchy.directory()?, &mine, undo.as_deref_mut())?;
            }
        }
        Ok(())
    }
}
