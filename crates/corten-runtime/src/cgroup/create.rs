//! Making a container's cgroups.

use corten_sys::Call;
use corten_types::runtime_spec::Resources;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::process::Pid;

use super::devices::{self, Policy};
use super::directory::{Directory, join};
use super::hierarchy::Hierarchy;
use super::layout::{Layout, Mounted, Version, clean};
use super::limits::{self, Setting};
use super::systemd::Scope;
use super::{Cgroup, Request, device_program};

/// What the document asks for, checked.
struct Wanted {
    settings: Vec<Setting>,
    policy: Policy,
}

impl Cgroup {
    /// Decides where the cgroup will be and checks every limit, without changing anything. The core records this value
    /// before [`Cgroup::create`], so that a kill in between leaves a container that `delete --force` can remove:
    /// [`Cgroup::destroy`] does with a cgroup that was made in part or not at all. [`Cgroup::paths`] already holds.
    pub fn plan(request: &Request<'_>) -> Result<Self> {
        let mut cgroup = Self { rootless: request.rootless, ..Self::default() };
        let layout = match Layout::read() {
            Err(_) if tolerant(request) && request.resources.is_none() => return Ok(cgroup),
            result => result?,
        };
        let unified = layout.unified();
        wanted(request, unified)?;
        let scope = if request.systemd { Some(Scope::plan(request)?) } else { None };
        if scope.is_some() && request.rootless && !unified {
            let message =
                "an ordinary user's systemd cannot make cgroups on this host, which mounts cgroup v1 controllers";
            return Err(Error::new(ErrorKind::Unsupported, message).hint("leave `--systemd-cgroup` out"));
        }
        for mounted in &layout.hierarchies {
            let path = match &scope {
                Some((_, path)) => path.clone(),
                None => path_in(mounted, unified, request)?,
            };
            let mut hierarchy = Hierarchy::new(mounted, path);
            hierarchy.survey().context(|| "cannot use the container's cgroup")?;
            cgroup.hierarchies.push(hierarchy);
        }
        cgroup.scope = scope.map(|(scope, _)| scope);
        Ok(cgroup)
    }

    /// Makes the planned cgroup in every hierarchy and applies the limits; undoes everything on failure.
    ///
    /// With the systemd driver nothing is made yet: see [`Cgroup::start_scope`].
    pub fn create(&mut self, request: &Request<'_>) -> Result<()> {
        if self.scope.is_some() {
            return Ok(());
        }
        let unified = self.unified();
        let result = wanted(request, unified).and_then(|wanted| self.make(unified, &wanted, request));
        result.map_err(|error| self.undo(error))
    }

    /// Makes what a process is born in, on cgroup2, so that it can be cloned before [`Cgroup::create`] makes the rest. Not
    /// for a rootless request.
    pub fn create_birthplace(&mut self, request: &Request<'_>) -> Result<()> {
        if self.scope.is_some() {
            return Ok(());
        }
        let unified = self.unified();
        let Some(hierarchy) = self.hierarchies.iter_mut().find(|one| one.version == Version::V2) else { return Ok(()) };
        let result = wanted(request, unified).and_then(|wanted| {
            make_one(hierarchy, request.rootless)?;
            // Before a process is in it: later that would wait for every processor.
            enable_controllers(hierarchy, &wanted.settings, unified)
        });
        self.has_birthplace = true;
        result.map_err(|error| self.undo(error))
    }

    fn undo(&mut self, error: Error) -> Error {
        let mut error = error.context("cannot make the container's cgroup");
        for hierarchy in self.hierarchies.iter_mut().rev() {
            if let Err(second) = hierarchy.undo() {
                error = error.hint(format!("`rmdir {}`, which failed: {}", hierarchy.absolute(), second.one_line()));
            }
        }
        error
    }

    /// Whether the cgroup comes into being only with a process: [`Cgroup::start_scope`] must then be called with the child's
    /// pid while the child waits, and the child skips [`Entry::join_self`](super::Entry::join_self).
    pub fn needs_pid(&self) -> bool {
        self.scope.as_ref().is_some_and(|scope| !scope.started)
    }

    /// Has systemd make the scope around `pid`, then applies the limits. Only where [`Cgroup::needs_pid`] says so. On
    /// failure the scope is stopped, which ends the process.
    pub fn start_scope(&mut self, pid: Pid, request: &Request<'_>) -> Result<()> {
        let unified = self.unified();
        let wanted = wanted(request, unified)?;
        let Some(scope) = &mut self.scope else { return Ok(()) };
        scope.start(pid, request, &wanted.policy, unified)?;
        let result = self.adopt(pid, unified, &wanted);
        result.map_err(|error| match self.scope.as_ref().map(Scope::stop) {
            Some(Err(second)) => self.undo(error).hint(second.one_line()),
            _ => self.undo(error),
        })
    }

    fn adopt(&mut self, pid: Pid, unified: bool, wanted: &Wanted) -> Result<()> {
        for hierarchy in &mut self.hierarchies {
            hierarchy.adopt(pid)?;
            if hierarchy.version == Version::V2 {
                enable_controllers(hierarchy, &wanted.settings, unified)?;
            }
        }
        self.check_controllers(&wanted.settings)?;
        self.apply_settings(&wanted.settings, None)?;
        self.apply_devices(&wanted.policy)
    }

    fn make(&mut self, unified: bool, wanted: &Wanted, request: &Request<'_>) -> Result<()> {
        let mut index = 0;
        while let Some(hierarchy) = self.hierarchies.get_mut(index) {
            if self.has_birthplace && hierarchy.version == Version::V2 {
                index += 1;
                continue;
            }
            match make_one(hierarchy, request.rootless) {
                Ok(()) => {
                    if hierarchy.version == Version::V2 {
                        enable_controllers(hierarchy, &wanted.settings, unified)?;
                    }
                    index += 1;
                }
                Err(error) if error.kind() != ErrorKind::Denied || !request.rootless => return Err(error),
                Err(_) if tolerant(request) => {
                    let mut hierarchy = self.hierarchies.remove(index);
                    hierarchy.undo()?;
                }
                Err(error) => {
                    let path = hierarchy.absolute();
                    let message = format!("no permission to use the cgroup `{path}`");
                    return Err(self.missing(&message).caused_by(error).with_kind(ErrorKind::Denied));
                }
            }
        }
        self.check_controllers(&wanted.settings)?;
        self.apply_settings(&wanted.settings, None)?;
        self.apply_devices(&wanted.policy)
    }

    fn apply_devices(&self, policy: &Policy) -> Result<()> {
        let result = self.set_devices(policy);
        match result {
            // Rootless, or root of a user namespace: such a process can make no device that these rules would keep it from.
            Err(error) if error.kind() == ErrorKind::Denied && (self.rootless || in_user_namespace()) => Ok(()),
            result => result.context(|| "cannot apply `linux.resources.devices`"),
        }
    }

    fn set_devices(&self, policy: &Policy) -> Result<()> {
        if self.hierarchies.is_empty() {
            return Ok(());
        }
        if self.unified() {
            return device_program::attach(self.home()?.directory()?.fd(), policy);
        }
        match self.hierarchies.iter().find(|hierarchy| hierarchy.has("devices")) {
            Some(hierarchy) => {
                let state = devices::Controller::of(policy)?;
                devices::write_changes(hierarchy.directory()?, &state.changes_from(None))
            }
            // cgroup2 of a hybrid host takes device programs as well.
            None => match self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2) {
                Some(hierarchy) => device_program::attach(hierarchy.directory()?.fd(), policy),
                None if self.rootless => Ok(()),
                None => Err(Error::new(ErrorKind::Unsupported, "the `devices` controller is not mounted")
                    .hint("`mount -t cgroup -o devices devices /sys/fs/cgroup/devices`")),
            },
        }
    }
}

/// Whether a cgroup that may not be made is done without.
fn tolerant(request: &Request<'_>) -> bool {
    request.rootless && request.cgroups_path.is_empty()
}

/// Whether this process is in a user namespace other than the first.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// The container's cgroup in one hierarchy, as runc places it.
fn path_in(mounted: &Mounted, unified: bool, request: &Request<'_>) -> Result<String> {
    let field = "linux.cgroupsPath";
    let names =
        if request.cgroups_path.is_empty() { clean(request.id, "id")? } else { clean(request.cgroups_path, field)? };
    if names.is_empty() {
        return Err(Error::invalid(format!("`{field}` is `{}`: it names no cgroup", request.cgroups_path))
            .hint("name one below the root, such as `/corten/ID`"));
    }
    let path = names.join("/");
    if request.cgroups_path.starts_with('/') {
        return Ok(path);
    }
    // On cgroup2 our own cgroup has a process, us, and so cannot hand controllers to children; the one above it can.
    let own = if unified { mounted.own.rsplit_once('/').map_or("", |(above, _)| above) } else { &mounted.own };
    Ok(if own.is_empty() { path } else { join(own, &path) })
}

fn make_one(hierarchy: &mut Hierarchy, rootless: bool) -> Result<()> {
    hierarchy.make()?;
    if rootless && hierarchy.version == Version::V2 && !hierarchy.may_enter()? {
        let message = format!("no permission to move a process into `{}`", hierarchy.absolute());
        return Err(Error::new(ErrorKind::Denied, message));
    }
    Ok(())
}

fn wanted(request: &Request<'_>, unified: bool) -> Result<Wanted> {
    let none = Resources::default();
    let resources = request.resources.unwrap_or(&none);
    Ok(Wanted {
        settings: limits::settings(resources, unified, &|_, _| None)?,
        policy: Policy::new(&resources.devices, request.devices)?,
    })
}

/// Has every cgroup on the way hand its controllers down: all there are on cgroup2 alone (their usage is shown too), those
/// that limits need on a hybrid host.
fn enable_controllers(hierarchy: &Hierarchy, settings: &[Setting], unified: bool) -> Result<()> {
    let needs = |setting: &&Setting| !setting.optional && setting.controller != "cgroup";
    let needed: Vec<&Setting> = settings.iter().filter(needs).collect();
    if !unified && needed.is_empty() {
        return Ok(());
    }
    let (directory, top) = (hierarchy.directory()?, hierarchy.open("")?);
    let available = top.get("cgroup.controllers")?;
    let wanted: Vec<&str> = available
        .split_whitespace()
        .filter(|name| unified || needed.iter().any(|setting| setting.controller == *name))
        .collect();
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let present = directory.get("cgroup.controllers")?;
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !has(&present, name)).collect();
    let mut refusal = None;
    if !missing.is_empty() {
        refusal = hand_down(top, &hierarchy.path, &missing)?;
        be_threaded(directory, &needed)?;
    }
    let present = if missing.is_empty() { present } else { directory.get("cgroup.controllers")? };
    let unavailable = |setting: &&&Setting| {
        // On a hybrid host the controllers of v1 are not here.
        (unified || has(&available, &setting.controller)) && !has(&present, &setting.controller)
    };
    match needed.iter().find(unavailable) {
        None => Ok(()),
        Some(setting) => Err(without_controller(setting, refusal)),
    }
}

/// Enables `controllers` for the children of every cgroup above `path`; the last refusal, with the cgroup that refused.
fn hand_down(top: Directory, path: &str, controllers: &[&str]) -> Result<Option<(String, Errno)>> {
    let all: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    let (mut directory, mut refusal) = (top, None);
    for name in path.split('/') {
        if directory.write("cgroup.subtree_control", &all.join(" ")).is_err() {
            for one in &all {
                if let Err(errno) = directory.write("cgroup.subtree_control", one) {
                    refusal = Some((directory.path().to_owned(), errno));
                }
            }
        }
        directory = directory.child(name).call(|| format!("open(<{}>, {name:?})", directory.path()))?;
    }
    Ok(refusal)
}

/// Below a threaded cgroup only a threaded one can have processes, and only some controllers.
fn be_threaded(directory: &Directory, needed: &[&Setting]) -> Result<()> {
    const THREADED: [&str; 4] = ["cpu", "cpuset", "pids", "perf_event"];
    if directory.read("cgroup.type").unwrap_or_default().trim() != "domain invalid" {
        return Ok(());
    }
    match needed.iter().find(|setting| !THREADED.contains(&setting.controller.as_str())) {
        None => directory.set("cgroup.type", "threaded"),
        Some(setting) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("cannot set `{}`: cgroup `{}` is below a threaded one", setting.field, directory.path()),
        )
        .hint("choose a `linux.cgroupsPath` beside it")),
    }
}

fn without_controller(setting: &Setting, refusal: Option<(String, Errno)>) -> Error {
    let message =
        format!("cannot set `{}`: the controller `{}` is not available here", setting.field, setting.controller);
    let error = Error::new(ErrorKind::Unsupported, message);
    match refusal {
        Some((path, Errno::BUSY)) => error.hint(format!(
            "cgroup `{path}` has processes of its own and so cannot hand controllers down: move them to a child of it, or \
             choose another `linux.cgroupsPath`"
        )),
        Some((path, Errno::ACCESS | Errno::PERM | Errno::ROFS)) => error.with_kind(ErrorKind::Denied).hint(format!(
            "cgroup `{path}` is not yours: have the controller delegated (`systemctl edit user@.service`, `Delegate=cpu \
             memory pids io`)"
        )),
        _ => error.hint("`cat /sys/fs/cgroup/cgroup.controllers` lists those of this host"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    static NONE: BTreeMap<String, String> = BTreeMap::new();

    fn path(own: &str, unified: bool, cgroups_path: &str) -> String {
        let mounted = Mounted { version: Version::V1, controllers: Vec::new(), mount: "/m".into(), own: own.into() };
        let request = Request {
            cgroups_path,
            id: "web",
            systemd: false,
            rootless: false,
            resources: None,
            devices: &[],
            annotations: &NONE,
        };
        path_in(&mounted, unified, &request).unwrap()
    }

    #[test]
    fn the_place_is_runcs() {
        assert_eq!(path("user/me", false, ""), "user/me/web");
        assert_eq!(path("user/me", true, ""), "user/web");
        assert_eq!(path("", true, ""), "web");
        assert_eq!(path("user/me", false, "a/b"), "user/me/a/b");
        assert_eq!(path("user/me", false, "/a/b"), "a/b");
        assert_eq!(path("user/me", false, "../../../x"), "user/me/x");
    }

    #[test]
    fn the_root_is_no_containers_cgroup() {
        let mounted = Mounted { version: Version::V2, controllers: Vec::new(), mount: "/m".into(), own: String::new() };
        for cgroups_path in ["/", "..", "/a/.."] {
            let request = Request {
                cgroups_path,
                id: "web",
                systemd: false,
                rootless: false,
                resources: None,
                devices: &[],
                annotations: &NONE,
            };
            assert!(path_in(&mounted, true, &request).unwrap_err().message().contains("linux.cgroupsPath"));
        }
    }
}
